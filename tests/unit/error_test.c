/* error_test.c - every code has a name and a text of its own, and no other number has one. */
#include "check.h"

#include <string.h>

#include "berth/error.h"

static void every_code_has_name_and_text(void **state)
{
    for (int code = 0; code >= BERTH_E_LAST; code--) {
        const char *name = berth_error_name(code), *text = berth_strerror(code);
        check(name && !strncmp(name, "BERTH_", 6) && strcmp(name, "BERTH_E_?"), "code %d has no name", code);
        if (!name || !text)
            continue;
        check(text && strlen(text) > 3 && strcmp(text, "unknown error"), "%s has no text", name);
        for (int other = 0; other > code; other--) {
            check(strcmp(name, berth_error_name(other)), "%d and %d share the name %s", code, other, name);
            check(strcmp(text, berth_strerror(other)), "%d and %d share the text '%s'", code, other, text);
        }
    }
}

static void other_numbers_are_unknown(void **state)
{
    static const int others[] = {1, 2, 100, BERTH_E_LAST - 1, -1000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_string_equal(berth_strerror(others[i]), "unknown error");
        assert_string_equal(berth_error_name(others[i]), "BERTH_E_?");
    }
}

static void codes_are_never_renumbered(void **state)
{
    assert_string_equal(berth_error_name(-1), "BERTH_E_INVALID");
    assert_string_equal(berth_error_name(-7), "BERTH_E_WRONG_SECRET");
    assert_string_equal(berth_error_name(-13), "BERTH_E_ADDRESS_IN_USE");
    assert_string_equal(berth_error_name(-17), "BERTH_E_RESET");
    assert_string_equal(berth_error_name(-21), "BERTH_E_BAD_HANDLE");
    assert_string_equal(berth_error_name(-29), "BERTH_E_SYSTEM");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_name_and_text),
        cmocka_unit_test(other_numbers_are_unknown),
        cmocka_unit_test(codes_are_never_renumbered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
