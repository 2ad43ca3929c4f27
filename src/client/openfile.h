/* openfile.h - what belongs to an open file, and so to all who came to have it over fork. */
#ifndef BERTH_CLIENT_OPENFILE_H
#define BERTH_CLIENT_OPENFILE_H

#include "client/client.h"
#include "client/state.h"

/* Before a fork: the child has the same sockets. NONE: it will not be known, nor what it does with them. */
void files_share(uint32_t member);

#endif
