/* msg.c - sendmsg and recvmsg, one or many. A stream carries no addresses and no control data. */
#include <limits.h>

#include "base/clock.h"
#include "shim/shim.h"

/* What the kernel says of the header before it looks at anything else, or 0. */
static int header_bad(const struct msghdr *m)
{
    if (pointer_wild(m))
        return EFAULT;
    if (m->msg_name && m->msg_namelen > INT32_MAX)
        return EINVAL;
    return m->msg_iovlen > IOV_MAX ? EMSGSIZE : 0;
}

static ssize_t session_recvmsg(int fd, struct sock *s, uint64_t h, struct msghdr *m, int flags)
{
    int error = header_bad(m);
    if (error) {
        errno = error;
        return -1;
    }
    ssize_t r = session_recv(fd, s, h, m->msg_iov, (int)m->msg_iovlen, flags);
    if (r >= 0) {
        if (m->msg_name)
            m->msg_namelen = 0;
        m->msg_controllen = 0;
        m->msg_flags = flags & MSG_CMSG_CLOEXEC;
    }
    return r;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    struct sock *s;
    uint64_t h;
    if (fd_session(fd, &s, &h))
        return session_recvmsg(fd, s, h, m, flags);
    ssize_t r = real.recvmsg(fd, m, flags);
    if (unlikely(r >= 0 && m->msg_control && m->msg_controllen))
        rights_came(m);
    return r;
}

/* Blocks for the first only under MSG_WAITFORONE; the timeout is looked at after each message (recvmmsg(2),
 * BUGS). */
static int kernel_recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *timeout)
{
    int got = real.recvmmsg(fd, v, n, flags, timeout);
    for (int i = 0; i < got; i++) {
        if (unlikely(v[i].msg_hdr.msg_control && v[i].msg_hdr.msg_controllen))
            rights_came(&v[i].msg_hdr);
    }
    return got;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *timeout)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return kernel_recvmmsg(fd, v, n, flags, timeout);
    if ((n && pointer_wild(v)) || (timeout && pointer_wild(timeout))) {
        errno = EFAULT;
        return -1;
    }
    if (timeout && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= NS_PER_SEC)) {
        errno = EINVAL;
        return -1;
    }
    int64_t deadline =
        timeout ? clock_deadline((int64_t)timeout->tv_sec * NS_PER_SEC + timeout->tv_nsec) : DEADLINE_NEVER;
    unsigned i = 0;
    while (i < n) {
        ssize_t r = session_recvmsg(fd, s, h, &v[i].msg_hdr,
                                    (flags & ~(MSG_WAITFORONE | CALL_MOVED)) | (i ? CALL_MOVED : 0));
        if (r < 0)
            break;
        v[i++].msg_len = (unsigned)r;
        if (flags & MSG_WAITFORONE)
            flags |= MSG_DONTWAIT;
        if (timeout && clock_now() >= deadline)
            break;
    }
    if (timeout && i) { /* Linux tells how much is left */
        int64_t left = deadline - clock_now();
        left = left < 0 ? 0 : left;
        timeout->tv_sec = left / NS_PER_SEC;
        timeout->tv_nsec = left % NS_PER_SEC;
    }
    return i || !n ? (int)i : -1;
}

static ssize_t session_sendmsg(int fd, struct sock *s, uint64_t h, const struct msghdr *m, int flags)
{
    int error = header_bad(m);
    if (error) {
        errno = error;
        return -1;
    }
    return session_send(fd, s, h, m->msg_iov, (int)m->msg_iovlen, flags);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct sock *s;
    uint64_t h;
    switch (fd_view(fd, &s, &h)) {
    case SOCK_SESSION:
        return session_sendmsg(fd, s, h, m, flags);
    case SOCK_FRESH:
        if (flags & MSG_FASTOPEN)
            (void)sock_to_kernel(fd, s, false);
        break;
    default:
        if (unlikely(m && m->msg_control && m->msg_controllen))
            rights_leave(m);
        break;
    }
    return real.sendmsg(fd, m, flags);
}

static int kernel_sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
    for (unsigned i = 0; !pointer_wild(v) && i < n; i++) {
        if (unlikely(v[i].msg_hdr.msg_control && v[i].msg_hdr.msg_controllen))
            rights_leave(&v[i].msg_hdr);
    }
    return real.sendmmsg(fd, v, n, flags);
}

static size_t length_of(const struct msghdr *m)
{
    size_t length = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++)
        length += m->msg_iov[i].iov_len;
    return length;
}

EXPORT int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
    struct sock *s;
    uint64_t h;
    if (!fd_session(fd, &s, &h))
        return kernel_sendmmsg(fd, v, n, flags);
    if (n && pointer_wild(v)) {
        errno = EFAULT;
        return -1;
    }
    unsigned i = 0;
    n = n < IOV_MAX ? n : IOV_MAX;
    while (i < n) {
        ssize_t r = session_sendmsg(fd, s, h, &v[i].msg_hdr, (flags & ~CALL_MOVED) | (i ? CALL_MOVED : 0));
        if (r < 0)
            break;
        v[i].msg_len = (unsigned)r;
        if (length_of(&v[i++].msg_hdr) > (size_t)r)
            break; /* what comes next would lie in the midst of it */
    }
    return i || !n ? (int)i : -1;
}
