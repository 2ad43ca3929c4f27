/* ports.h - ephemeral ports. */
#ifndef BERTH_CLIENT_PORTS_H
#define BERTH_CLIENT_PORTS_H

#include "base/result.h"
#include "client/control.h"
#include "client/state.h"

/* WOULD_BLOCK: there is none; ports_lease, and try again. */
must_use int ports_take(const uint8_t addr[16], const endpoint *to, uint32_t listener,
                        uint16_t *port);          /* C->lock is held */
must_use int ports_lease(const uint8_t addr[16]); /* asks the daemon for more. C->lock is not held */
/* The first lease for that address, asked for together with something else. False: there is one, or it cannot be
 * asked for; else lease_end waits for the answer. */
struct ports_ask {
    struct control_ask ask;
    uint8_t addr[16];
};
must_use bool ports_lease_begin(const uint8_t addr[16], struct ports_ask *a);
void ports_lease_end(struct ports_ask *a);
/* what was kept for it can go with its last session. C->lock is held */
void ports_listener_gone(uint32_t listener);
void ports_release(struct session *s);
void ports_forget(void);

#endif
