/* replay.h - an offer that nobody under berth accepts goes to the kernel's listener. */
#ifndef BERTH_CLIENT_REPLAY_H
#define BERTH_CLIENT_REPLAY_H

#include "base/result.h"
#include "client/state.h"

/* The offer must have been withdrawn, and what the slot says be the one that counts. 0: a relay will answer
 * it. REFUSED: the kernel has no listener there; PERMISSION: not for who has become another user; BUSY: the daemon is
 * slow; NO_MEMORY, DAEMON_GONE. C->lock is held. */
must_use int replay_ask(struct session *s);
bool replay_asked(const struct session *s); /* and not answered yet. C->lock is held */
/* The daemon has answered. Of which session it was; NULL: of none of ours any more. C->lock is held. */
struct session *replay_answered(uint32_t seq);
void replays_forked(void); /* in a forked child: what the parent asked */

#endif
