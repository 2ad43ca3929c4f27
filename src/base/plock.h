/* plock.h - a small lock for one process: a word, a futex, no destruction. Not recursive; not held while
 * sleeping. 0 free, 1 taken, 2 taken and somebody waits. While the process has one thread no locked
 * instruction is used; what is taken then may be released after a thread was made, so the words are the same.
 */
#ifndef BERTH_BASE_PLOCK_H
#define BERTH_BASE_PLOCK_H

#include <sys/single_threaded.h>

#include "base/atomic.h"
#include "base/hold.h"
#include "base/order.h"
#include "base/sys.h"

struct plock {
    uint32_t word;
};

static inline bool plock_swap(struct plock *l)
{
    uint32_t expected = 0;
    if (__libc_single_threaded) {
        if (load_relaxed(&l->word))
            return false;
        store_relaxed(&l->word, 1);
        fence_compiler();
        return true;
    }
    return load_relaxed(&l->word) == 0 && compare_exchange_sc(&l->word, &expected, 1u);
}

static inline bool plock_try(struct plock *l)
{
    hold_begin(); /* first: a handler that came in between would find the lock taken by its own thread */
    bool taken = plock_swap(l);
    if (taken)
        order_have(l);
    else
        hold_end();
    return taken;
}

void plock_wait(struct plock *l); /* the rest of plock_take, where somebody has it; plock.c */

static inline void plock_take(struct plock *l)
{
    order_take(l);
    if (__builtin_expect(!plock_try(l), 0))
        plock_wait(l);
}

/* Of one that the caller holds: may somebody wait for it? */
static inline bool plock_wanted(const struct plock *l)
{
    return load_sc(&l->word) == 2;
}

void plock_wake(struct plock *l); /* one of those who sleep for it */

static inline void plock_release(struct plock *l)
{
    order_drop(l);
    if (__libc_single_threaded)
        store_release(&l->word, 0u);
    else if (exchange_sc(&l->word, 0u) == 2)
        plock_wake(l);
    hold_end();
}

#endif
