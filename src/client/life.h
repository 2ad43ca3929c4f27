/* life.h - how a session ends. */
#ifndef BERTH_CLIENT_LIFE_H
#define BERTH_CLIENT_LIFE_H

#include "base/result.h"
#include "client/state.h"

/* What client_shutdown, client_close and client_abort do, but for the look at who may want to hear of it
 * (upkeep.c). */
must_use int session_shut(session_handle h, int how);
int session_finish(session_handle h, bool abort);
void closed_wake(struct session *s, struct session_cache *c); /* threads of ours that are blocked on it */

#endif
