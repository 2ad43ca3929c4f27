/* handover.c - listeners that several programs have, which do not know of each other: passed over a unix
 * socket, or kept over exec.
 *
 * The kernel's socket is one for all of them, and serves whoever accepts. Under berth each connection is
 * offered to one queue, so it must not be that of a program that will never look. Hence
 *   - whoever lets a listener go has it hidden (client_listener_hide): connects go to the kernel. What was
 *     offered to it before, and not accepted, is brought there as well, by a relay;
 *   - whoever gets one listens under berth when he accepts for the first time, and not before: he serves.
 *
 * The open file is marked, so that whoever has it and calls listen() knows: by the signal of F_SETSIG, which
 * means nothing without O_ASYNC, and which nobody else uses on a listener. O_NONBLOCK of such a socket is
 * left as the programs have it: it is one flag for all, also for those that are not under berth.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "shim/shim.h"

#define COMMON_MARK 63
#define LOOK_AT 256 /* numbers at which a program finds what it has inherited */
#define CONNECT_NS NS_PER_SEC
#define OFFERS_MAX 4096
#define LATE_NS (500 * NS_PER_MS) /* for memory that the daemon brings */

int socket_option(int fd, int level, int name)
{
    int value = 0;
    socklen_t len = sizeof value;
    return sys_call6(SYS_getsockopt, fd, level, name, sys_arg(&value), sys_arg(&len), 0) < 0 ? -1 : value;
}

bool socket_common(int fd)
{
    return sys_fcntl(fd, F_GETSIG, 0L) == COMMON_MARK;
}

uint64_t socket_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    return sys_call6(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, sys_arg(&cookie), sys_arg(&len), 0) < 0
               ? 0
               : cookie;
}

int socket_backlog(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    long err = sys_call6(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, sys_arg(&info), sys_arg(&len), 0);
    return err < 0 || info.tcpi_sacked > INT32_MAX ? -1
                                                   : (int)info.tcpi_sacked; /* of a listener: its backlog */
}

/* ---- what goes ----------------------------------------------------------------------------------------- */

/* A session that nobody has accepted yet becomes a connection in the kernel's queue. */
static void offer_to_kernel(int fd, struct sock *s, session_handle h)
{
    endpoint to, from;
    if (client_local(h, &to) < 0 || client_remote(h, &from) < 0 ||
        relay_to(s->family, &from, &to, h, CONNECT_NS) < 0) {
        log_warn("a connection that waited at descriptor %d could not be handed over: it is reset", fd);
        (void)client_abort(h);
    } else {
        (void)client_close(h); /* the relay holds it */
    }
}

/* The next that waits there. What it needs may have to come from the daemon first. */
static bool next_offered(listener_handle h, int64_t end, session_handle *out)
{
    struct sleep_mark none = {0};
    int err;
    while ((err = client_accept(h, out)) == BERTH_E_WOULD_BLOCK && client_listener_late(h) &&
           clock_now() < end && client_listener_wait(h, -1, end, &none) == 0)
        ;
    return err == 0;
}

void listener_plain(int fd)
{
    struct sock *s;
    uint64_t h;
    if (fd_look(fd, &s, &h) != SOCK_LISTENER || s->common)
        return;
    bool nonblock = sock_nonblock(s);
    s->common = 1;
    sys_fcntl(fd, F_SETFL, (long)(O_RDWR | (nonblock ? O_NONBLOCK : 0)));
}

void listener_leaves(int fd, int until)
{
    struct sock *s;
    uint64_t h;
    enum sock_kind kind = fd_look(fd, &s, &h);
    if ((kind != SOCK_LISTENER && kind != SOCK_BOUND) || shim_foreign())
        return;
    if (!socket_common(fd))
        sys_fcntl(fd, F_SETSIG, (long)COMMON_MARK);
    if (kind == SOCK_BOUND)
        return;
    long who = until ? sys_call(SYS_pidfd_open, (long)until, 0L, 0L, 0L) : -1;
    (void)client_listener_hide(h, (int)who); /* no daemon: nobody finds it any more */
    if (who >= 0)
        sys_close(who);
    listener_plain(fd);
    session_handle offered;
    if (until && client_listener_served(h, until != getpid())) /* an exec: this one does not go on */
        return; /* what waits there is theirs, and they will see to it */
    int64_t end = clock_now() + LATE_NS;
    for (int i = 0; i < OFFERS_MAX && next_offered(h, end, &offered); i++)
        offer_to_kernel(fd, s, offered);
}

/* ---- what comes ---------------------------------------------------------------------------------------- */

void listener_came(int fd)
{
    if (fd < 0 || fd >= (int)FD_MAX || socket_option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1 ||
        socket_option(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
        return;
    int family = socket_option(fd, SOL_SOCKET, SO_DOMAIN);
    if (family != AF_INET && family != AF_INET6)
        return;
    shim_lock();
    uint64_t word = fd_word(fd);
    struct sock *s = word ? sock_of(word) : sock_alloc(SOCK_BOUND, family);
    if (s && s->kind == SOCK_BOUND) {
        s->common = s->comes = 1;
        if (!word)
            fd_bind(fd, s);
    }
    shim_unlock();
}

void listeners_came(void)
{
    struct pollfd at[LOOK_AT];
    struct timespec zero = {0};
    for (int fd = 0; fd < LOOK_AT; fd++)
        at[fd] = (struct pollfd){.fd = fd};
    if (sys_ppoll(at, LOOK_AT, &zero, NULL) < 0) /* more than the process may have: all are looked at */
        memset(at, 0, sizeof at);
    for (int fd = 0; fd < LOOK_AT; fd++) {
        if (at[fd].revents & POLLNVAL)
            continue;
        listener_came(fd);
        session_came(fd);
        lent_came(fd);
    }
}
