/* arrive.h - sessions that were taken, and whose peer still looks at where they were. */
#ifndef BERTH_CLIENT_ARRIVE_H
#define BERTH_CLIENT_ARRIVE_H

#include "base/plock.h"
#include "client/client.h"

extern struct plock arrivals_lock;      /* for who forks */
void session_arrives(session_handle h); /* it has just been taken */
void arrivals_look(void);               /* by whoever goes to sleep */
void arrivals_forked(void);             /* they are the parent's */

#endif
