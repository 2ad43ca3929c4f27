/* accept.h - the acceptor's answer to an offer of which no token tells. */
#ifndef BERTH_CLIENT_ACCEPT_H
#define BERTH_CLIENT_ACCEPT_H

#include "base/result.h"
#include "client/state.h"

/* what stands at that slot of the connector's is accepted without a token, by who was told of it alone */
must_use int accept_at(struct peer_box *box, uint32_t slot, uint32_t generation, session_handle *out);

#endif
