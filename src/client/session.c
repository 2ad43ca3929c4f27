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
 * Until it is confirmed the acceptor cannot rely on being told of new bytes: the connector does not know its `want`. Such
 * sessions are on a list that is looked at on every wake and at least each millisecond (wait_cap).
 *
 * A closed session is a zombie: out of the program's reach (the handle's generation has moved), its slot still readable by
 * the peer. Zombies are looked at a few at a time, whenever a session is made.
 *
 * Who may still hold a session's memory when it is freed: nobody of this process, since the record's generation moved
 * and both its locks were held after that; of the peer's side at most a reader that checks the slot's generation.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"

/* ---- handles ---------------------------------------------------------------------------------------------- */

session_handle session_handle_of(const struct session *s)
{
    return (uint64_t)s->generation << 32 | session_index(s);
}

struct session *session_get(session_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !index || index >= SESSIONS_MAX || !(h >> 32)) /* generation 0: a record never used */
        return NULL;
    struct session *s = session_at(index);
    return load_acquire(&s->generation) == (uint32_t)(h >> 32) && session_held(s) ? s : NULL;
}

struct session_cache *session_cache_of(struct session *s)
{
    struct session_cache *c = &C->cache[session_index(s)];
    uint32_t generation = load_relaxed(&s->generation);
    if (__builtin_expect(load_acquire(&c->generation) == generation, 1))
        return c;
    plock_take(&C->cache_lock); /* one at a time: what one has begun to use another must not make anew */
    generation = load_acquire(&s->generation);
    if (c->generation == generation) {
        plock_release(&C->cache_lock);
        return c;
    }
    /* a late event may come while the record is being filled anew: it looks again under the locks, and session_cache_make follows */
    uint32_t own_index = load_relaxed(&s->own_outbox);
    outbox_handle peer = load_relaxed(&s->peer_outbox);
    struct own_box *own = own_index == NONE ? NULL : outbox_by_index(own_index);
    c->own = own ? outbox_slot(own, load_relaxed(&s->own_slot)) : NULL;
    struct peer_box *box = peer && own ? peer_box_of(peer, outbox_worker(outbox_rec_of(own)->handle)) : NULL;
    store_relaxed(&c->box, box);
    store_relaxed(&c->peer, box ? peer_slot(box, load_relaxed(&s->peer_slot)) : NULL);
    c->tx_ring = NULL;
    store_relaxed(&c->rx_ring, NULL);
    c->rx_word = 0;
    store_relaxed(&c->pollers, 0);
    store_release(&c->generation, generation);
    plock_release(&C->cache_lock);
    return c;
}

/* Of a session that has just come to have its slot: whoever looked before found it without. */
struct session_cache *session_cache_make(struct session *s)
{
    plock_take(&C->cache_lock); /* whoever is making it of what was there before has ended */
    store_release(&C->cache[session_index(s)].generation, 0u);
    plock_release(&C->cache_lock);
    return session_cache_of(s);
}

void session_set_state(struct session *s, uint32_t state)
{
    static const char *const names[] = {"FREE", "QUEUED", "OFFERED", "OPEN", "FAILED", "ZOMBIE"};
    log_debug("session %u: %s -> %s", session_index(s), names[s->state], names[state]);
    store_release(&s->state, state);
}

/* What others read of a session: written before the state that announces it. */
void session_fill_slot(struct session *s, struct own_box *box)
{
    struct slot_info *info = outbox_info(box, s->own_slot);
    struct slot *slot = outbox_slot(box, s->own_slot);
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
    store_relaxed(&slot->extra, session_index(s) + 1);
    slot->cpu = 0;
    slot->waiter = WAITER_ANY;
    slot_disarm_space(slot);
}

/* ---- link and confirm ---------------------------------------------------------------------------------------- */

/* The peer worker of the session that had these flags is dead. The record may have become another session's since: then the tag
 * is another. */
static void session_dead(struct session *s, uint32_t flags)
{
    uint32_t now = load_relaxed(&s->flags);
    while (!((now ^ flags) >> SF_TAG_SHIFT) && !compare_exchange_sc(&s->flags, &now, now | SF_DEAD))
        ;
}

/* The first who answers has it, whichever of its offers he took: they have the slot's generation in common. */
static bool answers_offer(const struct slot_info *theirs, const struct session *s)
{
    uint32_t seq = load_relaxed(&theirs->offer_seq);
    return seq && seq <= load_relaxed(&s->offer_seq);
}

/* `names`: our slot and its generation, as the peer has it. The record may have become another session's meanwhile. */
static void link_to(struct session *s, struct peer_box *box, uint32_t slot_index, const struct slot *p,
                    uint64_t names)
{
    struct session_cache *c = session_cache_of(s);
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    bool waiting = load_relaxed(&s->state) == SESSION_OFFERED || load_relaxed(&s->state) == SESSION_ZOMBIE;
    bool same = s->own_slot == (uint32_t)names && s->own_outbox == box->own->index && c->own &&
                load_relaxed(&c->own->generation) == (uint32_t)(names >> 32);
    const struct slot_info *theirs = peer_info(box, slot_index);
    bool in_time = theirs && answers_offer(theirs, s);
    uint32_t flags = load_relaxed(&s->flags);
    /* a forked process that looks for its own comes by those that were made after the fork, too: whose they are would not hear of it */
    bool may = session_held(s) || box->me == C->worker;
    if (!same || !waiting || !in_time || c->peer || !(flags & SF_CONNECTOR) || !may) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
        return;
    }
    struct own_box *own = outbox_by_index(s->own_outbox);
    store_relaxed(&s->peer_outbox, box->handle);
    store_relaxed(&s->peer_slot, slot_index);
    s->peer_generation = load_relaxed(&p->generation);
    uint64_t limit = load_relaxed(&theirs->rx_limit);
    if (limit >= 4096 && limit < load_relaxed(&s->tx_limit))
        store_relaxed(&s->tx_limit, limit);
    outbox_info(own, s->own_slot)->peer_outbox = box->handle;
    fetch_add_sc(&box->sessions, 1);
    store_relaxed(&c->box, box);
    store_release(&c->peer, p);
    store_release(&c->own->peer, (uint64_t)s->peer_generation << 32 | slot_index);
    if (load_relaxed(&s->state) == SESSION_OFFERED) {
        session_set_state(s, SESSION_OPEN);
        slot_set_state(c->own, SLOT_OPEN);
    }
    fence_sc();
    if (load_acquire(
            &box->worker->dead)) /* word of it may have come before anybody knew that this session was its */
        session_dead(s, flags);
    if (box->me == C->worker)
        route_waiting(s, -1);
    session_linked(s);
    half_unlock(&s->tx_lock); /* only now: as soon as it can be closed, it can be another's */
    half_unlock(&s->rx_lock);
}

/* What the acceptor wants to know may have happened before we knew whom to tell. */
void session_linked(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    uint64_t tail = load_relaxed(&s->tail);
    notify_data(s, c, 0, tail + (load_relaxed(&s->flags) & SF_SHUT_WR ? 1 : 0));
    notify_space(s, c, 0,
                 load_relaxed(&s->state) == SESSION_ZOMBIE ? WANT_NOTHING : load_relaxed(&s->head_published));
    watches_ready(c);
}

void session_try_link(struct session *s)
{
    if (load_relaxed(&s->flags) & SF_SHARED && load_relaxed(&s->state) != SESSION_QUEUED)
        shared_link(s);
    else if (load_relaxed(&s->state) == SESSION_QUEUED)
        offer_again(s);
    else
        events_poll(true);
}

void session_event(struct peer_box *box, uint32_t index)
{
    const struct slot *p = peer_slot(box, index);
    if (!p || !box->own)
        return;
    uint64_t names = load_acquire(&p->peer); /* our slot and its generation */
    uint32_t mine = (uint32_t)names;
    struct outbox_rec *r = outbox_rec_of(box->own);
    if (mine >= load_relaxed(&r->slots))
        return;
    struct slot *own = outbox_slot(box->own, mine);
    if (!own)
        return; /* another member's */
    uint64_t owner = load_relaxed(&own->extra);
    if (load_acquire(&own->generation) != (uint32_t)(names >> 32) || slot_state(own) == SLOT_FREE || !owner ||
        owner > SESSIONS_MAX)
        return; /* an event that came too late */
    struct session *s = session_at((uint32_t)owner - 1);
    if (load_relaxed(&s->own_slot) != mine || load_relaxed(&s->own_outbox) != box->own->index)
        return;
    struct session_cache *c = session_cache_of(s);
    if (!load_acquire(&c->peer) && load_relaxed(&s->flags) & SF_CONNECTOR) {
        const struct slot_info *info = peer_info(box, index);
        /* slots, generations and numbers of offers begin alike in each process of a family: the outbox tells them apart */
        if (slot_state(p) != SLOT_FREE && info && load_relaxed(&info->peer_outbox) == r->handle &&
            answers_offer(info, s))
            link_to(s, box, index, p, names);
        return;
    }
    if (load_acquire(&c->peer) == p)
        watches_ready(c);
}

/* Does the connector know our slot, does it know another's, or is it past knowing? */
bool session_judge(struct session *s, struct session_cache *c)
{
    uint64_t me = c->own ? (uint64_t)c->own->generation << 32 | s->own_slot : 0;
    const struct slot *peer = load_acquire(&c->peer);
    uint32_t flags = load_relaxed(&s->flags);
    uint64_t names = peer ? load_acquire(&peer->peer) : 0; /* once: it may come to name us at any moment */
    bool still = peer && load_relaxed(&peer->generation) == s->peer_generation;
    bool over =
        !still || flags & (SF_DEAD | SF_RESET) || load_relaxed(&s->state) != SESSION_OPEN || (names && names != me);
    bool knows = still && names == me;
    if (c->box && load_acquire(&c->box->their_channel) == NONE) {
        channel_pair(c->box);
        if (load_acquire(&c->box->their_channel) == NONE && !over)
            return false; /* it may know us, but not yet how to tell: very soon */
    }
    if (!knows && !over)
        return false;
    if (knows) {
        fetch_and_sc(&s->flags, ~SF_TENTATIVE);
    } else if (load_relaxed(&s->state) == SESSION_OPEN && !(flags & SF_RESET) &&
               (flags & SF_TENTATIVE || !(flags & SF_DEAD))) {
        if (names)
            fetch_or_sc(&s->flags, SF_TENTATIVE); /* for good: the bytes are another's */
        session_break(s, BERTH_E_RESET, "the connector has another acceptor");
    }
    fetch_or_sc(&s->flags, SF_CONFIRMED);
    return true;
}

void sessions_confirm(void)
{
    if (load_relaxed(&C->unconfirmed) == 0 || !plock_try(&C->zombie_lock))
        return;
    uint32_t *link = &C->unconfirmed;
    while (*link) {
        struct session *s = session_at(*link - 1);
        struct session_cache *c = session_cache_of(s);
        bool judged = session_judge(s, c);
        if (judged) {
            store_release(link, s->next);
            s->next = 0;
        } else {
            link = &s->next;
        }
        if (judged || stream_readable(s, c))
            watches_ready(c);
    }
    plock_release(&C->zombie_lock);
}

/* ---- ends ------------------------------------------------------------------------------------------------------ */

void session_break(struct session *s, int error, const char *why)
{
    struct session_cache *c = session_cache_of(s);
    int32_t none = 0;
    if (load_relaxed(&s->flags) & SF_RESET)
        return;
    (void)compare_exchange_sc(&s->error, &none, error);
    fetch_or_sc(&s->flags, SF_RESET | SF_SHUT_RD | SF_SHUT_WR);
    if (error == BERTH_E_PROTOCOL)
        log_warn("session %u is reset: %s (outbox %llx, slot %u)", session_index(s), why,
                 (unsigned long long)s->peer_outbox, s->peer_slot);
    if (c->own) {
        fetch_or_sc(&c->own->flags, SLOT_RESET);
        fetch_or_sc(&c->own->tail, COUNT_FLAG);
        fetch_or_sc(&c->own->head, COUNT_FLAG);
        if (load_acquire(&c->peer) && error == BERTH_E_PROTOCOL)
            notify_data(s, c, 0, s->tail + 1);
    }
    sleepers_wake(s);
    watches_ready(c);
}

static void end_halves(struct session *s, struct session_cache *c, int how, bool reset)
{
    uint64_t tail = s->tail;
    bool fin = how & BERTH_SHUT_WR && !(load_relaxed(&c->own->tail) & COUNT_FLAG);
    bool closed = how & BERTH_SHUT_RD && !(load_relaxed(&c->own->head) & COUNT_FLAG);
    if (reset)
        fetch_or_sc(&c->own->flags, SLOT_RESET);
    fetch_or_sc(&s->flags, (how & BERTH_SHUT_WR ? SF_SHUT_WR : 0) | (how & BERTH_SHUT_RD ? SF_SHUT_RD : 0));
    if (closed)
        stream_publish_head(s, c);
    if (fin)
        slot_set_tail(c->own, count_word(tail, COUNT_FLAG));
    fence_sc();
    if (fin)
        notify_data(s, c, tail, tail + 1);
    if (closed)
        notify_space(s, c, 0, WANT_NOTHING);
}

/* Why session_get has nothing: the handle is of nobody, or of another member of the family, who alone may end it. */
static int no_session(session_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !index || index >= SESSIONS_MAX || !(h >> 32))
        return BERTH_E_BAD_HANDLE;
    const struct session *s = session_at(index);
    return load_acquire(&s->generation) == (uint32_t)(h >> 32) && !session_held(s) ? BERTH_E_NOT_OWNER
                                                                                   : BERTH_E_BAD_HANDLE;
}

/* Whoever holds it and sleeps for a half that is over: threads of ours on the peer's words, event waits, other processes. */
static void own_sleepers_wake(struct session *s, struct session_cache *c)
{
    sleepers_wake(s);
    watches_ready(c);
    if (load_relaxed(&s->flags) & SF_SHARED)
        shared_kick(s);
}

int client_shutdown(session_handle h, int how)
{
    struct session *s = session_get(h);
    if (!s)
        return no_session(h);
    if (how & ~(BERTH_SHUT_RD | BERTH_SHUT_WR) || !how)
        return BERTH_E_INVALID;
    struct session_cache *c = session_cache_of(s);
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    int err = load_relaxed(&s->generation) != (uint32_t)(h >> 32) ? BERTH_E_BAD_HANDLE : 0;
    if (!err && load_relaxed(&s->flags) & SF_RESET)
        err = BERTH_E_CLOSED;
    /* SHUT_RD is ours alone: on Linux the peer may go on writing, and it is discarded; here it finds the fifo full */
    if (!err && how & BERTH_SHUT_RD)
        fetch_or_sc(&s->flags, SF_SHUT_RD);
    if (!err && how & BERTH_SHUT_WR)
        end_halves(s, c, BERTH_SHUT_WR, false);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (!err)
        own_sleepers_wake(s, c);
    return err;
}

/* zombie_lock is held. */
static void list_take(uint32_t *link, const struct session *s)
{
    for (; *link; link = &session_at(*link - 1)->next) {
        if (*link == session_index(s) + 1) {
            store_release(link, s->next);
            break;
        }
    }
}

static void unconfirmed_take(const struct session *s)
{
    plock_take(&C->zombie_lock);
    list_take(&C->unconfirmed, s);
    plock_release(&C->zombie_lock);
}

void queued_take(const struct session *s)
{
    plock_take(&C->zombie_lock);
    list_take(&C->queued, s);
    plock_release(&C->zombie_lock);
}

void zombie_put(struct session *s)
{
    members_only(&s->holders, C->member);
    plock_take(&C->zombie_lock);
    s->next = 0;
    if (C->zombies_last)
        session_at(C->zombies_last - 1)->next = session_index(s) + 1;
    else
        store_relaxed(&C->zombies_first, session_index(s) + 1);
    C->zombies_last = session_index(s) + 1;
    plock_release(&C->zombie_lock);
}

/* For the peer and for all handles. Both locks are held. */
static void end_session(struct session *s, struct session_cache *c, bool abort)
{
    bool unread = load_acquire(&c->peer) && !(load_relaxed(&s->flags) & SF_SHUT_RD) &&
                  count_offset(slot_tail(c->peer)) != s->head;
    end_halves(s, c, BERTH_SHUT_RD | BERTH_SHUT_WR, abort || unread);
    s->write_span = 0;
    session_set_state(s, SESSION_ZOMBIE);
    slot_set_state(c->own, SLOT_CLOSED);
    uint32_t generation = s->generation + 1 ? s->generation + 1 : 1;
    store_release(&c->generation, generation); /* what the cache says stays true of the zombie */
    store_release(&s->generation, generation);
}

/* Others go on with it. All that is ours goes before they can hear that we do not hold it any more: from then on the record may
 * become another session's at any moment. Both locks and zombie_lock are held. */
static void let_others_go_on(struct session *s, struct session_cache *c)
{
    watches_drop(&c->watches);
    list_take(&C->unconfirmed, s);
    list_take(&C->queued, s);
    if (c->box)
        fetch_add_sc(&c->box->sessions, ~0u);
    store_release(&c->generation, 0u);
    (void)members_drop(&s->holders, C->member);
}

static int finish(session_handle h, bool abort)
{
    struct session *s = session_get(h);
    if (!s)
        return no_session(h);
    struct session_cache *c = session_cache_of(s);
    bool shared = load_relaxed(&s->flags) & SF_SHARED;
    if (shared)
        plock_take(&C->zombie_lock);
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    bool mine = load_relaxed(&s->generation) == (uint32_t)(h >> 32) && session_held(s);
    bool again = mine && !shared && load_relaxed(&s->flags) & SF_SHARED; /* forked a moment ago */
    bool go_on = mine && shared && members_others_live(&s->holders);
    if (go_on)
        let_others_go_on(s, c);
    if (shared)
        plock_release(&C->zombie_lock);
    if (!mine || again || go_on) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
        return again ? finish(h, abort) : mine ? 0 : BERTH_E_BAD_HANDLE;
    }
    members_only(&s->holders,
                 C->member); /* until the slot is given back: should we die, somebody else has to do it */
    watches_drop(&c->watches);
    uint32_t was = s->state;
    end_session(s, c, abort);
    stream_release_ring(s, c);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (was == SESSION_QUEUED || (was == SESSION_FAILED && !load_acquire(&c->peer))) {
        queued_take(s);
        session_dispose(s);
        return 0;
    }
    unconfirmed_take(s);
    zombie_put(s);
    return 0;
}

int client_close(session_handle h)
{
    return finish(h, false);
}

/* A fault in the program's own buffer may have stopped this very thread while it held the lock, and its handler ends the process. */
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

static void leave_session(struct session *s, int64_t deadline)
{
    struct session_cache *c = session_cache_of(s);
    if (!session_lock_until(s, deadline))
        return;
    uint32_t state = s->state;
    if ((state == SESSION_OPEN || state == SESSION_OFFERED) && session_held(s) && c->own) {
        if (!members_others_live(&s->holders)) {
            members_only(&s->holders, C->member); /* a relative gives the slot back when it hears of our death */
            end_session(s, c, false);
        } else { /* whoever closes it after us shall not wait for word of our death before that ends it */
            if (s->flags & SF_READ_SPAN && s->read_spanner == C->member + 1)
                fetch_and_sc(&s->flags, ~SF_READ_SPAN);
            if (s->write_span && s->write_spanner == C->member + 1)
                s->write_span = 0;
            (void)members_drop(&s->holders, C->member);
        }
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

/* The daemon tells peers of our death where all that lies in an outbox ends with us. Where a relative has the outbox too, it is
 * the relative's to end what nobody holds any more, and it may be asleep for long. */
void client_leave(void)
{
    if (!C->attached || !berth_family_shared)
        return;
    struct member_set alive = members_alive();
    int64_t deadline = clock_now() + 20 * NS_PER_MS;
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        uint32_t state = load_acquire(&s->state), own = load_relaxed(&s->own_outbox);
        if ((state == SESSION_OPEN || state == SESSION_OFFERED) && session_held(s) && own < OUTBOXES_MAX &&
            members_other(&C->family->outbox[own].mapped, C->member, &alive))
            leave_session(s, deadline);
    }
}

bool client_accepted(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return false;
    if (!session_cache_of(s)->peer)
        session_try_link(s);
    return session_cache_of(s)->peer != NULL;
}

bool client_shared(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return false;
    struct member_set alive = members_alive();
    return members_other(&s->holders, C->member, &alive);
}

int client_abort(session_handle h)
{
    return finish(h, true);
}

/* Phase two: nobody can find it any more, the peer is done with it. */
void session_dispose(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    struct own_box *own = outbox_by_index(s->own_outbox);
    family_lock_acquire(&s->tx_lock, C->member);
    store_relaxed(&s->head_seen, s->tail); /* whatever is unread stays so */
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
    if (c->box)
        fetch_add_sc(&c->box->sessions, ~0u);
    outbox_slot_free(own, s->own_slot);
    session_free(s);
}

static bool peer_is_done(struct session *s, struct session_cache *c)
{
    if (load_relaxed(&s->flags) & (SF_DEAD | SF_RESET))
        return true;
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer)
        return false;
    if (load_acquire(&peer->generation) != s->peer_generation)
        return true;
    return load_relaxed(&s->flags) & SF_CONNECTOR && slot_state(peer) == SLOT_CLOSED;
}

void zombies_reap(int most)
{
    peers_collect(false);
    if (load_relaxed(&C->zombies_first) == 0)
        return;
    for (int i = 0; i < most; i++) {
        plock_take(&C->zombie_lock);
        uint32_t first = C->zombies_first;
        struct session *s = first ? session_at(first - 1) : NULL;
        if (s) {
            store_relaxed(&C->zombies_first, s->next);
            if (!s->next)
                C->zombies_last = 0;
            s->next = 0;
        }
        plock_release(&C->zombie_lock);
        if (!s)
            return;
        struct session_cache *c = session_cache_of(s);
        if (!load_acquire(&c->peer) && load_relaxed(&s->flags) & SF_CONNECTOR)
            session_try_link(s);
        if (peer_is_done(s, c)) {
            session_dispose(s);
            fetch_add_sc(&C->zombies_done, 1);
            continue;
        }
        plock_take(&C->zombie_lock);
        if (C->zombies_last)
            session_at(C->zombies_last - 1)->next = first;
        else
            store_relaxed(&C->zombies_first, first);
        C->zombies_last = first;
        plock_release(&C->zombie_lock);
    }
}

void sessions_settle(void)
{
    outbox_shrink();
    sessions_confirm();
    if (load_relaxed(&C->queued) || load_relaxed(&C->reoffer_at))
        sessions_offer_again();
    uint32_t before;
    do {
        before = load_relaxed(&C->zombies_done);
        zombies_reap(8);
    } while (load_relaxed(&C->zombies_done) - before == 8); /* as long as all of them were done */
}

void sessions_of_worker_dead(uint32_t worker)
{
    peer_worker_dead(worker);
    fence_sc(); /* link_to looks the other way round */
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        uint32_t flags = load_acquire(&s->flags); /* before the peer, as session_alloc clears that first */
        outbox_handle peer = load_relaxed(&s->peer_outbox);
        if (load_acquire(&s->state) == SESSION_FREE || outbox_worker(peer) != worker || !peer)
            continue;
        session_dead(s, flags);
        struct session_cache *c = session_cache_of(s);
        sleepers_wake(s);
        watches_ready(c);
    }
}

void sessions_listener_gone(uint32_t listener)
{
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        uint32_t state = load_acquire(&s->state);
        if (load_relaxed(&s->listener) == listener && load_relaxed(&s->flags) & SF_CONNECTOR &&
            !load_relaxed(&s->peer_outbox) && members_has(&s->holders, C->member) &&
            (state == SESSION_QUEUED || state == SESSION_OFFERED || state == SESSION_ZOMBIE)) {
            session_try_link(s); /* accepted at the last moment? */
            if (!load_relaxed(&s->peer_outbox))
                session_break(s, state == SESSION_QUEUED ? BERTH_E_REFUSED : BERTH_E_RESET, "its listener is gone");
        }
    }
    route_gone(listener);
}

/* The program should hear of it rather than wait for an acceptor whom we cannot be introduced to. */
void sessions_unreachable(uint32_t app)
{
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (load_acquire(&s->state) == SESSION_OFFERED && load_relaxed(&s->app) == app &&
            !load_relaxed(&s->peer_outbox) && members_has(&s->holders, C->member))
            session_break(s, BERTH_E_NO_MEMORY, "no descriptor is free");
    }
}

int client_take_error(session_handle h)
{
    sleeper_glance();
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    int32_t error = exchange_sc(&s->error, 0);
    if (error == BERTH_E_RESET && !client_tell_reset(h))
        error = 0;
    else if (!error && !(load_relaxed(&s->flags) & SF_RESET_TOLD) && stream_cut(s, session_cache_of(s)) &&
             client_tell_reset(h))
        error = BERTH_E_RESET;
    return error;
}

bool client_tell_reset(session_handle h)
{
    struct session *s = session_get(h);
    return s && !(fetch_or_sc(&s->flags, SF_RESET_TOLD) & SF_RESET_TOLD);
}

bool client_write_lost(session_handle h)
{
    struct session *s = session_get(h);
    return s && !(load_relaxed(&s->flags) & (SF_SHUT_WR | SF_RESET)) &&
           !(fetch_or_sc(&s->flags, SF_WRITE_LOST) & SF_WRITE_LOST);
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
    if ((rx && (rx < 4096 || rx > 1ull << RING_MAX_LOG2)) || (tx && (tx < 4096 || tx > 1ull << RING_MAX_LOG2)))
        return BERTH_E_INVALID;
    if (tx)
        store_relaxed(&s->tx_limit, tx);
    if (rx)
        store_relaxed(&outbox_info(outbox_by_index(s->own_outbox), s->own_slot)->rx_limit, (uint32_t)rx);
    return 0;
}
