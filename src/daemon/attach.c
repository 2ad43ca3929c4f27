/* attach.c - HELLO, CHILD, CHILD_HELLO, DETACH, STAY, STATUS: how processes come to be known.
 *
 * Theory of operation
 *
 * A connection becomes a worker by HELLO, or is born one: the daemon's end of a socketpair that a worker
 * sends by CHILD before it forks. Such a child holds what its parent held at that moment, and may speak at
 * once; CHILD_HELLO adds what peers need to reach it. A worker that becomes another user is a child of
 * itself that has nothing but the listeners (CHILD with APART), or, where it has no relatives, says so
 * (PART). Whatever fails, fails before anything is created, or is undone.
 *
 * A stay keeps an auto-started daemon from leaving while a process lives that has no worker yet (`berth run`
 * before its program attaches). The process is watched by pidfd; where its pid cannot be seen from here, its
 * connection stands for it.
 */
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sys.h"
#include "daemon/registry.h"
#include "session/directory.h"
#include "shm/segment.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define STAYS_MAX 65536u

/* ---- HELLO ---- */

static bool terminated(const char *text, size_t size)
{
    return memchr(text, 0, size) != NULL;
}

static int check_page(int fd)
{
    uint64_t size;
    const char *why = "not a worker page";
    struct worker_page page;
    int err = segment_verify(fd, WORKER_PAGE_BYTES, WORKER_PAGE_BYTES, false, &size, &why);
    if (!err && (pread(fd, &page, CACHE_LINE, 0) != (ssize_t)CACHE_LINE || page.magic != ABI_MAGIC_PAGE ||
                 page.version != ABI_VERSION))
        err = BERTH_E_PROTOCOL;
    if (err)
        log_warn("worker page: %s", why);
    return err;
}

static int check_hello(const struct ctl_hello *m)
{
    if (m->magic != CTL_MAGIC || !terminated(m->name, sizeof m->name) || !terminated(m->ns, sizeof m->ns) ||
        !terminated(m->secret, sizeof m->secret))
        return BERTH_E_PROTOCOL;
    return !m->name[0] || m->flags & ~CTL_FLAGS_ALL ? BERTH_E_INVALID : 0;
}

static void send_welcome(struct daemon *d, struct worker *w, uint32_t seq, int bell)
{
    struct ctl_welcome m = {.h = {.type = CTL_WELCOME, .len = sizeof m, .seq = seq},
                            .version = CTL_VERSION,
                            .worker = w->id,
                            .app = w->app_id,
                            .uid = w->uid,
                            .outbox_limit = d->limits.outbox_bytes,
                            .sessions_limit = (uint32_t)d->limits.sessions,
                            .daemon_pid = (uint32_t)getpid()};
    memcpy(m.name, w->app->name, sizeof m.name);
    memcpy(m.ns, w->app->space->ns->id, sizeof m.ns);
    int fds[2] = {w->app->space->directory_fd, bell};
    conn_send(d, w->conn, &m, sizeof m, fds, 2);
    close_aside(bell); /* the owner has it already, and may hold its lock */
}

static int enter_app(struct daemon *d, const struct request *r, struct space *space, struct worker **out)
{
    struct conn *c = r->conn;
    const struct ctl_hello *m = &r->msg->hello;
    struct app *app = r->nfds > 2 ? move_app(d, r->fds[2], space, c->uid) : NULL;
    if (!app && m->flags & CTL_JOIN)
        app = app_find_joinable(d, space, c->uid, m->name);
    struct app *made = NULL;
    int err = 0;
    if (!app) {
        err = app_create(d, m, space, c->uid, &made);
        if (err)
            space_put(d, space);
        app = made;
    }
    if (!err)
        err = worker_create(d, app, c, out);
    if (err && made)
        app_release(d, made);
    return err;
}

static int hello(struct daemon *d, struct request *r)
{
    const struct ctl_hello *m = &r->msg->hello;
    struct conn *c = r->conn;
    struct space *space;
    struct worker *w;
    bool ok;
    int err = check_hello(m);
    if (err)
        return err;
    if (c->uid == UID_NONE)
        return BERTH_E_PERMISSION; /* nobody knows who it is */
    const char *id = m->ns[0] ? m->ns : NS_DEFAULT;
    struct ns *ns = ns_find(d, id);
    if (!ns)
        return BERTH_E_UNKNOWN_NAMESPACE;
    err = move_relay(d, c->pid) ? 0 : ns_admit(d, ns, c, m->secret);
    if (err) {
        log_info("pid %d (uid %u) not admitted to namespace '%s': %s", (int)c->pid, (unsigned)c->uid, id,
                 berth_strerror(err));
        return err;
    }
    uint64_t netns = netns_cookie(r->fds[0], &ok);
    if (!ok || check_page(r->fds[1]) || (r->nfds > 2 && !move_stands_in(r->fds[2])))
        return BERTH_E_PROTOCOL;
    int peers = -1, bell = -1;
    err = bell_make(&peers, &bell);
    if (err)
        return err;
    err = space_get(d, ns, netns, &space);
    if (!err)
        err = enter_app(d, r, space, &w);
    if (err) {
        close(peers);
        close(bell);
        return err;
    }
    w->page_fd = r->fds[1];
    w->bell_fd = peers;
    r->fds[1] = -1;
    c->state = CONN_ATTACHED;
    log_debug("worker %u: pid %d, app %u '%s'", w->id, (int)w->pid, w->app_id, w->app->name);
    send_welcome(d, w, r->seq, bell);
    return 0;
}

int handle_hello(struct daemon *d, struct request *r)
{
    /* the version is asked before anything else: all but the first words may be laid out differently */
    const struct ctl_hello *m = &r->msg->hello;
    if (m->magic == CTL_MAGIC && m->version != CTL_VERSION)
        return BERTH_E_VERSION;
    if (r->msg->h.len != sizeof *m || r->nfds < 2 || r->nfds > 3)
        return BERTH_E_PROTOCOL;
    int err = hello(d, r);
    OPENSSL_cleanse((void *)(uintptr_t)m->secret, sizeof m->secret);
    return err;
}

/* ---- fork ---- */

/* Of a SEQPACKET pair, and not one that leads to ourselves: the client's end of a connection of ours would
 * keep that alive for ever once we hold it. (Who sends us both ends of one pair only makes us talk to
 * ourselves: the first notice that goes out on one of them, of the parent's death at the latest, comes in on
 * the other, breaks the rules there, and ends both.) */
static bool is_control_socket(int fd)
{
    int type = 0, domain = 0;
    socklen_t len = sizeof type;
    struct ucred peer = {0};
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX)
        return false;
    len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid != getpid();
}

/* Has the parent, of whom the child is a copy, worked off all that was ever sent to it? */
static bool knows_all(const struct conn *c, const struct ctl_child *m)
{
    const struct worker *w = c->worker;
    return m->flags & CTL_CHILD_KNOWS && list_empty(&c->out) &&
           directory_news_now(w->app->space->directory, w->id) == m->news;
}

int handle_child(struct daemon *d, struct request *r)
{
    struct worker *parent = r->conn->worker, *child;
    struct conn *c;
    bool apart = r->msg->child.flags & CTL_CHILD_APART;
    if (r->msg->child.flags & ~(CTL_CHILD_APART | CTL_CHILD_KNOWS))
        return BERTH_E_PROTOCOL;
    if (!is_control_socket(r->fds[0]))
        return BERTH_E_PROTOCOL;
    /* nobody waits for an answer: where this fails, the child finds its connection closed */
    int err = conn_adopt(d, r->fds[0], &c);
    if (err) {
        log_warn("no connection for a child of pid %d: %s", (int)r->conn->pid, berth_strerror(err));
        return 0;
    }
    r->fds[0] = -1;
    /* the pair was made by the parent, so its credentials are the parent's, the pid not yet known */
    c->uid = apart ? UID_NONE : r->conn->uid;
    c->gid = apart ? (gid_t)-1 : r->conn->gid;
    c->pid = 0;
    err = worker_create(d, parent->app, c, &child);
    if (!err) {
        c->state = CONN_CHILD;
        child->member = r->msg->child.member;
        err = apart ? worker_inherit_listeners(child, parent) : worker_inherit(child, parent);
        if (!err && !apart && !knows_all(r->conn, &r->msg->child))
            moves_inherited(d, child);
    }
    if (err) {
        log_warn("no worker for a child of pid %d: %s", (int)r->conn->pid, berth_strerror(err));
        conn_doom(d, c, err);
    }
    return 0;
}

int handle_child_hello(struct daemon *d, struct request *r)
{
    const struct ctl_child_hello *m = &r->msg->child_hello;
    struct worker *w = r->conn->worker;
    if (m->version != CTL_VERSION)
        return BERTH_E_VERSION;
    if (check_page(r->fds[0]))
        return BERTH_E_PROTOCOL;
    int bell = -1;
    int err = bell_make(&w->bell_fd, &bell);
    if (err)
        return err;
    w->page_fd = r->fds[0];
    r->fds[0] = -1;
    w->pid = r->conn->pid = (pid_t)m->pid;
    r->conn->state = CONN_ATTACHED;
    send_welcome(d, w, r->seq, bell);
    return 0;
}

/* The user that it is now is not known here: the kernel tells who has made a socket, and that was before. So
 * it is nobody from now on. It keeps what it has, and meets whom it met; it makes no listener, attaches as no
 * app, asks and changes nothing of the daemon's. */
int handle_part(struct daemon *d, struct request *r)
{
    (void)d;
    r->conn->uid = UID_NONE;
    r->conn->gid = (gid_t)-1;
    return 0;
}

/* ---- DETACH, STATUS ---- */

void send_done(struct daemon *d, const struct request *r)
{
    struct ctl_header done = {.type = CTL_DONE, .len = sizeof done, .seq = r->seq};
    conn_send(d, r->conn, &done, sizeof done, NULL, 0);
}

int handle_detach(struct daemon *d, struct request *r)
{
    worker_die(d, r->conn->worker);
    r->conn->state = CONN_NEW;
    send_done(d, r);
    return 0;
}

/* For who may not make one himself. It is his: nobody here keeps it, and what he puts into it is on his account. */
int handle_memory(struct daemon *d, struct request *r)
{
    uint64_t size = r->msg->memory.size;
    if (size > SEGMENT_MAX || size % PAGE_BYTES || !segment_allowed(size))
        return BERTH_E_NO_MEMORY;
    int fd = memfd_create("berth-lent", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return BERTH_E_NO_MEMORY;
    if (ftruncate(fd, (off_t)size) < 0) {
        close(fd);
        return BERTH_E_NO_MEMORY;
    }
    struct ctl_header is = {.type = CTL_MEMORY_IS, .len = sizeof is, .seq = r->seq};
    conn_send(d, r->conn, &is, sizeof is, &fd, 1);
    close(fd);
    return 0;
}

int handle_status(struct daemon *d, struct request *r)
{
    struct ctl_status_is m = {.h = {.type = CTL_STATUS_IS, .len = sizeof m, .seq = r->seq},
                              .version = CTL_VERSION,
                              .pid = (uint32_t)getpid(),
                              .apps = d->app_count,
                              .workers = d->worker_count,
                              .paused = d->paused,
                              .uptime_ns = (uint64_t)(clock_now() - d->started)};
    (void)snprintf(m.release, sizeof m.release, "%s", BERTH_RELEASE);
    conn_send(d, r->conn, &m, sizeof m, NULL, 0);
    return 0;
}

/* PAUSE, RESUME: a word in each directory, that who connects looks at. */
int handle_pause(struct daemon *d, struct request *r)
{
    bool pause = r->msg->h.type == CTL_PAUSE;
    if (!conn_is_admin(d, r->conn))
        return BERTH_E_PERMISSION;
    if (d->paused != pause)
        log_info("%s by uid %u", pause ? "paused: new connections go to the kernel," : "resumed",
                 (unsigned)r->conn->uid);
    d->paused = pause;
    list_for_each(&d->spaces, it, after)
        directory_pause(container_of(it, struct space, link)->directory, pause);
    send_done(d, r);
    return 0;
}

/* ---- STAY ---- */

struct stay {
    struct watch watch;
    struct list link;
    pid_t pid;
};

static void stay_free(struct daemon *d, struct stay *p)
{
    watch_remove(d, &p->watch);
    close(p->watch.fd);
    list_unlink(&p->link);
    d->stay_count--;
    free(p);
}

static void stay_over(struct daemon *d, struct watch *w, uint32_t events)
{
    stay_free(d, container_of(w, struct stay, watch));
}

void stays_free(struct daemon *d)
{
    while (!list_empty(&d->stays))
        stay_free(d, container_of(d->stays.next, struct stay, link));
}

static int open_pidfd(const struct conn *c)
{
    int fd = -1;
    socklen_t len = sizeof fd;
    if (getsockopt(c->watch.fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
        return fd;
    /* before Linux 6.5: the pid could have been used again since, if its process had died; then the
     * connection ends at once and so does, at worst late, the stay of a stranger */
    return (int)sys_call(SYS_pidfd_open, (long)c->pid, 0L, 0, 0);
}

int handle_stay(struct daemon *d, struct request *r)
{
    struct conn *c = r->conn;
    pid_t pid = (pid_t)r->msg->stay.pid;
    if (c->pid && pid != c->pid)
        return BERTH_E_PERMISSION;
    list_for_each(&d->stays, it, after)
    {
        if (c->pid && container_of(it, struct stay, link)->pid == c->pid) {
            send_done(d, r);
            return 0;
        }
    }
    if (d->stay_count >= STAYS_MAX)
        return BERTH_E_LIMIT;
    if (!c->pid) {
        d->stay_count += !c->stay;
        c->stay = true;
        send_done(d, r);
        return 0;
    }
    struct stay *p = calloc(1, sizeof *p);
    if (!p)
        return BERTH_E_NO_MEMORY;
    p->pid = pid;
    p->watch.fd = open_pidfd(c);
    p->watch.ready = stay_over;
    if (p->watch.fd < 0 || watch_add(d, &p->watch, EPOLLIN)) {
        if (p->watch.fd >= 0)
            close(p->watch.fd);
        free(p);
        return BERTH_E_NO_MEMORY;
    }
    list_append(&d->stays, &p->link);
    d->stay_count++;
    send_done(d, r);
    return 0;
}
