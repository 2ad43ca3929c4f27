/* family.h - records of sessions and rings, members. */
#ifndef BERTH_CLIENT_FAMILY_H
#define BERTH_CLIENT_FAMILY_H

#include "base/result.h"
#include "client/holders.h"
#include "client/state.h"

must_use int family_create(void);
/* What other threads, that rest now, have done to its lists comes before what follows. */
void family_catch_up(void);
/* Another one in its place, with this process alone in it, as the member that it was. Handles of before stay
 * stale. False: no memory for that, and this process has no family any more. */
must_use bool family_anew(void);
/* NULL: none left. State QUEUED, generation kept, everything else zero. */
must_use struct session *session_alloc(void);
void session_free(struct session *s);
must_use uint32_t ring_rec_alloc(void); /* NONE: none left */
void ring_rec_free(uint32_t rec);
uint32_t members_used(void); /* no member has a higher index than this, less one */
struct member_set members_alive(void);
/* Of the set that `set_of` reads off `of`: others may add a child to it meanwhile. */
bool members_any_lives(struct member_set (*set_of)(const void *of), const void *of);
bool member_lives(uint32_t member); /* asks the kernel: word of a death may be on its way */
bool member_dead(void *unused, uint32_t id);
void family_member_parent(void);     /* of the child that is forked next */
bool family_member_ends_quiet(void); /* a child that has done nothing: it need not let go of anything */
bool members_others_live(const struct member_set *set);
bool session_others_live(const struct session *s);
/* For many sessions in a row: *known, NONE at first, is a member that lived a moment ago. */
bool session_others_lived(const struct session *s, uint32_t *known);

static inline void half_lock(struct family_lock *l)
{
    family_lock_acquire(l, C->member);
}

static inline void half_unlock(struct family_lock *l)
{
    family_lock_release(l); /* an xchg: also the full fence that slot.h asks for */
}

/* After a fork the records of all members are in reach; only what a process holds is its own. */
static inline bool session_held(const struct session *s)
{
    return !berth_family_shared || holders_has(s, C->member);
}

/* From now on it is ours alone. Before the first fork it always was. */
static inline void session_hold_alone(struct session *s)
{
    if (berth_family_shared)
        holders_only(s, C->member);
}

static inline bool session_held_by(const struct session *s, uint32_t member)
{
    uint32_t state = session_state_acquire(s);
    return state != SESSION_FREE && state != SESSION_ZOMBIE && holders_has(s, member);
}

/* The worker in whose outbox its slot lies; 0: it has none. */
static inline uint32_t session_owner(const struct session *s)
{
    return s->own_outbox < OUTBOXES_MAX ? outbox_worker(C->family->outbox[s->own_outbox].handle) : 0;
}

/* A child that has not said hello yet goes by its parent's id. (It says hello before it is said that it has, and
 * other threads may look meanwhile: that first.) */
static inline bool worker_is_us(uint32_t owner)
{
    return !load_acquire(&C->forked) && owner == load_relaxed(&C->worker);
}

static inline uint32_t member_id_of(uint32_t member)
{
    return member_id(member, member_generation_now(&C->family->member[member]));
}

/* Every record that was ever used, in their order: NULL begins, and NULL is the end. */
static inline struct session *session_after(const struct session *s)
{
    uint32_t next = s ? session_index(s) + 1 : 1;
    return next < family_sessions(C->family) ? session_at(next) : NULL;
}

#endif
