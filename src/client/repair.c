/* repair.c - what a process that was killed under a lock of the family has left is put right.
 *
 * Every step under these locks is either one store of the truth or can be told from the slots and records
 * again.
 */
#include <string.h>

#include "base/log.h"
#include "client/family.h"
#include "client/outbox.h"
#include "client/span.h"
#include "shm/queue.h"
#include "shm/slot.h"

/* The free lists of an outbox are told again from the ring records: what no session, queue or chunk owns is
 * free. */
static void repair_outbox(struct outbox_rec *r)
{
    uint32_t index = (uint32_t)(r - C->family->outbox);
    memset(r->ring_free, 0, sizeof r->ring_free);
    for (uint32_t i = 0; i < OUTBOX_SEGMENTS; i++)
        r->seg[i].live = 0;
    r->rings_live = 0;
    for (uint32_t i = 0, n = family_rings(C->family); i < n; i++) {
        struct ring_rec *ring = &C->family->ring[i];
        if (ring_rec_outbox(ring) != index || !ring->word)
            continue;
        uint32_t owner = ring->owner;
        if (owner && owner != NONE) {
            const struct session *s =
                session_at(owner - 1); /* what it has forgotten by dying, it loses when it is closed */
            if (s->state == SESSION_FREE || s->own_outbox != index)
                ring->owner = owner = 0;
        }
        if (owner) {
            r->rings_live++;
            r->seg[ring_segment(ring->word)].live++;
            continue;
        }
        ring->next = r->ring_free[ring->klass];
        r->ring_free[ring->klass] = i + 1;
    }
    /* the free slots of before are lost to this outbox: at most as many as were in use at once */
    r->slot_free = 0;
}

/* Who died had the lock; the span may be another one's, who is alive and in it. */
static void span_repair(struct session *s, uint16_t spanner, void (*end)(struct session *s))
{
    uint32_t holder = span_holder(spanner);
    if (!holder || holder == C->member + 1 || !member_lives(holder - 1))
        end(s);
}

/* The rings of a session: the one that its slot names, and others that it may have left behind. */
static void repair_sending(struct session *s, struct slot *slot)
{
    struct family *f = C->family;
    uint64_t word = slot_ring(slot);
    s->tail = count_offset(slot_tail(slot));
    span_repair(s, s->write_spanner, write_span_end);
    s->tx_rec = s->left_first = s->left_last = NONE;
    session_set_tx_size(s, 0);
    for (uint32_t i = 0, n = family_rings(f); i < n; i++) {
        struct ring_rec *ring = &f->ring[i];
        if (ring_rec_owner(ring) != session_index(s) + 1 || ring_rec_outbox(ring) != s->own_outbox ||
            !ring->word)
            continue;
        if (ring->word == word) {
            ring->left = 0;
            s->tx_rec = i;
            session_set_tx_size(s, 1ull << ring_log2(word));
            continue;
        }
        ring->left = 1;
        ring->left_tail = s->tail; /* as late as can be */
        ring->next = NONE;
        if (s->left_first == NONE)
            s->left_first = i;
        else
            f->ring[s->left_last].next = i;
        s->left_last = i;
    }
    C->cache[session_index(s)].tx_ring = NULL;
}

/* Events that were put into the queue but not counted, or the next one would be put where nobody looks any
 * more. */
static void repair_channel(struct outbox_rec *r, struct chan_rec *chan)
{
    struct own_box *own = outbox_by_index((uint32_t)(r - C->family->outbox));
    uint32_t slot;
    const uint64_t *q =
        own && chan->queue ? (const uint64_t *)(const void *)outbox_ring_at(own, chan->queue, NULL) : NULL;
    while (q && queue_peek(q, (uint32_t)chan->tx_pos, &slot))
        chan->tx_pos++;
}

static void family_repair(void *unused, struct family_lock *l)
{
    struct family *f = C->family;
    const uint8_t *at = (const uint8_t *)l;
    log_info("a process of this family died inside berth; putting right what it left");
    if (at >= (const uint8_t *)f->outbox && at < (const uint8_t *)(f->outbox + OUTBOXES_MAX)) {
        struct outbox_rec *r = &f->outbox[(size_t)(at - (const uint8_t *)f->outbox) / sizeof f->outbox[0]];
        size_t in = (size_t)(at - (const uint8_t *)r);
        if (l == &r->lock)
            repair_outbox(r);
        else if (in >= offsetof(struct outbox_rec, chan)) {
            struct chan_rec *chan = &r->chan[(in - offsetof(struct outbox_rec, chan)) / sizeof r->chan[0]];
            if (l == &chan->tx_lock)
                repair_channel(r, chan);
        }
    } else if (l == &f->lock) {
        f->session_free = 0; /* both stacks may be torn; what was on them is lost, the tables go on */
        f->ring_free = 0;
    } else if (l == &f->options_lock) {
        f->option_free = 0; /* likewise; of two records for one option the first in the list is the later */
    } else if (l == &f->sets_lock) {
        for (uint32_t i = 0; i < SET_CHANGES; i++) { /* written down, and not counted yet */
            if (f->set_change[i].number > family_set_changes(f))
                family_put_set_changes(f, f->set_change[i].number);
        }
    }
    /* bury_lock: whoever has it now does what is left to do */
    /* session locks: tail, head and ring are single stores, and what they say is the truth */
    if (at >= (const uint8_t *)f->session && at < (const uint8_t *)(f->session + SESSIONS_MAX)) {
        struct session *s =
            session_at((uint32_t)((size_t)(at - (const uint8_t *)f->session) / sizeof f->session[0]));
        struct own_box *own = s->own_outbox == NONE ? NULL : outbox_by_index(s->own_outbox);
        struct slot *slot = own ? outbox_slot(own, s->own_slot) : NULL;
        if (slot && l == &s->tx_lock) {
            repair_sending(s, slot);
        } else if (slot && l == &s->rx_lock) {
            uint64_t published = count_offset(slot->head);
            if (s->head < published)
                s->head = published;
            s->head_published = published;
            span_repair(s, s->read_spanner, read_span_end);
        }
    }
}

const struct family_members berth_family_members = {.dead = member_dead, .repair = family_repair};
