/* crowd.h - are there more who want to run than CPUs? */
#ifndef BERTH_CLIENT_CROWD_H
#define BERTH_CLIENT_CROWD_H

#include "client/state.h"

bool crowded_lately(int64_t now); /* an event loop had better sleep at once */
bool crowded(int64_t now,
             int64_t since); /* one that spins since then had better stop; asks the kernel now and then */
/* no more threads want to run than two, or than there are CPUs; asks each millisecond */
bool alone_lately(int64_t now);
/* more want to run, as far as can be told: not the contrary of the other */
bool outnumbered_lately(int64_t now);
void crowd_forget(void);

#endif
