/* setpipes.h - the token pipes of listeners in what event sets sleep on. All under watch_lock. */
#ifndef BERTH_CLIENT_SETPIPES_H
#define BERTH_CLIENT_SETPIPES_H

#include "client/state.h"
#include "client/watch.h"

enum { TAG_LISTENER0 = 3 }; /* the first tag (sets.h) of listeners' pipes; the others' are below */

/* This process, as evset.pid has it. */
static inline int32_t set_process(void)
{
    return C->family ? C->family->member[C->member].pid : 0;
}
/* what it sleeps on is this process's, not that of the one it was forked from */
bool set_ours(const struct evset *s);

/* The listener's pipe is as those who watch it now ask for, in that set and in those around it. */
void set_pipe_sync(struct evset *set, const struct listener *l);
/* The same for the pipes of all listeners of `inside` and of the sets in it: `set` has got or lost that one.
 */
void set_pipes_sync(struct evset *set, const struct evset *inside);
void set_pipe_gone(struct evset *set, const struct listener *l); /* it is about to be closed */
bool set_has_pipes(const struct evset *set);                     /* any thread, without the lock */
void set_pipes_forget(struct evset *set); /* what was noted: the wait_ep is another, or none */

#endif
