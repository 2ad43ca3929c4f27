/* slot.h - the words of a slot and the orders that make them work: the one home of the session's memory
 * ordering.
 *
 * Producer:  copy bytes; tail (release); full fence; read peer's want.
 * Consumer:  want (sc); read peer's tail again; sleep only if unchanged.
 *
 * The fence is the release of the lock of that half (an xchg), or store_sc.
 * Either the producer sees the new want, or the consumer sees the new tail: no wake-up is lost. The other
 * direction (head, want_space) is the same with the parts exchanged.
 */
#ifndef BERTH_SHM_SLOT_H
#define BERTH_SHM_SLOT_H

#include "base/atomic.h"
#include "shm/abi.h"

/* Of the peer's slot: read once, use the copy. Acquire pairs with slot_set_tail: the bytes below it are
 * there. */
static inline uint64_t slot_tail(const struct slot *peer)
{
    return load_acquire(&peer->tail);
}

/* After slot_arm: in the one order of all `sc` operations, so that either this sees the new tail or its
 * producer the mark. */
static inline uint64_t slot_tail_sc(const struct slot *peer)
{
    return load_sc(&peer->tail);
}

/* Acquire pairs with slot_set_head: the consumer has done with the bytes below it, they may be overwritten.
 */
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

/* Acquire pairs with slot_set_generation: who sees the new one takes nothing that follows for the old
 * session's. */
static inline uint32_t slot_generation(const struct slot *slot)
{
    return load_acquire(&slot->generation);
}

/* Where the slot is known to be somebody's: after slot_state or slot_peer, whose acquire has brought it, or
 * of one's own. */
static inline uint32_t slot_generation_known(const struct slot *slot)
{
    return load_relaxed(&slot->generation);
}

/* Index and generation of the slot that it has for its peer. Acquire pairs with slot_set_peer:
 * slot_info.peer_outbox is there. */
static inline uint64_t slot_peer(const struct slot *peer)
{
    return load_acquire(&peer->peer);
}

/* Relaxed: stored before the FIN in the tail, whose acquire brings it. */
static inline bool slot_was_reset(const struct slot *peer)
{
    return load_relaxed(&peer->flags) & SLOT_RESET;
}

/* Relaxed: who sleeps has stored it before it armed. After a load of the counter's mark, which brings it;
 * else a hint. */
static inline uint32_t slot_waiter(const struct slot *peer)
{
    return load_relaxed(&peer->waiter) % WAITERS_MAX;
}

/* As slot_was_reset. */
static inline bool slot_had_ended(const struct slot *peer)
{
    return load_relaxed(&peer->flags) & SLOT_ENDED;
}

/* Relaxed: a hint. */
static inline uint8_t slot_cpu(const struct slot *peer)
{
    return load_relaxed(&peer->cpu);
}

/* Of one's own slot: relaxed where only the owner's threads write, who hold the lock of that half or look for
 * a flag. */
static inline uint64_t slot_own_tail(const struct slot *own)
{
    return load_relaxed(&own->tail);
}

static inline uint64_t slot_own_head(const struct slot *own)
{
    return load_relaxed(&own->head);
}

static inline uint64_t slot_own_want(const struct slot *own)
{
    return load_relaxed(&own->want);
}

/* A free slot: the next one. One in use: index of the session's record + 1. Nobody else looks at it. */
static inline uint32_t slot_extra(const struct slot *own)
{
    return (uint32_t)load_relaxed(&own->extra);
}

static inline void slot_set_extra(struct slot *own, uint32_t extra)
{
    store_relaxed(&own->extra, (uint64_t)extra);
}

/* From one record to another: its places stay. */
static inline void slot_change_owner(struct slot *own, uint32_t extra)
{
    store_relaxed(&own->extra, (load_relaxed(&own->extra) & ~0xffffffffull) | extra);
}

/* The mark of a slot that was the session's before this one: who was to be told there is to be told here. */
static inline void slot_copy_marks(struct slot *own, const struct slot *before)
{
    store_sc(&own->want, load_relaxed(&before->want));
    store_sc(&own->want_space, load_relaxed(&before->want_space));
}

/* A session that goes from program to program counts its places: 0 is where it was made. Its slot says the
 * number of its own place (before anybody knows the slot), and of the place at which its owner has the other
 * end: whoever was there before is not looked at any more. They go round at 2^16. */
static inline uint16_t slot_place(const struct slot *slot)
{
    return (uint16_t)(load_relaxed(&slot->extra) >> 32);
}

static inline void slot_set_place(struct slot *own, uint16_t place)
{
    store_relaxed(&own->extra, (uint64_t)place << 32 | (uint32_t)load_relaxed(&own->extra));
}

/* Acquire pairs with slot_set_peer_place: all looks at the place before are over. */
static inline uint16_t slot_peer_place(const struct slot *peer)
{
    return (uint16_t)(load_acquire(&peer->extra) >> 48);
}

static inline void slot_set_peer_place(struct slot *own, uint16_t place)
{
    store_release(&own->extra, (uint64_t)place << 48 | (load_relaxed(&own->extra) & 0xffffffffffffull));
}

static inline void slot_set_peer(struct slot *own, uint64_t index_and_generation)
{
    store_release(&own->peer, index_and_generation);
}

static inline void slot_set_generation(struct slot *own, uint32_t generation)
{
    store_release(&own->generation, generation);
}

/* Relaxed: slot_arm that follows is the fence. */
static inline void slot_set_waiter(struct slot *own, uint32_t waiter)
{
    store_relaxed(&own->waiter, (uint8_t)waiter);
}

/* In the one order: from now on whoever sleeps for it, before its other holders come to be. */
static inline void slot_set_waiter_any(struct slot *own)
{
    store_sc(&own->waiter, (uint8_t)WAITER_ANY);
}

static inline void slot_set_cpu(struct slot *own, uint8_t cpu)
{
    if (load_relaxed(&own->cpu) != cpu)
        store_relaxed(&own->cpu, cpu);
}

/* Before the tail gets its FIN. */
static inline void slot_set_reset(struct slot *own)
{
    fetch_or_sc(&own->flags, SLOT_RESET);
}

/* Before the tail gets its FIN. */
static inline void slot_set_ended(struct slot *own)
{
    fetch_or_sc(&own->flags, SLOT_ENDED);
}

/* Both directions end where they are, whoever is storing a count at this moment. */
static inline void slot_cut(struct slot *own)
{
    slot_set_reset(own);
    fetch_or_sc(&own->tail, COUNT_FLAG);
    fetch_or_sc(&own->head, COUNT_FLAG);
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

/* slot_info.taken of a slot's info, which lies CHUNK_SLOTS lines behind it. A ring holds less than 2 GiB, so
 * the low half of an offset near `head` says which one it is. */
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

/* `want` or `want_space`, where one thread at a time waits. The fence before the peer's counter is looked at
 * again. */
static inline void slot_arm(uint64_t *want, uint64_t offset, uint64_t flag)
{
    store_sc(want, count_word(offset, flag));
}

/* The same where several wait: the mark only goes up. A later mark is at most the end of what its setter has
 * seen, while an earlier one, stored late, would let the next bytes pass unnoticed. But a mark beyond all
 * that `peer` has written is left of one who waited alone, for more bytes than one, and it comes down: below
 * it the others would hear of nothing. Whatever the end of that wait was, and however far the peer had come:
 * the mark is read first, the tail after it, so any other setter's tail is not less than his mark. And the
 * peer sees the lower mark, or whoever arms sees its new tail, as ever. 1 when the mark went up, -1 when it
 * came down: then the peer may have found it where it is already, or where it was, and have told nobody of
 * bytes which the setter sees and the others have not. */
static inline int slot_arm_among(uint64_t *want, uint64_t offset, uint64_t flag, const struct slot *peer)
{
    uint64_t old = load_acquire(want), word, mark;
    do {
        mark = count_offset(old);
        uint64_t tail = peer ? slot_tail(peer) : count_word(WANT_NOTHING - 1, 0);
        bool stays = mark > offset && mark <= count_offset(tail) + (tail & COUNT_FLAG);
        word = count_word(stays ? mark : offset, flag);
    } while (!compare_exchange_sc(want, &old, word));
    if (mark == count_offset(word) || mark == WANT_NOTHING)
        return 0;
    return mark < count_offset(word) ? 1 : -1;
}

/* The same of a mark that says where others can go on: it is never too high. */
static inline bool slot_arm_up(uint64_t *want, uint64_t offset, uint64_t flag)
{
    return slot_arm_among(want, offset, flag, NULL) > 0;
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

/* Its first one: release pairs with slot_state, all of slot_info is there. Nobody sleeps for it yet. */
static inline void slot_offer(struct slot *own)
{
    store_release(&own->state, (uint8_t)SLOT_OFFERED);
}

/* The new generation first: whoever still looks must not take the zeroes that follow for the old session. A
 * generation of 0 is passed over when the slot is handed out. */
static inline void slot_end(struct slot *own)
{
    slot_set_generation(own, own->generation + 1);
    store_release(&own->state, (uint8_t)SLOT_FREE);
    store_relaxed(&own->tail, 0);
    store_relaxed(&own->ring, 0);
    store_relaxed(&own->head, 0);
    store_relaxed(&own->want, 0);
    slot_disarm_space(own);
    store_relaxed(&own->peer, 0);
    store_relaxed(&own->flags, (uint8_t)0);
    store_relaxed(&own->waiter, (uint8_t)WAITER_ANY);
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

/* ---- slot_info ----------------------------------------------------------------------------------------- */
/* Written before the state that announces it, so what is read after slot_state is there: relaxed. */

static inline uint16_t info_local_port(const struct slot_info *peer)
{
    return load_relaxed(&peer->local_port);
}

static inline uint16_t info_remote_port(const struct slot_info *peer)
{
    return load_relaxed(&peer->remote_port);
}

static inline uint8_t info_addr_kind(const struct slot_info *peer)
{
    return load_relaxed(&peer->addr_kind);
}

static inline uint32_t info_listener(const struct slot_info *peer)
{
    return load_relaxed(&peer->listener);
}

static inline outbox_handle info_peer_outbox(const struct slot_info *peer)
{
    return load_relaxed(&peer->peer_outbox);
}

/* Advice that the owner may change at any time. */
static inline uint32_t info_rx_limit(const struct slot_info *info)
{
    return load_relaxed(&info->rx_limit);
}

static inline void info_set_rx_limit(struct slot_info *own, uint32_t bytes)
{
    store_relaxed(&own->rx_limit, bytes);
}

/* How often it was offered, which moves while it is announced. */
static inline uint32_t info_offer_seq(const struct slot_info *peer)
{
    return load_relaxed(&peer->offer_seq);
}

/* An acceptor that has answered, and a connector that offers again: in the one order, so that the acceptor
 * sees the new number, or the connector the answer. */
static inline uint32_t info_offer_seq_sc(const struct slot_info *peer)
{
    return load_sc(&peer->offer_seq);
}

static inline void info_set_offer_seq(struct slot_info *own, uint32_t seq)
{
    store_sc(&own->offer_seq, seq);
}

#endif
