/* fork.h - a child is one more worker. */
#ifndef BERTH_CLIENT_FORK_H
#define BERTH_CLIENT_FORK_H

#include "client/state.h"

void fork_install(void);
void fork_strand(void); /* this process is for the kernel from now on */

#endif
