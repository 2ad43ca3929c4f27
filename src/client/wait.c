/* wait.c - waiting for one session: spin while it is likely to be short, then sleep where only the peer can wake us.
 *
 * Theory of operation
 *
 * Waking a sleeper costs 50 to 100 microseconds, so a thread that waits first watches the peer's cache line for the spin
 * budget. It does not when that could only delay others: when there is one CPU, or when spinning has been in vain of late: where the last waits all outlasted the budget,
 * the next one sleeps at once, and it goes on so until one turns out to be shorter than the budget. A spin in vain costs more than its
 * CPU time: it keeps the two sides on two CPUs, and a CPU that has gone idle a moment ago is the slowest to be woken (a guest's:
 * 17 us for the interrupt and 12 for the switch, by sched_waking, sched_wakeup and sched_switch), where a reader that sleeps
 * from the beginning is mostly woken on the writer's CPU, in 4 us.
 *
 * Where the peer last ran on our CPU (both sides publish where they run), spinning would keep it from running. If the two are
 * all that wants to run, the spinner gives the CPU away between two looks (sched_yield): two switches for a round trip instead of
 * two wakes, and, as both then always want to run, the kernel soon moves one to the CPU that is idle. If more want to run,
 * the thread sleeps: a stranger might take the CPU for milliseconds.
 *
 * To sleep, the thread sets its `want` with the futex flag, looks once more, and sleeps on the low half of the peer's
 * counter. The kernel compares that word with what was seen, so a store between look and sleep cannot be missed;
 * the peer wakes the word's sleepers when its counter passes `want`. No descriptor, no waiter word, nobody else is woken.
 *
 * A session whose acceptor is not known yet has no such word; then the thread waits as client_poll does, on the worker's
 * kick and the control socket.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/sys.h"
#include "client/internal.h"

#define LOOKS_PER_CLOCK 32
#define LOOK_ALIVE_NS (100 * NS_PER_MS)
#define SLEEP_MAX_NS (1000 * NS_PER_MS) /* a belt: nothing relies on it */

uint32_t cpu_here(void)
{
    int cpu = sched_getcpu(); /* reads rseq's word: no system call */
    return cpu < 0 || cpu > 253 ? 0 : (uint32_t)cpu + 1;
}

static uint32_t peer_cpu(const struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    const struct peer_box *box = load_relaxed(&c->box);
    uint32_t cpu = peer ? load_relaxed(&peer->cpu) : 0;
    if (cpu || !peer || !box)
        return cpu;
    uint32_t waiter = load_relaxed(&peer->waiter) % WAITERS_MAX;
    return load_relaxed(&box->worker->page->waiter[waiter].cpu);
}

int64_t spin_budget(const struct session_cache *c, int64_t now, bool *stacked)
{
    *stacked = false;
    if (C->cpus < 2)
        return 0;
    if (c) {
        uint32_t theirs = peer_cpu(c);
        *stacked = theirs && theirs == cpu_here();
    }
    return *stacked && !alone_lately(now) ? 0 : C->spin_ns;
}

void spin_pause(bool stacked)
{
    if (stacked)
        (void)sys_call(SYS_sched_yield, 0, 0, 0, 0);
    else
        cpu_relax();
}

void cpu_publish(struct slot *own)
{
    uint8_t cpu = (uint8_t)cpu_here();
    if (load_relaxed(&own->cpu) != cpu)
        store_relaxed(&own->cpu, cpu);
}

#define VAIN_MAX                                                                                                   \
    4 /* waits in a row; arrivals at random, one in a budget on average, then still mostly meet a spinner */

bool spin_pays(const uint8_t *vain)
{
    return load_relaxed(vain) < VAIN_MAX;
}

void spin_learn(uint8_t *vain, int64_t waited_ns)
{
    uint8_t n = load_relaxed(vain);
    if (waited_ns <= C->spin_ns) {
        if (n)
            store_relaxed(vain, 0);
    } else if (n < VAIN_MAX) {
        store_relaxed(vain, n + 1);
    }
}

struct timespec *timespec_of(int64_t ns, struct timespec *ts)
{
    if (ns < 0)
        return NULL;
    ts->tv_sec = (time_t)(ns / NS_PER_SEC);
    ts->tv_nsec = (long)(ns % NS_PER_SEC);
    return ts;
}

int64_t wait_cap(int64_t deadline)
{
    int64_t left = -1;
    if (deadline != DEADLINE_NEVER) {
        left = deadline - clock_now();
        if (left < 0)
            left = 0;
    }
    if (C->daemon_lost && load_relaxed(&C->workers) && (left < 0 || left > LOOK_ALIVE_NS))
        left = LOOK_ALIVE_NS; /* then nobody tells us that a peer has died */
    int64_t reoffer = load_relaxed(&C->reoffer_at);
    if (load_relaxed(&C->unconfirmed) != 0 || load_relaxed(&C->queued) || reoffer ||
        load_relaxed(&C->inherited_unconfirmed)) {
        /* a connector that has not heard of us cannot wake us: look each millisecond, ever more seldom */
        static __thread int64_t pause_ns;
        pause_ns = pause_ns < NS_PER_MS ? NS_PER_MS : pause_ns < 64 * NS_PER_MS ? pause_ns * 2 : pause_ns;
        if (left < 0 || left > pause_ns)
            left = pause_ns;
    }
    int64_t retry = control_retry_at();
    if (retry) {
        int64_t pause = retry - clock_now();
        if (left < 0 || left > pause)
            left = pause < 0 ? 0 : pause;
    }
    if ((load_relaxed(&C->box_graves) || load_relaxed(&C->own_graves)) && (left < 0 || left > GRAVE_NS / 4))
        left = GRAVE_NS / 4; /* then perhaps their memory may go */
    return left;
}

/* ---- sleeping on the kick --------------------------------------------------------------------------------- */

/* Each sleeper needs an epoll set of its own while it sleeps. Threads end without a word, so the sets are the process's:
 * who is done leaves his for the next. An entry is 0 or the descriptor + 1, with EP_USED while somebody has it. */
#define EPS_KEPT 64u
#define EP_USED (1u << 31)

static uint32_t eps[EPS_KEPT];

static int ep_make(void)
{
    int ep = own_epoll();
    if (ep < 0)
        return BERTH_E_NO_MEMORY;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u32 = 0};
    (void)sys_epoll_ctl(ep, EPOLL_CTL_ADD, C->kick_fd, &ev);
    kicks_watch(ep, 0);
    ev.events = EPOLLIN;
    (void)sys_epoll_ctl(ep, EPOLL_CTL_ADD, C->ctl, &ev);
    return ep;
}

int ep_take(void)
{
    for (uint32_t i = 0; i < EPS_KEPT; i++) {
        uint32_t is = load_relaxed(&eps[i]);
        if (is && !(is & EP_USED) && compare_exchange_sc(&eps[i], &is, is | EP_USED))
            return (int)(is - 1);
    }
    int ep = ep_make();
    for (uint32_t i = 0; ep >= 0 && i < EPS_KEPT; i++) {
        uint32_t none = 0;
        if (!load_relaxed(&eps[i]) && compare_exchange_sc(&eps[i], &none, ((uint32_t)ep + 1) | EP_USED))
            break;
    }
    return ep;
}

void ep_give(int ep)
{
    for (uint32_t i = 0; i < EPS_KEPT; i++) {
        if (load_relaxed(&eps[i]) == (((uint32_t)ep + 1) | EP_USED)) {
            store_release(&eps[i], (uint32_t)ep + 1);
            return;
        }
    }
    own_fd_close(ep);
}

/* When nobody sleeps: at the end, and in a forked child, where they are the parent's. */
void eps_close(void)
{
    for (uint32_t i = 0; i < EPS_KEPT; i++) {
        uint32_t is = exchange_sc(&eps[i], 0u);
        if (is)
            own_fd_close((int)((is & ~EP_USED) - 1));
    }
}

void waiter_any_asleep(void)
{
    uint32_t arm = fetch_add_sc(&C->family->any_arm, 2) + 2;
    store_sc(&C->page->waiter[WAITER_ANY].arm, arm); /* always odd; another thread's later value is as good */
    for (uint32_t i = 0; i < C->ancestors; i++)
        store_sc(&C->ancestor[i].page->waiter[WAITER_ANY].arm, arm);
}

static int wait_poll(session_handle h, uint32_t events, int64_t deadline)
{
    struct client_poll_item item = {.handle = h, .events = events};
    int64_t left = deadline == DEADLINE_NEVER ? -1 : deadline - clock_now();
    int n = client_poll(&item, 1, NULL, 0, deadline != DEADLINE_NEVER && left < 0 ? 0 : left, NULL);
    return n > 0 ? 0 : n == 0 ? BERTH_E_TIMED_OUT : n;
}

/* ---- sleeping on the peer's counter ------------------------------------------------------------------------ */

static bool ready_for(struct session *s, struct session_cache *c, uint32_t events)
{
    const struct slot *peer = load_acquire(&c->peer);
    return (events & EPOLLIN && stream_readable(s, c)) || (events & EPOLLOUT && stream_writable(s, c)) ||
           (peer && events & EPOLLOUT && slot_head(peer) & COUNT_FLAG);
}

static int spin(struct session *s, struct session_cache *c, uint32_t events, int64_t now, int64_t deadline)
{
    bool stacked;
    int64_t budget = spin_budget(c, now, &stacked);
    if (budget <= 0)
        return BERTH_E_WOULD_BLOCK;
    int64_t end = now + budget;
    if (end > deadline)
        end = deadline;
    for (;;) {
        for (int i = 0; i < (stacked ? 1 : LOOKS_PER_CLOCK); i++) {
            if (ready_for(s, c, events))
                return 0;
            spin_pause(stacked);
        }
        now = clock_now();
        if (stacked)
            cpu_publish(c->own);
        if (now > end || spin_budget(c, now, &stacked) == 0)
            return BERTH_E_WOULD_BLOCK;
    }
}

/* One sleep. Both directions at once cannot be slept for this way: client_wait asks for one. */
static long sleep_once(struct session *s, struct session_cache *c, uint32_t events, int64_t deadline)
{
    struct timespec ts;
    const uint32_t *word;
    uint64_t seen;
    bool armed;
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer)
        return 0; /* closed by another thread this moment */
    if (events & EPOLLIN) {
        word = slot_tail_futex(peer);
        seen = slot_tail(peer);
        armed = stream_arm_read(s, c, COUNT_FLAG, false);
    } else {
        word = slot_head_futex(peer);
        seen = slot_head(peer);
        armed = stream_arm_write(s, c, COUNT_FLAG);
    }
    long ret = 0;
    if (armed && !(load_sc(&s->flags) & SF_SHARED)) { /* else forked a moment ago */
        int64_t left = wait_cap(deadline);
        if (left < 0 || left > SLEEP_MAX_NS)
            left = SLEEP_MAX_NS;
        ret = sys_futex_wait(word, (uint32_t)seen, timespec_of(left, &ts));
    }
    return ret; /* the mark stays: others may sleep by it, and at worst the peer makes one call to wake nobody */
}

int client_wait(session_handle h, uint32_t events, int64_t deadline)
{
    int64_t began = 0;
    for (;;) {
        struct session *s = session_get(h);
        if (!s)
            return BERTH_E_BAD_HANDLE;
        struct session_cache *c = session_cache_of(s);
        uint8_t *vain = events & EPOLLIN ? &c->vain_read : &c->vain_write;
        if (ready_for(s, c, events)) {
            if (began)
                spin_learn(vain, clock_now() - began);
            return 0;
        }
        if (!load_acquire(&c->peer))
            session_try_link(s);
        if (events & EPOLLIN && stream_segment_missing(s, c)) {
            int err = stream_segment_wait(c);
            if (err)
                return err;
            continue;
        }
        /* `want` is one word: where an event set, a poll or another process may set it too, nobody sleeps by futex */
        if (!load_acquire(&c->peer) || (events & (EPOLLIN | EPOLLOUT)) == (EPOLLIN | EPOLLOUT) ||
            load_acquire(&c->watches) || load_relaxed(&c->pollers) ||
            load_relaxed(&s->flags) & (SF_SHARED | SF_TENTATIVE))
            return wait_poll(h, events, deadline);
        cpu_publish(c->own);
        if (!began) { /* the first time round */
            began = clock_now();
            if (spin_pays(vain) && spin(s, c, events, began, deadline) == 0) {
                spin_learn(vain, 0);
                return 0;
            }
        }
        if (deadline != DEADLINE_NEVER && clock_now() >= deadline)
            return BERTH_E_TIMED_OUT;
        stream_flush_head(s, false);
        sessions_settle();
        long ret = sleep_once(s, c, events, deadline);
        if (c->watches && session_get(h)) /* an event set has come to wait for it */
            watches_ready(c);
        if (ret == -EINTR)
            return BERTH_E_INTERRUPTED;
        if ((ret == 0 || ret == -ETIMEDOUT) && !ready_for(s, c, events))
            control_poll(); /* the peer may have died: its word was woken, not changed */
    }
}
