/* slot.h - the words of a slot and the orders that make them work: the one home of the session's memory ordering.
 *
 * Producer:  copy bytes; tail (release); full fence; read peer's want.      The fence is the release of the lock of
 * Consumer:  want (sc); read peer's tail again; sleep only if unchanged.    that half (an xchg), or store_sc.
 * Either the producer sees the new want, or the consumer sees the new tail: no wake-up is lost. The other direction
 * (head, want_space) is the same with the parts exchanged.
 */
#ifndef BERTH_SHM_SLOT_H
#define BERTH_SHM_SLOT_H

#include "base/atomic.h"
#include "shm/abi.h"

/* Of the peer's slot: read once, use the copy. Acquire pairs with slot_set_tail: the bytes below it are there. */
static inline uint64_t slot_tail(const struct slot *peer)
{
    return load_acquire(&peer->tail);
}

/* After slot_arm: in the one order of all `sc` operations, so that either this sees the new tail or its producer the mark. */
static inline uint64_t slot_tail_sc(const struct slot *peer)
{
    return load_sc(&peer->tail);
}

/* Acquire pairs with slot_set_head: the consumer has done with the bytes below it, they may be overwritten. */
static inline uint64_t slot_head(const struct slot *peer)
{
    return load_acquire(&peer->head);
}

/* After slot_tail, every time: a ring seen with an older tail would not hold the newer bytes. */
static inline uint64_t slot_ring(const struct slot *peer)
{
    return load_acquire(&peer->ring);
}

static inline uint64_t slot_want(const struct slot *peer)
{
    return load_sc(&peer->want);
}

static inline uint64_t slot_want_space(const struct slot *peer)
{
    return load_sc(&peer->want_space);
}

static inline uint8_t slot_state(const struct slot *peer)
{
    return load_acquire(&peer->state);
}

/* Of one's own slot. */
static inline void slot_set_tail(struct slot *own, uint64_t word)
{
    store_release(&own->tail, word);
}

static inline void slot_set_head(struct slot *own, uint64_t word)
{
    store_release(&own->head, word);
}

/* slot_info.taken of a slot's info, which lies CHUNK_SLOTS lines behind it. A ring holds less than 2 GiB, so the low half
 * of an offset near `head` says which one it is. */
static inline void slot_set_taken(struct slot *own, uint64_t offset)
{
    store_relaxed(&((struct slot_info *)(void *)(own + CHUNK_SLOTS))->taken, (uint32_t)offset);
}

static inline uint64_t slot_taken(const struct slot *peer, uint64_t head)
{
    uint32_t low = load_relaxed(&((const struct slot_info *)(const void *)(peer + CHUNK_SLOTS))->taken);
    return head + (uint64_t)(int64_t)(int32_t)(low - (uint32_t)head);
}

static inline void slot_set_ring(struct slot *own, uint64_t word)
{
    store_release(&own->ring, word);
}

/* `want` or `want_space`, where one thread at a time waits. The fence before the peer's counter is looked at again. */
static inline void slot_arm(uint64_t *want, uint64_t offset, uint64_t flag)
{
    store_sc(want, count_word(offset, flag));
}

/* The same where several wait: the mark only goes up. A later mark is at most the end of what its setter has seen, while an
 * earlier one, stored late, would let the next bytes pass unnoticed. True when it went up: then the peer may have found it
 * there already, and have told nobody of the bytes below, which the setter has seen and the others have not. */
static inline bool slot_arm_up(uint64_t *want, uint64_t offset, uint64_t flag)
{
    uint64_t old = load_relaxed(want), word;
    bool up;
    do {
        uint64_t mark = count_offset(old);
        up = mark < offset;
        word = count_word(mark > offset && mark != WANT_NOTHING ? mark : offset, flag);
    } while (!compare_exchange_sc(want, &old, word));
    return up;
}

/* Without the fence: a spurious notification may still come, a needed one was not asked for. */
static inline void slot_disarm_space(struct slot *own)
{
    store_relaxed(&own->want_space, count_word(WANT_NOTHING, 0));
}

static inline void slot_set_state(struct slot *own, uint8_t state)
{
    exchange_sc(&own->state, state);
}

/* Did a count that went from old to new (offsets; a flag counts as one more) pass what the peer asked for? */
static inline int slot_crossed(uint64_t want_word, uint64_t old_offset, uint64_t new_offset)
{
    uint64_t want = count_offset(want_word);
    return old_offset <= want && want < new_offset;
}

/* The words that blocked threads sleep on. */
static inline const uint32_t *slot_tail_futex(const struct slot *s)
{
    return (const uint32_t *)(const void *)&s->tail;
}

static inline const uint32_t *slot_head_futex(const struct slot *s)
{
    return (const uint32_t *)(const void *)&s->head;
}

#endif
