/* session.h - handles, caches, states. */
#ifndef BERTH_CLIENT_SESSION_H
#define BERTH_CLIENT_SESSION_H

#include "client/family.h"
#include "client/peer.h"
#include "client/state.h"
#include "shm/slot.h"

int session_missing(session_handle h);                       /* why session_get has nothing */
struct session_cache *session_cache_find(struct session *s); /* made anew where it is stale */
/* Does the cache name another slot as the peer's than the record? */
/* A record that is being made: in that slot of ours, the other end of `peer`, which is `box`'s. */
void session_meets(struct session *s, const struct own_box *own, uint32_t own_slot,
                   const struct peer_box *box, const struct ctl_place *peer);
bool session_peer_stale(const struct session *s, const struct session_cache *c);
void session_peer_anew(struct session *s, struct session_cache *c);
struct session_cache *session_cache_make(struct session *s);
void session_cache_keep(struct session *s, struct session_cache *c);
session_handle session_handle_of(const struct session *s);
bool session_lock_until(struct session *s, int64_t deadline); /* both locks; false: too late, none */
void session_set_state(struct session *s, uint32_t state);
void session_fill_slot(struct session *s, struct own_box *box);
void session_break(struct session *s, int error, const char *why); /* the peer is dead, or broke the rules */
/* 0, or what it is called if the peer has cut the session off: BERTH_E_RESET; BERTH_E_CLOSED where its stream
 * had ended before in good order, as a read goes on saying. */
int stream_cut(struct session *s, struct session_cache *c);
bool session_over(struct session *s, struct session_cache *c); /* cut off, or both have ended: TCP's CLOSED */
/* The lists through session.next. zombie_lock is held, or is taken. */
void sessions_list_take(uint32_t *link, const struct session *s);
void unconfirmed_take(const struct session *s);
/* off the list of those that found no room in a listener's queue */
void queued_take(const struct session *s);
void zombie_put(struct session *s);
bool zombie_leave(struct session *s);    /* off the list, if it is on it. zombie_lock is held */
struct session *zombie_take(void);       /* the next of the next peer; NULL: there is none */
void session_dispose(struct session *s); /* nobody can find it any more, the peer is done with it */

/* NULL: stale. No lock is held: check the generation again under one. */
static inline struct session *session_get(session_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !index || index >= SESSIONS_MAX || !(h >> 32)) /* generation 0: a record never used */
        return NULL;
    struct session *s = session_at(index);
    return session_generation_acquire(s) == (uint32_t)(h >> 32) && session_held(s) ? s : NULL;
}

static inline struct session_cache *session_cache_of(struct session *s)
{
    struct session_cache *c = &C->cache[session_index(s)];
    return __builtin_expect(load_acquire(&c->generation) == session_generation(s), 1) ? c
                                                                                      : session_cache_find(s);
}

/* Who has ended its reading alone still takes what comes; once both halves are over, what comes is answered
 * by a reset. */
static inline uint64_t head_flag(const struct session *s)
{
    uint32_t both = SF_SHUT_RD | SF_SHUT_WR;
    return (session_flags(s) & both) == both ? COUNT_FLAG : 0;
}

/* Under rx_lock. */
static inline void stream_publish_head(struct session *s, struct session_cache *c)
{
    session_set_head_published(s, s->head);
    slot_set_head(c->own, count_word(s->head, head_flag(s)));
}

/* The ring that the next read would take its bytes from: 0 (it is here), WOULD_BLOCK (it is not yet) or
 * PROTOCOL (it will never be). */
static inline int ring_look(const struct session *s, struct session_cache *c, const struct slot *peer)
{
    const uint8_t *ring = load_relaxed(&c->rx_ring);
    if (ring && session_tail_seen(s) > session_head(s) && !(session_flags(s) & SF_SHARED))
        return 0; /* those seen before lie in the ring they were seen in */
    uint64_t word = slot_ring(peer), size;
    if (ring && word == load_relaxed(&c->rx_word))
        return 0;
    struct peer_box *box = load_relaxed(&c->box);
    int err = BERTH_E_PROTOCOL;
    return !box || peer_ring_find(box, word, &size, &err) ? 0 : err;
}

/* There are some, which nobody can bring any more. */
static inline bool bytes_lost(struct session *s, struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    return peer && !(session_flags(s) & (SF_TENTATIVE | SF_RESET | SF_SHUT_RD)) &&
           count_offset(slot_tail(peer)) != session_head(s) && ring_look(s, c, peer) == BERTH_E_PROTOCOL;
}

#endif
