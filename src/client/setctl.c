/* setctl.c - what is put into a set, changed there and taken out of it, as epoll_ctl(2) has it.
 *
 * The program's threads come here, and nobody else. What is put in or changed is judged at once where its set lies in
 * another one: the sets around hear of it if it has something to tell, and of nothing else. watch_lock is held. */
#include "base/memory.h"
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

/* What a watch that is new, or asks for something new, has to tell. Of what is in a listener's pipe the kernel tells.
 * `heard`: it had something to tell before, and the sets around know. */
static void begin(struct watch *w, const struct target *t, bool heard)
{
    uint32_t arrivals = t->l ? listener_arrivals(t->l) : 0;
    bool known = !t->l || listener_maybe(t->l);
    w->seen_arrivals = arrivals - 1;
    w->heard_arrivals = !known && listener_waiting(t->l) ? arrivals - 1 : arrivals;
    if (known && heard)
        watch_stays(w);
    else if (known)
        watch_judged(w);
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
    if (peer)
        watch_heard(w, peer);
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
