/* joint.h - event sets that relatives have, too: what each of them does to his copy. */
#ifndef BERTH_CLIENT_JOINT_H
#define BERTH_CLIENT_JOINT_H

#include "client/state.h"

/* From now on this process is woken by changes. True: there are some that it has not taken yet. */
bool joint_wait_begins(void);

#endif
