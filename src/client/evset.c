/* evset.c - waiting for many sessions, many listeners, other sets and the kernel's descriptors at once.
 *
 * Theory of operation
 *
 * A set has a list of watches that may be ready (watch.c): a watch comes onto it when it is added or changed and whenever an event names
 * its session, and is judged when somebody waits. A level-triggered watch that is ready stays on the list; one that is not is armed
 * (the session's `want`), looked at once more and taken off: the next event brings it back.
 *
 * The program's own kernel set has its descriptors and nothing else in it: whoever else waits on it, by another number, in another
 * process or from within another set, sees what the program put there. We sleep on a set of our own (`wait_ep`), in which are the program's
 * set, our bell (edge-triggered and never read, so that every sleeper of the process gets it), the inner set (sleeper.c), and the token
 * pipes of our listeners. The kernel's side is looked at every 20 us while spinning, now and then while busy, and before every sleep.
 *
 * A set in a set. The outer one has a watch on the inner one, which is ready while the inner one has something to tell. To see that, its
 * watches are judged where they lie, and nothing is taken out. Sessions of a set that is waited for from outside name WAITER_ANY, for
 * their peers cannot know who sleeps. The kernel's descriptors in the inner set wake the outer one in the kernel.
 *
 * watch_lock protects watches and lists of all sets of the process. It is never held over a system call that waits, nor while something
 * is fetched: bytes and tokens that are not here are noted, fetched without it, and looked at again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "client/internal.h"
#include "client/listener.h"
#include "client/ready.h"
#include "client/sets.h"
#include "client/sleeper.h"
#include "client/spin.h"
#include "client/watch.h"
#include "shm/page.h"

#define KERNEL_BUSY_NS (50 * NS_PER_US)
#define FULL_MAX 2 /* waits in a row that sessions alone have filled */
#define LOOKS_PER_CONFIRM 64
#define NO_DESCRIPTOR_NS NS_PER_MS
#define OWN_EVENTS 16

enum tag { TAG_KICK, TAG_NEWS, TAG_PROGRAM, TAG_LISTENER0 };

/* ---- sets --------------------------------------------------------------------------------------------------------- */

static struct evset *free_sets;
static struct plock free_lock;

static int32_t this_process(void)
{
    return C->family ? C->family->member[C->member].pid : 0;
}

struct evset *evset_create(int epfd)
{
    plock_take(&free_lock);
    struct evset *set = free_sets;
    if (set)
        free_sets = set->next_free;
    plock_release(&free_lock);
    if (!set && !(set = memory_get(sizeof *set)))
        return NULL;
    uint32_t users = load_relaxed(&set->users); /* somebody may be about to see that it was freed */
    memset(set, 0, offsetof(struct evset, users));
    store_relaxed(&set->users, users);
    set->epfd = epfd;
    set->wait_ep = -1;
    set->waiter = WAITER_ANY;
    store_release(&set->dead, false);
    return set;
}

static void set_free(struct evset *set)
{
    plock_take(&free_lock);
    set->next_free = free_sets;
    free_sets = set;
    plock_release(&free_lock);
}

/* A wait that began before its set was destroyed goes on, as in the kernel; the memory is used again when it is over. */
static bool set_enter(struct evset *set)
{
    (void)fetch_add_sc(&set->users, 1u);
    return !load_sc(&set->dead);
}

static void set_exit(struct evset *set)
{
    if (fetch_add_sc(&set->users, ~0u) == 1 && load_sc(&set->dead))
        set_free(set);
}

static void waiter_take(struct evset *set)
{
    set->waiter = WAITER_ANY;
    for (uint32_t i = 1; i < WAITERS_MAX; i++) {
        if (!(C->waiters_used & 1ull << i)) {
            store_relaxed(&C->waiters_used, C->waiters_used | 1ull << i);
            set->waiter = i;
            break;
        }
    }
}

/* What we sleep on is this process's, not that of the one it was forked from. */
static bool ours(const struct evset *set)
{
    return set->wait_ep >= 0 && set->pid == this_process();
}

/* A token pipe is level-triggered in the set that the listener is in, as the program asked; from sets around it an edge does, since they
 * ask for the state. EPOLLEXCLUSIVE can be given only when it is added. */
static void pipe_in(const struct evset *set, uint64_t handle, int pipe, uint32_t events, int depth)
{
    uint32_t mask = depth ? READY_IN : READY_IN | EPOLLET | EPOLLEXCLUSIVE;
    struct epoll_event ev = {.events = (events & mask) | (depth ? EPOLLET : 0),
                             .data.u64 = TAG_LISTENER0 + (uint32_t)(handle % LISTENERS_MAX)};
    if (ours(set))
        (void)sys_epoll_ctl(set->wait_ep, EPOLL_CTL_ADD, pipe, &ev);
    for (const struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next)
        pipe_in(o->set, handle, pipe, events, depth + 1);
}

static void pipe_change(const struct watch *w, int pipe)
{
    struct epoll_event ev = {.events = w->spent ? 0 : w->events & (READY_IN | EPOLLET),
                             .data.u64 = TAG_LISTENER0 + (uint32_t)(w->handle % LISTENERS_MAX)};
    if (ours(w->set))
        (void)sys_epoll_ctl(w->set->wait_ep, EPOLL_CTL_MOD, pipe, &ev);
}

static void pipe_out(const struct evset *set, int pipe, int depth)
{
    if (ours(set))
        (void)sys_epoll_ctl(set->wait_ep, EPOLL_CTL_DEL, pipe, NULL);
    for (const struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next)
        pipe_out(o->set, pipe, depth + 1);
}

/* Every pipe of the set and of the sets in it, into the set's own wait_ep and those around it. watch_lock is held. */
static void pipes_in(const struct evset *set, int depth)
{
    for (const struct watch *w = set->all; w; w = w->set_next) {
        struct listener *l = listener_get(w->handle); /* of a session or a set: none */
        if (l)
            pipe_in(set, w->handle, l->pipe_rd, w->events, 0);
        if (w->inner && depth < SETS_DEEP)
            pipes_in(w->inner, depth + 1);
    }
}

/* What a wait sleeps on, made by the first; in a forked child anew, since it has other bells. Without a descriptor for it the set works
 * all the same, by looking now and then. */
static int wire(struct evset *set)
{
    int unready = fork_child_ready(); /* before its bell is looked at: a child gets another */
    if (unready)
        return unready;
    int32_t pid = this_process();
    if (__builtin_expect(set->wired && set->pid == pid && set->wait_ep >= 0, 1))
        return 0;
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = TAG_PROGRAM};
    int ep = own_epoll();
    if (ep >= 0 && (!sleeper_wire(ep, TAG_KICK, TAG_NEWS) ||
                    (set->epfd >= 0 && sys_epoll_ctl(ep, EPOLL_CTL_ADD, set->epfd, &ev) < 0))) {
        own_fd_close(ep);
        ep = -1;
    }
    plock_take(&C->watch_lock);
    bool again = !set->wired || set->pid != pid;
    int old = set->wait_ep;
    if (again)
        waiter_take(set);
    if (ep >= 0 && old >= 0 &&
        (set->pid != pid || !set->wired)) { /* under the same number: the program may have been given it */
        (void)sys_call(SYS_dup3, (long)ep, (long)old, (long)O_CLOEXEC, 0);
        own_fd_close(ep);
        ep = old;
    } else if (ep >= 0 && old >= 0) { /* another thread was faster */
        own_fd_close(ep);
        ep = old;
    }
    set->wait_ep = ep;
    set->wired = true;
    set->pid = pid;
    if (ep >= 0)
        pipes_in(set, 0);
    plock_release(&C->watch_lock);
    return 0;
}

static void watch_end(struct watch *w)
{
    struct listener *l = handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
    if (l)
        pipe_out(w->set, l->pipe_rd, 0);
    watch_leave(w);
    memory_put(w, sizeof *w);
}

void sets_forget(struct listener *l)
{
    plock_take(&C->watch_lock);
    for (const struct watch *w = l->watches; w; w = w->next)
        pipe_out(w->set, l->pipe_rd, 0);
    plock_release(&C->watch_lock);
}

void evset_destroy(struct evset *set)
{
    plock_take(&C->watch_lock);
    while (set->all)
        watch_end(set->all);
    while (set->outer)
        watch_end(set->outer);
    if (set->waiter != WAITER_ANY && set->pid == this_process())
        store_relaxed(&C->waiters_used, C->waiters_used & ~(1ull << set->waiter));
    int ep = set->wait_ep;
    set->wait_ep = -1;
    plock_release(&C->watch_lock);
    own_fd_close(ep);
    (void)fetch_add_sc(&set->users, 1u);
    store_sc(&set->dead, true);
    set_exit(set);
}

void evset_renumber(struct evset *set, int epfd)
{
    store_relaxed(&set->epfd, epfd);
}

int evset_fd(struct evset *set)
{
    return wire(set) ? -1 : set->wait_ep;
}

/* ---- what is in a set ---------------------------------------------------------------------------------------------- */

struct target {
    struct session *s;
    struct listener *l;
    struct evset *inner;
    struct watch **list;
};

static bool target_of(uint64_t handle, struct target *t)
{
    *t = (struct target){0};
    if (handle_is_listener(handle)) {
        t->l = listener_get(handle);
        t->list = t->l ? &t->l->watches : NULL;
    } else {
        t->s = session_get(handle);
        t->list = t->s ? &session_cache_of(t->s)->watches : NULL;
    }
    return t->list != NULL;
}

/* The waiter that the peer is to look at: the set's, if it is the only one that watches the session. */
static void name_waiter(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    uint32_t waiter = WAITER_ANY;
    if (c->watches && !c->watches->next && !c->watches->set->anybody && !(load_relaxed(&s->flags) & SF_SHARED))
        waiter = c->watches->set->waiter;
    store_relaxed(&c->own->waiter, (uint8_t)waiter);
    futex_sleepers_wake(s, c);
}

/* From now on others sleep for it, too. watch_lock is held. */
static void for_anybody(struct evset *set, int depth)
{
    if (set->anybody || depth > SETS_DEEP)
        return;
    set->anybody = true;
    for (struct watch *w = set->all; w; w = w->set_next) {
        struct session *s = handle_is_listener(w->handle) ? NULL : session_get(w->handle); /* of a set: none */
        if (s)
            name_waiter(s);
        if (w->inner)
            for_anybody(w->inner, depth + 1);
    }
}

static int add(struct evset *set, const struct target *t, uint64_t handle, uint32_t key, uint32_t events,
               uint64_t data)
{
    int err = wire(set);
    struct watch *w = err ? NULL : memory_get(sizeof *w);
    if (!w)
        return err ? err : BERTH_E_NO_MEMORY;
    *w = (struct watch){.set = set,
                        .handle = handle,
                        .inner = t->inner,
                        .key = key,
                        .list = t->list,
                        .events = events,
                        .data = data,
                        .told = true,
                        .fresh = true};
    plock_take(&C->watch_lock);
    if (watch_find(set, *t->list, key)) {
        plock_release(&C->watch_lock);
        memory_put(w, sizeof *w);
        return BERTH_E_BUSY;
    }
    watch_enter(w);
    if (t->l)
        pipe_in(set, handle, t->l->pipe_rd, events, 0);
    if (t->s)
        name_waiter(t->s);
    if (t->inner) {
        for_anybody(t->inner, 0);
        pipes_in(t->inner, 1);
    }
    if (set->outer)
        for_anybody(set, 0);
    if (t->s || t->inner || (t->l && listener_maybe(t->l)))
        watch_ready(w);
    bool wake = set_asleep(set);
    plock_release(&C->watch_lock);
    if (wake)
        own_kick();
    return 0;
}

static int modify(struct evset *set, const struct target *t, uint32_t key, uint32_t events, uint64_t data)
{
    plock_take(&C->watch_lock);
    struct watch *w = watch_find(set, *t->list, key);
    if (w) {
        w->events = events;
        w->data = data;
        w->spent = false;
        w->told = w->fresh = true;
        if (t->l)
            pipe_change(w, t->l->pipe_rd);
        if (!t->l || listener_maybe(t->l))
            watch_ready(w);
    }
    bool wake = w && set_asleep(set);
    plock_release(&C->watch_lock);
    if (wake)
        own_kick();
    return w ? 0 : BERTH_E_BAD_HANDLE;
}

static int take_out(struct evset *set, const struct target *t, uint32_t key)
{
    plock_take(&C->watch_lock);
    struct watch *w = watch_find(set, *t->list, key);
    if (w)
        watch_end(w);
    if (t->s)
        name_waiter(t->s);
    plock_release(&C->watch_lock);
    return w ? 0 : BERTH_E_BAD_HANDLE;
}

int evset_add(struct evset *set, uint64_t handle, uint32_t key, uint32_t events, uint64_t data)
{
    struct target t;
    return target_of(handle, &t) ? add(set, &t, handle, key, events, data) : BERTH_E_BAD_HANDLE;
}

int evset_modify(struct evset *set, uint64_t handle, uint32_t key, uint32_t events, uint64_t data)
{
    struct target t;
    return target_of(handle, &t) ? modify(set, &t, key, events, data) : BERTH_E_BAD_HANDLE;
}

int evset_remove(struct evset *set, uint64_t handle, uint32_t key)
{
    struct target t;
    return target_of(handle, &t) ? take_out(set, &t, key) : BERTH_E_BAD_HANDLE;
}

int evset_add_set(struct evset *set, struct evset *inner, uint32_t key, uint32_t events, uint64_t data)
{
    struct target t = {.inner = inner, .list = &inner->outer};
    return add(set, &t, 0, key, events, data); /* the kernel has found no circle and no depth too many */
}

int evset_modify_set(struct evset *set, struct evset *inner, uint32_t key, uint32_t events, uint64_t data)
{
    struct target t = {.inner = inner, .list = &inner->outer};
    return modify(set, &t, key, events, data);
}

int evset_remove_set(struct evset *set, struct evset *inner, uint32_t key)
{
    struct target t = {.inner = inner, .list = &inner->outer};
    return take_out(set, &t, key);
}

/* ---- judging. watch_lock is held ------------------------------------------------------------------------------------- */

/* `want` is one word for all who wait for the session: who moved it past bytes that others may not have seen tells them. */
static void pass_on(struct watch *w, struct session_cache *c, uint64_t want_before)
{
    if ((!c->watches->next && !load_relaxed(&c->pollers)) ||
        count_offset(load_relaxed(&c->own->want)) == count_offset(want_before))
        return;
    bool wake = load_relaxed(&c->pollers) != 0;
    for (struct watch *other = c->watches; other; other = other->next) {
        if (other != w && other->set != w->set) {
            watch_ready(other);
            wake = wake || set_asleep(other->set);
        }
    }
    if (wake)
        own_kick();
}

#define EDGE_FLAGS (SF_RESET | SF_DEAD | SF_SHUT_RD | SF_SHUT_WR) /* those whose change is news to the program */

/* An edge is told when something has come since the last one, whatever put the watch on the list. `note`: it counts as told. */
static bool edge_came(struct watch *w, struct session *s, struct session_cache *c, bool note)
{
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t tail = peer ? slot_tail(peer) : 0, head = peer ? slot_head(peer) : 0;
    uint32_t flags = load_relaxed(&s->flags);
    uint32_t filled = load_relaxed(&s->filled);
    bool writable = stream_writable(s, c), cut = stream_cut(s, c);
    bool came = w->fresh || tail != w->seen_tail || (flags ^ w->seen_flags) & EDGE_FLAGS ||
                (writable && filled != w->seen_filled) || cut != w->seen_cut;
    if (note) {
        w->seen_tail = tail;
        w->seen_head = head;
        w->seen_flags = flags;
        w->seen_filled = writable ? filled : w->seen_filled;
        w->seen_cut = cut;
        w->fresh = false;
    }
    return came;
}

/* What a watch on a session has to report now, with READY_MISSING; arms the session where it has nothing. `take`: what it says is told. */
static uint32_t judge_session(struct watch *w, bool take)
{
    struct session *s = session_get(w->handle);
    if (!s)
        return 0;
    struct session_cache *c = session_cache_of(s);
    if (load_relaxed(&s->state) == SESSION_QUEUED && !(load_relaxed(&s->flags) & SF_RESET))
        return 0;
    uint32_t mask = w->events | EPOLLERR | EPOLLHUP | (w->events & READY_IN ? READY_MISSING : 0);
    bool edge = w->events & EPOLLET, came = !edge || edge_came(w, s, c, take);
    uint32_t now = session_ready(s, c) & mask;
    if (now && !edge)
        return now;
    /* Armed first, judged after: what came before the arming is seen, what comes later brings an event. An edge is armed
     * for what is beyond the bytes that are there, a level for the first byte. */
    uint64_t want = load_relaxed(&c->own->want);
    if (w->events & (READY_IN | EPOLLRDHUP))
        (void)stream_arm_read(s, c, 0, edge, 1);
    else
        (void)stream_arm_read(s, c, 0, true, 1); /* for EPOLLHUP, EPOLLERR */
    pass_on(w, c, want);
    if (w->events & READY_OUT && !stream_writable(s, c))
        (void)stream_arm_write(s, c, 0);
    came = came || (edge && edge_came(w, s, c, take));
    now = came ? session_ready(s, c) & mask : 0;
    if (now & READY_MISSING)
        w->fresh = true; /* not told yet */
    if (!now)
        stream_flush_head(s, true);
    return now;
}

static uint32_t judge(struct watch *w, int depth, bool take);

/* Of tokens in the pipe the kernel tells again; of those taken out of it only we know. */
static bool aside_waits(const struct watch *w)
{
    struct listener *l = listener_get(w->handle);
    return l && listener_maybe(l);
}

/* Watches that have nothing to tell come off its list; the rest stay where they are. `missing`: a session whose bytes have to be fetched
 * before it can be told of. */
static bool tells(struct evset *set, int depth, session_handle *missing)
{
    struct watch *end = set->ready_last, *next;
    for (struct watch *w = set->ready_first; w; w = next) {
        next = w->ready_next;
        bool last = w == end;
        uint32_t events = judge(w, depth, false);
        if (events & ~READY_MISSING)
            return true;
        if (events && missing)
            *missing = w->handle;
        watch_unready(w);
        if (last)
            break;
    }
    for (struct watch *w = set->listeners ? set->all : NULL; w; w = w->set_next) {
        struct listener *l = w->inner || w->spent || !(w->events & READY_IN) ? NULL : listener_get(w->handle);
        if (l && (!(w->events & EPOLLET) || w->told) && listener_waiting(l))
            return true;
    }
    return false;
}

static uint32_t judge(struct watch *w, int depth, bool take)
{
    if (w->spent)
        return 0;
    if (w->inner) {
        bool in = (!(w->events & EPOLLET) || w->told) && depth < SETS_DEEP && tells(w->inner, depth + 1, NULL);
        return in ? w->events & READY_IN : 0;
    }
    if (!handle_is_listener(w->handle))
        return judge_session(w, take);
    struct listener *l = listener_get(w->handle);
    return l && (w->sure || listener_maybe(l)) ? w->events & READY_IN : 0;
}

#define FETCHES 4

bool evset_ready(struct evset *set)
{
    for (int i = 0;; i++) {
        session_handle missing = 0;
        plock_take(&C->watch_lock);
        bool ready = tells(set, 0, &missing);
        plock_release(&C->watch_lock);
        if (ready || !missing || i == FETCHES || !fetch_bytes(missing))
            return ready;
    }
}

bool evset_poller(struct evset *set, bool on)
{
    (void)fetch_add_sc(&set->pollers, on ? 1u : ~0u);
    if (!on)
        return true;
    plock_take(&C->watch_lock);
    for_anybody(set, 0);
    bool ready = tells(set, 0, NULL); /* and arms what is not */
    plock_release(&C->watch_lock);
    return !ready;
}

static bool visit_listeners(const struct evset *set, bool (*visit)(struct listener *l, void *arg), void *arg,
                            int depth)
{
    for (struct watch *w = set->all; w; w = w->set_next) {
        struct listener *l = !w->inner && handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
        if ((l && !visit(l, arg)) ||
            (w->inner && depth < SETS_DEEP && !visit_listeners(w->inner, visit, arg, depth + 1)))
            return false;
    }
    return true;
}

bool evset_listeners(struct evset *set, bool (*visit)(struct listener *l, void *arg), void *arg)
{
    plock_take(&C->watch_lock);
    bool all = visit_listeners(set, visit, arg, 0);
    plock_release(&C->watch_lock);
    return all;
}

static void shoot(struct watch *w)
{
    struct listener *l = handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
    w->spent = true;
    if (l)
        pipe_change(w, l->pipe_rd);
}

#define MISSING_MAX 16

/* Takes what the watches on the list have to tell. Sessions whose bytes have to be fetched first are named in `missing`; whoever brings
 * these puts their watches back on the list. */
static int harvest(struct evset *set, struct epoll_event *out, int max, session_handle missing[MISSING_MAX],
                   uint32_t *missed)
{
    int n = 0;
    *missed = 0;
    plock_take(&C->watch_lock);
    struct watch *end = set->ready_last, *w = set->ready_first, *next;
    for (; w && n < max; w = next) {
        next = w->ready_next;
        bool last = w == end;
        uint32_t events = judge(w, 0, true), tell = events & ~READY_MISSING;
        if (events & READY_MISSING && *missed < MISSING_MAX)
            missing[(*missed)++] = w->handle;
        watch_unready(w);
        if (tell && !(w->events & (EPOLLET | EPOLLONESHOT)) && (!handle_is_listener(w->handle) || aside_waits(w)))
            watch_ready(w); /* to the end: nobody starves */
        w->told = w->sure = false;
        if (tell) {
            if (w->events & EPOLLONESHOT)
                shoot(w);
            out[n++] = (struct epoll_event){.events = tell, .data.u64 = w->data};
            if (!w->inner && !handle_is_listener(w->handle))
                set->last = w->handle;
        }
        if (last)
            break;
    }
    plock_release(&C->watch_lock);
    return n;
}

/* ---- the kernel's side ------------------------------------------------------------------------------------------------ */

/* Those of the program's own descriptors that are ready, straight out of its set. */
static int program_events(struct evset *set, struct epoll_event *out, int max)
{
    struct timespec zero = {0};
    if (set->epfd < 0 || max <= 0)
        return 0;
    long n = sys_epoll_pwait2(set->epfd, out, max, &zero, NULL);
    set->kernel_hot = n > 0;
    return n > 0 ? (int)n : 0;
}

/* A token has come for that listener: what it needs is fetched, and whoever watches it is told. */
static void listener_came(struct evset *set, uint32_t index)
{
    struct listener *l = index < LISTENERS_MAX ? &C->listeners[index] : NULL;
    bool known = false;
    if (!l)
        return;
    bool ready = l->generation & 1 && client_listener_ready(listener_handle_of(l));
    plock_take(&C->watch_lock);
    for (struct watch *w = l->watches; w; w = w->next) {
        known = known || w->set == set || w->set->outer;
        if (ready && w->set == set) {
            w->sure = true;
            watch_ready(w);
        } else if (ready && w->set->outer) {
            watch_ready(w);
        }
    }
    if (!known && set->wait_ep >= 0 && l->pipe_rd >= 0) /* it left with a set that was in this one */
        (void)sys_epoll_ctl(set->wait_ep, EPOLL_CTL_DEL, l->pipe_rd, NULL);
    plock_release(&C->watch_lock);
}

/* Sorts what wait_ep has brought. Count of the program's events; *kicked: the stack has news. */
static int sort(struct evset *set, const struct epoll_event *ev, long got, struct epoll_event *out, int max,
                bool *kicked)
{
    bool program = false;
    for (long i = 0; i < got; i++) {
        uint64_t tag = ev[i].data.u64; /* NOLINT(clang-analyzer-*): filled by a raw system call */
        if (tag == TAG_PROGRAM) {
            program = true;
        } else {
            *kicked = true;
            if (tag == TAG_NEWS)
                control_told();
            if (tag >= TAG_LISTENER0)
                listener_came(set, (uint32_t)(tag - TAG_LISTENER0));
        }
    }
    return program ? program_events(set, out, max) : 0;
}

/* Without waiting. */
static int look_at_kernel(struct evset *set, struct epoll_event *out, int max)
{
    struct epoll_event ev[OWN_EVENTS];
    struct timespec zero = {0};
    bool kicked = false;
    set->kernel_looked = clock_now();
    if (set->wait_ep < 0)
        return program_events(set, out, max);
    long got = sys_epoll_pwait2(set->wait_ep, ev, OWN_EVENTS, &zero, NULL);
    int n = got > 0 ? sort(set, ev, got, out, max, &kicked) : 0;
    if (kicked) {
        sleeper_glance();
        events_poll(true);
    }
    return n;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

/* Events of sessions that other processes hold too may have been taken by them: looks at the sessions themselves. */
static void look_at_shared(struct evset *set, int depth)
{
    if (load_relaxed(&C->inherited_unconfirmed))
        shared_confirm();
    for (struct watch *w = set->all; w; w = w->set_next) { /* links first: that may take any lock */
        if (w->inner && depth < SETS_DEEP)
            look_at_shared(w->inner, depth + 1);
        struct session *s = w->inner || handle_is_listener(w->handle) ? NULL : session_get(w->handle);
        if (s && load_relaxed(&s->flags) & SF_SHARED && !session_cache_of(s)->peer)
            session_try_link(s);
    }
    plock_take(&C->watch_lock);
    for (struct watch *w = set->all; w; w = w->set_next) {
        struct session *s = w->inner || handle_is_listener(w->handle) || w->spent ? NULL : session_get(w->handle);
        if (!s || !(load_relaxed(&s->flags) & SF_SHARED))
            continue;
        struct session_cache *c = session_cache_of(s);
        const struct slot *peer = load_acquire(&c->peer);
        if (!(w->events & EPOLLET)) {
            if (session_ready(s, c) & (w->events | EPOLLERR | EPOLLHUP | READY_MISSING))
                watch_ready(w);
        } else if (((w->seen_flags ^ load_relaxed(&s->flags)) & ~SF_ATTENTION) ||
                   (peer && (slot_tail(peer) != w->seen_tail || slot_head(peer) != w->seen_head))) {
            watch_ready(w);
        }
    }
    plock_release(&C->watch_lock);
}

struct wait {
    struct evset *set;
    struct epoll_event *out;
    int max;
    struct sleeper sl;
};

static void set_cpu_publish(void *arg)
{
    const struct wait *w = arg;
    waiter_set_cpu(&C->page->waiter[w->set->waiter], cpu_here());
}

static int look(void *arg)
{
    struct wait *w = arg;
    struct evset *set = w->set;
    session_handle missing[MISSING_MAX];
    uint32_t missed;
    events_poll(false);
    sleeper_glance();
    if (C->sharing)
        look_at_shared(set, 0);
    if (load_relaxed(&C->unconfirmed) && ++set->looks % LOOKS_PER_CONFIRM == 0)
        sessions_confirm();
    if (load_relaxed(&C->queued) || load_relaxed(&C->reoffer_at))
        sessions_offer_again();
    if (!load_acquire(&set->ready_first))
        return 0;
    int n = harvest(set, w->out, w->max, missing, &missed);
    bool here = false;
    for (uint32_t i = 0; n == 0 && i < missed; i++)
        here = fetch_bytes(missing[i]) || here;
    return here ? harvest(set, w->out, w->max, missing, &missed) : n;
}

static int kernel(void *arg)
{
    struct wait *w = arg;
    return look_at_kernel(w->set, w->out, w->max);
}

static void arm_on(const struct evset *set)
{
    struct waiter_line *line = &C->page->waiter[set->waiter];
    if (set->waiter != WAITER_ANY)
        waiter_arm(line);
}

static void arm_off(const struct evset *set)
{
    struct waiter_line *line = &C->page->waiter[set->waiter];
    if (set->waiter != WAITER_ANY)
        waiter_disarm(line);
}

static void cancelled(void *arg)
{
    struct wait *w = arg;
    arm_off(w->set);
    set_exit(w->set);
}

/* Several threads sleep on one set: each edge wakes one of them, so whoever is woken sees to it that the next event wakes another. */
static bool several(struct evset *set)
{
    if (load_sc(&set->users) < 2)
        return false;
    if (!set->anybody) {
        plock_take(&C->watch_lock);
        for_anybody(set, 0);
        plock_release(&C->watch_lock);
    }
    return true;
}

/* Count of kernel events, or -errno. */
static int sleep_once(struct wait *w)
{
    struct evset *set = w->set;
    struct epoll_event ev[OWN_EVENTS];
    bool kicked = false, with_others = several(set);
    arm_on(set);
    int64_t left = sleeper_prepare(&w->sl);
    if (C->sharing)
        look_at_shared(set, 0);
    if (load_sc(&set->ready_first))
        left = 0;
    long got;
    if (set->wait_ep >= 0) {
        got = sleeper_epoll(&w->sl, set->wait_ep, ev, OWN_EVENTS, left);
    } else {
        struct pollfd p = {.fd = set->epfd, .events = POLLIN};
        got = sleeper_poll(&w->sl, &p, 1, left < 0 || left > NO_DESCRIPTOR_NS ? NO_DESCRIPTOR_NS : left);
        ev[0].data.u64 = TAG_PROGRAM;
    }
    arm_off(set);
    if (with_others || load_sc(&set->users) > 1)
        sleeper_again();
    set->kernel_looked = clock_now();
    if (got < 0)
        return (int)got;
    int n = sort(set, ev, got, w->out, w->max, &kicked);
    if (kicked || left == 0 || set->wait_ep < 0) {
        sleeper_glance();
        events_poll(true);
    }
    return n;
}

static int look_further(const struct wait *w, int n)
{
    struct wait rest = *w;
    rest.out += n;
    rest.max -= n;
    return rest.max > 0 ? n + look(&rest) : n;
}

static int spin(struct wait *w, int64_t began)
{
    struct evset *set = w->set;
    if (w->sl.deadline <= began || !load_relaxed(&C->polled) || !load_relaxed(&set->count))
        return 0;
    struct session *s = set->last ? session_get(set->last) : NULL;
    struct spin spin = {.c = s ? session_cache_of(s) : NULL,
                        .vain = &set->vain,
                        .now = began,
                        .deadline = w->sl.deadline,
                        .mark = &w->sl.mark,
                        .many = true,
                        .publish = set_cpu_publish};
    return spin_until(&spin, look, kernel, w);
}

static int wait_held(struct wait *w, int64_t timeout)
{
    struct evset *set = w->set;
    int n = wire(set);
    if (n)
        return n;
    set_cpu_publish(w);
    if (load_relaxed(&C->unheard)) /* nobody else tells the set of their bytes, and it may not come to sleep */
        sessions_confirm();
    arm_off(set); /* the last wait left it armed for evset_fd */
    bool crowded_out = set->full >= FULL_MAX, looked = false;
    if ((looked = crowded_out || (++set->rounds % 8 == 0 && clock_now() - set->kernel_looked > KERNEL_BUSY_NS)))
        n = look_at_kernel(set, w->out, (w->max + 1) / 2); /* sessions that are always ready shall not hide it */
    if ((n = look_further(w, n)) > 0) {
        set->full = n == w->max && !crowded_out ? set->full + 1 : 0;
        if ((timeout == 0 || set->kernel_hot) && n < w->max && !looked) /* both worlds at once */
            n += look_at_kernel(set, w->out + n, w->max - n);
        return n;
    }
    if (set->kernel_hot && (n = program_events(set, w->out, w->max)) > 0) {
        events_poll(true);
        return look_further(w, n);
    }
    int64_t began = timeout ? clock_now() : 0;
    channel_rearm();
    if (timeout && (n = spin(w, began)) > 0) {
        spin_learn(&set->vain, 0);
        return n;
    }
    do {
        if (sleep_signalled(&w->sl.mark))
            return BERTH_E_INTERRUPTED;
        n = sleep_once(w);
        if (n == -EINTR)
            return BERTH_E_INTERRUPTED;
        if (n < 0)
            return BERTH_E_INVALID;
        if ((n = look_further(w, n)) > 0) {
            if (timeout)
                spin_learn(&set->vain, clock_now() - began);
            return n;
        }
    } while (!sleeper_over(&w->sl));
    if (set->epfd < 0) { /* leaves it armed: the program may wait on evset_fd */
        arm_on(set);
        sleeper_again();
    }
    return 0;
}

int evset_wait(struct evset *set, struct epoll_event *out, int max, int64_t timeout_ns, const sigset_t *mask)
{
    if (max <= 0 || !out)
        return BERTH_E_INVALID;
    struct wait w = {.set = set, .out = out, .max = max};
    w.sl = (struct sleeper){.mark = sleep_mark_now(),
                            .deadline = clock_deadline(timeout_ns),
                            .mask = mask,
                            .undo = cancelled,
                            .arg = &w};
    int n = BERTH_E_BAD_HANDLE;
    hold_begin();
    if (set_enter(set))
        n = wait_held(&w, timeout_ns);
    set_exit(set);
    hold_end();
    return n;
}
