/* io.c - bytes in and out of a session: read, write and the calls that are the same with flags.
 *
 * The fast path is one table load, one call into libberth. Everything else, that is waiting, MSG_WAITALL, the rest of a
 * short write, errors, is in the slow halves, entered with the first result.
 */
#include <limits.h>
#include <string.h>

#include "base/clock.h"
#include "base/sys.h"
#include "shim/shim.h"

#define IOV_SOME 16

extern void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, __SOCKADDR_ARG addr, socklen_t *alen);

static size_t iov_total(const struct iovec *iov, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += iov[i].iov_len;
    return total;
}

/* The part of iov behind `skip` bytes, up to IOV_SOME entries. */
static int iov_after(const struct iovec *iov, int count, size_t skip, struct iovec out[IOV_SOME])
{
    int n = 0;
    for (int i = 0; i < count && n < IOV_SOME; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        out[n].iov_base = (char *)iov[i].iov_base + skip;
        out[n++].iov_len = iov[i].iov_len - skip;
        skip = 0;
    }
    return n;
}

/* ---- in ---- */

static ssize_t read_once(uint64_t h, const struct iovec *iov, int count, size_t done, int flags)
{
    uint32_t peek = flags & MSG_PEEK ? STREAM_PEEK : 0;
    struct iovec rest[IOV_SOME];
    if (done || count > 1) {
        if (done) {
            count = iov_after(iov, count, done, rest);
            iov = rest;
        }
        return client_readv(h, iov, count, peek);
    }
    return count ? client_read(h, iov->iov_base, iov->iov_len, peek) : 0;
}

static __attribute__((noinline)) ssize_t recv_slow(struct sock *s, uint64_t h, const struct iovec *iov, int count,
                                                   int flags, ssize_t r)
{
    bool block = !(flags & MSG_DONTWAIT) && !s->nonblock;
    bool all = (flags & MSG_WAITALL) && !(flags & MSG_PEEK) && block;
    size_t done = 0, total = all ? iov_total(iov, count) : 0;
    struct waiting w = waiting_since_now(s->rcv_timeout);
    int error = 0;
    for (;;) {
        if (r == 0 || (r == BERTH_E_RESET && !done && !client_tell_reset(h)))
            return (ssize_t)done;
        if (r > 0) {
            done += (size_t)r;
            if (!all || done >= total)
                return (ssize_t)done;
        } else if (r == BERTH_E_WOULD_BLOCK || r == BERTH_E_BUSY) {
            error = block ? wait_session(&w, h, EPOLLIN) : EAGAIN;
        } else {
            error = error_number((int)r);
        }
        if (error) {
            if (done)
                return (ssize_t)done;
            errno = error;
            return -1;
        }
        r = read_once(h, iov, count, done, flags);
    }
}

/* MSG_TRUNC on a stream: the bytes are taken and thrown away (tcp(7)). */
static ssize_t recv_discard(uint64_t h, size_t len)
{
    struct iovec spans[2];
    size_t done = 0;
    while (done < len) {
        int n = client_read_spans(h, spans);
        if (n <= 0)
            return done ? (ssize_t)done : n;
        size_t have = spans[0].iov_len + (n > 1 ? spans[1].iov_len : 0);
        size_t take = have < len - done ? have : len - done;
        (void)client_read_consume(h, take);
        done += take;
    }
    return (ssize_t)done;
}

/* MSG_PEEK | MSG_WAITALL: until all of it is there, or the end. Nobody is told of the second byte that nobody reads the first
 * of, so this looks each millisecond. */
static void wait_all(struct sock *s, uint64_t h, size_t total)
{
    struct waiting w = waiting_since_now(s->rcv_timeout);
    while (client_readable(h) < total && !(client_readiness(h) & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
        struct timespec ms = {0, NS_PER_MS};
        long n = sys_sleep_ppoll(&w.mark, NULL, 0, &ms, NULL);
        if (clock_now() >= waiting_deadline(&w) || waited(&w, n < 0 ? BERTH_E_INTERRUPTED : 0))
            return;
    }
}

ssize_t session_recv(struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags)
{
    sleep_testcancel();
    if (unlikely(flags & (MSG_OOB | MSG_ERRQUEUE | MSG_TRUNC))) {
        if (flags & MSG_OOB) {
            errno = EINVAL; /* no urgent byte was ever sent */
            return -1;
        }
        if (flags & MSG_ERRQUEUE) {
            errno = EAGAIN;
            return -1;
        }
        if (!(flags & MSG_PEEK)) {
            size_t len = iov_total(iov, count);
            bool block = !(flags & MSG_DONTWAIT) && !s->nonblock;
            struct waiting w = waiting_since_now(s->rcv_timeout);
            ssize_t r;
            while ((r = recv_discard(h, len)) == BERTH_E_WOULD_BLOCK && block) {
                int error = wait_session(&w, h, EPOLLIN);
                if (error) {
                    errno = error;
                    return -1;
                }
            }
            return r < 0 ? fail((int)r) : r;
        }
    }
    if (unlikely((flags & (MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT)) == (MSG_PEEK | MSG_WAITALL) && !s->nonblock))
        wait_all(s, h, iov_total(iov, count));
    ssize_t r = read_once(h, iov, count, 0, flags);
    if (likely(r >= 0 && !(flags & MSG_WAITALL)))
        return r;
    return recv_slow(s, h, iov, count, flags, r);
}

static inline ssize_t recv_plain(struct sock *s, uint64_t h, void *buf, size_t len)
{
    sleep_testcancel();
    ssize_t r = client_read(h, buf, len, 0);
    if (likely(r >= 0))
        return r;
    struct iovec iov = {buf, len};
    return recv_slow(s, h, &iov, 1, 0, r);
}

EXPORT ssize_t read(int fd, void *buf, size_t len)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(fd, &s, &h))
        return recv_plain(s, h, buf, len);
    return real.read(fd, buf, len);
}

EXPORT ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
    if (len > room)
        __chk_fail();
    return read(fd, buf, len);
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.readv(fd, iov, count);
    if (count < 0 || count > IOV_MAX) {
        errno = EINVAL;
        return -1;
    }
    return session_recv(s, h, iov, count, 0);
}

EXPORT ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.recv(fd, buf, len, flags);
    if (likely(!(flags & ~MSG_NOSIGNAL)))
        return recv_plain(s, h, buf, len);
    struct iovec iov = {buf, len};
    return session_recv(s, h, &iov, 1, flags);
}

EXPORT ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
    if (len > room)
        __chk_fail();
    return recv(fd, buf, len, flags);
}

EXPORT ssize_t recvfrom(int fd, void *buf, size_t len, int flags, __SOCKADDR_ARG addr, socklen_t *alen)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.recvfrom(fd, buf, len, flags, addr.__sockaddr__, alen);
    struct iovec iov = {buf, len};
    ssize_t r = session_recv(s, h, &iov, 1, flags);
    if (r >= 0 && addr.__sockaddr__ && alen)
        *alen = 0; /* TCP names no sender */
    return r;
}

EXPORT ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, __SOCKADDR_ARG addr,
                              socklen_t *alen)
{
    if (len > room)
        __chk_fail();
    return recvfrom(fd, buf, len, flags, addr, alen);
}

/* ---- out ---- */

static ssize_t write_once(uint64_t h, const struct iovec *iov, int count, size_t done)
{
    struct iovec rest[IOV_SOME];
    if (done || count > 1) {
        if (done) {
            count = iov_after(iov, count, done, rest);
            iov = rest;
        }
        return client_writev(h, iov, count);
    }
    return count ? client_write(h, iov->iov_base, iov->iov_len) : 0;
}

void broken_pipe(void)
{
    (void)sys_call(SYS_tgkill, sys_call(SYS_getpid, 0L, 0L, 0L, 0L), sys_call(SYS_gettid, 0L, 0L, 0L, 0L),
                   (long)SIGPIPE, 0L);
}

int send_error(uint64_t h, int berth_error)
{
    return berth_error == BERTH_E_RESET && !client_tell_reset(h) ? EPIPE : error_number(berth_error);
}

static __attribute__((noinline)) ssize_t send_slow(struct sock *s, uint64_t h, const struct iovec *iov, int count,
                                                   int flags, ssize_t r)
{
    bool block = !(flags & MSG_DONTWAIT) && !s->nonblock;
    size_t done = 0, total = iov_total(iov, count);
    struct waiting w = waiting_since_now(s->snd_timeout);
    for (;;) {
        int error = 0;
        if (r >= 0) {
            done += (size_t)r;
            if (done >= total)
                return (ssize_t)done;
        } else if (r == BERTH_E_WOULD_BLOCK || r == BERTH_E_BUSY) {
            error = block ? wait_session(&w, h, EPOLLOUT) : EAGAIN;
        } else {
            if (r == BERTH_E_CLOSED && !done && client_write_lost(h))
                return (ssize_t)total;
            error = done ? error_number((int)r) : send_error(h, (int)r);
        }
        if (error) {
            if (done)
                return (ssize_t)done;
            if (error == EPIPE && !(flags & MSG_NOSIGNAL))
                broken_pipe();
            errno = error;
            return -1;
        }
        r = write_once(h, iov, count, done);
    }
}

ssize_t session_send(struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags)
{
    sleep_testcancel();
    if (unlikely(flags & MSG_OOB)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    ssize_t r = write_once(h, iov, count, 0);
    if (likely(count == 1 && r == (ssize_t)iov->iov_len))
        return r;
    return send_slow(s, h, iov, count, flags, r);
}

static inline ssize_t send_plain(struct sock *s, uint64_t h, const void *buf, size_t len, int flags)
{
    sleep_testcancel();
    ssize_t r = client_write(h, buf, len);
    if (likely(r == (ssize_t)len))
        return r;
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    return send_slow(s, h, &iov, 1, flags, r);
}

EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(fd, &s, &h))
        return send_plain(s, h, buf, len, 0);
    return real.write(fd, buf, len);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.writev(fd, iov, count);
    if (count < 0 || count > IOV_MAX) {
        errno = EINVAL;
        return -1;
    }
    return session_send(s, h, iov, count, 0);
}

EXPORT ssize_t send(int fd, const void *buf, size_t len, int flags)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.send(fd, buf, len, flags);
    if (likely(!(flags & MSG_OOB)))
        return send_plain(s, h, buf, len, flags);
    errno = EOPNOTSUPP;
    return -1;
}

EXPORT ssize_t sendto(int fd, const void *buf, size_t len, int flags, __CONST_SOCKADDR_ARG addr, socklen_t alen)
{
    struct sock *s;
    uint64_t h;
    switch (fd_view(fd, &s, &h)) {
    case SOCK_SESSION:
        return send(fd, buf, len, flags);
    case SOCK_FRESH:
        if (flags & MSG_FASTOPEN)
            (void)sock_to_kernel(fd, s, false);
        break;
    default:
        break;
    }
    return real.sendto(fd, buf, len, flags, addr.__sockaddr__, alen);
}
