/* offers.c - tokens into the queues of listeners, and those that found no room or fell into a dead worker's
 * hands.
 *
 * A token that finds no room leaves its session QUEUED; it is offered again when anybody of this process
 * waits.
 *
 * When a worker of the listener's app dies it may have had tokens of ours in its hands, or another worker
 * that is merely slow has them. Two must not serve one connection. So what was on offer then, and is still
 * after a moment, is first withdrawn: its offer_seq moves, and who comes with the old one finds it stale. Who
 * had accepted before that has said so already, and is given another moment to be heard, whatever number it
 * has. Only then a token with the new number goes out, and whoever takes that (or was overtaken by the
 * withdrawal) touches no byte before it sees that the connector has chosen it (session_judge).
 *
 * Where programs outside berth may accept from the listener's kernel socket, each offer is in such a doubt
 * from its beginning, only longer: after REPLAY_NS it is withdrawn in the same way, and then not offered
 * again but replayed to the kernel (replay.c); at once if the listener has gone, for another program may go on
 * with its socket. So is what its connector cannot go on offering, since another program will have it
 * (client_offer_to_kernel). If the daemon says that it cannot be, it is offered again. One step of a doubt is
 * REOFFER_NS.
 */
#include <errno.h>

#include "base/clock.h"
#include "client/control.h"
#include "client/events.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/offers.h"
#include "client/outbox.h"
#include "client/replay.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/watch.h"
#include "shm/slot.h"

/* One step for each offer in doubt every REOFFER_NS. */
#define REOFFER_NS (50 * NS_PER_MS)
#define REPLAY_NS NS_PER_SEC

enum {
    DOUBT_NONE,
    DOUBT_NEW, /* since the last step: a moment more */
    DOUBT_OLD, /* to be withdrawn */
    DOUBT_WITHDRAWN,
    DOUBT_BROKEN, /* nobody will ever take it */
    DOUBT_WAITS,  /* so many steps more as it is beyond this */
    DOUBT_PHASE = 63,
    DOUBT_ASKED = 64,   /* a relay is to come for it */
    DOUBT_REPLAY = 128, /* it goes to the kernel in the end */
    DOUBT_BEGINS = DOUBT_REPLAY | (DOUBT_WAITS + REPLAY_NS / REOFFER_NS - 2),
};

static void step_soon(void)
{
    if (load_relaxed(&C->reoffer_at))
        return;
    store_release(&C->reoffer_at, clock_now() + REOFFER_NS);
    own_kick(); /* whoever sleeps without an end is to look after it */
}

static bool may_replay(const struct route *r)
{
    return r->common && !r->denied;
}

/* Puts the token into the listener's queue. 0, IN_PROGRESS (no room) or REFUSED. */
int offer(struct session *s, struct route *r)
{
    if (may_replay(r) && session_doubt(s) == DOUBT_NONE) {
        session_set_doubt(s, DOUBT_BEGINS);
        step_soon();
    }
    if (r->waiting > r->backlog)
        return BERTH_E_IN_PROGRESS;
    struct slot *slot = outbox_slot(r->box, s->own_slot);
    struct token t = {.magic = TOKEN_MAGIC,
                      .listener = s->listener,
                      .outbox = r->box->handle,
                      .slot = s->own_slot,
                      .generation = slot->generation,
                      .offer_seq = s->offer_seq,
                      .epoch = r->epoch};
    session_set_state(s, SESSION_OFFERED);
    long n = pipe_put(r->token_fd, &t, sizeof t);
    if (n == (long)sizeof t) {
        r->waiting++;
        return 0;
    }
    session_set_state(s, SESSION_QUEUED);
    return n == -EAGAIN || n == -EINTR ? BERTH_E_IN_PROGRESS : BERTH_E_REFUSED;
}

void queued_put(struct session *s)
{
    plock_take(&C->zombie_lock);
    s->next = C->queued;
    store_release(&C->queued, session_index(s) + 1);
    plock_release(&C->zombie_lock);
}

/* A session that found no room tries again. */
void offer_again(struct session *s)
{
    plock_take(&C->lock);
    struct route *r = route_find(s->listener);
    int err = BERTH_E_REFUSED;
    if (r ? r->box->index != s->own_outbox /* whoever forked us offers it */
          : session_doubt(s) & DOUBT_REPLAY /* it waits for the kernel's */) {
        plock_release(&C->lock);
        return;
    }
    if (r && session_state(s) == SESSION_QUEUED && !(session_flags(s) & SF_RESET)) /* not stopped */
        err = offer(s, r);
    plock_release(&C->lock);
    if (err == BERTH_E_REFUSED && session_state(s) == SESSION_QUEUED)
        session_break(s, BERTH_E_REFUSED, "its listener is gone");
    if (session_state(s) != SESSION_QUEUED || session_flags(s) & SF_RESET)
        queued_take(s);
    if (err == 0)
        watches_ready(session_cache_of(s));
}

/* Ours to offer, and nobody has accepted that we know of. The route may be gone where it is to be replayed.
 * C->lock is held. */
static bool unanswered(const struct session *s, struct route **r)
{
    uint32_t state = session_state_acquire(s);
    bool replay = session_doubt(s) & DOUBT_REPLAY;
    if ((state != SESSION_OFFERED && state != SESSION_ZOMBIE && (state != SESSION_QUEUED || !replay)) ||
        session_peer_outbox(s) || !(session_flags(s) & SF_CONNECTOR) || !holders_has(s, C->member))
        return false;
    *r = route_find(session_listener(s));
    return *r ? session_own_outbox(s) == (*r)->box->index : replay && worker_is_us(session_owner(s));
}

void sessions_reoffer(uint32_t app)
{
    bool any = false;
    plock_take(&C->lock);
    struct roll_walk w;
    struct route *r;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        if (session_app(s) != app || !unanswered(s, &r))
            continue;
        any = true;
        if (session_doubt(s) == DOUBT_NONE)
            session_set_doubt(s, DOUBT_NEW);
    }
    if (any && !load_relaxed(&C->reoffer_at))
        store_release(&C->reoffer_at, clock_now() + REOFFER_NS);
    plock_release(&C->lock);
}

/* With the new number. The session's locks are held, so that it is not linked at the same time. False: there
 * is no room. */
static bool offer_anew(struct session *s, struct route *r)
{
    uint32_t state = session_state(s), waiting = r->waiting;
    if (r->waiting)
        r->waiting--;
    int err = offer(s, r);
    if (err)
        r->waiting = waiting;
    if (err || state == SESSION_ZOMBIE)
        session_store_state(s, state);
    return !err;
}

/* Nobody has accepted what was withdrawn: what the doubt is then. */
static uint8_t replay_step(struct session *s, struct route *r, uint8_t doubt)
{
    uint8_t again = (uint8_t)(DOUBT_BEGINS | (doubt & DOUBT_ASKED));
    if (doubt & DOUBT_ASKED && replay_asked(s))
        return doubt;
    if (!r && doubt & DOUBT_ASKED)
        return DOUBT_BROKEN;
    int err = replay_ask(s);
    if (!err) {
        if (session_state(s) == SESSION_QUEUED) {
            session_set_state(s, SESSION_OFFERED); /* connected, then */
            if (r)
                r->waiting++;
        }
        return again | DOUBT_ASKED;
    }
    if (!r)
        return DOUBT_BROKEN;
    r->denied |= err == BERTH_E_PERMISSION;
    if (session_state(s) != SESSION_QUEUED && !offer_anew(s, r))
        return doubt;
    return may_replay(r) ? again : DOUBT_NONE;
}

/* The next step for an offer in doubt: what the doubt is then. C->lock is held. */
static uint8_t doubt_step(struct session *s, uint8_t doubt)
{
    uint8_t phase = doubt & DOUBT_PHASE, kind = doubt & (DOUBT_REPLAY | DOUBT_ASKED);
    if (!family_lock_try_now(&s->rx_lock))
        return doubt;
    uint8_t next = doubt;
    if (family_lock_try_now(&s->tx_lock)) {
        struct route *r;
        if (!unanswered(s, &r)) {
            next = DOUBT_NONE;
        } else if (phase > DOUBT_WAITS) {
            next = doubt - 1;
        } else if (phase == DOUBT_WAITS || phase == DOUBT_NEW) {
            next = kind | DOUBT_OLD;
        } else if (phase == DOUBT_OLD) {
            session_set_offer_seq(s, s->offer_seq + 1);
            info_set_offer_seq(outbox_info(outbox_by_index(s->own_outbox), s->own_slot), s->offer_seq);
            next = kind | DOUBT_WITHDRAWN;
        } else if (phase == DOUBT_WITHDRAWN && kind & DOUBT_REPLAY) {
            next = replay_step(s, r, doubt);
        } else if (phase == DOUBT_WITHDRAWN && offer_anew(s, r)) {
            next = may_replay(r) ? DOUBT_BEGINS : DOUBT_NONE;
        }
        half_unlock(&s->tx_lock);
    }
    half_unlock(&s->rx_lock);
    return next;
}

bool offer_goes_on(struct session *s)
{
    uint8_t doubt = session_doubt(s);
    if (!(doubt & DOUBT_REPLAY) || load_acquire(&C->daemon_lost))
        return false;
    if (!worker_is_us(session_owner(s)))
        return true; /* who has offered it sees to it */
    plock_take(&C->lock);
    if (!(doubt & DOUBT_ASKED) && doubt != (DOUBT_REPLAY | DOUBT_WITHDRAWN))
        session_set_doubt(s, DOUBT_REPLAY | DOUBT_OLD);
    step_soon();
    plock_release(&C->lock);
    return true;
}

/* What was said of those in doubt. */
static void hear_answers(void)
{
    uint32_t app = NONE;
    struct roll_walk w;
    hold_begin(); /* the walk is on our stack */
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        if (session_doubt(s) == DOUBT_NONE || session_app(s) == app)
            continue;
        app = session_app(s);
        events_drain(app);
    }
    hold_end();
}

static void break_them(void)
{
    struct roll_walk w;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        if (session_doubt(s) != DOUBT_BROKEN)
            continue;
        session_set_doubt(s, DOUBT_NONE);
        session_break(s, session_state(s) == SESSION_QUEUED ? BERTH_E_REFUSED : BERTH_E_RESET,
                      "its listener is gone");
    }
}

static void reoffer_now(void)
{
    hear_answers();
    plock_take(&C->lock);
    bool planned = exchange_sc(&C->reoffer_at, 0) != 0, later = false, broken = false;
    struct roll_walk w;
    struct route *r;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        if (!planned)
            continue;
        uint8_t doubt = session_doubt(s);
        if (doubt == DOUBT_NONE || !unanswered(s, &r))
            continue;
        doubt = doubt_step(s, doubt);
        session_set_doubt(s, doubt);
        later |= doubt != DOUBT_NONE;
        broken |= doubt == DOUBT_BROKEN;
    }
    if (later)
        store_release(&C->reoffer_at, clock_now() + REOFFER_NS);
    plock_release(&C->lock);
    if (broken)
        break_them();
}

/* Where it has said no the offer goes out anew; else its relay has time to come from now on. */
void offer_replayed(uint32_t seq, int status)
{
    bool broken = false;
    plock_take(&C->lock);
    struct session *s = replay_answered(seq);
    struct route *r;
    if (s && session_doubt(s) & DOUBT_ASKED && unanswered(s, &r)) {
        broken = status && !r;
        if (r && (status == BERTH_E_PERMISSION || status == BERTH_E_UNSUPPORTED))
            r->denied = true;
        session_set_doubt(s, !status ? DOUBT_BEGINS | DOUBT_ASKED : broken ? DOUBT_BROKEN : DOUBT_WITHDRAWN);
        step_soon();
    }
    plock_release(&C->lock);
    if (broken)
        break_them();
}

void sessions_offer_again(void)
{
    int64_t at = load_relaxed(&C->reoffer_at);
    if (at && clock_now() >= at)
        reoffer_now();
    uint32_t first = load_acquire(&C->queued);
    for (int i = 0; first && i < 64; i++) {
        struct session *s = session_at(first - 1);
        first = s->next;
        if (session_state(s) == SESSION_QUEUED)
            offer_again(s);
        else
            queued_take(s); /* it was replayed */
    }
}

bool offers_hasten(void)
{
    bool any = false;
    hear_answers();
    plock_take(&C->lock);
    struct roll_walk w;
    struct route *r;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        uint8_t doubt = session_doubt(s);
        if (!(doubt & DOUBT_REPLAY) || !unanswered(s, &r))
            continue;
        any = true;
        if (!(doubt & DOUBT_ASKED) && (doubt & DOUBT_PHASE) >= DOUBT_WAITS)
            session_set_doubt(s, DOUBT_REPLAY | DOUBT_OLD);
    }
    plock_release(&C->lock);
    return any;
}

void client_offer_to_kernel(session_handle h)
{
    struct session *s = session_get(h);
    struct route *r;
    plock_take(&C->lock);
    if (s && !C->nobody && !load_acquire(&C->daemon_lost) && !daemon_is_slow() &&
        session_state(s) == SESSION_OFFERED && unanswered(s, &r) && r && r->kernel && !r->denied &&
        !(session_doubt(s) & DOUBT_REPLAY)) {
        session_set_doubt(s, DOUBT_REPLAY | DOUBT_OLD);
        step_soon();
    }
    plock_release(&C->lock);
}
