/* slowness.h - limits that grow with what the machine can do: the C programs' side of
 * tests/e2e/lib/slowness.py.
 *
 * Whoever starts the tests has measured, and says it in the environment. A program that was started by hand
 * takes the machine for a quiet one.
 */
#ifndef BERTH_TESTS_SLOWNESS_H
#define BERTH_TESTS_SLOWNESS_H

#include <stdlib.h>

static inline double slowness(void)
{
    static __thread double factor; /* threads ask, too */
    if (factor == 0) {
        const char *told = getenv("BERTH_TEST_SLOWNESS");
        double f = told ? strtod(told, NULL) : 1;
        factor = f > 1 ? f : 1;
    }
    return factor;
}

/* A limit of so much on a quiet machine, in whatever unit, here. */
static inline long long longer(long long limit)
{
    return (long long)((double)limit * slowness());
}

#endif
