/* sets.h - event sets, as the rest of the library sees them. */
#ifndef BERTH_CLIENT_SETS_H
#define BERTH_CLIENT_SETS_H

#include "client/client.h"
#include "client/state.h"

bool evset_ready(struct evset *set); /* has it something to tell? Takes nothing out of it */
bool evset_poller(struct evset *set,
                  bool on); /* somebody sleeps for it beside those in evset_wait. False: it is ready */
/* Calls `visit` for each listener in it and in the sets in it, until it says false. */
bool evset_listeners(struct evset *set, bool (*visit)(struct listener *l, void *arg), void *arg);

void sets_forget(struct listener *l); /* its pipe is about to be closed */

#endif
