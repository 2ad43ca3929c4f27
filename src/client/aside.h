/* aside.h - the tokens of a listener that were taken out of its pipe, and what was asked for them. */
#ifndef BERTH_CLIENT_ASIDE_H
#define BERTH_CLIENT_ASIDE_H

#include "base/result.h"
#include "client/state.h"

struct aside *aside_of(const struct listener *l); /* NULL: it has no place */
must_use int tokens_create(struct listener *l);   /* their place in the family */
void tokens_free(struct listener *l);
bool aside_shared(const struct aside *a); /* others of the family that live have it, too */
/* `later`: it cannot be answered yet. False: there is no room. */
bool aside_put(struct listener *l, const struct token *t, bool later);
bool aside_take(struct aside *a, const struct token *t); /* false: somebody else was faster */
uint32_t aside_copy(struct aside *a, struct token out[ASIDE_TOKENS]);
bool token_same(const struct token *a, const struct token *b);
void aside_ask(outbox_handle handle);     /* the daemon, once at a time */
bool aside_refused(outbox_handle handle); /* the daemon has said not long ago that it is not to be had */
void asides_forked(void);                 /* in a forked child: what the parent asked */
/* The daemon's late answer to the question of that number. False: nobody has it open any more. */
bool listener_named(uint32_t asked, uint32_t id);
/* The daemon's; 0: neither we nor, if it was inherited, who asked for it has heard it. */
uint32_t listener_number(const struct listener *l);
void listener_retry_pending(void);                /* an outbox or a segment has come, or will not come */
void listener_answered(int status, uint32_t ask); /* one of our questions for outboxes */
bool listeners_want(outbox_handle handle);        /* does a token name that outbox? C->lock may be held */

/* How many tokens have ever come at least, by whomever they were taken: an edge is one that has come since.
 * Wraps. */
uint32_t listener_arrivals(const struct listener *l);
uint32_t listener_count(
    const struct listener *l); /* the same for sets around others; 0 where there are none */
bool listener_news(const struct listener *l,
                   const struct watch *w); /* one since that watch was told. watch_lock is held */

#endif
