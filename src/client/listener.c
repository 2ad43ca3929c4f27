/* listener.c - listening, and waiting for what accept.c takes.
 *
 * The accept queue is a pipe of 64-byte tokens, made here and inherited by fork: so the kernel decides who
 * gets a token, wakes one sleeper, and keeps tokens when a worker dies. That its end for writing goes to
 * others is why fds.c opens pipes anew.
 *
 * A daemon that is late may have entered the listener into the directory, or does so at any moment: who
 * connects then must find somebody. So once the question has gone out the listener stays, and hears its
 * number later (listener_named). Only who asked the daemon for a port cannot go on without the answer. Where it is
 * known to be late, by an earlier answer or for a forked child's first word, nobody waits: the question goes out
 * behind what has been asked.
 *
 * A blocked accept looks again and again for a while before it sleeps, where that has paid of late (spin.c). There
 * is no word in memory to look at: each look asks the kernel for the state of the pipe, and of the kernel's
 * listener with it, 0.2 us.
 */
#include "client/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/control.h"
#include "client/events.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/hello.h"
#include "client/news.h"
#include "client/sets.h"
#include "client/sleeper.h"
#include "client/spin.h"
#include "client/watch.h"

int listeners_create(void)
{
    C->listeners = memory_get(LISTENERS_MAX * sizeof(struct listener));
    return C->listeners ? 0 : BERTH_E_NO_MEMORY;
}

static struct listener *take_free(void)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *l = &C->listeners[i];
        if (i >= C->listeners_used)
            store_release(&C->listeners_used, i + 1);
        if (!(l->generation & 1)) {
            uint32_t generation = (l->generation + 1) & 0x7fffffffu;
            memset(l, 0, sizeof *l);
            l->wait_ep = l->wait_ep_kernel = l->pipe_rd = l->pipe_wr = -1;
            l->generation = generation;
            return l;
        }
    }
    return NULL;
}

static int make_pipe(struct listener *l)
{
    int fds[2] = {-1, -1};
    if (sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
        return BERTH_E_NO_MEMORY;
    l->pipe_rd = own_fd(fds[0]);
    let_others_open(fds[1]);
    l->pipe_wr = own_pipe(fds[1]); /* for reading too, if it can be */
    return 0;
}

static int tell_slow_daemon(struct listener *l, struct ctl_listen *msg)
{
    msg->h.seq = control_async_seq();
    store_release(&l->asked, msg->h.seq);
    int err = control_send(msg, &l->pipe_wr, 1);
    if (err)
        store_relaxed(&l->asked, 0u);
    return err;
}

static int ask_daemon(struct listener *l, struct ctl_listen *msg)
{
    struct control_ask ask;
    struct ctl_listened is = {0};
    int err = load_relaxed(&C->forked) ? BERTH_E_TIMED_OUT : control_ask(&ask, msg, &l->pipe_wr, 1);
    if (err == BERTH_E_TIMED_OUT && msg->flags & CTL_LISTEN_KERNEL)
        return tell_slow_daemon(l, msg);
    if (err)
        return err;
    store_release(&l->asked, ask.seq); /* before the answer can be late */
    err = control_answer(&ask, &is, sizeof is, NULL, NULL);
    if (err == BERTH_E_TIMED_OUT && msg->flags & CTL_LISTEN_KERNEL)
        return 0;
    store_relaxed(&l->asked, 0);
    if (err)
        return err;
    if (!is.listener || !is.port)
        return BERTH_E_PROTOCOL;
    store_relaxed(&l->id, is.listener);
    l->at.port = is.port;
    return 0;
}

int client_listen(const endpoint *ep, uint32_t flags, uint32_t backlog, uint64_t socket, listener_handle *out)
{
    if (!C->attached)
        return BERTH_E_NOT_ATTACHED;
    int err = flags & LISTEN_KERNEL ? fork_child_goes_on() : fork_child_ready();
    if (err)
        return err;
    plock_take(&C->lock);
    struct listener *l = take_free();
    plock_release(&C->lock);
    if (!l)
        return BERTH_E_LIMIT;
    err = make_pipe(l);
    if (!err)
        err = tokens_create(l);
    if (!err) {
        struct ctl_listen msg = {.h = {.type = CTL_LISTEN, .len = sizeof msg},
                                 .port = ep->port,
                                 .proto = PROTO_TCP,
                                 .flags = (uint8_t)(flags & 15u),
                                 .backlog = backlog,
                                 .cookie = listener_handle_of(l),
                                 .socket = socket};
        memcpy(msg.addr, ep->addr, 16);
        l->at = *ep;
        l->backlog = backlog;
        err = ask_daemon(l, &msg);
    }
    if (err) {
        tokens_free(l);
        own_fd_close(l->pipe_rd);
        own_fd_close(l->pipe_wr);
        l->pipe_rd = l->pipe_wr = -1;
        store_release(&l->generation, l->generation + 1);
        return err;
    }
    *out = listener_handle_of(l);
    return 0;
}

int client_listener_backlog(listener_handle h, uint32_t backlog)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    l->backlog = backlog;
    uint32_t id = listener_number(l);
    if (!id)
        return 0; /* listener_named tells */
    struct ctl_listener msg = {
        .h = {.type = CTL_BACKLOG, .len = sizeof msg}, .listener = id, .backlog = backlog};
    return control_send(&msg, NULL, 0);
}

int client_listener_endpoint(listener_handle h, endpoint *out)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    *out = l->at;
    return 0;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

enum { WAIT_BELL, WAIT_FOUND, WAIT_NEWS };

/* One of several sleepers is to be woken, so they sleep on an epoll descriptor with EPOLLEXCLUSIVE. */
static int wait_ep(struct listener *l, int kernel_fd)
{
    if (load_acquire(&C->forked))
        return -1; /* its bell is another's yet */
    plock_take(&C->lock);
    if (l->wait_ep < 0 || l->wait_ep_kernel != kernel_fd) {
        int old = l->wait_ep;
        l->wait_ep = own_epoll();
        l->wait_ep_kernel = kernel_fd;
        struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u64 = WAIT_FOUND};
        (void)sys_epoll_ctl(l->wait_ep, EPOLL_CTL_ADD, l->pipe_rd, &ev);
        if (kernel_fd >= 0)
            (void)sys_epoll_ctl(l->wait_ep, EPOLL_CTL_ADD, kernel_fd, &ev);
        if (l->wait_ep >= 0 && !sleeper_wire(l->wait_ep, 0, WAIT_NEWS)) {
            own_fd_close(l->wait_ep);
            l->wait_ep = -1;
        }
        if (old >= 0 &&
            l->wait_ep >= 0) { /* under the same number: another thread may be about to wait there */
            (void)own_fd_is(old, l->wait_ep);
            l->wait_ep = old;
        } else {
            own_fd_close(old);
        }
    }
    int ep = l->wait_ep;
    plock_release(&C->lock);
    return ep;
}

#define NO_DESCRIPTOR_NS NS_PER_MS

/* 1: something has come for the listener; 0: look again; or -errno. */
static long sleep_once(struct sleeper *sl, const struct listener *l, int ep, int kernel_fd)
{
    int64_t left = sleeper_prepare(sl);
    if (ep < 0) {
        struct pollfd p[2] = {{.fd = listener_queue(l), .events = POLLIN},
                              {.fd = kernel_fd, .events = POLLIN}};
        return sleeper_poll(sl, p, 2, left < 0 || left > NO_DESCRIPTOR_NS ? NO_DESCRIPTOR_NS : left);
    }
    struct epoll_event ev[4];
    long got = sleeper_epoll(sl, ep, ev, 4, left), found = got < 0 ? got : 0;
    for (long i = 0; i < got; i++) {
        uint64_t what = ev[i].data.u64; /* NOLINT(clang-analyzer-*): filled by a raw system call */
        found = found || what == WAIT_FOUND;
        if (what == WAIT_NEWS)
            control_told();
    }
    return found;
}

/* Others may sleep on the same set. */
static void leave(void *arg)
{
    (void)arg;
    sleeper_pass_on();
}

struct look {
    listener_handle h;
    int kernel_fd;
};

/* Something for accept to take, or to say. */
static int look(void *arg)
{
    const struct look *k = arg;
    struct listener *l = listener_get(k->h);
    struct timespec zero = {0};
    if (!l)
        return 1;
    events_poll(false);
    struct pollfd p[2] = {{.fd = listener_queue(l), .events = POLLIN},
                          {.fd = k->kernel_fd, .events = POLLIN}};
    return listener_maybe(l) || sys_ppoll(p, 2, &zero, NULL) > 0;
}

static bool spin(struct listener *l, struct look *k, const struct sleeper *sl, int64_t began)
{
    struct spin spin = {
        .vain = &l->vain, .now = began, .deadline = sl->deadline, .mark = &sl->mark, .many = true};
    return spin_until(&spin, look, NULL, k) != 0;
}

static int wait_held(listener_handle h, int kernel_fd, int64_t deadline, const struct sleep_mark *mark)
{
    struct sleeper sl = {.mark = *mark, .deadline = deadline, .leave = leave};
    struct look k = {h, kernel_fd};
    int64_t began = clock_now();
    for (bool first = true;; first = false) {
        struct listener *l = listener_get(h);
        if (!l)
            return BERTH_E_BAD_HANDLE;
        int err = fork_child_goes_on();
        if (err)
            return err;
        int ep = wait_ep(l, kernel_fd);
        events_poll(true);
        if (listener_maybe(l))
            return 0;
        if (sleep_signalled(&sl.mark))
            return BERTH_E_INTERRUPTED;
        if (first && spin(l, &k, &sl, began)) {
            spin_learn(&l->vain, 0);
            return 0;
        }
        long found = sleep_once(&sl, l, ep, kernel_fd);
        if (found == -EINTR)
            return BERTH_E_INTERRUPTED;
        sleeper_glance();
        if (found > 0 && (l = listener_get(h)) != NULL)
            spin_learn(&l->vain, clock_now() - began);
        if (found > 0)
            return 0;
        if (found < 0)
            return BERTH_E_BAD_HANDLE;
        if (sleeper_over(&sl))
            return BERTH_E_TIMED_OUT;
    }
}

int client_listener_wait(listener_handle h, int kernel_fd, int64_t deadline, const struct sleep_mark *mark)
{
    hold_begin();
    int err = wait_held(h, kernel_fd, deadline, mark);
    if (err == BERTH_E_BAD_HANDLE)
        own_kick(); /* of those that sleep on one set a ring wakes one, and who closed the listener has rung
                       once */
    hold_end();
    return err;
}

void listeners_share(uint32_t member)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        const struct listener *l = &C->listeners[i];
        struct aside *a = l->generation & 1 ? aside_of(l) : NULL;
        if (!a)
            continue;
        (void)members_drop(&a->served, member); /* who had the number before it */
        members_add(&a->holders, member);
    }
}

static void listener_free(struct listener *l)
{
    plock_take(&C->watch_lock);
    listener_last_edges(l);
    plock_release(&C->watch_lock);
    sets_forget(l);
    watches_drop(&l->watches, NULL);
    tokens_free(l);
    plock_take(&C->lock);
    store_release(&l->generation, (l->generation + 1) & 0x7fffffffu);
    own_fd_close(l->pipe_rd);
    own_fd_close(l->pipe_wr);
    own_fd_close(l->wait_ep);
    l->pipe_rd = l->pipe_wr = l->wait_ep = -1;
    plock_release(&C->lock);
}

/* No daemon tells those who wait to be accepted that nobody will: they are, and are reset. */
static void refuse_all(listener_handle h, const struct listener *l)
{
    const struct aside *a = aside_of(l);
    session_handle s;
    if (a && aside_shared(a))
        return;
    while (client_accept_if(h, NULL, NULL, &s) == 0)
        (void)client_abort(s);
}

static int give_up(listener_handle h, uint16_t type)
{
    control_poll(); /* is the daemon there? */
    struct listener *l = listener_get(h);
    if (l && C->daemon_lost) {
        refuse_all(h, l);
        l = listener_get(h); /* another thread may have closed it meanwhile */
    }
    if (!l)
        return BERTH_E_BAD_HANDLE;
    struct ctl_listener msg = {.h = {.type = type, .len = sizeof msg}};
    msg.asked = exchange_sc(&l->asked, 0u); /* who hears its number now finds that nobody has it open */
    if (msg.asked == 0)
        msg.listener = load_relaxed(&l->id);
    (void)control_send(&msg, NULL, 0); /* no daemon: nobody finds it any more */
    listener_free(l);
    /* who is blocked in accept or poll finds it gone: nothing else wakes him, its set was closed */
    own_kick();
    /* a connect that follows finds nobody: the daemon answers in order, so it has read the above */
    if (!load_relaxed(&C->forked)) {
        struct ctl_header ask = {.type = CTL_STATUS, .len = sizeof ask};
        struct ctl_status_is is;
        /* late or lost: nothing is learnt from the answer */
        (void)control_request(&ask, NULL, 0, &is, sizeof is, NULL, NULL);
    }
    return 0;
}

int client_unlisten(listener_handle h)
{
    return give_up(h, CTL_UNLISTEN);
}

/* A child that has not said hello yet does so first: what follows in any of them shall find nobody, so the
 * answer is waited for. */
int client_listener_shut(listener_handle h)
{
    int err = fork_child_goes_on();
    return err ? err : give_up(h, CTL_SHUT);
}

/* A child that is about to become another program need not say hello for it. */
int client_listener_hide(listener_handle h, int pidfd)
{
    struct ctl_header ask = {.type = CTL_STATUS, .len = sizeof ask}, done;
    struct ctl_status_is is;
    const struct listener *l = listener_get(h);
    if (l && !listener_number(l)) /* answers come in order, and the number is one of them */
        (void)control_request(&ask, NULL, 0, &is, sizeof is, NULL, NULL);
    if (!(l = listener_get(h)))
        return BERTH_E_BAD_HANDLE;
    struct ctl_listener msg = {.h = {.type = CTL_HIDE, .len = sizeof msg}, .listener = listener_number(l)};
    if (!msg.listener)
        msg.asked = load_relaxed(&l->asked);
    return control_request(&msg, &pidfd, pidfd >= 0, &done, sizeof done, NULL, NULL);
}

bool client_listener_served(listener_handle h, bool by_us)
{
    const struct listener *l = listener_get(h);
    const struct aside *a = l ? aside_of(l) : NULL;
    if (!a || !berth_family_shared)
        return false;
    struct member_set served = members_copy(&a->served), holders = members_copy(&a->holders);
    if (by_us && members_has(&served, C->member))
        return true;
    for (uint32_t i = 0; i < MEMBER_WORDS; i++)
        served.word[i].bits &= holders.word[i].bits;
    return members_others_live(&served);
}

bool client_listener_late(listener_handle h)
{
    const struct listener *l = listener_get(h);
    const struct aside *a = l ? aside_of(l) : NULL;
    return a && aside_count(a) && aside_later(a);
}

void listeners_away(uint32_t until)
{
    int32_t pid = member_pid(&C->family->member[member_index(until)]);
    long fd = pid > 0 ? sys_call(SYS_pidfd_open, (long)pid, 0L, 0L, 0L) : -1;
    for (uint32_t i = 0; fd >= 0 && i < LISTENERS_MAX; i++) {
        struct listener *l = &C->listeners[i];
        if (!(load_acquire(&l->generation) & 1) || (l->away && !member_dead(NULL, l->away - 1)))
            continue;
        (void)client_listener_hide(listener_handle_of(l), (int)fd); /* no daemon: nobody finds it */
        l->away = until + 1;
    }
    if (fd >= 0)
        (void)sys_close((int)fd);
}

void listeners_close(void)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        if (C->listeners[i].generation & 1)
            (void)client_unlisten(listener_handle_of(&C->listeners[i]));
    }
}
