/* sendfile.c - sendfile and splice where one end is a session: the file is read straight into the fifo's free room,
 * the fifo's bytes are written straight to the other descriptor and taken only as far as that went.
 */
#include <fcntl.h>
#include <sys/sendfile.h>

#include "base/clock.h"
#include "base/sys.h"
#include "shim/shim.h"

#define PIECE (1u << 20)

/* Reads into spans. A count, 0 at the end, or -errno. off: NULL uses the file's own offset. */
static ssize_t fill_spans(int in, off64_t *off, struct iovec *spans, int n, size_t left)
{
    if (spans[0].iov_len >= left) {
        spans[0].iov_len = left;
        n = 1;
    } else if (n > 1 && spans[1].iov_len > left - spans[0].iov_len) {
        spans[1].iov_len = left - spans[0].iov_len;
    }
    if (!off)
        return sys_call(SYS_readv, (long)in, spans, (long)n, 0L);
    return sys_call6(SYS_preadv, in, sys_arg(spans), n, (long)*off, 0, 0);
}

/* From a descriptor of the kernel into a session. all: until count or the end of the file, as a blocking
 * sendfile does. */
static ssize_t into_session(struct sock *s, uint64_t h, int in, off64_t *off, size_t count, bool all, bool block)
{
    struct waiting w = waiting_since_now(s->snd_timeout);
    size_t done = 0;
    int error = 0;
    while (done < count && !error) {
        struct iovec spans[2];
        size_t left = count - done;
        int n = client_write_spans(h, left < PIECE ? left : PIECE, spans);
        if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_BUSY) {
            if (done && (!all || s->nonblock))
                break;
            error = block && !s->nonblock ? wait_session(&w, h, EPOLLOUT) : EAGAIN;
            continue;
        }
        if (n <= 0) {
            error = n ? error_number(n) : EIO;
            break;
        }
        ssize_t got = fill_spans(in, off, spans, n, left);
        int r = client_write_commit(h, got > 0 ? (size_t)got : 0);
        if (got <= 0) {
            error = got ? (int)-got : 0;
            break;
        }
        if (r < 0) {
            error = error_number(r);
            break;
        }
        if (off)
            *off += got;
        done += (size_t)got;
        if (!all)
            break;
    }
    if (done || !error)
        return (ssize_t)done;
    if (error == EPIPE)
        (void)sys_call(SYS_tgkill, sys_call(SYS_getpid, 0L, 0L, 0L, 0L), sys_call(SYS_gettid, 0L, 0L, 0L, 0L),
                       (long)SIGPIPE, 0L);
    errno = error;
    return -1;
}

/* From a session to whatever `out` is (perhaps another session). */
static ssize_t out_of_session(struct sock *s, uint64_t h, int out, size_t count, bool block)
{
    struct waiting w = waiting_since_now(s->rcv_timeout);
    struct iovec spans[2];
    int n, error;
    while ((n = client_read_spans(h, spans)) == BERTH_E_WOULD_BLOCK || n == BERTH_E_BUSY) {
        error = block && !s->nonblock ? wait_session(&w, h, EPOLLIN) : EAGAIN;
        if (error) {
            errno = error;
            return -1;
        }
    }
    if (n <= 0)
        return n ? fail(n) : 0;
    size_t len = spans[0].iov_len < count ? spans[0].iov_len : count;
    struct sock *to;
    uint64_t to_handle;
    struct iovec piece = {spans[0].iov_base, len};
    ssize_t put = fd_session(out, &to, &to_handle) ? session_send(to, to_handle, &piece, 1, 0)
                                                   : real.write(out, piece.iov_base, len);
    (void)client_read_consume(h, put > 0 ? (size_t)put : 0);
    return put;
}

EXPORT ssize_t sendfile64(int out, int in, off64_t *off, size_t count)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(in, &s, &h)) {
        errno = EINVAL; /* sendfile(2): in_fd cannot be a socket */
        return -1;
    }
    if (!fd_session(out, &s, &h))
        return real.sendfile64(out, in, off, count);
    return into_session(s, h, in, off, count, true, true);
}

/* off_t is 64 bits wide on every machine berth runs on. */
EXPORT ssize_t sendfile(int out, int in, off_t *off, size_t count)
{
    return sendfile64(out, in, off, count);
}

static bool pipe_ready(int fd, short events, unsigned flags)
{
    struct pollfd p = {.fd = fd, .events = events};
    struct timespec zero = {0, 0};
    return !(flags & SPLICE_F_NONBLOCK) || sys_ppoll(&p, 1, &zero, 0) != 0;
}

EXPORT ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
    struct sock *s;
    uint64_t h;
    bool from = fd_session(in, &s, &h);
    if (!from && !fd_session(out, &s, &h))
        return real.splice(in, in_off, out, out_off, len, flags);
    if (in_off || out_off) {
        errno = ESPIPE;
        return -1;
    }
    if (!pipe_ready(from ? out : in, from ? POLLOUT : POLLIN, flags)) {
        errno = EAGAIN;
        return -1;
    }
    bool block = !(flags & SPLICE_F_NONBLOCK);
    return from ? out_of_session(s, h, out, len, block) : into_session(s, h, in, NULL, len, false, block);
}
