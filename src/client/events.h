/* events.h - events are taken off the queues. */
#ifndef BERTH_CLIENT_EVENTS_H
#define BERTH_CLIENT_EVENTS_H

#include "client/state.h"

void events_poll(bool all); /* takes some events from the channels that are polled, or from all */
/* and all that were there from those of one app, where an end depends on them */
void events_drain(uint32_t app);
void channel_scan(struct peer_box *box);      /* looks for slots that answer offers */
void channel_scan_soon(struct peer_box *box); /* the same, in the course of events_poll where it can be */

/* Who waits for them looks at them again: memory of that outbox, or somebody of that app, has come. */
void box_sessions_look(outbox_handle handle);
void unmet_sessions_look(uint32_t app);

#endif
