/* plock.c - the slow ways of a plock: taking one that somebody has, waking who waits for one.
 *
 * They are apart so that the fast ways, which stand in line wherever a lock is taken, are a few instructions.
 * Who finds it taken looks again a hundred times, which is longer than what is done under such a lock, and
 * then sleeps; from then on the word says that somebody may wait (2), and whoever releases it wakes one.
 */
#include "base/plock.h"

#define TRIES 100

void plock_wait(struct plock *l)
{
    for (int i = 0; i < TRIES; i++) {
        cpu_relax();
        if (plock_try(l))
            return;
    }
    hold_begin();
    while (exchange_sc(&l->word, 2u) != 0)
        (void)sys_futex_wait(&l->word, 2, 0);
    order_have(l);
}

void plock_wake(struct plock *l)
{
    (void)sys_futex_wake(&l->word, 1L);
}
