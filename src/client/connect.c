/* connect.c - the connector's way to a listener.
 *
 * What listens is in the daemon's directory, which costs no system call to read; a miss is the kernel's
 * business. The first connect to a listener tells the daemon of our outbox and asks for an introduction,
 * which brings the token pipe (a route). Every further connect is a slot and one write to the pipe, and obeys
 * the backlog by our own count.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/connect.h"
#include "client/control.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/hello.h"
#include "client/life.h"
#include "client/news.h"
#include "client/offers.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/ports.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/slots.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "session/directory.h"
#include "shm/slot.h"

struct plock introduce_lock; /* one at a time; nobody who knows his listener waits for it */

void connect_forked(void)
{
    introduce_lock.word = 0; /* a thread of the parent may have had it; it protects no data */
}

/* Ours that faces that app, and known to the daemon before anybody uses it: accept may, at any moment.
 * C->lock is held. */
static struct own_box *facing_box(uint32_t app, int *err)
{
    int fd = -1;
    struct own_box *box = outbox_find(app);
    *err = box ? 0 : C->daemon_lost ? BERTH_E_DAEMON_GONE : BERTH_E_NO_MEMORY;
    if (box || *err == BERTH_E_DAEMON_GONE || C->segment_size > C->outbox_limit ||
        !(box = outbox_create(app, &fd)))
        return box;
    struct ctl_outbox msg = {
        .h = {.type = CTL_OUTBOX, .len = sizeof msg}, .outbox = box->handle, .facing_app = app};
    *err = control_send(&msg, &fd, 1);
    (void)sys_close(fd);
    if (!*err)
        return box;
    outbox_bury(box);
    return NULL;
}

/* The daemon introduces us to the listener's app: it checks and remembers who we are, and hands out the token
 * pipe. It is asked under C->lock, and waited for without any that others may want: connects to listeners
 * that are known already go on meanwhile. WOULD_BLOCK: the outbox seemed to be without a use, and was given
 * up. */
static int introduce_held(const struct dir_entry *e)
{
    struct control_ask ask;
    struct ctl_introduced is;
    int token = -1, got = 1, err;
    fds_expect();
    plock_take(&C->lock);
    struct own_box *box = facing_box(e->app, &err);
    uint32_t box_index = box ? box->index : NONE;
    outbox_handle handle = box ? box->handle : 0;
    if (box) {
        struct ctl_introduce msg = {.h = {.type = CTL_INTRODUCE, .len = sizeof msg},
                                    .listener = e->listener,
                                    .epoch = e->epoch,
                                    .outbox = handle};
        err = control_ask(&ask, &msg, NULL, 0);
    }
    plock_release(&C->lock);
    if (!err)
        err = control_answer(&ask, &is, sizeof is, &token, &got);
    if (token >= 0)
        token = own_pipe_later(token);
    (void)fds_keep();
    struct route *r = err || got < 1 ? NULL : memory_get(sizeof *r);
    plock_take(&C->lock);
    if (r && box && outbox_by_index(box_index) == box && !box->buried && box->handle == handle) {
        *r = (struct route){.listener = is.listener,
                            .epoch = is.epoch,
                            .app = is.app,
                            .backlog = is.backlog,
                            .token_fd = token,
                            .box = box,
                            .next = C->routes};
        C->routes = r;
        r = NULL;
        token = -1;
    } else {
        if (!err)
            err = r ? BERTH_E_WOULD_BLOCK : BERTH_E_NO_MEMORY;
        store_relaxed(&C->own_loose, 1); /* the outbox may have been made for nothing */
    }
    plock_release(&C->lock);
    own_fd_close(token);
    memory_put(r, sizeof *r);
    return err;
}

static int introduce(const struct dir_entry *e)
{
    if (fds_keep() < FDS_FOR_A_MEETING) /* we could not meet who accepts */
        return BERTH_E_NO_MEMORY;
    plock_take(&introduce_lock);
    plock_take(&C->lock);
    bool known = route_find(e->listener) != NULL; /* another thread's work */
    plock_release(&C->lock);
    int err = known ? 0 : BERTH_E_WOULD_BLOCK;
    for (int i = 0; i < 10 && err == BERTH_E_WOULD_BLOCK; i++)
        err = introduce_held(e);
    if (err == BERTH_E_NO_MEMORY && memory_borrow(C->segment_size))
        err = introduce_held(e);
    plock_release(&introduce_lock);
    return err;
}

/* Who only connects and never waits must hear of deaths, too. */
static void housekeeping(void)
{
    static int64_t last;
    int64_t now = clock_now();
    if (now - load_relaxed(&last) < NS_PER_MS && !control_news())
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

/* The endpoints of a session to there, but for the port that it has none of yet: whether it needs one. */
static bool name_ends(struct session *s, const endpoint *dst, const endpoint *src)
{
    s->remote = *dst;
    if (endpoint_is_wildcard(dst->addr)) { /* the wildcard as a destination is loopback */
        memcpy(s->remote.addr,
               endpoint_is_v4(dst->addr) ? "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1"
                                         : "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1",
               16);
    }
    s->local = s->remote;
    bool needs_port = !src || !src->port;
    if (src && !endpoint_is_wildcard(src->addr)) {
        if (needs_port)
            memcpy(s->local.addr, src->addr, 16);
        else
            s->local = *src;
    }
    if (!needs_port)
        s->local.port = src->port;
    return needs_port;
}

/* Without a daemon, where nobody is left who could introduce us to who accepts. C->lock is held. */
static bool somebody_takes(const struct dir_entry *e)
{
    const struct route *r = route_find(e->listener);
    return peer_takes(e->app, r ? r->box->index : NONE);
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
    struct ports_ask ports;
    bool needs_port = name_ends(s, dst, src);
    plock_take(&C->lock);
    struct route *r = route_find(e.listener);
    if (r && r->epoch != e.epoch) {
        route_drop(r);
        r = NULL;
    }
    if (!r) {
        plock_release(&C->lock);
        /* one way to the daemon for both; who gets none here asks again below */
        bool asked = needs_port && ports_lease_begin(s->local.addr, &ports);
        err = introduce(&e);
        if (asked)
            ports_lease_end(&ports);
        plock_take(&C->lock);
        if (err)
            goto fail_route;
    }
    if (C->daemon_lost && !somebody_takes(&e)) {
        err = BERTH_E_DAEMON_GONE;
        goto fail_route;
    }
    if (needs_port) {
        while ((err = ports_take(s->local.addr, &s->remote, e.listener, &s->local.port)) ==
               BERTH_E_WOULD_BLOCK) {
            plock_release(&C->lock);
            err = ports_lease(s->local.addr);
            plock_take(&C->lock);
            if (err)
                break;
        }
        if (err)
            goto fail_route;
        s->port_leased = 1;
    }
    if (!(r = route_find(e.listener))) { /* it has gone meanwhile */
        err = BERTH_E_REFUSED;
        goto fail_slot;
    }
    r->backlog = e.backlog;
    r->kernel = (e.flags & DIR_KERNEL) != 0;
    r->common = (e.flags & DIR_COMMON) != 0;
    session_set_listener(s, e.listener);
    session_set_app(s, e.app);
    session_set_offer_seq(s, 1);
    session_add_flags(s, SF_CONNECTOR);
    uint32_t own_slot;
    if ((err = outbox_slot_alloc(r->box, &own_slot)) != 0)
        goto fail_slot;
    session_set_own_outbox(s, r->box->index);
    session_set_own_slot(s, own_slot);
    session_fill_slot(s, r->box);
    (void)session_cache_make(s);               /* before any other thread can come to it */
    slot_offer(outbox_slot(r->box, own_slot)); /* before the token, a system call */
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
    struct route *r = route_find(session_listener(s));
    int err = r ? 0 : BERTH_E_REFUSED;
    if (r && session_state(s) == SESSION_QUEUED) /* else another thread's look has done it */
        err = offer(s, r);
    if (C->daemon_lost)
        store_release(&C->alone,
                      true); /* perhaps lost since it was begun, and what was offered before has been ended */
    plock_release(&C->lock);
    if (err == BERTH_E_IN_PROGRESS)
        queued_put(s);
    else if (!err && load_acquire(&session_cache_of(s)->watches))
        watches_ready(session_cache_of(s));
    return err;
}

/* What is to be replayed cannot be by who has ended, nor by a child. */
#define SETTLE_NS (NS_PER_SEC / 2)

void client_offers_settle(void)
{
    int64_t end = clock_now() + SETTLE_NS;
    struct timespec a_moment = {0, 2 * NS_PER_MS};
    while (C->attached && load_relaxed(&C->reoffer_at) && offers_hasten() && clock_now() < end) {
        (void)sys_call(SYS_nanosleep, &a_moment, NULL, 0L, 0L);
        control_poll();
        sessions_offer_again();
    }
}

bool client_connect_stop(session_handle h)
{
    struct session *s = session_get(h);
    if (!s || client_connected(h) || session_state(s) != SESSION_QUEUED)
        return false;
    session_add_flags(s, SF_STOPPED);
    session_break(s, BERTH_E_RESET, "it was shut down before it was connected");
    return true;
}

bool client_connect_queued(session_handle h)
{
    struct session *s = session_get(h);
    return s && !client_connected(h) && session_state(s) == SESSION_QUEUED && !(session_flags(s) & SF_RESET);
}

bool client_queued(void)
{
    return load_acquire(&C->queued) != 0;
}

void client_connect_undo(session_handle h)
{
    struct session *s = session_get(h);
    if (s)
        session_break(s, BERTH_E_RESET, "it is not wanted any more");
    (void)session_finish(h, true);
}

int client_connect(const endpoint *dst, const endpoint *src, session_handle *out)
{
    int err = client_connect_begin(dst, src, out);
    if (err)
        return err;
    err = client_connect_offer(*out);
    if (err && err != BERTH_E_IN_PROGRESS)
        (void)client_close(*out); /* nobody else has had it */
    return err;
}

bool client_connected(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return false;
    if (session_state(s) == SESSION_QUEUED)
        offer_again(s);
    return session_state(s) == SESSION_OFFERED || session_state(s) == SESSION_OPEN;
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
        if (session_flags(s) & SF_RESET)
            return client_take_error(h);
        if (deadline != DEADLINE_NEVER && left <= 0)
            return BERTH_E_TIMED_OUT;
        int n = client_poll_since(mark, &item, 1, NULL, 0, left, NULL, NULL);
        if (n < 0)
            return n;
    }
}
