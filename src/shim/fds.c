/* fds.c - descriptors: close, dup and their families; fcntl and ioctl.
 *
 * A word is cleared before the kernel closes the number, so that whoever gets the number next is not taken
 * for the old socket. Numbers that berth uses itself cannot be closed by the program: daemons that close all
 * they find would cut the branch they sit on. close() of one says EBADF, which is what such loops expect of
 * most numbers.
 */
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sockios.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sys.h"
#include "shim/shim.h"

void closefrom(int low);
int fcntl64(int fd, int cmd, ...);

static void drop(int fd)
{
    shim_lock();
    struct sock *s = fd_take(fd);
    if (s)
        sock_put(s, fd);
    shim_unlock();
}

EXPORT int close(int fd)
{
    if (unlikely(fd_word(fd)) && !shim_foreign()) {
        sleep_testcancel();
        drop(fd);
    } else if (unlikely(fd_internal(fd)) && !shim_foreign()) {
        errno = EBADF;
        return -1;
    }
    return real.close(fd);
}

/* ---- many at once ---- */

static int close_piece(unsigned first, unsigned last, int flags)
{
    return first > last ? 0 : real.close_range(first, last, flags);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    if (flags & CLOSE_RANGE_CLOEXEC || first > last || shim_foreign())
        return real.close_range(first, last, flags);
    unsigned from = first, shim = (unsigned)fds_used(), client = client_fds_bound();
    unsigned known = shim > client ? shim : client;
    for (unsigned fd = first; fd <= last && fd < known; fd++) {
        if (unlikely(fd_word((int)fd)))
            drop((int)fd);
        else if (unlikely(fd_internal((int)fd))) {
            if (fd > from && close_piece(from, fd - 1, flags) < 0)
                return -1;
            from = fd + 1;
        }
    }
    return close_piece(from, last, flags);
}

EXPORT void closefrom(int low)
{
    (void)close_range(low < 0 ? 0 : (unsigned)low, ~0u, 0);
}

/* ---- dup ---- */

/* Another thread may have put a socket of its own under `fd` since. */
static void follow_file(int fd, int copy)
{
    long flags = sys_fcntl(copy, F_GETFD, 0L);
    (void)sys_call(SYS_dup3, (long)fd, (long)copy, flags > 0 && flags & FD_CLOEXEC ? (long)O_CLOEXEC : 0L,
                   0L);
}

/* The kernel has made `copy` of `fd`: the table follows. */
static int duplicated(int fd, int copy)
{
    if (copy < 0 || copy >= (int)FD_MAX || copy == fd)
        return copy;
    shim_lock();
    struct sock *old = fd_take(copy);
    uint64_t word = fd_word(fd);
    if (word && sock_of(word)->kind == SOCK_BOUND)
        follow_file(fd, copy);
    if (word)
        fd_bind(copy, sock_of(word));
    if (old)
        sock_put(old, copy);
    shim_unlock();
    if (unlikely(copy <= 2 && word)) /* libc's stdio will use it */
        fd_to_kernel(copy);
    return copy;
}

EXPORT int dup(int fd)
{
    int copy = real.dup(fd);
    return unlikely(fd_word(fd) | fd_word(copy)) && !shim_foreign() ? duplicated(fd, copy) : copy;
}

/* Before something is put over `to`. */
static int make_room(int fd, int to)
{
    if (likely(!fd_word(to))) {
        if (likely(!fd_internal(to)))
            return 0;
        if (client_owns_fd(to)) {
            errno = EBADF;
            return -1;
        }
        fd_internal_lost(to);
        return 0;
    }
    if (fd != to && real.fcntl(fd, F_GETFD, NULL) >= 0)
        drop(to);
    return 0;
}

EXPORT int dup2(int fd, int to)
{
    if (shim_foreign())
        return real.dup2(fd, to);
    if (make_room(fd, to) < 0)
        return -1;
    int copy = real.dup2(fd, to);
    return unlikely(fd_word(fd)) ? duplicated(fd, copy) : copy;
}

EXPORT int dup3(int fd, int to, int flags)
{
    if (shim_foreign())
        return real.dup3(fd, to, flags);
    if (!(flags & ~O_CLOEXEC) && make_room(fd, to) < 0)
        return -1;
    int copy = real.dup3(fd, to, flags);
    return unlikely(fd_word(fd)) ? duplicated(fd, copy) : copy;
}

/* ---- fcntl ---- */

/* Who owns status flags: the sock, except for a bound socket of the kernel, and a listener that strangers
 * have. */
static bool own_flags(const struct sock *s, enum sock_kind kind)
{
    return kind == SOCK_FRESH || kind == SOCK_SESSION || (kind == SOCK_LISTENER && !s->common);
}

/* Nothing is kept of what nobody ever sets. The signals are the kernel's to send, so it is the kernel's from then on; not
 * where relatives have it, too, for whom it would still be a session. */
static int session_set_async(int fd, struct sock *s, bool on)
{
    if (on == !!session_owner_is(s, F_GETFL, NULL))
        return 0;
    int ret = session_set_owner(s, F_SETFL, (void *)(uintptr_t)(on ? O_ASYNC : 0));
    if (ret == 0 && on && session_alone(s->handle, clock_now() + session_shared_ns))
        fd_to_kernel(fd);
    return ret;
}

static int sock_fcntl(int fd, struct sock *s, enum sock_kind kind, int cmd, void *arg)
{
    switch (cmd) {
    case F_GETFL: {
        if (!own_flags(s, kind))
            break;
        int flags = real.fcntl(fd, F_GETFL, NULL);
        if (kind == SOCK_SESSION)
            flags |= session_owner_is(s, cmd, NULL);
        return flags < 0 ? flags : (flags & ~O_NONBLOCK) | (sock_nonblock(s) ? O_NONBLOCK : 0);
    }
    case F_SETFL:
        if (!own_flags(s, kind))
            break;
        if ((long)(uintptr_t)arg & O_ASYNC && kind == SOCK_FRESH) {
            (void)sock_to_kernel(fd, s, false);
            break;
        }
        sock_set_nonblock(s, (long)(uintptr_t)arg & O_NONBLOCK);
        if (kind == SOCK_LISTENER)
            return real.fcntl(fd, cmd, (void *)((uintptr_t)arg | O_NONBLOCK));
        return kind == SOCK_SESSION ? session_set_async(fd, s, (long)(uintptr_t)arg & O_ASYNC) : 0;
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: {
        int copy = real.fcntl(fd, cmd, arg);
        return shim_foreign() ? copy : duplicated(fd, copy);
    }
    case F_SETOWN:
    case F_SETOWN_EX:
    case F_SETSIG: /* would act on the placeholder, which others share */
        if (kind == SOCK_FRESH)
            (void)sock_to_kernel(fd, s, false);
        else if (kind == SOCK_SESSION)
            return session_set_owner(s, cmd, arg);
        break;
    case F_GETOWN:
    case F_GETOWN_EX:
    case F_GETSIG:
        if (kind == SOCK_SESSION)
            return session_owner_is(s, cmd, arg);
        break;
    default:
        break;
    }
    return real.fcntl(fd, cmd, arg);
}

/* What is about the number, not the file. */
static bool of_number(int cmd)
{
    return cmd == F_GETFD || cmd == F_SETFD || cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC;
}

static int any_fcntl(int fd, int cmd, void *arg)
{
    struct sock *s;
    uint64_t h;
    enum sock_kind kind = of_number(cmd) ? fd_look(fd, &s, &h) : fd_view(fd, &s, &h);
    if (unlikely(kind != SOCK_FREE))
        return sock_fcntl(fd, s, kind, cmd, arg);
    int ret = real.fcntl(fd, cmd, arg);
    if ((cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC) && unlikely(fd_word(ret)) && !shim_foreign())
        return duplicated(fd, ret);
    return ret;
}

EXPORT int fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return any_fcntl(fd, cmd, arg);
}

EXPORT int fcntl64(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    return any_fcntl(fd, cmd, arg);
}

/* ---- ioctl ---- */

/* What there is to know of the host's interfaces and the like is asked of a socket of the family; the rest is
 * about the descriptor. */
static int ask_ioctl(int fd, struct sock *s, enum sock_kind kind, unsigned long request, void *arg)
{
    bool general = request >> 8 == 0x89 && request >= SIOCADDRT;
    return real.ioctl(general ? fd_answering(fd, s, kind) : fd, request, arg);
}

static int session_ioctl(int fd, struct sock *s, uint64_t h, unsigned long request, void *arg)
{
    bool wild = pointer_wild(arg);
    switch (request) {
    case FIONREAD:
    case SIOCOUTQ:
    case SIOCOUTQNSD:
    case SIOCATMARK:
    case FIOASYNC:
    case FIOSETOWN:
    case SIOCSPGRP:
    case FIOGETOWN:
    case SIOCGPGRP:
        if (wild) {
            errno = EFAULT;
            return -1;
        }
        break;
    default:
        break;
    }
    switch (request) {
    case FIONREAD: /* the same number as SIOCINQ */
        *(int *)arg = (int)client_readable(h);
        return 0;
    case SIOCOUTQ:
        *(int *)arg = (int)client_unread(h);
        return 0;
    case SIOCOUTQNSD:
    case SIOCATMARK:
        *(int *)arg = 0;
        return 0;
    case FIOASYNC:
        return session_set_async(fd, s, *(int *)arg != 0);
    case FIOSETOWN:
    case SIOCSPGRP:
        return session_set_owner(s, F_SETOWN, (void *)(intptr_t) * (int *)arg);
    case FIOGETOWN:
    case SIOCGPGRP:
        *(int *)arg = session_owner_is(s, F_GETOWN, NULL);
        return 0;
    default:
        return ask_ioctl(fd, s, SOCK_SESSION, request, arg);
    }
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    struct sock *s;
    uint64_t h;
    enum sock_kind kind = fd_view(fd, &s, &h);
    if (likely(kind == SOCK_FREE))
        return real.ioctl(fd, request, arg);
    if (request == FIONBIO && own_flags(s, kind) && pointer_wild(arg)) {
        errno = EFAULT;
        return -1;
    }
    if (request == FIONBIO && own_flags(s, kind)) {
        sock_set_nonblock(s, *(int *)arg != 0);
        return 0;
    }
    if (kind == SOCK_SESSION)
        return session_ioctl(fd, s, h, request, arg);
    if (kind == SOCK_FRESH && (request == FIOASYNC || request == FIOSETOWN || request == SIOCSPGRP))
        (void)sock_to_kernel(fd, s, false);
    else if (kind == SOCK_FRESH)
        return ask_ioctl(fd, s, kind, request, arg);
    return real.ioctl(fd, request, arg);
}
