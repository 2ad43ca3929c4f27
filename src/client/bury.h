/* bury.h - a member of the family ended. */
#ifndef BERTH_CLIENT_BURY_H
#define BERTH_CLIENT_BURY_H

#include "client/state.h"

void member_gone(uint32_t id);
void members_look_alive(void);
/* When no daemon is there to tell of deaths; under dispatch_lock. */
uint32_t members_watch(void);      /* and looks at them: how many cannot be watched, or not yet */
void members_unwatch(bool forked); /* at the end; forked: the vigils are the parent's */

#endif
