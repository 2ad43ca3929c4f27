/* passed.c - sessions that go to another program, over exec or a unix socket, and stay sessions there.
 *
 * Under the session's numbers comes a connection of the kernel's, the stand-in, which goes wherever the
 * program sends it. The session itself is left with the daemon (client_give). A program under berth that
 * finds a stand-in among its descriptors takes the session (client_take); anybody else just uses the stand-in,
 * and the daemon starts a relay for him. So whoever gives need not know who gets.
 *
 * The open file is marked, as that of a listener is (handover.c).
 *
 * What is on 0, 1 and 2 is left to a relay from the beginning: libc's stdio is there, which does not come by
 * here.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/shim.h"

#define STAND_IN_MARK 62
#define PASSED_MAX 256
#define MOVES_NS (80 * NS_PER_MS)

APART static int passed[PASSED_MAX]; /* by the exec that is under way */
static uint32_t passed_count;

const int64_t session_shared_ns = 2 * NS_PER_MS;

bool session_alone(uint64_t h, int64_t end)
{
    struct timespec a_moment = {0, 50 * NS_PER_US};
    while (client_shared(h)) {
        if (clock_now() >= end)
            return false;
        (void)sys_call(SYS_nanosleep, &a_moment, NULL, 0L, 0L);
    }
    return true;
}

/* An end whose other one is on its way waits for that to come: whoever would hold it meanwhile heard nothing of where
 * it goes. Less than it takes until a relay comes for one that nobody has come for. */
static int give(uint64_t h, int theirs, int ours)
{
    int64_t end = clock_now() + MOVES_NS;
    int err;
    while ((err = client_give(h, theirs, ours)) == BERTH_E_BUSY && client_peer_moves(h) &&
           clock_now() < end) {
        struct client_poll_item none = {0};
        (void)client_poll(&none, 0, NULL, 0, NS_PER_MS, NULL, NULL);
    }
    return err;
}

bool session_passes(int fd)
{
    struct sock *s;
    uint64_t h;
    int theirs = -1, ours = -1;
    if (fd <= 2 || fd_view(fd, &s, &h) != SOCK_SESSION || shim_foreign() || session_aborts(s))
        return false;
    if (!session_alone(h, clock_now() + session_shared_ns))
        return false;
    if (s->stand_in) {
        if (give(h, fd, -1) != 0)
            return false;
        (void)session_replaced(fd, s, -1);
        return true;
    }
    if (!session_settle(s, h) || session_pair(s, h, &theirs, &ours) < 0)
        return false;
    sys_fcntl(theirs, F_SETSIG, (long)STAND_IN_MARK);
    int err = give(h, theirs, ours);
    log_debug("descriptor %d is passed on: %s", fd, berth_strerror(err));
    if (!err)
        (void)session_replaced(fd, s, theirs);
    sys_close(theirs);
    sys_close(ours);
    return err == 0;
}

static int64_t timeout_of(int fd, int name)
{
    struct timeval tv = {0};
    socklen_t len = sizeof tv;
    (void)sys_call6(SYS_getsockopt, fd, SOL_SOCKET, name, sys_arg(&tv), sys_arg(&len), 0);
    return (int64_t)tv.tv_sec * NS_PER_SEC + tv.tv_usec * NS_PER_US;
}

bool came_marked(int fd, long mark)
{
    return fd >= 0 && fd < (int)FD_MAX && !fd_word(fd) && sys_fcntl(fd, F_GETSIG, 0L) == mark &&
           socket_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
}

/* One stand-in comes under several numbers: dup'd by who passed it on, or sent twice. shim_lock is held. */
static bool bound_to_known(int fd, uint64_t cookie)
{
    if (fd_word(fd))
        return true; /* another thread has looked at it, too */
    for (uint32_t i = 1; cookie && i < socks_known(); i++) {
        struct sock *s = &sock_pool[i];
        if (s->kind == SOCK_SESSION && s->stand_in && s->cookie == cookie) {
            fd_bind(fd, s);
            return true;
        }
    }
    return false;
}

static bool known_by_another(int fd, uint64_t cookie)
{
    shim_lock();
    bool known = bound_to_known(fd, cookie);
    shim_unlock();
    return known;
}

void session_came(int fd)
{
    session_handle h;
    if (!came_marked(fd, STAND_IN_MARK) || shim_off() || program_alone())
        return;
    uint64_t cookie = socket_cookie(fd);
    if (known_by_another(fd, cookie))
        return;
    int family = socket_option(fd, SOL_SOCKET, SO_DOMAIN), lowat = socket_option(fd, SOL_SOCKET, SO_RCVLOWAT);
    int err = client_take(fd, &h);
    if (err) {
        if (!known_by_another(fd, cookie)) /* else another thread has taken it meanwhile */
            log_debug("descriptor %d stays the kernel's: %s", fd, berth_strerror(err));
        return;
    }
    shim_atfork_late();
    bool nonblock = sys_fcntl(fd, F_GETFL, 0L) & O_NONBLOCK;
    client_set_nonblock(h, nonblock);
    if (lowat > 1)
        (void)client_set_lowat(h, (uint32_t)lowat); /* it was taken a moment ago */
    shim_lock();
    struct sock *s = sock_alloc(SOCK_SESSION, family);
    if (s) {
        s->nonblock = nonblock;
        s->stand_in = s->real = 1;
        s->cookie = cookie;
        s->rcv_timeout = timeout_of(fd, SO_RCVTIMEO);
        s->snd_timeout = timeout_of(fd, SO_SNDTIMEO);
        store_release(&s->handle, h);
        shim_vfork_is_fork = 1;
        fd_bind(fd, s);
    }
    shim_unlock();
    if (!s)
        (void)client_abort(h);
}

/* ---- back ---------------------------------------------------------------------------------------------- */

static uint32_t gone_back;

void sessions_went_back(void)
{
    if (shim_locked() || shim_foreign())
        return;
    shim_lock();
    if (exchange_sc(&client_recall_news, 0)) {
        for (uint32_t i = 1; i < socks_known(); i++) {
            struct sock *s = &sock_pool[i];
            if (s->kind == SOCK_SESSION && s->stand_in && !client_lives(s->handle)) {
                regs_session_to_kernel(s);
                sock_forget(s);
                store_release(&gone_back, gone_back + 1);
            }
        }
    }
    shim_unlock();
}

bool session_went_back(const struct sock *s, uint64_t h)
{
    uint64_t before = load_acquire(&gone_back);
    if (client_lives(h) || (!load_acquire(&client_recall_news) && !before))
        return false;
    bool was = s->stand_in;
    sessions_went_back();
    return was;
}

uint32_t sessions_gone_back(void)
{
    return load_acquire(&gone_back);
}

/* ---- exec ---------------------------------------------------------------------------------------------- */

void exec_begins(void)
{
    passed_count = 0;
}

static void note(int fd, void *arg)
{
    (void)arg;
    if (passed_count < PASSED_MAX)
        passed[passed_count++] = fd;
}

bool exec_passes(int fd)
{
    struct sock *s;
    uint64_t h;
    if (fd_view(fd, &s, &h) == SOCK_SESSION) { /* all its numbers are those of a stand-in after this */
        shim_lock();
        sock_each_fd(s, note, NULL);
        shim_unlock();
    }
    return session_passes(fd);
}

bool exec_lends(int fd)
{
    bool lent = fd_lent(fd);
    if (lent)
        note(fd, NULL);
    return lent;
}

void exec_failed(void)
{
    int saved = errno;
    for (uint32_t i = 0; i < passed_count; i++) {
        session_came(passed[i]);
        lent_came(passed[i]);
    }
    passed_count = 0;
    relay_exec_failed();
    errno = saved;
}
