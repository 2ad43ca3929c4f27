/* rolls.h - which sessions have their peer slot in which box, so that what one peer does costs the sessions
 * with that peer.
 *
 * Each session with a cache is on one roll: that of its box, or C->unmet while its peer is not known. The
 * lists are the process's own and doubly linked through C->more. rolls_lock is taken after all others and
 * never held while a session is looked at.
 *
 * Who goes through a roll holds no lock between two steps: a session that goes takes along whoever was about
 * to look at it, to the one behind it. One that comes is entered in front, and is not seen by walks under
 * way: whoever enters it looks himself whether what they tell of concerns it. */
#ifndef BERTH_CLIENT_ROLLS_H
#define BERTH_CLIENT_ROLLS_H

#include "client/state.h"

void roll_enter(const struct session *s, struct roll *roll); /* off the one that it was on */
void roll_leave(const struct session *s);
void roll_clear(struct roll *roll);
void rolls_forked(void); /* those on them stay, zombies are the parent's */

void rolls_anew(uint32_t sessions); /* nobody is on any, and no box is left. Of so many records */

void walk_begin(struct roll_walk *w, struct roll *roll);
struct session *walk_next(struct roll_walk *w); /* NULL: that was all, and the walk has ended */
void walk_end(struct roll_walk *w);             /* before that */

static inline struct roll *roll_of(struct peer_box *box)
{
    return box ? &box->roll : &C->unmet;
}

#endif
