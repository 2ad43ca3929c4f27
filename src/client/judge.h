/* judge.h - what the watches of a set have to tell. */
#ifndef BERTH_CLIENT_JUDGE_H
#define BERTH_CLIENT_JUDGE_H

#include "client/watch.h"

#define MISSING_MAX 16

/* What of session_ready concerns the watch. */
uint32_t watch_mask(const struct watch *w);
/* It was made or changed: it comes onto its set's list, and sets around hear of it where it has something to
 * tell. watch_lock is held. */
void watch_judged(struct watch *w, bool heard);
bool evset_ready(struct evset *set); /* has it something to tell? Takes nothing out of it */
/* Somebody sleeps for it beside those in evset_wait. False: it is ready. */
bool evset_poller(struct evset *set, bool on);
/* Calls `visit` for each listener in it and in the sets in it, until it says false. */
bool evset_listeners(struct evset *set, bool (*visit)(struct listener *l, void *arg), void *arg);

/* Takes what the watches on the list have to tell, behind the kernel's events that are in `out` already: at most `max`
 * with those; how many with those. Sessions whose bytes have to be fetched first are named in `missing`; whoever
 * brings these puts their watches back on the list. */
int harvest(struct evset *set, struct epoll_event *out, int of_kernel, int max,
            session_handle missing[MISSING_MAX], uint32_t *missed);
/* Events of sessions that other processes hold too may have been taken by them: looks at the sessions themselves. No
 * lock is held. */
void look_at_shared(struct evset *set);

#endif
