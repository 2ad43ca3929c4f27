/* life.c - how a session ends: shut down, closed, aborted, left behind. */
#include <string.h>

#include "base/clock.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/life.h"
#include "client/move.h"
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

/* Whoever holds it and sleeps for a half that is over: threads of ours on the peer's words, event waits,
 * other processes. */
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
    if (!err && session_flags(s) & SF_SHARED)
        session_peer_anew(s, c);
    if (!err && session_over(s, c))
        err = BERTH_E_CLOSED;
    /* SHUT_RD is ours alone: as on Linux the peer may go on writing, and who asks is given it. Until both
     * halves are over: then the peer hears that its bytes would come to nothing. */
    uint32_t over = (how & BERTH_SHUT_RD ? SF_SHUT_RD : 0) | (how & BERTH_SHUT_WR ? SF_SHUT_WR : 0);
    if (!err &&
        ((session_add_flags(s, over) | over) & (SF_SHUT_RD | SF_SHUT_WR)) == (SF_SHUT_RD | SF_SHUT_WR))
        shut_halves(s, c, BERTH_SHUT_RD | BERTH_SHUT_WR);
    else if (!err && how & BERTH_SHUT_WR)
        shut_halves(s, c, BERTH_SHUT_WR);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if ((!err || err == BERTH_E_CLOSED) && load_acquire(&c->watches))
        watches_renew(c,
                      false); /* an edge, whatever it has changed (the end of the kernel's inet_shutdown) */
    if (!err)
        own_sleepers_wake(s, c);
    return err;
}

/* For the peer and for all handles. Both locks are held. */
static void end_session(struct session *s, struct session_cache *c, bool abort)
{
    if (session_flags(s) & SF_SHARED)
        session_peer_anew(s, c);
    bool unread = load_acquire(&c->peer) && count_offset(slot_tail(c->peer)) != s->head;
    end_halves(s, c, BERTH_SHUT_RD | BERTH_SHUT_WR, abort || unread);
    read_span_end(s);
    write_span_end(s);
    session_set_state(s, SESSION_ZOMBIE);
    slot_set_state(c->own, SLOT_CLOSED);
    session_cache_keep(s, c);
}

/* Others go on with it. All that is ours goes before they can hear that we do not hold it any more: from then
 * on the record may become another session's at any moment. Both locks and zombie_lock are held. */
static void let_others_go_on(struct session *s, struct session_cache *c)
{
    watches_drop(&c->watches, NULL);
    sessions_list_take(&C->unconfirmed, s);
    sessions_list_take(&C->queued, s);
    roll_leave(s);
    if (c->box)
        fetch_add_sc(&c->box->sessions, ~0u);
    store_release(&c->generation, 0u);
    (void)holders_drop(s, C->member);
}

/* Threads of ours that are blocked on what we have closed hear that it is gone; mostly there are none. Who is
 * counted later finds the flags changed. */
void closed_wake(struct session *s, struct session_cache *c)
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
    if (mine && shared)
        member_closing(&C->family->member[C->member]);
    bool go_on = mine && shared && session_others_live(s);
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
    if (session_moving(s) & MOVING_HERE) { /* the daemon need not keep it in mind any longer */
        struct ctl_place here = session_place(s, c);
        session_is_nowhere(&here);
    }
    session_hold_alone(s); /* until the slot is given back: should we die, somebody else has to do it */
    watches_drop(&c->watches,
                 shared ? NULL : load_acquire(&c->peer)); /* of a shared one the slot may be another's */
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

static bool opens_span(const struct session *s)
{
    return span_holder(spanner_is(&s->read_spanner)) == C->member + 1 ||
           span_holder(spanner_is(&s->write_spanner)) == C->member + 1;
}

/* Others of the family that close it hold both locks over their look at its holders and what follows from it:
 * for ours one is enough. */
static bool others_go_on(struct session *s, uint32_t *known)
{
    if (!__libc_single_threaded || opens_span(s) || !family_lock_try(&s->rx_lock, berth_lock_id))
        return false;
    bool go_on = session_held(s) && session_others_lived(s, known);
    if (go_on)
        (void)holders_drop(s, C->member);
    half_unlock(&s->rx_lock);
    return go_on;
}

static void leave_session(struct session *s, int64_t deadline, uint32_t *known)
{
    if (others_go_on(s, known))
        return;
    struct session_cache *c = session_cache_of(s);
    if (!session_lock_until(s, deadline))
        return;
    uint32_t state = s->state;
    if ((state == SESSION_OPEN || state == SESSION_OFFERED) && session_held(s) && c->own) {
        if (load_acquire(&berth_family_quiet))
            family_member_acts();
        bool last = !session_others_lived(s, known);
        if (last && session_flags(s) & SF_SHARED)
            session_peer_anew(s, c);
        bool unmet = last && session_peer_outbox(s) && !load_acquire(&c->peer);
        if (last &&
            !unmet) { /* else the peer went to where we cannot tell it: who buries us ends it, and can */
            session_hold_alone(s); /* a relative gives the slot back when it hears of our death */
            end_session(s, c, false);
        } else if (
            !last) { /* whoever closes it after us shall not wait for word of our death before that ends it */
            spans_end(s, C->member);
            (void)holders_drop(s, C->member);
        }
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

/* The daemon tells peers of our death where all that lies in an outbox ends with us. Where a relative has the
 * outbox too, it is the relative's to end what nobody holds any more, and it may be asleep for long. */
void client_leave(void)
{
    if (!C->attached || !berth_family_shared || family_member_ends_quiet())
        return;
    member_closing(&C->family->member[C->member]);
    struct member_set alive = members_alive();
    int64_t deadline = clock_now() + 20 * NS_PER_MS;
    uint32_t known = NONE;
    for (struct session *s = NULL; (s = session_after(s));) {
        uint32_t state = session_state_acquire(s), own = session_own_outbox(s);
        if ((state == SESSION_OPEN || state == SESSION_OFFERED) && session_held(s) && own < OUTBOXES_MAX &&
            members_other(&C->family->outbox[own].mapped, C->member, &alive))
            leave_session(s, deadline, &known);
    }
}
