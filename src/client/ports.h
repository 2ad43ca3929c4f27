/* ports.h - ephemeral ports. */
#ifndef BERTH_CLIENT_PORTS_H
#define BERTH_CLIENT_PORTS_H

#include "base/result.h"
#include "client/state.h"

/* WOULD_BLOCK: there is none; ports_lease, and try again. */
must_use int ports_take(const uint8_t addr[16], const endpoint *to, uint32_t listener,
                        uint16_t *port);          /* C->lock is held */
must_use int ports_lease(const uint8_t addr[16]); /* asks the daemon for more. C->lock is not held */
void ports_listener_gone(uint32_t listener);      /* the same; what was kept for it can go with its last session */
void ports_release(struct session *s);
void ports_forget(void);

#endif
