/* evset.c - waiting for many sessions, many listeners, other sets and the kernel's descriptors at once.
 *
 * Theory of operation
 *
 * A wait looks at what the set's watches have to tell (judge.c), spins while that is likely to pay, sleeps for a
 * moment by the clock where it is woken too often for too little (coalesce), and sleeps on the set's wait_ep
 * (sets.c). The kernel's side is looked at every 20 us while spinning, now and then while busy, and before every
 * sleep. The kernel's descriptors in a set that lies in this one wake it in the kernel.
 *
 * watch_lock is never held over a system call that waits.
 */
#include <errno.h>
#include <limits.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/epoll.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/channel.h"
#include "client/crowd.h"
#include "client/events.h"
#include "client/joint.h"
#include "client/judge.h"
#include "client/link.h"
#include "client/listener.h"
#include "client/news.h"
#include "client/offers.h"
#include "client/ready.h"
#include "client/session.h"
#include "client/sets.h"
#include "client/share.h"
#include "client/sleeper.h"
#include "client/spin.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "shm/page.h"
#include "shm/slot.h"

#define KERNEL_BUSY_NS (50 * NS_PER_US)
#define FULL_MAX 2 /* waits in a row that sessions alone have filled */
#define LOOKS_PER_CONFIRM 64
#define NO_DESCRIPTOR_NS NS_PER_MS
#define OWN_EVENTS 16

/* ---- the kernel's side --------------------------------------------------------------------------------- */

/* Those of the program's own descriptors that are ready, straight out of its set. */
static int program_events(struct evset *set, struct epoll_event *out, int max)
{
    struct timespec zero = {0};
    if (set->epfd < 0 || max <= 0)
        return 0;
    long n = epoll_wait_ns(set->epfd, out, max, &zero);
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
    uint32_t arrivals = listener_count(l);
    plock_take(&C->watch_lock);
    for (struct watch *w = l->watches; w; w = w->next) {
        known = known || w->set == set || w->set->outer;
        if (w->events & EPOLLET && !listener_news(l, w))
            continue; /* the pipe is here by level for another */
        if (ready && w->events & READY_IN && (w->set == set || w->set->outer)) {
            w->sure = w->sure || w->set == set;
            watch_counts(w, arrivals);
        }
    }
    if (!known) /* it left with a set that was in this one */
        set_pipe_sync(set, l);
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

/* What wait_ep has, without waiting. `program`: and a look at the program's set, which is not in it. */
static long own_events(const struct evset *set, struct epoll_event ev[OWN_EVENTS], bool program)
{
    struct timespec zero = {0};
    long got = epoll_wait_ns(set->wait_ep, ev, OWN_EVENTS - program, &zero);
    if (program && got >= 0)
        ev[got++].data.u64 = TAG_PROGRAM;
    return got;
}

/* Without waiting. */
static int look_at_kernel(struct evset *set, struct epoll_event *out, int max)
{
    struct epoll_event ev[OWN_EVENTS];
    bool kicked = false;
    set->kernel_looked = clock_now();
    if (!set_ours(set))
        return program_events(set, out, max);
    long got = own_events(set, ev, load_relaxed(&set->beside));
    int n = got > 0 ? sort(set, ev, got, out, max, &kicked) : 0;
    if (!n)
        set->kernel_hot = false;
    if (kicked) {
        sleeper_glance();
        events_poll(true);
    }
    return n;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

struct wait {
    struct evset *set;
    uint32_t life; /* of the set, 0: it has ended */
    struct epoll_event *out;
    int max;
    int of_kernel; /* so many are in `out` */
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
    look_at_shared(set);
    if (load_relaxed(&C->unconfirmed) && ++set->looks % LOOKS_PER_CONFIRM == 0)
        sessions_confirm();
    if (load_relaxed(&C->queued) || load_relaxed(&C->reoffer_at))
        sessions_offer_again();
    if (!load_acquire(&set->ready_first))
        return w->of_kernel;
    int n = harvest(set, w->out, w->of_kernel, w->max, missing, &missed);
    bool here = false;
    for (uint32_t i = 0; n == 0 && i < missed; i++)
        here = fetch_bytes(missing[i]) || here;
    return here ? harvest(set, w->out, 0, w->max, missing, &missed) : n;
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

static void leave(void *arg)
{
    struct wait *w = arg;
    bool others = set_users(w->set) > 1;
    (void)fetch_add_sc(&w->set->sleeping, ~0u);
    arm_off(w->set);
    if (others)
        sleeper_pass_on();
    set_exit(w->set);
}

static void back(void *arg)
{
    struct wait *w = arg;
    if (set_enter(w->set) == w->life)
        (void)fetch_add_sc(&w->set->sleeping, 1u);
    else
        w->life = 0; /* the handler has closed it, and its memory may be another's */
}

/* Several threads sleep on one set: each edge wakes one of them, so whoever is woken sees to it that the next
 * event wakes another. */
static bool several(struct evset *set)
{
    if (set_users(set) < 2)
        return false;
    if (!set->anybody) {
        plock_take(&C->watch_lock);
        set_for_anybody(set, 0);
        plock_release(&C->watch_lock);
    }
    return true;
}

/* The set has ended in the sleep: only what is not its own is looked at. */
static int over(const struct epoll_event *ev, long got)
{
    for (long i = 0; i < got; i++) {
        if (ev[i].data.u64 == TAG_NEWS) /* NOLINT(clang-analyzer-*): filled by a raw system call */
            control_told();
    }
    return -EINTR;
}

/* Count of kernel events, or -errno. */
static int sleep_once(struct wait *w)
{
    struct evset *set = w->set;
    struct epoll_event ev[OWN_EVENTS];
    bool kicked = false, with_others = several(set);
    (void)fetch_add_sc(&set->sleeping, 1u); /* before the look at ready_first: see pass_on */
    arm_on(set);
    int64_t left = sleeper_prepare(&w->sl);
    look_at_shared(set);
    if (load_sc(&set->ready_first))
        left = 0;
    long got;
    bool ours = set_ours(set); /* else by the clock: no descriptor was to be had, or it is its parent's yet */
    if (ours && load_relaxed(&set->beside)) {
        struct pollfd p[] = {{.fd = set->wait_ep, .events = POLLIN}, {.fd = set->epfd, .events = POLLIN}};
        if ((got = sleeper_poll(&w->sl, p, 2, left)) > 0)
            got = w->life ? own_events(set, ev, p[1].revents != 0) : 0;
    } else if (ours) {
        got = sleeper_epoll(&w->sl, set->wait_ep, ev, OWN_EVENTS, left);
    } else {
        struct pollfd p = {.fd = set->epfd, .events = POLLIN};
        got = sleeper_poll(&w->sl, &p, 1, left < 0 || left > NO_DESCRIPTOR_NS ? NO_DESCRIPTOR_NS : left);
        ev[0].data.u64 = TAG_PROGRAM;
    }
    if (!w->life)
        return over(ev, got);
    (void)fetch_add_sc(&set->sleeping, ~0u);
    arm_off(set);
    if (with_others || set_users(set) > 1)
        sleeper_again();
    set->kernel_looked = clock_now();
    if (got < 0)
        return (int)got;
    int n = sort(set, ev, got, w->out, w->max, &kicked);
    if (kicked || left == 0 || !ours) {
        sleeper_glance();
        events_poll(true);
    }
    return n;
}

/* `n` of the kernel's are there. */
static int look_further(struct wait *w, int n)
{
    if (__builtin_expect(n == 0, 1))
        return look(w);
    w->of_kernel = n;
    int all = n < w->max || load_relaxed(&w->set->inner) ? look(w) : n;
    w->of_kernel = 0;
    return all;
}

static int kernel(void *arg)
{
    struct wait *w = arg;
    int n = look_at_kernel(w->set, w->out, w->max);
    bool more = load_relaxed(&w->set->inner) || load_acquire(&w->set->ready_first); /* a listener, perhaps */
    return n > 0 && more ? look_further(w, n) : n;
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

/* ---- coalescing ---------------------------------------------------------------------------------------- */

/* Where more threads want to run than there are CPUs, whoever tells this loop of one event may share its CPU: the
 * loop is woken and preempts him, handles that one event, sleeps, and he goes on: two switches and a write for each
 * message. A loop to which that happens again and again sleeps by the clock instead, unarmed: nobody has to wake it,
 * and it finds what has come until then. Where that gathers nothing (one client of many talks), it becomes seldom.
 *
 * Measured: nginx, wrk and a busy process, each in a scheduling group of its own, on two CPUs: 100,000 requests a
 * second, of 55,000 before, and 7,000 context switches of wrk's a second, of 38,000. */
#define FEW 3 /* events */
#define OFTEN 4
#define VAIN_MOST 5
#define SOON_NS (200 * NS_PER_US)
#define COALESCE_NS (30 * NS_PER_US) /* and the thread's timer slack, 50 us where nobody has changed it */
#define SLACK_MOST_NS (100 * NS_PER_US)
#define SLACK_ASK_NS NS_PER_MS
/* Since the last look at the kernel's side: a wait that coalesces looks. */
#define KERNEL_WAITS_NS (200 * NS_PER_US)
_Static_assert(OFTEN << VAIN_MOST <= UINT8_MAX, "woken_for_few counts so far");

static void coalesce_learn(struct evset *set, int n, int64_t waited)
{
    uint8_t was = load_relaxed(&set->woken_for_few);
    if (n == 0 || n > FEW || waited >= SOON_NS)
        store_relaxed(&set->woken_for_few, (uint8_t)0);
    else if (was < UINT8_MAX)
        store_relaxed(&set->woken_for_few, (uint8_t)(was + 1));
}

/* By the timer slack of whichever of its threads comes by, asked now and then. */
static bool wakes_in_time(struct evset *set, int64_t now)
{
    if (now - load_relaxed(&set->slack_asked) >= SLACK_ASK_NS) {
        store_relaxed(&set->slack_asked, now);
        store_relaxed(&set->wakes_in_time,
                      sys_call(SYS_prctl, (long)PR_GET_TIMERSLACK, 0L, 0L, 0L) <= SLACK_MOST_NS);
    }
    return load_relaxed(&set->wakes_in_time);
}

static bool coalesce_pays(const struct wait *w, int64_t began)
{
    const struct evset *set = w->set;
    return load_relaxed(&set->woken_for_few) >= OFTEN << load_relaxed(&set->vain_coalesced) && !w->sl.mask &&
           w->max > 1 && load_relaxed(&set->count) > FEW && w->sl.deadline - began >= SOON_NS &&
           outnumbered_lately(began) && !sleep_signalled(&w->sl.mark) && wakes_in_time(w->set, began);
}

static int coalesce(struct wait *w)
{
    struct evset *set = w->set;
    struct timespec ts = clock_timespec(COALESCE_NS);
    (void)sys_call(SYS_nanosleep, &ts, NULL, 0L, 0L);
    int of_kernel = 0;
    if (set->kernel_hot || clock_now() - set->kernel_looked >= KERNEL_WAITS_NS)
        of_kernel = look_at_kernel(set, w->out, (w->max + 1) / 2);
    int n = look_further(w, of_kernel);
    uint8_t vain = load_relaxed(&set->vain_coalesced);
    if (n - of_kernel > 1) {
        store_relaxed(&set->vain_coalesced, (uint8_t)0);
    } else {
        store_relaxed(&set->woken_for_few, (uint8_t)0);
        store_relaxed(&set->vain_coalesced, (uint8_t)(vain < VAIN_MOST ? vain + 1 : vain));
    }
    return n;
}

/* ---- the wait ------------------------------------------------------------------------------------------ */

/* Before the sessions: now and then, and where there is something of them to tell and both worlds are wanted at once.
 * A set in this one may have of both, and an edge of it is told once for what has come in both. */
static bool looks_first(struct evset *set, bool waits)
{
    if (++set->rounds % 8 == 0 && clock_now() - set->kernel_looked > KERNEL_BUSY_NS)
        return true;
    if (waits && !set->kernel_hot && !load_relaxed(&set->inner))
        return false;
    events_poll(false);
    return load_acquire(&set->ready_first) != NULL;
}

static int wait_held(struct wait *w)
{
    struct evset *set = w->set;
    bool waits = w->sl.deadline != 0;
    int n = set_wire(set);
    if (n)
        return n;
    set_cpu_publish(w);
    if (load_relaxed(
            &C->unheard)) /* nobody else tells the set of their bytes, and it may not come to sleep */
        sessions_confirm();
    arm_off(set); /* the last wait left it armed for evset_fd */
    bool crowded_out = set->full >= FULL_MAX,
         looked = crowded_out || (!set->kernel_full && looks_first(set, waits));
    if (looked)
        n = look_at_kernel(set, w->out,
                           load_relaxed(&set->inner)
                               ? w->max
                               : (w->max + 1) / 2); /* sessions that are always ready shall not hide it */
    set->kernel_full = n == w->max;
    if ((n = look_further(w, n)) > 0) {
        set->full = n == w->max && !crowded_out ? set->full + 1 : 0;
        if ((!waits || set->kernel_hot) && n < w->max && !looked && !load_relaxed(&set->inner))
            n += look_at_kernel(set, w->out + n, w->max - n); /* both worlds at once */
        return n;
    }
    if (set->kernel_hot && !looked) {
        n = set_has_pipes(set) ? look_at_kernel(set, w->out, w->max) : program_events(set, w->out, w->max);
        if (n > 0) {
            events_poll(true);
            return look_further(w, n);
        }
    }
    int64_t began = waits ? clock_now() : 0;
    channel_rearm();
    if (waits && (n = spin(w, began)) > 0) {
        spin_learn(&set->vain, 0);
        return n;
    }
    if (waits && coalesce_pays(w, began)) {
        if ((n = coalesce(w)) > 0)
            return n;
        began = clock_now();
    }
    do {
        if (sleep_signalled(&w->sl.mark))
            return BERTH_E_INTERRUPTED;
        if (joint_wait_begins())
            return BERTH_E_BUSY;
        if ((n = set_wire(set)) != 0)
            return n;
        int of_kernel = n = sleep_once(w);
        if (n == -EINTR)
            return BERTH_E_INTERRUPTED;
        if (n < 0)
            return BERTH_E_INVALID;
        /* The kernel tells those around a set one after the other: who was woken through another one may come to
         * ask before wait_ep has been told. */
        if (n == 0 && !waits && load_relaxed(&set->anybody))
            of_kernel = n = program_events(set, w->out, w->max);
        if ((n = look_further(w, n)) > 0) {
            if (waits) {
                int64_t waited = clock_now() - began;
                spin_learn(&set->vain, waited);
                coalesce_learn(set, n - of_kernel, waited);
            }
            return n;
        }
    } while (!sleeper_over(&w->sl));
    if (waits)
        coalesce_learn(set, 0, 0);
    if (!waits && load_relaxed(&C->unmet.first)) {
        acceptors_ask();
        if ((n = look(w)) > 0)
            return n;
    }
    if (set->epfd < 0) { /* leaves it armed: the program may wait on evset_fd */
        arm_on(set);
        sleeper_again();
    }
    return 0;
}

/* There is more than this wait has taken, and threads sleep that could take it. As the kernel does it. */
static void pass_on(struct evset *set)
{
    if (load_sc(&set->ready_first) && load_sc(&set->sleeping))
        own_kick();
}

int evset_wait(struct evset *set, struct epoll_event *out, int max, int64_t deadline, const sigset_t *mask,
               const struct sleep_mark *mark)
{
    if (max <= 0 || !out)
        return BERTH_E_INVALID;
    struct wait w = {.set = set, .out = out, .max = max};
    w.sl = (struct sleeper){.mark = mark ? *mark : sleep_mark_now(),
                            .deadline = deadline,
                            .mask = mask,
                            .leave = leave,
                            .back = back,
                            .arg = &w};
    int n = BERTH_E_BAD_HANDLE;
    hold_begin();
    if ((w.life = set_enter(set)) != 0)
        n = wait_held(&w);
    if (n > 0 && w.life && set_users(set) > 1)
        pass_on(set);
    set_exit(set);
    hold_end();
    return n;
}
