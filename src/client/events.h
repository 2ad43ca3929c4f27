/* events.h - events are taken off the queues. */
#ifndef BERTH_CLIENT_EVENTS_H
#define BERTH_CLIENT_EVENTS_H

#include "client/state.h"

void events_poll(bool all);              /* takes events from the channels that are polled, or from all */
void channel_scan(struct peer_box *box); /* looks for slots that answer offers */

#endif
