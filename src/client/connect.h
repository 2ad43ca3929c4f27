/* connect.h - the connector's way to a listener: what is not for the program. */
#ifndef BERTH_CLIENT_CONNECT_H
#define BERTH_CLIENT_CONNECT_H

#include "base/plock.h"

extern struct plock introduce_lock;
void connect_forked(void); /* in a forked child */

#endif
