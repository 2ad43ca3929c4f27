/* deaths.h - a worker, a listener, an app has gone. */
#ifndef BERTH_CLIENT_DEATHS_H
#define BERTH_CLIENT_DEATHS_H

#include "client/state.h"

void sessions_of_worker_dead(uint32_t worker);
void sessions_listener_gone(uint32_t listener);
/* what is offered there: no descriptor is free to meet who has accepted it */
void sessions_unreachable(uint32_t app);
/* When no daemon is there to tell of deaths; under dispatch_lock. */
/* and watches them: how many cannot be watched, for want of a descriptor */
uint32_t peers_look_alive(void);
void sessions_nobody_takes(void);  /* what is offered where we have met nobody who lives ends */
void sessions_nobody_brings(void); /* those whose bytes are in a segment that was not brought end */
void peers_forked(void);           /* the vigils are the parent's */

#endif
