/* connect.c - the connector's way to a listener.
 *
 * What listens is in the daemon's directory, which costs no system call to read; a miss is the kernel's business. The first
 * connect to a listener asks the daemon for an introduction: it registers our outbox and hands out the token pipe (a
 * route). Every further connect is a slot and one write to the pipe, and obeys the backlog by our own count.
 *
 * A token that finds no room leaves its session QUEUED; it is offered again when anybody of this process waits.
 *
 * When a worker of the listener's app dies it may have had tokens of ours in its hands, or another worker that is merely slow
 * has them. Two must not serve one connection. So what was on offer then, and is still after a moment, is first withdrawn: its
 * offer_seq moves, and who comes with the old one finds it stale. Who had accepted before that has said so already, and is given
 * another moment to be heard, whatever number it has. Only then a token with the new number goes out, and whoever takes that
 * (or was overtaken by the withdrawal) touches no byte before it sees that the connector has chosen it (session_judge).
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"

/* ---- routes ------------------------------------------------------------------------------------------------- */

static struct route *route_find(uint32_t listener)
{
    for (struct route *r = C->routes; r; r = r->next) {
        if (r->listener == listener)
            return r;
    }
    return NULL;
}

void route_waiting(struct session *s, int by)
{
    plock_take(&C->lock);
    struct route *r = route_find(s->listener);
    if (r)
        r->waiting += (uint32_t)by;
    plock_release(&C->lock);
}

static void route_drop(struct route *r)
{
    for (struct route **p = &C->routes; *p; p = &(*p)->next) {
        if (*p == r) {
            *p = r->next;
            break;
        }
    }
    own_fd_close(r->token_fd);
    ports_listener_gone(r->listener);
    memory_put(r, sizeof *r);
    store_relaxed(&C->own_loose, 1);
}

bool route_has_box(const struct own_box *box)
{
    for (const struct route *r = C->routes; r; r = r->next) {
        if (r->box == box)
            return true;
    }
    return false;
}

void route_gone(uint32_t listener)
{
    plock_take(&C->lock);
    struct route *r = route_find(listener);
    if (r)
        route_drop(r);
    plock_release(&C->lock);
}

void routes_drop_box(const struct own_box *box)
{
    for (struct route *r = C->routes, *next; r; r = next) {
        next = r->next;
        if (r->box == box)
            route_drop(r);
    }
}

void routes_forget(void)
{
    while (C->routes)
        route_drop(C->routes);
}

/* The daemon introduces us to the listener's app: it checks and remembers who we are, and hands out the token pipe. C->lock is
 * held. */
static int introduce(const struct dir_entry *e, struct route **out)
{
    int fd = -1, token = -1, got = 1, err;
    if (fds_keep() < FDS_FOR_A_MEETING) /* we could not meet who accepts */
        return BERTH_E_NO_MEMORY;
    struct own_box *box = outbox_find(e->app);
    bool made = !box;
    if (made && !(box = outbox_create(e->app, &fd)))
        return BERTH_E_NO_MEMORY;
    struct ctl_introduce msg = {.h = {.type = CTL_INTRODUCE, .len = sizeof msg},
                                .listener = e->listener,
                                .epoch = e->epoch,
                                .outbox = outbox_rec_of(box)->handle};
    struct ctl_introduced is;
    err = control_request(&msg, &fd, made ? 1 : 0, &is, sizeof is, &token, &got);
    if (fd >= 0)
        (void)sys_close(fd);
    if (token >= 0)
        token = own_pipe(token);
    struct route *r = err || got < 1 ? NULL : memory_get(sizeof *r);
    if (!r) {
        own_fd_close(token);
        if (made)
            outbox_bury(box);
        return err ? err : BERTH_E_NO_MEMORY;
    }
    r->listener = is.listener;
    r->epoch = is.epoch;
    r->app = is.app;
    r->backlog = is.backlog;
    r->token_fd = token;
    r->box = box;
    r->next = C->routes;
    C->routes = r;
    *out = r;
    return 0;
}

/* ---- offers ---- */

/* Puts the token into the listener's queue. 0, IN_PROGRESS (no room) or REFUSED. */
static int offer(struct session *s, struct route *r)
{
    if (r->waiting > r->backlog)
        return BERTH_E_IN_PROGRESS;
    struct slot *slot = outbox_slot(r->box, s->own_slot);
    struct token t = {.magic = TOKEN_MAGIC,
                      .listener = s->listener,
                      .outbox = outbox_rec_of(r->box)->handle,
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

/* ---- sessions whose token found no room ---- */

static void queued_put(struct session *s)
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
    if (r && r->box->index != s->own_outbox) { /* whoever forked us offers it */
        plock_release(&C->lock);
        return;
    }
    if (r && load_relaxed(&s->state) == SESSION_QUEUED && !(load_relaxed(&s->flags) & SF_RESET)) /* not stopped */
        err = offer(s, r);
    plock_release(&C->lock);
    if (err == BERTH_E_REFUSED && load_relaxed(&s->state) == SESSION_QUEUED)
        session_break(s, BERTH_E_REFUSED, "its listener is gone");
    if (load_relaxed(&s->state) != SESSION_QUEUED || load_relaxed(&s->flags) & SF_RESET)
        queued_take(s);
    if (err == 0)
        watches_ready(session_cache_of(s));
}

/* The connector's part when a worker of `app` died: one step for each offer in doubt every REOFFER_NS. */
#define REOFFER_NS (50 * NS_PER_MS)

enum {
    DOUBT_NONE,
    DOUBT_NEW, /* since the last step: a moment more */
    DOUBT_OLD, /* to be withdrawn */
    DOUBT_WITHDRAWN,
};

/* Ours to offer, and nobody has accepted that we know of. C->lock is held. */
static struct route *unanswered(const struct session *s)
{
    uint32_t state = load_acquire(&s->state);
    if ((state != SESSION_OFFERED && state != SESSION_ZOMBIE) || load_relaxed(&s->peer_outbox) ||
        !(load_relaxed(&s->flags) & SF_CONNECTOR) || !members_has(&s->holders, C->member))
        return NULL;
    struct route *r = route_find(load_relaxed(&s->listener));
    return r && load_relaxed(&s->own_outbox) == r->box->index ? r : NULL;
}

void sessions_reoffer(uint32_t app)
{
    bool any = false;
    plock_take(&C->lock);
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (load_relaxed(&s->app) != app || !unanswered(s))
            continue;
        any = true;
        if (load_relaxed(&s->doubt) == DOUBT_NONE)
            store_relaxed(&s->doubt, (uint8_t)DOUBT_NEW);
    }
    if (any && !load_relaxed(&C->reoffer_at))
        store_release(&C->reoffer_at, clock_now() + REOFFER_NS);
    plock_release(&C->lock);
}

/* With the new number. The session's locks are held, so that it is not linked at the same time. False: there is no room. */
static bool offer_anew(struct session *s, struct route *r)
{
    uint32_t state = load_relaxed(&s->state), waiting = r->waiting;
    if (r->waiting)
        r->waiting--;
    int err = offer(s, r);
    if (err)
        r->waiting = waiting;
    if (err || state == SESSION_ZOMBIE)
        store_release(&s->state, state);
    return !err;
}

/* The next step for an offer in doubt: what the doubt is then. C->lock is held. */
static uint8_t doubt_step(struct session *s, uint8_t doubt)
{
    if (!family_lock_try(&s->rx_lock, berth_lock_id))
        return doubt;
    uint8_t next = doubt;
    if (family_lock_try(&s->tx_lock, berth_lock_id)) {
        struct route *r = unanswered(s);
        next = DOUBT_NONE;
        if (r && doubt == DOUBT_NEW) {
            next = DOUBT_OLD;
        } else if (r && doubt == DOUBT_OLD) {
            store_relaxed(&s->offer_seq, s->offer_seq + 1);
            store_sc(&outbox_info(r->box, s->own_slot)->offer_seq, s->offer_seq);
            next = DOUBT_WITHDRAWN;
        } else if (r && !offer_anew(s, r)) {
            next = DOUBT_WITHDRAWN;
        }
        half_unlock(&s->tx_lock);
    }
    half_unlock(&s->rx_lock);
    return next;
}

static void reoffer_now(void)
{
    events_poll(true);
    plock_take(&C->lock);
    bool planned = exchange_sc(&C->reoffer_at, 0) != 0, later = false;
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); planned && i < n; i++) {
        struct session *s = session_at(i);
        uint8_t doubt = load_relaxed(&s->doubt);
        if (doubt == DOUBT_NONE || !unanswered(s))
            continue;
        doubt = doubt_step(s, doubt);
        store_relaxed(&s->doubt, doubt);
        later |= doubt != DOUBT_NONE;
    }
    if (later)
        store_release(&C->reoffer_at, clock_now() + REOFFER_NS);
    plock_release(&C->lock);
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
        if (load_relaxed(&s->state) == SESSION_QUEUED)
            offer_again(s);
    }
}

/* ---- connect ------------------------------------------------------------------------------------------------ */

/* Who only connects and never waits must hear of deaths, too. */
static void housekeeping(void)
{
    static int64_t last;
    int64_t now = clock_now();
    if (now - load_relaxed(&last) < NS_PER_MS)
        return;
    store_relaxed(&last, now);
    control_poll();
    zombies_reap(4);
}

bool client_has_route(const endpoint *dst)
{
    struct dir_entry e;
    if (!C->attached || !C->dir)
        return false;
    if (directory_lookup(C->dir, dst, C->spread, &e) && e.uid == C->uid)
        return true;
    housekeeping();
    return false;
}

int client_connect_begin(const endpoint *dst, const endpoint *src, session_handle *out)
{
    if (!C->attached)
        return BERTH_E_NOT_ATTACHED;
    int err = fork_child_ready();
    if (err)
        return err;
    struct dir_entry e;
    if (!C->dir || !directory_lookup(C->dir, dst, fetch_add_sc(&C->spread, 1u), &e)) {
        housekeeping();
        return BERTH_E_NO_ROUTE;
    }
    if (load_relaxed(&C->spread) % 64 == 0)
        housekeeping();
    if (e.uid != C->uid)
        return BERTH_E_PERMISSION;
    zombies_reap(4);
    struct session *s = session_alloc();
    if (!s)
        return BERTH_E_LIMIT;
    plock_take(&C->lock);
    struct route *r = route_find(e.listener);
    if (r && r->epoch != e.epoch) {
        route_drop(r);
        r = NULL;
    }
    if (!r && (err = introduce(&e, &r)) != 0)
        goto fail_route;
    r->backlog = e.backlog;
    s->remote = *dst;
    if (endpoint_is_wildcard(dst->addr)) { /* the wildcard as a destination is loopback */
        memcpy(s->remote.addr,
               endpoint_is_v4(dst->addr) ? "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1"
                                         : "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1",
               16);
    }
    s->local = s->remote;
    if (src && src->port) {
        if (!endpoint_is_wildcard(src->addr))
            s->local = *src;
        s->local.port = src->port;
    } else {
        if (src && !endpoint_is_wildcard(src->addr))
            memcpy(s->local.addr, src->addr, 16);
        if ((err = ports_take(s->local.addr, &s->remote, e.listener, &s->local.port)) != 0)
            goto fail_route;
        s->port_leased = 1;
    }
    store_relaxed(&s->listener, e.listener);
    store_relaxed(&s->app, e.app);
    store_relaxed(&s->offer_seq, 1);
    fetch_or_sc(&s->flags, SF_CONNECTOR);
    uint32_t own_slot;
    if ((err = outbox_slot_alloc(r->box, &own_slot)) != 0)
        goto fail_slot;
    store_relaxed(&s->own_outbox, r->box->index);
    store_relaxed(&s->own_slot, own_slot);
    session_fill_slot(s, r->box);
    (void)session_cache_make(s); /* before any other thread can come to it */
    store_release(&outbox_slot(r->box, own_slot)->state,
                  (uint8_t)SLOT_OFFERED); /* before the token, a system call */
    session_set_state(s, SESSION_QUEUED);
    plock_release(&C->lock);
    *out = session_handle_of(s);
    return 0;

fail_slot:
    plock_release(&C->lock);
    ports_release(s);
    session_free(s);
    return err;
fail_route:
    plock_release(&C->lock);
    session_free(s);
    return err;
}

int client_connect_offer(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    plock_take(&C->lock);
    struct route *r = route_find(load_relaxed(&s->listener));
    int err = r ? 0 : BERTH_E_REFUSED;
    if (r && load_relaxed(&s->state) == SESSION_QUEUED) /* else another thread's look has done it */
        err = offer(s, r);
    plock_release(&C->lock);
    if (err == BERTH_E_IN_PROGRESS)
        queued_put(s);
    else if (!err && load_acquire(&session_cache_of(s)->watches))
        watches_ready(session_cache_of(s));
    return err;
}

bool client_connect_stop(session_handle h)
{
    struct session *s = session_get(h);
    if (!s || client_connected(h) || load_relaxed(&s->state) != SESSION_QUEUED)
        return false;
    session_break(s, BERTH_E_RESET, "it was shut down before it was connected");
    return true;
}

int client_connect(const endpoint *dst, const endpoint *src, session_handle *out)
{
    int err = client_connect_begin(dst, src, out);
    if (err)
        return err;
    err = client_connect_offer(*out);
    if (err && err != BERTH_E_IN_PROGRESS)
        (void)client_close(*out);
    return err;
}

bool client_connected(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return false;
    if (load_relaxed(&s->state) == SESSION_QUEUED)
        offer_again(s);
    return load_relaxed(&s->state) == SESSION_OFFERED || load_relaxed(&s->state) == SESSION_OPEN;
}

int client_connect_wait(session_handle h, int64_t deadline, const struct sleep_mark *mark)
{
    for (;;) {
        struct client_poll_item item = {.handle = h, .events = EPOLLOUT};
        int64_t left = deadline == DEADLINE_NEVER ? -1 : deadline - clock_now();
        struct session *s = session_get(h);
        if (!s)
            return BERTH_E_BAD_HANDLE;
        if (client_connected(h))
            return 0;
        if (load_relaxed(&s->flags) & SF_RESET)
            return client_take_error(h);
        if (deadline != DEADLINE_NEVER && left <= 0)
            return BERTH_E_TIMED_OUT;
        int n = client_poll_since(mark, &item, 1, NULL, 0, left, NULL);
        if (n < 0)
            return n;
    }
}
