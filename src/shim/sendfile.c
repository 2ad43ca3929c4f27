/* sendfile.c - sendfile and splice where one end is a session: the file is read straight into the fifo's free room,
 * the fifo's bytes are written straight to the pipe and taken only as far as that went.
 *
 * A span of the fifo is never open while anybody sleeps: other threads could not read or write meanwhile. So each end is waited
 * for first, and pipes are then read and written by preadv2 and pwritev2 with RWF_NOWAIT, since another process may have been
 * faster. Where the kernel knows that only for files (before 6.4), a pipe that has room takes PIPE_BUF bytes without a wait.
 *
 * As the kernel has it: SPLICE_F_NONBLOCK is about the pipe, O_NONBLOCK of the socket about the socket; a splice out of a
 * session ends with the first bytes, one into a session with the last that are in the pipe.
 */
#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>

#include "base/clock.h"
#include "base/sys.h"
#include "shim/shim.h"

#ifndef SYS_preadv2
#error "preadv2 and pwritev2 are of Linux 4.6"
#endif
#define NOWAIT 8L /* RWF_NOWAIT */
#define PIECE (1u << 20)
#define SPLICE_FLAGS (SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT)

/* Spans cut to `left` bytes; how many are left of them. */
static int cut_spans(struct iovec *spans, int n, size_t left)
{
    if (spans[0].iov_len >= left) {
        spans[0].iov_len = left;
        return 1;
    }
    if (n > 1 && spans[1].iov_len > left - spans[0].iov_len)
        spans[1].iov_len = left - spans[0].iov_len;
    return n;
}

static bool is_pipe(int fd)
{
    return sys_fcntl(fd, F_GETPIPE_SZ, 0L) >= 0;
}

/* Until the pipe may be ready. 0 or the errno. */
static int wait_pipe(int fd, short events, bool block, struct waiting *w)
{
    struct pollfd p = {.fd = fd, .events = events};
    struct timespec zero = {0, 0};
    for (;;) {
        long n = block ? sys_sleep_ppoll(&w->mark, &p, 1, NULL, NULL) : sys_ppoll(&p, 1, &zero, NULL);
        if (n > 0)
            return p.revents & POLLNVAL ? EBADF : 0;
        if (n == 0)
            return EAGAIN;
        int error = n == -EINTR ? waited(w, BERTH_E_INTERRUPTED) : (int)-n;
        if (error)
            return error;
    }
}

/* Both without a wait. A count or -errno. */
static ssize_t pipe_read(int fd, const struct iovec *spans, int n)
{
    long got = sys_call6(SYS_preadv2, fd, sys_arg(spans), n, -1, -1, NOWAIT);
    return got == -EOPNOTSUPP ? sys_call(SYS_readv, (long)fd, spans, (long)n, 0L) : got;
}

static ssize_t pipe_write(int fd, struct iovec *spans, int n)
{
    long put = sys_call6(SYS_pwritev2, fd, sys_arg(spans), n, -1, -1, NOWAIT);
    if (put != -EOPNOTSUPP)
        return put;
    n = cut_spans(spans, n, PIPE_BUF);
    return sys_call(SYS_writev, (long)fd, spans, (long)n, 0L);
}

/* ---- into a session ---- */

struct source {
    int fd;
    bool pipe;
    off64_t *off;  /* NULL: where the file stands */
    bool unproved; /* nobody has asked yet whether it can be read from */
};

static ssize_t source_read(const struct source *in, const struct iovec *spans, int n)
{
    if (in->pipe)
        return pipe_read(in->fd, spans, n);
    if (in->off)
        return sys_call6(SYS_preadv, in->fd, sys_arg(spans), n, (long)*in->off, 0, 0);
    return sys_call(SYS_readv, (long)in->fd, spans, (long)n, 0L);
}

/* What is read is lost, as the first bytes are that a socket sends after its peer's close. */
static ssize_t source_lose(const struct source *in, size_t count)
{
    char lost[4096];
    size_t done = 0;
    while (done < count) {
        struct iovec to = {lost, sizeof lost < count - done ? sizeof lost : count - done};
        ssize_t n = source_read(in, &to, 1);
        if (n <= 0)
            return done ? (ssize_t)done : n;
        done += (size_t)n;
        if (in->off)
            *in->off += n;
    }
    return (ssize_t)done;
}

/* Asked where nothing else would tell: what the kernel refuses at once shall not wait for room first. */
static bool source_unreadable(struct source *in)
{
    if (!in->unproved)
        return false;
    long flags = sys_fcntl(in->fd, F_GETFL, 0L);
    in->unproved = false;
    return flags < 0 || (flags & O_ACCMODE) == O_WRONLY;
}

static int room_in_session(struct sock *s, uint64_t h, struct source *in, size_t want, struct iovec *spans, int *n,
                           struct waiting *w)
{
    for (;;) {
        *n = client_write_spans(h, want, spans);
        if (*n > 0)
            return 0;
        if (source_unreadable(in))
            return EBADF;
        if (*n != BERTH_E_WOULD_BLOCK && *n != BERTH_E_BUSY)
            return *n ? send_error(h, *n) : EIO;
        int error = sock_nonblock(s) ? EAGAIN : wait_session(w, h, EPOLLOUT);
        if (error)
            return error;
    }
}

static ssize_t into_session(struct sock *s, uint64_t h, struct source in, size_t count, bool nonblock)
{
    struct waiting ws = waiting_since_now(s->snd_timeout), wp = waiting_since_now(0);
    size_t done = 0;
    int error = 0;
    while (done < count) {
        if (in.pipe && (error = wait_pipe(in.fd, POLLIN, !done && !nonblock, &wp)) != 0)
            break;
        struct iovec spans[2];
        size_t left = count - done;
        int n;
        if ((error = room_in_session(s, h, &in, left < PIECE ? left : PIECE, spans, &n, &ws)) != 0) {
            if (error == EPIPE && !done && client_write_lost(h))
                return source_lose(&in, left);
            break;
        }
        n = cut_spans(spans, n, left);
        ssize_t got = source_read(&in, spans, n);
        int r = client_write_commit(h, got > 0 ? (size_t)got : 0);
        if (got == -EAGAIN && in.pipe)
            continue; /* another reader was faster */
        if (got <= 0) {
            error = (int)-got;
            break;
        }
        if (r < 0) {
            error = send_error(h, r);
            break;
        }
        if (in.off)
            *in.off += got;
        done += (size_t)got;
    }
    if (done || !error)
        return (ssize_t)done;
    if (error == EPIPE)
        broken_pipe();
    errno = error;
    return -1;
}

/* ---- out of a session, into a pipe ---- */

static ssize_t out_of_session(struct sock *s, uint64_t h, int out, size_t count, bool nonblock)
{
    struct waiting ws = waiting_since_now(s->rcv_timeout), wp = waiting_since_now(0);
    for (;;) {
        struct iovec spans[2];
        int error = wait_pipe(out, POLLOUT, !nonblock, &wp), n = 0;
        if (!error) {
            n = client_read_spans(h, spans);
            if (n == 0 || recv_told(h, n))
                return 0;
            if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_BUSY)
                error = sock_nonblock(s) ? EAGAIN : wait_session(&ws, h, EPOLLIN);
            else if (n < 0)
                error = error_number(n);
        }
        if (n > 0) {
            n = cut_spans(spans, n, count);
            ssize_t put = pipe_write(out, spans, n);
            (void)client_read_consume(h, put > 0 ? (size_t)put : 0); /* broken meanwhile: the next read tells */
            if (put >= 0)
                return put;
            error = put == -EAGAIN ? 0 : (int)-put; /* another writer was faster */
        }
        if (error) {
            errno = error;
            return -1;
        }
    }
}

/* ---- the calls ---- */

/* Of sockets sendfile takes nothing, but into a pipe: that is a splice (Linux 5.12). */
static int sendfile_out_of(struct sock *s, uint64_t h, int out, const off64_t *off, size_t count, ssize_t *done)
{
    long flags = sys_fcntl(out, F_GETFL, 0L);
    if (off && pointer_wild(off))
        return EFAULT;
    if (off)
        return ESPIPE;
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return EBADF;
    if (!is_pipe(out))
        return EINVAL;
    *done = count ? out_of_session(s, h, out, count < IO_MAX ? count : IO_MAX, flags & O_NONBLOCK) : 0;
    return 0;
}

static int sendfile_into(struct sock *s, uint64_t h, int in, off64_t *off, size_t count, ssize_t *done)
{
    struct source from = {.fd = in, .off = off, .unproved = true};
    if (!off || !count || pointer_wild(off) || *off < 0) { /* else the read says whether it can be read from */
        if (source_unreadable(&from))
            return EBADF;
        if (off && pointer_wild(off))
            return EFAULT;
        if (off ? *off < 0 : sys_call(SYS_lseek, (long)in, 0L, (long)SEEK_CUR, 0) < 0)
            return EINVAL; /* of what has no places the kernel takes nothing either */
    }
    *done = into_session(s, h, from, count < IO_MAX ? count : IO_MAX, false);
    return 0;
}

EXPORT ssize_t sendfile64(int out, int in, off64_t *off, size_t count)
{
    struct sock *s;
    uint64_t h;
    bool from = fd_session(in, &s, &h);
    if (!from && !fd_session(out, &s, &h))
        return real.sendfile64(out, in, off, count);
    int state = PTHREAD_CANCEL_ENABLE; /* it is no point of cancellation */
    bool alone = __libc_single_threaded;
    if (!alone)
        (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    ssize_t done = -1;
    int error = from ? sendfile_out_of(s, h, out, off, count, &done) : sendfile_into(s, h, in, off, count, &done);
    if (!alone)
        (void)pthread_setcancelstate(state, NULL);
    if (error)
        errno = error;
    return done;
}

/* off_t is 64 bits wide on every machine berth runs on. */
EXPORT ssize_t sendfile(int out, int in, off_t *off, size_t count)
{
    return sendfile64(out, in, off, count);
}

/* What the kernel would say before it does anything, or 0. */
static int splice_refused(int in, const off64_t *in_off, int out, const off64_t *out_off, bool from)
{
    int pipe = from ? out : in;
    long flags = sys_fcntl(pipe, F_GETFL, 0L);
    if (flags < 0)
        return EBADF;
    bool piped = is_pipe(pipe);
    if (piped && (from ? out_off : in_off))
        return ESPIPE;
    if ((from ? in_off : out_off) && pointer_wild(from ? in_off : out_off))
        return EFAULT;
    if ((flags & O_ACCMODE) == (from ? O_RDONLY : O_WRONLY))
        return EBADF;
    return !piped || (from ? in_off : out_off) ? EINVAL : 0;
}

EXPORT ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
    struct sock *s;
    uint64_t h;
    bool from = fd_session(in, &s, &h);
    if (!from && !fd_session(out, &s, &h))
        return real.splice(in, in_off, out, out_off, len, flags);
    sleep_testcancel();
    if (!len)
        return 0;
    int error = flags & ~SPLICE_FLAGS ? EINVAL : splice_refused(in, in_off, out, out_off, from);
    if (error) {
        errno = error;
        return -1;
    }
    len = len < IO_MAX ? len : IO_MAX;
    bool nonblock = flags & SPLICE_F_NONBLOCK;
    if (from)
        return out_of_session(s, h, out, len, nonblock || sys_fcntl(out, F_GETFL, 0L) & O_NONBLOCK);
    return into_session(s, h, (struct source){.fd = in, .pipe = true}, len, nonblock);
}
