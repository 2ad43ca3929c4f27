/* life.c - how a session ends: shut down, closed, aborted, left behind. */
#include <string.h>

#include "base/clock.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/life.h"
#include "client/rings.h"
#include "client/rolls.h"
#include "client/session.h"
#include "client/span.h"
#include "client/wake.h"
#include "client/watch.h"
#include "shm/slot.h"

static void end_halves(struct session *s, struct session_cache *c, int how, bool reset)
{
    uint64_t tail = s->tail;
    bool fin = how & BERTH_SHUT_WR && !(slot_own_tail(c->own) & COUNT_FLAG);
    bool closed = how & BERTH_SHUT_RD && !(slot_own_head(c->own) & COUNT_FLAG);
    if (reset)
        slot_set_reset(c->own);
    session_add_flags(s, (how & BERTH_SHUT_WR ? SF_SHUT_WR : 0) | (how & BERTH_SHUT_RD ? SF_SHUT_RD : 0));
    if (closed)
        stream_publish_head(s, c);
    if (fin)
        slot_set_tail(c->own, count_word(tail, COUNT_FLAG));
    fence_sc();
    if (fin)
        notify_data(s, c, tail, WANT_NOTHING); /* also who waits for more bytes than one: no more will come */
    if (closed)
        notify_space(s, c, 0, WANT_NOTHING);
    if (reset && !fin && load_acquire(&c->peer))
        channel_event(s, c); /* who has heard of the end, and waits for no more, hears that it was a reset */
}

/* What is unread at a later close is no loss to the peer any more (stream_cut). */
static void shut_halves(struct session *s, struct session_cache *c, int how)
{
    slot_set_ended(c->own);
    end_halves(s, c, how, false);
}

/* Whoever holds it and sleeps for a half that is over: threads of ours on the peer's words, event waits, other processes. */
static void own_sleepers_wake(struct session *s, struct session_cache *c)
{
    sleepers_wake(s);
    watches_ready(c);
    if (session_flags(s) & SF_SHARED)
        shared_kick(s);
}

int session_shut(session_handle h, int how)
{
    struct session *s = session_get(h);
    if (!s)
        return session_missing(h);
    if (how & ~(BERTH_SHUT_RD | BERTH_SHUT_WR) || !how)
        return BERTH_E_INVALID;
    struct session_cache *c = session_cache_of(s);
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    int err = session_generation(s) != (uint32_t)(h >> 32) ? BERTH_E_BAD_HANDLE : 0;
    if (!err && session_over(s, c))
        err = BERTH_E_CLOSED;
    /* SHUT_RD is ours alone: as on Linux the peer may go on writing, and who asks is given it. Until both halves are over: then the
     * peer hears that its bytes would come to nothing. */
    uint32_t over = (how & BERTH_SHUT_RD ? SF_SHUT_RD : 0) | (how & BERTH_SHUT_WR ? SF_SHUT_WR : 0);
    if (!err && ((session_add_flags(s, over) | over) & (SF_SHUT_RD | SF_SHUT_WR)) == (SF_SHUT_RD | SF_SHUT_WR))
        shut_halves(s, c, BERTH_SHUT_RD | BERTH_SHUT_WR);
    else if (!err && how & BERTH_SHUT_WR)
        shut_halves(s, c, BERTH_SHUT_WR);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (!err)
        own_sleepers_wake(s, c);
    return err;
}

/* For the peer and for all handles. Both locks are held. */
static void end_session(struct session *s, struct session_cache *c, bool abort)
{
    bool unread = load_acquire(&c->peer) && count_offset(slot_tail(c->peer)) != s->head;
    end_halves(s, c, BERTH_SHUT_RD | BERTH_SHUT_WR, abort || unread);
    read_span_end(s);
    write_span_end(s);
    session_set_state(s, SESSION_ZOMBIE);
    slot_set_state(c->own, SLOT_CLOSED);
    uint32_t generation = s->generation + 1 ? s->generation + 1 : 1;
    store_release(&c->generation, generation); /* what the cache says stays true of the zombie */
    session_set_generation(s, generation);
}

/* Others go on with it. All that is ours goes before they can hear that we do not hold it any more: from then on the record may
 * become another session's at any moment. Both locks and zombie_lock are held. */
static void let_others_go_on(struct session *s, struct session_cache *c)
{
    watches_drop(&c->watches);
    sessions_list_take(&C->unconfirmed, s);
    sessions_list_take(&C->queued, s);
    roll_leave(s);
    if (c->box)
        fetch_add_sc(&c->box->sessions, ~0u);
    store_release(&c->generation, 0u);
    (void)members_drop(&s->holders, C->member);
}

/* Threads of ours that are blocked on what we have closed hear that it is gone; mostly there are none. Who is counted later finds the
 * flags changed. */
static void closed_wake(struct session *s, struct session_cache *c)
{
    if (load_sc(&C->more[session_index(s)].sleepers))
        sleepers_wake(s);
    if (load_sc(&c->pollers))
        own_kick();
}

int session_finish(session_handle h, bool abort)
{
    struct session *s = session_get(h);
    if (!s)
        return session_missing(h);
    struct session_cache *c = session_cache_of(s);
    bool shared = session_flags(s) & SF_SHARED;
    if (shared)
        plock_take(&C->zombie_lock);
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    bool mine = session_generation(s) == (uint32_t)(h >> 32) && session_held(s);
    bool again = mine && !shared && session_flags(s) & SF_SHARED; /* forked a moment ago */
    bool go_on = mine && shared && members_others_live(&s->holders);
    if (go_on)
        let_others_go_on(s, c);
    if (shared)
        plock_release(&C->zombie_lock);
    if (!mine || again || go_on) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
        if (go_on)
            closed_wake(s, c);
        return again ? session_finish(h, abort) : mine ? 0 : BERTH_E_BAD_HANDLE;
    }
    members_only(&s->holders,
                 C->member); /* until the slot is given back: should we die, somebody else has to do it */
    watches_drop(&c->watches);
    uint32_t was = s->state;
    end_session(s, c, abort);
    stream_release_ring(s, c);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    closed_wake(s, c);
    if (was == SESSION_QUEUED || (was == SESSION_FAILED && !load_acquire(&c->peer))) {
        queued_take(s);
        session_dispose(s);
        return 0;
    }
    unconfirmed_take(s);
    zombie_put(s);
    return 0;
}

static void leave_session(struct session *s, int64_t deadline)
{
    struct session_cache *c = session_cache_of(s);
    if (!session_lock_until(s, deadline))
        return;
    uint32_t state = s->state;
    if ((state == SESSION_OPEN || state == SESSION_OFFERED) && session_held(s) && c->own) {
        if (!members_others_live(&s->holders)) {
            members_only(&s->holders, C->member); /* a relative gives the slot back when it hears of our death */
            end_session(s, c, false);
        } else { /* whoever closes it after us shall not wait for word of our death before that ends it */
            spans_end(s, C->member);
            (void)members_drop(&s->holders, C->member);
        }
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

/* The daemon tells peers of our death where all that lies in an outbox ends with us. Where a relative has the outbox too, it is
 * the relative's to end what nobody holds any more, and it may be asleep for long. */
void client_leave(void)
{
    if (!C->attached || !berth_family_shared)
        return;
    struct member_set alive = members_alive();
    int64_t deadline = clock_now() + 20 * NS_PER_MS;
    for (struct session *s = NULL; (s = session_after(s));) {
        uint32_t state = session_state_acquire(s), own = session_own_outbox(s);
        if ((state == SESSION_OPEN || state == SESSION_OFFERED) && session_held(s) && own < OUTBOXES_MAX &&
            members_other(&C->family->outbox[own].mapped, C->member, &alive))
            leave_session(s, deadline);
    }
}
