/* family_lock.h - base/lock.h for the locks in the family segment: who we are, who is dead, and what to do
 * when a dead one's lock was taken over. Every step under these locks is either one store of the truth or can
 * be told from the slots and records again (repair.c). */
#ifndef BERTH_CLIENT_FAMILY_LOCK_H
#define BERTH_CLIENT_FAMILY_LOCK_H

#include <sys/single_threaded.h>

#include "base/lock.h"
#include "base/plock.h"

extern const struct family_members berth_family_members;
extern uint32_t berth_lock_id; /* this process: member_id() */

extern bool berth_family_shared;                /* there was a fork: other processes may take these locks */
extern bool berth_family_quiet;                 /* this process is a child that has not had one yet */
extern struct plock quiet_lock;                 /* for who forks */
void family_member_quiet(void (*before)(void)); /* `before` its first */
void family_member_acts(void);

/* A process of one thread that shares with no other takes a free lock by a plain store: nobody can come
 * between. */
static inline void family_lock_acquire(struct family_lock *l, uint32_t member)
{
    if (__libc_single_threaded && !berth_family_shared && family_lock_try_alone(l, berth_lock_id))
        return;
    if (__builtin_expect(load_acquire(&berth_family_quiet), 0))
        family_member_acts();
    if (__builtin_expect(family_lock_take(l, berth_lock_id, &berth_family_members), 0))
        berth_family_members.repair(berth_family_members.arg, l);
}

static inline bool family_lock_try_now(struct family_lock *l)
{
    if (__builtin_expect(load_acquire(&berth_family_quiet), 0))
        family_member_acts();
    return family_lock_try(l, berth_lock_id);
}

/* For locks whose release nobody takes for a fence (half_unlock's is one). */
static inline void family_lock_drop(struct family_lock *l)
{
    if (__libc_single_threaded && !berth_family_shared)
        family_lock_release_alone(l);
    else
        family_lock_release(l);
}

#endif
