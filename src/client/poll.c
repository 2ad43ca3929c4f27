/* poll.c - poll() and select() over sessions, listeners, event sets and kernel descriptors; and every other
 * wait that has no better way.
 *
 * The items of one call are few and differ from call to call, so nothing is entered anywhere: each is looked
 * at directly, and before sleeping armed with WAITER_ANY. The sleep is a ppoll on the program's descriptors,
 * the listeners' token pipes and an epoll descriptor of the thread with the bell and the inner set in it
 * (sleeper.c). Another thread that takes an event of such a session off the queue sees `pollers` and kicks in
 * turn.
 *
 * Bytes in a segment that is not here yet, and tokens of connectors that are not known yet, are fetched
 * before anything is told, also where something else is ready: else who always asks for POLLOUT too would
 * never hear of them.
 *
 * Where the process has no descriptor left for the thread's own, it looks each millisecond instead.
 *
 * This is the way that always works. Who waits for one session alone has a better one (wait.c).
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "client/events.h"
#include "client/hello.h"
#include "client/joint.h"
#include "client/judge.h"
#include "client/listener.h"
#include "client/ready.h"
#include "client/session.h"
#include "client/sleeper.h"
#include "client/spin.h"
#include "client/stream.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "shm/slot.h"

#define NO_DESCRIPTOR_NS NS_PER_MS
#define ON_STACK 64

struct call {
    struct client_poll_item *items;
    struct pollfd *kfds;
    int n, nk;
    struct pollfd *fds; /* what ppoll gets: the program's descriptors, then listeners' pipes, then our epoll
                           descriptor */
    int count, room;
    int ep;
    bool armed;
    bool sets;    /* there is one among the items */
    bool sets_in; /* what sets sleep on is in ep */
    bool left;    /* a handler has run in its sleep: all was undone */
    struct sleeper sl;
    struct client_room *rooms; /* the caller's */
    struct pollfd stack[ON_STACK];
};

/* ---- the stack's side ---------------------------------------------------------------------------------- */

static struct session *session_of(const struct client_poll_item *item)
{
    return item->set || handle_is_listener(item->handle) ? NULL : session_get(item->handle);
}

static uint32_t item_ready(const struct client_poll_item *item)
{
    if (item->set)
        return evset_ready(item->set) ? EPOLLIN : 0;
    if (handle_is_listener(item->handle))
        return listener_get(item->handle) && client_listener_ready(item->handle)
                   ? EPOLLIN
                   : 0; /* the kernel tells its end */
    struct session *s = session_get(item->handle);
    if (!s)
        return EPOLLERR | EPOLLHUP;
    struct session_cache *c = session_cache_of(s);
    if (!load_acquire(&c->peer) && session_flags(s) & SF_SHARED)
        session_try_link(s);
    uint32_t ready = session_ready(s, c);
    if (item->events & CLIENT_POLL_MET && load_acquire(&c->peer))
        ready |= CLIENT_POLL_MET;
    if (item->least)
        ready = (ready & ~(uint32_t)EPOLLIN) | (session_has(s, c, item->least) ? EPOLLIN : 0);
    return ready;
}

/* How many have something to tell. `missing`: of which only after something was fetched. */
static int check_items(struct call *k, bool *missing)
{
    int found = 0;
    for (int i = 0; i < k->n; i++) {
        struct client_poll_item *item = &k->items[i];
        uint32_t ready = item_ready(item);
        if (missing && ready & READY_MISSING && item->events & EPOLLIN)
            *missing = true;
        item->revents = ready & (item->events | EPOLLERR | EPOLLHUP);
        struct session *s = item->revents ? session_of(item) : NULL;
        if (s && load_acquire(&session_cache_of(s)->watches)) /* its event may still be on the way */
            (void)watches_again_quietly(session_cache_of(s)); /* the sets shall say the same */
        found += item->revents != 0;
    }
    return found;
}

static bool all_here(void *arg)
{
    struct call *k = arg;
    bool missing = false;
    for (int i = 0; i < k->n && !missing; i++) {
        struct session *s = k->items[i].events & EPOLLIN ? session_of(&k->items[i]) : NULL;
        missing = s && bytes_missing(s, session_cache_of(s));
    }
    return !missing;
}

/* With all that has come taken in first. */
static int check_well(struct call *k)
{
    bool missing = false;
    sleeper_glance();
    events_poll(true);
    int found = check_items(k, &missing);
    if (!found && load_relaxed(&C->unmet.first)) {
        acceptors_ask();
        found = check_items(k, &missing);
    }
    if (missing && fetch_wait(all_here, k))
        found = check_items(k, NULL);
    return found;
}

static int look(void *arg)
{
    struct call *k = arg;
    events_poll(false);
    return check_items(k, NULL);
}

/* ---- the kernel's side --------------------------------------------------------------------------------- */

/* What ppoll has brought for the program's own descriptors. */
static int kernel_found(const struct call *k)
{
    int found = 0;
    for (int i = 0; i < k->nk; i++) {
        k->kfds[i].revents = k->fds[i].revents;
        found += k->kfds[i].revents != 0;
    }
    return found;
}

static long sleep_on(struct call *k, int n, int64_t ns)
{
    long got = sleeper_poll(&k->sl, k->fds, n, ns);
    return k->left ? -EINTR : got;
}

/* Without waiting. */
static int kernel_look(void *arg)
{
    struct call *k = arg;
    struct timespec zero = {0};
    if (!k->nk)
        return 0;
    long got = sys_ppoll(k->fds, k->nk, &zero, NULL);
    return got > 0 ? kernel_found(k) : 0;
}

/* The same with the caller's signal mask: what it lets through is delivered. */
static int kernel_look_masked(struct call *k)
{
    if (!k->sl.mask)
        return kernel_look(k);
    long got = sleep_on(k, k->nk, 0);
    return got == -EINTR ? BERTH_E_INTERRUPTED : got > 0 ? kernel_found(k) : 0;
}

/* ---- sleeping ------------------------------------------------------------------------------------------ */

static bool arm_session(const struct client_poll_item *item, struct session *s, bool on)
{
    struct session_cache *c = session_cache_of(s);
    fetch_add_sc(&c->pollers, on ? 1u : ~0u);
    if (!on)
        return true;
    stream_flush_head(s, false);
    slot_set_waiter(c->own, WAITER_ANY);
    futex_sleepers_wake(s, c);
    bool edge = !(item->events & EPOLLIN), armed = true; /* then only the end is of interest */
    uint64_t want = slot_own_want(c->own);
    if (item->events & (EPOLLIN | EPOLLRDHUP) || !(item->events & EPOLLOUT))
        armed = stream_arm_read(s, c, 0, edge, item->least);
    if (load_acquire(&c->watches) && count_offset(slot_own_want(c->own)) != count_offset(want))
        watches_again(c); /* as pass_on in judge.c */
    if (item->events & EPOLLOUT && session_state(s) != SESSION_QUEUED)
        armed = stream_arm_write(s, c, 0) && armed;
    return armed;
}

/* False: something is ready already. */
static bool arm_items(struct call *k, bool on)
{
    bool armed = true;
    if (k->armed == on)
        return true;
    k->armed = on;
    for (int i = 0; i < k->n; i++) {
        struct session *s = session_of(&k->items[i]);
        if (k->items[i].set)
            armed = evset_poller(k->items[i].set, on) && armed;
        else if (s)
            armed = arm_session(&k->items[i], s, on) && armed;
    }
    return armed;
}

static void finish(struct call *k)
{
    (void)arm_items(k, false);
    for (int i = 0; i < k->n && k->sets_in; i++) {
        int fd = k->items[i].set ? load_relaxed(&k->items[i].set->wait_ep) : -1; /* -1: closed meanwhile */
        if (fd >= 0)
            (void)sys_epoll_ctl(k->ep, EPOLL_CTL_DEL, fd, NULL);
    }
    k->sets_in = false;
    ep_give(k->ep);
    k->ep = -1;
    if (k->fds && k->fds != k->stack)
        memory_put(k->fds, (size_t)k->room * sizeof *k->fds);
    k->fds = NULL;
}

void client_room_give(struct client_room *room)
{
    memory_put(room->at, room->size);
    room->at = NULL;
}

static void leave(void *arg)
{
    struct call *k = arg;
    finish(k);
    for (struct client_room *room = k->rooms; room; room = room->outer)
        client_room_give(room);
    k->left = true;
}

/* Some session waits for room in a listener's queue, of which nobody tells. */
static bool queued(const struct call *k)
{
    for (int i = 0; i < k->n; i++) {
        const struct session *s = session_of(&k->items[i]);
        if (s && session_state(s) == SESSION_QUEUED)
            return true;
    }
    return false;
}

/* Kernel descriptors found, or -EINTR; -EBUSY: a set is to be changed first. */
static long sleep_once(struct call *k)
{
    ep_empty(k->ep); /* what rang before */
    bool armed = arm_items(k, true);
    int64_t left = sleeper_prepare(&k->sl);
    if (queued(k) && (left < 0 || left > NS_PER_MS))
        left = NS_PER_MS;
    if (k->ep < 0 && (left < 0 || left > NO_DESCRIPTOR_NS))
        left = NO_DESCRIPTOR_NS;
    if (!armed)
        left = 0;
    bool stale = k->sets && joint_wait_begins(); /* after ep_empty: from here on it rings */
    long got = stale ? -EBUSY : sleep_on(k, k->count, left);
    (void)arm_items(k, false);
    return got;
}

static int wait_loop(struct call *k, int64_t timeout)
{
    int found = check_well(k);
    if (found || timeout == 0) {
        int more =
            found ? kernel_look(k) : kernel_look_masked(k); /* a signal waits if there is something to tell */
        return more >= 0 ? found + more : found ? found : more;
    }
    /* the program's own descriptors first: where one is ready nothing else need be asked */
    if ((found = kernel_look(k)) > 0)
        return found;
    int64_t began = clock_now();
    struct session *first = k->n ? session_of(&k->items[0]) : NULL;
    struct session_cache *c = first ? session_cache_of(first) : NULL;
    if (c) {
        if (c->own)
            cpu_publish(c->own);
        struct spin spin = {.c = c,
                            .vain = &c->vain_read,
                            .now = began,
                            .deadline = k->sl.deadline,
                            .mark = &k->sl.mark,
                            .many = k->n + k->nk > 1};
        if ((found = spin_until(&spin, look, kernel_look, k)) > 0) {
            spin_learn(&c->vain_read, 0);
            return found;
        }
    }
    for (;;) {
        if (sleep_signalled(&k->sl.mark))
            return BERTH_E_INTERRUPTED;
        long got = sleep_once(k);
        if (got == -EINTR || got == -EBUSY)
            return got == -EINTR ? BERTH_E_INTERRUPTED : BERTH_E_BUSY;
        if (got < 0)
            return BERTH_E_INVALID;
        int kernel = kernel_found(k);
        found = check_well(k) + kernel;
        if (found) {
            if (c)
                spin_learn(&c->vain_read, clock_now() - began);
            return found;
        }
        if (sleeper_over(&k->sl))
            return 0;
    }
}

/* ---- the call ------------------------------------------------------------------------------------------ */

static bool add_fd(struct call *k, int fd)
{
    if (k->count == k->room) {
        struct pollfd *more = memory_get((size_t)k->room * 2 * sizeof *more);
        if (!more)
            return false;
        memcpy(more, k->fds, (size_t)k->count * sizeof *more);
        if (k->fds != k->stack)
            memory_put(k->fds, (size_t)k->room * sizeof *k->fds);
        k->fds = more;
        k->room *= 2;
    }
    k->fds[k->count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    return true;
}

static bool add_pipe(struct listener *l, void *arg)
{
    return add_fd(arg, listener_queue(l));
}

/* What the set sleeps on goes into our epoll descriptor, by edge: the pipes of its listeners are in there,
 * also of those that are put into it while we wait, and nothing of it is taken. Where that cannot be, the
 * pipes that are there now. */
static bool add_set(struct call *k, struct evset *set)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = EP_SET};
    int fd = k->ep < 0 ? -1 : evset_fd(set);
    long err = fd < 0 ? fd : sys_epoll_ctl(k->ep, EPOLL_CTL_ADD, fd, &ev);
    if (err == 0)
        k->sets_in = true;
    return err == 0 || err == -EEXIST || evset_listeners(set, add_pipe, k);
}

/* Everything that ppoll is to have. */
static bool gather(struct call *k)
{
    k->ep = ep_take();
    if (k->ep >= 0 && !add_fd(k, k->ep))
        return false;
    for (int i = 0; i < k->n; i++) {
        struct listener *l = handle_is_listener(k->items[i].handle) ? listener_get(k->items[i].handle) : NULL;
        k->sets = k->sets || k->items[i].set;
        if ((l && !add_pipe(l, k)) || (k->items[i].set && !add_set(k, k->items[i].set)))
            return false;
    }
    return true;
}

static int poll_once(const struct sleep_mark *mark, struct client_poll_item *items, int n,
                     struct pollfd *kfds, int nk, int64_t timeout_ns, const sigset_t *mask,
                     struct client_room *rooms)
{
    struct call k = {
        .items = items, .kfds = kfds, .n = n, .nk = nk, .room = ON_STACK, .ep = -1, .rooms = rooms};
    k.sl = (struct sleeper){
        .mark = *mark, .deadline = clock_deadline(timeout_ns), .mask = mask, .leave = leave, .arg = &k};
    k.fds = k.stack;
    hold_begin();
    if (nk > ON_STACK - 2) {
        k.room = nk + n + 2;
        k.fds = memory_get((size_t)k.room * sizeof *k.fds);
    }
    int result = BERTH_E_NO_MEMORY;
    if (k.fds) {
        k.count = nk;
        if (nk)
            memcpy(k.fds, kfds, (size_t)nk * sizeof *kfds);
        for (int i = 0; i < nk; i++)
            kfds[i].revents = 0;
        if (gather(&k))
            result = wait_loop(&k, timeout_ns);
        finish(&k);
    }
    hold_end();
    return result;
}

/* A child that the daemon has not answered looks whether it has, from time to time. */
#define UNANSWERED_NS (10 * NS_PER_MS)

int client_poll_since(const struct sleep_mark *mark, struct client_poll_item *items, int n,
                      struct pollfd *kfds, int nk, int64_t timeout_ns, const sigset_t *mask,
                      struct client_room *rooms)
{
    if (__builtin_expect(!load_acquire(&C->forked), 1))
        return poll_once(mark, items, n, kfds, nk, timeout_ns, mask, rooms);
    int64_t deadline = clock_deadline(timeout_ns);
    for (;;) {
        int err = fork_child_goes_on();
        if (err)
            return err;
        int64_t left = deadline == DEADLINE_NEVER ? -1 : deadline - clock_now();
        if (left < 0 && deadline != DEADLINE_NEVER)
            left = 0;
        bool more = load_acquire(&C->forked) && (left < 0 || left > UNANSWERED_NS);
        int found = poll_once(mark, items, n, kfds, nk, more ? UNANSWERED_NS : left, mask, rooms);
        if (found || !more)
            return found;
    }
}
