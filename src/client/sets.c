/* sets.c - event sets: how they come and go, and what a wait for one sleeps on. What is put into them: setctl.c.
 *
 * Theory of operation
 *
 * The program's own kernel set has its descriptors and nothing else in it: whoever else waits on it, by
 * another number, in another process or from within another set, sees what the program put there. We sleep on
 * a set of our own (`wait_ep`), in which are the program's set, our bell (edge-triggered and never read, so
 * that every sleeper of the process gets it), the inner set (vigil.c), and the token pipes of our listeners.
 *
 * A set in a set. The outer one has a watch on the inner one. Sessions of a set that is waited for from
 * outside name WAITER_ANY, for their peers cannot know who sleeps. The pipes of listeners in the inner one
 * are in the wait_ep of the outer one, too.
 *
 * The life of a set. One word counts the threads in a wait for it, says whether it is free, live or dead, and
 * how often it has been made. Who has closed a set that others wait for leaves it dead; the last of them ends
 * it, and it is free for the next one that is made. Who comes late, with a set that has been destroyed,
 * counts itself in, sees that, and counts itself out again, whatever the set is by then. A forked child has
 * none of its parent's threads: there all counts begin anew.
 *
 * watch_lock protects watches and lists of all sets of the process (watch.c).
 */
#include "client/sets.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/fds.h"
#include "client/hello.h"
#include "client/listener.h"
#include "client/session.h"
#include "client/setpipes.h"
#include "client/sleeper.h"
#include "client/watch.h"
#include "shm/slot.h"

/* ---- sets ---------------------------------------------------------------------------------------------- */

static struct evset *free_sets, *made_sets;
struct plock free_lock;

enum { SET_FREE, SET_LIVE, SET_DEAD };
#define LIFE_STATE (1ull << 32)
#define LIFE_NUMBER (1ull << 34)

static uint32_t life_users(uint64_t life)
{
    return (uint32_t)life;
}

static uint32_t life_state(uint64_t life)
{
    return (uint32_t)(life / LIFE_STATE) % 4;
}

static uint32_t life_number(uint64_t life)
{
    return (uint32_t)(life / LIFE_NUMBER);
}

/* Of a free one, in which a late thread may still be counted. */
static void life_begin(struct evset *set)
{
    uint64_t was = load_sc(&set->life), is;
    do {
        uint64_t number = life_number(was) + 1ull == LIFE_STATE >> 2 ? 1 : life_number(was) + 1ull;
        is = number * LIFE_NUMBER + SET_LIVE * LIFE_STATE + life_users(was);
    } while (!compare_exchange_sc(&set->life, &was, is));
}

/* Dead, and nobody in it: true for one of those who see that. */
static bool life_end(struct evset *set, uint64_t seen)
{
    return life_state(seen) == SET_DEAD && !life_users(seen) &&
           compare_exchange_sc(&set->life, &seen, seen - (SET_DEAD - SET_FREE) * LIFE_STATE);
}

struct evset *evset_create(int epfd)
{
    plock_take(&free_lock);
    struct evset *set = free_sets;
    if (set)
        free_sets = set->next_free;
    plock_release(&free_lock);
    if (!set) {
        if (!(set = memory_get(sizeof *set)))
            return NULL;
        store_relaxed(&set->life, 0ull);
        plock_take(&free_lock);
        set->next_made = made_sets;
        made_sets = set;
        plock_release(&free_lock);
    }
    memset(set, 0, offsetof(struct evset, life));
    set->epfd = epfd;
    set->wait_ep = -1;
    set->waiter = WAITER_ANY;
    life_begin(set);
    return set;
}

/* Nobody waits for it any more. */
static void set_end(struct evset *set)
{
    plock_take(&C->watch_lock);
    while (set->all)
        watch_end(set->all);
    while (set->outer)
        watch_end(set->outer);
    if (set->waiter != WAITER_ANY && set->pid == set_process())
        store_relaxed(&C->waiters_used, C->waiters_used & ~(1ull << set->waiter));
    set_pipes_forget(set);
    int ep = set->wait_ep;
    set->wait_ep = -1;
    plock_release(&C->watch_lock);
    own_fd_close(ep);
    plock_take(&free_lock);
    set->next_free = free_sets;
    free_sets = set;
    plock_release(&free_lock);
}

uint32_t set_enter(struct evset *set)
{
    uint64_t life = fetch_add_sc(&set->life, 1ull);
    return life_state(life) == SET_LIVE ? life_number(life) : 0;
}

/* The end is a step of its own: between the two others may come and go, and the last of them takes it. A set
 * that ended, was made again and destroyed again in between has another number. */
void set_exit(struct evset *set)
{
    uint64_t life = fetch_add_sc(&set->life, ~0ull) - 1;
    if (life_end(set, life))
        set_end(set);
}

uint32_t set_users(const struct evset *set)
{
    return life_users(load_sc(&set->life));
}

void sets_forked(void)
{
    for (struct evset *set = made_sets; set; set = set->next_made) {
        uint64_t life = load_relaxed(&set->life);
        store_relaxed(&set->life, life - life_users(life));
        set->pollers = set->sleeping = 0;
        if (life_end(set, life - life_users(life)))
            set_end(set);
    }
}

void sets_anew(void)
{
    plock_take(&free_lock);
    struct evset *first = made_sets;
    plock_release(&free_lock);
    for (struct evset *set = first; set; set = set->next_made)
        store_relaxed(&set->wired, false);
    for (struct evset *set = first; set; set = set->next_made) {
        if (set_enter(set) && load_relaxed(&set->wait_ep) >= 0)
            (void)set_wire_up(set); /* without a descriptor it looks now and then */
        set_exit(set);
    }
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

void watch_spend(struct watch *w)
{
    struct listener *l = handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
    w->spent = true;
    if (l)
        set_pipe_sync(w->set, l);
}

/* A set of the program's that has as many sets in it as may lie in one another stays beside ours. */
static bool program_in(int ep, int epfd, bool *beside)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = TAG_PROGRAM};
    long err = epfd >= 0 && !*beside ? sys_epoll_ctl(ep, EPOLL_CTL_ADD, epfd, &ev) : 0;
    *beside = *beside || err == -ELOOP;
    return err == 0 || err == -ELOOP;
}

bool sets_step_aside(void)
{
    bool any = false;
    plock_take(&free_lock);
    struct evset *first = made_sets;
    plock_release(&free_lock);
    plock_take(&C->watch_lock);
    for (struct evset *set = first; set; set = set->next_made) {
        int epfd = load_relaxed(&set->epfd);
        if (!set_ours(set) || epfd < 0 || set->beside)
            continue;
        store_relaxed(&set->beside, true);
        (void)sys_epoll_ctl(set->wait_ep, EPOLL_CTL_DEL, epfd, NULL);
        any = true;
    }
    plock_release(&C->watch_lock);
    if (any)
        own_kick(); /* who sleeps on one of them is to sleep on both */
    return any;
}

int set_wire_up(struct evset *set)
{
    int unready = fork_child_goes_on(); /* before its bell is looked at: a child gets another */
    if (unready || load_acquire(&C->forked))
        return unready;
    int32_t pid = set_process();
    if (__builtin_expect(set->wired && set->pid == pid && set->wait_ep >= 0, 1))
        return 0;
    bool beside = load_relaxed(&set->beside);
    int ep = own_epoll();
    if (ep >= 0 && (!sleeper_wire(ep, TAG_KICK, TAG_NEWS) || !program_in(ep, set->epfd, &beside))) {
        own_fd_close(ep);
        ep = -1;
    }
    plock_take(&C->watch_lock);
    bool again = !set->wired || set->pid != pid, fresh = ep >= 0;
    int old = set->wait_ep;
    if (ep < 0 && !again)
        ep = old; /* another thread had a descriptor for it */
    if (again)
        waiter_take(set);
    if (ep >= 0 && old >= 0 && ep != old &&
        (set->pid != pid || !set->wired)) { /* under the same number: the program may have been given it */
        (void)own_fd_is(old, ep);
        ep = old;
    } else if (ep >= 0 && old >= 0 && ep != old) { /* another thread was faster */
        own_fd_close(ep);
        ep = old;
        fresh = false;
    }
    set->wait_ep = ep;
    set->wired = true;
    set->pid = pid;
    if (fresh) {
        store_relaxed(&set->beside, beside);
        set_pipes_forget(set);
        set_pipes_sync(set, set);
    }
    plock_release(&C->watch_lock);
    return 0;
}

void watch_end(struct watch *w)
{
    const struct listener *l = handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
    watch_leave(w);
    if (l)
        set_pipe_sync(w->set, l);
    if (w->inner)
        set_pipes_sync(w->set, w->inner);
    memory_put(w, sizeof *w);
}

void sets_forget(struct listener *l)
{
    plock_take(&C->watch_lock);
    for (const struct watch *w = l->watches; w; w = w->next)
        set_pipe_gone(w->set, l);
    plock_release(&C->watch_lock);
}

void evset_destroy(struct evset *set)
{
    /* the number may soon be another's. Its descriptors leave wait_ep with it */
    store_relaxed(&set->epfd, -1);
    uint64_t life =
        fetch_add_sc(&set->life, (SET_DEAD - SET_LIVE) * LIFE_STATE) + (SET_DEAD - SET_LIVE) * LIFE_STATE;
    if (life_end(set, life))
        set_end(set);
}

void evset_renumber(struct evset *set, int epfd)
{
    store_relaxed(&set->epfd, epfd);
}

int evset_fd(struct evset *set)
{
    return set_wire(set) || !set_ours(set) ? -1 : set->wait_ep;
}

/* ---- who is told -------------------------------------------------------------------------------------- */

void name_waiter(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    uint32_t waiter = WAITER_ANY;
    if (c->watches && !c->watches->next && !c->watches->set->anybody && !(session_flags(s) & SF_SHARED))
        waiter = c->watches->set->waiter;
    slot_set_waiter(c->own, waiter);
    futex_sleepers_wake(s, c);
}

void set_for_anybody(struct evset *set, int depth)
{
    if (set->anybody || depth > SETS_DEEP)
        return;
    set->anybody = true;
    for (struct watch *w = set->all; w; w = w->set_next) {
        /* of a set: none */
        struct session *s = handle_is_listener(w->handle) ? NULL : session_get(w->handle);
        if (s)
            name_waiter(s);
        if (w->inner)
            set_for_anybody(w->inner, depth + 1);
    }
}
