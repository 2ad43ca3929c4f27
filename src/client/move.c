/* move.c - a session goes to another program, with the descriptor that stands for it: this end of it, which
 * stays where it is.
 *
 * Theory of operation
 *
 * Who gives a session away (give.c) stops reading and writing it, writes down where both streams are, with
 * the bytes that the peer has not read, and leaves that to the daemon. Who takes it makes a slot and a ring
 * of its own, with the same offsets and the same bytes in it. So nothing has to be read empty first: the peer
 * may change from the old slot to the new one at any moment, wherever it is in the stream.
 *
 * What the daemon says comes in order:
 *   MOVING   the session is nobody's for a while. The death of the worker that had it, which is what exec
 *            looks like, says nothing about it.
 *   MOVED    where it is. The record, the slot and this process's cache change under both locks. Relatives
 *            hear of it, too: whoever is first changes record and slot, each its own cache. One that has not
 *            heard yet goes on with the old slot, in which nothing moves any more. One that hears late does not go
 *            back: the places of a session are counted.
 * MOVED to nowhere: nobody has taken it. It ends as if the worker had died.
 *
 * The slot may lie in memory that is not here yet: then the message waits for it (moves_go_on), and the session is
 * as if it were still on its way. Where it has gone on from there meanwhile, nobody follows it to there any more:
 * whoever had it there may have ended.
 */
#include <limits.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/family.h"
#include "client/link.h"
#include "client/move.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/session.h"
#include "client/wake.h"
#include "client/watch.h"
#include "shm/slot.h"

struct waiting_move {
    struct ctl_move m;
    uint32_t asked; /* number of the question for the outbox, 0: it is here, and a segment is not */
    struct waiting_move *next;
};

static struct waiting_move *waiting_first; /* under dispatch_lock */

/* The session whose slot of ours that is. NULL: it has gone, or is another member's. */
struct session *session_at_place(const struct ctl_place *mine)
{
    struct own_box *box = C->outboxes;
    while (box && box->handle != mine->outbox)
        box = box->next;
    if (!box || mine->slot >= outbox_rec_slots(outbox_rec_of(box)))
        return NULL;
    struct slot *slot = outbox_slot(box, mine->slot);
    uint32_t owner = slot ? slot_extra(slot) : 0;
    if (!owner || owner > SESSIONS_MAX || slot_generation(slot) != mine->generation ||
        slot_state(slot) == SLOT_FREE)
        return NULL;
    struct session *s = session_at(owner - 1);
    return session_own_slot(s) == mine->slot && session_own_outbox(s) == box->index ? s : NULL;
}

struct ctl_place session_place(const struct session *s, const struct session_cache *c)
{
    return (struct ctl_place){outbox_by_index(s->own_outbox)->handle, s->own_slot,
                              slot_generation_known(c->own)};
}

struct ctl_place session_peer_place(const struct session *s)
{
    return (struct ctl_place){session_peer_outbox(s), session_peer_slot(s), session_peer_generation(s)};
}

/* Does the peer know us by our slot? A slot of another outbox may have the same number: so the places are
 * compared, too. What has left the peer's place for its own is not made to say so (change_over): whoever is known has been
 * followed from where the peer is, and what the peer tells from then on names this place. */
bool session_is_known(const struct session *s, const struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    return peer && slot_peer(peer) == ((uint64_t)slot_generation_known(c->own) << 32 | s->own_slot) &&
           slot_peer_place(peer) == slot_place(c->own);
}

void session_is_nowhere(const struct ctl_place *place)
{
    struct ctl_move m = {.h = {.type = CTL_MOVED, .len = sizeof m}, .from = *place};
    (void)control_send(&m, NULL, 0); /* without a daemon there is nobody who has it in mind */
}

/* Does the record say that the other end is there? */
static bool peer_is_at(const struct session *s, const struct ctl_place *place)
{
    struct ctl_place peer = session_peer_place(s);
    return ctl_place_same(&peer, place);
}

static bool still_of(const struct session *s, const struct session_cache *c, const struct ctl_place *mine)
{
    return session_own_slot(s) == mine->slot && c->own && slot_generation_known(c->own) == mine->generation &&
           session_state(s) != SESSION_FREE;
}

/* What has left its place for one of our own (home.c): *m is made to name that. False: nothing has. */
static bool went_home(const struct session *s, struct ctl_move *m, struct session **to)
{
    uint8_t both = MOVING_GONE | MOVING_HOME;
    if ((session_moving(s) & both) != both)
        return false;
    struct session *h = session_at(session_listener(s));
    if (!session_held(h) || session_state_acquire(h) == SESSION_FREE ||
        !outbox_by_index(session_own_outbox(h)))
        return false;
    *to = h;
    m->peer = session_place(h, session_cache_of(h));
    return true;
}

static void moves(struct session *s, const struct ctl_move *m)
{
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    if (still_of(s, c, &m->peer) && peer_is_at(s, &m->from))
        session_set_moving(s, session_moving(s) | MOVING_PEER);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

static void is_under_way(const struct ctl_move *m)
{
    struct session *s = session_at_place(&m->peer);
    struct ctl_move there = *m;
    if (!s)
        return;
    moves(s, m);
    if (went_home(s, &there, &s))
        moves(s, &there);
}

/* Of the moves that wait to be followed those to the place that *m leads from; `all`: and all of that session. */
static void waiting_drop(const struct ctl_move *m, bool all)
{
    for (struct waiting_move **p = &waiting_first, *w; (w = *p);) {
        if ((all && ctl_place_same(&w->m.peer, &m->peer)) || ctl_place_same(&w->m.to, &m->from)) {
            store_relaxed(p, w->next);
            memory_put(w, sizeof *w);
        } else {
            p = &w->next;
        }
    }
}

void peer_moves(const struct ctl_move *m)
{
    waiting_drop(m, false);
    is_under_way(m);
}

static void ended(struct session *s)
{
    uint32_t flags = session_flags_acquire(s);
    session_set_moving(s, session_moving(s) & ~MOVING_PEER);
    session_dead(s, flags);
    sleepers_wake(s);
    watches_ready(session_cache_of(s));
}

/* From the old slot to the new one. Both locks and zombie_lock are held. */
static void change_over(struct session *s, struct session_cache *c, struct peer_box *box,
                        const struct ctl_place *to, const struct slot *p)
{
    struct peer_box *old = load_relaxed(&c->box);
    if (!peer_is_at(s, to)) {
        session_set_peer_outbox(s, to->outbox);
        session_set_peer_slot(s, to->slot);
        session_set_peer_generation(s, to->generation);
        outbox_info(outbox_by_index(s->own_outbox), s->own_slot)->peer_outbox = to->outbox;
        session_set_event_pos(s, 0); /* the new one has heard of nothing */
        session_set_moving(s, session_moving(s) & ~MOVING_PEER);
        session_drop_flags(s, SF_DEAD); /* said of the worker that had it there */
    }
    fetch_add_sc(&box->sessions, 1);
    store_relaxed(&c->box, box);
    roll_enter(s, &box->roll);
    store_relaxed(&c->rx_ring, NULL); /* what was seen before lies in the new ring, too */
    store_relaxed(&c->rx_word, 0);
    store_release(&c->peer, p);
    slot_set_peer(c->own, (uint64_t)to->generation << 32 | to->slot);
    if (!(session_moving(s) & MOVING_GONE))         /* else it is not our eyes that look there */
        slot_set_peer_place(c->own, slot_place(p)); /* from now on the old one may go */
    if (old)
        fetch_add_sc(&old->sessions, ~0u);
    fence_sc();
    if (load_acquire(&box->worker->dead)) /* as link_to */
        session_dead(s, session_flags(s));
}

/* Is that where the other end has gone to from where we know it? Both locks are held. */
static bool leads_on(const struct session *s, const struct session_cache *c, const struct ctl_move *m,
                     const struct slot *p)
{
    if (peer_is_at(s, &m->to))
        return true; /* a relative was faster: the cache follows */
    if (!(session_moving(s) & MOVING_PEER) && !peer_is_at(s, &m->from))
        return false;
    return session_moving(s) & MOVING_GONE || (int16_t)(slot_place(p) - slot_peer_place(c->own)) > 0;
}

/* WOULD_BLOCK: it waits for memory. */
static int follow_as(struct session *s, const struct ctl_move *m)
{
    if (!session_held(s))
        return 0; /* a relative's, who hears of it, too */
    if (!m->to.outbox) {
        if (session_moving(s) & MOVING_PEER)
            ended(s);
        return 0;
    }
    struct peer_box *box = peer_box_of(m->to.outbox, outbox_worker(m->peer.outbox));
    int err = box ? BERTH_E_PROTOCOL : BERTH_E_WOULD_BLOCK; /* forked before that outbox was met */
    const struct slot *p = box ? peer_slot_find(box, m->to.slot, &err) : NULL;
    if (!p && err == BERTH_E_WOULD_BLOCK)
        return err;
    if (!p) {
        log_warn("session %u: its peer went to where it cannot be met", session_index(s));
        ended(s);
        return err;
    }
    channel_pair(box);
    struct session_cache *c = session_cache_of(s);
    plock_take(&C->zombie_lock);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    bool zombie = false, may = session_held(s) && still_of(s, c, &m->peer) && load_relaxed(&c->peer) != p &&
                               leads_on(s, c, m, p);
    if (may) {
        zombie = zombie_leave(s); /* the list is the old outbox's */
        change_over(s, c, box, &m->to, p);
        session_linked(s);
        channel_event(s, c);
        (void)sys_futex_wake(slot_tail_futex(c->own), (long)INT_MAX);
        (void)sys_futex_wake(slot_head_futex(c->own), (long)INT_MAX);
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    plock_release(&C->zombie_lock);
    if (zombie)
        zombie_put(s);
    if (may)
        sleepers_wake(s);
    return 0;
}

static int follow(const struct ctl_move *m)
{
    struct session *s = session_at_place(&m->peer);
    struct ctl_move there = *m;
    if (!s)
        return BERTH_E_BAD_HANDLE;
    int err = follow_as(s, m);
    return went_home(s, &there, &s) ? follow_as(s, &there) : err;
}

static void ended_at(const struct ctl_place *peer)
{
    struct session *s = session_at_place(peer);
    struct ctl_move m = {.peer = *peer};
    if (!s || !session_held(s))
        return;
    ended(s);
    if (went_home(s, &m, &s))
        ended(s);
}

static uint32_t ask_for(outbox_handle handle)
{
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg, .seq = control_async_seq()},
                             .outbox = handle};
    (void)control_send(&msg, NULL, 0); /* without a daemon none comes any more: moves_lost */
    return msg.h.seq;
}

static void follow_or_wait(const struct ctl_move *m, uint32_t asked)
{
    if (follow(m) != BERTH_E_WOULD_BLOCK)
        return;
    struct waiting_move *w = memory_get(sizeof *w);
    if (!w) {
        ended_at(&m->peer);
        return;
    }
    if (!ctl_place_same(&m->from, &m->to))
        is_under_way(m); /* whose death at the old place says nothing of it, either */
    bool met = peer_box_first(m->to.outbox) != NULL;
    *w = (struct waiting_move){.m = *m,
                               .asked = met     ? 0
                                        : asked ? asked
                                                : ask_for(m->to.outbox),
                               .next = waiting_first};
    store_relaxed(&waiting_first, w);
}

void peer_moved(const struct ctl_move *m)
{
    waiting_drop(m, true);
    follow_or_wait(m, 0);
}

void moves_unmet(uint32_t asked)
{
    for (struct waiting_move **p = &waiting_first, *w; (w = *p);) {
        if (!w->asked || w->asked != asked) {
            p = &w->next;
            continue;
        }
        store_relaxed(p, w->next);
        log_debug("outbox %llx, to which a peer went, is not to be had", (unsigned long long)w->m.to.outbox);
        ended_at(&w->m.peer);
        memory_put(w, sizeof *w);
    }
}

bool moves_wait(void)
{
    return load_relaxed(&waiting_first) != NULL;
}

void moves_go_on(void)
{
    struct waiting_move *w = waiting_first, *next;
    store_relaxed(&waiting_first, NULL);
    for (; w; w = next) {
        next = w->next;
        follow_or_wait(&w->m, w->asked);
        memory_put(w, sizeof *w);
    }
}

void moves_forget(void)
{
    struct waiting_move *w = waiting_first, *next;
    store_relaxed(&waiting_first, NULL);
    for (; w; w = next) {
        next = w->next;
        memory_put(w, sizeof *w);
    }
}

/* At its old place, where the peer may be looking for ever now. */
static void left_behind(struct session *s, struct session_cache *c)
{
    if (!(session_moving(s) & MOVING_HOME) || !c->own || session_state(s) != SESSION_ZOMBIE)
        return;
    slot_cut(c->own);
    notify_data(s, c, 0, WANT_NOTHING);
    notify_space(s, c, 0, WANT_NOTHING);
}

void moves_lost(void)
{
    moves_forget();
    for (struct session *s = NULL; (s = session_after(s));) {
        uint8_t moving = session_moving(s);
        if (!(moving & (MOVING_PEER | MOVING_HERE | MOVING_HOME)) || !session_held(s) ||
            session_state_acquire(s) == SESSION_FREE)
            continue;
        struct session_cache *c = session_cache_of(s);
        if (moving & MOVING_GONE) {
            left_behind(s, c);
            continue;
        }
        const struct slot *peer = load_acquire(&c->peer);
        uint64_t me = c->own ? (uint64_t)slot_generation_known(c->own) << 32 | session_own_slot(s) : 0;
        if (moving & MOVING_PEER || !peer || slot_peer(peer) != me)
            ended(s);
    }
}
