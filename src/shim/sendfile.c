/* sendfile.c - sendfile and splice where one end is a session: the file is read straight into the fifo's free
 * room, the fifo's bytes are written straight to the pipe and taken only as far as that went.
 *
 * A span of the fifo is never open over a call that can block: other threads could not read or write
 * meanwhile, as they can on the kernel, which reads a file before it takes the socket's lock. So each end is
 * waited for first, and read and written with RWF_NOWAIT.
 *   - Bytes of a file that are not in the kernel's memory, and those of a file system that knows no such flag
 *     (but for tmpfs, which has all in memory), are read into a buffer of ours, and written from there. What
 *     then finds no room is given back: the file stands where the sent bytes end.
 *   - Of a pipe no byte can be given back. Where the kernel knows the flag not for pipes (before 6.4) or not
 *     for this one (a FIFO with a name), the bytes go by way of a pipe of our own, since splice between two
 *     pipes can be told not to wait.
 * Nor does a handler of the program run while a span is open: it could write to the same session, or not come
 * back.
 *
 * As the kernel has it: SPLICE_F_NONBLOCK is about the pipe, O_NONBLOCK of the socket about the socket; a
 * splice out of a session ends with the first bytes, one into a session with the last that are in the pipe.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/vfs.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/sys.h"
#include "shim/shim.h"

#ifndef SYS_preadv2
#error "preadv2 and pwritev2 are of Linux 4.6"
#endif
#define NOWAIT 8L /* RWF_NOWAIT */
#define PIECE (1u << 20)
#define ASIDE 65536
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

static long pipe_of_ours(int own[2])
{
    return sys_pipe2(own, O_NONBLOCK | O_CLOEXEC);
}

static void pipe_of_ours_close(const int own[2])
{
    sys_close(own[0]);
    sys_close(own[1]);
}

static long splice_now(int in, int out, size_t len)
{
    return sys_call6(SYS_splice, in, 0, out, 0, (long)len, SPLICE_F_NONBLOCK);
}

/* As much of the pipe as goes without a wait. Without a free descriptor there is no other way than to read:
 * then only another reader that was faster could make it wait. */
static ssize_t pipe_read_by_ours(int fd, struct iovec *spans, int n)
{
    int own[2] = {-1, -1};
    if (pipe_of_ours(own) < 0)
        return sys_call(SYS_readv, (long)fd, spans, (long)n, 0L);
    long got = splice_now(fd, own[1], spans[0].iov_len + (n > 1 ? spans[1].iov_len : 0));
    if (got > 0)
        got = sys_call(SYS_readv, (long)own[0], spans, (long)cut_spans(spans, n, (size_t)got), 0L);
    pipe_of_ours_close(own);
    return got;
}

/* What the pipe does not take stays in ours, and goes with it: the caller still has it. */
static ssize_t pipe_write_by_ours(int fd, struct iovec *spans, int n)
{
    int own[2] = {-1, -1};
    if (pipe_of_ours(own) < 0)
        return sys_call(SYS_writev, (long)fd, spans, (long)cut_spans(spans, n, PIPE_BUF), 0L);
    long put = sys_call(SYS_writev, (long)own[1], spans, (long)n, 0L);
    if (put > 0)
        put = splice_now(own[0], fd, (size_t)put);
    pipe_of_ours_close(own);
    return put;
}

/* Both without a wait. A count or -errno. */
static ssize_t pipe_read(int fd, struct iovec *spans, int n)
{
    long got = sys_call6(SYS_preadv2, fd, sys_arg(spans), n, -1, -1, NOWAIT);
    return got == -EOPNOTSUPP ? pipe_read_by_ours(fd, spans, n) : got;
}

static ssize_t pipe_write(int fd, struct iovec *spans, int n)
{
    long put = sys_call6(SYS_pwritev2, fd, sys_arg(spans), n, -1, -1, NOWAIT);
    return put == -EOPNOTSUPP ? pipe_write_by_ours(fd, spans, n) : put;
}

/* ---- into a session ---- */

struct source {
    int fd;
    bool pipe;
    off64_t *off;  /* NULL: where the file stands */
    bool unproved; /* nobody has asked yet whether it can be read from */
    bool waits;    /* a file that cannot be told not to */
    bool memory;   /* such a one, but nothing that it would wait for */
};

/* Without a wait. -EAGAIN, -EOPNOTSUPP: that cannot be. */
static ssize_t source_read_now(const struct source *in, struct iovec *spans, int n)
{
    if (in->pipe)
        return pipe_read(in->fd, spans, n);
    return sys_call6(SYS_preadv2, in->fd, sys_arg(spans), n, in->off ? (long)*in->off : -1L,
                     in->off ? 0 : -1L, in->memory ? 0 : NOWAIT);
}

/* The file system does not know RWF_NOWAIT. */
static void source_may_wait(struct source *in)
{
    struct statfs fs = {.f_type = 0};
    in->memory = sys_call(SYS_fstatfs, (long)in->fd, &fs, 0L, 0) == 0 && fs.f_type == TMPFS_MAGIC;
    in->waits = !in->memory;
}

static ssize_t source_read(const struct source *in, struct iovec *spans, int n)
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

/* After a write or its like has said `n`. 0: look again, or the errno. */
static int no_room(struct sock *s, uint64_t h, struct source *in, ssize_t n, struct waiting *w)
{
    if (source_unreadable(in))
        return EBADF;
    if (n == BERTH_E_BUSY)
        return wait_span(w, h, EPOLLOUT, !sock_nonblock(s));
    if (n != BERTH_E_WOULD_BLOCK)
        return n ? send_error(h, (int)n) : EIO;
    return sock_nonblock(s) ? EAGAIN : wait_session(w, h, EPOLLOUT);
}

/* Straight into the fifo. What the session says; where that is above 0, *got is what the source says. */
static int read_straight(uint64_t h, const struct source *in, size_t want, ssize_t *got)
{
    struct iovec spans[2];
    hold_begin();
    int n = client_write_spans(h, want, spans);
    if (n > 0) {
        *got = in->waits ? -EAGAIN : source_read_now(in, spans, cut_spans(spans, n, want));
        int err = client_write_commit(h, *got > 0 ? (size_t)*got : 0);
        n = err < 0 ? err : n;
    }
    hold_end();
    return n;
}

static void *spare; /* a buffer that nobody uses */

static void *buffer_take(void)
{
    void *buf = exchange_sc(&spare, NULL);
    long at =
        buf ? 0 : sys_call6(SYS_mmap, 0, ASIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buf ? buf : at < 0 && at > -4096 ? NULL : (void *)at;
}

static void buffer_give(void *buf)
{
    void *old = exchange_sc(&spare, buf);
    if (old)
        (void)sys_call(SYS_munmap, old, (long)ASIDE, 0L, 0);
}

/* The same by way of a buffer, since the read may wait. How many went or -errno; *error: why not all that
 * were read. */
static ssize_t read_aside(struct sock *s, uint64_t h, struct source *in, size_t want, struct waiting *w,
                          int *error)
{
    char *piece = buffer_take();
    if (!piece)
        return -ENOMEM;
    struct iovec to = {piece, want < ASIDE ? want : ASIDE};
    ssize_t got = source_read(in, &to, 1), put = 0;
    while (put < got && !*error) {
        ssize_t n = client_write(h, piece + put, (size_t)(got - put));
        w->moved = w->moved || n > 0;
        if (n > 0)
            put += n;
        else
            *error = no_room(s, h, in, n, w);
    }
    if (put < got && !in->off)
        (void)sys_call(SYS_lseek, (long)in->fd, (long)(put - got), (long)SEEK_CUR, 0);
    buffer_give(piece);
    return got < 0 ? got : put;
}

static ssize_t into_session(struct sock *s, uint64_t h, struct source in, size_t count, bool nonblock)
{
    struct waiting ws = waiting_since_now(session_snd_timeout(s, h)), wp = waiting_since_now(0);
    size_t done = 0;
    int error = 0;
    while (done < count && !error) {
        ws.moved = wp.moved = done > 0;
        if (in.pipe && (error = wait_pipe(in.fd, POLLIN, !done && !nonblock, &wp)) != 0)
            break;
        size_t left = count - done, want = left < PIECE ? left : PIECE;
        ssize_t got = 0;
        int n = read_straight(h, &in, want, &got);
        if (n <= 0) {
            error = no_room(s, h, &in, n, &ws);
        } else if (got == -EAGAIN && in.pipe) {
            continue; /* another reader was faster */
        } else if (got == -EOPNOTSUPP) {
            source_may_wait(&in);
            continue;
        } else if (got == -EAGAIN) {
            got = read_aside(s, h, &in, want, &ws, &error);
        }
        if (error == EPIPE && !done && got <= 0 && client_write_lost(h))
            return source_lose(&in, left);
        if (n > 0 && got < 0)
            error = (int)-got;
        if (n > 0 && got == 0 && !error)
            break; /* its end */
        if (got > 0 && n > 0) {
            done += (size_t)got;
            if (in.off)
                *in.off += got;
        }
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
    struct waiting ws = waiting_since_now(session_rcv_timeout(s, h)), wp = waiting_since_now(0);
    for (;;) {
        struct iovec spans[2];
        int error = wait_pipe(out, POLLOUT, !nonblock, &wp), n;
        if (!error) {
            ssize_t put = -EAGAIN;
            hold_begin();
            n = client_read_spans(h, spans);
            if (n > 0) {
                put = pipe_write(out, spans, cut_spans(spans, n, count));
                /* broken meanwhile: the next read tells */
                (void)client_read_consume(h, put > 0 ? (size_t)put : 0);
            }
            hold_end();
            if (n == 0 || recv_told(h, n))
                return 0;
            if (n > 0 && put >= 0)
                return put;
            if (n > 0)
                error = put == -EAGAIN ? 0 : (int)-put; /* another writer was faster */
            else if (n == BERTH_E_BUSY)
                error = wait_span(&ws, h, EPOLLIN, !sock_nonblock(s));
            else if (n == BERTH_E_WOULD_BLOCK)
                error = sock_nonblock(s) ? EAGAIN : wait_session(&ws, h, EPOLLIN);
            else
                error = error_number(n);
        }
        if (error) {
            errno = error;
            return -1;
        }
    }
}

/* ---- the calls ---- */

/* Of sockets sendfile takes nothing, but into a pipe: that is a splice (Linux 5.12). */
static int sendfile_out_of(struct sock *s, uint64_t h, int out, const off64_t *off, size_t count,
                           ssize_t *done)
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
    /* else the read says whether it can be read from */
    if (!off || !count || pointer_wild(off) || *off < 0) {
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
    int error =
        from ? sendfile_out_of(s, h, out, off, count, &done) : sendfile_into(s, h, in, off, count, &done);
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
