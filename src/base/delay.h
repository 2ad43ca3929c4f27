/* delay.h - for builds that hunt lost wake-ups (-Dberth_delays=true): what happens at each atomic operation.
 *
 * BERTH_DELAYS=N       in N of 1000 operations the thread stands still for a random while
 * BERTH_DELAY_SEED=N   so that a run can be had again, as far as the scheduler allows
 * BERTH_FAULT_STORE=N  the process ends at its Nth store, without another word
 *
 * The environment is read at the first operation of a process, and again in a forked child.
 */
#ifndef BERTH_BASE_DELAY_H
#define BERTH_BASE_DELAY_H

#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct delay_state {
    int pid;
    uint32_t permille;
    uint64_t seed, fault, stores;
};

__attribute__((weak, visibility("hidden"))) struct delay_state berth_delay_state;

static inline uint64_t delay_env(const char *name)
{
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 0) : 0;
}

static __attribute__((noinline, unused)) void delay_begin(struct delay_state *d, int pid)
{
    d->permille = (uint32_t)delay_env("BERTH_DELAYS");
    d->seed = delay_env("BERTH_DELAY_SEED");
    d->fault = delay_env("BERTH_FAULT_STORE");
    d->stores = 0;
    __atomic_store_n(&d->pid, pid, __ATOMIC_SEQ_CST);
}

static __attribute__((noinline, unused)) void delay_random(const struct delay_state *d)
{
    static __thread uint64_t r;
    if (!r)
        r = (d->seed * 0x9e3779b97f4a7c15ull ^ (uint64_t)syscall(SYS_gettid) << 20) | 1;
    r ^= r << 13;
    r ^= r >> 7;
    r ^= r << 17;
    uint64_t dice = r * 0x2545f4914f6cdd1dull >> 32;
    if (dice % 1000 >= d->permille)
        return;
    dice /= 1000;
    struct timespec ts = {0, (long)(dice / 4 % 150000)};
    if (dice % 4 == 0)
        sched_yield();
    else if (dice % 4 == 1)
        nanosleep(&ts, NULL);
    else
        for (volatile uint64_t i = dice % 3000; i; i--)
            ;
}

static inline void delay_point(int is_store)
{
    struct delay_state *d = &berth_delay_state;
    int pid = (int)syscall(SYS_getpid);
    if (__atomic_load_n(&d->pid, __ATOMIC_RELAXED) != pid)
        delay_begin(d, pid);
    if (d->permille)
        delay_random(d);
    if (is_store && d->fault && __atomic_add_fetch(&d->stores, 1, __ATOMIC_RELAXED) == d->fault)
        syscall(SYS_exit_group, 77);
}

#endif
