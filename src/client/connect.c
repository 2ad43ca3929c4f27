/* connect.c - the connector's way to a listener.
 *
 * What listens is in the daemon's directory, which costs no system call to read; a miss is the kernel's business. The first
 * connect to a listener asks the daemon for an introduction: it registers our outbox and hands out the token pipe (a
 * route). Every further connect is a slot and one write to the pipe, and obeys the backlog by our own count.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/hello.h"
#include "client/news.h"
#include "client/offers.h"
#include "client/outbox.h"
#include "client/ports.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/slots.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "session/directory.h"
#include "shm/slot.h"

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
