/* io.c - bytes in and out of a session: read, write and the calls that are the same with flags.
 *
 * The fast path is one table load, one call into libberth. Everything else, that is waiting, MSG_WAITALL, the
 * rest of a short write, errors, is in the slow halves, entered with the first result.
 */
#include <limits.h>
#include <string.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/sys.h"
#include "shim/shim.h"

#define IOV_SOME 16

extern void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, __SOCKADDR_ARG addr,
                       socklen_t *alen);

/* ---- what the program hands in ---- */

/* One buffer that needs no second look: it can be the program's, and there is something to move. */
static inline bool buffer_plain(const void *buf, size_t len)
{
    return likely(!pointer_wild(buf) && len - 1 < IO_MAX);
}

/* A list of buffers as the kernel takes it: `total` bytes, of which `good` lie before the first that cannot
 * be the program's. Those that nobody could ever have are refused at once (EFAULT), the others when a byte is
 * to be moved there. 0 or the errno. */
struct buffers {
    size_t total, good;
};

static int buffers_check(const struct iovec *iov, int count, struct buffers *b)
{
    bool wild = false;
    *b = (struct buffers){0, 0};
    if (count && pointer_wild(iov))
        return EFAULT;
    for (int i = 0; i < count; i++) {
        if ((ssize_t)iov[i].iov_len < 0)
            return EINVAL;
        if (iov[i].iov_len > IO_MAX && count > 1 && range_refused(iov[i].iov_base, iov[i].iov_len))
            return EFAULT;
        if (iov[i].iov_len && pointer_wild(iov[i].iov_base)) {
            if (pointer_refused(iov[i].iov_base))
                return EFAULT;
            wild = true;
        }
        b->total += iov[i].iov_len < IO_MAX - b->total ? iov[i].iov_len : IO_MAX - b->total;
        if (!wild)
            b->good = b->total;
    }
    return 0;
}

/* The part of iov from byte `from` to byte `to`, up to IOV_SOME entries. */
static int iov_part(const struct iovec *iov, int count, size_t from, size_t to, struct iovec out[IOV_SOME])
{
    int n = 0;
    size_t at = 0;
    for (int i = 0; i < count && n < IOV_SOME && at < to; at += iov[i++].iov_len) {
        size_t end = at + iov[i].iov_len, first = at < from ? from : at;
        if (end > to)
            end = to;
        if (end <= first)
            continue;
        out[n].iov_base = (char *)iov[i].iov_base + (first - at);
        out[n++].iov_len = end - first;
    }
    return n;
}

static ssize_t failed(int error)
{
    errno = error;
    return -1;
}

/* ---- in ---- */

/* MSG_TRUNC on a stream: the bytes are taken and thrown away (tcp(7)). */
static ssize_t discard(uint64_t h, size_t len)
{
    struct iovec spans[2];
    hold_begin();
    ssize_t n = client_read_spans(h, spans);
    if (n > 0) {
        size_t have = spans[0].iov_len + (n > 1 ? spans[1].iov_len : 0);
        n = (ssize_t)(have < len ? have : len);
        (void)client_read_consume(h, (size_t)n);
    }
    hold_end();
    return n;
}

/* How much a look without taking would bring: nothing is copied. */
static ssize_t measure(uint64_t h, size_t len)
{
    char byte;
    ssize_t r = client_read(h, &byte, 1, STREAM_PEEK);
    size_t have = r > 0 ? client_readable(h) : 0;
    return r <= 0 ? r : have < len ? (ssize_t)have : (ssize_t)len;
}

/* Bytes [done, total) of the buffers. */
static ssize_t read_once(uint64_t h, const struct iovec *iov, int count, size_t done, size_t total, int flags)
{
    uint32_t peek = flags & MSG_PEEK ? STREAM_PEEK : 0;
    struct iovec rest[IOV_SOME];
    if (unlikely(flags & MSG_TRUNC))
        return peek ? measure(h, total) : discard(h, total - done);
    if (done) {
        count = iov_part(iov, count, done, total, rest);
        iov = rest;
    }
    return count == 1 ? client_read(h, iov->iov_base, iov->iov_len, peek) : client_readv(h, iov, count, peek);
}

/* Under MSG_PEEK nothing that was seen goes, so a wait that is told of bytes may be told of the same ones
 * again. */
static int wait_more(struct waiting *w, uint64_t h, size_t least, bool again)
{
    struct timespec ms = {0, NS_PER_MS};
    if (!again)
        return waited(w, client_wait_for(h, EPOLLIN, least, waiting_deadline(w), &w->mark));
    if (clock_now() >= waiting_deadline(w))
        return EAGAIN;
    return sys_sleep_ppoll(&w->mark, NULL, 0, &ms, NULL) == -EINTR ? waited(w, BERTH_E_INTERRUPTED) : 0;
}

bool recv_told(uint64_t h, ssize_t r)
{
    return r == BERTH_E_CLOSED || (r == BERTH_E_RESET && !client_tell_reset(h));
}

/* From the first result on. `total` bytes are wanted, and waited for until `target` are there. */
static ssize_t recv_here(struct sock *s, uint64_t h, const struct iovec *iov, int count, size_t total,
                         int flags, ssize_t r)
{
    bool block = !(flags & MSG_DONTWAIT) && !sock_nonblock(s), peek = flags & MSG_PEEK, last = false;
    size_t lowat = client_lowat(h), done = 0;
    size_t target = flags & MSG_WAITALL ? total : lowat < total ? lowat : total;
    struct waiting w = waiting_since_now(session_rcv_timeout(s, h));
    w.moved = flags & CALL_MOVED;
    for (int error = 0;;) {
        if (r == BERTH_E_BUSY) {
            error = wait_span(&w, h, EPOLLIN, block);
            if (error)
                return done ? (ssize_t)done : failed(error);
            r = read_once(h, iov, count, peek ? 0 : done, total, flags);
            continue;
        }
        if (r == 0 || (!done && recv_told(h, r)))
            return unlikely(client_stopped(h)) ? failed(ENOTCONN) : (ssize_t)done;
        bool again = peek && r > 0 && (size_t)r == done;
        if (r > 0) {
            done = peek ? (size_t)r : done + (size_t)r;
            if (!block || done >= target || last)
                return (ssize_t)done;
        } else if (r != BERTH_E_WOULD_BLOCK) {
            return done ? (ssize_t)done : failed(error_number((int)r));
        } else if (!block || last) {
            return done ? (ssize_t)done : failed(last ? error : EAGAIN);
        }
        if (again && client_readiness(h) & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            return (ssize_t)done; /* nothing more comes */
        size_t least = target > 1 ? target - (peek ? 0 : done) : 1;
        w.moved = w.moved || done;
        error = wait_more(&w, h, least, again);
        last = error != 0; /* what is there all the same is the answer */
        if (last && done && !peek)
            return (ssize_t)done;
        if (last && target <= 1)
            return failed(error);
        r = read_once(h, iov, count, peek ? 0 : done, total, flags);
    }
}

/* The session may have gone back meanwhile (passed.c): then the descriptor is the kernel's. */
static __attribute__((noinline)) ssize_t recv_slow(int fd, struct sock *s, uint64_t h,
                                                   const struct iovec *iov, int count, size_t total,
                                                   int flags, ssize_t r)
{
    r = recv_here(s, h, iov, count, total, flags, r);
    if (likely(r >= 0 || errno != EBADF || !session_went_back(s, h)))
        return r;
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    return real.recvmsg(fd, &m, flags);
}

/* Whether a byte is there, an end (0) or an error. */
static ssize_t recv_look(int fd, struct sock *s, uint64_t h, int flags)
{
    char byte;
    struct iovec iov = {&byte, 1};
    flags = (flags & MSG_DONTWAIT) | MSG_PEEK;
    return recv_slow(fd, s, h, &iov, 1, 1, flags, read_once(h, &iov, 1, 0, 1, flags));
}

/* No byte can be stored: but whether one is there is waited for, and an end or an error is told. */
static ssize_t recv_nowhere(int fd, struct sock *s, uint64_t h, int flags)
{
    ssize_t r = recv_look(fd, s, h, flags);
    return r <= 0 ? r : failed(EFAULT);
}

/* No byte is asked for. As on Linux a look tells of an error, and a wait is just one: whatever ends it, that
 * was all. */
static ssize_t recv_none(int fd, struct sock *s, uint64_t h, int flags)
{
    int before = errno;
    ssize_t r = recv_look(fd, s, h, MSG_DONTWAIT);
    if (r >= 0)
        return 0;
    if (errno != EAGAIN || flags & MSG_DONTWAIT || sock_nonblock(s))
        return r;
    struct waiting w = waiting_since_now(session_rcv_timeout(s, h));
    (void)client_wait_for(h, EPOLLIN, 1, waiting_deadline(&w), &w.mark);
    errno = before;
    return 0;
}

ssize_t session_recv(int fd, struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags)
{
    struct buffers b;
    sleep_testcancel();
    int error = buffers_check(iov, count, &b);
    if (error)
        return failed(error);
    if (unlikely(flags & MSG_OOB))
        return failed(EINVAL); /* no urgent byte was ever sent */
    if (unlikely(flags & MSG_ERRQUEUE))
        return failed(EAGAIN);
    if (unlikely(!b.total))
        return recv_none(fd, s, h, flags);
    size_t total = flags & MSG_TRUNC ? b.total : b.good;
    if (unlikely(!total || (total < b.total &&
                            client_readable(h) > total))) /* all or nothing, as one packet's copy is */
        return recv_nowhere(fd, s, h, flags);
    struct iovec part[IOV_SOME];
    if (unlikely(total < b.total)) {
        count = iov_part(iov, count, 0, total, part);
        iov = part;
    }
    ssize_t r = read_once(h, iov, count, 0, total, flags);
    if (likely(r >= 0 && !(flags & MSG_WAITALL) && !client_lowat(h)))
        return r;
    return recv_slow(fd, s, h, iov, count, total, flags, r);
}

static inline ssize_t recv_plain(int fd, struct sock *s, uint64_t h, void *buf, size_t len)
{
    struct iovec iov = {buf, len};
    if (!buffer_plain(buf, len))
        return session_recv(fd, s, h, &iov, 1, 0);
    sleep_testcancel();
    ssize_t r = client_read(h, buf, len, 0);
    if (likely(r >= 0 && !client_lowat(h)))
        return r;
    return recv_slow(fd, s, h, &iov, 1, len, 0, r);
}

/* Unlike recv, read of nothing does not wait; and it does not cut what is longer than any memory. */
static ssize_t read_odd(int fd, struct sock *s, uint64_t h, void *buf, size_t len)
{
    sleep_testcancel();
    if (len > IO_MAX && range_refused(buf, len))
        return failed(EFAULT);
    struct iovec iov = {buf, len < IO_MAX ? len : IO_MAX};
    return len ? session_recv(fd, s, h, &iov, 1, 0) : 0;
}

EXPORT ssize_t read(int fd, void *buf, size_t len)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(fd, &s, &h))
        return buffer_plain(buf, len) ? recv_plain(fd, s, h, buf, len) : read_odd(fd, s, h, buf, len);
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
    struct buffers b;
    int error = buffers_check(iov, count, &b);
    return error ? failed(error) : b.total ? session_recv(fd, s, h, iov, count, 0) : 0;
}

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif
#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x100
#endif
#define RWF_KNOWN (RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND | RWF_NOSIGNAL)

/* preadv2(2): what its flags mean to a socket. */
static int flags_of_rwf(int flags)
{
    return (flags & RWF_NOWAIT ? MSG_DONTWAIT : 0) | (flags & RWF_NOSIGNAL ? MSG_NOSIGNAL : 0);
}

/* 1: there is something to move; else what the call is to say. */
static ssize_t vector_refused(const struct iovec *iov, int count, int rwf)
{
    struct buffers b;
    if (count < 0 || count > IOV_MAX)
        return failed(EINVAL);
    int error = buffers_check(iov, count, &b);
    if (error || !b.total)
        return error ? failed(error) : 0;
    return rwf & ~RWF_KNOWN ? failed(EOPNOTSUPP) : 1;
}

EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int count, off64_t at, int flags)
{
    struct sock *s;
    uint64_t h;
    if (at != -1 || !fd_session(fd, &s, &h)) /* a place in it is the kernel's to refuse */
        return real.preadv2(fd, iov, count, at, flags);
    ssize_t said = vector_refused(iov, count, flags);
    return said <= 0 ? said : session_recv(fd, s, h, iov, count, flags_of_rwf(flags));
}

EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t at, int flags)
{
    return preadv2(fd, iov, count, at, flags);
}

EXPORT ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.recv(fd, buf, len, flags);
    if (likely(!(flags & ~MSG_NOSIGNAL) && len < IO_MAX))
        return recv_plain(fd, s, h, buf, len);
    struct iovec iov = {buf, len < IO_MAX ? len : IO_MAX};
    return session_recv(fd, s, h, &iov, 1, flags);
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
    struct iovec iov = {buf, len < IO_MAX ? len : IO_MAX};
    ssize_t r = session_recv(fd, s, h, &iov, 1, flags);
    if (r < 0 || !addr.__sockaddr__)
        return r;
    if (pointer_wild(alen))
        return failed(EFAULT);
    if (*alen > INT32_MAX)
        return failed(EINVAL);
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

/* Bytes [done, total) of the buffers. */
static ssize_t write_once(uint64_t h, const struct iovec *iov, int count, size_t done, size_t total)
{
    struct iovec rest[IOV_SOME];
    if (done) {
        count = iov_part(iov, count, done, total, rest);
        iov = rest;
    }
    return count == 1 ? client_write(h, iov->iov_base, iov->iov_len) : client_writev(h, iov, count);
}

void broken_pipe(void)
{
    (void)sys_call(SYS_tgkill, sys_call(SYS_getpid, 0L, 0L, 0L, 0L), sys_call(SYS_gettid, 0L, 0L, 0L, 0L),
                   (long)SIGPIPE, 0L);
}

int send_error(uint64_t h, int berth_error)
{
    if (berth_error == BERTH_E_CLOSED) { /* of what is over, another error may be pending, and comes first */
        int error = client_take_error(h);
        return error ? error_number(error) : EPIPE;
    }
    return berth_error == BERTH_E_RESET && !client_tell_reset(h) ? EPIPE : error_number(berth_error);
}

static ssize_t send_here(struct sock *s, uint64_t h, const struct iovec *iov, int count, size_t total,
                         int flags, ssize_t r)
{
    bool block = !(flags & MSG_DONTWAIT) && !sock_nonblock(s);
    size_t done = 0;
    struct waiting w = waiting_since_now(session_snd_timeout(s, h));
    w.moved = flags & CALL_MOVED;
    for (;;) {
        int error = 0;
        if (r >= 0) {
            done += (size_t)r;
            if (done >= total)
                return (ssize_t)done;
            w.moved = w.moved || done;
        } else if (r == BERTH_E_BUSY) {
            error = wait_span(&w, h, EPOLLOUT, block);
        } else if (r == BERTH_E_WOULD_BLOCK) {
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
            return failed(error);
        }
        r = write_once(h, iov, count, done, total);
    }
}

/* As recv_slow. */
static __attribute__((noinline)) ssize_t send_slow(int fd, struct sock *s, uint64_t h,
                                                   const struct iovec *iov, int count, size_t total,
                                                   int flags, ssize_t r)
{
    r = send_here(s, h, iov, count, total, flags, r);
    if (likely(r >= 0 || errno != EBADF || !session_went_back(s, h)))
        return r;
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    return real.sendmsg(fd, &m, flags);
}

/* There is nothing to be sent from there: but room is waited for, and an end or an error is told. */
static ssize_t send_nowhere(struct sock *s, uint64_t h, int flags)
{
    struct waiting w = waiting_since_now(session_snd_timeout(s, h));
    bool block = !(flags & MSG_DONTWAIT) && !sock_nonblock(s);
    for (;;) {
        struct iovec spans[2];
        hold_begin();
        int n = client_write_spans(h, 1, spans), error = EFAULT;
        if (n > 0)
            (void)client_write_commit(h, 0);
        hold_end();
        if (n == BERTH_E_BUSY)
            error = wait_span(&w, h, EPOLLOUT, block);
        else if (n == BERTH_E_WOULD_BLOCK)
            error = block ? wait_session(&w, h, EPOLLOUT) : EAGAIN;
        else if (n <= 0)
            error = send_error(h, n);
        if (!error)
            continue;
        if (error == EPIPE && !(flags & MSG_NOSIGNAL))
            broken_pipe();
        return failed(error);
    }
}

ssize_t session_send(int fd, struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags)
{
    struct buffers b;
    sleep_testcancel();
    int error = buffers_check(iov, count, &b);
    if (error)
        return failed(error);
    if (unlikely(flags & MSG_OOB))
        return failed(EOPNOTSUPP);
    if (unlikely(b.good < b.total))
        return send_nowhere(s, h, flags);
    ssize_t r = write_once(h, iov, count, 0, b.total);
    if (likely(r == (ssize_t)b.total))
        return r;
    return send_slow(fd, s, h, iov, count, b.total, flags, r);
}

static inline ssize_t send_plain(int fd, struct sock *s, uint64_t h, const void *buf, size_t len, int flags)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    if (!buffer_plain(buf, len)) {
        iov.iov_len = len < IO_MAX ? len : IO_MAX;
        return session_send(fd, s, h, &iov, 1, flags);
    }
    sleep_testcancel();
    ssize_t r = client_write(h, buf, len);
    if (likely(r == (ssize_t)len))
        return r;
    return send_slow(fd, s, h, &iov, 1, len, flags, r);
}

EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(fd, &s, &h))
        return unlikely(len > IO_MAX) && range_refused(buf, len) ? failed(EFAULT)
                                                                 : send_plain(fd, s, h, buf, len, 0);
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
    return session_send(fd, s, h, iov, count, 0);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int count, off64_t at, int flags)
{
    struct sock *s;
    uint64_t h;
    if (at != -1 || !fd_session(fd, &s, &h))
        return real.pwritev2(fd, iov, count, at, flags);
    ssize_t said = vector_refused(iov, count, flags);
    return said <= 0 ? said : session_send(fd, s, h, iov, count, flags_of_rwf(flags));
}

EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t at, int flags)
{
    return pwritev2(fd, iov, count, at, flags);
}

EXPORT ssize_t send(int fd, const void *buf, size_t len, int flags)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return real.send(fd, buf, len, flags);
    if (likely(!(flags & MSG_OOB)))
        return send_plain(fd, s, h, buf, len, flags);
    errno = EOPNOTSUPP;
    return -1;
}

EXPORT ssize_t sendto(int fd, const void *buf, size_t len, int flags, __CONST_SOCKADDR_ARG addr,
                      socklen_t alen)
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
