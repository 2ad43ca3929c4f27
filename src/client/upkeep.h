/* upkeep.h - what is to be done now and then, and for one that cannot go on. */
#ifndef BERTH_CLIENT_UPKEEP_H
#define BERTH_CLIENT_UPKEEP_H

#include "client/state.h"

void session_try_link(struct session *s); /* connector: has somebody accepted? */
void acceptors_ask(void);                 /* of any that is not known yet, where somebody does not wait */
void session_meet(struct session *s);     /* the same for who does not wait: has somebody accepted by now? */
/* The same before the first byte goes: who has accepted and ended is heard, without a system call. */
void session_meet_now(struct session *s);
void session_look(struct session *s); /* the same, after something that the acceptor would wait for */
void sessions_settle(void);           /* before a sleep: confirm, offer again, reap */
void zombies_reap(int most);

#endif
