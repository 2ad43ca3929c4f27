/* sleeper.c - the one place where threads of the process go to sleep.
 *
 * Theory of operation
 *
 * What a thread waits for wakes it: a word of its peer, or its bell and descriptors of the program. But some
 * things concern the process and not this or that thread: a peer has died, a segment has come, the daemon has
 * ended, memory may be given back. Somebody must hear of them even if all threads are blocked, and no thread
 * may wake now and then to see. So while any thread sleeps, at least one of them *listens*: it sleeps on
 * everything, works off what comes, and wakes whom it concerns.
 *
 *   - Who sleeps on descriptors listens: in its set is the *inner set* (vigil.c), which has the control
 *     socket and the bells of those we were forked from, and when the daemon has died the deaths of our
 *     peers. Without a daemon everybody sleeps so.
 *   - Who sleeps on words *naps*, if somebody listens: it is woken for its own session alone. Else it takes
 *     the listener's place, and sleeps on two words more: the daemon's news, which move when it has sent
 *     something, and its life (session/directory.h).
 *   - The last listener that wakes up while others nap moves `attention`, on which they sleep too, and wakes
 *     one, which takes its place. A napper is counted before it looks whether somebody listens, and the
 *     listener goes before it looks whether somebody naps: one of the two sees the other.
 *
 * News are emptied before anybody looks: the news word is read, then the socket is emptied, then sessions are
 * looked at, then the thread sleeps on the news word as it was read. What comes in between has moved the
 * word. The word moves after the message was sent: so whoever takes an edge of the inner set must empty the
 * socket, whatever the word says.
 *
 * To sleep on five words costs two microseconds more than to sleep on one. So for its first DOZE_NS a thread
 * that sleeps on words dozes: it sleeps on the peer's word alone, and listens to nobody. Waits of that length
 * never pay; who waits longer hears of deaths that late.
 *
 * A kernel that knows no futex_waitv (before 5.16, or a seccomp filter): everybody sleeps on descriptors.
 */
#include "client/sleeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/epoll.h"
#include "base/memory.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/fds.h"
#include "client/lost.h"
#include "client/news.h"
#include "client/peer.h"
#include "client/upkeep.h"
#include "client/vigil.h"
#include "client/watch.h"
#include "shm/page.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* For an answer of the daemon, which takes a twentieth of a millisecond; on a machine that is busy it has to
 * wait for a CPU first. One that is stopped costs this once: then it counts as slow until it moves. */
#define PATIENCE_NS (100 * NS_PER_MS)

/* ---- news ---------------------------------------------------------------------------------------------- */

bool sleeper_news(void)
{
    return control_news();
}

void sleeper_glance(void)
{
    if (sleeper_news() || control_pushes())
        control_poll();
}

bool fetch_wait(bool (*here)(void *arg), void *arg)
{
    if (here(arg))
        return true;
    if (C->daemon_lost || daemon_is_slow())
        return false;
    hold_begin();
    int ep = ep_take();
    bool is = false;
    for (int64_t end = clock_now() + PATIENCE_NS;;) {
        struct epoll_event ev[4];
        struct timespec ts;
        control_poll();
        if ((is = here(arg)))
            break;
        int64_t left = end - clock_now();
        if (left <= 0 || C->daemon_lost)
            break;
        if (ep >= 0) {
            (void)epoll_wait_ns(ep, ev, 4, timespec_of(left, &ts));
        } else {
            struct pollfd p = {.fd = C->ctl, .events = POLLIN};
            (void)sys_ppoll(&p, 1, timespec_of(left, &ts), NULL);
        }
    }
    ep_give(ep);
    hold_end();
    if (!is)
        daemon_was_slow();
    return is;
}

/* ---- before a sleep ------------------------------------------------------------------------------------ */

struct timespec *timespec_of(int64_t ns, struct timespec *ts)
{
    if (ns < 0)
        return NULL;
    ts->tv_sec = (time_t)(ns / NS_PER_SEC);
    ts->tv_nsec = (long)(ns % NS_PER_SEC);
    return ts;
}

static void not_beyond(int64_t *left, int64_t most)
{
    if (*left < 0 || *left > most)
        *left = most < 0 ? 0 : most;
}

/* ns until somebody must see to something that nobody tells of; -1: nothing. */
int64_t wait_cap(int64_t deadline)
{
    int64_t left = -1;
    if (deadline != DEADLINE_NEVER)
        not_beyond(&left, deadline - clock_now());
    if (load_relaxed(&C->unwatched))
        not_beyond(&left, ALIVE_NS); /* then nobody tells us that one of them has died */
    if (load_relaxed(&C->unheard) || load_relaxed(&C->queued) || load_relaxed(&C->reoffer_at) ||
        load_relaxed(&C->inherited_unheard) || load_relaxed(&C->homeward) || load_relaxed(&C->arriving) ||
        control_unsent()) {
        /* a connector that has not heard of us cannot wake us: look each millisecond, ever more seldom; the
         * same for a full queue, a listener's or the daemon's */
        static __thread int64_t pause_ns;
        pause_ns = pause_ns < NS_PER_MS ? NS_PER_MS : pause_ns < 64 * NS_PER_MS ? pause_ns * 2 : pause_ns;
        not_beyond(&left, pause_ns);
    }
    int64_t retry = control_retry_at();
    if (retry)
        not_beyond(&left, retry - clock_now());
    if (load_relaxed(&C->box_graves) || load_relaxed(&C->own_graves))
        not_beyond(&left, GRAVE_NS / 4); /* then perhaps their memory may go */
    return left;
}

static void any_asleep(void)
{
    uint32_t arm = family_next_arm(C->family);
    /* always odd; another thread's later value is as good */
    waiter_arm_as(&C->page->waiter[WAITER_ANY], arm);
    for (uint32_t i = 0; i < load_acquire(&C->ancestors); i++)
        waiter_arm_as(&C->ancestor[i].page->waiter[WAITER_ANY], arm);
}

int64_t sleeper_prepare(const struct sleeper *sl)
{
    sessions_settle();
    control_flush();
    any_asleep();
    if (events_waiting() || control_pushes() || sleeper_news())
        return 0;
    return wait_cap(sl->deadline);
}

/* The same for who sleeps on words: nobody kicks it. */
static int64_t prepare_words(const struct sleeper *sl)
{
    sessions_settle();
    control_flush();
    return control_pushes() || sleeper_news() ? 0 : wait_cap(sl->deadline);
}

void sleeper_again(void)
{
    any_asleep();
    if (events_waiting())
        own_kick();
}

void sleeper_pass_on(void)
{
    control_told();
    sleeper_again();
    own_kick();
}

bool sleeper_over(const struct sleeper *sl)
{
    return sl->deadline != DEADLINE_NEVER && clock_now() >= sl->deadline;
}

/* ---- who listens --------------------------------------------------------------------------------------- */

static void pass_place_on(void)
{
    (void)fetch_add_sc(&C->attention, 1u);
    (void)sys_call(SYS_futex, &C->attention, (long)FUTEX_WAKE_PRIVATE, 1L, 0);
}

static bool listener_comes(void)
{
    uint32_t nobody = 0;
    return compare_exchange_sc(&C->listening, &nobody, 1u);
}

static void listener_goes(void)
{
    if (fetch_add_sc(&C->listening, ~0u) == 1 && load_sc(&C->napping))
        pass_place_on();
}

/* It may have been chosen to take the listener's place, and go to something else instead: then another one
 * is. */
static void napper_goes(void)
{
    if (fetch_add_sc(&C->napping, ~0u) != 1 && !load_sc(&C->listening))
        pass_place_on();
}

/* ---- sleeping ------------------------------------------------------------------------------------------ */

/* One sleep, and what its thread is counted for meanwhile. */
struct sleeping {
    struct sleep_place place; /* first */
    struct sleeper *sl;
    uint32_t *among; /* C->listening, C->napping, NULL: neither */
    bool left;
};

static void goes(const struct sleeping *me)
{
    if (me->among == &C->listening)
        listener_goes();
    else if (me->among)
        napper_goes();
}

static void leave(struct sleep_place *place)
{
    struct sleeping *me = (struct sleeping *)place;
    me->left = true;
    goes(me);
    if (me->sl->leave)
        me->sl->leave(me->sl->arg);
}

/* Its sleep is over, and it is about to go: it is counted only so that it can. */
static void back(struct sleep_place *place)
{
    struct sleeping *me = (struct sleeping *)place;
    if (me->sl->back)
        me->sl->back(me->sl->arg);
    if (me->among)
        (void)fetch_add_sc(me->among, 1u);
    me->left = false;
}

static void cancelled(void *arg)
{
    struct sleeping *me = arg;
    berth_place = NULL;
    sleep_mask_end();
    if (!me->left) /* a handler that runs has left already */
        leave(&me->place);
}

/* The thread is counted already, if it is to be. */
static long asleep(struct sleeper *sl, uint32_t *among, long call, long a, long b, long c, long d, long e,
                   long f)
{
    struct sleeping me = {.place = {leave, back}, .sl = sl, .among = among};
    uint32_t depth;
    long ret;
    sleep_mask_begin(sl->mask);
    berth_place = &me.place;
    fence_compiler();                 /* before handlers may run */
    bool put_off = hold_open(&depth); /* one that ended the thread has left already */
    pthread_cleanup_push(cancelled, &me);
    ret = put_off ? -EINTR : sys_sleep6(&sl->mark, call, a, b, c, d, e, f);
    pthread_cleanup_pop(0);
    hold_close(depth);
    berth_place = NULL;
    sleep_mask_end();
    goes(&me);
    return ret;
}

/* A system call that sleeps on descriptors, as a listener. */
static long listen_on(struct sleeper *sl, long call, long a, long b, long c, long d, long e, long f)
{
    (void)fetch_add_sc(&C->listening, 1u);
    return asleep(sl, &C->listening, call, a, b, c, d, e, f);
}

long sleeper_epoll(struct sleeper *sl, int ep, struct epoll_event *ev, int max, int64_t ns)
{
    struct timespec ts, *timeout = timespec_of(ns, &ts);
    long n = -ENOSYS;
    if (!epoll_is_coarse())
        n = listen_on(sl, SYS_epoll_pwait2, ep, sys_arg(ev), max, sys_arg(timeout), sys_arg(sl->mask), 8);
    if (n != -ENOSYS)
        return n;
    epoll_set_coarse();
    return listen_on(sl, SYS_epoll_pwait, ep, sys_arg(ev), max, epoll_ms(timeout), sys_arg(sl->mask), 8);
}

long sleeper_poll(struct sleeper *sl, struct pollfd *fds, int n, int64_t ns)
{
    struct timespec ts;
    return listen_on(sl, SYS_ppoll, sys_arg(fds), n, sys_arg(timespec_of(ns, &ts)), sys_arg(sl->mask), 8, 0);
}

struct futex_waitv sleeper_word(const uint32_t *word, uint32_t is, bool shared)
{
    return (struct futex_waitv){
        .val = is, .uaddr = (uintptr_t)word, .flags = FUTEX_32 | (shared ? 0 : FUTEX_PRIVATE_FLAG)};
}

/* until: a moment, not a time; NULL: for ever. */
static long words(struct sleeper *sl, uint32_t *among, struct futex_waitv *v, int n, struct timespec *until)
{
    return asleep(sl, among, SYS_futex_waitv, sys_arg(v), n, 0, sys_arg(until), CLOCK_MONOTONIC, 0);
}

static struct timespec *moment(int64_t ns, struct timespec *ts)
{
    return timespec_of(ns < 0 ? -1 : clock_now() + ns, ts);
}

/* Counted as napping. */
static long nap(struct sleeper *sl, struct futex_waitv *v, int n)
{
    struct timespec ts;
    int64_t ns = -1;
    if (sl->deadline != DEADLINE_NEVER)
        not_beyond(&ns, sl->deadline - clock_now());
    return words(sl, &C->napping, v, n, moment(ns, &ts));
}

/* Counted as listening. Is there something to do before it sleeps? */
static bool busy_listener(const struct sleeper *sl, int64_t *ns)
{
    bool lives = directory_lives(C->dir) && !C->daemon_lost;
    if (lives && (*ns = prepare_words(sl)) != 0)
        return false;
    control_poll();
    return true;
}

static long listen_and_nap(struct sleeper *sl, struct futex_waitv *v, int n)
{
    const uint32_t *news = directory_news(C->dir, load_relaxed(&C->worker)), *life = directory_life(C->dir);
    int64_t ns = 0;
    v[n++] = sleeper_word(life, directory_life_now(C->dir), true);
    v[n++] = sleeper_word(news, directory_news_now(C->dir, load_relaxed(&C->worker)), true);
    if (busy_listener(sl, &ns)) {
        listener_goes();
        return -EAGAIN;
    }
    struct timespec ts;
    long ret = words(sl, &C->listening, v, n, moment(ns, &ts));
    if (!directory_lives(C->dir)) /* it woke one, who wakes the others */
        (void)sys_futex_wake(life, (long)INT_MAX);
    return ret;
}

long sleeper_doze(struct sleeper *sl, const uint32_t *word, uint32_t is, int64_t ns)
{
    struct timespec ts;
    int64_t due = prepare_words(sl);
    not_beyond(&ns, due < 0 ? ns : due);
    return asleep(sl, NULL, SYS_futex, sys_arg(word), 0 /* FUTEX_WAIT, shared */, (long)is,
                  sys_arg(timespec_of(ns, &ts)), 0, 0);
}

long sleeper_words(struct sleeper *sl, struct futex_waitv *v, int n)
{
    uint32_t attention = load_acquire(&C->attention);
    v[n++] = sleeper_word(&C->attention, attention, false);
    if (listener_comes())
        return listen_and_nap(sl, v, n);
    (void)fetch_add_sc(&C->napping, 1u);
    if (load_sc(&C->listening))
        return nap(sl, v, n);
    napper_goes();
    return -EAGAIN;
}

bool sleeper_has_words(void)
{
    static uint8_t has; /* 1: yes, 2: no */
    uint8_t is = load_relaxed(&has);
    if (!is) {
        uint32_t word = 0;
        struct futex_waitv v = sleeper_word(&word, 1, false);
        is = sys_call6(SYS_futex_waitv, sys_arg(&v), 1, 0, 0, 0, 0) == -EAGAIN ? 1 : 2;
        store_relaxed(&has, is);
    }
    return is == 1;
}

/* ---- sets to sleep on ---------------------------------------------------------------------------------- */

bool sleeper_wire(int ep, uint64_t bell, uint64_t inner)
{
    struct epoll_event ring = {.events = EPOLLIN | EPOLLET, .data.u64 = bell};
    struct epoll_event news = {.events = EPOLLIN | EPOLLET, .data.u64 = inner};
    int fd = inner_set();
    return fd >= 0 && sys_epoll_ctl(ep, EPOLL_CTL_ADD, C->bell_fd, &ring) == 0 &&
           sys_epoll_ctl(ep, EPOLL_CTL_ADD, fd, &news) == 0;
}

void ep_empty(int ep)
{
    struct epoll_event ev[8];
    struct timespec zero = {0};
    long n = ep < 0 ? 0 : epoll_wait_ns(ep, ev, 8, &zero);
    for (long i = 0; i < n; i++) {
        if (ev[i].data.u64 == EP_INNER) /* NOLINT(clang-analyzer-*): filled by a raw system call */
            control_told();
    }
    if (ep < 0 && C->daemon_lost)
        control_poll(); /* nothing else tells of a death */
}

/* Each sleeper needs an epoll set of its own while it sleeps. Threads end without a word, so the sets are the
 * process's: who is done leaves his for the next. An entry is 0 or the descriptor + 1, with EP_USED while
 * somebody has it. */
#define EPS_KEPT 64u
#define EP_USED (1u << 31)

static uint32_t eps[EPS_KEPT];

int ep_take(void)
{
    if (load_acquire(&C->forked))
        return -1; /* a child that has not said hello: it gets another bell, and its parent's comes into the inner set */
    for (uint32_t i = 0; i < EPS_KEPT; i++) {
        uint32_t is = load_relaxed(&eps[i]);
        if (is && !(is & EP_USED) && compare_exchange_sc(&eps[i], &is, is | EP_USED))
            return (int)(is - 1);
    }
    int ep = own_epoll();
    if (ep >= 0 && !sleeper_wire(ep, 0, EP_INNER)) {
        own_fd_close(ep);
        ep = -1;
    }
    for (uint32_t i = 0; ep >= 0 && i < EPS_KEPT; i++) {
        uint32_t none = 0;
        if (!load_relaxed(&eps[i]) && compare_exchange_sc(&eps[i], &none, ((uint32_t)ep + 1) | EP_USED))
            break;
    }
    return ep;
}

void ep_give(int ep)
{
    for (uint32_t i = 0; ep >= 0 && i < EPS_KEPT; i++) {
        if (load_relaxed(&eps[i]) == (((uint32_t)ep + 1) | EP_USED)) {
            store_release(&eps[i], (uint32_t)ep + 1);
            return;
        }
    }
    own_fd_close(ep);
}

/* Who sleeps there closes his set himself, as one that is not kept. */
void sleepers_anew(void)
{
    for (uint32_t i = 0; i < EPS_KEPT; i++) {
        uint32_t is = exchange_sc(&eps[i], 0u);
        if (is && !(is & EP_USED))
            own_fd_close((int)is - 1);
    }
    inner_close();
    (void)fetch_add_sc(&C->attention, 1u);
    (void)sys_call(SYS_futex, &C->attention, (long)FUTEX_WAKE_PRIVATE, (long)INT_MAX, 0);
}

FORK_CODE void eps_close(void)
{
    for (uint32_t i = 0; i < EPS_KEPT; i++) {
        uint32_t is = exchange_sc(&eps[i], 0u);
        if (is)
            own_fd_close((int)((is & ~EP_USED) - 1));
    }
    inner_close();
    store_relaxed(&C->listening, 0u);
    store_relaxed(&C->napping, 0u);
}
