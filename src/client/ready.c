/* ready.c - what a session is ready for, and by which mark the peer will tell when that changes.
 *
 * Theory of operation
 *
 * Everybody who waits asks here: event sets, poll and select, blocked reads and writes, FIONREAD. Nothing
 * here takes a session's locks, so each word is read once, and an answer may be old when it is given; c->peer
 * above all, which goes when another thread closes the session and its record is used again.
 *
 * Bytes count as there when a read would find them: below the tail that was last seen in a ring that is
 * mapped, or in a ring whose segment is mapped. A ring in a segment that has not come yet is asked for, and
 * told as READY_MISSING: the caller fetches it (fetch_bytes) when it holds no lock, and asks again. One that
 * will never come counts as there: the read finds the error.
 */
#include "client/ready.h"

#include <sys/epoll.h>

#include "base/sys.h"
#include "client/family.h"
#include "client/peer.h"
#include "client/session.h"
#include "client/share.h"
#include "client/sleeper.h"
#include "client/upkeep.h"
#include "client/wake.h"
#include "client/watch.h"
#include "shm/slot.h"

/* How many bytes somebody can wait for: not more than the peer puts into its ring before it waits for us.
 * When it takes a larger ring its next bytes pass the mark, and we look again. */
static uint64_t reachable(const struct slot *peer, uint64_t least)
{
    if (__builtin_expect(least <= 1, 1) || !peer)
        return 1;
    uint32_t log2 = ring_log2(slot_ring(peer));
    uint64_t size = log2 < RING_MIN_LOG2 || log2 > RING_MAX_LOG2 ? 1ull << RING_MIN_LOG2 : 1ull << log2;
    return least > size - size / 4 ? size - size / 4 : least;
}

static bool ring_missing(const struct session *s, struct session_cache *c, const struct slot *peer)
{
    return ring_look(s, c, peer) == BERTH_E_WOULD_BLOCK;
}

bool bytes_missing(struct session *s, struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer && session_flags(s) & SF_DEAD)
        return peer_awaited(s, c);
    return peer && !(session_flags(s) & (SF_TENTATIVE | SF_RESET)) &&
           count_offset(slot_tail(peer)) != session_head(s) && ring_missing(s, c, peer);
}

bool session_has(struct session *s, struct session_cache *c, uint64_t least)
{
    uint32_t flags = session_flags(s);
    if (flags & (SF_RESET | SF_SHUT_RD | SF_DEAD))
        return !(flags & SF_DEAD) || !bytes_missing(s, c); /* those of the dead can still be had */
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer)
        return peer_unreachable(s, c);
    if (flags & SF_TENTATIVE)
        return false;
    uint64_t word = slot_tail(peer), there = count_offset(word) - session_head(s);
    if ((!there || there < reachable(peer, least)) && !(word & COUNT_FLAG))
        return false;
    return !there || !ring_missing(s, c, peer); /* an end comes after the bytes before it */
}

bool stream_readable(struct session *s, struct session_cache *c)
{
    return session_has(s, c, session_lowat(s));
}

bool stream_writable(struct session *s, struct session_cache *c)
{
    if (session_flags(s) & (SF_RESET | SF_SHUT_WR | SF_DEAD))
        return true;
    if (session_state(s) == SESSION_QUEUED || session_flags(s) & SF_TENTATIVE)
        return false;
    if (peer_unreachable(s, c))
        return true;
    uint64_t size = session_tx_size(s);
    if (!size || size * 4 <= session_tx_limit(s))
        return true; /* none yet, or it can grow: by four, see send_room */
    uint64_t head = session_head_seen(s);
    const struct slot *peer = load_acquire(&c->peer);
    if (peer) {
        uint64_t word = slot_head(peer);
        if (word & COUNT_FLAG)
            return true;
        head = count_offset(word);
    }
    return size - (session_tail(s) - head) >= size / 4;
}

/* ---- fetching ------------------------------------------------------------------------------------------ */

static bool bytes_here(void *arg)
{
    struct session *s = session_get(*(session_handle *)arg);
    if (s && !load_acquire(&session_cache_of(s)->peer))
        session_try_link(s);
    return !s || !bytes_missing(s, session_cache_of(s));
}

bool fetch_bytes(session_handle h)
{
    return fetch_wait(bytes_here, &h);
}

/* ---- arming -------------------------------------------------------------------------------------------- */

/* Somebody else goes by `want`, too, or comes to: an event set, a poll, another process, a second sleeper. */
static bool in_company(const struct session *s, const struct session_cache *c)
{
    return load_sc(&c->watches) || load_sc(&c->pollers) || session_flags(s) & SF_SHARED ||
           load_sc(&C->more[session_index(s)].sleepers) > 1;
}

/* `peer`: where the mark is for bytes. */
static void arm(struct session *s, struct session_cache *c, uint64_t *want, uint64_t offset, uint64_t flag,
                const struct slot *peer)
{
    if (!in_company(s, c)) {
        slot_arm(want, offset, flag);
        return;
    }
    int moved = slot_arm_among(want, offset, flag, peer);
    if (moved && session_flags(s) & SF_SHARED)
        shared_kick(s);
    if (moved < 0)
        sleepers_wake(s); /* whose high mark it was: it waits on by another */
}

#define EDGE_LOOKS 8 /* at a tail that moves on each time */

/* Beyond what is there: again, if more came before the peer could see the mark, or nobody would tell of what
 * follows. */
static bool arm_beyond(struct session *s, struct session_cache *c, uint64_t flag)
{
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t seen, word = peer ? slot_tail(peer) : 0;
    for (int look = 0; look < EDGE_LOOKS; look++) {
        seen = count_offset(word) + (word & COUNT_FLAG);
        arm(s, c, &c->own->want, seen, flag, peer);
        peer = load_acquire(&c->peer);
        word = peer ? slot_tail_sc(peer) : 0;
        if (count_offset(word) + (word & COUNT_FLAG) <= seen)
            return !look;
    }
    return false; /* it goes on and on: who asks looks again before he sleeps */
}

bool stream_arm_read(struct session *s, struct session_cache *c, uint64_t flag, bool edge, uint64_t least)
{
    if (edge)
        return arm_beyond(s, c, flag);
    least = least ? least : session_lowat(s);
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t more = reachable(peer, least) - 1;
    if (more && !in_company(s, c)) {
        arm(s, c, &c->own->want, session_head(s) + more, flag, peer);
        if (!in_company(s, c)) /* who has come since finds the mark and takes it down, see slot_arm_among */
            return !session_has(s, c, least);
        watches_again(c); /* it may lie over another's mark: that one looks again */
        sleepers_wake(s);
    }
    if (more)
        return arm_beyond(s, c, flag) && !session_has(s, c, least);
    arm(s, c, &c->own->want, session_head(s), flag, peer);
    return !session_has(s, c, least);
}

bool stream_arm_write(struct session *s, struct session_cache *c, uint64_t flag)
{
    uint64_t size = session_tx_size(s), tail = session_tail(s);
    uint64_t mark = tail > size - size / 4 ? tail - (size - size / 4) - 1 : 0;
    arm(s, c, &c->own->want_space, mark, flag, NULL);
    fence_sc();
    return !stream_writable(s, c);
}

/* ---- the answer ---------------------------------------------------------------------------------------- */

/* What is told of can be read, even if the peer moves on to a ring that is not here in the meantime: the
 * bytes are noted as seen, as a read does, and stay where they were seen. False: it has moved on already. A
 * thread that is reading this moment notes them itself. */
static bool note_seen(struct session *s, struct session_cache *c)
{
    bool noted = true;
    if ((session_tail_seen(s) > session_head(s) && load_relaxed(&c->rx_ring)) ||
        session_flags(s) & (SF_SHARED | SF_TENTATIVE | SF_RESET | SF_DEAD) ||
        !family_lock_try_now(&s->rx_lock))
        return true;
    const struct slot *peer = load_acquire(&c->peer);
    struct peer_box *box = load_relaxed(&c->box);
    uint64_t head = s->head, tail = peer ? count_offset(slot_tail(peer)) : head;
    if (box && tail - head - 1 <
                   1ull << RING_MAX_LOG2) { /* else there is nothing, or nonsense: a read will say so */
        uint64_t ring = slot_ring(peer), size = s->rx_size;
        const uint8_t *at = c->rx_ring;
        int err = BERTH_E_PROTOCOL;
        if (!at || ring != c->rx_word)
            at = peer_ring_find(box, ring, &size, &err);
        if (at && tail - head <= size) {
            store_relaxed(&c->rx_ring, at);
            store_relaxed(&c->rx_word, ring);
            s->rx_size = size;
            session_set_tail_seen(s, tail);
        }
        noted = at || err != BERTH_E_WOULD_BLOCK;
    }
    half_unlock(&s->rx_lock);
    return noted;
}

/* What makes the answer depend on more than bytes and room. */
#define READY_STRANGE (SF_RESET | SF_SHUT_RD | SF_SHUT_WR | SF_DEAD | SF_TENTATIVE | SF_SHARED | SF_STOPPED)

/* The same for most sessions at most times: open, ours alone, nothing has ended, and what has come lies in
 * the ring in hand. False: it is not that. */
static inline bool ready_plain(struct session *s, struct session_cache *c, uint32_t *events)
{
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer || session_flags(s) & READY_STRANGE || session_state(s) != SESSION_OPEN || session_lowat(s) > 1)
        return false;
    uint64_t tail = slot_tail(peer), head = session_head(s), taken = slot_head(peer);
    if ((tail | taken) & COUNT_FLAG)
        return false;
    *events = 0;
    if (count_offset(tail) != head) {
        bool seen = session_tail_seen(s) > head;
        if (!load_relaxed(&c->rx_ring) || (!seen && slot_ring(peer) != load_relaxed(&c->rx_word)))
            return false;
        *events = seen || note_seen(s, c) ? READY_IN : READY_MISSING;
    }
    uint64_t size = session_tx_size(s);
    if (!size || size * 4 <= session_tx_limit(s) ||
        size - (session_tail(s) - count_offset(taken)) >= size / 4)
        *events |= READY_OUT;
    return true;
}

uint32_t session_ready(struct session *s, struct session_cache *c)
{
    uint32_t plain;
    if (__builtin_expect(ready_plain(s, c, &plain), 1))
        return plain;
    uint32_t flags = session_flags(s);
    if (session_state(s) == SESSION_QUEUED && !(flags & SF_RESET))
        return 0; /* the connect is not through */
    /* then neither their end nor a cut has come: a read finds nothing yet */
    bool missing = bytes_missing(s, c);
    bool cut = !missing && stream_cut(s, c);
    uint32_t error = cut && !(flags & SF_RESET_TOLD) ? EPOLLERR : 0;
    if (flags & SF_STOPPED)
        return READY_OUT | EPOLLHUP | error;
    if (flags & SF_RESET)
        return READY_IN | READY_OUT | EPOLLRDHUP | EPOLLHUP | error;
    uint32_t events = error;
    bool ended = flags & SF_SHUT_RD || (flags & SF_DEAD && !missing), closed = cut || flags & SF_SHUT_WR;
    const struct slot *peer = load_acquire(&c->peer);
    if (peer && !(flags & SF_TENTATIVE)) {
        ended = ended || (slot_tail(peer) & COUNT_FLAG && !missing);
        if (slot_head(peer) & COUNT_FLAG)
            events |= READY_OUT; /* a write tells */
    }
    if (ended)
        events |= EPOLLRDHUP | READY_IN;
    if (ended && closed)
        events |= EPOLLHUP;
    if (stream_readable(s, c))
        events |= note_seen(s, c) ? READY_IN : READY_MISSING;
    else if (missing)
        events |= READY_MISSING;
    if (stream_writable(s, c))
        events |= READY_OUT;
    return events;
}

uint32_t client_readiness(session_handle h)
{
    struct session *s = session_get(h);
    return s ? session_ready(s, session_cache_of(s)) : EPOLLERR | EPOLLHUP;
}

/* Bytes between a head and a tail, one of which is the peer's word: as much as may be. */
static size_t between(uint64_t head, uint64_t tail)
{
    return tail > head && tail - head <= 1ull << RING_MAX_LOG2 ? (size_t)(tail - head) : 0;
}

size_t client_readable(session_handle h)
{
    sleeper_glance();
    struct session *s = session_get(h);
    if (!s)
        return 0;
    if (!load_acquire(&session_cache_of(s)->peer))
        session_meet(s); /* who only asks must hear of the acceptor, too */
    if (bytes_missing(s, session_cache_of(s)) && !fetch_bytes(h))
        return 0; /* what is told can be read */
    const struct slot *peer = load_acquire(&session_cache_of(s)->peer);
    return peer ? between(session_head(s), count_offset(slot_tail(peer))) : 0;
}

size_t client_unread(session_handle h)
{
    struct session *s = session_get(h);
    const struct slot *peer = s ? load_acquire(&session_cache_of(s)->peer) : NULL;
    return s ? between(peer ? count_offset(slot_head(peer)) : 0, session_tail(s)) : 0;
}

int client_set_lowat(session_handle h, uint32_t bytes)
{
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    session_set_lowat(s, bytes);
    /* it is an edge where there are enough, or a FIN came, also for who has been told (tcp_set_rcvlowat) */
    struct session_cache *c = session_cache_of(s);
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t tail = peer ? slot_tail(peer) : 0;
    size_t there = peer ? between(session_head(s), count_offset(tail)) : 0;
    bool enough = there && there >= session_lowat(s), ended = false;
    uint32_t flags = session_flags(s);
    if (peer && flags & SF_RESET) /* stream_cut says no more what came before it */
        ended = tail & COUNT_FLAG && (!slot_was_reset(peer) || slot_had_ended(peer));
    else if (peer)
        ended = (tail & COUNT_FLAG || flags & SF_DEAD) && stream_cut(s, c) != BERTH_E_RESET;
    if (enough || ended)
        watches_renew(c, true);
    else if (load_acquire(&c->watches))
        watches_again(c);
    sleepers_wake(s);
    return 0;
}
