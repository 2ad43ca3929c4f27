/* again.h - a session is made again from what was written down of it. See again.c. */
#ifndef BERTH_CLIENT_AGAIN_H
#define BERTH_CLIENT_AGAIN_H

#include "base/result.h"
#include "client/give.h"

/* `bytes`: those that the peer had not read. `peer`, `p`: the slot of its other end, in `box`, which counts the
 * session already; `own` faces it. `peer_moves`: that end is on its way to somewhere else. */
must_use int session_make_again(struct session *s, const struct given *g, const uint8_t *bytes,
                                const struct ctl_place *peer, bool peer_moves, struct peer_box *box,
                                struct own_box *own, const struct slot *p);

#endif
