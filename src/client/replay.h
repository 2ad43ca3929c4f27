/* replay.h - an offer that nobody under berth accepts goes to the kernel's listener. */
#ifndef BERTH_CLIENT_REPLAY_H
#define BERTH_CLIENT_REPLAY_H

#include "base/result.h"
#include "client/state.h"

/* The offer must have been withdrawn, and what the slot says be the one that counts. 0: a relay will answer
 * it. REFUSED: the kernel has no listener there. C->lock is held. */
must_use int replay_ask(struct session *s);

#endif
