/* queue.h - the event queue of a channel: one producer, one consumer, in the producer's memory, read-only to the other.
 *
 * An entry carries its own position, so a consumer looks at one line only, and whatever a hostile producer writes there
 * is at worst a wrong slot index, which is checked, or no entry at all. When the queue is full the producer bumps
 * `resync` instead; the consumer then looks at all its sessions with that producer. */
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

/* True when the queue that is at `position` (next to be written) has no room, as far as the consumer's head tells; a head
 * that makes no sense counts as full. */
static inline bool queue_full(uint32_t position, uint32_t qhead)
{
    return position - qhead >= QUEUE_ENTRIES;
}

#endif
