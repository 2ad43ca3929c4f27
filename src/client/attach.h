/* attach.h - the way in and out. */
#ifndef BERTH_CLIENT_ATTACH_H
#define BERTH_CLIENT_ATTACH_H

#include "client/state.h"

extern struct plock attach_lock; /* who attaches, and who forks */
extern struct plock auto_lock;   /* who tries to, by himself */
void client_reset(void);
#define SPIN_GIVEN (1u << 31) /* in options.flags: spin_ns 0 means none */

#endif
