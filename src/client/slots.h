/* slots.h - slots and channels of our own outboxes. */
#ifndef BERTH_CLIENT_SLOTS_H
#define BERTH_CLIENT_SLOTS_H

#include "base/result.h"
#include "client/state.h"

must_use int outbox_slot_alloc(struct own_box *box,
                               uint32_t *index); /* the slot is FREE, zero but for its generation */
void outbox_slot_free(struct own_box *box, uint32_t index);
must_use int outbox_channel_alloc(struct own_box *box, uint32_t peer_worker, uint32_t *channel);
/* its worker is dead, and nobody here uses it */
void outbox_channel_free(struct own_box *box, uint32_t channel);

#endif
