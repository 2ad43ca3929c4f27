/* link.c - connector and acceptor come to know each other's slots.
 *
 * A connector that does not know whom to tell of its bytes looks for the acceptor after each store
 * (acceptors_look). So one of the two sees the other: the acceptor publishes that it has accepted, then looks
 * at the connector's tail. What tells the connector is the event queue between the two; at their first
 * meeting the daemon's word, and until that has left (ANNOUNCED) the acceptor must look for itself, each
 * millisecond (wait_cap).
 *
 * The acceptor's sessions that the connector is not seen to know are on a list, which is looked at on every
 * wake: the connector may come to have another acceptor (session_judge).
 */
#include <limits.h>

#include "base/sys.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/link.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/watch.h"
#include "shm/slot.h"

/* The peer worker of the session that had these flags is dead. The record may have become another session's
 * since: then the tag is another. */
void session_dead(struct session *s, uint32_t flags)
{
    uint32_t now = session_flags(s);
    if (session_moving(s) & MOVING_PEER)
        return; /* it was given away before */
    while (!((now ^ flags) >> SF_TAG_SHIFT) && !session_change_flags(s, &now, now | SF_DEAD))
        ;
}

/* The first who answers has it, whichever of its offers he took: they have the slot's generation in common.
 */
static bool answers_offer(const struct slot_info *theirs, const struct session *s)
{
    uint32_t seq = info_offer_seq(theirs);
    return seq && seq <= session_offer_seq(s);
}

/* `names`: our slot and its generation, as the peer has it. The record may have become another session's
 * meanwhile. */
static void link_to(struct session *s, struct peer_box *box, uint32_t slot_index, const struct slot *p,
                    uint64_t names)
{
    struct session_cache *c = session_cache_of(s);
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    bool waiting = session_state(s) == SESSION_OFFERED || session_state(s) == SESSION_ZOMBIE;
    bool same = s->own_slot == (uint32_t)names && s->own_outbox == box->own->index && c->own &&
                slot_generation_known(c->own) == (uint32_t)(names >> 32);
    const struct slot_info *theirs = peer_info(box, slot_index);
    bool in_time = theirs && answers_offer(theirs, s);
    uint32_t flags = session_flags(s);
    /* a forked process that looks for its own comes by those that were made after the fork, too: whose they
     * are would not hear of it */
    bool may = session_held(s) || box->me == load_relaxed(&C->worker);
    if (!same || !waiting || !in_time || c->peer || !(flags & SF_CONNECTOR) || !may) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
        return;
    }
    struct own_box *own = outbox_by_index(s->own_outbox);
    session_set_peer_outbox(s, box->handle);
    session_set_peer_slot(s, slot_index);
    session_set_peer_generation(s, slot_generation_known(p));
    uint64_t limit = info_rx_limit(theirs);
    if (limit >= 4096 && limit < session_tx_limit(s))
        session_set_tx_limit(s, limit);
    outbox_info(own, s->own_slot)->peer_outbox = box->handle;
    fetch_add_sc(&box->sessions, 1);
    store_relaxed(&c->box, box);
    roll_enter(s, &box->roll);
    store_release(&c->peer, p);
    slot_set_peer_place(c->own, slot_place(p));
    slot_set_peer(c->own, (uint64_t)session_peer_generation(s) << 32 | slot_index);
    if (session_state(s) == SESSION_OFFERED) {
        session_set_state(s, SESSION_OPEN);
        slot_set_state(c->own, SLOT_OPEN);
    }
    fence_sc();
    if (load_acquire(
            &box->worker->dead)) /* word of it may have come before anybody knew that this session was its */
        session_dead(s, flags);
    if (box->me == load_relaxed(&C->worker))
        route_waiting(s, -1);
    session_linked(s);
    if (session_offer_seq(s) > 1) { /* it waits to be chosen, whether there are bytes or not */
        channel_event(s, c);
        (void)sys_futex_wake(slot_tail_futex(c->own), (long)INT_MAX);
        (void)sys_futex_wake(slot_head_futex(c->own), (long)INT_MAX);
    }
    half_unlock(&s->tx_lock); /* only now: as soon as it can be closed, it can be another's */
    half_unlock(&s->rx_lock);
}

/* What the acceptor wants to know may have happened before we knew whom to tell. */
void session_linked(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    uint64_t tail = session_tail(s);
    notify_data(s, c, 0, session_flags(s) & SF_SHUT_WR ? WANT_NOTHING : tail);
    notify_space(s, c, 0, session_state(s) == SESSION_ZOMBIE ? WANT_NOTHING : session_head_published(s));
    const struct slot *peer = load_acquire(&c->peer);
    if (peer && !(session_flags(s) & (SF_RESET | SF_DEAD)))
        watches_look(c, peer); /* that it is accepted is no event */
    else
        watches_ready(c);
}

void session_event(struct peer_box *box, uint32_t index)
{
    const struct slot *p = peer_slot(box, index);
    if (!p || !box->own)
        return;
    uint64_t names = slot_peer(p); /* our slot and its generation */
    uint32_t mine = (uint32_t)names;
    struct outbox_rec *r = outbox_rec_of(box->own);
    if (mine >= outbox_rec_slots(r))
        return;
    struct slot *own = outbox_slot(box->own, mine);
    if (!own)
        return; /* another member's */
    uint32_t owner = slot_extra(own);
    if (slot_generation(own) != (uint32_t)(names >> 32) || slot_state(own) == SLOT_FREE || !owner ||
        owner > SESSIONS_MAX)
        return; /* an event that came too late */
    struct session *s = session_at(owner - 1);
    if (session_own_slot(s) != mine || session_own_outbox(s) != box->own->index)
        return;
    struct session_cache *c = session_cache_of(s);
    if (!load_acquire(&c->peer) && session_flags(s) & SF_CONNECTOR) {
        const struct slot_info *info = peer_info(box, index);
        /* slots, generations and numbers of offers begin alike in each process of a family: the outbox tells
         * them apart */
        if (slot_state(p) != SLOT_FREE && info && info_peer_outbox(info) == r->handle &&
            answers_offer(info, s))
            link_to(s, box, index, p, names);
        return;
    }
    if (load_acquire(&c->peer) == p)
        watches_look(c, p);
}

/* What the connector's slot says when it has chosen us. */
static uint64_t own_name(const struct session *s, const struct session_cache *c)
{
    return c->own ? (uint64_t)c->own->generation << 32 | s->own_slot : 0;
}

/* It is the connector's slot still, and not another session's by now. */
static bool is_still(const struct session *s, const struct slot *peer)
{
    return peer && slot_generation_known(peer) == session_peer_generation(s);
}

void session_last_words(struct session *s)
{
    const struct session_cache *c = session_cache_of(s);
    const struct slot *peer = load_acquire(&c->peer);
    if (session_flags(s) & SF_TENTATIVE && is_still(s, peer) && slot_peer(peer) == own_name(s, c))
        session_drop_flags(s, SF_TENTATIVE);
}

/* Does the connector know our slot, does it know another's, or is it past knowing? */
bool session_judge(struct session *s, struct session_cache *c)
{
    uint64_t me = own_name(s, c);
    const struct slot *peer = load_acquire(&c->peer);
    uint32_t flags = session_flags(s);
    uint64_t names = peer ? slot_peer(peer) : 0; /* once: it may come to name us at any moment */
    bool still = is_still(s, peer);
    bool over =
        !still || flags & (SF_DEAD | SF_RESET) || session_state(s) != SESSION_OPEN || (names && names != me);
    bool knows = still && names == me;
    if (c->box && !channel_hears(c->box)) {
        channel_pair(c->box);
        if (!channel_hears(c->box) && !over) {
            channel_await(c->box);
            return false; /* it may know us, but not yet how to tell: very soon */
        }
    }
    if (!knows && !over)
        return false;
    if (knows) {
        session_drop_flags(s, SF_TENTATIVE);
    } else if (session_state(s) == SESSION_OPEN && !(flags & SF_RESET) &&
               (flags & SF_TENTATIVE || !(flags & SF_DEAD))) {
        if (names)
            session_add_flags(s, SF_TENTATIVE); /* for good: the bytes are another's */
        session_break(s, BERTH_E_RESET, "the connector has another acceptor");
    }
    session_add_flags(s, SF_CONFIRMED);
    return true;
}

/* Is there anything that somebody might wait for? Whoever waits looks for himself. */
static bool may_be_ready(const struct session *s, const struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    return peer && slot_tail(peer) != count_word(session_head(s), 0);
}

bool session_unheard(const struct session_cache *c)
{
    const struct peer_box *box = load_relaxed(&c->box);
    return box && (!load_acquire(&box->heard) || load_relaxed(&box->starved));
}

/* zombie_lock is held. */
static void confirm(bool heard)
{
    uint32_t *link = &C->unconfirmed, unheard = 0;
    while (*link) {
        struct session *s = session_at(*link - 1);
        struct session_cache *c = session_cache_of(s);
        bool tentative = session_flags(s) & SF_TENTATIVE, judged = session_judge(s, c);
        if (judged) {
            session_list_set(link, s->next);
            s->next = 0;
        } else {
            link = &s->next;
        }
        if (!judged)
            unheard += session_unheard(c);
        if (judged || may_be_ready(s, c)) {
            const struct slot *peer = load_acquire(&c->peer);
            if (peer && !tentative)
                watches_look(c, peer);
            else
                watches_ready(c);
            if (heard)
                sleepers_wake(s);
        }
    }
    store_relaxed(&C->unheard, unheard);
}

void sessions_confirm(void)
{
    if (load_relaxed(&C->unconfirmed) == 0 || !plock_try(&C->zombie_lock))
        return;
    confirm(false);
    plock_release(&C->zombie_lock);
}

void sessions_heard(void)
{
    plock_take(&C->zombie_lock);
    confirm(true);
    plock_release(&C->zombie_lock);
}
