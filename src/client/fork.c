/* fork.c - a child is one more worker of the same app and holds what its parent holds.
 *
 * Before the fork (pthread_atfork, so that daemon(3), forkpty and the like come by) the parent sends the
 * daemon one end of a socketpair: "my next child". No answer is waited for; the child is known before it
 * exists. The child keeps the other end as its control socket, whatever it does later with its user or root
 * directory, and says hello on it at its first use of berth: it then gets a worker id, a page and a bell of
 * its own. A child that execs or ends without ever using berth costs a closed socket. When there is no daemon
 * any more, the child goes on with what it inherited, unknown to anybody.
 *
 * Sessions held at the fork are shared (SF_SHARED): records and slots lie in memory that both can write.
 * Their rings may come to lie in segments that only one of the two can write; the other swaps to a ring of
 * its own (stream.c). Sessions made later belong to whoever made them.
 *
 * How a shared session's holders hear of news: the peer knows one worker, in whose outbox the slot lies. It
 * puts events into the queue for that worker, which alone takes them out; it looks at the word of WAITER_ANY
 * in that worker's page and writes that worker's bell, which all holders have and none reads. So
 *   - the slot names WAITER_ANY, and whoever falls asleep moves that word on in his own page and in those of
 *     the workers that he was forked from (`ancestor`): the next event then kicks, and everybody who sleeps
 *     wakes;
 *   - after each kick and before each sleep a holder looks at his shared sessions themselves, not for events;
 *   - nobody sleeps on a futex for a shared session, for `want` is one word for all. It only goes up, and who
 *     moves it past bytes that the others may not have seen kicks them (slot_arm_up).
 */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/arrive.h"
#include "client/aside.h"
#include "client/attach.h"
#include "client/bury.h"
#include "client/connect.h"
#include "client/control.h"
#include "client/deaths.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/fork.h"
#include "client/hello.h"
#include "client/home.h"
#include "client/link.h"
#include "client/listener.h"
#include "client/lost.h"
#include "client/move.h"
#include "client/news.h"
#include "client/openfile.h"
#include "client/outbox.h"
#include "client/ports.h"
#include "client/replay.h"
#include "client/rings.h"
#include "client/rolls.h"
#include "client/session.h"
#include "client/sets.h"
#include "client/share.h"
#include "client/sleeper.h"
#include "client/vigil.h"
#include "client/watch.h"
#include "shm/page.h"
#include "shm/slot.h"

/* this fork is a worker's. It and what follows are under attach_lock: one fork at a time */
static bool forking;
static bool
    locked; /* a process of one thread needs none of the locks, and each that it writes is a page to copy */
static int child_end; /* -1: none, and NONE */
static uint32_t child_member;
static bool stranded;

static uint32_t member_take(void)
{
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) {
        struct member *m = &C->family->member[i];
        uint64_t life = member_life_now(m);
        uint32_t used = members_used();
        while (used <= i && !family_change_members(C->family, &used, i + 1)) /* before it is anybody's */
            ;
        if ((int32_t)life == 0 &&
            member_change_life(m, &life, member_life(PID_COMING, (uint32_t)(life >> 32)))) {
            member_set_acted(m, false);
            return i;
        }
    }
    return NONE;
}

/* ---- before and after the fork ------------------------------------------------------------------------- */

#define SHARE_NS (500 * NS_PER_MS)

/* What another thread is about to make has no handle yet. */
static bool is_made(const struct session *s)
{
    const struct session_cache *c = &C->cache[session_index(s)];
    return session_state_acquire(s) != SESSION_QUEUED ||
           (load_acquire(&c->generation) == s->generation && c->own);
}

/* Under its locks: a thread that ends a session looks for other holders, and then is the only one (finish).
 * Another process finds us among them. Should this very thread have been stopped under them by a signal that
 * forks now, there is nobody to wait for. */
static bool share_session(struct session *s, uint32_t member, int64_t deadline)
{
    bool both = locked && session_lock_until(s, deadline);
    bool ours = session_held_by(s, C->member) && is_made(s);
    if (ours) {
        holders_add(s, member);
        if (!(session_flags(s) & SF_SHARED)) { /* else all this is so since an earlier fork */
            session_add_flags(s, SF_SHARED);
            struct session_cache *c = session_cache_of(s);
            if (c->own)
                slot_set_waiter_any(c->own);
            if (locked) /* else nobody is there who could sleep */
                futex_sleepers_wake(s, c);
        }
    }
    if (both) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
    }
    return ours;
}

/* What is shared is marked so, and held by the child from now on. */
static void share_sessions(uint32_t member)
{
    bool any = false;
    int64_t deadline = clock_now() + SHARE_NS;
    for (struct session *s = NULL; (s = session_after(s));) {
        if (session_held_by(s, C->member) && is_made(s))
            any |= share_session(s, member, deadline);
    }
    if (any) {
        store_relaxed(&C->sharing, true);
        page_set_forked(C->page);
        for (uint32_t i = 0; i < C->ancestors; i++)
            page_set_forked(C->ancestor[i].page);
    }
    sleeper_again(); /* whoever sleeps already was to be woken by another word */
}

static void share_outboxes(uint32_t member)
{
    const struct own_box *lists[] = {C->outboxes, C->own_graves};
    for (size_t i = 0; i < 2; i++) {
        for (const struct own_box *b = lists[i]; b; b = b->next) {
            if (outbox_current(b))
                members_add(&outbox_rec_of(b)->mapped, member);
        }
    }
}

/* In the order of state.h (control_fork_lock is before them), so that no thread holds any of them while it is
 * not there any more. */
static void locks_take(void)
{
    plock_take(&C->poll_lock);
    plock_take(&C->zombie_lock);
    plock_take(&C->watch_lock);
    plock_take(&C->lock);
    plock_take(&C->ctl_lock);
    plock_take(&C->cache_lock);
    plock_take(&C->boxes_lock);
    plock_take(&C->rolls_lock);
    plock_take(&C->send_lock);
}

static void locks_release(void)
{
    plock_release(&C->send_lock);
    plock_release(&C->rolls_lock);
    plock_release(&C->boxes_lock);
    plock_release(&C->cache_lock);
    plock_release(&C->ctl_lock);
    plock_release(&C->lock);
    plock_release(&C->watch_lock);
    plock_release(&C->zombie_lock);
    plock_release(&C->poll_lock);
}

/* Locks of one file each, which protect a few lines: taken last, by every process, for it may use what they
 * protect before it attaches. */
static struct plock *const local[] = {&pushes_lock, &free_lock,  &scratch_lock,
                                      &inner_lock,  &spare_lock, &memory_lock};

static void locals_take(void)
{
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
        plock_take(local[i]);
}

static void locals_release(void)
{
    for (size_t i = sizeof local / sizeof local[0]; i-- > 0;)
        plock_release(local[i]);
}

/* dispatch_lock is held: what is not on the list of news is worked off. */
static void announce_child(void)
{
    int pair[2];
    if (C->daemon_lost ||
        sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_SEQPACKET | SOCK_CLOEXEC), 0L, pair) < 0)
        return;
    struct ctl_child msg = {.h = {.type = CTL_CHILD, .len = sizeof msg},
                            .member = member_id_of(child_member)};
    if (!control_pushed() && !moves_wait() && !C->forked) {
        msg.flags = CTL_CHILD_KNOWS;
        msg.news = load_relaxed(&C->news_seen);
    }
    if (control_send(&msg, &pair[0], 1) == 0)
        child_end = pair[1];
    else
        (void)sys_close(pair[1]);
    (void)sys_close(pair[0]);
}

/* A parent that does nothing but fork has not heard of the ends of those it forked, and the daemon listens to
 * nobody who does not. */
static uint32_t member_find(void)
{
    if (C->daemon_lost || control_news() || control_pushed() || control_unsent()) {
        C->about_to_fork = true;
        control_poll();
        C->about_to_fork = false;
    }
    uint32_t member = member_take();
    if (member != NONE)
        return member;
    control_fork_lock(); /* as by whoever hears of a death */
    members_look_alive();
    control_fork_unlock();
    return member_take();
}

#define CROWD 32 /* from so many on it is worth to think of all that may be still to come */
#define LAST_PLACES 64

/* Of those alive the one that was given its place last, as a rule: hundreds of places are taken in turn. */
static uint32_t youngest(void)
{
    for (uint32_t i = members_used(); i-- > 0;) {
        uint64_t life = member_life_now(&C->family->member[i]);
        if (i != C->member && (int32_t)life > 0)
            return member_id(i, (uint32_t)(life >> 32));
    }
    return NONE;
}

static uint32_t places_left(void)
{
    uint32_t left = MEMBERS_MAX - members_used();
    for (uint32_t i = 0, n = members_used(); left < LAST_PLACES && i < n; i++)
        left += (int32_t)member_life_now(&C->family->member[i]) == 0;
    return left;
}

/* A child without a place would not have what its parent has accepted, so before there is none left, new connections
 * are the kernel's, which needs no place for it. */
static void crowd_prepare(void)
{
    bool enough = outboxes_reserve();
    if ((enough && places_left() >= LAST_PLACES) || C->daemon_lost)
        return;
    log_warn_once(
        "so many processes of this family are alive that it does not take more connections: they go to the "
        "kernel, until some have ended");
    uint32_t until = youngest();
    if (until != NONE)
        listeners_away(until);
}

static void prepare(void)
{
    int err = fork_child_goes_on();
    plock_take(&hello_lock);
    if (err)
        return;
    if (members_used() > CROWD)
        crowd_prepare();
    if ((child_member = member_find()) == NONE) { /* it comes without its parent's sessions */
        files_share(NONE);
        return;
    }
    (void)members_drop(&C->family->set_waiters, child_member); /* who had its place before */
    member_set_changes_done(&C->family->member[child_member],
                            member_changes_done(&C->family->member[C->member]));
    store_release(&berth_family_shared, true); /* for good: a lock is a lock from now on */
    /* nobody hears meanwhile that a relative died, and finds that nothing is shared any more */
    control_fork_lock();
    announce_child();
    family_member_parent();
    share_sessions(child_member);
    if (locked)
        locks_take();
    share_outboxes(child_member);
    listeners_share(child_member);
    files_share(child_member);
}

/* Of the handlers below, in this fork. They are there twice in who was forked while another thread entered them: the
 * child finds them in libc's list, but that thread, which would have said so, is not there. The first run takes
 * the locks, the last one releases them. */
static __thread uint32_t runs;

static void before_fork(void)
{
    hold_begin(); /* a handler of a signal may fork, too */
    bool first = runs++ == 0;
    if (first)
        plock_take(&attach_lock); /* what another thread began is done, or will be begun anew by the child */
    hold_end();
    if (!first)
        return;
    forking = C->attached;
    child_end = -1;
    child_member = NONE;
    locked = !__libc_single_threaded;
    if (forking)
        prepare();
    if (locked)
        locals_take();
}

static FORK_CODE void after_fork_parent(void)
{
    if (--runs)
        return;
    if (locked)
        locals_release();
    if (forking) {
        if (child_member != NONE && locked)
            locks_release();
        if (child_member != NONE)
            control_fork_unlock();
        if (C->daemon_lost)
            store_release(&C->alone, true); /* a relative more */
        if (child_end >= 0)
            (void)sys_close(child_end); /* so that its end of file tells of the child's death */
        plock_release(&hello_lock);
    }
    plock_release(&attach_lock);
}

void fork_strand(void)
{
    stranded = true;
}

bool client_stranded(void)
{
    return stranded;
}

/* Written only where something changes: each page written is one more that is copied. */
static void session_inherit(struct session *s, const struct session_more *more, bool held)
{
    if (!held) {
        roll_leave(s);
        return;
    }
    struct session_cache *c = session_cache_of(s);
    if (c->pollers)
        c->pollers = 0;
    if (c->box)
        c->box->sessions++;
    if (more->roll != roll_of(c->box))
        roll_enter(s, roll_of(c->box));
    store_relaxed(&C->sharing, true);
    C->inherited_unconfirmed += !(s->flags & (SF_CONNECTOR | SF_CONFIRMED));
    C->inherited_tentative += !(s->flags & (SF_CONNECTOR | SF_CONFIRMED)) && s->flags & SF_TENTATIVE;
    C->inherited_unheard += !(s->flags & (SF_CONNECTOR | SF_CONFIRMED)) && session_unheard(c);
}

/* What the child needs when it first does something, and not before: most of those that are forked execute
 * another program, or end. Called under any lock that may be held when one of the family is taken. */
static void sessions_inherit(void)
{
    for (struct peer_box *b = C->boxes; b; b = b->next)
        b->sessions = 0;
    rolls_forked();
    store_relaxed(&C->sharing, false);
    for (struct session *s = NULL; (s = session_after(s));) {
        struct session_more *more = &C->more[session_index(s)];
        bool held = session_held_by(s, C->member);
        if (more->sleepers)
            more->sleepers = 0;
        if (held || more->roll)
            session_inherit(s, more, held);
    }
}

static void channels_inherit(void)
{
    for (struct peer_box *b = C->boxes; b; b = b->next) {
        b->last_told = false;
        b->polled = b->behind = b->again = b->rescan = false; /* the queues are the parent's */
        b->announced = b->heard;
        if (b->memory->others) /* and so are the answers */
            memset(b->memory->others->asked, 0, sizeof b->memory->others->asked);
    }
    C->walks = NULL;
    C->polled = C->armed = C->paired = NULL;
    C->polled_count = 0;
    C->inherited_unconfirmed = C->inherited_unheard = C->inherited_tentative = 0;
}

static FORK_CODE void after_fork_child(void)
{
    bool worker = forking;
    if (--runs)
        return;
    if (locked)
        locals_release();
    /* a thread of the parent may have had it: it is held over waits, and protects no data */
    auto_lock.word = 0;
    connect_forked();
    if (worker)
        plock_release(&hello_lock);
    plock_release(&attach_lock);
    if (!worker)
        return;
    if (child_member == NONE) { /* no room in the family: on its own, without what its parent had */
        own_fd_close(C->ctl);
        C->ctl = -1;
        C->attached = false;
        stranded = true;
        return;
    }
    if (locked)
        locks_release();
    control_fork_unlock();
    control_take_over(child_end);
    C->member = child_member;
    berth_lock_id = member_id_of(child_member);
    member_set_pid(&C->family->member[child_member], (int32_t)getpid());
    C->forked = true;
    family_member_quiet(sessions_inherit);
    C->daemon_lost = C->alone = C->ctl < 0;
    C->last_heard = false;
    C->unwatched = 0;
    C->turn_first = C->turn_last = NULL; /* the parent's zombies */
    C->unconfirmed = C->unheard = C->queued = 0;
    C->reoffer_at = 0;
    home_forked();
    arrivals_forked();
    C->waiters_used = 0;
    share_forget();
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        if (l->generation & 1 && l->wait_ep >= 0) { /* an epoll set inherited by fork wakes one of the two */
            own_fd_close(l->wait_ep);
            l->wait_ep = -1;
        }
    }
    lost_forked();
    control_forget();
    hello_forked();
    asides_forked();
    replays_forked();
    tokens_forked();
    peers_forked();
    members_unwatch(true);
    eps_close();
    channels_inherit();
    sets_forked();
}

#ifdef BERTH_DELAYS
/* For order.h: those that are taken over a fork, or made anew in the child. */
static bool knows(const void *lock)
{
    const void *others[] = {&attach_lock,   &auto_lock,     &hello_lock,   &C->cache_lock,
                            &C->boxes_lock, &C->rolls_lock, &C->send_lock, &introduce_lock,
                            &dispatch_lock, &quiet_lock,    &arrivals_lock};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        if (lock == local[i])
            return true;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (lock == others[i])
            return true;
    }
    return false;
}
#endif

static void install(void)
{
#ifdef BERTH_DELAYS
    order_fork_knows = knows;
#endif
    log_share();
    if (pthread_atfork(before_fork, after_fork_parent, after_fork_child) != 0)
        log_warn("no memory to stand by at forks: children will not do");
}

/* Once, however many threads attach at once, and before any of them has a lock. */
void fork_install(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    hold_begin();
    (void)pthread_once(&once, install);
    hold_end();
}
