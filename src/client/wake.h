/* wake.h - holders of a shared session wake each other. */
#ifndef BERTH_CLIENT_WAKE_H
#define BERTH_CLIENT_WAKE_H

#include "client/state.h"

void shared_kick(const struct session *s); /* every holder that sleeps */
void relatives_kick(void);                 /* every process of the family that sleeps on its bell */
/* Forgets those whose sessions we do not hold, where no other thread may look there. */
void ancestors_keep(void);
void bells_watch(int epfd, uint64_t data); /* enters the bells of our ancestors */

#endif
