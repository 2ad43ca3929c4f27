/* judge.h - what the watches of a set have to tell. */
#ifndef BERTH_CLIENT_JUDGE_H
#define BERTH_CLIENT_JUDGE_H

#include "client/watch.h"

#define MISSING_MAX 16

bool evset_ready(struct evset *set); /* has it something to tell? Takes nothing out of it */
/* Somebody sleeps for it beside those in evset_wait. False: it is ready. */
bool evset_poller(struct evset *set, bool on);
/* Calls `visit` for each listener in it and in the sets in it, until it says false. */
bool evset_listeners(struct evset *set, bool (*visit)(struct listener *l, void *arg), void *arg);

/* An edge is told when something has come since the last one, whatever put the watch on the list. `note`: it counts as told. Under
 * watch_lock. */
bool edge_came(struct watch *w, struct session *s, struct session_cache *c, bool note);

/* Takes what the watches on the list have to tell, at most `max`; how many. Sessions whose bytes have to be fetched first are named in
 * `missing`; whoever brings these puts their watches back on the list. */
int harvest(struct evset *set, struct epoll_event *out, int max, session_handle missing[MISSING_MAX],
            uint32_t *missed);

#endif
