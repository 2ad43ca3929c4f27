/* conn.c - connections: what cannot be sent at once, and how one ends.
 *
 * Theory of operation
 *
 * The daemon never blocks on a client. What a socket does not take is queued, with descriptors of the
 * daemon's own, up to a bound; while anything is queued the client's requests are left unread, so that who
 * does not read cannot ask either. Who lets the queue overflow is evicted.
 *
 * A connection is only ever marked as doomed inside a handler. conn_reap(), at the end of a round, lets its
 * worker die, closes and frees; deaths may doom further connections, which the same call takes too.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/registry.h"
#include "session/directory.h"

#define OUT_PACKETS_MAX 65536u
#define OUT_BYTES_MAX (4u << 20)
#define STUCK_NS (10 * NS_PER_MS)

struct out_packet {
    struct list link;
    uint16_t len, nfds;
    int fds[CTL_FDS_MAX];
    struct errand *errand; /* that ends when this has left, NULL: none */
    uint8_t bytes[];
};

void conn_watch(struct daemon *d, struct conn *c)
{
    uint32_t events = list_empty(&c->out) ? EPOLLIN : c->stuck ? 0 : EPOLLOUT;
    if (events == c->events)
        return;
    struct epoll_event ev = {.events = events, .data.ptr = &c->watch};
    if (epoll_ctl(d->epfd, EPOLL_CTL_MOD, c->watch.fd, &ev) == 0)
        c->events = events;
}

static void out_free(struct daemon *d, struct conn *c, struct out_packet *p)
{
    list_unlink(&p->link);
    c->out_count--;
    c->out_bytes -= p->len;
    for (uint32_t i = 0; i < p->nfds; i++)
        close_soon(p->fds[i]);
    struct errand *e = p->errand;
    free(p);
    if (e)
        errand_end(d, e);
}

void conn_last_of(const struct conn *c, struct errand *e)
{
    if (c->doomed || list_empty(&c->out))
        return;
    struct out_packet *p = container_of(c->out.prev, struct out_packet, link);
    if (!p->errand) {
        p->errand = e;
        e->packets++;
    }
}

static int out_queue(struct conn *c, const void *msg, size_t len, const int *fds, int nfds)
{
    if (c->out_count >= OUT_PACKETS_MAX || c->out_bytes + len > OUT_BYTES_MAX)
        return BERTH_E_LIMIT;
    struct out_packet *p = malloc(sizeof *p + len);
    if (!p)
        return BERTH_E_NO_MEMORY;
    p->len = (uint16_t)len;
    p->nfds = 0;
    p->errand = NULL;
    memcpy(p->bytes, msg, len);
    for (int i = 0; i < nfds; i++) {
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            while (p->nfds)
                close(p->fds[--p->nfds]);
            free(p);
            return BERTH_E_NO_MEMORY;
        }
        p->fds[p->nfds++] = fd;
    }
    list_append(&c->out, &p->link);
    c->out_count++;
    c->out_bytes += len;
    return 0;
}

/* The socket has room, but the kernel takes nothing: to watch it would be to spin. */
static void stuck(struct daemon *d, struct conn *c)
{
    c->stuck = true;
    if (!d->stuck_at)
        d->stuck_at = clock_now() + STUCK_NS;
}

static struct conn *due(struct daemon *d)
{
    for (struct list *it = d->conns.next; it != &d->conns; it = it->next) {
        struct conn *c = container_of(it, struct conn, link);
        if (c->due)
            return c;
    }
    return NULL;
}

/* From the beginning after each: what has left may doom another (errand_end). */
void conns_unstick(struct daemon *d)
{
    struct conn *c;
    d->stuck_at = 0;
    for (struct list *it = d->conns.next; it != &d->conns; it = it->next) {
        c = container_of(it, struct conn, link);
        c->due = c->stuck;
    }
    while ((c = due(d))) {
        c->due = false;
        conn_flush(d, c);
    }
}

static void told(const struct conn *c)
{
    if (c->worker && c->worker->app)
        directory_tell(c->worker->app->space->directory, c->worker->id);
}

void conn_send(struct daemon *d, struct conn *c, const void *msg, size_t len, const int *fds, int nfds)
{
    if (c->doomed)
        return;
    int err = BERTH_E_WOULD_BLOCK;
    if (list_empty(&c->out))
        err = ctl_send(c->watch.fd, msg, len, fds, nfds, MSG_DONTWAIT);
    if (!err)
        told(c);
    /* NO_MEMORY: the kernel's for now, or too many descriptors of this user's under way: as good as a full
     * queue */
    if (err == BERTH_E_WOULD_BLOCK || err == BERTH_E_NO_MEMORY) {
        if (err == BERTH_E_NO_MEMORY)
            stuck(d, c);
        err = out_queue(c, msg, len, fds, nfds);
        if (err) {
            log_warn("pid %d does not read what it is sent (%u packets waiting): evicted", (int)c->pid,
                     c->out_count);
            conn_doom(d, c, err);
        } else {
            conn_watch(d, c);
        }
    } else if (err &&
               err != BERTH_E_DAEMON_GONE) { /* gone: its end is read in due course, after what it sent */
        log_error("cannot send message %u to pid %d: %s", (unsigned)((const struct ctl_header *)msg)->type,
                  (int)c->pid, berth_strerror(err));
        conn_doom(d, c, 0);
    }
}

void conn_flush(struct daemon *d, struct conn *c)
{
    c->stuck = false;
    while (!list_empty(&c->out)) {
        struct out_packet *p = container_of(c->out.next, struct out_packet, link);
        int err = ctl_send(c->watch.fd, p->bytes, p->len, p->fds, p->nfds, MSG_DONTWAIT);
        if (err == BERTH_E_NO_MEMORY)
            stuck(d, c);
        if (err == BERTH_E_WOULD_BLOCK || err == BERTH_E_NO_MEMORY)
            break;
        if (!err)
            told(c);
        out_free(d, c, p);
    }
    conn_watch(d, c);
}

int conn_create(struct daemon *d, int fd, struct conn **out)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        return BERTH_E_NO_MEMORY;
    struct ucred cred;
    socklen_t len = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0) {
        free(c);
        return BERTH_E_PROTOCOL;
    }
    c->pid = cred.pid;
    c->uid = cred.uid;
    c->gid = cred.gid;
    c->state = CONN_NEW;
    c->watch.fd = fd;
    c->events = EPOLLIN;
    list_init(&c->out);
    list_append(&d->conns, &c->link);
    d->conn_count++;
    *out = c;
    return 0;
}

void conn_forget(struct daemon *d, struct conn *c)
{
    list_unlink(&c->link);
    d->conn_count--;
    free(c);
}

void conn_doom(struct daemon *d, struct conn *c, int tell)
{
    if (c->doomed)
        return;
    if (tell) {
        struct ctl_header msg = {.type = CTL_EVICTED, .len = sizeof msg, .status = tell};
        /* a courtesy, before it is closed */
        if (!ctl_send(c->watch.fd, &msg, sizeof msg, NULL, 0, MSG_DONTWAIT))
            told(c);
    }
    c->doomed = true;
    list_unlink(&c->link);
    list_append(&d->doomed, &c->link);
}

void conn_reap(struct daemon *d)
{
    while (!list_empty(&d->doomed)) {
        struct conn *c = container_of(d->doomed.next, struct conn, link);
        list_unlink(&c->link);
        if (c->worker)
            worker_die(d, c->worker);
        while (!list_empty(&c->out)) {
            struct out_packet *p = container_of(c->out.next, struct out_packet, link);
            out_free(d, c, p); /* NOLINT(clang-analyzer-*): unlinks */
        }
        watch_remove(d, &c->watch);
        close_soon(c->watch.fd);
        d->conn_count--;
        if (c->stay)
            d->stay_count--;
        free(c);
    }
}
