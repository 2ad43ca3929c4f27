/* plock.h - a small lock for one process: a word, a futex, no destruction. Not recursive; not held while sleeping.
 * 0 free, 1 taken, 2 taken and somebody waits. While the process has one thread no locked instruction is used; what is taken
 * then may be released after a thread was made, so the words are the same. */
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

static inline void plock_take(struct plock *l)
{
    order_take(l);
    for (int i = 0; i < 100; i++) {
        if (plock_try(l))
            return;
        cpu_relax();
    }
    hold_begin();
    while (exchange_sc(&l->word, 2u) != 0)
        (void)sys_futex_wait(&l->word, 2, 0);
    order_have(l);
}

static inline void plock_release(struct plock *l)
{
    order_drop(l);
    if (__libc_single_threaded)
        store_release(&l->word, 0u);
    else if (exchange_sc(&l->word, 0u) == 2)
        (void)sys_futex_wake(&l->word, 1L);
    hold_end();
}

#endif
