/* fifo.c - the ring of a session's fifo, moved.
 *
 * Offsets count from the session's first byte. The byte at offset o lies at o modulo the ring's size,
 * whatever ring is in use, so a swap copies [head, tail) to the same offsets of the new ring. The producer
 * may swap at any time: the reader loads tail, then ring, at each look. A ring left behind is free once head
 * has reached the tail at the swap.
 */
#include <string.h>

#include "client/fifo.h"
#include "client/outbox.h"
#include "client/rings.h"
#include "shm/slot.h"

/* Puts the session on a ring of at least `size` bytes, with the unread bytes in it. tx_lock is held. */
int fifo_swap(struct session *s, struct session_cache *c, uint64_t size)
{
    struct own_box *box = outbox_by_index(s->own_outbox);
    uint32_t rec, old = s->tx_rec;
    int err = outbox_ring_alloc(box, size, session_index(s) + 1, &rec);
    if (err)
        return err;
    struct ring_rec *ring = &C->family->ring[rec];
    uint8_t *to = outbox_ring_at(box, ring->word, NULL);
    uint64_t new_size = 1ull << ring_log2(ring->word);
    const uint8_t *from =
        old == NONE || s->head_seen == s->tail ? NULL : outbox_ring_at(box, C->family->ring[old].word, NULL);
    if (!from && old != NONE && s->head_seen != s->tail) { /* another member's, and not mapped here yet */
        if (outbox_ring_fetch(box, C->family->ring[old].word))
            from = outbox_ring_at(box, C->family->ring[old].word, NULL);
        if (!from) { /* without the daemon it cannot be had: the peer has to read it empty first */
            outbox_ring_free(box, rec);
            return BERTH_E_WOULD_BLOCK;
        }
    }
    for (uint64_t at = s->head_seen; from && at < s->tail;) { /* in pieces that wrap in neither ring */
        uint64_t n = s->tail - at;
        uint64_t a = s->tx_size - (at & (s->tx_size - 1)), b = new_size - (at & (new_size - 1));
        n = n < a ? n : a;
        n = n < b ? n : b;
        memcpy(to + (at & (new_size - 1)), from + (at & (s->tx_size - 1)), n);
        at += n;
    }
    if (old != NONE) { /* before anything else: who dies here must not leave it looking free */
        struct ring_rec *left = &C->family->ring[old];
        left->left_tail = s->tail;
        left->next = NONE;
        ring_rec_leave(left);
    }
    s->tx_rec = rec;
    session_set_tx_size(s, new_size);
    c->tx_ring = to;
    slot_set_ring(c->own, ring->word); /* release: the copied bytes are there */
    if (old != NONE) {
        if (s->left_first == NONE)
            s->left_first = old;
        else
            C->family->ring[s->left_last].next = old;
        s->left_last = old;
        rings_reclaim(s);
    }
    return 0;
}
