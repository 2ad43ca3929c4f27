/* stream.h - bytes in and out. */
#ifndef BERTH_CLIENT_STREAM_H
#define BERTH_CLIENT_STREAM_H

#include "client/state.h"

void stream_flush_head(struct session *s, bool try_only); /* before anybody sleeps */

#endif
