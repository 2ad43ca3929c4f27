/* vigil.h - what concerns every sleeper of the process, and who has died where no daemon tells. */
#ifndef BERTH_CLIENT_VIGIL_H
#define BERTH_CLIENT_VIGIL_H

#include "base/result.h"
#include "client/state.h"

extern struct plock inner_lock; /* who makes it. Taken over a fork, as those like it */
must_use int inner_set(void);   /* the epoll set; -1: no descriptor is free */
void vigil_bells(void);         /* there is one bell more of those we were forked from */
void inner_close(void);         /* when nobody sleeps: at the end, and in a forked child */

/* Of a process. Positive: to be given to vigil_end. 0: it is dead already; NO_MEMORY: no descriptor is free;
 * UNSUPPORTED: the kernel does not let us. */
must_use int vigil_begin(int32_t pid);
void vigil_end(int vigil);
void vigil_forked(int vigil); /* the parent's, in its child */
#define VIGILS_AT_ONCE 64u
uint64_t vigils_over(const int *vigils, uint32_t n); /* a bit for each that has died */

#endif
