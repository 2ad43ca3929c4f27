/* news.h - what the daemon says of its own accord is worked off. */
#ifndef BERTH_CLIENT_NEWS_H
#define BERTH_CLIENT_NEWS_H

#include "client/state.h"

extern struct plock dispatch_lock;
/* connector: after what an acceptor who is not known yet would have been told of */
void acceptors_look(void);
void control_poll(void);      /* takes what the daemon sent, if anything, and does what it asks for */
void control_told(void);      /* the same, by who took an event of the inner set */
bool control_pushes(void);    /* something waits to be worked off by control_poll */
void control_fork_lock(void); /* nobody hears any news until control_fork_unlock */
void control_fork_unlock(void);

#endif
