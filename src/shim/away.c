/* away.c - the sessions of a process that has become another user.
 *
 * They lie in memory that it must not write any more. Where it uses one, the session is relayed to it over a
 * pair of kernel sockets (relay.c), and a relay takes what comes. So none may be made for a session that
 * another process of the family reads as well, before it is known that this one will: many a process becomes
 * another user only to execute a program.
 *
 * Hence a *keeper*: just before the process becomes another user it forks off one process that stays in the
 * family, and holds all of its sessions. Here they are AWAY: the first call on one asks the keeper for a
 * socket, which takes the placeholder's place under all numbers. What is closed without having been used is
 * let go of by the keeper; so is the rest when the process ends or executes a program. The keeper ends with
 * the last of them. It does nothing else for the process, which it does not trust.
 *
 * Before a fork all of them are used: the child has the same open files.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/log.h"
#include "base/sys.h"
#include "relay/pump.h"
#include "shim/shim.h"
#include "shm/control.h"
#include "shm/ctlsock.h"

enum { ASK_USE = 1, ASK_CLOSE, ASK_ABORT };

struct ask {
    uint32_t what;
    uint32_t index; /* of the sock, which has one place in both processes */
};

uint32_t away_count;
static pthread_mutex_t away_lock = PTHREAD_MUTEX_INITIALIZER; /* who asks; before shim_lock */

#define ANSWER_SECONDS 10

/* ---- the keeper ---------------------------------------------------------------------------------------- */

static void answer(int control, int fd)
{
    char made = fd >= 0;
    (void)ctl_send(control, &made, sizeof made, &fd, made,
                   MSG_DONTWAIT); /* who does not wait for it has gone */
}

static struct sock *kept(uint32_t index)
{
    struct sock *s = index && index < socks_known() ? &sock_pool[index] : NULL;
    return s && s->kind == SOCK_SESSION ? s : NULL;
}

static uint32_t keep_count(void)
{
    uint32_t n = 0;
    for (uint32_t i = 1; i < socks_known(); i++)
        n += kept(i) != NULL;
    return n;
}

static void let_go(struct sock *s, bool abort)
{
    (void)(abort ? client_abort(s->handle) : client_close(s->handle));
    sock_become(s, SOCK_FREE);
}

/* False: the process has ended, or executed a program. */
static bool serve(int control)
{
    struct ask a = {0};
    long n = sys_read(control, &a, (long)sizeof a);
    if (n == -EINTR || n == -EAGAIN)
        return true;
    if (n != (long)sizeof a)
        return false;
    struct sock *s = kept(a.index);
    if (a.what == ASK_USE) {
        int fd = s ? relay_make(s, s->handle, RELAY_READS) : -EBADF;
        answer(control, fd);
        if (fd >= 0)
            sys_close(fd);
    }
    if (s)
        let_go(s, a.what == ASK_ABORT);
    return true;
}

static void keep(void *arg, int control)
{
    (void)arg;
    relay_signals();
    while (keep_count()) {
        struct pollfd p = {.fd = control, .events = POLLIN};
        if (client_poll(NULL, 0, &p, 1, -1, NULL, NULL) < 0)
            continue;
        if (p.revents && !serve(control))
            break;
    }
    for (uint32_t i = 1; i < socks_known(); i++) {
        if (kept(i))
            let_go(kept(i), false);
    }
    for (;;)
        sys_call(SYS_exit_group, 0L, 0L, 0L, 0L);
}

/* ---- the process that becomes another user ------------------------------------------------------------- */

static void over_with_base(struct sock *s)
{
    int base = placeholder_base(s->family);
    if (base >= 0)
        sock_put_over(s, base);
}

/* No number of ours is left at a file that relatives have, too. */
static void go(struct sock *s)
{
    uint64_t h = s->handle;
    s->nonblock = sock_nonblock(s);
    s->shared = client_shared(h);
    s->abort = session_aborts(s);
    regs_session_gone(s);
    sock_become(s, SOCK_AWAY);
    store_release(&s->handle, 0);
    away_count++;
    (void)client_close(h); /* the keeper holds it */
    over_with_base(s);
}

static bool any_session(void)
{
    for (uint32_t i = 1; i < socks_known(); i++) {
        if (sock_pool[i].kind == SOCK_SESSION)
            return true;
    }
    return false;
}

void sessions_go_away(void)
{
    int pair[2] = {-1, -1};
    if (!any_session() ||
        sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_SEQPACKET | SOCK_CLOEXEC), 0L, pair) < 0)
        return;
    bool there = relay_fork(0, keep, NULL, pair[1]) != 0;
    sys_close(pair[1]);
    if (!there) {
        sys_close(pair[0]);
        return;
    }
    struct timeval tv = {.tv_sec = ANSWER_SECONDS};
    (void)sys_call6(SYS_setsockopt, pair[0], SOL_SOCKET, SO_RCVTIMEO, sys_arg(&tv), sizeof tv, 0);
    away_control_set(pair[0]);
    internals_close();
    shim_lock();
    for (uint32_t i = 1; i < socks_known(); i++) {
        if (sock_pool[i].kind == SOCK_SESSION)
            go(&sock_pool[i]);
    }
    shim_unlock();
}

static bool ask(uint32_t what, const struct sock *s)
{
    struct ask a = {what, (uint32_t)(s - sock_pool)};
    int control = away_control();
    return control >= 0 && ctl_send(control, &a, sizeof a, NULL, 0, 0) == 0;
}

/* The socket that the keeper has made, with all options of the session; or one that has ended. */
static int fetch(const struct sock *s)
{
    char made = 0;
    int pair[2] = {-1, -1}, fds[CTL_FDS_MAX], n = 0;
    if (ask(ASK_USE, s)) {
        while (ctl_recv(away_control(), &made, sizeof made, fds, &n, 0) == BERTH_E_INTERRUPTED)
            ;
    }
    if (n == 1)
        return fds[0];
    while (n > 0)
        sys_close(fds[--n]);
    log_warn("a connection of before this process became another user could not go on: it ends");
    if (sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_STREAM | SOCK_CLOEXEC), 0L, pair) == 0)
        sys_close(pair[1]);
    return pair[0];
}

/* away_lock is held. */
static void use(struct sock *s)
{
    int fd = fetch(s);
    if (fd >= 0 && s->nonblock)
        sys_fcntl(fd, F_SETFL, sys_fcntl(fd, F_GETFL, 0L) | O_NONBLOCK);
    shim_lock();
    if (fd >= 0)
        sock_put_over(s, fd);
    regs_session_to_kernel(s);
    sock_forget(s);
    uint32_t left = --away_count;
    shim_unlock();
    if (fd >= 0)
        sys_close(fd);
    if (!left)
        away_control_set(-1);
}

enum sock_kind away_used(int fd)
{
    int saved = errno;
    hold_begin();
    pthread_mutex_lock(&away_lock);
    uint64_t word = fd_word(fd);
    if (word && sock_of(word)->kind == SOCK_AWAY && !shim_foreign())
        use(sock_of(word));
    pthread_mutex_unlock(&away_lock);
    hold_end();
    errno = saved;
    return SOCK_FREE;
}

void away_closed(struct sock *s)
{
    (void)ask(s->abort ? ASK_ABORT : ASK_CLOSE, s); /* it has ended: then so has the session */
    if (!--away_count)
        away_control_set(-1);
}

static void use_all(bool watched)
{
    for (int fd = 0; away_count && fd < fds_used(); fd++) {
        uint64_t word = fd_words[fd];
        if (unlikely(word) && sock_of(word)->kind == SOCK_AWAY && (!watched || sock_of(word)->regs))
            (void)away_used(fd);
    }
}

void away_watched(void)
{
    use_all(true);
}

void away_settle(void)
{
    if (unlikely(load_relaxed(&away_count)))
        use_all(false);
}
