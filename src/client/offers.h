/* offers.h - tokens into listeners' queues. */
#ifndef BERTH_CLIENT_OFFERS_H
#define BERTH_CLIENT_OFFERS_H

#include "base/result.h"
#include "client/state.h"

must_use int offer(struct session *s, struct route *r); /* 0, IN_PROGRESS (no room) or REFUSED. C->lock is held */
void queued_put(struct session *s);
void offer_again(struct session *s); /* one that is QUEUED */
void sessions_offer_again(void);     /* what found no room in a listener's queue, or was in a dead worker's hands */
void sessions_reoffer(uint32_t app);

#endif
