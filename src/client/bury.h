/* bury.h - a member of the family ended. */
#ifndef BERTH_CLIENT_BURY_H
#define BERTH_CLIENT_BURY_H

#include "client/state.h"

void member_gone(uint32_t id);
void members_look_alive(int64_t pause);

#endif
