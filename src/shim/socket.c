/* socket.c - socket, bind, connect, and the step from an undecided socket to one of the kernel's.
 *
 * socket() hands out a placeholder. What it becomes is decided by the first call that must: connect() to
 * somebody who listens under berth makes a session; everything else makes a real kernel socket, gives it the
 * recorded options and flags, and puts it under the same number by dup3, after which the shim has forgotten
 * it.
 *
 * bind() needs the kernel at once, for its rules about who may hold what. Such a socket is remembered,
 * because a client may bind before it connects: the session then has that address, and the kernel socket
 * stays, holding the port.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "shim/shim.h"

EXPORT int socket(int domain, int type, int protocol)
{
    int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
    if ((domain != AF_INET && domain != AF_INET6) || kind != SOCK_STREAM ||
        (protocol != 0 && protocol != IPPROTO_TCP) || shim_foreign() || !shim_usable())
        return real.socket(domain, type, protocol);
    shim_lock();
    struct sock *s = sock_alloc(SOCK_FRESH, domain);
    int fd = s ? placeholder_open(domain, type & SOCK_CLOEXEC) : -1;
    if (fd >= 0) {
        s->nonblock = !!(type & SOCK_NONBLOCK);
        fd_bind(fd, s);
    } else if (s) {
        s->refs = 1;
        sock_become(s, SOCK_BOUND); /* nothing to close */
        sock_put(s, -1);
    }
    shim_unlock();
    return fd >= 0 ? fd : real.socket(domain, type, protocol);
}

/* ---- to the kernel ---- */

struct replace {
    struct sock *sock;
    int with;
    int error;
};

static void replace_fd(int fd, void *arg)
{
    struct replace *r = arg;
    long flags = sys_fcntl(fd, F_GETFD, 0L);
    regs_out_of_kernel(r->sock, fd);
    long ret = sys_call(SYS_dup3, (long)r->with, (long)fd, flags & FD_CLOEXEC ? (long)O_CLOEXEC : 0L, 0L);
    if (ret < 0)
        r->error = (int)ret;
    regs_into_kernel(r->sock, fd);
}

int fresh_to_bound(int fd, struct sock *s)
{
    struct replace r = {s, (int)sys_socket(s->family, SOCK_STREAM | SOCK_CLOEXEC, 0), 0};
    if (r.with == -EMFILE) { /* one for a moment, which without us the program would not need */
        client_fds_release();
        r.with = (int)sys_socket(s->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    }
    if (r.with < 0)
        return r.with;
    options_replay(s, r.with);
    if (s->nonblock)
        sys_fcntl(r.with, F_SETFL, (long)(O_RDWR | O_NONBLOCK));
    if (s->refs == 1)
        replace_fd(fd, &r);
    else
        sock_each_fd(s, replace_fd, &r);
    sys_close(r.with);
    s->real = 1;
    sock_become(s, SOCK_BOUND);
    return r.error;
}

int sock_to_kernel(int fd, struct sock *s, bool keep)
{
    shim_lock();
    int error = 0; /* also where another thread has decided meanwhile */
    bool undecided = fd_word(fd) == sock_word(s) && (s->kind == SOCK_FRESH || s->kind == SOCK_BOUND);
    bool fresh = undecided && s->kind == SOCK_FRESH;
    if (fresh)
        error = fresh_to_bound(fd, s);
    if (undecided && !keep && s->kind == SOCK_BOUND)
        sock_forget(s);
    shim_unlock();
    return error;
}

EXPORT int bind(int fd, __CONST_SOCKADDR_ARG addr, socklen_t len)
{
    struct sock *s;
    if (fd_kind(fd, &s) == SOCK_FRESH) {
        int error = sock_to_kernel(fd, s, true);
        if (error) {
            errno = -error;
            return -1;
        }
    } else if (fd_kind(fd, &s) == SOCK_SESSION) {
        errno = EINVAL;
        return -1;
    }
    return real.bind(fd, addr.__sockaddr__, len);
}

/* ---- connect ---- */

static int connect_by_kernel(int fd, struct sock *s, const struct sockaddr *addr, socklen_t len)
{
    client_file_decide(s->file);
    int error = sock_to_kernel(fd, s, false);
    if (error) {
        errno = -error;
        return -1;
    }
    return real.connect(fd, addr, len);
}

enum source { SOURCE_NONE, SOURCE_BOUND, SOURCE_BAD };

/* The address a socket of the kernel's holds, with a wildcard made concrete. BAD: none that a session could have.
 */
static enum source source_of(int fd, const endpoint *dst, endpoint *src)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    if (sys_call(SYS_getsockname, (long)fd, &ss, &len, 0) < 0 ||
        endpoint_from_sockaddr(src, (struct sockaddr *)&ss, len))
        return SOURCE_BAD;
    if (!src->port)
        return endpoint_is_wildcard(src->addr) ? SOURCE_NONE : SOURCE_BAD;
    if (endpoint_is_wildcard(src->addr)) {
        if (endpoint_is_wildcard(dst->addr))
            return SOURCE_BAD;
        memcpy(src->addr, dst->addr, sizeof src->addr);
    }
    return endpoint_is_v4(src->addr) == endpoint_is_v4(dst->addr) ? SOURCE_BOUND : SOURCE_BAD;
}

static bool v6_only(struct sock *s)
{
    int value = 0;
    socklen_t len = sizeof value;
    return options_value(s, IPPROTO_IPV6, IPV6_V6ONLY, &value, &len) && value;
}

enum became { BECAME, BECAME_NOT, BECAME_JOINT };

/* Makes the sock the session's, before its server can hear of it: once that has accepted, every thread may
 * use the socket. NOT: another thread was faster. JOINT: another has forked. */
static enum became become_session(int fd, struct sock *s, session_handle h)
{
    enum became became = BECAME_NOT;
    shim_lock();
    if (fd_word(fd) == sock_word(s) && (s->kind == SOCK_FRESH || s->kind == SOCK_BOUND))
        became = s->file && client_file_joint(s->file) ? BECAME_JOINT : BECAME;
    if (became == BECAME) {
        if (s->kind == SOCK_BOUND) {
            s->nonblock = !!(sys_fcntl(fd, F_GETFL, 0L) & O_NONBLOCK);
            options_follow(s, fd);
        }
        client_file_leave(s->file);
        s->file = 0;
        s->unsettled = 0;
        client_set_nonblock(h, s->nonblock);
        client_set_connecting(h, true);
        store_release(&s->handle, h);
        sock_become(s, SOCK_SESSION);
        shim_vfork_is_fork = relay_unaccepted = 1;
        regs_to_session(s);
        options_apply_session(s, h);
    }
    shim_unlock();
    return became;
}

/* Under shim_lock. */
static void unbecome(struct sock *s, session_handle h)
{
    regs_session_to_kernel(s);
    s->nonblock = client_nonblock(h, s->nonblock);
    sock_become(s, s->real ? SOCK_BOUND : SOCK_FRESH);
    store_release(&s->handle, 0);
}

/* Nobody listens any more. */
static void unbecome_session(struct sock *s, session_handle h)
{
    shim_lock();
    if (s->kind == SOCK_SESSION && s->handle == h) /* handles are never used again */
        unbecome(s, h);
    shim_unlock();
    (void)client_abort(h);
}

void queued_to_kernel(int fd, struct sock *s)
{
    struct sockaddr_storage ss;
    session_handle h = s->handle;
    endpoint to;
    if (!sock_nonblock(s) || !client_connect_queued(h) || client_remote(h, &to) < 0)
        return;
    unbecome(s, h);
    client_connect_undo(h);
    if (s->kind == SOCK_FRESH && fresh_to_bound(fd, s) < 0)
        return;
    socklen_t len = sock_fill_addr(s->family, &to, (struct sockaddr *)&ss, sizeof ss);
    (void)sys_call(SYS_connect, (long)fd, &ss, (long)len, 0L); /* whoever asks hears how it goes */
    sock_forget(s);
}

/* `over`: what it says when SO_SNDTIMEO ends it. */
static int connect_wait(struct sock *s, session_handle h, int over)
{
    struct waiting w = waiting_since_now(session_snd_timeout(s, h));
    client_set_connecting(
        h, true); /* it goes on behind, as on Linux, when this one is interrupted or cancelled */
    for (;;) {
        int r = client_connect_wait(h, waiting_deadline(&w), &w.mark);
        int error = waited(&w, r);
        if (r == BERTH_E_TIMED_OUT)
            error = over;
        else if (r != BERTH_E_INTERRUPTED)
            client_set_connecting(h, false);
        if (r == 0)
            return 0;
        if (error) {
            errno = error;
            return -1;
        }
    }
}

static int connect_new(int fd, struct sock *s, const struct sockaddr *addr, socklen_t len)
{
    endpoint dst, src;
    if (addr->sa_family != s->family || endpoint_from_sockaddr(&dst, addr, len) || !shim_usable() ||
        !client_has_route(&dst) || (s->family == AF_INET6 && endpoint_is_v4(dst.addr) && v6_only(s)))
        return connect_by_kernel(fd, s, addr, len);
    bool bound = load_acquire(&s->kind) == SOCK_BOUND;
    enum source source = bound ? source_of(fd, &dst, &src) : SOURCE_NONE;
    if (source == SOURCE_BAD || (bound && undecided_joint(fd, s)))
        return connect_by_kernel(fd, s, addr, len);
    session_handle h = 0;
    int r = client_connect_begin(&dst, source == SOURCE_BOUND ? &src : NULL, &h);
    enum became became = r == 0 ? become_session(fd, s, h) : BECAME;
    if (became != BECAME) {
        client_connect_undo(h);
        if (became == BECAME_JOINT)
            return connect_by_kernel(fd, s, addr, len);
        errno = EALREADY;
        return -1;
    }
    bool begun = r == 0;
    if (begun)
        r = client_connect_offer(h);
    if (r == 0 && !sock_nonblock(s)) { /* else Linux never says so at once */
        client_set_connecting(h, false);
        return 0;
    }
    if (begun && r == BERTH_E_BAD_HANDLE) /* another thread has closed it meanwhile */
        return fail(r);
    if (r != 0 && r != BERTH_E_IN_PROGRESS) {
        if (begun)
            unbecome_session(s, h);
        log_debug("connect: %s; left to the kernel", berth_strerror(r));
        return connect_by_kernel(fd, s, addr, len);
    }
    if (!sock_nonblock(s))
        return connect_wait(s, h, EINPROGRESS);
    errno = EINPROGRESS;
    return -1;
}

/* connect() once more: how a non-blocking one went. */
static int connect_again(int fd, struct sock *s, session_handle h, const struct sockaddr *addr, socklen_t len)
{
    bool connecting = client_connecting(h);
    if (!connecting && client_connected(h)) {
        errno = EISCONN;
        return -1;
    }
    if (!connecting) { /* the last one came to nothing: this one is another */
        unbecome_session(s, h);
        return connect_new(fd, s, addr, len);
    }
    int error = client_take_error(h);
    if (error) {
        client_set_connecting(h, false);
        return fail(error);
    }
    if (client_connected(h)) {
        client_set_connecting(h, false);
        return 0;
    }
    if (!sock_nonblock(s))
        return connect_wait(s, h, EALREADY);
    errno = EALREADY;
    return -1;
}

EXPORT int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t len)
{
    const struct sockaddr *addr = address.__sockaddr__;
    struct sock *s;
    uint64_t h;
    switch (fd_view(fd, &s, &h)) {
    case SOCK_FRESH:
        if (!pointer_wild(addr) && len >= sizeof(sa_family_t) && addr->sa_family == AF_UNSPEC)
            return 0;
        /* fall through */
    case SOCK_BOUND:
        if (!pointer_wild(addr) && len >= sizeof(sa_family_t))
            return connect_new(fd, s, addr, len);
        break;
    case SOCK_SESSION:
        /* connect(2): what it was connected to hears a reset, and it may connect anew. Not for relatives, too */
        if (!pointer_wild(addr) && len >= sizeof(sa_family_t) && addr->sa_family == AF_UNSPEC &&
            !s->stand_in && !client_shared(h)) {
            unbecome_session(s, h);
            return 0;
        }
        if (!pointer_wild(addr) && len >= sizeof(sa_family_t))
            return connect_again(fd, s, h, addr, len);
        break;
    default:
        break;
    }
    return real.connect(fd, addr, len);
}

/* ---- addresses ---- */

/* As the kernel does it: cut to the room there is, and say how long it is. */
socklen_t sock_fill_addr(int family, const endpoint *ep, struct sockaddr *addr, socklen_t room)
{
    endpoint as = *ep;
    as.family = family == AF_INET6 ? 6 : 4;
    struct sockaddr_storage ss;
    socklen_t len = endpoint_to_sockaddr(&as, &ss);
    memcpy(addr, &ss, len < room ? len : room);
    return len;
}

static int session_name(struct sock *s, uint64_t h, bool remote, struct sockaddr *addr, socklen_t *len)
{
    endpoint ep;
    if (remote && ((client_connecting(h) && !client_connected(h)) || client_over(h))) {
        errno = ENOTCONN;
        return -1;
    }
    if (pointer_wild(len) || (*len && pointer_wild(addr))) {
        errno = EFAULT;
        return -1;
    }
    if (*len > INT32_MAX) {
        errno = EINVAL;
        return -1;
    }
    int r = remote ? client_remote(h, &ep) : client_local(h, &ep);
    if (r < 0)
        return fail(r);
    *len = sock_fill_addr(s->family, &ep, addr, *len);
    return 0;
}

EXPORT int getsockname(int fd, __SOCKADDR_ARG addr, socklen_t *len)
{
    struct sock *s;
    uint64_t h;
    enum sock_kind kind = fd_view(fd, &s, &h);
    if (kind == SOCK_SESSION)
        return session_name(s, h, false, addr.__sockaddr__, len);
    return real.getsockname(kind == SOCK_FRESH ? fd_answering(fd, s, kind) : fd, addr.__sockaddr__, len);
}

EXPORT int getpeername(int fd, __SOCKADDR_ARG addr, socklen_t *len)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(fd, &s, &h))
        return session_name(s, h, true, addr.__sockaddr__, len);
    return real.getpeername(fd, addr.__sockaddr__, len);
}

/* It stops listening, in the kernel first: who is woken in accept asks there and is told so (EINVAL). The
 * relatives' part of it stays as it is, theirs alone to touch; nobody finds it any more, and to them, too,
 * the kernel says what has become of it. */
static int shutdown_listener(int fd, struct sock *s, int how)
{
    shim_lock();
    int ret = real.shutdown(fd, how);
    if (ret == 0 && how != SHUT_WR && fd_word(fd) == sock_word(s) && s->kind == SOCK_LISTENER) {
        if (client_listener_shut(s->handle) != 0)
            (void)client_unlisten(s->handle);
        if (!sock_nonblock(s))
            sys_fcntl(fd, F_SETFL, (long)O_RDWR);
        sock_forget(s);
    }
    shim_unlock();
    return ret;
}

EXPORT int shutdown(int fd, int how)
{
    struct sock *s;
    uint64_t h;
    switch (fd_view(fd, &s, &h)) {
    case SOCK_FRESH: /* which would mark the placeholder */
        (void)sock_to_kernel(fd, s, false);
        break;
    case SOCK_SESSION: {
        if (how < SHUT_RD || how > SHUT_RDWR) {
            errno = EINVAL;
            return -1;
        }
        if (client_connecting(h) && client_connect_stop(h))
            return 0;
        int r = client_shutdown(h, how + 1); /* SHUT_RD 0 is BERTH_SHUT_RD 1, and so on */
        if (client_connected(h))
            client_set_connecting(h, false); /* the kernel takes it as told, too */
        if (r == BERTH_E_CLOSED || r == BERTH_E_RESET) {
            errno = ENOTCONN;
            return -1;
        }
        return r < 0 ? fail(r) : 0;
    }
    case SOCK_LISTENER:
        return shutdown_listener(fd, s, how);
    default:
        break;
    }
    return real.shutdown(fd, how);
}
