/* evset.c - waiting for many sessions, many listeners and the kernel's descriptors at once.
 *
 * Theory of operation
 *
 * A watch ties a session or listener to a set. A set has a list of watches that may be ready: a watch comes onto it when it is
 * added or changed and whenever an event names its session, and is judged when somebody waits. A level-triggered watch
 * that is ready stays on the list; one that is not is armed (the session's `want`), looked at once more and taken off: the
 * next event brings it back.
 *
 * A wait looks at the queues of the polled channels, then at the list, spins for the budget, and then sleeps in the kernel's
 * epoll on the set's own epoll descriptor, in which are the program's descriptors, the worker's kick (edge-triggered and
 * never read, so that every sleeper of the process gets it), the control socket, and the token pipes of its listeners.
 * The kernel's side is looked at every KERNEL_LOOK_NS while spinning or busy, and before every sleep.
 *
 * watch_lock protects watches and lists of all sets of the process. It is never held over a system call that waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"

#define KERNEL_LOOK_NS (20 * NS_PER_US)
#define KERNEL_BUSY_NS (100 * NS_PER_US)
#define LOOKS_PER_CLOCK 16
#define LOOKS_PER_CONFIRM 64
#define SLEEP_MAX_NS (10 * NS_PER_SEC)
#define KERNEL_EVENTS 64

enum tag { TAG_KICK, TAG_CONTROL, TAG_LISTENER0 };

struct watch {
    struct evset *set;
    uint64_t handle;
    struct watch **list; /* head of the session's or listener's list */
    struct watch *next;  /* in it */
    struct watch *set_next, *set_prev;
    struct watch *ready_next, *ready_prev;
    uint64_t data;
    uint64_t seen_tail, seen_head; /* the peer's words when it was last judged */
    uint32_t seen_flags;
    uint32_t events;
    bool ready;
    bool spent; /* one shot, fired */
};

struct evset {
    int epfd;
    bool owns_epfd, wired;
    uint32_t waiter;
    int32_t pid;
    uint32_t count, listeners;
    uint32_t rounds, looks;
    int64_t kernel_looked;
    struct watch *all;
    struct watch *ready_first, *ready_last;
    uint64_t last; /* session handle of the last event, for the spin budget */
    uint8_t vain;  /* how often in a row spinning did not pay */
};

/* ---- lists. watch_lock is held -------------------------------------------------------------------------------- */

static void ready_put(struct watch *w)
{
    struct evset *set = w->set;
    if (w->ready)
        return;
    w->ready = true;
    w->ready_next = NULL;
    w->ready_prev = set->ready_last;
    if (set->ready_last)
        set->ready_last->ready_next = w;
    else
        store_release(&set->ready_first, w);
    set->ready_last = w;
}

static void ready_take(struct watch *w)
{
    struct evset *set = w->set;
    if (!w->ready)
        return;
    w->ready = false;
    if (w->ready_prev)
        w->ready_prev->ready_next = w->ready_next;
    else
        store_release(&set->ready_first, w->ready_next);
    if (w->ready_next)
        w->ready_next->ready_prev = w->ready_prev;
    else
        set->ready_last = w->ready_prev;
}

static bool asleep(const struct evset *set)
{
    return load_sc(&C->page->waiter[set->waiter].arm) & 1;
}

static void watch_free(struct watch *w)
{
    ready_take(w);
    for (struct watch **p = w->list; *p; p = &(*p)->next) {
        if (*p == w) {
            store_release(p, w->next);
            break;
        }
    }
    if (w->set_prev)
        w->set_prev->set_next = w->set_next;
    else
        w->set->all = w->set_next;
    if (w->set_next)
        w->set_next->set_prev = w->set_prev;
    w->set->count--;
    if (handle_is_listener(w->handle)) {
        w->set->listeners--;
        struct listener *l = listener_get(w->handle);
        if (l && w->set->pid == C->family->member[C->member].pid)
            (void)sys_epoll_ctl(w->set->epfd, EPOLL_CTL_DEL, l->pipe_rd, NULL);
    }
    free(w);
}

/* ---- what the rest of the library tells us ---------------------------------------------------------------------- */

void watches_ready(struct session_cache *c)
{
    bool wake = load_relaxed(&c->pollers) != 0;
    if (load_acquire(&c->watches)) {
        plock_take(&C->watch_lock);
        for (struct watch *w = c->watches; w; w = w->next) {
            ready_put(w);
            wake = wake || asleep(w->set);
        }
        plock_release(&C->watch_lock);
    }
    if (wake)
        own_kick();
}

void futex_sleepers_wake(struct session_cache *c)
{
    const struct slot *own = load_relaxed(&c->own);
    if (own && (load_sc(&own->want) | load_sc(&own->want_space)) & COUNT_FLAG)
        sleepers_wake(load_acquire(&c->peer));
}

void listener_ready(struct listener *l)
{
    plock_take(&C->watch_lock);
    for (struct watch *w = l->watches; w; w = w->next)
        ready_put(w);
    plock_release(&C->watch_lock);
    own_kick();
}

void watches_wake_all(void)
{
    plock_take(&C->watch_lock);
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        for (struct watch *w = C->cache[i].watches; w; w = w->next)
            ready_put(w);
    }
    plock_release(&C->watch_lock);
    own_kick();
}

void watches_drop(uint64_t handle, struct watch **list)
{
    if (!load_acquire(list))
        return;
    plock_take(&C->watch_lock);
    while (*list)
        watch_free(*list);
    plock_release(&C->watch_lock);
}

/* ---- sets --------------------------------------------------------------------------------------------------------- */

struct evset *evset_create(int epfd)
{
    struct evset *set = calloc(1, sizeof *set);
    if (!set)
        return NULL;
    set->epfd = epfd;
    if (epfd < 0) {
        long ep = sys_epoll_create1(EPOLL_CLOEXEC);
        if (ep < 0) {
            free(set);
            errno = (int)-ep;
            return NULL;
        }
        set->epfd = (int)ep;
        set->owns_epfd = true;
    }
    set->waiter = WAITER_ANY;
    return set;
}

/* A forked child has its parent's kernel set under the same number, and each edge in it would go to one of the two. So it puts
 * a set of its own in the place, with the same descriptors in it but those that were libberth's in the parent. */
static int unshare_kernel_set(struct evset *set)
{
    char path[48], line[256];
    long ep = sys_epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0)
        return BERTH_E_NO_MEMORY;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", set->epfd);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        int fd;
        struct epoll_event ev;
        unsigned long long data;
        if (sscanf(line, "tfd: %d events: %x data: %llx", &fd, &ev.events, &data) != 3 ||
            data - load_relaxed(&C->tag) < TAG_LISTENER0)
            continue;
        ev.data.u64 = data;
        (void)sys_epoll_ctl((int)ep, EPOLL_CTL_ADD, fd, &ev);
    }
    if (f)
        (void)fclose(f);
    else
        log_warn("no /proc: an event set that was made before a fork has lost its descriptors in the child");
    long flags = sys_fcntl(set->epfd, F_GETFD, 0L);
    long err = sys_call(SYS_dup3, ep, (long)set->epfd, flags > 0 ? (long)O_CLOEXEC : 0L, 0);
    (void)sys_close((int)ep);
    return err < 0 ? BERTH_E_NO_MEMORY : 0;
}

/* One for all sets, whichever threads make the first ones at once. */
static uint64_t tag_of_process(const struct evset *set)
{
    uint64_t is = load_relaxed(&C->tag);
    uint64_t tag = ((uint64_t)clock_now() * 0x9e3779b97f4a7c15ull ^ (uintptr_t)set) & ~0xffffull;
    if (!is && compare_exchange_sc(&C->tag, &is, tag))
        is = tag;
    return is;
}

/* Puts our descriptors into the set's epoll descriptor; in a forked child anew, since it has others. */
static int wire(struct evset *set)
{
    int unready = fork_child_ready(); /* before its kick is looked at: a child gets another */
    if (unready)
        return unready;
    int32_t pid = C->family->member[C->member].pid;
    if (set->wired && set->pid == pid)
        return 0;
    if (set->wired && (unready = unshare_kernel_set(set)) != 0)
        return unready;
    uint64_t tag = tag_of_process(set);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = tag + TAG_KICK};
    long err = sys_epoll_ctl(set->epfd, EPOLL_CTL_ADD, C->kick_fd, &ev);
    if (err < 0 && err != -EEXIST)
        return BERTH_E_NO_MEMORY;
    kicks_watch(set->epfd, tag + TAG_KICK);
    ev = (struct epoll_event){.events = EPOLLIN, .data.u64 = tag + TAG_CONTROL};
    (void)sys_epoll_ctl(set->epfd, EPOLL_CTL_ADD, C->ctl, &ev);
    plock_take(&C->watch_lock);
    set->waiter = WAITER_ANY;
    for (uint32_t i = 1; i < WAITERS_MAX; i++) {
        if (!(C->waiters_used & 1ull << i)) {
            store_relaxed(&C->waiters_used, C->waiters_used | 1ull << i);
            set->waiter = i;
            break;
        }
    }
    plock_release(&C->watch_lock);
    set->wired = true;
    set->pid = pid;
    return 0;
}

void evset_destroy(struct evset *set)
{
    plock_take(&C->watch_lock);
    while (set->all)
        watch_free(set->all);
    if (set->waiter != WAITER_ANY)
        store_relaxed(&C->waiters_used, C->waiters_used & ~(1ull << set->waiter));
    plock_release(&C->watch_lock);
    if (set->owns_epfd) {
        (void)sys_close(set->epfd);
    } else if (set->wired && C->attached &&
               set->pid == C->family->member[C->member].pid) { /* else the parent's too */
        (void)sys_epoll_ctl(set->epfd, EPOLL_CTL_DEL, C->kick_fd, NULL);
        (void)sys_epoll_ctl(set->epfd, EPOLL_CTL_DEL, C->ctl, NULL);
    }
    free(set);
}

bool evset_empty(struct evset *set)
{
    return load_relaxed(&set->count) == 0;
}

int evset_fd(struct evset *set)
{
    return set->epfd;
}

static struct watch **watch_list(uint64_t handle, struct session **s, struct listener **l)
{
    *s = NULL;
    *l = NULL;
    if (handle_is_listener(handle)) {
        *l = listener_get(handle);
        return *l ? &(*l)->watches : NULL;
    }
    *s = session_get(handle);
    return *s ? &session_cache_of(*s)->watches : NULL;
}

static struct watch *watch_find(struct evset *set, struct watch **list)
{
    for (struct watch *w = *list; w; w = w->next) {
        if (w->set == set)
            return w;
    }
    return NULL;
}

/* The waiter that the peer is to look at: the set's, if it is the only one that watches the session. */
static void name_waiter(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    uint32_t waiter = WAITER_ANY;
    if (c->watches && !c->watches->next && !(load_relaxed(&s->flags) & SF_SHARED))
        waiter = c->watches->set->waiter;
    store_relaxed(&c->own->waiter, (uint8_t)waiter);
    futex_sleepers_wake(c);
}

/* A listener's token pipe is waited for by the kernel. EPOLLEXCLUSIVE can be given only when it is added. */
static void pipe_into_kernel(const struct watch *w, const struct listener *l, int op)
{
    uint32_t mask = EPOLLIN | EPOLLET | (op == EPOLL_CTL_ADD ? EPOLLEXCLUSIVE : 0);
    struct epoll_event ev = {.events = w->events & mask,
                             .data.u64 = load_relaxed(&C->tag) + TAG_LISTENER0 + (uint32_t)(w->handle & 0xffff)};
    (void)sys_epoll_ctl(w->set->epfd, op, l->pipe_rd, &ev);
}

int evset_add(struct evset *set, uint64_t handle, uint32_t events, uint64_t data)
{
    struct session *s;
    struct listener *l;
    struct watch **list = watch_list(handle, &s, &l);
    if (!list)
        return BERTH_E_BAD_HANDLE;
    int err = wire(set);
    struct watch *w = err ? NULL : calloc(1, sizeof *w);
    if (!w)
        return err ? err : BERTH_E_NO_MEMORY;
    *w = (struct watch){.set = set, .handle = handle, .list = list, .events = events, .data = data};
    plock_take(&C->watch_lock);
    if (watch_find(set, list)) {
        plock_release(&C->watch_lock);
        free(w);
        return BERTH_E_BUSY;
    }
    if (l) {
        pipe_into_kernel(w, l, EPOLL_CTL_ADD);
        set->listeners++;
    }
    w->next = *list;
    store_release(list, w);
    w->set_next = set->all;
    if (set->all)
        set->all->set_prev = w;
    set->all = w;
    set->count++;
    if (s)
        name_waiter(s);
    if (s || (l && load_relaxed(&l->pending)))
        ready_put(w);
    bool wake = asleep(set);
    plock_release(&C->watch_lock);
    if (wake)
        own_kick();
    return 0;
}

int evset_modify(struct evset *set, uint64_t handle, uint32_t events, uint64_t data)
{
    struct session *s;
    struct listener *l;
    struct watch **list = watch_list(handle, &s, &l);
    if (!list)
        return BERTH_E_BAD_HANDLE;
    plock_take(&C->watch_lock);
    struct watch *w = watch_find(set, list);
    if (w) {
        w->events = events;
        w->data = data;
        w->spent = false;
        if (l)
            pipe_into_kernel(w, l, EPOLL_CTL_MOD);
        if (s || load_relaxed(&l->pending))
            ready_put(w);
    }
    bool wake = w && asleep(set);
    plock_release(&C->watch_lock);
    if (wake)
        own_kick();
    return w ? 0 : BERTH_E_BAD_HANDLE;
}

int evset_remove(struct evset *set, uint64_t handle)
{
    struct session *s;
    struct listener *l;
    struct watch **list = watch_list(handle, &s, &l);
    if (!list)
        return BERTH_E_BAD_HANDLE;
    plock_take(&C->watch_lock);
    struct watch *w = watch_find(set, list);
    if (w)
        watch_free(w);
    if (s)
        name_waiter(s);
    plock_release(&C->watch_lock);
    return w ? 0 : BERTH_E_BAD_HANDLE;
}

/* ---- judging -------------------------------------------------------------------------------------------------------- */

/* `want` is one word for all who wait for the session: who moved it past bytes that others may not have seen tells them. */
static void pass_on(struct watch *w, struct session_cache *c, uint64_t want_before)
{
    if ((!c->watches->next && !load_relaxed(&c->pollers)) ||
        count_offset(load_relaxed(&c->own->want)) == count_offset(want_before))
        return;
    bool wake = load_relaxed(&c->pollers) != 0;
    for (struct watch *other = c->watches; other; other = other->next) {
        if (other != w && other->set != w->set) {
            ready_put(other);
            wake = wake || asleep(other->set);
        }
    }
    if (wake)
        own_kick();
}

/* What a watch has to report now; arms the session where it has nothing. watch_lock is held. */
static uint32_t judge(struct watch *w)
{
    struct session *s = session_get(w->handle);
    if (!s || w->spent)
        return 0;
    struct session_cache *c = session_cache_of(s);
    if (load_relaxed(&s->state) == SESSION_QUEUED)
        return 0;
    uint32_t mask = w->events | EPOLLERR | EPOLLHUP;
    bool edge = w->events & EPOLLET;
    if (edge) {
        const struct slot *peer = load_acquire(&c->peer);
        w->seen_tail = peer ? slot_tail(peer) : 0;
        w->seen_head = peer ? slot_head(peer) : 0;
        w->seen_flags = load_relaxed(&s->flags);
    }
    uint32_t now = stream_ready(s, c) & mask;
    if (now && !edge)
        return now;
    /* Armed first, judged after: what came before the arming is seen, what comes later brings an event. An edge is armed
     * for what is beyond the bytes that are there, a level for the first byte. */
    uint64_t want = load_relaxed(&c->own->want);
    if (w->events & (EPOLLIN | EPOLLRDHUP))
        (void)stream_arm_read(s, c, 0, edge);
    else
        (void)stream_arm_read(s, c, 0, true); /* for EPOLLHUP, EPOLLERR */
    pass_on(w, c, want);
    if (w->events & EPOLLOUT && !stream_writable(s, c))
        (void)stream_arm_write(s, c, 0);
    now = stream_ready(s, c) & mask;
    if (!now)
        stream_flush_head(s, true);
    return now;
}

static uint32_t judge_listener(const struct watch *w)
{
    return !w->spent && w->events & EPOLLIN && client_listener_ready(w->handle) ? EPOLLIN : 0;
}

static int harvest(struct evset *set, struct epoll_event *out, int max)
{
    int n = 0;
    plock_take(&C->watch_lock);
    struct watch *end = set->ready_last, *w = set->ready_first, *next;
    for (; w && n < max; w = next) {
        next = w->ready_next;
        bool last = w == end;
        struct listener *l = handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
        uint32_t events = l ? judge_listener(w) : judge(w);
        /* a listener's pipe is in the kernel's set, but of tokens that were set aside only we know */
        bool keep = events && !(w->events & (EPOLLET | EPOLLONESHOT)) && (!l || load_acquire(&l->pending));
        ready_take(w);
        if (keep)
            ready_put(w); /* to the end: nobody starves */
        if (events) {
            if (w->events & EPOLLONESHOT)
                w->spent = true;
            out[n++] = (struct epoll_event){.events = events, .data.u64 = w->data};
            if (!l)
                set->last = w->handle;
        }
        if (last)
            break;
    }
    plock_release(&C->watch_lock);
    return n;
}

/* ---- the kernel's side ------------------------------------------------------------------------------------------------ */

static int listener_event(struct evset *set, uint32_t index, struct epoll_event *out)
{
    int n = 0;
    plock_take(&C->watch_lock);
    struct listener *l = index < LISTENERS_MAX ? &C->listeners[index] : NULL;
    for (struct watch *w = l ? l->watches : NULL; w; w = w->next) {
        if (w->set == set && w->events & EPOLLIN && !w->spent) {
            if (w->events & EPOLLONESHOT)
                w->spent = true;
            *out = (struct epoll_event){.events = EPOLLIN, .data.u64 = w->data};
            n = 1;
        }
    }
    plock_release(&C->watch_lock);
    return n;
}

/* Waits in the kernel for at most `timeout` ns. Count of events for the program, or -errno. *kicked: the stack has news. */
static int kernel_wait(struct evset *set, struct epoll_event *out, int max, int64_t timeout, const sigset_t *mask,
                       bool *kicked)
{
    struct epoll_event ev[KERNEL_EVENTS];
    struct timespec ts;
    int room = max < KERNEL_EVENTS - 8 ? max : KERNEL_EVENTS - 8;
    uint32_t depth = berth_hold.depth;
    bool handled = (timeout || mask) && hold_open(&depth);
    long got = handled ? -EINTR
                       : sys_epoll_pwait2(set->epfd, ev, room + 2 + (set->listeners < 6 ? (int)set->listeners : 6),
                                          timespec_of(timeout, &ts), mask);
    hold_close(depth);
    if (got < 0)
        return (int)got;
    int n = 0;
    for (long i = 0; i < got; i++) {
        uint64_t tag =
            ev[i].data.u64 - load_relaxed(&C->tag); /* NOLINT(clang-analyzer-*): filled by a raw system call */
        if (tag == TAG_KICK) {
            *kicked = true;
        } else if (tag == TAG_CONTROL) {
            control_poll();
            *kicked = true;
        } else if (tag >= TAG_LISTENER0 && tag < TAG_LISTENER0 + LISTENERS_MAX) {
            if (n < max)
                n += listener_event(set, (uint32_t)(tag - TAG_LISTENER0), &out[n]);
        } else if (n < max) {
            out[n++] = ev[i];
        }
    }
    return n;
}

int evset_filter(struct evset *set, struct epoll_event *events, int n)
{
    int stay = 0;
    for (int i = 0; i < n && set->wired; i++) {
        if (events[i].data.u64 - load_relaxed(&C->tag) >= TAG_LISTENER0 + LISTENERS_MAX)
            events[stay++] = events[i];
    }
    return set->wired ? stay : n;
}

static int look_at_kernel(struct evset *set, struct epoll_event *out, int max, int64_t now)
{
    bool kicked = false;
    set->kernel_looked = now;
    int n = kernel_wait(set, out, max, 0, NULL, &kicked);
    if (kicked)
        events_poll(true);
    return n < 0 ? 0 : n;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

/* Events of sessions that other processes hold too may have been taken by them: looks at the sessions themselves. */
static void look_at_shared(struct evset *set)
{
    if (load_relaxed(&C->inherited_unconfirmed))
        shared_confirm();
    for (struct watch *w = set->all; w; w = w->set_next) { /* links first: that may take any lock */
        struct session *s = handle_is_listener(w->handle) ? NULL : session_get(w->handle);
        if (s && load_relaxed(&s->flags) & SF_SHARED && !session_cache_of(s)->peer)
            session_try_link(s);
    }
    plock_take(&C->watch_lock);
    for (struct watch *w = set->all; w; w = w->set_next) {
        struct session *s = handle_is_listener(w->handle) || w->spent ? NULL : session_get(w->handle);
        if (!s || !(load_relaxed(&s->flags) & SF_SHARED))
            continue;
        struct session_cache *c = session_cache_of(s);
        const struct slot *peer = load_acquire(&c->peer);
        if (!(w->events & EPOLLET)) {
            if (stream_ready(s, c) & (w->events | EPOLLERR | EPOLLHUP))
                ready_put(w);
        } else if (w->seen_flags != load_relaxed(&s->flags) ||
                   (peer && (slot_tail(peer) != w->seen_tail || slot_head(peer) != w->seen_head))) {
            ready_put(w);
        }
    }
    plock_release(&C->watch_lock);
}

static int look(struct evset *set, struct epoll_event *out, int max)
{
    events_poll(false);
    if (C->sharing)
        look_at_shared(set);
    if (load_relaxed(&C->unconfirmed) && ++set->looks % LOOKS_PER_CONFIRM == 0)
        sessions_confirm();
    if (load_relaxed(&C->queued) || load_relaxed(&C->reoffer_at))
        sessions_offer_again();
    return load_acquire(&set->ready_first) ? harvest(set, out, max) : 0;
}

static int64_t set_spin_budget(const struct evset *set, int64_t now, bool *stacked)
{
    struct session *s = set->last ? session_get(set->last) : NULL;
    return spin_budget(s ? session_cache_of(s) : NULL, now, stacked);
}

static void set_cpu_publish(const struct evset *set)
{
    uint32_t cpu = cpu_here();
    if (load_relaxed(&C->page->waiter[set->waiter].cpu) != cpu)
        store_relaxed(&C->page->waiter[set->waiter].cpu, cpu);
}

static int spin(struct evset *set, struct epoll_event *out, int max, int64_t now, int64_t deadline)
{
    bool stacked = false;
    int64_t budget = spin_pays(&set->vain) ? set_spin_budget(set, now, &stacked) : 0;
    if (budget <= 0 || !load_relaxed(&C->polled) || !load_relaxed(&set->count))
        return 0;
    int64_t since = now, end = now + budget < deadline ? now + budget : deadline;
    if (crowded_lately(now))
        return 0;
    while (now < end) {
        for (int i = 0; i < (stacked ? 1 : LOOKS_PER_CLOCK); i++) {
            int n = look(set, out, max);
            if (n)
                return n;
            spin_pause(stacked);
        }
        now = clock_now();
        if (stacked)
            set_cpu_publish(set);
        if (now - set->kernel_looked > KERNEL_LOOK_NS) {
            int n = look_at_kernel(set, out, max, now);
            if (n)
                return n;
        }
        if (set_spin_budget(set, now, &stacked) == 0 || crowded(now, since))
            break;
    }
    return 0;
}

static int sleep_in_kernel(struct evset *set, struct epoll_event *out, int max, int64_t deadline,
                           const sigset_t *mask)
{
    struct waiter_line *line = &C->page->waiter[set->waiter];
    bool kicked = false;
    sessions_settle();
    int64_t left = wait_cap(deadline);
    if (left < 0 || left > SLEEP_MAX_NS)
        left = SLEEP_MAX_NS;
    if (set->waiter != WAITER_ANY)
        store_sc(&line->arm, line->arm + 1);
    waiter_any_asleep();
    if (C->sharing)
        look_at_shared(set);
    if (events_waiting() || load_sc(&set->ready_first) || control_pushes())
        left = 0;
    int n = kernel_wait(set, out, max, left, mask, &kicked);
    if (set->waiter != WAITER_ANY)
        store_sc(&line->arm, line->arm + 1);
    set->kernel_looked = clock_now();
    if (kicked || left == 0) {
        control_poll();
        events_poll(true);
    }
    return n;
}

static int wait_held(struct evset *set, struct epoll_event *out, int max, int64_t timeout_ns, const sigset_t *mask)
{
    if (max <= 0 || !out)
        return BERTH_E_INVALID;
    int err = wire(set);
    if (err)
        return err;
    set_cpu_publish(set);
    struct waiter_line *line = &C->page->waiter[set->waiter];
    if (set->waiter != WAITER_ANY && line->arm & 1)
        store_sc(&line->arm, line->arm + 1); /* the last wait left it armed for evset_fd */
    int n = look(set, out, max);
    if (n > 0) {
        if (++set->rounds % 8 == 0) {
            int64_t now = clock_now();
            if (now - set->kernel_looked > KERNEL_BUSY_NS && n < max)
                n += look_at_kernel(set, out + n, max - n, now);
        }
        return n;
    }
    int64_t deadline = clock_deadline(timeout_ns), began = timeout_ns ? clock_now() : 0;
    channel_rearm();
    if (timeout_ns != 0 && (n = spin(set, out, max, began, deadline)) > 0) {
        spin_learn(&set->vain, 0);
        return n;
    }
    for (;;) {
        n = sleep_in_kernel(set, out, max, deadline, mask);
        if (n < 0 && n != -EINTR)
            return BERTH_E_INVALID;
        if (n == -EINTR)
            return BERTH_E_INTERRUPTED;
        n += look(set, out + n, max - n);
        if (n && timeout_ns)
            spin_learn(&set->vain, clock_now() - began);
        if (n)
            return n;
        if (deadline != DEADLINE_NEVER && clock_now() >= deadline)
            break;
    }
    if (set->owns_epfd && set->waiter != WAITER_ANY) { /* leaves it armed: the program may wait on evset_fd */
        store_sc(&line->arm, line->arm | 1);
        waiter_any_asleep();
        if (events_waiting())
            own_kick();
    }
    return 0;
}

int evset_wait(struct evset *set, struct epoll_event *out, int max, int64_t timeout_ns, const sigset_t *mask)
{
    hold_begin();
    int n = wait_held(set, out, max, timeout_ns, mask);
    hold_end();
    return n;
}
