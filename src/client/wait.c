/* wait.c - waiting for one session: spin while it is likely to be short, then sleep where the peer can wake
 * us.
 *
 * Theory of operation
 *
 * A thread that waits first looks for the spin budget (spin.c). To sleep, it sets its `want` with the futex
 * flag, looks once more, and sleeps on the low half of the peer's counter. The kernel compares that word with
 * what was seen, so a store between look and sleep cannot be missed; the peer wakes the word's sleepers when
 * its counter passes `want`. What else may end the wait (a shutdown, a death, a fork, an event set that comes
 * to wait too) changes the record's `flags`, on which it sleeps as well. No descriptor, no waiter word,
 * nobody else is woken.
 *
 * The peer wakes NOTIFY_WAKES of a word's sleepers, not all of them. Who wakes up and finds that there were
 * more passes it on: it wakes all. No wake is lost by that. A sleeper is counted before it sleeps and until
 * it has woken up, whatever ended its sleep. So if the peer's call left somebody asleep, the first of those
 * it woke counts more than NOTIFY_WAKES. And no wake goes round in circles: for each value of the word it is
 * passed on once. (`told`: whoever wrote it there woke all after the word had that value. Who went to sleep
 * later by an older value did not sleep, since the kernel compares; and who sleeps by that value is not
 * concerned.)
 *
 * For its first moments it sleeps on the peer's word alone, which is cheaper (sleeper_doze); what changes the
 * flags wakes that word, too.
 *
 * A session that others may set `want` of, or whose acceptor is not known yet, or whose bytes are not here
 * yet, cannot be waited for so; then the thread waits as client_poll_since does (poll.c). It does so, too,
 * where the kernel cannot sleep on several words.
 *
 * A poll or a select for one session is the same wait, with an answer of its own. So of hundreds of threads
 * that each poll theirs, an event wakes one. Where the call waits for more, or brings a signal mask, it goes
 * by poll.c: all such threads sleep on the bell, and each ring of it wakes all.
 */
#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "client/channel.h"
#include "client/link.h"
#include "client/ready.h"
#include "client/session.h"
#include "client/sleeper.h"
#include "client/spin.h"
#include "client/stream.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "shm/slot.h"

struct waiting {
    struct session *s;
    struct session_cache *c;
    uint32_t events;
    uint64_t least; /* bytes */
    int64_t deadline;
};

static bool is_ready(const struct waiting *w)
{
    const struct slot *peer = load_acquire(&w->c->peer);
    return (w->events & EPOLLIN && session_has(w->s, w->c, w->least)) ||
           (w->events & EPOLLOUT && stream_writable(w->s, w->c)) ||
           (peer && w->events & EPOLLOUT && slot_head(peer) & COUNT_FLAG);
}

static int look(void *arg)
{
    return is_ready(arg);
}

static int by_poll(session_handle h, const struct waiting *w, const struct sleep_mark *mark)
{
    struct client_poll_item item = {.handle = h, .events = w->events, .least = w->least};
    int64_t left = w->deadline == DEADLINE_NEVER ? -1 : w->deadline - clock_now();
    int n = client_poll_since(mark, &item, 1, NULL, 0, w->deadline != DEADLINE_NEVER && left < 0 ? 0 : left,
                              NULL, NULL);
    return n > 0 ? 0 : n == 0 ? BERTH_E_TIMED_OUT : n;
}

static bool must_poll(const struct waiting *w, uint32_t flags)
{
    /* of an acceptor the connector may know nothing yet: then nobody wakes the word, and somebody has to look
     */
    bool unknown = !(flags & (SF_CONNECTOR | SF_CONFIRMED)) && session_unheard(w->c);
    return unknown || !load_acquire(&w->c->peer) ||
           (w->events & (EPOLLIN | EPOLLOUT)) == (EPOLLIN | EPOLLOUT) || load_acquire(&w->c->watches) ||
           load_relaxed(&w->c->pollers) || flags & (SF_SHARED | SF_TENTATIVE) || C->daemon_lost ||
           load_relaxed(&C->forked) || !sleeper_has_words() ||
           (w->events & EPOLLIN && bytes_missing(w->s, w->c));
}

/* A sleep on the peer's word. */
struct place {
    const struct waiting *w;
    session_handle h;
    const struct slot *peer;
    bool in;
};

/* It is over, or a handler runs in it, or the thread is cancelled. */
static void woken(void *arg)
{
    struct place *p = arg;
    struct session_more *more = &C->more[session_index(p->w->s)];
    if (fetch_add_sc(&more->sleepers, ~0u) <= NOTIFY_WAKES)
        return;
    if (session_get(p->h) != p->w->s) /* who closed it woke all; the memory may be gone in a moment */
        return;
    uint64_t is = p->in ? slot_tail(p->peer) : slot_head(p->peer);
    if (exchange_sc(p->in ? &more->told_tail : &more->told_head, is) != is)
        (void)sys_futex_wake(p->in ? slot_tail_futex(p->peer) : slot_head_futex(p->peer), (long)INT_MAX);
}

static void asleep_again(void *arg)
{
    const struct place *p = arg;
    (void)fetch_add_sc(&C->more[session_index(p->w->s)].sleepers, 1u);
}

/* One sleep. Both directions at once cannot be slept for this way. `flags`: as they were before `want` was
 * found to be ours. `doze`: how long it may be a light one. The mark stays when it is over: others may sleep
 * by it, and at worst the peer makes one call to wake nobody. Where it lies beyond what has come, since many
 * bytes were waited for, whoever waits next takes it down (slot_arm_among). */
static long sleep_once(const struct waiting *w, session_handle h, struct sleeper *sl, uint32_t flags,
                       int64_t doze)
{
    struct futex_waitv v[2 + SLEEPER_WORDS];
    const struct slot *peer = load_acquire(&w->c->peer);
    if (!peer)
        return -EAGAIN; /* closed by another thread this moment */
    bool in = w->events & EPOLLIN;
    const uint32_t *word = in ? slot_tail_futex(peer) : slot_head_futex(peer);
    uint32_t seen = (uint32_t)(in ? slot_tail(peer) : slot_head(peer));
    struct place place = {w, h, peer, in};
    hold_begin();
    asleep_again(&place); /* before the mark is set: of two that set theirs at once one sees the other */
    bool armed = in ? stream_arm_read(w->s, w->c, COUNT_FLAG, false, w->least)
                    : stream_arm_write(w->s, w->c, COUNT_FLAG);
    bool joined = load_sc(&w->c->watches) || load_sc(&w->c->pollers);
    if (!armed || joined || session_flags_sc(w->s) != flags) {
        (void)fetch_add_sc(&C->more[session_index(w->s)].sleepers, ~0u); /* nobody has woken it */
        if (joined)
            watches_again(w->c); /* they came while this mark was being set: it may lie over theirs */
        hold_end();
        return -EAGAIN;
    }
    sl->leave = woken;
    sl->back = asleep_again;
    sl->arg = &place;
    long ret;
    if (doze > 0) {
        ret = sleeper_doze(sl, word, seen, doze);
    } else {
        v[0] = sleeper_word(word, seen, true);
        v[1] = sleeper_word(&w->s->flags, flags, true);
        ret = sleeper_words(sl, v, 2);
    }
    woken(&place);
    hold_end();
    return ret;
}

int client_wait_for(session_handle h, uint32_t events, uint64_t least, int64_t deadline,
                    const struct sleep_mark *mark)
{
    struct sleeper sl = {.mark = *mark, .deadline = deadline};
    int64_t began = 0;
    for (;;) {
        struct session *s = session_get(h);
        if (!s)
            return BERTH_E_BAD_HANDLE;
        struct waiting w = {s, session_cache_of(s), events, least ? least : session_lowat(s), deadline};
        uint32_t flags = session_flags_acquire(s);
        uint8_t *vain = events & EPOLLIN ? &w.c->vain_read : &w.c->vain_write;
        if (is_ready(&w)) {
            if (began)
                spin_learn(vain, clock_now() - began);
            return 0;
        }
        if (!load_acquire(&w.c->peer))
            session_try_link(s);
        if (must_poll(&w, flags))
            return by_poll(h, &w, mark);
        cpu_publish(w.c->own);
        if (!began) { /* the first time round */
            began = clock_now();
            struct spin spin = {.c = w.c, .vain = vain, .now = began, .deadline = deadline, .mark = &sl.mark};
            if (spin_until(&spin, look, NULL, &w) > 0) {
                spin_learn(vain, 0);
                return 0;
            }
        }
        if (sleep_signalled(&sl.mark))
            return BERTH_E_INTERRUPTED;
        if (sleeper_over(&sl))
            return BERTH_E_TIMED_OUT;
        stream_flush_head(s, false);
        long ret = sleep_once(&w, h, &sl, flags, DOZE_NS - (clock_now() - began));
        if (ret == -EINTR)
            return BERTH_E_INTERRUPTED;
        sleeper_glance();
    }
}

int client_wait(session_handle h, uint32_t events, int64_t deadline, const struct sleep_mark *mark)
{
    return client_wait_for(h, events, 0, deadline, mark);
}

/* ---- a poll for one session ---------------------------------------------------------------------------- */

/* The direction that the item waits for, if it is just one and a session's; else 0. */
static uint32_t one_direction(const struct client_poll_item *item)
{
    uint32_t in = READY_IN | EPOLLRDHUP | EPOLLPRI, events = item->events;
    if (item->set || handle_is_listener(item->handle))
        return 0;
    if (events & READY_IN && !(events & ~in))
        return EPOLLIN;
    return events & READY_OUT && !(events & ~(uint32_t)READY_OUT) ? EPOLLOUT : 0;
}

int client_poll(struct client_poll_item *items, int n, struct pollfd *kfds, int nk, int64_t timeout_ns,
                const sigset_t *mask, struct client_room *rooms)
{
    struct sleep_mark mark = sleep_mark_now();
    uint32_t direction = n == 1 && !nk && !mask && timeout_ns ? one_direction(items) : 0;
    if (!direction)
        return client_poll_since(&mark, items, n, kfds, nk, timeout_ns, mask, rooms);
    int64_t deadline = clock_deadline(timeout_ns);
    int found = client_poll_since(&mark, items, 1, NULL, 0, 0, NULL, NULL);
    if (found)
        return found;
    int err = client_wait_for(items->handle, direction, items->least, deadline, &mark);
    if (err == BERTH_E_INTERRUPTED)
        return err;
    found = client_poll_since(&mark, items, 1, NULL, 0, 0, NULL, NULL);
    if (found || err == BERTH_E_TIMED_OUT)
        return found;
    /* it was somebody else's in between */
    int64_t left = deadline == DEADLINE_NEVER ? -1 : deadline - clock_now();
    return client_poll_since(&mark, items, 1, NULL, 0, left < 0 && deadline != DEADLINE_NEVER ? 0 : left,
                             NULL, NULL);
}
