/* watch.c - lists of who waits for what, and the ways to tell them.
 *
 * Theory of operation
 *
 * A watch ties a session, a listener or an event set to an event set. A set has a list of watches that may be
 * ready; a watch comes onto it when something has happened to what it watches, and is judged when somebody
 * waits (judge.c). A set that lies in another one passes this on: the watch on it comes onto the outer set's
 * list, and so on outwards.
 *
 * Sleepers of this process are of two kinds. Those that wait for many things, or for something that has no
 * word of its own, sleep in the kernel on descriptors, our bell among them; own_kick rings it, which wakes
 * all of them. Those that wait for one session sleep by futex on the peer's word. What else can end their
 * wait changes `flags` of the session's record, on which they sleep as well; sleepers_wake moves a counter in
 * it where nothing else changed.
 *
 * watch_lock protects all watches and lists of the process. It is never held over a system call that waits.
 */
#include "client/watch.h"

#include <limits.h>
#include <linux/futex.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/fds.h"
#include "shm/page.h"
#include "shm/slot.h"

void own_kick(void)
{
    bell_ring(C->bell_fd);
    if (load_sc(&C->napping)) {
        (void)fetch_add_sc(&C->attention, 1u);
        (void)sys_call(SYS_futex, &C->attention, (long)FUTEX_WAKE_PRIVATE, 1L, 0);
    }
}

/* ---- lists. watch_lock is held ------------------------------------------------------------------------- */

/* `edges`: it is an event for those around that watch by edge, too. */
static void put(struct watch *w, int depth, bool edges)
{
    struct evset *set = w->set;
    if (w->spent)
        return;
    w->told = w->told || edges;
    w->heard = w->heard || edges;
    if (!w->ready) {
        w->ready = true;
        w->ready_next = NULL;
        w->ready_prev = set->ready_last;
        if (set->ready_last)
            set->ready_last->ready_next = w;
        else
            store_release(&set->ready_first, w);
        set->ready_last = w;
    }
    for (struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next) {
        if (edges || !(o->events & EPOLLET))
            put(o, depth + 1, edges);
    }
}

static void ready_put(struct watch *w, int depth)
{
    put(w, depth, true);
}

void watch_ready(struct watch *w)
{
    ready_put(w, 0);
}

void watch_stays(struct watch *w)
{
    put(w, SETS_DEEP, false);
}

void watch_again_by_level(struct watch *w)
{
    put(w, 0, false);
}

void watch_counts(struct watch *w, uint32_t arrivals)
{
    bool news = (int32_t)(arrivals - w->heard_arrivals) > 0;
    if (news)
        w->heard_arrivals = arrivals;
    put(w, 0, news);
}

void watch_unready(struct watch *w)
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

static bool asleep(const struct evset *set, int depth)
{
    if (load_relaxed(&set->pollers) || waiter_armed(&C->page->waiter[set->waiter]) & 1)
        return true;
    for (const struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next) {
        if (asleep(o->set, depth + 1))
            return true;
    }
    return false;
}

bool set_asleep(const struct evset *set)
{
    return asleep(set, 0);
}

struct watch *watch_find(struct evset *set, struct watch *list, uint32_t key)
{
    for (struct watch *w = list; w; w = w->next) {
        if (w->set == set && w->key == key)
            return w;
    }
    return NULL;
}

/* Of its kinds that others read without the lock. */
static void count(struct evset *set, const struct watch *w, uint32_t n)
{
    store_relaxed(&set->count, set->count + n);
    if (w->inner)
        store_relaxed(&set->inner, set->inner + n);
    else if (handle_is_listener(w->handle))
        set->listeners += n;
}

void watch_enter(struct watch *w)
{
    struct evset *set = w->set;
    w->next = *w->list;
    store_release(w->list, w);
    w->set_next = set->all;
    if (set->all)
        set->all->set_prev = w;
    set->all = w;
    count(set, w, 1);
}

void watch_leave(struct watch *w)
{
    struct evset *set = w->set;
    watch_unready(w);
    for (struct watch **p = w->list; *p; p = &(*p)->next) {
        if (*p == w) {
            store_release(p, w->next);
            break;
        }
    }
    if (w->set_prev)
        w->set_prev->set_next = w->set_next;
    else
        set->all = w->set_next;
    if (w->set_next)
        w->set_next->set_prev = w->set_prev;
    count(set, w, ~0u);
}

/* ---- telling ------------------------------------------------------------------------------------------- */

typedef bool is_news(const struct listener *l, const struct watch *w);

/* Bytes, an end or a reset, since sets around its set last heard of them. */
static bool has_come(struct watch *w, const struct slot *peer)
{
    uint64_t tail = slot_tail(peer);
    bool reset = slot_was_reset(peer);
    bool is = (tail ^ w->heard_tail) & COUNT_FLAG || (w->events & HEARS_IN && tail != w->heard_tail) ||
              reset != w->heard_reset;
    w->heard_tail = tail;
    w->heard_reset = reset;
    return is;
}

/* Or room that somebody waits for: the mark only goes up. */
static bool has_moved(struct watch *w, const struct slot *own, const struct slot *peer)
{
    uint64_t mark = own ? count_offset(slot_want_space(own)) : WANT_NOTHING,
             head = count_offset(slot_head(peer));
    bool room = w->events & READY_OUT && head > mark && w->heard_head <= mark;
    bool is = has_come(w, peer) || room;
    w->heard_head = head;
    return is;
}

void watch_heard(struct watch *w, const struct slot *peer)
{
    (void)has_moved(w, NULL, peer);
}

bool watches_ready_quietly(struct session_cache *c)
{
    bool wake = load_relaxed(&c->pollers) != 0;
    if (load_acquire(&c->watches)) {
        plock_take(&C->watch_lock);
        const struct slot *peer = load_acquire(&c->peer);
        for (struct watch *w = c->watches; w; w = w->next) {
            if (peer)
                watch_heard(w, peer);
            watch_ready(w);
            wake = wake || set_asleep(w->set);
        }
        plock_release(&C->watch_lock);
    }
    return wake;
}

void watches_renew(struct session_cache *c, bool bytes)
{
    plock_take(&C->watch_lock);
    for (struct watch *w = c->watches; w; w = w->next)
        w->fresh = w->fresh || !bytes || w->events & HEARS_IN;
    plock_release(&C->watch_lock);
    watches_ready(c);
}

void watch_last_edge(struct watch *w, const struct slot *peer)
{
    if (!w->set->outer || w->spent || !peer || !has_come(w, peer))
        return;
    for (struct watch *o = w->set->outer; o; o = o->next)
        ready_put(o, 1);
}

void watch_again(struct watch *w, const struct slot *peer)
{
    if (has_come(w, peer))
        watch_ready(w);
    else
        watch_stays(w);
}

void watches_look(struct session_cache *c, const struct slot *peer)
{
    bool wake = load_relaxed(&c->pollers) != 0;
    if (load_acquire(&c->watches)) {
        plock_take(&C->watch_lock);
        for (struct watch *w = c->watches; w; w = w->next) {
            put(w, 0, has_moved(w, load_relaxed(&c->own), peer));
            wake = wake || set_asleep(w->set);
        }
        plock_release(&C->watch_lock);
    }
    if (wake)
        own_kick();
}

void watches_ready(struct session_cache *c)
{
    if (watches_ready_quietly(c))
        own_kick();
}

bool watches_again_quietly(struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    bool wake = load_relaxed(&c->pollers) != 0;
    if (!peer)
        return watches_ready_quietly(c);
    if (load_acquire(&c->watches)) {
        plock_take(&C->watch_lock);
        for (struct watch *w = c->watches; w; w = w->next) {
            watch_again(w, peer);
            wake = wake || set_asleep(w->set);
        }
        plock_release(&C->watch_lock);
    }
    return wake;
}

void watches_again(struct session_cache *c)
{
    if (watches_again_quietly(c))
        own_kick();
}

/* `news`: who watches by edge is told only where it is; and sets around by edge where they do not know of so many. NULL:
 * all of them are. */
static void tell_of(struct listener *l, uint32_t arrivals, is_news *news)
{
    bool wake = false;
    plock_take(&C->watch_lock);
    for (struct watch *w = l->watches; w; w = w->next) {
        if (!(w->events & READY_IN) || (news && w->events & EPOLLET && !news(l, w)))
            continue;
        if (!news)
            w->heard_arrivals = arrivals - 1;
        watch_counts(w, arrivals);
        wake = wake || set_asleep(w->set);
    }
    wake = wake || l->wait_ep >= 0; /* somebody may be blocked in accept */
    plock_release(&C->watch_lock);
    if (wake || load_sc(&C->listening)) /* or in a poll */
        own_kick();
}

void listener_moved(struct listener *l, uint32_t arrivals, is_news *news)
{
    tell_of(l, arrivals, news);
}

void listener_ready(struct listener *l, uint32_t arrivals)
{
    tell_of(l, arrivals, NULL);
}

void watches_drop(struct watch **list, const struct slot *peer)
{
    if (!load_acquire(list))
        return;
    plock_take(&C->watch_lock);
    while (*list) {
        struct watch *w = *list;
        watch_last_edge(w, peer);
        watch_leave(w);
        memory_put(w, sizeof *w);
    }
    plock_release(&C->watch_lock);
}

void sleepers_wake(struct session *s)
{
    uint32_t is = session_flags(s), next;
    do {
        next = (is & ~SF_ATTENTION) | ((is + SF_ATTENTION_ONE) & SF_ATTENTION);
    } while (!session_change_flags(s, &is, next));
    (void)sys_futex_wake(&s->flags, (long)INT_MAX);
    const struct slot *peer = load_acquire(&C->cache[session_index(s)].peer);
    if (peer) { /* those that doze. Who has looked at the flags and does not sleep yet dozes for a while */
        (void)sys_futex_wake(slot_tail_futex(peer), (long)INT_MAX);
        (void)sys_futex_wake(slot_head_futex(peer), (long)INT_MAX);
    }
}

/* `want` is about to be somebody else's. */
void futex_sleepers_wake(struct session *s, struct session_cache *c)
{
    const struct slot *own = load_relaxed(&c->own);
    if (own && (slot_want(own) | slot_want_space(own)) & COUNT_FLAG)
        sleepers_wake(s);
}
