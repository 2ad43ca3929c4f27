/* part.c - a process that becomes another user leaves its family.
 *
 * Relatives trust what is in the family segment, in the outboxes and pages that they can write together, and
 * the daemon trusts a worker as its app's user. A worker of a server that drops its rights (nginx, apache,
 * postgres) must be able to spoil none of it, whatever becomes of it later. So just before it is another user
 *   - it sends the daemon a child of its own (CHILD with APART): itself, as a worker that nobody's family is,
 *     and that holds its listeners and nothing else. The old control socket is closed: to daemon and
 *     relatives the worker that it was is dead, and they see to what that held (bury.c);
 *   - another family segment takes the place of the old one, at the same address, with this process alone in
 *     it; pages and outboxes of before are unmapped. None of them can be mapped again: they have no name, the
 *     descriptors are closed, and those of other processes are another user's;
 *   - of what it shared by descriptor it keeps the listeners' pipes, under descriptions of their own where
 *     there is a /proc. What the pipes carry is checked by everybody. Tokens that were set aside for all go
 *     back into them.
 * Then it says hello, as a child does. From there on it accepts, connects and forks as before.
 *
 * Its sessions cannot come along: their slots lie where relatives can write, or did. Whoever calls us has
 * given them away; what is left ends.
 *
 * Other threads may be anywhere in the library meanwhile, but where a lock is needed. So no address that they
 * may have becomes empty, and whoever sleeps is woken by what he sleeps on.
 *
 * A process that has no relatives has nothing to leave. It only tells the daemon (PART).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/log.h"
#include "base/sys.h"
#include "base/tasks.h"
#include "client/arrive.h"
#include "client/aside.h"
#include "client/attach.h"
#include "client/bury.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/deaths.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/fork.h"
#include "client/hello.h"
#include "client/home.h"
#include "client/listener.h"
#include "client/lost.h"
#include "client/news.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/ports.h"
#include "client/replay.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/sets.h"
#include "client/share.h"
#include "client/sleeper.h"
#include "shm/page.h"

/* ---- what is left behind ------------------------------------------------------------------------------- */

static bool related(void)
{
    struct member_set alive = members_alive();
    return berth_family_shared && members_other(&alive, C->member, &alive);
}

bool client_related(void)
{
    return client_attached() && berth_family_shared && (control_poll(), related());
}

static void sessions_end(void)
{
    for (struct session *s = NULL; (s = session_after(s));) {
        if (session_held_by(s, C->member))
            (void)client_abort((uint64_t)session_generation(s) << 32 |
                               session_index(s)); /* it was held a line above */
    }
}

/* Whoever of those that hold the listener looks next finds them in the pipe. */
static void tokens_put_back(struct listener *l)
{
    struct aside *a = aside_of(l);
    struct token copy[ASIDE_TOKENS];
    for (uint32_t i = 0, n = a ? aside_copy(a, copy) : 0; i < n; i++) {
        if (!aside_take(a, &copy[i]) || pipe_put(l->pipe_wr, &copy[i], sizeof copy[i]) > 0)
            continue;
        (void)aside_put(l, &copy[i], true); /* no room: they are the others' */
        return;
    }
}

static void listeners_leave(void)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        struct aside *a = l->generation & 1 ? aside_of(l) : NULL;
        if (!a)
            continue;
        tokens_put_back(l);
        (void)members_drop(&a->holders, C->member);
    }
}

/* Another thread may have its address still. */
static void memory_leave(void *at, uint64_t size)
{
    if (at && (__libc_single_threaded ||
               mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                    -1, 0) == MAP_FAILED))
        munmap(at, size);
}

/* The records are the family's: who buries us sees to them. */
static void own_boxes_leave(struct own_box **list)
{
    for (struct own_box *b = *list, *next; b; b = next) {
        next = b->next;
        store_release(&C->own_by_index[b->index], NULL);
        for (uint32_t i = 0; i < OUTBOX_SEGMENTS; i++)
            memory_leave(b->seg[i], b->seg_size[i]);
        if (__libc_single_threaded)
            munmap(b, sizeof *b);
    }
    store_relaxed(list, NULL);
}

/* Of peers' bells relatives have the same description: its flags are theirs as well. */
static void bells_leave(void)
{
    for (struct peer_worker *w = C->workers; w; w = w->next)
        pipe_anew(w->bell_fd, O_RDWR);
}

/* What others wrote can be read on for a while, where there are threads that may be at it. poll_lock and
 * lock are held. */
static void peers_leave(void)
{
    channels_enter();
    while (C->boxes)
        peer_box_bury(C->boxes);
    peers_forked();
    bells_leave();
    for (struct peer_box *b; __libc_single_threaded && (b = C->box_graves);) {
        store_relaxed(&C->box_graves, b->next);
        peer_box_unmap(b, true);
    }
    store_relaxed(&C->polled, NULL);
    store_relaxed(&C->armed, NULL);
    store_relaxed(&C->paired, NULL);
    store_relaxed(&C->polled_count, 0u);
    store_relaxed(&C->dead_boxes, 0u);
    routes_forget();
    own_boxes_leave(&C->outboxes);
    own_boxes_leave(&C->own_graves);
}

static void member_leaves(void)
{
    struct member *m = &C->family->member[C->member];
    uint64_t life = member_life_now(m);
    (void)members_drop(&C->family->set_waiters, C->member);
    while (!member_change_life(m, &life, member_life(PID_GOING, (uint32_t)(life >> 32))))
        ;
}

#define QUIET_NS (100 * NS_PER_MS)      /* so long other threads may compute; */
#define QUIET_MOST_NS (10 * NS_PER_SEC) /* and so long they may not get to it */

static void pause_a_moment(int64_t ns)
{
    struct timespec ts = {0, ns};
    (void)sys_call(SYS_nanosleep, &ts, NULL, 0L, 0L);
}

/* Ours are shorter. Whose sleep is over, but who has no CPU yet, is said to run. */
static bool sleeps_long(int dir, const char *tid, const char *call)
{
    char before[96], after[96], now[64];
    if (task_read(dir, tid, "schedstat", before, sizeof before) <= 0)
        return true;
    pause_a_moment(3 * NS_PER_MS);
    return task_read(dir, tid, "syscall", now, sizeof now) <= 0 ||
           (!strcmp(call, now) && task_read(dir, tid, "schedstat", after, sizeof after) > 0 &&
            !strcmp(before, after));
}

/* Is that thread in a system call that it may stay in? One that only stands still in the midst of something
 * is not, nor is one that waits for a lock of the family's. */
static bool thread_rests(int dir, const char *tid, const void *arg)
{
    char text[64], *at;
    (void)arg;
    if (task_read(dir, tid, "syscall", text, sizeof text) < 0)
        return true; /* it has ended, or nothing is to be known */
    long number = strtol(text, &at, 10);
    if (at == text || number == SYS_sched_yield)
        return false;
    uintptr_t word = strtoul(at, NULL, 16), family = (uintptr_t)C->family;
    if (number == SYS_futex)
        return word < family || word >= family + sizeof(struct family);
    return (number != SYS_nanosleep && number != SYS_clock_nanosleep) || sleeps_long(dir, tid, text);
}

static int64_t cpu_of_others(void)
{
    struct timespec all = {0}, own = {0};
    (void)sys_call(SYS_clock_gettime, (long)CLOCK_PROCESS_CPUTIME_ID, &all, 0L, 0L);
    (void)sys_call(SYS_clock_gettime, (long)CLOCK_THREAD_CPUTIME_ID, &own, 0L, 0L);
    return (all.tv_sec - own.tv_sec) * NS_PER_SEC + all.tv_nsec - own.tv_nsec;
}

/* poll_lock and zombie_lock are held when this returns. What other threads began before is over by then: they
 * sleep, or are in calls of their own. Who waits for one of these locks is let through. A thread that
 * computes is the program's as likely, so it is waited for until it has had the time for all that the library
 * may do at a stretch. What begins meanwhile finds that it must say hello first, which waits for us. */
static void others_settle(void)
{
    int64_t began = clock_now(), had = cpu_of_others();
    for (;;) {
        plock_take(&C->poll_lock);
        plock_take(&C->zombie_lock);
        if (__libc_single_threaded ||
            (tasks_all(thread_rests, NULL) && !control_asking() && !plock_wanted(&C->poll_lock) &&
             !plock_wanted(&C->zombie_lock)) ||
            cpu_of_others() - had > QUIET_NS || clock_now() - began > QUIET_MOST_NS)
            return;
        plock_release(&C->zombie_lock);
        plock_release(&C->poll_lock);
        pause_a_moment(NS_PER_MS / 4);
    }
}

/* ---- what begins --------------------------------------------------------------------------------------- */

/* Our end of a new control socket, of which the daemon has heard; -1: there is no daemon. */
static int new_control(void)
{
    int pair[2];
    struct ctl_child msg = {.h = {.type = CTL_CHILD, .len = sizeof msg}, .flags = CTL_CHILD_APART};
    if (C->daemon_lost ||
        sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_SEQPACKET | SOCK_CLOEXEC), 0L, pair) < 0)
        return -1;
    int err = control_send(&msg, &pair[0], 1);
    for (int i = 0; !err && control_unsent() && i < 1000; i++) {
        struct pollfd p = {.fd = C->ctl, .events = POLLOUT};
        struct timespec a_moment = {0, 1000000};
        (void)sys_ppoll(&p, 1, &a_moment, NULL);
        control_flush();
    }
    (void)sys_close(pair[0]);
    if (!err && !control_unsent())
        return pair[1];
    (void)sys_close(pair[1]);
    return -1;
}

/* What threads may be looking at stays under its number. */
static void listeners_begin(const uint8_t *nonblock)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        struct aside *a = l->generation & 1 ? aside_of(l) : NULL;
        if (!(l->generation & 1))
            continue;
        pipe_anew(l->pipe_rd, O_RDONLY);
        pipe_anew(l->pipe_wr, O_RDWR);
        l->wait_ep_kernel = NO_WAIT_EP;
        store_relaxed(&l->asked, 0u);
        l->away = 0; /* that was until a relative would end */
        if (a && aside_claim(a)) {
            members_only(&a->holders, C->member);
            aside_set_nonblock(a, nonblock[i]);
        }
    }
}

/* Words of this process alone that spoke of what was. */
static void state_begin(void)
{
    for (uint32_t i = 0; i < C->ancestors; i++) { /* their places stay: another thread may look there */
        memory_leave(C->ancestor[i].page, WORKER_PAGE_BYTES);
        own_fd_close(C->ancestor[i].bell_fd);
    }
    store_relaxed(&C->ancestors, 0u);
    store_relaxed(&C->worker, 0u);
    store_relaxed(&C->turn_first, NULL);
    store_relaxed(&C->turn_last, NULL);
    store_relaxed(&C->extra_segments, 0u);
    store_relaxed(&C->own_loose, 0u);
    store_relaxed(&C->queued, 0u);
    store_relaxed(&C->unconfirmed, 0u);
    store_relaxed(&C->unheard, 0u);
    store_relaxed(&C->inherited_unconfirmed, 0u);
    store_relaxed(&C->inherited_unheard, 0u);
    store_relaxed(&C->inherited_tentative, 0u);
    store_relaxed(&C->starved, false);
    store_relaxed(&C->last_heard, false);
    store_relaxed(&C->reoffer_at, (int64_t)0);
    store_relaxed(&C->waiters_used, (uint64_t)0);
    store_relaxed(&C->unwatched, 0u);
    store_relaxed(&C->sharing, false);
    share_forget();
    asides_forked();
    replays_forked();
    home_forked();
    arrivals_forked();
    lost_forget();
    ports_forget();
    control_forget();
    sleepers_anew();
}

/* ---- the step from one to the other -------------------------------------------------------------------- */

static void strand(void)
{
    log_warn_once("this process has become another user, and goes on with the kernel alone");
    memory_leave(C->page, WORKER_PAGE_BYTES);
    own_fd_close(C->bell_fd);
    C->bell_fd = -1;
    own_fd_close(C->ctl);
    C->ctl = -1;
    store_release(&C->forked, false);
    fork_strand();
    store_release(&C->attached, false);
}

/* Under the number that it has. */
static void control_is(int fd)
{
    if (fd >= 0) {
        (void)own_fd_is(C->ctl, fd);
    } else if (!C->daemon_lost) {
        (void)sys_call(SYS_shutdown, (long)C->ctl, (long)SHUT_RDWR, 0L, 0L);
        store_release(&C->daemon_lost, true);
        store_release(&C->alone, true);
    }
}

/* attach_lock, hello_lock and dispatch_lock are held. */
static void leave(void)
{
    static uint8_t nonblock[LISTENERS_MAX];
    /* who has not said hello has not slept, but for who waits for the answer */
    bool others = (hello_reset() || !C->forked) && !__libc_single_threaded;
    if (!__libc_single_threaded)
        store_release(&C->forked, true);
    int ctl = new_control();
    long bell = sys_fcntl(C->bell_fd, F_DUPFD_CLOEXEC, 0L);
    others_settle();
    for (uint32_t i = 0; i < listeners_used(); i++) {
        const struct aside *a = C->listeners[i].generation & 1 ? aside_of(&C->listeners[i]) : NULL;
        nonblock[i] = a && aside_nonblock(a);
    }
    listeners_leave();
    plock_take(&scratch_lock);
    tokens_forked();
    plock_release(&scratch_lock);
    members_unwatch(false);
    plock_take(&C->lock);
    plock_take(&C->ctl_lock);
    peers_leave();
    rolls_anew(family_sessions(C->family));
    family_catch_up();
    member_leaves();
    bool begun = family_anew();
    control_is(ctl);
    state_begin();
    if (begun)
        listeners_begin(nonblock);
    plock_release(&C->ctl_lock);
    plock_release(&C->lock);
    plock_release(&C->zombie_lock);
    plock_release(&C->poll_lock);
    int err = begun ? hello_apart() : BERTH_E_NO_MEMORY;
    if (err)
        strand();
    else
        store_release(&C->forked, false);
    if (bell < 0)
        return;
    bell_ring((int)bell); /* threads that sleep on it, or are about to, look again and find another */
    if (others)
        (void)own_fd((int)bell);
    else
        (void)sys_close((int)bell);
}

void client_part(void)
{
    struct ctl_header msg = {.type = CTL_PART, .len = sizeof msg};
    if (!client_attached())
        return;
    hold_begin();
    control_poll();
    bool apart = related();
    if (load_acquire(&berth_family_quiet))
        family_member_acts(); /* what it inherits it has, before it leaves it */
    if (apart)
        sessions_end();
    plock_take(&attach_lock);
    plock_take(&hello_lock);
    control_fork_lock();
    if (apart)
        leave();
    else
        (void)control_send(&msg, NULL, 0); /* no daemon: nobody to trust us */
    C->nobody = true;
    control_fork_unlock();
    plock_release(&hello_lock);
    bool sets = apart && C->attached;
    plock_release(&attach_lock);
    if (sets)
        sets_anew();
    log_unshare();
    hold_end();
}
