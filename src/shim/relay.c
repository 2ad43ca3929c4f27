/* relay.c - a session becomes a socket of the kernel's, for those who will not go through the preload library.
 *
 * libc's own stdio, a program that is executed, and a process that is sent the descriptor know only what the kernel has
 * under the number. So a connected pair of kernel sockets is made; one end takes the session's place under all its
 * numbers, the other is read and written by a process made for it, which holds the session from then on. It is forked
 * twice, so that it is nobody's child, has a session (in the terminal's sense) of its own and no descriptor but those two,
 * and ends when both directions have ended. Ends and resets pass through it as they are.
 *
 * The pair has the session's addresses, not its ports: those are held by others.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "shim/shim.h"

#define PIECE 65536
#define ACCEPT_WAIT_NS (1000 * NS_PER_MS)
#define FORK_WAIT_NS (20 * NS_PER_MS)

/* ---- the pair --------------------------------------------------------------------------------------------- */

/* A socket bound to that address, or to the loopback where that cannot be, at any port; `ss` becomes its name. */
static long bound_at(int family, const endpoint *ep, struct sockaddr_storage *ss, socklen_t *len)
{
    long fd = sys_socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    endpoint at = *ep;
    at.port = 0;
    *len = sock_fill_addr(family, &at, (struct sockaddr *)ss, sizeof *ss);
    long err = sys_call(SYS_bind, fd, ss, (long)*len, 0L);
    if (err < 0) {
        memset(ss, 0, sizeof *ss);
        ss->ss_family = (sa_family_t)family;
        if (family == AF_INET6)
            ((struct sockaddr_in6 *)ss)->sin6_addr = in6addr_loopback;
        else
            ((struct sockaddr_in *)ss)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        err = sys_call(SYS_bind, fd, ss, (long)*len, 0L);
    }
    *len = sizeof *ss;
    if (err == 0)
        err = sys_call(SYS_getsockname, fd, ss, len, 0L);
    if (err == 0)
        return fd;
    sys_close((int)fd);
    return err;
}

/* Takes the connection that comes from `from`, and no other. */
static long accept_from(int listener, const struct sockaddr_storage *from, socklen_t from_len)
{
    for (;;) {
        struct sockaddr_storage ss;
        socklen_t len = sizeof ss;
        long fd = sys_call(SYS_accept4, (long)listener, &ss, &len, (long)SOCK_CLOEXEC);
        if (fd < 0 || (len == from_len && memcmp(&ss, from, len) == 0))
            return fd;
        sys_close((int)fd);
    }
}

static int pair_make(struct sock *s, uint64_t h, int *theirs, int *ours)
{
    endpoint local, remote;
    struct sockaddr_storage there, here;
    socklen_t there_len, here_len;
    if (client_local(h, &local) < 0 || client_remote(h, &remote) < 0)
        return -EBADF;
    long listener = bound_at(s->family, &remote, &there, &there_len);
    if (listener < 0)
        return (int)listener;
    long a = bound_at(s->family, &local, &here, &here_len), b = a;
    if (a >= 0)
        b = sys_call(SYS_listen, listener, 1L, 0L, 0L);
    if (a >= 0 && b >= 0)
        b = sys_call(SYS_connect, a, &there, (long)there_len, 0L);
    if (a >= 0 && b >= 0)
        b = accept_from((int)listener, &here, here_len);
    sys_close((int)listener);
    if (b < 0) {
        if (a >= 0)
            sys_close((int)a);
        return (int)b;
    }
    *theirs = (int)a;
    *ours = (int)b;
    return 0;
}

/* ---- the relay's process ---------------------------------------------------------------------------------- */

struct relay {
    session_handle h;
    int fd;
};

static __attribute__((noreturn)) void gone(const struct relay *r, bool reset)
{
    struct linger now = {1, 0};
    if (reset) {
        (void)client_abort(r->h);
        (void)sys_call6(SYS_setsockopt, r->fd, SOL_SOCKET, SO_LINGER, sys_arg(&now), sizeof now, 0);
    } else {
        (void)client_close(r->h);
    }
    for (;;)
        sys_call(SYS_exit_group, 0L, 0L, 0L, 0L);
}

static void relay_wait(const struct relay *r, uint32_t events, bool busy)
{
    struct sleep_mark mark = sleep_mark_now();
    int err = busy ? client_wait_span(r->h, events, DEADLINE_NEVER, &mark)
                   : client_wait(r->h, events, DEADLINE_NEVER, &mark);
    if (err < 0 && err != BERTH_E_INTERRUPTED && err != BERTH_E_TIMED_OUT)
        gone(r, true);
}

static void from_session(const struct relay *r)
{
    static char buf[PIECE];
    for (;;) {
        ssize_t n = client_read(r->h, buf, sizeof buf, 0);
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
            if (put < 0 && put != -EINTR)
                gone(r, true);
            done += put > 0 ? put : 0;
        }
    }
    (void)sys_call(SYS_shutdown, (long)r->fd, (long)SHUT_WR, 0L, 0L);
}

static void *into_session(void *arg)
{
    static char buf[PIECE];
    const struct relay *r = arg;
    for (;;) {
        long n = sys_call(SYS_read, (long)r->fd, buf, (long)sizeof buf, 0L);
        if (n == -EINTR)
            continue;
        if (n < 0)
            gone(r, true);
        if (n == 0)
            break;
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
    (void)client_shutdown(r->h, BERTH_SHUT_WR); /* cut off meanwhile is an end too */
    return NULL;
}

/* Lets go of everything that came over fork but that session and that descriptor. */
static void strip(struct relay *r)
{
    for (int fd = 0; fd < (int)FD_MAX; fd++) {
        uint64_t word = fd_words[fd];
        if (!word)
            continue;
        struct sock *s = sock_of(word);
        if (s->kind == SOCK_SESSION && s->handle != r->h)
            (void)client_close(s->handle);
        else if (s->kind == SOCK_LISTENER)
            (void)client_unlisten(s->handle);
        fd_words[fd] = 0;
    }
    long null = sys_call(SYS_openat, (long)AT_FDCWD, "/dev/null", (long)O_RDWR, 0L);
    long high = sys_fcntl(r->fd, F_DUPFD_CLOEXEC, 3L);
    if (high >= 0)
        r->fd = (int)high;
    for (int fd = 0; fd < 3 && null >= 0; fd++)
        (void)sys_call(SYS_dup3, null, (long)fd, 0L, 0L);
    int from = 3;
    for (int fd = 3; fd < (int)FD_MAX; fd++) {
        if (fd != r->fd && !client_owns_fd(fd))
            continue;
        if (fd > from)
            (void)sys_call(SYS_close_range, (long)from, (long)fd - 1, 0L, 0L);
        from = fd + 1;
    }
    (void)sys_call(SYS_close_range, (long)from, (long)UINT_MAX, 0L, 0L);
    (void)sys_call(SYS_chdir, "/", 0L, 0L, 0L);
    (void)sys_call(SYS_setsid, 0L, 0L, 0L, 0L);
}

static void signals_plain(void)
{
    struct sigaction act = {.sa_handler = SIG_DFL};
    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, &act, NULL);
    act.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &act, NULL);
    (void)sigaction(SIGHUP, &act, NULL);
    sigset_t none;
    sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static __attribute__((noreturn)) void relay_run(session_handle h, int fd)
{
    static struct relay r;
    pthread_t other;
    r = (struct relay){h, fd};
    strip(&r);
    signals_plain();
    if (pthread_create(&other, NULL, into_session, &r) != 0)
        gone(&r, true);
    from_session(&r);
    (void)pthread_join(other, NULL);
    gone(&r, false);
}

/* Forks it off. False when there could be none. */
static bool relay_start(session_handle h, int ours, int theirs)
{
    sigset_t all, old;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        sys_close(theirs);
        pid = fork();
        if (pid == 0)
            relay_run(h, ours);
        for (;;)
            sys_call(SYS_exit_group, pid < 0 ? 1L : 0L, 0L, 0L, 0L);
    }
    while (pid > 0 && sys_call(SYS_wait4, (long)pid, &status, 0L, 0L) == -EINTR)
        ;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return pid > 0 && status <= 0; /* -1: somebody ignores SIGCHLD, there is nothing to wait for */
}

/* ---- in the program --------------------------------------------------------------------------------------- */

struct put {
    int with;
};

static void put_over(int fd, void *arg)
{
    const struct put *p = arg;
    long flags = sys_fcntl(fd, F_GETFD, 0L);
    (void)sys_call(SYS_dup3, (long)p->with, (long)fd, flags > 0 && flags & FD_CLOEXEC ? (long)O_CLOEXEC : 0L, 0L);
}

void sessions_lost(void)
{
    int pair[2] = {-1, -1};
    if (sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_STREAM | SOCK_CLOEXEC), 0L, pair) < 0)
        return;
    sys_close(pair[1]);
    for (int fd = 0; fd < (int)FD_MAX; fd++) {
        struct sock *s;
        uint64_t h;
        struct put p = {pair[0]};
        if (likely(!fd_words[fd]) || fd_view(fd, &s, &h) != SOCK_SESSION)
            continue;
        put_over(fd, &p);
        store_release(&fd_words[fd], 0); /* epoll sets that know it are the parent's */
    }
    sys_close(pair[0]);
}

uint8_t relay_unaccepted;

/* The daemon tells this process who accepted, not its children. */
static void wait_accepted(session_handle h, int64_t end)
{
    while (!client_accepted(h) && clock_now() < end) {
        struct client_poll_item item = {.handle = h, .events = EPOLLIN};
        if (client_poll(&item, 1, NULL, 0, NS_PER_MS, NULL, NULL) < 0 || item.revents & (EPOLLERR | EPOLLHUP))
            return;
    }
}

/* A child of fork shall find its sessions accepted, where they are at all. */
void relay_before_fork(void)
{
    if (!relay_unaccepted || shim_foreign())
        return;
    int64_t end = clock_now() + FORK_WAIT_NS;
    bool all = true;
    for (int fd = 0; fd < (int)FD_MAX; fd++) {
        struct sock *s;
        uint64_t h;
        if (unlikely(fd_words[fd]) && fd_view(fd, &s, &h) == SOCK_SESSION && !client_accepted(h)) {
            wait_accepted(h, end);
            all = all && client_accepted(h);
        }
    }
    relay_unaccepted = !all;
}

static void give(int fd, struct sock *s, session_handle h)
{
    int theirs, ours;
    if ((s->connecting && !client_connected(h)) || shim_foreign())
        return;
    wait_accepted(h, clock_now() + ACCEPT_WAIT_NS);
    int err = pair_make(s, h, &theirs, &ours);
    if (err == 0 && !relay_start(h, ours, theirs)) {
        sys_close(theirs);
        sys_close(ours);
        err = -EAGAIN;
    }
    if (err < 0) {
        log_warn("descriptor %d stays with berth: %s", fd, strerror(-err));
        return;
    }
    sys_close(ours);
    options_replay(s->options, theirs);
    if (sock_nonblock(s))
        sys_fcntl(theirs, F_SETFL, (long)(O_RDWR | O_NONBLOCK));
    shim_lock();
    if (fd_word(fd) == sock_word(s) && s->kind == SOCK_SESSION) {
        struct put p = {theirs};
        sock_each_fd(s, put_over, &p);
        regs_session_to_kernel(s);
        sock_forget(s);
        (void)client_close(h); /* the relay holds it */
    }
    shim_unlock();
    sys_close(theirs);
}

void fd_to_kernel(int fd)
{
    struct sock *s;
    uint64_t h;
    int saved = errno;
    switch (fd_view(fd, &s, &h)) {
    case SOCK_FRESH:
        (void)sock_to_kernel(fd, s, false);
        break;
    case SOCK_SESSION:
        give(fd, s, h);
        break;
    default:
        break;
    }
    errno = saved;
}
