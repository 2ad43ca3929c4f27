/* graves.h - what the dead leave behind. */
#ifndef BERTH_CLIENT_GRAVES_H
#define BERTH_CLIENT_GRAVES_H

#include "client/state.h"

void peers_collect(bool all); /* forgets what dead workers left, when no session is in it; all: everything */

#endif
