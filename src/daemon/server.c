/* server.c - the socket, the loop, and the table by which messages find their handlers.
 *
 * Theory of operation
 *
 * One thread, one epoll set, level-triggered. In a round each ready connection gets at most BUDGET packets,
 * so that a flood from one is served no faster than the calm of the others. A round ends by reaping what was
 * doomed in it. There is no timer unless something waits for one: an automatic daemon's grace, a sweep of
 * what dead workers left, accepting again after descriptors ran out.
 *
 * A message is checked against its row before its handler runs: length, number of descriptors, state of the
 * connection. What a handler has not kept of the descriptors is closed here.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/registry.h"

#define BUDGET 32
#define EVENTS 64
#define STRANGERS_MAX 1024u /* connections above the number of workers admitted */
#define ACCEPT_PAUSE (100 * NS_PER_MS)
#define GRACE NS_PER_SEC

/* ---- dispatch ---- */

struct row {
    uint16_t min_len, max_len;
    uint8_t states; /* in which it is allowed */
    uint8_t min_fds, max_fds;
    uint16_t reply, reply_len; /* 0: none */
    int (*handle)(struct daemon *d, struct request *r);
    bool costly; /* one such ends its connection's turn */
};

#define ANY_STATE (CONN_NEW | CONN_CHILD | CONN_ATTACHED)
#define WORKER (CONN_CHILD | CONN_ATTACHED)
#define EXACTLY(type) sizeof(struct type), sizeof(struct type)

static const struct row rows[CTL_TYPES] = {
    [CTL_HELLO] = {sizeof(struct ctl_header) + 8, CTL_MAX, CONN_NEW, 0, 4, CTL_WELCOME,
                   sizeof(struct ctl_welcome), handle_hello, true},
    [CTL_CHILD] = {EXACTLY(ctl_child), WORKER, 1, 1, 0, 0, handle_child},
    [CTL_CHILD_HELLO] = {EXACTLY(ctl_child_hello), CONN_CHILD, 1, 1, CTL_WELCOME, sizeof(struct ctl_welcome),
                         handle_child_hello},
    [CTL_PART] = {EXACTLY(ctl_header), WORKER, 0, 0, 0, 0, handle_part},
    [CTL_DETACH] = {EXACTLY(ctl_header), WORKER, 0, 0, CTL_DONE, sizeof(struct ctl_header), handle_detach},
    [CTL_LISTEN] = {EXACTLY(ctl_listen), WORKER, 1, 1, CTL_LISTENED, sizeof(struct ctl_listened),
                    handle_listen},
    [CTL_UNLISTEN] = {EXACTLY(ctl_listener), WORKER, 0, 0, 0, 0, handle_unlisten},
    [CTL_SHUT] = {EXACTLY(ctl_listener), WORKER, 0, 0, 0, 0, handle_shut},
    [CTL_HIDE] = {EXACTLY(ctl_listener), WORKER, 0, 1, CTL_DONE, sizeof(struct ctl_header), handle_hide},
    [CTL_GIVE] = {EXACTLY(ctl_move), WORKER, 1, 3, CTL_DONE, sizeof(struct ctl_header), handle_give},
    [CTL_TAKE] = {EXACTLY(ctl_move), WORKER, 1, 1, CTL_TAKEN, sizeof(struct ctl_move), handle_take},
    [CTL_MOVED] = {EXACTLY(ctl_move), WORKER, 0, 0, 0, 0, handle_moved},
    [CTL_REPLAY] = {EXACTLY(ctl_replay), WORKER, 1, 1, CTL_REPLAYED, sizeof(struct ctl_replay),
                    handle_replay},
    [CTL_BACKLOG] = {EXACTLY(ctl_listener), WORKER, 0, 0, 0, 0, handle_backlog},
    [CTL_INTRODUCE] = {EXACTLY(ctl_introduce), WORKER, 0, 1, CTL_INTRODUCED, sizeof(struct ctl_introduced),
                       handle_introduce},
    [CTL_OUTBOX] = {EXACTLY(ctl_outbox), WORKER, 1, 1, 0, 0, handle_outbox},
    [CTL_ANNOUNCE] = {EXACTLY(ctl_outbox), WORKER, 0, 0, 0, 0, handle_announce},
    [CTL_SEGMENT] = {EXACTLY(ctl_outbox), WORKER, 1, 1, 0, 0, handle_segment},
    [CTL_RETIRE] = {EXACTLY(ctl_outbox), WORKER, 0, 0, 0, 0, handle_retire},
    [CTL_LEAVE] = {EXACTLY(ctl_outbox), WORKER, 0, 0, 0, 0, handle_leave},
    [CTL_GET_OUTBOX] = {EXACTLY(ctl_outbox), WORKER, 0, 0, CTL_OUTBOX_IS, sizeof(struct ctl_outbox_is),
                        handle_get_outbox},
    [CTL_GET_SEGMENT] = {EXACTLY(ctl_outbox), WORKER, 0, 0, CTL_SEGMENT_IS, sizeof(struct ctl_segment_is),
                         handle_get_segment},
    [CTL_GET_PEERS] = {EXACTLY(ctl_outbox), WORKER, 0, 0, 0, 0, handle_get_peers},
    [CTL_PORTS] = {EXACTLY(ctl_ports), WORKER, 0, 0, CTL_PORTS_ARE, sizeof(struct ctl_ports), handle_ports,
                   true},
    [CTL_RETURN_PORTS] = {EXACTLY(ctl_ports), WORKER, 0, 0, 0, 0, handle_return_ports},
    [CTL_STAY] = {EXACTLY(ctl_stay), ANY_STATE, 0, 0, CTL_DONE, sizeof(struct ctl_header), handle_stay},
    [CTL_SHOW] = {EXACTLY(ctl_show), ANY_STATE, 0, 0, CTL_SHOWN, sizeof(struct ctl_shown), handle_show, true},
    [CTL_NS_ADD] = {EXACTLY(ctl_ns), ANY_STATE, 0, 0, CTL_DONE, sizeof(struct ctl_header), handle_ns_add,
                    true},
    [CTL_NS_DEL] = {EXACTLY(ctl_ns), ANY_STATE, 0, 0, CTL_DONE, sizeof(struct ctl_header), handle_ns_del},
    [CTL_PAUSE] = {EXACTLY(ctl_header), ANY_STATE, 0, 0, CTL_DONE, sizeof(struct ctl_header), handle_pause},
    [CTL_RESUME] = {EXACTLY(ctl_header), ANY_STATE, 0, 0, CTL_DONE, sizeof(struct ctl_header), handle_pause},
    [CTL_MEMORY] = {EXACTLY(ctl_memory), ANY_STATE, 0, 0, CTL_MEMORY_IS, sizeof(struct ctl_header),
                    handle_memory},
    [CTL_STATUS] = {EXACTLY(ctl_header), ANY_STATE, 0, 0, CTL_STATUS_IS, sizeof(struct ctl_status_is),
                    handle_status},
};

static void send_error(struct daemon *d, struct conn *c, const struct row *row, uint32_t seq, int err)
{
    union {
        struct ctl_header h;
        uint8_t bytes[512];
    } m = {.h = {.type = row && row->reply ? row->reply : CTL_DONE,
                 .len = row && row->reply ? row->reply_len : sizeof m.h,
                 .seq = seq,
                 .status = err}};
    _Static_assert(sizeof(struct ctl_welcome) <= sizeof m, "room for the longest reply");
    conn_send(d, c, &m, m.h.len, NULL, 0);
}

static int state_error(const struct row *row, enum conn_state state)
{
    if (row->states & state)
        return 0;
    return state == CONN_NEW ? BERTH_E_NOT_ATTACHED : BERTH_E_ALREADY_ATTACHED;
}

static void dispatch(struct daemon *d, struct request *r, size_t len)
{
    const struct ctl_header *h = &r->msg->h;
    const struct row *row = NULL;
    int err = BERTH_E_PROTOCOL;
    if (len < sizeof *h || h->len != len) {
        log_warn("pid %d: packet of %zu bytes is no message: closed", (int)r->conn->pid, len);
        goto bad;
    }
    r->seq = h->seq;
    if (h->type < CTL_TYPES && rows[h->type].handle)
        row = &rows[h->type];
    if (!row || len < row->min_len || len > row->max_len || r->nfds < row->min_fds ||
        r->nfds > row->max_fds || (row->reply && !h->seq)) {
        log_warn("pid %d: message of type %u, %zu bytes, %d descriptors breaks the rules: closed",
                 (int)r->conn->pid, (unsigned)h->type, len, r->nfds);
        goto bad;
    }
    err = state_error(row, r->conn->state);
    if (!err)
        err = row->handle(d, r);
    if (!err)
        return;
    if (err != BERTH_E_PROTOCOL && (row->reply || r->conn->state == CONN_NEW)) {
        send_error(d, r->conn, row, r->seq, err);
        /* guessing secrets costs a connection each */
        if (err == BERTH_E_WRONG_SECRET)
            conn_doom(d, r->conn, 0);
        return;
    }
    /* nobody waits for an answer to those without one: an error there is told by the end of the connection */
    log_warn("pid %d: message of type %u: %s: closed", (int)r->conn->pid, (unsigned)h->type,
             berth_strerror(err));
bad:
    send_error(d, r->conn, row, r->seq, err);
    conn_doom(d, r->conn, 0);
}

/* ---- connections ---- */

/* false: nothing more to read now, or ever */
static bool conn_read_one(struct daemon *d, struct conn *c)
{
    union packet packet;
    int fds[CTL_FDS_MAX];
    struct request r = {.conn = c, .msg = &packet, .fds = fds};
    int n = ctl_recv(c->watch.fd, &packet, sizeof packet, fds, &r.nfds, MSG_DONTWAIT);
    if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_INTERRUPTED)
        return false;
    if (n == BERTH_E_DAEMON_GONE) /* the peer closed with packets of ours unread; its own are still there, and
                                     then its end */
        n = ctl_recv(c->watch.fd, &packet, sizeof packet, fds, &r.nfds, MSG_DONTWAIT);
    if (n == 0 || n == BERTH_E_DAEMON_GONE) {
        conn_doom(d, c, 0);
        return false;
    }
    if (n < 0) {
        if (n == BERTH_E_WOULD_BLOCK)
            return false;
        log_warn("pid %d: packet not taken: %s: closed", (int)c->pid, berth_strerror(n));
        send_error(d, c, NULL, 0, n);
        conn_doom(d, c, 0);
        return false;
    }
    dispatch(d, &r, (size_t)n);
    for (int i = 0; i < r.nfds; i++) {
        if (fds[i] >= 0)
            close_soon(fds[i]);
    }
    if (c->doomed || !list_empty(&c->out))
        return false;
    return !rows[packet.h.type].costly; /* dispatch has doomed who sent a type that is none */
}

static void conn_ready(struct daemon *d, struct watch *w, uint32_t events)
{
    struct conn *c = container_of(w, struct conn, watch);
    if (c->doomed)
        return;
    if (!list_empty(&c->out)) {
        conn_flush(d, c);
        /* who is gone will not read: what it was to be sent is of no use, what it had sent is */
        if (!list_empty(&c->out) && !(events & EPOLLHUP))
            return;
    }
    for (int i = 0; i < BUDGET && (conn_read_one(d, c) || (events & EPOLLHUP && !c->doomed)); i++)
        ;
}

int conn_adopt(struct daemon *d, int fd, struct conn **out)
{
    struct conn *c;
    if (d->conn_count >= d->limits.workers + STRANGERS_MAX)
        return BERTH_E_LIMIT;
    int err = conn_create(d, fd, &c);
    if (err)
        return err;
    c->watch.ready = conn_ready;
    if (watch_add(d, &c->watch, EPOLLIN)) {
        conn_forget(d, c);
        return BERTH_E_NO_MEMORY;
    }
    *out = c;
    return 0;
}

static void pause_accepting(struct daemon *d)
{
    log_warn("no descriptor left: no connection is taken for a moment");
    watch_remove(d, &d->accept);
    d->accept_paused = true;
    d->accept_at = clock_now() + ACCEPT_PAUSE;
}

static void accept_ready(struct daemon *d, struct watch *w, uint32_t events)
{
    for (int i = 0; i < BUDGET; i++) {
        struct conn *c;
        int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                pause_accepting(d);
            return;
        }
        int err = conn_adopt(d, fd, &c);
        if (err) {
            struct ctl_header m = {.type = CTL_EVICTED, .len = sizeof m, .status = err};
            (void)ctl_send(fd, &m, sizeof m, NULL, 0, MSG_DONTWAIT); /* a courtesy, before it is closed */
            close(fd);
        }
    }
}

/* ---- the loop ---- */

int watch_add(struct daemon *d, struct watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};
    return epoll_ctl(d->epfd, EPOLL_CTL_ADD, w->fd, &ev) < 0 ? BERTH_E_NO_MEMORY : 0;
}

void watch_remove(struct daemon *d, struct watch *w)
{
    (void)epoll_ctl(d->epfd, EPOLL_CTL_DEL, w->fd, NULL);
    /* whoever had an event in the current round must not get it any more: its memory may be gone */
    for (int i = 0; i < d->round_count; i++) {
        if (d->round[i].data.ptr == w)
            d->round[i].data.ptr = NULL;
    }
}

static void signals_ready(struct daemon *d, struct watch *w, uint32_t events)
{
    struct signalfd_siginfo info;
    while (read(w->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        log_info("signal %u from pid %u: stopping", info.ssi_signo, info.ssi_pid);
        d->stopping = true;
    }
}

static void run_timers(struct daemon *d)
{
    int64_t now = clock_now();
    bool alone = d->automatic && !d->conn_count && !d->stay_count && !d->paused && !d->move_count;
    if (!alone)
        d->leave_at = 0;
    else if (!d->leave_at)
        d->leave_at = now + GRACE;
    else if (now >= d->leave_at) {
        log_info("nobody needs this daemon any more: leaving");
        d->stopping = true;
    }
    if (d->accept_paused && now >= d->accept_at && watch_add(d, &d->accept, EPOLLIN) == 0)
        d->accept_paused = false;
    if (d->sweep_at && now >= d->sweep_at)
        outbox_sweep(d);
    if (d->stuck_at && now >= d->stuck_at)
        conns_unstick(d);
    if (d->moves_at && now >= d->moves_at)
        moves_due(d);
}

static int next_timeout(const struct daemon *d)
{
    int64_t next = DEADLINE_NEVER;
    const int64_t timers[] = {d->leave_at, d->sweep_at, d->stuck_at, d->accept_paused ? d->accept_at : 0,
                              d->moves_at};
    for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++) {
        if (timers[i] && timers[i] < next)
            next = timers[i];
    }
    if (next == DEADLINE_NEVER)
        return -1;
    int64_t wait = next - clock_now();
    return wait <= 0 ? 0 : (int)(wait / NS_PER_MS) + 1;
}

int server_round(struct daemon *d, int timeout)
{
    static struct epoll_event events[EVENTS]; /* one loop in a process */
    d->round = events;
    bell_prepare();
    int n = epoll_wait(d->epfd, events, EVENTS, timeout);
    if (n < 0 && errno != EINTR) {
        log_error("epoll_wait: %s", strerror(errno));
        d->round = NULL;
        return BERTH_E_SYSTEM;
    }
    d->round_count = n > 0 ? n : 0;
    for (int i = 0; i < d->round_count; i++) {
        struct watch *w = events[i].data.ptr;
        if (w)
            w->ready(d, w, events[i].events);
    }
    d->round_count = 0;
    conn_reap(d);
    d->round = NULL;
    return n > 0 ? n : 0;
}

int server_run(struct daemon *d)
{
    while (!d->stopping) {
        run_timers(d);
        conn_reap(d);
        if (d->stopping)
            break;
        int n = server_round(d, next_timeout(d));
        if (n < 0)
            return n;
    }
    return 0;
}

/* ---- opening and closing ---- */

static int open_signals(struct daemon *d)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* relays: nobody waits for them */
    d->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    d->signals.ready = signals_ready;
    return d->signals.fd < 0 ? BERTH_E_SYSTEM : watch_add(d, &d->signals, EPOLLIN);
}

static int open_socket(struct daemon *d)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    (void)snprintf(sa.sun_path, sizeof sa.sun_path, "%s/%s", d->dir, CTL_SOCKET_NAME);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return BERTH_E_SYSTEM;
    /* we hold the lock: a socket that is there is of a daemon that was killed */
    (void)unlink(sa.sun_path);
    mode_t mask = umask(0177);
    int bound = bind(fd, (struct sockaddr *)&sa, sizeof sa);
    umask(mask);
    if (bound < 0 || (d->has_socket_group && chown(sa.sun_path, (uid_t)-1, d->socket_group) < 0) ||
        chmod(sa.sun_path, d->socket_mode) < 0 || listen(fd, 1024) < 0) {
        log_error("%s: %s", sa.sun_path, strerror(errno));
        close(fd);
        return BERTH_E_SYSTEM;
    }
    d->accept.fd = fd;
    d->accept.ready = accept_ready;
    return watch_add(d, &d->accept, EPOLLIN);
}

int server_open(struct daemon *d)
{
    d->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (d->epfd < 0)
        return BERTH_E_SYSTEM;
    if (!pipes_can_be_known(d)) {
        log_error("there is no /proc here, by which the pipes of processes are known: mount it first");
        return BERTH_E_SYSTEM;
    }
    ctl_close = close_aside;
    int err = open_signals(d);
    if (!err)
        err = netaddr_open(d);
    if (!err)
        err = open_socket(d);
    return err;
}

void server_close(struct daemon *d)
{
    char path[sizeof d->dir + 32];
    (void)snprintf(path, sizeof path, "%s/%s", d->dir, CTL_SOCKET_NAME);
    if (d->accept.fd >= 0) {
        (void)unlink(path);
        close(d->accept.fd); /* who is in its queue sees the end of the connection, and tries again */
    }
    while (!list_empty(&d->conns))
        conn_doom(d, container_of(d->conns.next, struct conn, link), 0);
    conn_reap(d);
    stays_free(d);
    moves_drop(d, NULL);
    claims_drop(d, NULL);
    netaddr_close(d);
    if (d->signals.fd >= 0)
        close(d->signals.fd);
    if (d->epfd >= 0)
        close(d->epfd);
}
