/* news.c - what the daemon says of its own accord, and what has to happen then.
 *
 * control.c puts it on a list as it comes. It is worked off here, outside all locks but one, by whoever comes
 * by (control_poll): one thread at a time, in the order in which it came.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/bury.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/deaths.h"
#include "client/events.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/give.h"
#include "client/graves.h"
#include "client/link.h"
#include "client/lost.h"
#include "client/move.h"
#include "client/news.h"
#include "client/offers.h"
#include "client/peer.h"
#include "client/share.h"
#include "client/watch.h"

struct plock dispatch_lock;

/* As events_poll(true); but who is at it when we come may have looked where we should before there was
 * anything. */
static void events_look(void)
{
    plock_take(&C->poll_lock);
    plock_release(&C->poll_lock);
    events_poll(true);
}

void acceptors_look(void)
{
    if (control_news() || control_pushed())
        control_poll();
    events_look();
}

static void on_segment(const struct ctl_segment_is *seg, int fd, int status)
{
    struct peer_box *box;
    int err = peer_segment_arrived(seg->outbox, seg->index, fd, status, &box);
    if (err == BERTH_E_BAD_HANDLE)
        return;
    if (!err && !channel_hears(box))
        channel_pair(box); /* perhaps it holds the queue that is for us */
    if (!err && box->own)
        channel_scan_soon(box); /* events that came before it said nothing to us */
    if (!err && moves_wait())
        moves_go_on();
    events_poll(true);
    box_sessions_look(seg->outbox); /* sessions that were set aside for it */
}

static void on_peer(const struct push *p)
{
    const struct ctl_outbox_is *is = (const void *)p->data;
    if (p->len < (int)sizeof *is || is->h.status != 0 || p->nfds != 3) {
        for (int i = 0; i < p->nfds; i++)
            (void)sys_close(p->fds[i]);
        return;
    }
    plock_take(&C->lock);
    struct peer_box *box = peer_box_add(is, p->fds);
    plock_release(&C->lock);
    if (!box)
        return;
    if (is->dead)
        peer_worker_dead(is->worker);
    channel_pair(box);
    events_look();
    listener_retry_pending();
    sessions_confirm();
    unmet_sessions_look(is->app);
}

static void on_announced(const struct ctl_outbox *m)
{
    peer_heard(m->worker, m->outbox);
    sessions_heard();
    shared_look();
}

/* An answer that came when nobody waited for it any more: what it gave is given back, where nobody has a use
 * for it. */
static void on_late(const struct push *p)
{
    const struct ctl_listened *listened = (const void *)p->data;
    const struct ctl_ports *ports = (const void *)p->data;
    const struct ctl_move *taken = (const void *)p->data;
    if (listened->h.status)
        return;
    if (listened->h.type == CTL_LISTENED && p->len >= (int)sizeof *listened) {
        if (listener_named(listened->h.seq, listened->listener))
            return;
        struct ctl_listener msg = {.h = {.type = CTL_UNLISTEN, .len = sizeof msg},
                                   .listener = listened->listener};
        (void)control_send(&msg, NULL, 0); /* no daemon: nobody finds it any more */
    } else if (ports->h.type == CTL_PORTS_ARE && p->len >= (int)sizeof *ports) {
        struct ctl_ports msg = *ports;
        msg.h = (struct ctl_header){.type = CTL_RETURN_PORTS, .len = sizeof msg};
        (void)control_send(&msg, NULL, 0); /* a daemon that has ended has nothing to take back */
    } else if (taken->h.type == CTL_TAKEN && p->len >= (int)sizeof *taken) {
        session_is_nowhere(&taken->from);
    }
}

static void on_push(struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    const struct ctl_segment_is *seg = (const void *)p->data;
    const struct ctl_dead *dead = (const void *)p->data;
    const struct ctl_listener *gone = (const void *)p->data;
    int used = 0;
    if (p->lost) {
        lost_add(p);
        return;
    }
    if (control_retry_at() && (h->type == CTL_PEER || h->type == CTL_OUTBOX_IS || h->type == CTL_SEGMENT_IS))
        lost_found(p);
    switch (h->type) {
    case CTL_PEER:
    case CTL_OUTBOX_IS:
        on_peer(p);
        if (h->status)
            moves_unmet(h->seq);
        else if (moves_wait())
            moves_go_on();
        if (h->type == CTL_OUTBOX_IS && h->seq == NONE)
            shared_outbox_answered(h->status);
        else if (h->type == CTL_OUTBOX_IS)
            listener_answered(h->status, h->seq);
        used = p->nfds;
        break;
    case CTL_SEGMENT_IS:
        if (p->len >= (int)sizeof *seg) {
            on_segment(seg, p->nfds > 0 ? p->fds[0] : -1, h->status);
            used = p->nfds > 0;
        }
        break;
    case CTL_ANNOUNCED:
        if (p->len >= (int)sizeof(struct ctl_outbox))
            on_announced((const void *)p->data);
        break;
    case CTL_DEAD:
        if (p->len >= (int)sizeof *dead) {
            events_poll(true);
            sessions_of_worker_dead(dead->worker);
            sessions_reoffer(dead->member);
            peers_collect(false);
            listener_retry_pending();
        }
        break;
    case CTL_MEMBER_DEAD:
        if (p->len >= (int)sizeof *dead)
            member_gone(dead->member);
        break;
    case CTL_LISTENER_GONE:
        if (p->len >= (int)sizeof *gone) {
            events_poll(true);
            sessions_listener_gone(gone->listener);
        }
        break;
    case CTL_RETIRED:
        if (p->len >= (int)sizeof(struct ctl_outbox)) {
            const struct ctl_outbox *retired = (const void *)p->data;
            peer_segment_retired(retired->outbox, retired->index);
        }
        break;
    case CTL_MOVING:
    case CTL_MOVED:
        if (p->len < (int)sizeof(struct ctl_move))
            break;
        if (h->type == CTL_MOVING)
            events_look(); /* it may not have met yet who gives it away */
        (h->type == CTL_MOVING ? peer_moves : peer_moved)((const void *)p->data);
        break;
    case CTL_RECALL:
        if (p->len >= (int)sizeof(struct ctl_move))
            session_recalled(&((const struct ctl_move *)(const void *)p->data)->from);
        break;
    case CTL_REPLAYED:
        offer_replayed(h->seq, h->status);
        break;
    case CTL_LISTENED:
    case CTL_TAKEN:
    case CTL_PORTS_ARE:
        on_late(p);
        break;
    default:
        break;
    }
    for (int i = used; i < p->nfds; i++)
        (void)sys_close(p->fds[i]);
}

static int64_t looked; /* when, at who lives */

static bool look_due(void)
{
    return load_acquire(&C->alone) ||
           (load_relaxed(&C->unwatched) && clock_now() - load_relaxed(&looked) >= ALIVE_NS);
}

bool control_pushes(void)
{
    int64_t at = control_retry_at();
    return control_pushed() || (at && clock_now() >= at) || look_due();
}

void control_fork_lock(void)
{
    plock_take(&dispatch_lock);
}

void control_fork_unlock(void)
{
    plock_release(&dispatch_lock);
}

/* Under dispatch_lock, when all that the daemon has ever said is worked off. Who never sleeps is told by
 * nobody, and looks now and then. */
static void do_without_daemon(void)
{
    int64_t now = clock_now();
    if (!exchange_sc(&C->alone, false) && now - load_relaxed(&looked) < ALIVE_NS)
        return;
    store_relaxed(&looked, now);
    uint32_t unwatched = peers_look_alive();
    if (berth_family_shared)
        unwatched += members_watch();
    store_relaxed(&C->unwatched, unwatched);
    sessions_nobody_takes();
    if (!exchange_sc(&C->last_heard, true)) {
        sessions_nobody_brings();
        moves_lost();
    }
    peers_collect(false);
    listener_retry_pending();
}

static void dispatch_pushes(void)
{
    if ((!C->daemon_lost && !control_pushes()) || !plock_try(&dispatch_lock))
        return;
    bool lost = load_acquire(&C->daemon_lost); /* first: what it said before it ended is on the list then */
    struct push *p;
    while ((p = control_push_take())) {
        on_push(p);
        memory_put(p, sizeof *p);
    }
    if (recalls_wait())
        recalls_go_on();
    lost_retry(sessions_unreachable);
    if (lost)
        do_without_daemon();
    plock_release(&dispatch_lock);
}

void control_poll(void)
{
    if (!C->attached)
        return;
    hold_begin(); /* memory is taken and given back */
    control_flush();
    control_receive();
    dispatch_pushes();
    if (!control_retry_at() &&
        !load_relaxed(&C->forked)) /* what is asked for again needs them, and the daemon's first answer */
        fds_keep_again();
    hold_end();
}

void control_told(void)
{
    if (C->daemon_lost)
        store_release(&C->alone, true);
    control_poll();
}
