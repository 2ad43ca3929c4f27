/* session.c - the life of a session: offer, accept, link, close, and the way back of its slots.
 *
 * Theory of operation
 *
 *   connector                                     acceptor
 *   slot OFFERED, token into the listener's pipe
 *   (connected: bytes may be written)             takes the token, checks slot, generation and offer_seq
 *                                                 own slot ACCEPTED, naming the offer; event
 *   sees the event: OPEN, naming the acceptor's   sees OPEN: confirmed
 *   slot; tells what it would have told before
 *   ... bytes ...
 *   close: FIN in tail, flag in head, CLOSED      the same, in either order
 *   frees its slot (generation + 1) when the      frees its slot when the connector's generation moved on
 *   acceptor's is CLOSED
 *
 * Knowing each other is link.c, ending life.c, the way back of the slots upkeep.c.
 *
 * Who may still hold a session's memory when it is freed: nobody of this process, since the record's
 * generation moved and both its locks were held after that; of the peer's side at most a reader that checks
 * the slot's generation.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/ports.h"
#include "client/rings.h"
#include "client/rolls.h"
#include "client/session.h"
#include "client/slots.h"
#include "client/watch.h"
#include "shm/slot.h"

/* ---- handles ------------------------------------------------------------------------------------------- */

session_handle session_handle_of(const struct session *s)
{
    return (uint64_t)s->generation << 32 | session_index(s);
}

/* cache_lock is held. */
static void cache_make(struct session *s, struct session_cache *c, uint32_t generation)
{
    /* a late event may come while the record is being filled anew: it looks again under the locks, and
     * session_cache_make follows */
    uint32_t own_index = session_own_outbox(s);
    outbox_handle peer = session_peer_outbox(s);
    struct own_box *own = own_index == NONE ? NULL : outbox_by_index(own_index);
    c->own = own ? outbox_slot(own, session_own_slot(s)) : NULL;
    struct peer_box *box = peer && own ? peer_box_of(peer, outbox_worker(own->handle)) : NULL;
    store_relaxed(&c->box, box);
    store_relaxed(&c->peer, box ? peer_slot(box, session_peer_slot(s)) : NULL);
    if (own)
        roll_enter(s, roll_of(box));
    c->tx_ring = NULL;
    store_relaxed(&c->rx_ring, NULL);
    c->rx_word = 0;
    store_relaxed(&c->pollers, 0);
    store_release(&c->generation, generation);
}

struct session_cache *session_cache_find(struct session *s)
{
    struct session_cache *c = &C->cache[session_index(s)];
    plock_take(&C->cache_lock); /* one at a time: what one has begun to use another must not make anew */
    uint32_t generation = session_generation_acquire(s);
    if (c->generation != generation)
        cache_make(s, c, generation);
    plock_release(&C->cache_lock);
    return c;
}

/* Of a session that has just come to have its slot: whoever looked before found it without. */
struct session_cache *session_cache_make(struct session *s)
{
    struct session_cache *c = &C->cache[session_index(s)];
    plock_take(&C->cache_lock); /* whoever is making it of what was there before has ended */
    store_release(&c->generation, 0u);
    cache_make(s, c, session_generation_acquire(s));
    plock_release(&C->cache_lock);
    return c;
}

void session_meets(struct session *s, const struct own_box *own, uint32_t own_slot,
                   const struct peer_box *box, const struct ctl_place *peer)
{
    session_set_app(s, box->worker->app);
    session_set_own_outbox(s, own->index);
    session_set_own_slot(s, own_slot);
    session_set_peer_outbox(s, peer->outbox);
    session_set_peer_slot(s, peer->slot);
    session_set_peer_generation(s, peer->generation);
}

bool session_peer_stale(const struct session *s, const struct session_cache *c)
{
    struct peer_box *box = load_relaxed(&c->box);
    const struct slot *peer = load_acquire(&c->peer);
    return peer &&
           (!box || box->handle != session_peer_outbox(s) || peer_slot(box, session_peer_slot(s)) != peer);
}

static void peer_anew(struct session *s, struct session_cache *c)
{
    struct peer_box *old = load_relaxed(&c->box), *box = NULL;
    const struct slot *p = NULL;
    outbox_handle at = session_peer_outbox(s);
    const struct own_box *own = outbox_by_index(session_own_outbox(s));
    if (!old || !at)
        return;
    if (own)
        box = peer_box_of(at, outbox_worker(own->handle));
    if (box) {
        p = peer_slot(box, session_peer_slot(s));
        fetch_add_sc(&box->sessions, 1);
    }
    store_relaxed(&c->rx_ring, NULL);
    store_relaxed(&c->rx_word, 0);
    store_relaxed(&c->box, box);
    store_release(&c->peer, p); /* NULL: it is to be met first, as by who was forked before it came */
    roll_enter(s, roll_of(box));
    fetch_add_sc(&old->sessions, ~0u);
}

/* A relative may have heard before us that the peer went elsewhere: then the record says where, and the slot
 * that the cache names may be another session's by now. One of its locks is held, so the record stays. */
void session_peer_anew(struct session *s, struct session_cache *c)
{
    if (__builtin_expect(!session_peer_stale(s, c), 1))
        return;
    plock_take(&C->cache_lock);
    if (session_peer_stale(s, c)) /* and no other thread was faster */
        peer_anew(s, c);
    plock_release(&C->cache_lock);
}

/* What the cache says stays true of the record's next generation, as of a zombie. Both change in one: a late
 * event that found them different would make the cache anew beside whoever holds the session's locks. */
void session_cache_keep(struct session *s, struct session_cache *c)
{
    uint32_t generation = s->generation + 1 ? s->generation + 1 : 1;
    plock_take(&C->cache_lock);
    store_release(&c->generation, generation);
    session_set_generation(s, generation);
    plock_release(&C->cache_lock);
}

void session_set_state(struct session *s, uint32_t state)
{
    static const char *const names[] = {"FREE", "QUEUED", "OFFERED", "OPEN", "FAILED", "ZOMBIE"};
    _Static_assert(sizeof names / sizeof names[0] == SESSION_STATES, "a state without a name");
    log_debug("session %u: %s -> %s", session_index(s), names[s->state], names[state]);
    session_store_state(s, state);
}

/* What others read of a session: written before the state that announces it. */
void session_fill_slot(struct session *s, struct own_box *box)
{
    struct slot_info *info = outbox_info(box, s->own_slot);
    struct slot *slot = outbox_slot(box, s->own_slot);
    if (!slot)
        __builtin_unreachable(); /* we have just taken it: it is mapped here */
    memset(info, 0, sizeof *info);
    memcpy(info->local_addr, s->local.addr, 16);
    memcpy(info->remote_addr, s->remote.addr, 16);
    info->local_port = s->local.port;
    info->remote_port = s->remote.port;
    info->proto = PROTO_TCP;
    info->addr_kind = s->remote.family;
    info->listener = s->listener;
    info->offer_seq = s->offer_seq;
    info->peer_outbox = s->peer_outbox;
    info->rx_limit = (uint32_t)C->rx_limit;
    slot_set_extra(slot, session_index(s) + 1);
    slot->cpu = 0;
    slot->waiter = WAITER_ANY;
    slot_disarm_space(slot);
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

/* Did the peer die with bytes of ours unread? Then TCP shows a reset, else the end of the stream. */
static bool left_unread(const struct session *s, const struct slot *peer)
{
    uint64_t head = count_offset(slot_head(peer)), tail = session_tail(s);
    return head < tail && slot_taken(peer, head) != tail;
}

/* It closed before it knew where our bytes lie, or while they were on their way: it could not tell. */
static bool closed_on_unread(const struct session *s, const struct slot *peer)
{
    return slot_state(peer) == SLOT_CLOSED && count_offset(slot_head(peer)) < session_tail(s);
}

/* After its FIN nothing of what it sent can be lost: to TCP that is an error of sending (EPIPE), or none
 * where both had ended. */
static int cut_after_end(const struct slot *peer, uint32_t flags)
{
    if (!slot_had_ended(peer))
        return BERTH_E_RESET;
    return flags & SF_SHUT_WR ? 0 : BERTH_E_CLOSED;
}

int stream_cut(struct session *s, struct session_cache *c)
{
    uint32_t flags = session_flags(s);
    if (flags & SF_RESET)
        return BERTH_E_RESET;
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer || flags & SF_TENTATIVE)
        return 0;
    if (slot_tail(peer) & COUNT_FLAG)
        return slot_was_reset(peer) || closed_on_unread(s, peer) ? cut_after_end(peer, flags) : 0;
    return flags & SF_DEAD && left_unread(s, peer) ? BERTH_E_RESET : 0;
}

bool session_over(struct session *s, struct session_cache *c)
{
    uint32_t flags = session_flags(s);
    if (stream_cut(s, c))
        return true;
    const struct slot *peer = load_acquire(&c->peer);
    return flags & SF_SHUT_WR && peer && !(flags & SF_TENTATIVE) &&
           (flags & SF_DEAD || slot_tail(peer) & COUNT_FLAG);
}

void session_break(struct session *s, int error, const char *why)
{
    struct session_cache *c = session_cache_of(s);
    if (session_flags(s) & SF_RESET)
        return;
    session_set_error(s, error);
    session_add_flags(s, SF_RESET | SF_SHUT_RD | SF_SHUT_WR);
    if (error == BERTH_E_PROTOCOL)
        log_warn("session %u is reset: %s (outbox %llx, slot %u)", session_index(s), why,
                 (unsigned long long)s->peer_outbox, s->peer_slot);
    if (c->own) {
        slot_cut(c->own);
        if (load_acquire(&c->peer) && (error == BERTH_E_PROTOCOL || error == BERTH_E_CLOSED)) {
            notify_data(s, c, 0, WANT_NOTHING);
            notify_space(s, c, 0, WANT_NOTHING);
        }
    }
    sleepers_wake(s);
    watches_ready(c);
}

/* Why session_get has nothing: the handle is of nobody, or of another member of the family, who alone may end
 * it. */
int session_missing(session_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !index || index >= SESSIONS_MAX || !(h >> 32))
        return BERTH_E_BAD_HANDLE;
    const struct session *s = session_at(index);
    return session_generation_acquire(s) == (uint32_t)(h >> 32) && !session_held(s) ? BERTH_E_NOT_OWNER
                                                                                    : BERTH_E_BAD_HANDLE;
}

/* zombie_lock is held. */
void sessions_list_take(uint32_t *link, const struct session *s)
{
    for (; *link; link = &session_at(*link - 1)->next) {
        if (*link == session_index(s) + 1) {
            session_list_set(link, s->next);
            break;
        }
    }
}

void unconfirmed_take(const struct session *s)
{
    if (session_flags(s) &
        SF_CONNECTOR) /* never on the list. SF_CONFIRMED says nothing: a relative may have set it */
        return;
    plock_take(&C->zombie_lock);
    sessions_list_take(&C->unconfirmed, s);
    plock_release(&C->zombie_lock);
}

void queued_take(const struct session *s)
{
    plock_take(&C->zombie_lock);
    sessions_list_take(&C->queued, s);
    plock_release(&C->zombie_lock);
}

static void take_turn(struct roll *r)
{
    r->next_turn = NULL;
    if (C->turn_last)
        C->turn_last->next_turn = r;
    else
        store_relaxed(&C->turn_first, r);
    C->turn_last = r;
}

/* Each peer has a queue of its own, and they take turns: one that is never done with any of a thousand holds
 * up nobody else. */
void zombie_put(struct session *s)
{
    struct roll *r = roll_of(load_relaxed(&session_cache_of(s)->box));
    session_hold_alone(s);
    plock_take(&C->zombie_lock);
    s->next = 0;
    if (r->zombies_last) {
        session_at(r->zombies_last - 1)->next = session_index(s) + 1;
    } else {
        store_relaxed(&r->zombies_first, session_index(s) + 1);
        take_turn(r);
    }
    r->zombies_last = session_index(s) + 1;
    plock_release(&C->zombie_lock);
}

static void leave_turn(struct roll *r)
{
    struct roll *before = NULL;
    for (struct roll *at = C->turn_first; at && at != r; at = at->next_turn)
        before = at;
    if (before)
        before->next_turn = r->next_turn;
    else
        store_relaxed(&C->turn_first, r->next_turn);
    if (C->turn_last == r)
        C->turn_last = before;
}

bool zombie_leave(struct session *s)
{
    struct roll *r = roll_of(load_relaxed(&session_cache_of(s)->box));
    uint32_t before = 0, at = load_relaxed(&r->zombies_first), me = session_index(s) + 1;
    for (; at && at != me; at = session_at(at - 1)->next)
        before = at;
    if (!at)
        return false;
    if (before)
        session_at(before - 1)->next = s->next;
    else
        store_relaxed(&r->zombies_first, s->next);
    if (r->zombies_last == me)
        r->zombies_last = before;
    s->next = 0;
    if (!r->zombies_first)
        leave_turn(r);
    return true;
}

struct session *zombie_take(void)
{
    struct session *s = NULL;
    if (!load_relaxed(&C->turn_first))
        return NULL;
    plock_take(&C->zombie_lock);
    struct roll *r = C->turn_first;
    if (r) {
        store_relaxed(&C->turn_first, r->next_turn);
        if (!r->next_turn)
            C->turn_last = NULL;
        s = session_at(r->zombies_first - 1);
        store_relaxed(&r->zombies_first, s->next);
        s->next = 0;
        if (r->zombies_first)
            take_turn(r);
        else
            r->zombies_last = 0;
    }
    plock_release(&C->zombie_lock);
    return s;
}

/* A fault in the program's own buffer may have stopped this very thread while it held the lock, and its
 * handler ends the process. */
static bool half_lock_until(struct family_lock *l, int64_t deadline)
{
    while (!family_lock_try(l, berth_lock_id)) {
        if (clock_now() >= deadline)
            return false;
        cpu_relax();
    }
    return true;
}

bool session_lock_until(struct session *s, int64_t deadline)
{
    if (!half_lock_until(&s->rx_lock, deadline))
        return false;
    if (half_lock_until(&s->tx_lock, deadline))
        return true;
    half_unlock(&s->rx_lock);
    return false;
}

bool client_shared(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return false;
    struct member_set others = members_alive();
    others.word[C->member / 64].bits &= ~member_bit(C->member);
    return holders_any(s, &others);
}

/* Phase two: nobody can find it any more, the peer is done with it. */
void session_dispose(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    struct own_box *own = outbox_by_index(s->own_outbox);
    family_lock_acquire(&s->tx_lock, C->member);
    session_set_head_seen(s, s->tail); /* whatever is unread stays so */
    for (; s->left_first != NONE;) {
        uint32_t rec = s->left_first;
        s->left_first = C->family->ring[rec].next;
        outbox_ring_free(own, rec);
    }
    if (s->tx_rec != NONE) {
        outbox_ring_free(own, s->tx_rec);
        s->tx_rec = NONE;
    }
    half_unlock(&s->tx_lock);
    ports_release(s);
    roll_leave(s); /* before its box may go */
    if (c->box)
        fetch_add_sc(&c->box->sessions, ~0u);
    outbox_slot_free(own, s->own_slot);
    session_free(s);
}

int client_local(session_handle h, endpoint *out)
{
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    *out = s->local;
    return 0;
}

int client_remote(session_handle h, endpoint *out)
{
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    *out = s->remote;
    return 0;
}

int client_set_fifo_limit(session_handle h, uint64_t rx, uint64_t tx)
{
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    if ((rx && (rx < 4096 || rx > 1ull << RING_MAX_LOG2)) ||
        (tx && (tx < 4096 || tx > 1ull << RING_MAX_LOG2)))
        return BERTH_E_INVALID;
    if (tx)
        session_set_tx_limit(s, tx);
    if (rx)
        info_set_rx_limit(outbox_info(outbox_by_index(s->own_outbox), s->own_slot), (uint32_t)rx);
    return 0;
}
