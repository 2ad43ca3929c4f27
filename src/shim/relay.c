/* relay.c - a session becomes a socket of the kernel's, for those who will not go through the preload
 * library.
 *
 * libc's own stdio, a program that is executed, and a process that is sent the descriptor know only what the
 * kernel has under the number. So a connected pair of kernel sockets is made; one end takes the session's
 * place under all its numbers, the other is read and written by a process made for it, which holds the
 * session from then on. It is forked twice, so that it is nobody's child, has a session (in the terminal's
 * sense) of its own and no descriptor but those two, and ends when both directions have ended. Ends and
 * resets pass through it as they are.
 *
 * The pair has the session's addresses, not its ports: those are held by others.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "relay/pump.h"
#include "shim/shim.h"

#define ACCEPT_WAIT_NS (1000 * NS_PER_MS)
#define SOON_NS (20 * NS_PER_MS)

/* ---- the pair ------------------------------------------------------------------------------------------ */

/* A socket bound to that address, or to the loopback where that cannot be, at any port; `ss` becomes its
 * name. */
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

/* ---- the relay's process ------------------------------------------------------------------------------- */

/* Whoever holds a session keeps the socket that stands for it (passed.c): the daemon would take the end of its
 * last copy for a shutdown by somebody else. */
static bool stands_in(int fd)
{
    const struct sock *s = fd < fds_used() && fd_words[fd] ? sock_of(fd_words[fd]) : NULL;
    return s && s->kind == SOCK_SESSION && s->stand_in;
}

/* In the place of standard input and output there is something that takes nothing and gives nothing. */
static void stdio_leaves(void)
{
    long nothing = sys_call(SYS_openat, (long)AT_FDCWD, "/dev/null", (long)O_RDWR, 0L);
    if (nothing < 0) /* another root directory */
        nothing = sys_call(SYS_eventfd2, 0L, (long)EFD_NONBLOCK, 0L, 0L);
    for (int fd = 0; fd < 3; fd++) {
        if (fd == nothing || stands_in(fd)) /* not likely: what is passed there is relayed */
            continue;
        if (nothing >= 0)
            (void)sys_call(SYS_dup3, nothing, (long)fd, 0L, 0L);
        else
            (void)sys_close(fd);
    }
    if (nothing > 2)
        (void)sys_close((int)nothing);
}

/* All descriptors go but `keep`, berth's own and the stand-ins. The number of `keep` from then on: at least 3. */
static int fds_leave(int keep)
{
    int from = 3, known = (int)client_fds_bound();
    for (int fd = 3; fd < known || fd < fds_used() || fd <= keep; fd++) {
        if (fd != keep && !client_owns_fd(fd) && !stands_in(fd))
            continue;
        if (fd > from)
            (void)sys_call(SYS_close_range, (long)from, (long)fd - 1, 0L, 0L);
        from = fd + 1;
    }
    (void)sys_call(SYS_close_range, (long)from, (long)UINT_MAX, 0L, 0L);
    long high = keep < 3 ? sys_fcntl(keep, F_DUPFD_CLOEXEC, 3L) : -1;
    if (high >= 0)
        keep = (int)high;
    stdio_leaves();
    for (int fd = 0; fd < fds_used(); fd++) {
        if (fd_words[fd] && !stands_in(fd))
            fd_words[fd] = 0;
    }
    return keep;
}

/* Everything of berth's but that session, or (0) all sessions. */
static void socks_leave(session_handle h)
{
    for (uint32_t i = 1; i < socks_known(); i++) {
        struct sock *s = &sock_pool[i];
        bool wanted = s->kind == SOCK_SESSION && (!h || s->handle == h);
        if (s->kind == SOCK_SESSION && !wanted)
            (void)client_close(s->handle);
        else if (s->kind == SOCK_LISTENER)
            (void)client_unlisten(s->handle);
        else if (s->kind == SOCK_BOUND)
            client_file_leave(s->file);
        if (!wanted)
            sock_become(s, SOCK_FREE);
    }
    for (int fd = 0; fd < fds_used(); fd++) {
        if (!fd_words[fd])
            continue;
        if (!stands_in(fd))
            sys_close(fd);
        fd_words[fd] = 0;
    }
}

struct relayed {
    session_handle h;
    enum relay_reads reads;
};

static void relay_run(void *arg, int fd)
{
    const struct relayed r = *(const struct relayed *)arg;
    relay_pump(r.h, fd, r.reads);
}

/* What it has of the kernel's goes in the process between, before this returns: the program may be over before the
 * one that stays has run for the first time, and nobody may see a file of it open then. */
pid_t relay_fork(session_handle h, void (*run)(void *arg, int fd), void *arg, int keep)
{
    sigset_t all, old;
    long at =
        sys_call6(SYS_mmap, 0, sizeof(pid_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at < 0)
        return 0;
    pid_t *relay = (pid_t *)at; /* NOLINT(performance-no-int-to-ptr) */
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t pid = fork();
    if (pid == 0) {
        keep = fds_leave(keep);
        (void)sys_call(SYS_chdir, "/", 0L, 0L, 0L);
        (void)sys_call(SYS_setsid, 0L, 0L, 0L, 0L);
        pid = fork();
        if (pid == 0) {
            (void)sys_call(SYS_munmap, at, (long)sizeof(pid_t), 0L, 0L);
            socks_leave(h);
            run(arg, keep);
        }
        *relay = pid;
        for (;;)
            sys_call(SYS_exit_group, 0L, 0L, 0L, 0L);
    }
    while (pid > 0 && sys_call(SYS_wait4, (long)pid, NULL, 0L, 0L) == -EINTR)
        ; /* ECHILD, when it has ended, where SIGCHLD is ignored */
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    pid = *relay;
    (void)sys_call(SYS_munmap, at, (long)sizeof(pid_t), 0L, 0L);
    return pid > 0 ? pid : 0;
}

int relay_to(int family, const endpoint *from, const endpoint *to, session_handle h, int64_t patience)
{
    struct sockaddr_storage ss;
    socklen_t len;
    long fd = bound_at(family, from, &ss, &len);
    if (fd < 0)
        return (int)fd;
    struct timeval tv = {.tv_sec = patience / NS_PER_SEC};
    (void)sys_call6(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, sys_arg(&tv), sizeof tv, 0);
    len = sock_fill_addr(family, to, (struct sockaddr *)&ss, sizeof ss);
    long err = sys_call(SYS_connect, fd, &ss, (long)len, 0L);
    if (err == 0 && !relay_fork(h, relay_run, &(struct relayed){h, RELAY_READS}, (int)fd))
        err = -EAGAIN;
    sys_close((int)fd);
    return (int)err;
}

/* ---- in the program ------------------------------------------------------------------------------------ */

/* arg: what is put there */
static void put_over(int fd, void *arg)
{
    long flags = sys_fcntl(fd, F_GETFD, 0L);
    (void)sys_call(SYS_dup3, (long)*(const int *)arg, (long)fd,
                   flags > 0 && flags & FD_CLOEXEC ? (long)O_CLOEXEC : 0L, 0L);
}

void sock_put_over(struct sock *s, int with)
{
    sock_each_fd(s, put_over, &with);
}

void sessions_lost(void)
{
    int pair[2] = {-1, -1};
    if (sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_STREAM | SOCK_CLOEXEC), 0L, pair) < 0)
        return;
    sys_close(pair[1]);
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (likely(!fd_words[fd]) || fd_look(fd, &s, &h) != SOCK_SESSION)
            continue;
        put_over(fd, &pair[0]);
        store_release(&fd_words[fd], 0); /* epoll sets that know it are the parent's */
    }
    sys_close(pair[0]);
}

uint8_t relay_unaccepted;

/* Of an exec: all its sessions have one wait in common; 0: none is under way in this thread. */
static __thread int64_t settle_until;

/* The daemon tells this process who accepted, not its children. */
static bool wait_accepted(session_handle h, int64_t end)
{
    while (!client_accepted(h) && clock_now() < end) {
        struct client_poll_item item = {.handle = h, .events = CLIENT_POLL_MET};
        if (client_poll(&item, 1, NULL, 0, NS_PER_MS, NULL, NULL) < 0 || item.revents & (EPOLLERR | EPOLLHUP))
            break;
    }
    return client_accepted(h);
}

/* A child of fork shall find its sessions accepted, where they are at all. */
void relay_before_fork(void)
{
    if (!relay_unaccepted || shim_foreign())
        return;
    int64_t end = clock_now() + SOON_NS;
    bool all = true;
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (unlikely(fd_words[fd]) && fd_look(fd, &s, &h) == SOCK_SESSION && !client_accepted(h))
            all &= wait_accepted(h, end);
    }
    if (!all)
        client_offers_settle();
    relay_unaccepted = !all;
}

/* Whoever has them next cannot go on offering what nobody has accepted: if that is slow, the kernel's listener gets
 * it. */
void relay_before_exec(void)
{
    settle_until = clock_now() + SOON_NS + ACCEPT_WAIT_NS;
    if (!relay_unaccepted && !client_queued())
        return;
    int64_t end = clock_now() + SOON_NS;
    bool all = true;
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (likely(!fd_words[fd]) || fd_look(fd, &s, &h) != SOCK_SESSION ||
            sys_fcntl(fd, F_GETFD, 0L) & FD_CLOEXEC)
            continue;
        shim_lock();
        bool still = fd_word(fd) == sock_word(s) && s->kind == SOCK_SESSION;
        if (still)
            queued_to_kernel(fd, s);
        still = still && s->kind == SOCK_SESSION;
        shim_unlock();
        if (!still || wait_accepted(h, end))
            continue;
        client_offer_to_kernel(h);
        all = false;
    }
    if (!all)
        client_offers_settle();
}

void relay_exec_failed(void)
{
    settle_until = 0;
}

static bool connect_under_way(session_handle h)
{
    return client_connecting(h) && !client_connected(h);
}

bool session_settle(struct sock *s, uint64_t h)
{
    if (connect_under_way(h))
        return false;
    if (s->unsettled || client_accepted(h))
        return client_accepted(h);
    int64_t end = settle_until ? settle_until : clock_now() + SOON_NS + ACCEPT_WAIT_NS;
    if (!wait_accepted(h, end - ACCEPT_WAIT_NS)) {
        client_offer_to_kernel(h);
        client_offers_settle();
    }
    bool settled = wait_accepted(h, end);
    s->unsettled = !settled;
    return settled;
}

int session_pair(struct sock *s, uint64_t h, int *theirs, int *ours)
{
    int err = pair_make(s, h, theirs, ours);
    if (err < 0)
        return err;
    options_replay(s, *theirs);
    if (sock_nonblock(s))
        sys_fcntl(*theirs, F_SETFL, sys_fcntl(*theirs, F_GETFL, 0L) | O_NONBLOCK);
    return 0;
}

bool session_replaced(int fd, struct sock *s, int theirs)
{
    shim_lock();
    bool still = fd_word(fd) == sock_word(s) && s->kind == SOCK_SESSION;
    if (still) {
        if (theirs >= 0)
            sock_put_over(s, theirs);
        regs_session_to_kernel(s);
        sock_forget(s);
    }
    shim_unlock();
    return still;
}

/* Who gets the pair may not wait (O_NONBLOCK): what is there now he finds at once, without the relay's having run. No more
 * than the pair takes without a reader. */
static void bring_what_is_there(session_handle h, int ours)
{
    char buf[8192];
    for (int i = 0; i < 4; i++) {
        ssize_t n = client_read(h, buf, sizeof buf, 0);
        for (ssize_t done = 0; done < n;) {
            long put = sys_write(ours, buf + done, n - done);
            if (put < 0 && put != -EINTR)
                return; /* it cannot be: both ends are here */
            done += put > 0 ? put : 0;
        }
        if (n < (ssize_t)sizeof buf)
            return;
    }
}

int relay_make(struct sock *s, session_handle h, enum relay_reads reads)
{
    int theirs, ours;
    if (!session_settle(s, h) && connect_under_way(h))
        return -ENOTCONN; /* else whoever accepts it finds the relay there */
    int err = session_pair(s, h, &theirs, &ours);
    if (err < 0)
        return err;
    if (!client_shared(h))
        reads = RELAY_READS;
    if (reads == RELAY_READS)
        bring_what_is_there(h, ours);
    uint32_t shut = client_shut(h); /* what comes out of `ours` then is no news to the relay */
    if (shut)                       /* SHUT_RD and its like are one less */
        (void)sys_call(SYS_shutdown, (long)theirs, (long)shut - 1, 0L, 0L);
    bool marked = reads == RELAY_READS_IF_USED && lent_mark(theirs);
    pid_t relay = relay_fork(h, relay_run, &(struct relayed){h, reads}, ours);
    sys_close(ours);
    if (!relay)
        sys_close(theirs);
    else if (marked)
        sys_fcntl(theirs, F_SETOWN, (long)relay);
    return relay ? theirs : -EAGAIN;
}

/* False: it stays what it was. */
static bool give(int fd, struct sock *s, session_handle h, enum relay_reads reads)
{
    if (connect_under_way(h) || shim_foreign())
        return false;
    int theirs = relay_make(s, h, reads);
    if (theirs < 0) {
        log_warn("descriptor %d stays with berth: %s", fd, strerror(-theirs));
        return false;
    }
    if (session_replaced(fd, s, theirs))
        (void)client_close(h); /* the relay holds it */
    sys_close(theirs);
    return true;
}

/* arg: is it there? */
static void is_input(int fd, void *arg)
{
    if (fd == 0)
        *(bool *)arg = true;
}

/* As standard input it is to be read. */
static enum relay_reads reads_of(struct sock *s)
{
    bool input = false;
    shim_lock();
    sock_each_fd(s, is_input, &input);
    shim_unlock();
    return input ? RELAY_READS : RELAY_READS_LATER;
}

bool fd_lent(int fd)
{
    struct sock *s;
    uint64_t h;
    int saved = errno;
    bool lent = fd_view(fd, &s, &h) == SOCK_SESSION && give(fd, s, h, RELAY_READS_IF_USED);
    errno = saved;
    return lent;
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
        (void)give(fd, s, h, reads_of(s));
        break;
    default:
        break;
    }
    errno = saved;
}
