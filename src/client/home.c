/* home.c - a session that a process has from its parent, and has alone, comes into an outbox of its own.
 *
 * Theory of operation
 *
 * A server that accepts in one process and forks for each connection leaves all of them in the outbox of the
 * one that accepted, whose bell the peer rings. All children hear that bell: with a hundred connections at
 * work each message wakes a hundred processes (fork.c). So a child with many relatives, once it has slept for
 * a while and nobody else holds the session any more, moves it: to the peer that is as if it had gone to
 * another program (move.c), and from then on the peer knows the child and wakes it alone.
 *
 *   1. The child meets the peer in its own name: an outbox, and word of it to the peer. Nothing depends on
 *      this. A peer that has no room for one more, or is stopped, never answers, and the session stays where
 *      it is.
 *   2. When the peer has made a channel to the child, the session is made again (again.c) in a slot of the
 *      child's outbox, under a record that nobody knows; the daemon is told, to tell the peer; and then the
 *      two records change what they have. So the handle stays what it is, and what has the old slot now is a
 *      zombie that gives it back when the peer has come past.
 *   3. Until the peer has come, it looks at the old slot when it wants to know whom to wake. So the session
 *      counts as shared, and a sleep is a short one.
 *   4. When it has no session any more in the outboxes of those that it was forked from, it leaves them: it is
 *      not woken by their bells, and the daemon tells it nothing of what moves there.
 *
 * Who is killed before the daemon was told leaves the session where it was, and a relative ends it. Who is
 * killed after that has left it whole in its own outbox, with which it ends: the relatives find a record
 * whose slot they cannot reach (bury.c), the peer is told where the session is, then that its worker is dead.
 * In between the record may have the old slot still; a relative closes that, and nobody looks there any more.
 *
 * Both ends may do this at the same time. Then word of the peer's new place names our old slot: the zombie
 * that has it knows the record (move.c).
 *
 * Only a process of one thread does it: others would look at the slot that the session is leaving.
 */
#include "client/home.h"

#include "base/log.h"
#include "base/memory.h"
#include "client/again.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/family.h"
#include "client/give.h"
#include "client/move.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/session.h"
#include "client/wake.h"
#include "shm/slot.h"

#define SLEEPS 8u        /* until the first look for what could come home, and between two */
#define MOST_SLEEPS 256u /* the same after so many in vain: the peer answers after a few, or never */
#define SOON 16u
#define RELATIVES 4u   /* so many more than this process must be alive: few are woken for nothing by few */
#define UNDER_WAY 16u  /* at one time */
#define LEAVE_LOOKS 8u /* what has come home leaves a zombie where it was, for a moment */

static session_handle under_way[UNDER_WAY];
static uint32_t sleeps, looks_at; /* while there is one thread; when there are so many, it looks */
static uint32_t in_vain;          /* looks */
static uint32_t leaving; /* so many looks more, whether there is something left of ours where it was */
static uint32_t looking; /* a thread is at those under way: there may be more by now */

/* ---- one session --------------------------------------------------------------------------------------- */

/* What is the one record's becomes the other's. Who dies between two stores leaves no record that names a
 * slot which is another's: the outbox that no relative reaches comes first, and goes last. Both locks of s
 * are held; nobody knows `n`. */
static void change_places(struct session *s, struct session_cache *c, struct session *n,
                          struct session_cache *nc)
{
    uint32_t old_box = s->own_outbox, old_slot = s->own_slot, rec = s->tx_rec;
    struct slot *slot = c->own;
    struct peer_box *box = c->box;
    struct ring_rec *rings = C->family->ring;
    session_set_own_outbox(s, n->own_outbox);
    session_set_own_slot(s, n->own_slot);
    session_set_own_slot(n, old_slot);
    session_set_own_outbox(n, old_box);
    slot_change_owner(nc->own, session_index(s) + 1);
    slot_change_owner(slot, session_index(n) + 1);

    s->tx_rec = n->tx_rec;
    n->tx_rec = rec;
    session_set_tx_size(n, s->tx_size);
    session_set_tx_size(s, s->tx_rec == NONE ? 0 : 1ull << ring_log2(rings[s->tx_rec].word));
    n->left_first = s->left_first;
    n->left_last = s->left_last;
    s->left_first = s->left_last = NONE;
    if (s->tx_rec != NONE)
        ring_rec_set_owner(&rings[s->tx_rec], session_index(s) + 1);
    for (rec = n->tx_rec; rec != NONE; rec = rec == n->tx_rec ? n->left_first : rings[rec].next)
        ring_rec_set_owner(&rings[rec], session_index(n) + 1);
    session_set_head_seen(s, n->head_seen);
    session_set_head_published(s, n->head_published);
    session_set_event_pos(s, 0);

    c->own = nc->own;
    c->tx_ring = nc->tx_ring;
    store_relaxed(&c->box, nc->box);
    nc->own = slot;
    nc->tx_ring = NULL;
    store_relaxed(&nc->box, box);
    roll_enter(s, roll_of(c->box));
    roll_enter(n, roll_of(box));
}

/* What is left of it at its old place. */
static void leave(struct session *n, struct session_cache *nc, const struct session *s)
{
    session_set_listener(n, session_index(s));
    session_set_moving(n, MOVING_GONE | MOVING_HOME);
    session_set_state(n, SESSION_ZOMBIE);
    session_cache_keep(n, nc);
}

/* `old`: what is left to be put away, NULL: nothing. Both locks are held. */
static int move_home(struct session *s, struct session_cache *c, struct peer_box *box, struct own_box *own,
                     struct session **old)
{
    uint8_t was = slot_state(c->own);
    struct ctl_move moved = {.h = {.type = CTL_MOVED, .len = sizeof moved},
                             .from = session_place(s, c),
                             .peer = session_peer_place(s)};
    struct to_give from;
    int err = given_look(s, c, &from);
    struct given *g = err ? NULL : memory_get(from.size);
    struct session *n = g ? session_alloc() : NULL;
    if (!n) {
        memory_put(g, g ? from.size : 0);
        return err ? err : BERTH_E_NO_MEMORY;
    }
    given_write(s, c, &from, g);
    session_set_listener(n, session_listener(s));
    fetch_add_sc(&box->sessions, 1);
    err = session_make_again(n, g, (const uint8_t *)g + PAGE_BYTES, &moved.peer,
                             session_moving(s) & MOVING_PEER, box, own, c->peer);
    memory_put(g, from.size);
    if (err) {
        fetch_add_sc(&box->sessions, ~0u);
        session_free(n);
        return err;
    }
    struct session_cache *nc = &C->cache[session_index(n)];
    *old = n;
    slot_copy_marks(nc->own, c->own);
    slot_set_state(c->own, SLOT_MOVED); /* before the daemon may be asked about it */
    moved.to = session_place(n, nc);
    if ((err = control_send(&moved, NULL, 0)) != 0) {
        slot_set_state(c->own, was);
        return err;
    }
    change_places(s, c, n, nc);
    leave(n, nc, s);
    session_set_moving(s, session_moving(s) | MOVING_HOME);
    return 0;
}

/* True: it is on its way. */
static bool goes_home(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer || session_state(s) != SESSION_OPEN || session_others_live(s))
        return false;
    struct peer_box *box = peer_box_find(session_peer_outbox(s));
    int err = 0;
    struct own_box *own = box && !load_relaxed(&box->worker->dead) ? answering_outbox(box, &err) : NULL;
    if (!own)
        return false;
    channel_pair(box);
    channel_announce_once(box);
    if (load_relaxed(&box->own_channel) == NONE || !channel_hears(box) ||
        peer_slot(box, session_peer_slot(s)) != peer)
        return false;
    struct session *old = NULL;
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    bool may = may_give(s, c, true) && session_is_known(s, c) && !(session_moving(s) & MOVING_HOME);
    err = may ? move_home(s, c, box, own, &old) : BERTH_E_BUSY;
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    log_debug("session %u comes home: %s", session_index(s), berth_strerror(err));
    if (!err)
        zombie_put(old);
    else if (old)
        session_dispose(old);
    return err == 0;
}

/* ---- all of them --------------------------------------------------------------------------------------- */

/* The peer has come: it is a session as any other. */
static void is_home(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    store_relaxed(&c->rx_ring, NULL);
    session_set_moving(s, session_moving(s) & ~MOVING_HOME);
    if (!session_others_live(s)) /* nor has it been forked again */
        session_drop_flags(s, SF_SHARED);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

static bool still_under_way(session_handle h)
{
    struct session *s = session_get(h);
    if (!s || !(session_moving(s) & MOVING_HOME) || session_flags(s) & (SF_DEAD | SF_RESET))
        return false;
    if (!session_is_known(s, session_cache_of(s)))
        return true;
    is_home(s);
    return false;
}

static void look_at_those_under_way(void)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < C->homeward; i++) {
        if (still_under_way(under_way[i]))
            under_way[left++] = under_way[i];
    }
    store_relaxed(&C->homeward, left);
}

static bool in_a_crowd(void)
{
    uint32_t others = 0;
    for (uint32_t i = 0, n = members_used(); i < n && others < RELATIVES; i++)
        others += i != C->member && member_pid(&C->family->member[i]) > 0;
    return others >= RELATIVES;
}

/* The outboxes of which nothing is ours any more. They stay mapped: we may have to close what a relative leaves
 * there. */
static void leave_outboxes(void)
{
    uint64_t used[OUTBOXES_MAX / 64] = {0};
    for (struct session *s = NULL; (s = session_after(s));) {
        uint32_t own = session_own_outbox(s);
        if (own < OUTBOXES_MAX && session_held_by(s, C->member))
            used[own / 64] |= 1ull << own % 64;
    }
    plock_take(&C->lock);
    for (struct own_box *b = C->outboxes; b; b = b->next) {
        struct ctl_outbox msg = {.h = {.type = CTL_LEAVE, .len = sizeof msg}, .outbox = b->handle};
        if (!b->left && !worker_is_us(outbox_worker(msg.outbox)) &&
            !(used[b->index / 64] >> b->index % 64 & 1))
            b->left = control_send(&msg, NULL, 0) == 0;
    }
    plock_release(&C->lock);
}

static void leave_parents(void)
{
    leaving--;
    leave_outboxes();
    ancestors_keep();
    if (!C->ancestors)
        leaving = 0;
}

/* True: some are on their way. */
static bool bring_home(void)
{
    uint32_t before = C->homeward;
    for (struct session *s = NULL; C->homeward < UNDER_WAY && (s = session_after(s));) {
        if (session_held_by(s, C->member) && session_flags(s) & SF_SHARED &&
            !worker_is_us(session_owner(s)) && goes_home(s)) {
            under_way[C->homeward] = session_handle_of(s);
            store_relaxed(&C->homeward, C->homeward + 1);
        }
    }
    return C->homeward > before;
}

void sessions_go_home(void)
{
    uint32_t nobody = 0;
    if (load_relaxed(&C->homeward) && compare_exchange_sc(&looking, &nobody, 1u)) {
        look_at_those_under_way();
        if (!C->homeward)
            leaving = LEAVE_LOOKS;
        store_release(&looking, 0u);
    }
    if (!__libc_single_threaded || !load_relaxed(&C->sharing) || load_relaxed(&C->forked) || C->daemon_lost)
        return;
    if (++sleeps >= looks_at) {
        bool found = in_a_crowd() && bring_home();
        in_vain = found ? 0 : in_vain + 1;
        leaving += !leaving;
        looks_at = sleeps + (in_vain < SOON ? SLEEPS : MOST_SLEEPS);
    }
    if (leaving && !C->homeward && !load_relaxed(&C->joint))
        leave_parents();
}

void home_forked(void)
{
    store_relaxed(&C->homeward, 0u);
    store_relaxed(&looking, 0u);
    sleeps = in_vain = leaving = 0;
    looks_at = SLEEPS;
}
