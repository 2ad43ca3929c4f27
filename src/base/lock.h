/* lock.h - a lock in memory that a family of processes shares, of which any may be killed while it holds it.
 *
 * Theory of operation
 *
 * The word is 0 when free, else the holder's member id + 1, with LOCK_CONTENDED beside it once somebody
 * sleeps. Taking is one compare-and-swap, releasing one exchange (3 ns each); the holder calls the kernel
 * only when somebody sleeps. A waiter spins briefly, then sleeps on the word by a shared futex, never longer
 * than 10 ms at a time: so nothing that a killed process left undone (a wake not sent, a wake it took with
 * it) costs more than that. After each 10 ms with one holder it asks whether that holder is dead, and if so
 * puts its own id in the place of the dead one's.
 *
 * Who takes a lock over gets LOCK_TAKEN_OVER and must put right what the lock protects before it relies on
 * it: the dead one may have stopped between any two stores. It may itself be killed while it does so; the
 * next one then repairs.
 *
 * Member ids. Between the question "is it dead?" and the swap the lock may have gone on to others. If the
 * dead one's id were given to a new process meanwhile, and that one held the lock, the swap would steal it.
 * So an id has to carry a generation (say 11 bits of index and 19 of generation), and must not come back
 * within any waiter's 10 ms.
 *
 * What it is not: recursive (a thread that takes it twice sleeps for ever), fair, or safe to hold over a
 * fork() whose child thinks that it holds it too. Threads of one member exclude each other like anybody else;
 * a thread that ends without releasing leaves the lock taken, for its process lives. Signal handlers must not
 * take it.
 */
#ifndef BERTH_BASE_LOCK_H
#define BERTH_BASE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/hold.h"
#include "base/order.h"
#include "base/result.h"

struct family_lock {
    uint32_t word; /* zeroed memory is a free lock */
};

#define LOCK_CONTENDED 0x80000000u
#define LOCK_MEMBER_MAX 0x7ffffffdu
#define LOCK_TAKEN_OVER 1

struct family_members {
    /* Is that member's process dead? A zombie is. Must say true for an id that no living process has (the
     * word may hold anything after a stray write), must not take the lock, and is asked only about others,
     * while waiting. */
    bool (*dead)(void *arg, uint32_t member);
    /* The lock was taken over: what it protects is put right, by who has it now. For those who take it by way
     * of something that does not hand LOCK_TAKEN_OVER on. */
    void (*repair)(void *arg, struct family_lock *l);
    void *arg;
};

int family_lock_wait(struct family_lock *l, uint32_t member, const struct family_members *m);
void family_lock_wake(struct family_lock *l);

static inline bool family_lock_swap(struct family_lock *l, uint32_t member)
{
    uint32_t free_word = 0;
    return compare_exchange_sc(&l->word, &free_word, member + 1);
}

/* Takes the lock only if it is free. A dead holder's lock is not free. */
static inline bool family_lock_try(struct family_lock *l, uint32_t member)
{
    hold_begin(); /* first: a handler that came in between would find the lock taken by its own thread */
    bool taken = family_lock_swap(l, member);
    if (taken)
        order_have(l);
    else
        hold_end();
    return taken;
}

/* The same for a process of one thread that shares with no other: nobody can come between a look and a store.
 */
static inline bool family_lock_try_alone(struct family_lock *l, uint32_t member)
{
    if (load_relaxed(&l->word) != 0)
        return false;
    order_take(l);
    hold_begin();
    order_have(l);
    store_relaxed(&l->word, member + 1);
    fence_compiler();
    return true;
}

static inline void family_lock_release_alone(struct family_lock *l)
{
    order_drop(l);
    store_release(&l->word, 0);
    hold_end();
}

/* Takes the lock, waiting as long as a living process holds it. 0, or LOCK_TAKEN_OVER. */
must_use static inline int family_lock_take(struct family_lock *l, uint32_t member,
                                            const struct family_members *m)
{
    order_take(l);
    hold_begin();
    int taken = 0;
    if (__builtin_expect(!family_lock_swap(l, member), 0))
        taken = family_lock_wait(l, member, m);
    order_have(l);
    return taken;
}

static inline void family_lock_release(struct family_lock *l)
{
    order_drop(l);
    if (__builtin_expect(exchange_sc(&l->word, 0) & LOCK_CONTENDED, 0))
        family_lock_wake(l);
    hold_end();
}

/* Who holds it, or -1: for tools and assertions. */
static inline int64_t family_lock_holder(const struct family_lock *l)
{
    return (int64_t)(load_relaxed(&l->word) & ~LOCK_CONTENDED) - 1;
}

#endif
