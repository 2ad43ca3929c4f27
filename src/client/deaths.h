/* deaths.h - a worker, a listener, an app has gone. */
#ifndef BERTH_CLIENT_DEATHS_H
#define BERTH_CLIENT_DEATHS_H

#include "client/state.h"

void sessions_of_worker_dead(uint32_t worker);
void sessions_listener_gone(uint32_t listener);
void sessions_unreachable(
    uint32_t app);           /* what is offered there: no descriptor is free to meet who has accepted it */
void peers_look_alive(void); /* when no daemon is there to tell of deaths */

#endif
