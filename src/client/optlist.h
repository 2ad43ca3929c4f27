/* optlist.h - options of sessions that several hold. */
#ifndef BERTH_CLIENT_OPTLIST_H
#define BERTH_CLIENT_OPTLIST_H

#include <sys/socket.h>

#include "client/state.h"

static inline bool option_is_time(int level, int name)
{
    return level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO || name == SO_LINGER);
}

bool options_put(struct session *s, const struct client_option *option); /* false: no room */
bool options_find(struct session *s, int level, int name, struct client_option *out);
bool options_at(struct session *s, uint32_t i, struct client_option *out); /* the i-th, from 0 on */
void options_free(struct session *s);                                      /* before its record is free */

#endif
