/* offers.h - tokens into listeners' queues. */
#ifndef BERTH_CLIENT_OFFERS_H
#define BERTH_CLIENT_OFFERS_H

#include "base/result.h"
#include "client/state.h"

/* 0, IN_PROGRESS (no room) or REFUSED. C->lock is held */
must_use int offer(struct session *s, struct route *r);
void queued_put(struct session *s);
void offer_again(struct session *s); /* one that is QUEUED */
/* what found no room in a listener's queue, or was in a dead worker's hands */
void sessions_offer_again(void);
void sessions_reoffer(uint32_t app);
/* its listener has gone: may another program have the kernel's? Then it is replayed to that */
bool offer_goes_on(struct session *s);

/* The daemon's answer to REPLAY. */
void offer_replayed(uint32_t seq, int status);
/* Those that would be replayed later are, soon. False: there is none left. */
bool offers_hasten(void);

#endif
