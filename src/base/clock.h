/* clock.h - monotonic time in nanoseconds: exact from the vDSO, or cheap from the cycle counter for spin
 * budgets. */
#ifndef BERTH_BASE_CLOCK_H
#define BERTH_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US 1000ll
#define NS_PER_MS 1000000ll
#define NS_PER_SEC 1000000000ll

static inline int64_t clock_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

/* Deadlines: -1 is never. */
#define DEADLINE_NEVER INT64_MAX

static inline int64_t clock_deadline(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return DEADLINE_NEVER;
    int64_t now = clock_now();
    return timeout_ns > DEADLINE_NEVER - now ? DEADLINE_NEVER : now + timeout_ns;
}

static inline struct timespec clock_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_PER_SEC, .tv_nsec = ns % NS_PER_SEC};
}

#endif
