/* codescan_test.c - what is taken for a system call in machine code, and what is not. */
#include "base/codescan.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

#if defined(__x86_64__)
#define NOP "\x90"
static const char own[] = /* long own(long n, long a, long b, long c): the number cannot be told */
    "\x48\x89\xf8\x48\x89\xf7\x48\x89\xd6\x48\x89\xca\x4d\x89\xc2\x0f\x05\x48\x3d\x01\xf0\xff\xff\x77\x01"
    "\xc3";
static const char own_read[] = /* xor eax, eax; syscall */
    "\x53\x48\x89\xfb\x48\x83\xec\x10\x31\xff\x31\xc0\x0f\x05\x48\x83\xc4\x10\x5b\xc3";
static const char futex[] = /* mov eax, 202; what is moved meanwhile is not eax */
    "\xb8\xca\x00\x00\x00\x48\x8d\x3d\x10\x00\x00\x00\xbe\x01\x00\x00\x00\x31\xd2\x0f\x05\x48\x85\xc0\x78\x01"
    "\xc3";
static const char overwritten[] = /* mov eax, 202; mov eax, ebx: it is no futex */
    "\xb8\xca\x00\x00\x00\x48\x8d\x3d\x10\x00\x00\x00\x89\xd8\x31\xd2\x0f\x05\x48\x85\xc0\x78\x01\xc3";
static const char within[] = /* lea rdi, [rip+0x50f11]; call; add rsp, 8 */
    "\x48\x83\xec\x08\x48\x8d\x3d\x11\x0f\x05\x00\xe8\x11\x22\x00\x00\x48\x83\xc4\x08\xc3";
static const char constant[] = /* mov ecx, 0x11050f22; imul eax, ecx */
    "\xb9\x22\x0f\x05\x11\x0f\xaf\xc1\x01\xd0\xc3";
static const char ring[] = /* mov edi, 425; xor eax, eax; call */
    "\x48\x83\xec\x08\x89\xf2\x89\xfe\xbf\xa9\x01\x00\x00\x31\xc0\xe8\x11\x22\x00\x00\x48\x83\xc4\x08\xc3";
static const char no_ring[] = /* the same number for a function that takes one argument */
    "\x48\x83\xec\x08\x89\xf2\x89\xfe\xbf\xa9\x01\x00\x00\xe8\x11\x22\x00\x00\x48\x83\xc4\x08\xc3";
#elif defined(__aarch64__)
#define NOP "\x1f\x20\x03\xd5"
static const char own[] = /* mov x8, x0; mov x0, x1; svc 0; ret */
    "\xe8\x03\x00\xaa\xe0\x03\x01\xaa\x01\x00\x00\xd4\xc0\x03\x5f\xd6";
static const char own_read[] = /* mov x8, 63; svc 0; ret */
    "\xe8\x07\x80\xd2\x01\x00\x00\xd4\xc0\x03\x5f\xd6";
static const char futex[] = /* mov x8, 98; svc 0; ret */
    "\x48\x0c\x80\xd2\x01\x00\x00\xd4\xc0\x03\x5f\xd6";
static const char overwritten[] = /* mov x8, 98; svc 0; then one of which nothing is known */
    "\x48\x0c\x80\xd2\x01\x00\x00\xd4\xe8\x03\x00\xaa\x01\x00\x00\xd4\xc0\x03\x5f\xd6";
static const char within[] = "\xe0\x03\x01\xaa\xc0\x03\x5f\xd6";
static const char constant[] = "\xe0\x03\x01\xaa\xc0\x03\x5f\xd6";
static const char ring[] = /* mov x0, 425; bl */
    "\x20\x35\x80\xd2\x04\x00\x00\x94\xc0\x03\x5f\xd6";
static const char no_ring[] = /* mov x1, 425 */
    "\x21\x35\x80\xd2\x04\x00\x00\x94\xc0\x03\x5f\xd6";
#endif

#define ROOM 4096u
#define STEP (sizeof NOP - 1)

/* That code at each place of a page, which is otherwise what does nothing; `memory` ends where the page does,
 * so that whoever reads on is found out by a sanitizer. */
static void at_each_place(const char *code, size_t size, int expected)
{
    unsigned char *memory = malloc(ROOM);
    assert_non_null(memory);
    for (size_t at = 0; at + size <= ROOM; at += STEP) {
        for (size_t i = 0; i < ROOM; i += STEP)
            memcpy(memory + i, NOP, STEP);
        memcpy(memory + at, code, size);
        int found = codescan(memory, ROOM);
        check(found == expected, "at %zu of %u: %d, not %d", at, ROOM, found, expected);
    }
    free(memory);
}

#define AT_EACH_PLACE(code, expected) at_each_place(code, sizeof code - 1, expected)

static void test_calls_of_its_own(void **state)
{
    (void)state;
    AT_EACH_PLACE(own, CODESCAN_OWN_CALLS);
    AT_EACH_PLACE(own_read, CODESCAN_OWN_CALLS);
    AT_EACH_PLACE(overwritten, CODESCAN_OWN_CALLS);
}

static void test_calls_that_do_not_count(void **state)
{
    (void)state;
    AT_EACH_PLACE(futex, CODESCAN_NOTHING);
}

static void test_bytes_within_instructions(void **state)
{
    (void)state;
    AT_EACH_PLACE(within, CODESCAN_NOTHING);
    AT_EACH_PLACE(constant, CODESCAN_NOTHING);
}

static void test_rings(void **state)
{
    (void)state;
    AT_EACH_PLACE(ring, CODESCAN_IO_URING);
    AT_EACH_PLACE(no_ring, CODESCAN_NOTHING);
}

/* Data is in executable segments, too. And whatever it is, nothing is read beyond it. */
static void test_random_bytes(void **state)
{
    enum { SIZE = 4 << 20 };
    uint64_t seed = 20;
    unsigned char *memory = malloc(SIZE);
    int found = 0;
    (void)state;
    assert_non_null(memory);
    for (size_t i = 0; i < SIZE; i += 8) {
        uint64_t word = next_random(&seed);
        memcpy(memory + i, &word, 8);
    }
    assert_int_equal(codescan(memory, SIZE), CODESCAN_NOTHING);
    free(memory);
    for (size_t size = 0; size < 400; size++) { /* and much of it looks like a call */
        unsigned char *some = malloc(size + !size);
        assert_non_null(some);
        for (size_t i = 0; i < size; i++)
            some[i] = (unsigned char)(next_random(&seed) % 4 ? next_random(&seed) : i & 1 ? 0x05 : 0x0f);
        found |= codescan(some, size);
        free(some);
    }
    (void)found;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_of_its_own),
        cmocka_unit_test(test_calls_that_do_not_count),
        cmocka_unit_test(test_bytes_within_instructions),
        cmocka_unit_test(test_rings),
        cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
