/* ready.c - can a session be read, can it be written, and by which mark will the peer tell when that changes.
 *
 * What a waiter needs of the fifo (stream.c): nothing here takes a session's locks, so each word is read once, and an answer may be
 * old when it is given; c->peer above all, which goes when another thread closes the session and its record is used again. Arming
 * comes first, judging after it: what came before the mark is seen, what comes later is told.
 */
#include <sys/epoll.h>

#include "base/sys.h"
#include "client/internal.h"

bool stream_readable(struct session *s, struct session_cache *c)
{
    uint32_t flags = load_relaxed(&s->flags);
    if (flags & (SF_RESET | SF_SHUT_RD | SF_DEAD))
        return true;
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer || flags & SF_TENTATIVE)
        return false;
    uint64_t word = slot_tail(peer);
    if (count_offset(word) == load_relaxed(&s->head))
        return word & COUNT_FLAG;
    return load_relaxed(&c->rx_ring) || !stream_segment_missing(s, c);
}

/* There are bytes, but in a segment that is still on its way: it is asked for and the session set aside. */
bool stream_segment_missing(struct session *s, struct session_cache *c)
{
    int err = BERTH_E_PROTOCOL;
    uint64_t size;
    const struct slot *peer = load_acquire(&c->peer);
    struct peer_box *box = load_relaxed(&c->box);
    if (!peer || !box || load_relaxed(&s->flags) & SF_TENTATIVE || load_relaxed(&c->rx_ring) ||
        count_offset(slot_tail(peer)) == load_relaxed(&s->head))
        return false;
    return !peer_ring(box, slot_ring(peer), &size, false, &err) && err == BERTH_E_WOULD_BLOCK;
}

/* Waits for it, bounded. */
int stream_segment_wait(struct session_cache *c)
{
    int err = 0;
    uint64_t size;
    const struct slot *peer = load_acquire(&c->peer);
    struct peer_box *box = load_relaxed(&c->box);
    if (peer && box && !peer_ring(box, slot_ring(peer), &size, true, &err) && C->daemon_lost)
        return BERTH_E_SEGMENT_TIMED_OUT; /* nobody is left who could bring it */
    return err == BERTH_E_SEGMENT_TIMED_OUT ? err : 0;
}

bool stream_writable(struct session *s, struct session_cache *c)
{
    if (load_relaxed(&s->flags) & (SF_RESET | SF_SHUT_WR | SF_DEAD))
        return true;
    if (load_relaxed(&s->state) == SESSION_QUEUED || load_relaxed(&s->flags) & SF_TENTATIVE)
        return false;
    uint64_t size = load_relaxed(&s->tx_size);
    if (size < load_relaxed(&s->tx_limit))
        return true; /* none yet, or it can grow */
    uint64_t head = load_relaxed(&s->head_seen);
    const struct slot *peer = load_acquire(&c->peer);
    if (peer) {
        uint64_t word = slot_head(peer);
        if (word & COUNT_FLAG)
            return true;
        head = count_offset(word);
    }
    return size - (load_relaxed(&s->tail) - head) >= size / 4;
}

static void arm(struct session *s, struct session_cache *c, uint64_t *want, uint64_t offset, uint64_t flag)
{
    bool shared = load_relaxed(&s->flags) & SF_SHARED;
    if (!load_relaxed(&c->watches) && !load_relaxed(&c->pollers) && !shared)
        slot_arm(want, offset, flag);
    else if (slot_arm_up(want, offset, flag) && shared)
        shared_kick(s);
}

bool stream_arm_read(struct session *s, struct session_cache *c, uint64_t flag, bool edge)
{
    if (!edge) {
        arm(s, c, &c->own->want, load_relaxed(&s->head), flag);
        return !stream_readable(s, c);
    }
    /* Beyond what is there: again, if more came before the peer could see the mark, or nobody would tell of what follows. */
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t seen, word = peer ? slot_tail(peer) : 0;
    bool more = false;
    for (;;) {
        seen = count_offset(word) + (word & COUNT_FLAG);
        arm(s, c, &c->own->want, seen, flag);
        peer = load_acquire(&c->peer);
        word = peer ? load_sc(&peer->tail) : 0;
        if (count_offset(word) + (word & COUNT_FLAG) <= seen)
            return !more;
        more = true;
    }
}

bool stream_arm_write(struct session *s, struct session_cache *c, uint64_t flag)
{
    uint64_t size = load_relaxed(&s->tx_size), tail = load_relaxed(&s->tail);
    uint64_t mark = tail > size - size / 4 ? tail - (size - size / 4) - 1 : 0;
    arm(s, c, &c->own->want_space, mark, flag);
    fence_sc();
    return !stream_writable(s, c);
}

uint32_t stream_ready(struct session *s, struct session_cache *c)
{
    uint32_t flags = load_relaxed(&s->flags);
    bool cut = stream_cut(s, c);
    uint32_t error = cut && !(flags & SF_RESET_TOLD) ? EPOLLERR : 0;
    if (flags & SF_RESET)
        return EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | error;
    uint32_t events = error;
    bool ended = flags & (SF_SHUT_RD | SF_DEAD), closed = cut || flags & SF_SHUT_WR;
    const struct slot *peer = load_acquire(&c->peer);
    if (peer && !(flags & SF_TENTATIVE)) {
        ended = ended || slot_tail(peer) & COUNT_FLAG;
        if (slot_head(peer) & COUNT_FLAG)
            events |= EPOLLOUT; /* a write tells */
    }
    if (ended)
        events |= EPOLLRDHUP | EPOLLIN;
    if (ended && closed)
        events |= EPOLLHUP;
    if (stream_readable(s, c))
        events |= EPOLLIN;
    if (stream_writable(s, c))
        events |= EPOLLOUT;
    return events;
}

uint32_t client_readiness(session_handle h)
{
    struct session *s = session_get(h);
    return s ? stream_ready(s, session_cache_of(s)) : EPOLLERR | EPOLLHUP;
}

/* Bytes between a head and a tail, one of which is the peer's word: as much as may be. */
static size_t between(uint64_t head, uint64_t tail)
{
    return tail > head && tail - head <= 1ull << RING_MAX_LOG2 ? (size_t)(tail - head) : 0;
}

size_t client_readable(session_handle h)
{
    struct session *s = session_get(h);
    const struct slot *peer = s ? load_acquire(&session_cache_of(s)->peer) : NULL;
    return peer ? between(load_relaxed(&s->head), count_offset(slot_tail(peer))) : 0;
}

size_t client_unread(session_handle h)
{
    struct session *s = session_get(h);
    const struct slot *peer = s ? load_acquire(&session_cache_of(s)->peer) : NULL;
    return s ? between(peer ? count_offset(slot_head(peer)) : 0, load_relaxed(&s->tail)) : 0;
}
