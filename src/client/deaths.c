/* deaths.c - a worker, a listener, an app has gone: what that means for our sessions with it. */
#include "client/deaths.h"
#include "client/events.h"
#include "client/family.h"
#include "client/link.h"
#include "client/offers.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/share.h"
#include "client/vigil.h"
#include "client/watch.h"
#include "shm/page.h"

static void walk_dead(struct roll_walk *w, uint32_t worker)
{
    for (struct session *s; (s = walk_next(w));) {
        outbox_handle peer = session_peer_outbox(s);
        if (session_state_acquire(s) == SESSION_FREE || outbox_worker(peer) != worker || !peer)
            continue;
        session_last_words(s);
        session_dead(s, w->flags);
        struct session_cache *c = session_cache_of(s);
        sleepers_wake(s);
        watches_ready(c);
    }
}

void sessions_of_worker_dead(uint32_t worker)
{
    peer_worker_dead(worker);
    fence_sc(); /* link_to looks the other way round */
    struct roll_walk w;
    while (peer_box_dead(worker, &w))
        walk_dead(&w, worker);
    walk_begin(&w, &C->unmet); /* a relative may have met it in our name */
    walk_dead(&w, worker);
}

void sessions_listener_gone(uint32_t listener)
{
    struct roll_walk w;
    bool drained = false;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        uint32_t state = session_state_acquire(s);
        if (session_listener(s) == listener && session_flags(s) & SF_CONNECTOR && !session_peer_outbox(s) &&
            holders_has(s, C->member) &&
            (state == SESSION_QUEUED || state == SESSION_OFFERED || state == SESSION_ZOMBIE)) {
            if (!drained) /* accepted at the last moment? */
                events_drain(session_app(s));
            drained = true;
            if (state == SESSION_QUEUED || session_flags(s) & SF_SHARED)
                (void)session_seek(s);
            if (!session_peer_outbox(s) && !offer_goes_on(s))
                session_break(s, state == SESSION_QUEUED ? BERTH_E_REFUSED : BERTH_E_RESET,
                              "its listener is gone");
        }
    }
    route_gone(listener);
}

/* The program should hear of it rather than wait for an acceptor whom we cannot be introduced to. */
void sessions_unreachable(uint32_t app)
{
    struct roll_walk w;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        if (session_state_acquire(s) == SESSION_OFFERED && session_app(s) == app && !session_peer_outbox(s) &&
            holders_has(s, C->member))
            session_break(s, BERTH_E_NO_MEMORY, "no descriptor is free");
    }
}

/* ---- where no daemon tells of deaths ---- */

#define DEAD_AT_ONCE 64u

struct dying {
    uint32_t worker[DEAD_AT_ONCE];
    uint32_t n;
    uint32_t unwatched; /* for want of a descriptor */
};

/* Of a worker that has forked only the daemon could tell whether anybody still holds its sessions: it counts
 * as living. */
static void is_over(struct peer_worker *w, struct dying *d)
{
    vigil_end(w->vigil);
    w->vigil = BERTH_E_UNSUPPORTED;
    if (!load_relaxed(&w->dead) && !page_forked(w->page))
        d->worker[d->n++] = w->id;
}

/* Whoever has no vigil gets one. C->lock is held, as below. */
static void watch_all(struct dying *d)
{
    for (struct peer_worker *w = C->workers; w; w = w->next) {
        if (w->vigil || load_relaxed(&w->dead) || w->pid <= 0)
            continue;
        int vigil = d->n < DEAD_AT_ONCE ? vigil_begin(w->pid) : BERTH_E_NO_MEMORY;
        w->vigil = vigil == BERTH_E_NO_MEMORY ? 0 : vigil;
        d->unwatched += vigil == BERTH_E_NO_MEMORY;
        if (vigil == 0)
            is_over(w, d);
    }
}

/* Whose vigils are over. Who finds no room in the list is told of in the next round. */
static void look_at_all(struct dying *d)
{
    struct peer_worker *of[VIGILS_AT_ONCE], *w = C->workers;
    int vigils[VIGILS_AT_ONCE];
    while (w) {
        uint32_t n = 0;
        for (; w && n < VIGILS_AT_ONCE; w = w->next) {
            if (w->vigil <= 0)
                continue;
            of[n] = w;
            vigils[n++] = w->vigil;
        }
        uint64_t over = vigils_over(vigils, n);
        for (uint32_t i = 0; i < n; i++) {
            if (over >> i & 1 && d->n < DEAD_AT_ONCE)
                is_over(of[i], d);
        }
    }
}

static void dead_alone(uint32_t worker)
{
    uint32_t app = NONE;
    plock_take(&C->lock);
    for (const struct peer_worker *w = C->workers; w; w = w->next) {
        if (w->id == worker)
            app = w->app;
    }
    plock_release(&C->lock);
    events_poll(true);
    sessions_of_worker_dead(worker);
    sessions_reoffer(app);
}

uint32_t peers_look_alive(void)
{
    struct dying d;
    do {
        d.n = d.unwatched = 0;
        plock_take(&C->lock);
        watch_all(&d);
        look_at_all(&d);
        plock_release(&C->lock);
        for (uint32_t i = 0; i < d.n; i++)
            dead_alone(d.worker[i]);
    } while (d.n == DEAD_AT_ONCE);
    return d.unwatched;
}

/* A relative who faces the acceptor in our stead may meet it yet: the peer knows the session by the worker
 * that made it. */
static bool others_may_meet(const struct session *s)
{
    uint32_t owner = session_owner(s);
    if (!(session_flags(s) & SF_SHARED) || worker_is_us(owner))
        return false;
    for (uint32_t i = 0, n = members_used(); i < n; i++) {
        if (i != C->member && member_worker(&C->family->member[i]) == owner && member_lives(i))
            return true;
    }
    return false;
}

void sessions_nobody_takes(void)
{
    struct roll_walk w;
    uint32_t app = NONE, outbox = NONE;
    bool met = true;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        uint32_t state = session_state_acquire(s);
        if (session_peer_outbox(s) || !(session_flags(s) & SF_CONNECTOR) || session_flags(s) & SF_RESET ||
            !holders_has(s, C->member) ||
            (state != SESSION_QUEUED && state != SESSION_OFFERED && state != SESSION_ZOMBIE))
            continue;
        if (session_app(s) != app || session_own_outbox(s) != outbox) {
            app = session_app(s);
            outbox = session_own_outbox(s);
            plock_take(&C->lock);
            met = peer_takes(app, outbox);
            plock_release(&C->lock);
            if (!met)
                events_drain(app); /* accepted at the last moment? */
        }
        if (met || others_may_meet(s))
            continue;
        if (session_flags(s) & SF_SHARED)
            (void)session_seek(s);
        if (!session_peer_outbox(s))
            session_break(s, BERTH_E_RESET, "nobody is left who could introduce its acceptor");
    }
}

void sessions_nobody_brings(void)
{
    struct roll_walk w;
    while (peer_box_last_told(&w)) {
        for (struct session *s; (s = walk_next(&w));) {
            if (session_state_acquire(s) != SESSION_FREE && bytes_lost(s, session_cache_of(s)))
                session_break(s, BERTH_E_PROTOCOL,
                              "the daemon ended before it brought the memory that its bytes are in");
        }
    }
}

void peers_forked(void)
{
    for (struct peer_worker *w = C->workers; w; w = w->next) {
        if (!w->vigil)
            continue;
        if (w->vigil > 0)
            vigil_forked(w->vigil);
        w->vigil = 0;
    }
}
