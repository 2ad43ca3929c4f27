/* pump.c - see pump.h. */
#include "relay/pump.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/sleep.h"
#include "base/sys.h"

#define PIECE 65536
#define WRITER_NS (200 * NS_PER_MS)
#define CLOSES_TRIES 10
#define LOOKS_NS (30 * NS_PER_SEC)

struct relay {
    session_handle h;
    int fd;
};

/* Two threads, one for each direction. Whoever finds the end of both ends the process, but not while the
 * other is inside berth: a relative would have to put right what it left. */
static bool ending;
static pthread_t thread_of[2];

static void interrupted(int sig)
{
    (void)sig;
}

/* pthread_exit would load a library first, which there may not be in the program's root directory. */
static __attribute__((noreturn)) void thread_ends(void)
{
    for (;;)
        sys_call(SYS_exit, 0L, 0L, 0L, 0L);
}

/* At places where nothing of berth's is held. */
static void leave_if_ending(void)
{
    if (load_acquire(&ending))
        thread_ends();
}

static void stop_other(void)
{
    pthread_t other = thread_of[pthread_equal(pthread_self(), thread_of[0]) ? 1 : 0];
    struct timespec a_moment = {0, NS_PER_MS};
    while (pthread_tryjoin_np(other, NULL) == EBUSY) {
        (void)pthread_kill(other, SIGUSR1);
        (void)sys_call(SYS_nanosleep, &a_moment, NULL, 0L, 0L);
    }
}

static __attribute__((noreturn)) void gone(const struct relay *r, bool reset)
{
    struct linger now = {1, 0};
    if (exchange_sc(&ending, true))
        thread_ends();
    stop_other();
    if (reset) {
        (void)client_abort(r->h);
        (void)sys_call6(SYS_setsockopt, r->fd, SOL_SOCKET, SO_LINGER, sys_arg(&now), sizeof now, 0);
    } else {
        (void)client_close(r->h);
    }
    for (;;)
        sys_call(SYS_exit_group, 0L, 0L, 0L, 0L);
}

static uint32_t directions; /* that have ended */

/* One direction has ended; the second takes the process with it. */
static __attribute__((noreturn)) void over(const struct relay *r)
{
    if (fetch_add_sc(&directions, 1u) == 1)
        gone(r, false);
    thread_ends();
}

static void relay_wait(const struct relay *r, uint32_t events, bool busy)
{
    struct sleep_mark mark = sleep_mark_now();
    leave_if_ending();
    int err = busy ? client_wait_span(r->h, events, DEADLINE_NEVER, &mark)
                   : client_wait(r->h, events, DEADLINE_NEVER, &mark);
    leave_if_ending();
    if (err < 0 && err != BERTH_E_INTERRUPTED && err != BERTH_E_TIMED_OUT)
        gone(r, true);
}

static bool reads_if_used;
static uint32_t used; /* something was written into the socket, or that has ended */

static void now_used(void)
{
    if (load_relaxed(&used))
        return;
    store_release(&used, 1u);
    (void)sys_futex_wake(&used, 1L);
}

/* By a program under berth that uses the socket (shim/lent.c). */
static void told_used(int sig)
{
    (void)sig;
    now_used();
}

/* With what has been heard of processes that have ended. */
static bool others_have_it(const struct relay *r)
{
    struct client_poll_item none = {0};
    (void)client_poll(&none, 0, NULL, 0, 0, NULL, NULL);
    return client_shared(r->h);
}

/* The others' closing tells nobody: it is looked for, ever more seldom, and no more in the end. */
static void leave_to_others(const struct relay *r, enum relay_reads reads)
{
    int64_t pause_ns = 2 * NS_PER_MS, from = clock_now();
    while (!load_acquire(&used) && others_have_it(r)) {
        int64_t waited = clock_now() - from;
        if (reads == RELAY_READS_LATER && waited >= WRITER_NS)
            break;
        struct timespec ts = {0, pause_ns};
        (void)sys_futex_wait(&used, 0u, waited < LOOKS_NS ? &ts : NULL);
        pause_ns = pause_ns < NS_PER_SEC / 2 ? pause_ns * 2 : pause_ns;
        leave_if_ending();
    }
}

/* Has everybody closed the other end of the pair? What is only shut down still has an inode. */
static bool abandoned(int fd)
{
    struct {
        struct nlmsghdr h;
        struct inet_diag_req_v2 req;
    } ask = {.h = {.nlmsg_len = sizeof ask, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST}};
    struct {
        struct nlmsghdr h;
        struct inet_diag_msg m;
        uint8_t more[1024];
    } is = {0};
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } here = {0}, there = {0};
    socklen_t here_len = sizeof here, there_len = sizeof there;
    if (sys_call(SYS_getsockname, (long)fd, &here, &here_len, 0L) < 0 ||
        sys_call(SYS_getpeername, (long)fd, &there, &there_len, 0L) < 0)
        return true;
    struct inet_diag_sockid *id = &ask.req.id;
    ask.req.sdiag_family = (uint8_t)here.any.sa_family;
    ask.req.sdiag_protocol = IPPROTO_TCP;
    ask.req.idiag_states = ~0u;
    id->idiag_cookie[0] = id->idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    id->idiag_sport = there.v4.sin_port; /* at the same place in both */
    id->idiag_dport = here.v4.sin_port;
    if (here.any.sa_family == AF_INET6) {
        memcpy(id->idiag_src, &there.v6.sin6_addr, 16);
        memcpy(id->idiag_dst, &here.v6.sin6_addr, 16);
    } else {
        memcpy(id->idiag_src, &there.v4.sin_addr, 4);
        memcpy(id->idiag_dst, &here.v4.sin_addr, 4);
    }
    long nl = sys_socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    long n = nl < 0 ? nl : sys_write((int)nl, &ask, (long)sizeof ask);
    if (n == (long)sizeof ask)
        n = sys_read((int)nl, &is, (long)sizeof is);
    if (nl >= 0)
        sys_close((int)nl);
    if (n < (long)sizeof is.h)
        return false;
    if (is.h.nlmsg_type == NLMSG_ERROR) { /* there is no such socket any more; or nobody to ask */
        struct pollfd p = {.fd = fd, .events = POLLRDHUP};
        struct timespec now = {0};
        return sys_ppoll(&p, 1, &now, NULL) > 0;
    }
    /* one that has not been accepted yet has no inode either */
    const uint32_t open_states = 1u << TCP_ESTABLISHED | 1u << TCP_SYN_RECV | 1u << TCP_CLOSE_WAIT;
    return n >= (long)(sizeof is.h + sizeof is.m) && !is.m.idiag_inode &&
           !(open_states >> is.m.idiag_state & 1);
}

/* Others of the family go on with the session: a close here is none for them, where a shutdown is one. The
 * end is told a moment before the close is done. */
static bool closed_among_others(const struct relay *r)
{
    struct timespec a_moment = {0, NS_PER_MS};
    if (!others_have_it(r))
        return false;
    for (int i = 0; i < CLOSES_TRIES; i++) {
        (void)sys_call(SYS_nanosleep, &a_moment, NULL, 0L, 0L);
        leave_if_ending();
        if (abandoned(r->fd))
            return true;
    }
    return false;
}

/* What the session has from now on is the others'. The other thread finds the end, behind what was written; and if
 * there are no others any more when it does, it has ended its direction alone. */
static void end_if_closed(const struct relay *r)
{
    /* not by its FIN: that may come a moment after the close is done, and those who waited for it have gone on */
    if (!abandoned(r->fd))
        return;
    for (int64_t pause_ns = NS_PER_MS; others_have_it(r);
         pause_ns = pause_ns < 64 * NS_PER_MS ? 2 * pause_ns : pause_ns) {
        struct timespec ts = {0, pause_ns};
        leave_if_ending();
        if (load_acquire(&directions))
            gone(r, false);
        (void)sys_call(SYS_nanosleep, &ts, NULL, 0L, 0L);
    }
}

/* Of a session that others go on with no more bytes than were there while the socket was still somebody's: what comes
 * after that is theirs. */
static ssize_t take(const struct relay *r, char *buf)
{
    while (client_shared(r->h)) {
        size_t there = client_readable(r->h);
        if (there) {
            end_if_closed(r);
            return client_read(r->h, buf, there < PIECE ? there : PIECE, 0);
        }
        ssize_t n = client_read(r->h, buf, 1, STREAM_PEEK);
        if (n <= 0)
            return n;
    }
    return client_read(r->h, buf, PIECE, 0);
}

static void from_session(const struct relay *r)
{
    APART static char buf[PIECE];
    for (;;) {
        ssize_t n = take(r, buf);
        if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_BUSY) {
            relay_wait(r, EPOLLIN, n == BERTH_E_BUSY);
            continue;
        }
        if (n < 0)
            gone(r, true);
        if (n == 0)
            break;
        for (ssize_t done = 0; done < n;) {
            long put = sys_write(r->fd, buf + done, n - done);
            leave_if_ending();
            if (put < 0 && put != -EINTR)
                gone(r, true);
            done += put > 0 ? put : 0;
        }
    }
    (void)sys_call(SYS_shutdown, (long)r->fd, (long)SHUT_WR, 0L, 0L);
}

static void *into_session(void *arg)
{
    APART static char buf[PIECE];
    const struct relay *r = arg;
    if (client_shut(r->h) & BERTH_SHUT_WR)
        over(r); /* the end that is to be read there was before whoever has it now */
    for (;;) {
        long n = sys_call(SYS_read, (long)r->fd, buf, (long)sizeof buf, 0L);
        leave_if_ending();
        if (n == -EINTR)
            continue;
        if (n < 0)
            gone(r, true);
        if (n == 0)
            break;
        if (reads_if_used)
            now_used();
        for (long done = 0; done < n;) {
            ssize_t put = client_write(r->h, buf + done, (size_t)(n - done));
            if (put == BERTH_E_WOULD_BLOCK || put == BERTH_E_BUSY)
                relay_wait(r, EPOLLOUT, put == BERTH_E_BUSY);
            else if (put < 0)
                gone(r, true);
            else
                done += put;
        }
    }
    if (closed_among_others(r))
        gone(r, false);
    now_used();
    (void)client_shutdown(r->h, BERTH_SHUT_WR); /* cut off meanwhile is an end too */
    over(r);
}

/* SIGURG is not even for a moment what it is by default: that would take away one that waits, because who has the
 * socket was faster than we. */
void relay_signals(void)
{
    struct sigaction act = {.sa_handler = told_used};
    (void)sigaction(SIGURG, &act, NULL);
    act.sa_handler = SIG_DFL;
    for (int sig = 1; sig < NSIG; sig++) {
        if (sig != SIGURG)
            (void)sigaction(sig, &act, NULL);
    }
    act.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &act, NULL);
    (void)sigaction(SIGHUP, &act, NULL);
    act.sa_handler = interrupted;
    (void)sigaction(SIGUSR1, &act, NULL);
    sigset_t none;
    sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
}

void relay_pump(session_handle h, int fd, enum relay_reads reads)
{
    static struct relay r;
    r = (struct relay){h, fd};
    reads_if_used = reads == RELAY_READS_IF_USED;
    relay_signals();
    thread_of[0] = pthread_self();
    if (pthread_create(&thread_of[1], NULL, into_session, &r) != 0) {
        (void)client_abort(h);
        for (;;)
            sys_call(SYS_exit_group, 1L, 0L, 0L, 0L);
    }
    if (reads != RELAY_READS)
        leave_to_others(&r, reads);
    from_session(&r);
    over(&r);
}
