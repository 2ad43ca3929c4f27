/* sets.h - event sets: how they come and go, and what a wait for one sleeps on. */
#ifndef BERTH_CLIENT_SETS_H
#define BERTH_CLIENT_SETS_H

#include "client/client.h"
#include "client/setpipes.h"
#include "client/state.h"
#include "client/watch.h"

/* What the events of a set's wait_ep are of. */
enum tag { TAG_KICK, TAG_NEWS, TAG_PROGRAM }; /* TAG_LISTENER0 and more: listeners' pipes */

extern struct plock free_lock; /* of sets that were destroyed */

/* What a wait sleeps on, made by the first; in a forked child anew, since it has other bells. Without a
 * descriptor for it the set works all the same, by looking now and then. 0, or why this process cannot use
 * berth. */
int set_wire_up(struct evset *set);
static inline int set_wire(struct evset *set)
{
    if (__builtin_expect(
            set->wired && !load_acquire(&C->forked) && set->pid == set_process() && set->wait_ep >= 0, 1))
        return 0;
    return set_wire_up(set);
}
/* A wait that began before its set was destroyed goes on, as in the kernel; the memory is used again when it
 * is over. The number of the set's life, 0: it has been destroyed, and set_exit is all that may be called. */
uint32_t set_enter(struct evset *set);
void set_exit(struct evset *set);
uint32_t set_users(const struct evset *set); /* threads in a wait for it */
/* in a forked child, which has one thread, and that in no wait */
void sets_forked(void);
void sets_anew(
    void); /* this process has another bell, other pipes: and what its sets sleep on is made anew */

/* Under watch_lock. */
void set_for_anybody(struct evset *set, int depth); /* from now on others sleep for it, too */
void watch_spend(struct watch *w);                  /* it has fired its one shot */
void watch_end(struct watch *w);                    /* it is taken out, and freed */
/* The waiter that the peer is to look at: the set's, if it is the only one that watches the session. */
void name_waiter(struct session *s);

void sets_forget(struct listener *l); /* its pipe is about to be closed */

#endif
