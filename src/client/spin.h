/* spin.h - looking again and again, before one sleeps. */
#ifndef BERTH_CLIENT_SPIN_H
#define BERTH_CLIENT_SPIN_H

#include "base/sleep.h"
#include "client/state.h"

struct spin {
    const struct session_cache *c; /* whose peer is waited for; NULL: nobody's in particular */
    const uint8_t *vain;           /* how often in a row it has not paid */
    int64_t now, deadline;
    const struct sleep_mark *mark;
    bool many;                  /* it waits for many: not where more want to run than there are CPUs */
    void (*publish)(void *arg); /* says where we run; NULL: the session's slot does */
};

/* Looks until one of the two finds something (what it returned, not 0), or it is time to sleep: 0. `kernel`,
 * every 20 us, may make system calls; NULL: there is nothing to look at there. */
int spin_until(struct spin *sp, int (*look)(void *arg), int (*kernel)(void *arg), void *arg);

/* 0: not now. Where both sides run on one CPU (`stacked`) a spinner gives it away between two looks. */
int64_t spin_budget(const struct session_cache *c, int64_t now, bool *stacked);
void cpu_publish(struct slot *own); /* where we run */
/* what a wait has shown, from its beginning to its event */
void spin_learn(uint8_t *vain, int64_t waited_ns);
uint32_t cpu_here(void); /* plus one */

#endif
