/* deaths.c - a worker, a listener, an app has gone: what that means for our sessions with it. */
#include <errno.h>
#include <poll.h>

#include "base/clock.h"
#include "base/sys.h"
#include "client/deaths.h"
#include "client/events.h"
#include "client/family.h"
#include "client/link.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/share.h"
#include "client/watch.h"

#define ALIVE_NS (100 * NS_PER_MS)

static void walk_dead(struct roll_walk *w, uint32_t worker)
{
    for (struct session *s; (s = walk_next(w));) {
        outbox_handle peer = load_relaxed(&s->peer_outbox);
        if (load_acquire(&s->state) == SESSION_FREE || outbox_worker(peer) != worker || !peer)
            continue;
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
        uint32_t state = load_acquire(&s->state);
        if (load_relaxed(&s->listener) == listener && load_relaxed(&s->flags) & SF_CONNECTOR &&
            !load_relaxed(&s->peer_outbox) && members_has(&s->holders, C->member) &&
            (state == SESSION_QUEUED || state == SESSION_OFFERED || state == SESSION_ZOMBIE)) {
            if (!drained) /* accepted at the last moment? */
                events_drain(load_relaxed(&s->app));
            drained = true;
            if (state == SESSION_QUEUED || load_relaxed(&s->flags) & SF_SHARED)
                (void)session_seek(s);
            if (!load_relaxed(&s->peer_outbox))
                session_break(s, state == SESSION_QUEUED ? BERTH_E_REFUSED : BERTH_E_RESET, "its listener is gone");
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
        if (load_acquire(&s->state) == SESSION_OFFERED && load_relaxed(&s->app) == app &&
            !load_relaxed(&s->peer_outbox) && members_has(&s->holders, C->member))
            session_break(s, BERTH_E_NO_MEMORY, "no descriptor is free");
    }
}

/* ---- where no daemon tells of deaths ---- */

/* Of a worker that has forked only the daemon could tell whether anybody still holds its sessions: it counts as living. */
static bool has_died(const struct peer_worker *w)
{
    if (load_relaxed(&w->dead) || w->pid <= 0 || load_relaxed(&w->page->forked))
        return false;
    long fd = sys_call(SYS_pidfd_open, (long)w->pid, 0L, 0, 0);
    if (fd < 0)
        return fd == -ESRCH && !load_acquire(&w->page->forked); /* at the last moment? */
    struct pollfd p = {.fd = (int)fd, .events = POLLIN};
    struct timespec ts = {0};
    long n = sys_ppoll(&p, 1, &ts, NULL);
    (void)sys_close(fd);
    return n > 0 && !load_acquire(&w->page->forked);
}

void peers_look_alive(void)
{
    static int64_t looked;
    int64_t now = clock_now(), last = load_relaxed(&looked);
    if (now - last < ALIVE_NS || !compare_exchange_sc(&looked, &last, now))
        return;
    uint32_t dead[64], n = 0;
    plock_take(&C->lock);
    for (struct peer_worker *w = C->workers; w && n < 64; w = w->next) {
        if (has_died(w))
            dead[n++] = w->id;
    }
    plock_release(&C->lock);
    for (uint32_t i = 0; i < n; i++) {
        events_poll(true);
        sessions_of_worker_dead(dead[i]);
    }
}
