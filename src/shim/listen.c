/* listen.c - listening in both worlds.
 *
 * The kernel socket holds the port, so its rules about conflicts, port 0 and privileged ports are the rules.
 * It is O_NONBLOCK whatever the program set (a sibling process may take the connection between a look and the
 * accept); the program's flag is kept in the sock. accept() asks the stack first. The kernel's queue is
 * looked at when the stack has nothing and, while it has, every 20 us, then before the stack, which in return
 * comes first after it. EAGAIN is given only when both were found empty in the same call, as edge-triggered
 * programs need.
 *
 * Readiness is asked before accept4: one that ends in EAGAIN costs twenty times as much as a poll.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "shim/shim.h"

#define KERNEL_LOOK_NS (20 * NS_PER_US)

/* The kernel listens at fd already; let berth do it too. Failing is not the program's concern. */
static void listen_under_berth(int fd, int backlog)
{
    int family = socket_option(fd, SOL_SOCKET, SO_DOMAIN);
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    endpoint ep;
    if ((family != AF_INET && family != AF_INET6) ||
        socket_option(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP || !shim_listens() ||
        sys_call(SYS_getsockname, (long)fd, &ss, &len, 0) < 0 ||
        endpoint_from_sockaddr(&ep, (struct sockaddr *)&ss, len) || fd >= (int)FD_MAX)
        return;
    uint32_t flags = LISTEN_KERNEL;
    if (family == AF_INET6 && socket_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1)
        flags |= LISTEN_V6ONLY;
    if (socket_option(fd, SOL_SOCKET, SO_REUSEPORT) == 1)
        flags |= LISTEN_REUSEPORT;
    struct sock *s;
    if (fd_kind(fd, &s) == SOCK_BOUND && s->common)
        flags |= LISTEN_COMMON;
    uint32_t depth = backlog < 0 || backlog > 4096 ? 4096 : (uint32_t)backlog;
    listener_handle l = 0;
    int r = client_listen(&ep, flags, depth, socket_cookie(fd), &l);
    if (r < 0) {
        log_debug("listen: %s; on the kernel only", berth_strerror(r));
        return;
    }
    long old = sys_fcntl(fd, F_GETFL, 0L);
    shim_lock();
    uint64_t word = fd_word(fd);
    s = word ? sock_of(word) : sock_alloc(SOCK_BOUND, family);
    /* not of what another thread has forked with meanwhile */
    if (s && s->kind == SOCK_BOUND && (s->common || !s->file || !client_file_joint(s->file))) {
        options_follow(s, fd);
        if (!s->common) {
            client_file_leave(s->file); /* who had it, too, has not any more */
            s->file = 0;
        }
        s->nonblock = !!(old & O_NONBLOCK);
        client_set_nonblock(l, s->nonblock);
        s->kernel_look = 0;
        shim_vfork_is_fork = 1;
        if (!s->common)
            sys_fcntl(fd, F_SETFL, old | O_NONBLOCK);
        store_release(&s->handle, l);
        sock_become(s, SOCK_LISTENER);
        if (!word)
            fd_bind(fd, s);
        regs_to_listener(s);
        l = 0;
    }
    shim_unlock();
    if (l)
        (void)client_unlisten(l); /* it is ours still */
}

EXPORT int listen(int fd, int backlog)
{
    struct sock *s;
    uint64_t h;
    switch (fd_view(fd, &s, &h)) {
    case SOCK_FRESH: {
        int error = sock_to_kernel(fd, s, true);
        if (error) {
            errno = -error;
            return -1;
        }
        break;
    }
    case SOCK_SESSION:
        errno = EINVAL;
        return -1;
    case SOCK_LISTENER:
        if (real.listen(fd, backlog) < 0)
            return -1;
        /* berth's backlog is advice: where it fails the kernel's holds */
        (void)client_listener_backlog(h, backlog < 0 || backlog > 4096 ? 4096 : (uint32_t)backlog);
        return 0;
    default:
        break;
    }
    int r = real.listen(fd, backlog);
    if (r == 0 && !shim_foreign()) {
        int saved = errno;
        if (socket_common(fd))
            listener_came(fd);
        else if (!(fd_kind(fd, &s) == SOCK_BOUND && s->file && client_file_joint(s->file)))
            listen_under_berth(fd, backlog);
        errno = saved;
    }
    return r;
}

#define COME_NS NS_PER_SEC

/* Who accepts serves, under berth, too, if nobody else does. What relatives had as well may have come to listen by
 * any of them: it is the kernel's until only one of them has it. */
static bool come(int fd, struct sock *s)
{
    int64_t now = clock_now();
    shim_lock();
    bool due = fd_word(fd) == sock_word(s) && s->kind == SOCK_BOUND && now >= s->kernel_look;
    if (due)
        s->kernel_look = now + COME_NS; /* if it cannot be now */
    due = due &&
          (s->comes || (!client_file_joint(s->file) && socket_option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1));
    shim_unlock();
    int saved = errno;
    if (due && !shim_foreign())
        listen_under_berth(fd, socket_backlog(fd));
    errno = saved;
    return due && s->kind == SOCK_LISTENER;
}

/* ---- accept ---- */

/* The descriptor comes first: where there is none to be had, the connection stays in the queue. */
struct room {
    int family, flags;
    int fd; /* -1: not asked for yet; else a placeholder, or -errno - 1 */
};

static bool make_room(void *arg)
{
    struct room *room = arg;
    if (room->fd < 0) {
        int fd = placeholder_reserve(room->family, room->flags & SOCK_CLOEXEC);
        room->fd = fd < 0 ? fd - 1 : fd;
    }
    return room->fd >= 0;
}

/* The session gets that descriptor, and what it inherits. */
static int adopt(struct sock *l, int lfd, session_handle h, int fd, struct sockaddr *addr, socklen_t *len,
                 int flags)
{
    shim_lock();
    if (fd_word(lfd) == sock_word(l))
        options_follow(l, lfd);
    fd = placeholder_recheck(l->family, fd, flags & SOCK_CLOEXEC);
    struct sock *s = fd < 0 ? NULL : sock_alloc(SOCK_SESSION, l->family);
    if (!s) {
        shim_unlock();
        if (fd >= 0)
            sys_close(fd);
        (void)client_abort(h);
        errno = fd < 0 ? -fd : ENOBUFS;
        return -1;
    }
    s->nonblock = !!(flags & SOCK_NONBLOCK);
    client_set_nonblock(h, s->nonblock);
    s->rcv_timeout = l->rcv_timeout;
    s->snd_timeout = l->snd_timeout;
    s->rcv_lowat = l->rcv_lowat;
    s->abort = l->abort;
    s->options = options_share(l->options);
    store_release(&s->handle, h);
    shim_vfork_is_fork = 1;
    fd_bind(fd, s);
    placeholder_put(s->family, fd, flags & SOCK_CLOEXEC);
    shim_unlock();
    if (unlikely(s->options))
        options_apply_session(s, h);
    endpoint ep;
    if (addr && client_remote(h, &ep) == 0)
        *len = sock_fill_addr(l->family, &ep, addr, *len);
    return fd;
}

static int accept_kernel(int fd, struct sock *s, struct sockaddr *addr, socklen_t *len, int flags)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct timespec now = {0, 0};
    if (fd_word(fd) !=
        sock_word(s)) { /* closed by another thread: what has the number now is not ours to take from */
        errno = EAGAIN;
        return -1;
    }
    s->kernel_look = clock_now();
    if (sys_ppoll(&p, 1, &now, 0) <= 0) {
        errno = EAGAIN;
        return -1;
    }
    int ret = real.accept4(fd, addr, len, flags);
    if (ret >= 0 && ret < (int)FD_MAX && unlikely(fd_word(ret)))
        store_release(&fd_words[ret], 0); /* closed by a bare system call */
    return ret;
}

/* One look at both. -1 with EAGAIN: both are empty. */
static int accept_look(int fd, struct sock *s, listener_handle l, struct sockaddr *addr, socklen_t *len,
                       int flags)
{
    bool kernel_first = !s->stack_turn && clock_now() - s->kernel_look > KERNEL_LOOK_NS;
    if (kernel_first) {
        int ret = accept_kernel(fd, s, addr, len, flags);
        if (ret >= 0)
            s->stack_turn = 1;
        if (ret >= 0 || errno != EAGAIN)
            return ret;
    }
    s->stack_turn = 0;
    session_handle h;
    struct room room = {s->family, flags, -1};
    int r = client_accept_if(l, make_room, &room, &h);
    if (r == 0)
        return adopt(s, fd, h, room.fd, addr, len, flags);
    if (room.fd >= 0)
        sys_close(room.fd);
    if (room.fd < -1) {
        errno = -room.fd - 1;
        return -1;
    }
    if (r != BERTH_E_WOULD_BLOCK && r != BERTH_E_BAD_HANDLE)
        log_debug("accept: %s", berth_strerror(r));
    int ret = -1;
    errno = EAGAIN;
    if (!kernel_first)
        ret = accept_kernel(fd, s, addr, len, flags);
    if (ret < 0 && errno == EAGAIN && r == BERTH_E_NO_MEMORY)
        errno = EMFILE; /* there is one, and no descriptor to meet it */
    return ret;
}

/* Where nothing comes through the stack. As client_listener_wait. */
static int wait_kernel(int fd, int64_t deadline, const struct sleep_mark *mark)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t left = deadline == DEADLINE_NEVER ? -1 : deadline - clock_now();
    struct timespec ts = {.tv_sec = (time_t)(left / NS_PER_SEC), .tv_nsec = (long)(left % NS_PER_SEC)};
    if (deadline != DEADLINE_NEVER && left <= 0)
        return BERTH_E_TIMED_OUT;
    long n = sys_sleep_ppoll(mark, &p, 1, deadline == DEADLINE_NEVER ? NULL : &ts, NULL);
    return n == -EINTR ? BERTH_E_INTERRUPTED : n < 0 || p.revents & POLLNVAL ? BERTH_E_BAD_HANDLE : 0;
}

/* A blocked call whose listener has ended. One that was shut down has kept the number, and the kernel says
 * so. One that was closed is no more, and the number may be another file's by now, of which nothing may be
 * taken. */
static int accept_ended(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct timespec now = {0, 0};
    if (sys_ppoll(&p, 1, &now, NULL) == 1 && p.revents & POLLHUP)
        return real.accept4(fd, addr, len, flags);
    errno = EBADF;
    return -1;
}

/* The kernel's accept takes the descriptor before it waits. */
static int descriptor_error(int fd)
{
    long got = sys_fcntl(fd, F_DUPFD_CLOEXEC, 0L);
    if (got >= 0)
        sys_close((int)got);
    return got == -EMFILE || got == -ENFILE ? (int)-got : 0;
}

static bool nonblocking(int fd, struct sock *s)
{
    return s->common ? sys_fcntl(fd, F_GETFL, 0L) & O_NONBLOCK : sock_nonblock(s);
}

static int listener_accept(int fd, struct sock *s, listener_handle l, struct sockaddr *addr, socklen_t *len,
                           int flags)
{
    if (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) {
        errno = EINVAL;
        return -1;
    }
    if (addr && (pointer_wild(addr) || pointer_wild(len) ||
                 *len > INT32_MAX)) { /* the connection is lost, as on Linux */
        int lost = listener_accept(fd, s, l, NULL, NULL, flags);
        if (lost >= 0) {
            (void)close(lost);
            errno = pointer_wild(len) || *len <= INT32_MAX ? EFAULT : EINVAL;
        }
        return -1;
    }
    if (unlikely(s->options_seen != client_files_change())) {
        shim_lock();
        if (fd_word(fd) == sock_word(s))
            options_follow(s, fd);
        shim_unlock();
    }
    struct waiting w = waiting_since_now(s->rcv_timeout);
    sleep_testcancel();
    for (bool block = false;;) {
        int ret = accept_look(fd, s, l, addr, len, flags);
        if (ret >= 0 || errno != EAGAIN)
            return ret;
        /* asked once: once it has slept, it is a blocking call whatever becomes of the sock */
        if (!block && nonblocking(fd, s))
            return ret;
        if (!block && (errno = descriptor_error(fd)) != 0)
            return ret;
        block = true;
        int r = client_listener_wait(l, fd, waiting_deadline(&w), &w.mark);
        if (r == BERTH_E_BAD_HANDLE && client_stranded())
            r = wait_kernel(fd, waiting_deadline(&w), &w.mark);
        if (r == BERTH_E_BAD_HANDLE)
            return accept_ended(fd, addr, len, flags);
        int error = waited(&w, r);
        if (error) {
            errno = error;
            return -1;
        }
    }
}

static int kernel_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    int ret = flags ? real.accept4(fd, addr, len, flags) : real.accept(fd, addr, len);
    if (ret >= 0 && ret < (int)FD_MAX && unlikely(fd_word(ret)))
        store_release(&fd_words[ret], 0);
    return ret;
}

EXPORT int accept4(int fd, __SOCKADDR_ARG addr, socklen_t *len, int flags)
{
    struct sock *s;
    uint64_t h;
    enum sock_kind kind = fd_view(fd, &s, &h);
    if (unlikely(kind == SOCK_BOUND && (s->comes || s->file)) && come(fd, s))
        kind = fd_view(fd, &s, &h);
    if (kind == SOCK_LISTENER)
        return listener_accept(fd, s, h, addr.__sockaddr__, len, flags);
    if (kind == SOCK_SESSION) {
        errno = EINVAL;
        return -1;
    }
    return kernel_accept(fd, addr.__sockaddr__, len, flags);
}

EXPORT int accept(int fd, __SOCKADDR_ARG addr, socklen_t *len)
{
    return accept4(fd, addr, len, 0);
}
