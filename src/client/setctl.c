/* setctl.c - what is put into a set, changed there and taken out of it, as epoll_ctl(2) has it.
 *
 * The program's threads come here, and nobody else. What is put in or changed is judged at once where its set lies in
 * another one: the sets around hear of it if it has something to tell that they have not heard of. watch_lock is held. */
#include "base/memory.h"
#include "client/aside.h"
#include "client/judge.h"
#include "client/listener.h"
#include "client/session.h"
#include "client/setpipes.h"
#include "client/sets.h"
#include "client/watch.h"
#include "shm/slot.h"

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

static const struct slot *peer_of(const struct target *t)
{
    return t->s ? load_acquire(&session_cache_of(t->s)->peer) : NULL;
}

/* It is about to go, or to ask for something else. */
static void last_edge(struct watch *w, const struct target *t)
{
    if (t->l)
        listener_last_edges(t->l);
    watch_last_edge(w, peer_of(t));
}

/* Of what is in the listener's pipe the kernel tells the set itself; those around have the pipe for themselves. */
static void listener_begins(struct watch *w, struct listener *l, bool heard)
{
    bool edge = w->events & EPOLLET;
    uint32_t arrivals = edge ? listener_arrivals(l) : listener_count(l);
    w->seen_arrivals = arrivals - 1;
    w->heard_arrivals = arrivals;
    if (listener_maybe(l)) {
        watch_judged(w, heard);
    } else if (w->set->outer && w->events & READY_IN && listener_waiting(l)) {
        w->heard_arrivals = arrivals - 1;
        watch_counts(w, arrivals);
    }
}

/* What has come to listeners in a set that goes into another one is told by the set, not by them. */
static void listeners_heard(struct evset *inner, int depth)
{
    for (struct watch *w = inner->all; w; w = w->set_next) {
        const struct listener *l = handle_is_listener(w->handle) ? listener_get(w->handle) : NULL;
        if (l)
            w->heard_arrivals = listener_arrivals(l);
        if (w->inner && depth < SETS_DEEP)
            listeners_heard(w->inner, depth + 1);
    }
}

/* What a watch that is new, or asks for something new, has to tell. `heard`: it had something to tell before, and the
 * sets around know. */
static void begin(struct watch *w, const struct target *t, bool heard)
{
    if (t->inner)
        listeners_heard(t->inner, 0);
    if (t->l)
        listener_begins(w, t->l, heard);
    else
        watch_judged(w, heard);
}

static int add(struct evset *set, const struct target *t, uint64_t handle, uint32_t key, uint32_t events,
               uint64_t data)
{
    int err = set_wire(set);
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
    const struct slot *peer = peer_of(t);
    plock_take(&C->watch_lock);
    if (watch_find(set, *t->list, key)) {
        plock_release(&C->watch_lock);
        memory_put(w, sizeof *w);
        return BERTH_E_BUSY;
    }
    watch_enter(w);
    if (t->l)
        set_pipe_sync(set, t->l);
    if (t->s)
        name_waiter(t->s);
    if (t->inner) {
        set_for_anybody(t->inner, 0);
        set_pipes_sync(set, t->inner);
    }
    if (set->outer)
        set_for_anybody(set, 0);
    if (peer)
        watch_heard(w, peer);
    begin(w, t, false);
    bool wake = set_asleep(set);
    plock_release(&C->watch_lock);
    if (wake)
        own_kick();
    return 0;
}

static int modify(struct evset *set, const struct target *t, uint32_t key, uint32_t events, uint64_t data)
{
    int err = set->outer ? set_wire(set) : 0; /* a forked child has its own words to arm */
    if (err)
        return err;
    plock_take(&C->watch_lock);
    struct watch *w = watch_find(set, *t->list, key);
    if (w) {
        last_edge(w, t);
        bool heard = w->heard && !w->spent;
        w->events = events;
        w->data = data;
        w->spent = false;
        w->told = w->fresh = true;
        if (t->l)
            set_pipe_sync(set, t->l);
        begin(w, t, heard);
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
    if (w) {
        last_edge(w, t);
        watch_end(w);
    }
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

bool evset_spent(struct evset *set, uint64_t handle, struct evset *inner, uint32_t key, bool spend)
{
    struct target t = {.inner = inner, .list = inner ? &inner->outer : NULL};
    if (!inner && !target_of(handle, &t))
        return false;
    plock_take(&C->watch_lock);
    struct watch *w = watch_find(set, *t.list, key);
    bool was = w && w->spent;
    if (w && spend)
        watch_spend(w);
    plock_release(&C->watch_lock);
    return was;
}

int evset_add_set(struct evset *set, struct evset *inner, uint32_t key, uint32_t events, uint64_t data)
{
    struct target t = {.inner = inner, .list = &inner->outer};
    store_relaxed(&C->nested, true);
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
