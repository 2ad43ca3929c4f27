/* queue.h - the event queue of a channel: one producer, one consumer, in the producer's memory, read-only to
 * the other.
 *
 * An entry carries its own position, so a consumer looks at one line only, and whatever a hostile producer
 * writes there is at worst a wrong slot index, which is checked, or no entry at all. When the queue is full
 * the producer bumps `resync` instead; the consumer then looks at all its sessions with that producer. */
#ifndef BERTH_SHM_QUEUE_H
#define BERTH_SHM_QUEUE_H

#include "base/atomic.h"
#include "shm/abi.h"

static inline void queue_put(uint64_t *entries, uint32_t position, uint32_t slot)
{
    store_release(&entries[position & (QUEUE_ENTRIES - 1)], (uint64_t)(position + 1) << 32 | slot);
}

/* True and the sender's slot index when there is an entry at `position`. */
static inline bool queue_peek(const uint64_t *entries, uint32_t position, uint32_t *slot)
{
    uint64_t e = load_acquire(&entries[position & (QUEUE_ENTRIES - 1)]);
    if ((uint32_t)(e >> 32) != position + 1)
        return false;
    *slot = (uint32_t)e;
    return true;
}

/* True when the queue that is at `position` (next to be written) has no room, as far as the consumer's head
 * tells; a head that makes no sense counts as full. */
static inline bool queue_full(uint32_t position, uint32_t qhead)
{
    return position - qhead >= QUEUE_ENTRIES;
}

/* ---- the channel's own words --------------------------------------------------------------------------- */

/* Acquire pairs with channel_set_queue: the ring is empty, and peer_worker is there. 0: no channel, and none
 * behind it. */
static inline uint64_t channel_queue(const struct channel *peer)
{
    return load_acquire(&peer->queue);
}

static inline void channel_set_queue(struct channel *own, uint64_t word)
{
    store_release(&own->queue, word);
}

/* Acquire pairs with channel_set_peer_worker: it may have been another's, and its words are now set for this
 * one. */
static inline uint32_t channel_peer_worker(const struct channel *peer)
{
    return load_acquire(&peer->peer_worker);
}

static inline void channel_set_peer_worker(struct channel *own, uint32_t worker)
{
    store_release(&own->peer_worker, worker);
}

/* The consumer, before it looks at any of the sessions: a producer that still sees the old head has its event
 * seen. */
static inline void channel_set_qhead(struct channel *own, uint32_t position)
{
    store_sc(&own->qhead, position);
}

/* The producer, after it has published what the event tells of. */
static inline uint32_t channel_qhead(const struct channel *peer)
{
    return load_sc(&peer->qhead);
}

static inline uint32_t channel_own_qhead(const struct channel *own)
{
    return load_relaxed(&own->qhead);
}

/* The producer's, under its lock. */
static inline void channel_move_resync(struct channel *own)
{
    store_sc(&own->resync, own->resync + 1);
}

/* The consumer's, after channel_set_qhead. */
static inline uint32_t channel_resync(const struct channel *peer)
{
    return load_sc(&peer->resync);
}

/* Is it worth a look? Who relies on it asks channel_resync. */
static inline uint32_t channel_resync_seen(const struct channel *peer)
{
    return load_relaxed(&peer->resync);
}

/* `arm` becomes odd: from now on the producer kicks. Then the queue is looked at once more, as before any
 * sleep. */
static inline void channel_arm(struct channel *own)
{
    store_sc(&own->arm, own->arm + 1);
}

/* And even: the queue is polled again. */
static inline void channel_disarm(struct channel *own)
{
    store_sc(&own->arm, own->arm + 1);
}

/* The producer, after the event. */
static inline uint32_t channel_armed(const struct channel *peer)
{
    return load_sc(&peer->arm);
}

/* For another peer: nobody looks at it before channel_set_peer_worker. */
static inline void channel_clear(struct channel *own)
{
    store_relaxed(&own->qhead, 0u);
    store_relaxed(&own->arm, 0u);
    store_relaxed(&own->resync, 0u);
}

#endif
