/* judge.c - what the watches of a set have to tell.
 *
 * Theory of operation
 *
 * A set has a list of watches that may be ready (watch.c): a watch comes onto it when it is added or changed
 * and whenever an event names its session, and is judged when somebody waits. A level-triggered watch that is
 * ready stays on the list; one that is not is armed (the session's `want`), looked at once more and taken
 * off: the next event brings it back.
 *
 * A watch on another set is ready while that one has something to tell. To see that, its watches are judged
 * where they lie, and nothing is taken out.
 *
 * Who watches a set by edge is told once for each thing that happens inside, as the kernel does it: bytes, an end, a
 * reset, room that was waited for, a connection to a listener, what is put in or changed and has something to tell.
 * `heard_*` of a watch says of what the sets around its own have heard; what happens beyond that puts the watches on
 * its set onto the lists outside and marks them `told`. `told` ends where the event is taken, or where somebody has
 * looked and the inner set has nothing to tell. What lies on the inner set's list since the sets around heard of it
 * (`heard`) is no news when it is changed. The kernel's descriptors in the inner set make their edges in the kernel.
 *
 * watch_lock is never held while something is fetched: bytes that are not here are noted, fetched without it,
 * and looked at again.
 */
#include "client/judge.h"

#include "base/sys.h"
#include "client/aside.h"
#include "client/listener.h"
#include "client/ready.h"
#include "client/session.h"
#include "client/sets.h"
#include "client/share.h"
#include "client/stream.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "shm/slot.h"

/* ---- judging. watch_lock is held ----------------------------------------------------------------------- */

/* `want` is one word for all who wait for the session: who moved it past bytes that others may not have seen
 * tells them. */
static void pass_on(struct watch *w, struct session_cache *c, uint64_t want_before)
{
    if ((!c->watches->next && !load_relaxed(&c->pollers)) ||
        count_offset(slot_own_want(c->own)) == count_offset(want_before))
        return;
    bool wake = load_relaxed(&c->pollers) != 0;
    const struct slot *peer = load_acquire(&c->peer);
    for (struct watch *other = peer ? c->watches : NULL; other; other = other->next) {
        if (other != w && other->set != w->set) {
            watch_again(other, peer);
            wake = wake || set_asleep(other->set);
        }
    }
    if (wake)
        own_kick();
}

/* those whose change is news to the program */
#define EDGE_FLAGS (SF_RESET | SF_DEAD | SF_SHUT_RD | SF_SHUT_WR | SF_TENTATIVE)

/* An edge is told when something has come since the last one, whatever put the watch on the list: bytes and
 * room only where it asks for them. `note`: it counts as told. */
static bool edge_came(struct watch *w, struct session *s, struct session_cache *c, bool note)
{
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t tail = peer ? slot_tail(peer) : 0;
    uint32_t flags = session_flags(s);
    uint32_t filled = session_filled(s);
    bool writable = stream_writable(s, c), cut = stream_cut(s, c);
    uint64_t moved = count_offset(tail) ^ count_offset(w->seen_tail);
    bool enough =
        moved && count_offset(tail) - session_head(s) >= session_lowat(s); /* else they are no event */
    bool came = w->fresh || (tail ^ w->seen_tail) & COUNT_FLAG || (flags ^ w->seen_flags) & EDGE_FLAGS ||
                cut != w->seen_cut || (w->events & HEARS_IN && enough) ||
                (w->events & READY_OUT && writable && filled != w->seen_filled);
    if (note) {
        w->seen_tail = tail;
        w->seen_flags = flags;
        w->seen_filled = writable ? filled : filled - 1; /* there being room is owed to who has seen none */
        w->seen_cut = cut;
        w->fresh = false;
    }
    return came;
}

uint32_t watch_mask(const struct watch *w)
{
    return w->events | EPOLLERR | EPOLLHUP | (w->events & READY_IN ? READY_MISSING : 0);
}

/* As stream_arm_read. For one byte: only who asks for more may put watches on the list, which takes watch_lock. */
static bool arm(struct watch *w, struct session *s, struct session_cache *c, bool beyond)
{
    uint64_t want = slot_own_want(c->own);
    bool armed = stream_arm_read(s, c, 0, beyond, 1);
    pass_on(w, c, want);
    return armed;
}

static bool edge_outside(const struct evset *set, int depth)
{
    for (const struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next) {
        if (o->events & EPOLLET || edge_outside(o->set, depth + 1))
            return true;
    }
    return false;
}

/* What a watch on a session has to report now, with READY_MISSING; arms the session where it has nothing.
 * `take`: what it says is told. */
static uint32_t judge_session(struct watch *w, bool take)
{
    struct session *s = session_get(w->handle);
    if (!s)
        return 0;
    struct session_cache *c = session_cache_of(s);
    if (session_state(s) == SESSION_QUEUED && !(session_flags(s) & SF_RESET))
        return 0;
    uint32_t mask = watch_mask(w);
    bool edge = w->events & EPOLLET, came = !edge || edge_came(w, s, c, take);
    uint32_t now = session_ready(s, c) & mask;
    if (now && !edge) {
        if (w->set->outer &&
            edge_outside(w->set, 0)) { /* for which what comes beyond it is an event, and room */
            (void)arm(w, s, c, true);
            if (w->events & READY_OUT && !stream_writable(s, c))
                (void)stream_arm_write(s, c, 0);
        }
        return now;
    }
    /* Armed first, judged after: what came before the arming is seen, what comes later brings an event. An
     * edge is armed for what is beyond the bytes that are there, a level for the first byte, or where that is not enough
     * for it, and where it is for the end alone, likewise beyond. */
    bool beyond = edge || !(w->events & READY_IN) || session_lowat(s) > 1;
    w->more = !arm(w, s, c, beyond) && beyond;
    if (w->events & READY_OUT && !stream_writable(s, c))
        (void)stream_arm_write(s, c, 0);
    came = came || (edge && edge_came(w, s, c, take));
    now = came ? session_ready(s, c) & mask : 0;
    if (now & READY_MISSING) /* what has come cannot be had, and is not told yet */
        w->fresh = true;
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

/* The edge outside hears now of what has come without an event, for nobody was waiting for more. */
static void edge_hears(struct watch *w)
{
    struct session *s = w->inner || handle_is_listener(w->handle) ? NULL : session_get(w->handle);
    const struct slot *peer = s ? load_acquire(&session_cache_of(s)->peer) : NULL;
    if (peer)
        watch_again(w, peer);
}

/* It has nothing to tell, or that is told now. */
static void take_off(struct watch *w)
{
    watch_unready(w);
    w->heard = false;
    if (w->more)
        watch_stays(w);
    else if (w->inner)
        w->told = false;
}

/* Watches that have nothing to tell come off its list, up to the first that has; the rest stay where they are, as the
 * kernel has it. `missing`: a session whose bytes have to be fetched before it can be told of. One that has is enough,
 * but for an edge outside: for that the rest is armed, too. */
static bool tells(struct evset *set, int depth, session_handle *missing)
{
    bool all = edge_outside(set, 0), found = false;
    struct watch *end = set->ready_last, *next;
    for (struct watch *w = set->ready_first; w; w = next) {
        next = w->ready_next;
        bool last = w == end;
        if (all)
            edge_hears(w);
        uint32_t events = judge(w, depth, false);
        if (events & ~READY_MISSING) {
            found = true;
            if (!all)
                return true;
        } else if (!found) {
            if (events && missing)
                *missing = w->handle;
            take_off(w);
        }
        if (last)
            break;
    }
    if (found)
        return true;
    for (struct watch *w = set->listeners ? set->all : NULL; w; w = w->set_next) {
        struct listener *l = w->inner || w->spent || !(w->events & READY_IN) ? NULL : listener_get(w->handle);
        if (l && (!(w->events & EPOLLET) || w->told || listener_news(l, w)) && listener_waiting(l)) {
            watch_counts(w, listener_count(l)); /* the sets around hear of it now, not by the pipe */
            return true;
        }
    }
    return false;
}

/* The edge is ours, and what is still ready may be the kernel's. By level the kernel tells of that itself. */
static bool kernel_tells(const struct evset *set)
{
    struct pollfd p = {.fd = set->epfd, .events = POLLIN};
    struct timespec zero = {0};
    return p.fd >= 0 && sys_ppoll(&p, 1, &zero, NULL) > 0;
}

static uint32_t judge(struct watch *w, int depth, bool take)
{
    w->more = false;
    if (w->spent)
        return 0;
    if (w->inner) {
        bool edge = w->events & EPOLLET;
        bool in = (!edge || w->told) && depth < SETS_DEEP && tells(w->inner, depth + 1, NULL);
        w->more = !in && (!edge || w->told) && load_relaxed(&w->inner->ready_first);
        in = in || (edge && w->told && kernel_tells(w->inner));
        return in ? w->events & READY_IN : 0;
    }
    if (!handle_is_listener(w->handle))
        return judge_session(w, take);
    struct listener *l = listener_get(w->handle);
    return l && (listener_maybe(l) || (w->sure && listener_waiting(l))) ? w->events & READY_IN : 0;
}

void watch_judged(struct watch *w, bool heard)
{
    if (w->inner &&
        !tells(w->inner, 1, NULL)) { /* nothing of ours. The kernel has its own edge for what it has */
        watch_stays(w);
        w->told = load_relaxed(&w->inner->ready_first);
        return;
    }
    bool has = !w->set->outer || judge(w, 0, false); /* and arms it */
    if (heard)
        watch_again_by_level(w);
    else if (has)
        watch_ready(w);
    else
        watch_stays(w);
}

/* ---- shared sessions ------------------------------------------------------------------------------------- */

/* Has anything happened to a shared session that is watched for edges? Then it is to be judged, and armed
 * anew, also where there is nothing to tell; once for each time, for who judges it in an inner set notes
 * nothing. */
static bool moved(struct watch *w, const struct session *s, const struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t tail = peer ? slot_tail(peer) : 0, head = peer ? slot_head(peer) : 0;
    uint32_t flags = session_flags(s) & ~SF_ATTENTION;
    bool is = tail != w->looked_tail || head != w->looked_head || flags != w->looked_flags;
    w->looked_tail = tail;
    w->looked_head = head;
    w->looked_flags = flags;
    return is;
}

/* Events of sessions that other processes hold too may have been taken by them: looks at the sessions
 * themselves. */
static void look_at_those(struct evset *set, int depth)
{
    shared_confirm();
    for (struct watch *w = set->all; w; w = w->set_next) { /* links first: that may take any lock */
        if (w->inner && depth < SETS_DEEP)
            look_at_those(w->inner, depth + 1);
        struct session *s = w->inner || handle_is_listener(w->handle) ? NULL : session_get(w->handle);
        if (s && session_flags(s) & SF_SHARED && !session_cache_of(s)->peer)
            session_try_link(s);
    }
    plock_take(&C->watch_lock);
    for (struct watch *w = set->all; w; w = w->set_next) {
        struct session *s =
            w->inner || handle_is_listener(w->handle) || w->spent ? NULL : session_get(w->handle);
        if (!s || !(session_flags(s) & SF_SHARED))
            continue;
        struct session_cache *c = session_cache_of(s);
        bool news = moved(w, s, c);
        if (news && (w->events & EPOLLET || session_ready(s, c) & watch_mask(w)))
            watch_ready(w);
        else if (!(w->events & EPOLLET) && session_ready(s, c) & watch_mask(w))
            watch_stays(w);
    }
    plock_release(&C->watch_lock);
}

void look_at_shared(struct evset *set)
{
    if (load_relaxed(&C->sharing))
        look_at_those(set, 0);
}

/* ---- the answer ------------------------------------------------------------------------------------------ */

#define FETCHES 4

/* Of connections that nobody who sleeps has seen come: a poll looks itself. watch_lock is held. */
static void hear_listeners(struct evset *set, int depth)
{
    for (struct watch *w = set->listeners || set->inner ? set->all : NULL; w; w = w->set_next) {
        if (w->inner && depth < SETS_DEEP)
            hear_listeners(w->inner, depth + 1);
        struct listener *l = w->inner || w->spent || !(w->events & READY_IN) ? NULL : listener_get(w->handle);
        uint32_t arrivals = l && w->set->outer ? listener_count(l) : w->heard_arrivals;
        if ((int32_t)(arrivals - w->heard_arrivals) > 0 && listener_waiting(l))
            watch_counts(w, arrivals);
    }
}

bool evset_ready(struct evset *set)
{
    for (int i = 0;; i++) {
        session_handle missing = 0;
        look_at_shared(set);
        plock_take(&C->watch_lock);
        hear_listeners(set, 0);
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
    look_at_shared(set);
    plock_take(&C->watch_lock);
    set_for_anybody(set, 0);
    hear_listeners(set, 0);
    bool ready = tells(set, 0, NULL) || set->ready_first; /* and arms what is not */
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

/* A set in this one may have the kernel's descriptors and ours: it is told once. Others may have the same data, so it is
 * asked whether that event can be the set's. Of a one-shot the shim drops the second event itself. */
static bool told_by_kernel(const struct watch *w, const struct epoll_event *out, int of_kernel)
{
    for (int i = 0; w->inner && !(w->events & EPOLLONESHOT) && i < of_kernel; i++) {
        if (out[i].data.u64 == w->data &&
            kernel_tells(w->inner)) /* NOLINT(clang-analyzer-*): filled by a raw system call */
            return true;
    }
    return false;
}

/* Edges of sets in this one that the kernel has told: ours are told with them, whether there is room for more or not. */
static void told_with_these(struct evset *set, const struct epoll_event *out, int of_kernel)
{
    struct watch *end = set->ready_last, *next;
    for (struct watch *w = of_kernel ? set->ready_first : NULL; w; w = next) {
        next = w->ready_next;
        bool last = w == end;
        if (w->events & EPOLLET && told_by_kernel(w, out, of_kernel)) {
            (void)judge(w, 0, true); /* arms what is in it */
            take_off(w);
            w->told = w->told && w->more;
        }
        if (last)
            break;
    }
}

int harvest(struct evset *set, struct epoll_event *out, int of_kernel, int max,
            session_handle missing[MISSING_MAX], uint32_t *missed)
{
    int n = of_kernel;
    *missed = 0;
    plock_take(&C->watch_lock);
    if (set->inner)
        told_with_these(set, out, of_kernel);
    struct watch *end = set->ready_last, *w = set->ready_first, *next;
    for (; w && n < max; w = next) {
        next = w->ready_next;
        bool last = w == end;
        if (set->outer)
            edge_hears(w);
        uint32_t events = judge(w, 0, true), tell = events & ~READY_MISSING;
        if (events & READY_MISSING && *missed < MISSING_MAX)
            missing[(*missed)++] = w->handle;
        bool stays = tell && !(w->events & (EPOLLET | EPOLLONESHOT)) &&
                     (!handle_is_listener(w->handle) || aside_waits(w));
        if (!stays) {
            take_off(w);
        } else if (w->ready_next) { /* else it is where it is to be: at the end, for nobody shall starve */
            watch_unready(w);
            watch_stays(w);
        }
        w->heard = w->heard || stays;
        w->told = w->told && w->inner && w->more;
        w->sure = false;
        if (tell) {
            if (w->events & EPOLLONESHOT)
                watch_spend(w);
            if (!told_by_kernel(w, out, of_kernel))
                out[n++] = (struct epoll_event){.events = tell, .data.u64 = w->data};
            const struct listener *l = w->events & EPOLLET && !w->inner ? listener_get(w->handle) : NULL;
            if (l)
                w->seen_arrivals = listener_arrivals(l);
            if (!w->inner && !handle_is_listener(w->handle))
                set->last = w->handle;
        }
        if (last)
            break;
    }
    plock_release(&C->watch_lock);
    return n;
}
