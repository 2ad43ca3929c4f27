/* home.h - sessions that a process has from its parent, and has alone, come into memory of its own, see home.c. */
#ifndef BERTH_CLIENT_HOME_H
#define BERTH_CLIENT_HOME_H

#include "client/state.h"

void sessions_go_home(void); /* before a sleep */
void home_forked(void);      /* in the child; and who leaves its family */

#endif
