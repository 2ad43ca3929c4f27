/* fork.c - a child is one more worker of the same app and holds what its parent holds.
 *
 * Before the fork (pthread_atfork, so that daemon(3), forkpty and the like come by) the parent sends the daemon one end of a
 * socketpair: "my next child". No answer is waited for; the child is known before it exists. The child keeps the other end
 * as its control socket, whatever it does later with its user or root directory, and says hello on it at its first use of
 * berth: it then gets a worker id, a page and a kick of its own. A child that execs or ends without ever using berth
 * costs a closed socket.
 *
 * Sessions held at the fork are shared: records and slots lie in memory that both can write. Their rings may come to lie in
 * segments that only one of the two can write; the other swaps to a ring of its own (stream.c). Sessions made later belong
 * to whoever made them.
 */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"
#include "shm/ctlsock.h"

static int child_end = -1;
static uint32_t child_member = NONE;

static uint32_t member_take(void)
{
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) {
        int32_t none = 0;
        if (compare_exchange_sc(&C->family->member[i].pid, &none, -1))
            return i;
    }
    return NONE;
}

/* What is shared is marked so, and held by the child from now on. */
static void share_sessions(uint32_t member)
{
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (s->state != SESSION_FREE && s->state != SESSION_ZOMBIE && s->holders & 1ull << C->member) {
            fetch_or_sc(&s->holders, 1ull << member);
            fetch_or_sc(&s->flags, SF_SHARED);
            struct session_cache *c = session_cache_of(s);
            if (c->own)
                store_relaxed(&c->own->waiter, (uint8_t)WAITER_ANY);
        }
    }
}

static void before_fork(void)
{
    child_end = -1;
    child_member = NONE;
    if (!C->attached || C->daemon_lost || fork_child_ready() != 0)
        return;
    child_member = member_take();
    if (child_member == NONE)
        return;
    int pair[2];
    if (sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_SEQPACKET | SOCK_CLOEXEC), 0L, pair) < 0)
        return;
    struct ctl_child msg = {.h = {.type = CTL_CHILD, .len = sizeof msg}, .member = child_member};
    if (control_send(&msg, &pair[0], 1) == 0)
        child_end = pair[1];
    else
        (void)sys_close(pair[1]);
    (void)sys_close(pair[0]);
    store_release(&berth_family_shared, true); /* for good: a lock is a lock from now on */
    share_sessions(child_member);
    plock_take(&C->poll_lock);
    plock_take(&C->watch_lock);
    plock_take(&C->lock);
    plock_take(&C->ctl_lock);
    plock_take(&C->zombie_lock);
}

static void locks_release(void)
{
    plock_release(&C->poll_lock);
    plock_release(&C->zombie_lock);
    plock_release(&C->watch_lock);
    plock_release(&C->ctl_lock);
    plock_release(&C->lock);
}

static void after_fork_parent(void)
{
    if (child_member == NONE)
        return;
    locks_release();
    if (child_end >= 0)
        (void)sys_close(child_end); /* so that its end of file tells of the child's death */
    child_end = -1;
    child_member = NONE;
}

static void after_fork_child(void)
{
    if (child_member == NONE) {
        if (C->attached) { /* nothing could be registered: this process is on its own, without what its parent had */
            own_fd_close(C->ctl);
            C->ctl = -1;
            C->attached = false;
        }
        return;
    }
    locks_release();
    own_fd_set(C->ctl, false);
    (void)sys_close(C->ctl);
    C->ctl = own_fd(child_end);
    C->member = child_member;
    berth_lock_id = child_member;
    store_release(&C->family->member[child_member].pid, (int32_t)getpid());
    C->forked = true;
    C->daemon_lost = C->ctl < 0;
    C->zombies_first = C->zombies_last = 0; /* the parent's */
    C->unconfirmed = 0;
    C->waiters_used = 0;
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *l = &C->listeners[i];
        if (l->generation & 1 && l->wait_ep >= 0) { /* an epoll set inherited by fork wakes one of the two */
            own_fd_close(l->wait_ep);
            l->wait_ep = -1;
        }
    }
    ports_forget();
    routes_forget();
    child_end = -1;
}

int fork_child_ready(void)
{
    if (__builtin_expect(!load_acquire(&C->forked), 1))
        return 0;
    static struct plock hello_lock;
    plock_take(&hello_lock);
    int err = 0;
    if (C->forked) {
        struct worker_page *parents = C->page; /* stays mapped: inherited sessions name its waiters */
        int page_fd = -1, dir_fd = -1, nfds = 1;
        long kick = sys_eventfd(02004000 /* O_CLOEXEC | O_NONBLOCK */);
        err = kick < 0 ? BERTH_E_NO_MEMORY : worker_page_create(&page_fd);
        if (!err) {
            struct ctl_child_hello msg = {.h = {.type = CTL_CHILD_HELLO, .len = sizeof msg},
                                          .version = CTL_VERSION,
                                          .pid = (uint32_t)getpid()};
            struct ctl_welcome is;
            int fds[2] = {page_fd, (int)kick};
            err = control_request(&msg, fds, 2, &is, sizeof is, &dir_fd, &nfds);
            if (!err)
                err = nfds == 1 ? welcome(&is, dir_fd) : BERTH_E_PROTOCOL;
        }
        if (page_fd >= 0)
            (void)sys_close(page_fd);
        if (!err) {
            C->kick_parent = C->kick_fd; /* still written by peers of inherited sessions */
            C->kick_fd = own_fd((int)kick);
            C->page_parent = parents;
            store_release(&C->forked, false);
        } else {
            if (kick >= 0)
                (void)sys_close(kick);
            C->page = parents;
            log_warn("a forked child could not say hello to the daemon: %s", berth_strerror(err));
        }
    }
    plock_release(&hello_lock);
    return err;
}

/* A member ended. What only dead members held is closed by whoever is told first. */
void member_gone(uint32_t member)
{
    if (member >= MEMBERS_MAX)
        return;
    store_release(&C->family->member[member].pid, 0);
    uint64_t alive = members_alive();
    bool shared = (alive & (alive - 1)) != 0;
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (s->state == SESSION_FREE || s->state == SESSION_ZOMBIE)
            continue;
        uint64_t before = fetch_and_sc(&s->holders, ~(1ull << member));
        if (before & 1ull << member && !(before & ~(1ull << member) & alive) && load_relaxed(&s->flags) & SF_SHARED) {
            fetch_or_sc(&s->holders, 1ull << C->member); /* ours now, to close it */
            (void)client_close(session_handle_of(s));
        } else if (!shared) {
            fetch_and_sc(&s->flags, ~SF_SHARED);
        }
    }
}

void fork_install(void)
{
    static bool done;
    if (!done)
        done = pthread_atfork(before_fork, after_fork_parent, after_fork_child) == 0;
}
