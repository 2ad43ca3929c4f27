/* listener.c - LISTEN, UNLISTEN, SHUT, BACKLOG, INTRODUCE.
 *
 * Theory of operation
 *
 * A listener is a line in the directory of its space and the write end of a pipe, its accept queue, which
 * INTRODUCE hands to connectors. Its epoch is that of the space at the time it was made; a grant names it, so
 * that a grant for a listener that has gone is worth nothing even if its endpoint is taken again.
 *
 * One kernel socket may be in several programs that do not know of each other: it was passed, or came over
 * exec. Each connection is to be served by whoever accepts, so it may be offered only where one of them alone
 * does. Who lets a socket go has its listener hidden (HIDE): it leaves the directory, and connects find the
 * kernel's. Who has got one listens here when he accepts; the cookie of the socket tells what he means. If
 * another has it, too, he is refused, the other one is hidden, and it is remembered that he accepts from that
 * socket (a claim): as long as there are two, it is the kernel's.
 *
 * Conflicts. Where a kernel socket holds the port too (CTL_LISTEN_KERNEL) the kernel has decided, and only
 * the very same endpoint of another app is refused. Else the rules are those of Linux for listening sockets:
 * the same port conflicts where the addresses are equal or one is a wildcard that covers the other; `::`
 * covers IPv4 unless it is v6-only. REUSEPORT on both, and one user, lifts it. Workers of one app that each
 * attached may each listen on one endpoint; connects are spread over them.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "daemon/registry.h"
#include "session/directory.h"

#define HIDES_MAX 4096u /* each has a descriptor */
#define CLAIMS_MAX 4096u

/* ---- who accepts from a kernel socket that several have ---- */

struct claim {
    struct list link; /* daemon.claims */
    uint64_t socket;
    const struct worker *worker;
};

static bool claimed_by_another(const struct daemon *d, uint64_t socket, const struct worker *w)
{
    list_for_each(&d->claims, it, after)
    {
        const struct claim *c = container_of(it, struct claim, link);
        if (c->socket == socket && c->worker != w)
            return true;
    }
    return false;
}

/* Without memory or room for it he is refused this time, and may have it to himself the next. */
static void claim(struct daemon *d, uint64_t socket, const struct worker *w)
{
    list_for_each(&d->claims, it, after)
    {
        const struct claim *c = container_of(it, struct claim, link);
        if (c->socket == socket && c->worker == w)
            return;
    }
    struct claim *c = d->claim_count < CLAIMS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return;
    *c = (struct claim){.socket = socket, .worker = w};
    list_append(&d->claims, &c->link);
    d->claim_count++;
}

void claims_drop(struct daemon *d, const struct worker *w)
{
    list_for_each(&d->claims, it, after)
    {
        struct claim *c = container_of(it, struct claim, link);
        if (w && c->worker != w)
            continue;
        list_unlink(&c->link);
        d->claim_count--;
        free(c);
    }
}

/* ---- conflicts ---- */

/* May a connect to an IPv4, or to an IPv6 address find this one? */
static bool covers_v4(const struct dir_entry *e)
{
    return endpoint_is_v4(e->addr) || (endpoint_is_wildcard(e->addr) && !(e->flags & DIR_V6ONLY));
}

static bool covers_v6(const struct dir_entry *e)
{
    return !endpoint_is_v4(e->addr);
}

static bool overlap(const struct dir_entry *a, const struct dir_entry *b)
{
    if (!memcmp(a->addr, b->addr, 16))
        return true;
    if (!endpoint_is_wildcard(a->addr) && !endpoint_is_wildcard(b->addr))
        return false;
    return (covers_v4(a) && covers_v4(b)) || (covers_v6(a) && covers_v6(b));
}

static bool conflict(const struct worker *w, const struct dir_entry *want, uint32_t flags,
                     const struct listener *l)
{
    if (l->entry.port != want->port || l->entry.proto != want->proto)
        return false;
    if (flags & l->flags & CTL_LISTEN_REUSEPORT && l->app->uid == w->uid)
        return false;
    if (flags & CTL_LISTEN_KERNEL)
        return l->app != w->app && !memcmp(l->entry.addr, want->addr, 16);
    if (l->app == w->app && !ptrset_has(&l->holders, w) && !memcmp(l->entry.addr, want->addr, 16))
        return false;
    return overlap(want, &l->entry);
}

static int check_address(const struct worker *w, const struct ctl_listen *m, struct dir_entry *e)
{
    if (m->proto != PROTO_TCP ||
        m->flags & ~(CTL_LISTEN_V6ONLY | CTL_LISTEN_REUSEPORT | CTL_LISTEN_KERNEL | CTL_LISTEN_COMMON))
        return BERTH_E_INVALID;
    if (!endpoint_is_wildcard(m->addr) && !space_is_local(w->app->space, m->addr))
        return BERTH_E_ADDRESS;
    memcpy(e->addr, m->addr, 16);
    e->port = m->port;
    e->proto = m->proto;
    e->flags =
        (m->flags & CTL_LISTEN_V6ONLY ? DIR_V6ONLY : 0) | (endpoint_is_wildcard(m->addr) ? DIR_WILDCARD : 0) |
        (m->flags & CTL_LISTEN_KERNEL ? DIR_KERNEL : 0) | (m->flags & CTL_LISTEN_COMMON ? DIR_COMMON : 0);
    e->app = w->app_id;
    e->uid = w->uid;
    e->backlog = m->backlog;
    return 0;
}

static int check_conflicts(struct daemon *d, const struct worker *w, struct dir_entry *e, uint32_t flags)
{
    const struct space *space = w->app->space;
    if (!e->port)
        return flags & CTL_LISTEN_KERNEL ? BERTH_E_INVALID : ports_find_free(d, space, e->addr, &e->port);
    list_for_each(&space->listeners, it, after)
    {
        if (conflict(w, e, flags, container_of(it, struct listener, link)))
            return BERTH_E_ADDRESS_IN_USE;
    }
    return 0;
}

static uint32_t new_listener_id(struct daemon *d)
{
    do {
        d->last_listener++;
    } while (!d->last_listener || d->last_listener == UINT32_MAX ||
             idmap_get(&d->listener_by_id, d->last_listener));
    return d->last_listener;
}

static int listener_create(struct daemon *d, struct worker *w, const struct ctl_listen *m,
                           const struct dir_entry *entry, int fd, struct listener **out)
{
    struct space *space = w->app->space;
    struct listener *l = calloc(1, sizeof *l);
    if (!l)
        return BERTH_E_NO_MEMORY;
    l->id = new_listener_id(d);
    l->app = w->app;
    l->flags = m->flags;
    l->socket = m->socket;
    list_init(&l->hides);
    l->cookie = m->cookie;
    l->asked = m->h.seq;
    l->entry = *entry;
    l->entry.listener = l->id;
    l->entry.epoch = ++space->epoch;
    int err = BERTH_E_NO_MEMORY;
    if (ptrset_add(&l->holders, w))
        goto no_holder;
    if (ptrset_add(&w->listeners, l))
        goto no_worker;
    if (idmap_put(&d->listener_by_id, l->id, l))
        goto no_map;
    err = directory_add(space->directory, &l->entry);
    if (err)
        goto no_entry;
    l->pipe_fd = fd;
    list_append(&space->listeners, &l->link);
    w->app->listener_count++;
    *out = l;
    return 0;

no_entry:
    idmap_remove(&d->listener_by_id, l->id);
no_map:
    (void)ptrset_remove(&w->listeners, l);
no_worker:
    ptrset_free(&l->holders);
no_holder:
    free(l);
    return err;
}

/* Everybody with an outbox facing the listener's app may have offers in its queue. */
static void tell_gone(struct daemon *d, const struct listener *l)
{
    struct ctl_listener msg = {.h = {.type = CTL_LISTENER_GONE, .len = sizeof msg}, .listener = l->id};
    d->notices++;
    list_for_each(&l->app->facing, it, after)
    {
        const struct outbox *o = container_of(it, struct outbox, link);
        for (uint32_t i = 0; i < o->holders.count; i++) {
            struct worker *w = o->holders.item[i];
            if (!w->conn || w->notice == d->notices)
                continue;
            w->notice = d->notices;
            conn_send(d, w->conn, &msg, sizeof msg, NULL, 0);
        }
    }
}

/* ---- hidden ---- */

struct hide {
    struct watch watch; /* a pidfd */
    struct list link;
    struct listener *listener;
};

static bool listener_hidden(const struct listener *l)
{
    return l->hidden || !list_empty(&l->hides);
}

static void hide_free(struct daemon *d, struct hide *h)
{
    watch_remove(d, &h->watch);
    close(h->watch.fd);
    list_unlink(&h->link);
    d->hides--;
    free(h);
}

static void hide_over(struct daemon *d, struct watch *w, uint32_t events)
{
    struct hide *h = container_of(w, struct hide, watch);
    struct listener *l = h->listener;
    hide_free(d, h);
    l->entry.flags |= DIR_COMMON; /* what that process has started may have the socket still */
    if (listener_hidden(l))
        return;
    int err = directory_add(l->app->space->directory, &l->entry);
    l->hidden = err != 0; /* no room: it stays with the kernel */
}

static int hide_add(struct daemon *d, struct listener *l, int *fd)
{
    struct hide *h = d->hides < HIDES_MAX ? calloc(1, sizeof *h) : NULL;
    if (!h)
        return BERTH_E_LIMIT;
    h->watch.fd = *fd;
    h->watch.ready = hide_over;
    h->listener = l;
    if (watch_add(d, &h->watch, EPOLLIN)) {
        free(h);
        return BERTH_E_INVALID; /* nothing that can be waited for */
    }
    *fd = -1;
    list_append(&l->hides, &h->link);
    d->hides++;
    return 0;
}

/* Until the process of that pidfd has ended. For good, where that cannot be waited for: slower, and right. */
void listener_hide(struct daemon *d, struct listener *l, int *pidfd)
{
    bool before = listener_hidden(l);
    if (!pidfd || hide_add(d, l, pidfd))
        l->hidden = true;
    if (before)
        return;
    l->app->space->epoch++;
    (void)directory_remove(l->app->space->directory, &l->entry);
}

/* Nobody else has it, as far as is known; else both are with the kernel from now on. */
static bool socket_alone(struct daemon *d, uint64_t socket, const struct worker *w)
{
    bool alone = !claimed_by_another(d, socket, w);
    list_for_each(&w->app->space->listeners, it, after)
    {
        struct listener *l = container_of(it, struct listener, link);
        if (l->socket != socket || l->app->uid != w->uid || ptrset_has(&l->holders, w))
            continue;
        alone = false;
        listener_hide(d, l, NULL);
    }
    if (!alone)
        claim(d, socket, w);
    return alone;
}

void listener_let_go(struct daemon *d, struct listener *l, struct worker *w)
{
    (void)ptrset_remove(&l->holders, w);
    (void)ptrset_remove(&w->listeners, l);
    if (l->holders.count)
        return;
    tell_gone(d, l);
    struct space *space = l->app->space;
    space->epoch++;
    if (!listener_hidden(l))
        (void)directory_remove(space->directory, &l->entry); /* it was put in when it was made */
    list_for_each(&l->hides, it, after)
    {
        hide_free(d, container_of(it, struct hide, link));
    }
    if (l->entry.flags & DIR_COMMON)
        app_linger(d, l->app);
    idmap_remove(&d->listener_by_id, l->id);
    list_unlink(&l->link);
    l->app->listener_count--;
    ptrset_free(&l->holders);
    close_aside(l->pipe_fd);
    free(l);
}

/* ---- requests ---- */

int handle_listen(struct daemon *d, struct request *r)
{
    const struct ctl_listen *m = &r->msg->listen;
    struct worker *w = r->conn->worker;
    struct dir_entry entry = {0};
    struct listener *l;
    if (!(w->app->flags & CTL_SCOPE_LOCAL))
        return BERTH_E_NO_ROUTE;
    if (r->conn->uid == UID_NONE)
        return BERTH_E_PERMISSION;
    if (!is_pipe_for_writing(r->fds[0]))
        return BERTH_E_PROTOCOL;
    int err = check_address(w, m, &entry);
    if (!err && m->socket && !socket_alone(d, m->socket, w))
        err = BERTH_E_ADDRESS_IN_USE;
    if (!err)
        err = check_conflicts(d, w, &entry, m->flags);
    if (!err && d->listener_by_id.used >= d->limits.listeners)
        err = BERTH_E_LIMIT;
    if (!err)
        err = listener_create(d, w, m, &entry, r->fds[0], &l);
    if (err)
        return err;
    r->fds[0] = -1;
    struct ctl_listened reply = {.h = {.type = CTL_LISTENED, .len = sizeof reply, .seq = r->seq},
                                 .listener = l->id,
                                 .epoch = l->entry.epoch,
                                 .port = l->entry.port};
    conn_send(d, r->conn, &reply, sizeof reply, NULL, 0);
    return 0;
}

/* A child goes on counting its questions where its parent was, so among those that a worker holds one has it. */
static struct listener *asked_for(const struct worker *w, uint32_t asked)
{
    for (uint32_t i = 0; asked && i < w->listeners.count; i++) {
        struct listener *l = w->listeners.item[i];
        if (l->asked == asked)
            return l;
    }
    return NULL;
}

/* NULL: the sender does not hold it. */
static struct listener *held(struct daemon *d, const struct request *r)
{
    const struct ctl_listener *m = &r->msg->listener;
    struct listener *l =
        m->listener ? idmap_get(&d->listener_by_id, m->listener) : asked_for(r->conn->worker, m->asked);
    return l && ptrset_has(&l->holders, r->conn->worker) ? l : NULL;
}

static struct listener *given_up(struct daemon *d, const struct request *r)
{
    struct listener *l = held(d, r);
    if (!l)
        log_debug("pid %d gives up a listener that it does not hold", (int)r->conn->pid);
    return l;
}

int handle_unlisten(struct daemon *d, struct request *r)
{
    struct listener *l = given_up(d, r);
    if (l)
        listener_let_go(d, l, r->conn->worker);
    return 0;
}

/* It listens no more, whoever of the family holds it. */
int handle_shut(struct daemon *d, struct request *r)
{
    struct listener *l = given_up(d, r);
    for (uint32_t id = l ? l->id : 0; l;
         l = idmap_get(&d->listener_by_id, id)) /* gone with its last holder */
        listener_let_go(d, l, l->holders.item[0]);
    return 0;
}

int handle_hide(struct daemon *d, struct request *r)
{
    struct listener *l = held(d, r);
    if (!l)
        return BERTH_E_NOT_OWNER;
    listener_hide(d, l, r->nfds ? &r->fds[0] : NULL);
    send_done(d, r);
    return 0;
}

int handle_backlog(struct daemon *d, struct request *r)
{
    struct listener *l = idmap_get(&d->listener_by_id, r->msg->listener.listener);
    if (l && ptrset_has(&l->holders, r->conn->worker)) {
        l->entry.backlog = r->msg->listener.backlog;
        if (!listener_hidden(l))
            (void)directory_update(l->app->space->directory, &l->entry); /* it was put in when it was made */
    }
    return 0;
}

/* The outbox that a connector wants to offer from, registered now if its segment came along. */
static int introduce_outbox(struct daemon *d, struct request *r, struct app *facing)
{
    struct worker *w = r->conn->worker;
    outbox_handle handle = r->msg->introduce.outbox;
    struct outbox *o = outbox_known(d, handle);
    if (o)
        return o->facing == facing && ptrset_has(&o->holders, w) ? 0 : BERTH_E_PROTOCOL;
    if (!r->nfds)
        return BERTH_E_BAD_HANDLE;
    int err = outbox_register(d, w, handle, facing, r->fds[0], &o);
    if (!err)
        r->fds[0] = -1;
    return err;
}

int handle_introduce(struct daemon *d, struct request *r)
{
    const struct ctl_introduce *m = &r->msg->introduce;
    const struct worker *w = r->conn->worker;
    const struct listener *l = idmap_get(&d->listener_by_id, m->listener);
    if (!(w->app->flags & CTL_SCOPE_LOCAL))
        return BERTH_E_NO_ROUTE;
    /* one of another namespace is as good as none: its existence is not told */
    if (!l || l->app->space != w->app->space)
        return BERTH_E_REFUSED;
    if (l->app->uid != w->uid)
        return BERTH_E_PERMISSION;
    if (listener_hidden(l))
        return BERTH_E_REFUSED;
    int err = introduce_outbox(d, r, l->app);
    if (err)
        return err;
    struct ctl_introduced reply = {.h = {.type = CTL_INTRODUCED, .len = sizeof reply, .seq = r->seq},
                                   .listener = l->id,
                                   .epoch = l->entry.epoch,
                                   .app = l->app->id,
                                   .backlog = l->entry.backlog};
    conn_send(d, r->conn, &reply, sizeof reply, &l->pipe_fd, 1);
    return 0;
}
