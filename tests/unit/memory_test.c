/* memory_test.c - the library's own memory: what it gives is zeroed, aligned, nobody else's, and to be had in
 * handlers. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"

#define HELD 64

static const size_t sizes[] = {1, 8, 63, 64, 65, 200, 1000, 4096, 4097, 32768, 32769, 100000, 1 << 20};
#define SIZES (sizeof sizes / sizeof sizes[0])

static int all(const unsigned char *p, size_t size, unsigned char is)
{
    for (size_t i = 0; i < size; i++)
        if (p[i] != is)
            return 0;
    return 1;
}

static void test_each_size(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        unsigned char *p[SIZES][HELD];
        for (size_t s = 0; s < SIZES; s++) {
            for (int i = 0; i < HELD / 8; i++) {
                p[s][i] = memory_get(sizes[s]);
                assert_non_null(p[s][i]);
                assert_int_equal((uintptr_t)p[s][i] % 16, 0);
                assert_true(all(p[s][i], sizes[s], 0));
                memset(p[s][i], (int)(s + 16 * (size_t)i + 1), sizes[s]);
            }
        }
        for (size_t s = 0; s < SIZES; s++) {
            for (int i = 0; i < HELD / 8; i++) {
                assert_true(all(p[s][i], sizes[s], (unsigned char)(s + 16 * (size_t)i + 1)));
                memory_put(p[s][i], sizes[s]);
            }
        }
    }
}

static void test_odd_sizes(void **state)
{
    (void)state;
    assert_null(memory_get(0));
    assert_null(memory_get(SIZE_MAX));
    assert_null(memory_get(SIZE_MAX / 2));
    memory_put(NULL, 0);
    memory_put(NULL, 100);
}

/* Whoever got a block marks it, and finds its mark. */
static void churn(unsigned seed, int rounds)
{
    unsigned char *held[HELD] = {0};
    size_t size[HELD] = {0};
    for (int i = 0; i < rounds; i++) {
        seed = seed * 1103515245u + 12345u;
        int at = (int)(seed >> 16) % HELD;
        if (held[at]) {
            assert_true(held[at][0] == (unsigned char)at && held[at][size[at] - 1] == (unsigned char)at);
            memory_put(held[at], size[at]);
            held[at] = NULL;
        } else {
            size[at] = sizes[(seed >> 8) % 9];
            held[at] = memory_get(size[at]);
            assert_non_null(held[at]);
            assert_true(held[at][0] == 0 && held[at][size[at] - 1] == 0);
            held[at][0] = held[at][size[at] - 1] = (unsigned char)at;
        }
    }
    for (int i = 0; i < HELD; i++)
        memory_put(held[i], size[i]);
}

static void *churning(void *arg)
{
    churn((unsigned)(uintptr_t)arg, 200000);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, churning, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++)
        (void)pthread_join(t[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_size),
        cmocka_unit_test(test_odd_sizes),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
