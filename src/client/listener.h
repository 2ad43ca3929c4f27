/* listener.h - listeners, and the tokens in their queues. */
#ifndef BERTH_CLIENT_LISTENER_H
#define BERTH_CLIENT_LISTENER_H

#include "base/result.h"
#include "client/client.h"
#include "client/state.h"

must_use int listeners_create(void);
void listeners_close(void);
void listeners_share(uint32_t member); /* before a fork: the child holds them too */
/* Connects to them go to the kernel until the relative `until` (an id) has ended. */
void listeners_away(uint32_t until);

/* ---- tokens.c ---- */
/* Without a system call, and without asking for anything: does one that was taken out of the queue wait, and
 * can it be answered? */
bool listener_maybe(struct listener *l);
int listener_queue(
    const struct listener *l);             /* the descriptor that is readable when it may be so; -1: none */
bool listener_waiting(struct listener *l); /* that, or something is in the queue; nothing is fetched */
/* Sets around those that watch it hear of what has come to it, before it is gone. watch_lock is held. */
void listener_last_edges(const struct listener *l);
/* false; who waits for its pipe is told again: not all was looked at */
void listener_more(const struct listener *l);
/* The next token that can be answered, with its connector's outbox. WOULD_BLOCK, INTERRUPTED. */
must_use int token_take(struct listener *l, struct token *t, struct peer_box **box);
/* Does the slot that the token names still offer what it says? 0: yes; IN_PROGRESS: not all of it is here, it
 * was asked for; REFUSED. */
must_use int offer_check(struct peer_box *box, const struct token *t);
void token_put_back(struct listener *l, const struct token *t); /* it waits on, and everybody is told again */
extern struct plock scratch_lock;                               /* of the pipe that tokens are looked at in */
void tokens_forked(void);

#endif
