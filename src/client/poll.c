/* poll.c - poll() and select() over sessions, listeners and kernel descriptors.
 *
 * The items of one call are few and differ from call to call, so nothing is entered anywhere: each session is looked at
 * directly, and before sleeping armed with WAITER_ANY. The sleep is a ppoll on the program's descriptors, the listeners'
 * token pipes and an epoll descriptor of the thread with the worker's kick in it. Another thread that takes an event of
 * such a session off the queue sees `pollers` and kicks in turn.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "client/internal.h"

#define KERNEL_LOOK_NS (20 * NS_PER_US)
#define SLEEP_MAX_NS (10 * NS_PER_SEC)
#define ON_STACK 64

struct wait_list { /* what ppoll gets: the program's descriptors, then pipes, then our epoll descriptor */
    struct pollfd *fds;
    int nk, count;
};

static int check_items(struct client_poll_item *items, int n)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        items[i].revents = 0;
        if (handle_is_listener(items[i].handle)) {
            struct listener *l = listener_get(items[i].handle);
            if (!l)
                items[i].revents = EPOLLERR | EPOLLHUP;
            else if (load_relaxed(&l->pending) && client_listener_ready(items[i].handle))
                items[i].revents = items[i].events & EPOLLIN;
        } else {
            struct session *s = session_get(items[i].handle);
            uint32_t ready = EPOLLERR | EPOLLHUP;
            if (s && load_relaxed(&s->flags) & SF_SHARED && !session_cache_of(s)->peer)
                session_try_link(s);
            if (s)
                ready = load_relaxed(&s->state) == SESSION_QUEUED && !client_connected(items[i].handle) &&
                                !(load_relaxed(&s->flags) & SF_RESET)
                            ? 0
                            : stream_ready(s, session_cache_of(s));
            items[i].revents = ready & (items[i].events | EPOLLERR | EPOLLHUP);
        }
        found += items[i].revents != 0;
    }
    return found;
}

/* The kernel's side, for at most `left` ns. Adds listeners' readiness to the items. Count, or -EINTR. */
static int check_kernel(struct wait_list *w, struct client_poll_item *items, int n, struct pollfd *kfds,
                        int64_t left, const sigset_t *mask, bool sleeping)
{
    struct timespec ts;
    int count = sleeping ? w->count : w->count - 1;
    uint32_t depth = berth_hold.depth;
    if (count <= 0)
        return 0;
    long got =
        (sleeping || mask) && hold_open(&depth) ? -EINTR : sys_ppoll(w->fds, count, timespec_of(left, &ts), mask);
    hold_close(depth);
    if (got < 0)
        return (int)got;
    int found = 0;
    for (int i = 0; i < w->nk; i++) {
        kfds[i].revents = w->fds[i].revents;
        found += kfds[i].revents != 0;
    }
    for (int i = 0, k = w->nk; i < n; i++) {
        if (!handle_is_listener(items[i].handle) || !listener_get(items[i].handle))
            continue;
        if (w->fds[k].revents & POLLIN && items[i].events & EPOLLIN && !items[i].revents) {
            items[i].revents = EPOLLIN;
            found++;
        }
        k++;
    }
    return found;
}

static bool arm_items(struct client_poll_item *items, int n, bool on)
{
    bool armed = true;
    for (int i = 0; i < n; i++) {
        struct session *s = handle_is_listener(items[i].handle) ? NULL : session_get(items[i].handle);
        if (!s)
            continue;
        struct session_cache *c = session_cache_of(s);
        fetch_add_sc(&c->pollers, on ? 1u : ~0u);
        if (!on)
            continue;
        stream_flush_head(s, false);
        store_relaxed(&c->own->waiter, (uint8_t)WAITER_ANY);
        futex_sleepers_wake(c);
        bool edge = !(items[i].events & EPOLLIN); /* then only the end is of interest */
        uint64_t want = load_relaxed(&c->own->want);
        if (items[i].events & (EPOLLIN | EPOLLRDHUP))
            armed = stream_arm_read(s, c, 0, edge) && armed;
        if (load_acquire(&c->watches) && count_offset(load_relaxed(&c->own->want)) != count_offset(want))
            watches_ready(c); /* as pass_on in evset.c */
        if (items[i].events & EPOLLOUT && load_relaxed(&s->state) != SESSION_QUEUED)
            armed = stream_arm_write(s, c, 0) && armed;
    }
    return armed;
}

/* Some session waits for room in a listener's queue, of which nobody tells. */
static bool queued(struct client_poll_item *items, int n)
{
    for (int i = 0; i < n; i++) {
        struct session *s = handle_is_listener(items[i].handle) ? NULL : session_get(items[i].handle);
        if (s && load_relaxed(&s->state) == SESSION_QUEUED)
            return true;
    }
    return false;
}

static int spin(struct wait_list *w, struct client_poll_item *items, int n, struct pollfd *kfds,
                struct session_cache *c, int64_t now, int64_t deadline)
{
    bool stacked = false;
    if (c && c->own)
        cpu_publish(c->own);
    int64_t budget = c && spin_pays(&c->vain_read) ? spin_budget(c, now, &stacked) : 0, looked = now;
    int64_t since = now, end = now + budget < deadline ? now + budget : deadline;
    if (n + w->nk > 1 && crowded_lately(now))
        return 0;
    while (now < end) {
        for (int i = 0; i < (stacked ? 1 : 16); i++) {
            events_poll(false);
            int found = check_items(items, n);
            if (found)
                return found;
            spin_pause(stacked);
        }
        now = clock_now();
        if (stacked && c->own)
            cpu_publish(c->own);
        if (now - looked > KERNEL_LOOK_NS) {
            looked = now;
            int found = check_kernel(w, items, n, kfds, 0, NULL, false);
            if (found)
                return found < 0 ? 0 : found;
        }
        if (spin_budget(c, now, &stacked) == 0 || (n + w->nk > 1 && crowded(now, since)))
            break;
    }
    return 0;
}

static int wait_loop(struct wait_list *w, struct client_poll_item *items, int n, struct pollfd *kfds,
                     int64_t timeout, const sigset_t *mask)
{
    events_poll(true);
    int found = check_items(items, n);
    if (w->count > 1 && (found || timeout == 0)) {
        int more = check_kernel(w, items, n, kfds, 0, mask, false);
        return more > 0 ? found + more : found ? found : more == -EINTR ? BERTH_E_INTERRUPTED : more;
    }
    if (found || timeout == 0)
        return found;
    /* the program's own descriptors first: where one is ready nothing else need be asked */
    if (w->nk && (found = check_kernel(w, items, n, kfds, 0, NULL, false)) > 0)
        return found;
    int64_t deadline = clock_deadline(timeout), began = clock_now();
    struct session *first = n && !handle_is_listener(items[0].handle) ? session_get(items[0].handle) : NULL;
    struct session_cache *c = first ? session_cache_of(first) : NULL;
    if ((found = spin(w, items, n, kfds, c, began, deadline)) != 0) {
        if (c)
            spin_learn(&c->vain_read, 0);
        return found;
    }
    int tep = w->fds[w->count - 1].fd;
    for (;;) {
        struct epoll_event ev[4];
        struct timespec zero = {0};
        (void)sys_epoll_pwait2(tep, ev, 4, &zero, NULL); /* old kicks */
        control_poll();
        sessions_settle();
        bool armed = arm_items(items, n, true);
        waiter_any_asleep();
        int64_t left = wait_cap(deadline);
        if (left < 0 || left > SLEEP_MAX_NS)
            left = SLEEP_MAX_NS;
        if (queued(items, n) && left > NS_PER_MS)
            left = NS_PER_MS;
        if (!armed || events_waiting() || control_pushes())
            left = 0;
        int got = check_kernel(w, items, n, kfds, left, mask, true);
        arm_items(items, n, false);
        if (got == -EINTR)
            return BERTH_E_INTERRUPTED;
        if (got < 0)
            return BERTH_E_INVALID;
        control_poll();
        events_poll(true);
        int kernel = 0;
        for (int i = 0; i < w->nk; i++)
            kernel += kfds[i].revents != 0;
        uint32_t was = 0;
        for (int i = 0; i < n; i++) /* what check_kernel found for listeners */
            was += handle_is_listener(items[i].handle) && items[i].revents;
        if (was == 0)
            found = check_items(items, n);
        else
            found = (int)was;
        if (found + kernel) {
            if (c)
                spin_learn(&c->vain_read, clock_now() - began);
            return found + kernel;
        }
        if (deadline != DEADLINE_NEVER && clock_now() >= deadline)
            return 0;
    }
}

int client_poll(struct client_poll_item *items, int n, struct pollfd *kfds, int nk, int64_t timeout_ns,
                const sigset_t *mask)
{
    int err = fork_child_ready();
    if (err)
        return err;
    struct pollfd stack[ON_STACK];
    struct wait_list w = {.fds = stack, .nk = nk};
    hold_begin();
    if (nk + n + 1 > ON_STACK) {
        w.fds = memory_get((size_t)(nk + n + 1) * sizeof *w.fds);
        if (!w.fds) {
            hold_end();
            return BERTH_E_NO_MEMORY;
        }
    }
    if (nk)
        memcpy(w.fds, kfds, (size_t)nk * sizeof *kfds);
    for (int i = 0; i < nk; i++)
        kfds[i].revents = 0;
    w.count = nk;
    for (int i = 0; i < n; i++) {
        struct listener *l = handle_is_listener(items[i].handle) ? listener_get(items[i].handle) : NULL;
        if (l)
            w.fds[w.count++] = (struct pollfd){.fd = l->pipe_rd, .events = POLLIN};
    }
    int ep = ep_take();
    int result = ep;
    if (ep >= 0) {
        w.fds[w.count++] = (struct pollfd){.fd = ep, .events = POLLIN};
        result = wait_loop(&w, items, n, kfds, timeout_ns, mask);
        ep_give(ep);
    }
    if (w.fds != stack)
        memory_put(w.fds, 0);
    hold_end();
    return result;
}
