/* slots.c - slots and channels of our own outboxes, handed out and taken back. */
#include <string.h>

#include "client/family.h"
#include "client/outbox.h"
#include "client/rings.h"
#include "client/slots.h"
#include "shm/queue.h"
#include "shm/segment.h"
#include "shm/slot.h"

static int add_chunk(struct own_box *box, struct outbox_rec *r, uint32_t chunk)
{
    uint32_t rec;
    int err = outbox_ring_alloc(box, CHUNK_BYTES, NONE, &rec);
    if (err)
        return err;
    uint64_t word = C->family->ring[rec].word;
    memset(outbox_ring_at(box, word, NULL), 0, CHUNK_BYTES);
    family_lock_acquire(&r->lock, C->member);
    struct segment_header *h = (struct segment_header *)(void *)box->seg[0];
    if (h->chunks == chunk) { /* nobody was faster */
        segment_add_chunk(box->seg[0], chunk, word);
        rec = NONE;
    }
    family_lock_drop(&r->lock);
    if (rec != NONE)
        outbox_ring_free(box, rec);
    return 0;
}

int outbox_slot_alloc(struct own_box *box, uint32_t *index)
{
    struct outbox_rec *r = outbox_rec_of(box);
    const struct segment_header *h = (const struct segment_header *)(void *)box->seg[0];
    for (;;) {
        family_lock_acquire(&r->lock, C->member);
        uint32_t i = NONE;
        if (r->slot_free) {
            i = r->slot_free - 1;
            r->slot_free = (uint32_t)outbox_slot(box, i)->extra;
        } else if (r->slots < h->chunks * CHUNK_SLOTS) {
            i = r->slots;
            outbox_rec_set_slots(r, i + 1); /* read without the lock by session_event */
        }
        if (i != NONE)
            r->slots_live++;
        uint32_t chunk = h->chunks;
        family_lock_drop(&r->lock);
        if (i != NONE) {
            /* never 0: generation and index together make slot.peer, where 0 says "not known yet" */
            struct slot *slot = outbox_slot(box, i);
            if (!slot_generation_known(slot))
                slot_set_generation(slot, 1);
            *index = i;
            return 0;
        }
        if (chunk >= CHUNKS_MAX)
            return BERTH_E_LIMIT;
        int err = add_chunk(box, r, chunk);
        if (err)
            return err;
    }
}

void outbox_slot_free(struct own_box *box, uint32_t index)
{
    struct outbox_rec *r = outbox_rec_of(box);
    struct slot *slot = outbox_slot(box, index);
    slot_end(slot);
    family_lock_acquire(&r->lock, C->member);
    slot_set_extra(slot, r->slot_free);
    r->slot_free = index + 1;
    r->slots_live--;
    family_lock_drop(&r->lock);
}

/* ---- channels ------------------------------------------------------------------------------------------ */

/* A channel is the pair of workers', and workers come and go: that of a dead one is the next one's. A late
 * event of the dead one's sessions does no harm in its queue: whoever gets it finds that the slot is not his.
 */
void outbox_channel_free(struct own_box *box, uint32_t channel)
{
    struct outbox_rec *r = outbox_rec_of(box);
    if (outbox_worker(r->handle) != load_relaxed(&C->worker) || members_others_live(&r->mapped))
        return; /* relatives may face the same worker through it */
    channel_set_peer_worker(outbox_channel(box, channel), NONE);
    chan_rec_set_peer_worker(&r->chan[channel], NONE);
}

static bool channel_reuse(struct own_box *box, uint32_t i, uint32_t peer_worker)
{
    struct chan_rec *chan = &outbox_rec_of(box)->chan[i];
    struct channel *ch = outbox_channel(box, i);
    bool writable = false;
    uint8_t *queue = outbox_ring_at(box, chan->queue, &writable);
    if (!writable)
        return false;
    family_lock_acquire(&chan->rx_lock, C->member);
    family_lock_acquire(&chan->tx_lock, C->member);
    memset(queue, 0, 1u << QUEUE_LOG2);
    chan->tx_pos = 0;
    channel_clear(ch);
    family_lock_drop(&chan->tx_lock);
    family_lock_drop(&chan->rx_lock);
    chan_rec_set_peer_worker(chan, peer_worker);
    channel_set_peer_worker(ch, peer_worker);
    return true;
}

/* One that another member has made. Who died as soon as he had named the worker in his record has not named
 * him where that worker looks: that is done once more. r->lock is held. */
static uint32_t channel_known(struct own_box *box, uint32_t peer_worker)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (uint32_t i = 0; i < r->channels; i++) {
        if (chan_rec_peer_worker(&r->chan[i]) == peer_worker) {
            channel_set_peer_worker(outbox_channel(box, i), peer_worker);
            return i;
        }
    }
    return NONE;
}

static uint32_t channel_of_the_dead(struct own_box *box, uint32_t peer_worker)
{
    const struct outbox_rec *r = outbox_rec_of(box);
    for (uint32_t i = 0; i < r->channels; i++) {
        if (chan_rec_peer_worker(&r->chan[i]) == NONE && channel_reuse(box, i, peer_worker))
            return i;
    }
    return NONE;
}

/* In the order in which each step may be the last: a channel is counted when it is whole, and the next one
 * that is made counts what a dead member has made. Peers look at the queue, so that comes after the worker.
 * r->lock is held. */
static uint32_t channel_make(struct own_box *box, uint32_t peer_worker, uint64_t queue)
{
    struct outbox_rec *r = outbox_rec_of(box);
    uint32_t i = r->channels;
    if (i >= OUTBOX_CHANNELS_USED)
        return NONE;
    r->chan[i] = (struct chan_rec){.queue = queue};
    chan_rec_set_peer_worker(&r->chan[i], peer_worker);
    struct channel *ch = outbox_channel(box, i);
    ch->peer_worker = peer_worker;
    channel_set_queue(ch, queue);
    outbox_rec_set_channels(r, i + 1);
    return i;
}

static void channels_complete(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    if (r->channels < OUTBOX_CHANNELS_USED && channel_queue(outbox_channel(box, r->channels)))
        outbox_rec_set_channels(r, r->channels + 1);
}

/* All members of a family face a worker by one channel: it looks for no second one. */
int outbox_channel_alloc(struct own_box *box, uint32_t peer_worker, uint32_t *channel)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (uint32_t i = 0, n = outbox_rec_channels(r); i < n; i++) {
        if (chan_rec_peer_worker(&r->chan[i]) == peer_worker &&
            channel_peer_worker(outbox_channel(box, i)) == peer_worker) {
            *channel = i;
            return 0;
        }
    }
    family_lock_acquire(&r->lock, C->member);
    channels_complete(box);
    if ((*channel = channel_known(box, peer_worker)) == NONE)
        *channel = channel_of_the_dead(box, peer_worker);
    family_lock_drop(&r->lock);
    if (*channel != NONE)
        return 0;
    uint32_t rec;
    int err = outbox_ring_alloc(box, 1u << QUEUE_LOG2, NONE, &rec);
    if (err)
        return err;
    uint64_t word = C->family->ring[rec].word;
    memset(outbox_ring_at(box, word, NULL), 0, 1u << QUEUE_LOG2);
    family_lock_acquire(&r->lock, C->member);
    channels_complete(box);
    if ((*channel = channel_known(box, peer_worker)) == NONE &&
        (*channel = channel_make(box, peer_worker, word)) != NONE)
        rec = NONE;
    family_lock_drop(&r->lock);
    if (rec != NONE) /* another member was faster, or there is no place */
        outbox_ring_free(box, rec);
    return *channel != NONE ? 0 : BERTH_E_LIMIT;
}
