/* outbox.h - our own memory: its segments, and where what lies where in them. */
#ifndef BERTH_CLIENT_OUTBOX_H
#define BERTH_CLIENT_OUTBOX_H

#include "base/result.h"
#include "client/state.h"

must_use struct own_box *outbox_create(uint32_t facing_app,
                                       int *fd_out); /* fd: segment 0, the caller's to send and close */
/* of this process, NULL: none. Under C->lock */
struct own_box *outbox_find(uint32_t facing_app);
/* the same of a worker that we were forked from */
struct own_box *outbox_of(uint32_t facing_app, uint32_t worker);
struct own_box *answering_outbox(struct peer_box *box, int *err); /* NULL, and why */

static inline struct outbox_rec *outbox_rec_of(const struct own_box *box)
{
    return &C->family->outbox[box->index];
}

/* Is the record still this outbox's? A child has its parent's outboxes mapped. When the parent gives one back, whose
 * record may soon be another outbox's, the child has nothing in it any more, and is not told. */
static inline bool outbox_current(const struct own_box *box)
{
    return outbox_rec_handle(outbox_rec_of(box)) == box->handle;
}

static inline struct own_box *outbox_by_index(uint32_t index)
{
    struct own_box *box = index < OUTBOXES_MAX ? load_acquire(&C->own_by_index[index]) : NULL;
    return box && outbox_current(box) ? box : NULL;
}

must_use int outbox_segment_add(struct own_box *box, uint32_t index, uint64_t size, int *fd_out);
bool outbox_ring_fetch(struct own_box *box, uint64_t word); /* maps a segment that another member made */
void outbox_bury(struct own_box *box);                      /* nothing of it is in use any more */
void outbox_unmap(struct own_box *box);
void outbox_record_free(uint32_t index); /* of an outbox that nobody has any more */
uint8_t *outbox_ring_at(struct own_box *box, uint64_t word, bool *writable); /* NULL: not mapped here */
uint8_t *outbox_chunk_added(struct own_box *box, uint32_t chunk);
struct slot_info *outbox_info(struct own_box *box, uint32_t index);
struct channel *outbox_channel(struct own_box *box, uint32_t channel);

/* NULL: of another member, and not mapped here. */
static inline uint8_t *outbox_chunk(struct own_box *box, uint32_t chunk)
{
    return __builtin_expect(chunk == 0, 1) ? box->seg[0] + OUTBOX_CHUNK0 : outbox_chunk_added(box, chunk);
}

/* Likewise. */
static inline struct slot *outbox_slot(struct own_box *box, uint32_t index)
{
    uint8_t *chunk = outbox_chunk(box, index / CHUNK_SLOTS);
    return chunk ? (struct slot *)(void *)chunk + index % CHUNK_SLOTS : NULL;
}

#endif
