/* rings.h - pieces of our own outboxes. */
#ifndef BERTH_CLIENT_RINGS_H
#define BERTH_CLIENT_RINGS_H

#include "base/result.h"
#include "client/state.h"

/* A ring of at least `size` bytes that this process can write, for session `owner` (index + 1; NONE: for
 * good). Its record in *rec. NO_MEMORY when the outbox is at its limit. */
must_use int outbox_ring_alloc(struct own_box *box, uint64_t size, uint32_t owner, uint32_t *rec);
void outbox_ring_free(struct own_box *box, uint32_t rec);
/* Before a fork, in a large family: memory that the child will write, too. False: there is little left. */
bool outboxes_reserve(void);
void outbox_shrink(void);              /* before a sleep: gives memory back that a burst took */
void rings_reclaim(struct session *s); /* those left behind that are read empty */
void stream_release_ring(struct session *s, struct session_cache *c); /* of a drained fifo. tx_lock is held */

#endif
