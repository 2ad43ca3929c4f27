/* fifo.h - the ring of a session's fifo. */
#ifndef BERTH_CLIENT_FIFO_H
#define BERTH_CLIENT_FIFO_H

#include "base/result.h"
#include "client/state.h"

/* Puts the session on a ring of at least `size` bytes, with the unread bytes in it. tx_lock is held. */
must_use int fifo_swap(struct session *s, struct session_cache *c, uint64_t size);

#endif
