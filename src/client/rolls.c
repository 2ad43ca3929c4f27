/* rolls.c - see rolls.h. */
#include "client/rolls.h"

static void unlink_from(struct session_more *e, uint32_t index)
{
    for (struct roll_walk *w = C->walks; w; w = w->next) {
        if (w->at == index)
            store_relaxed(&w->at, e->next);
    }
    if (e->prev)
        C->more[e->prev].next = e->next;
    else
        store_relaxed(&e->roll->first, e->next);
    if (e->next)
        C->more[e->next].prev = e->prev;
    e->next = e->prev = 0;
    store_relaxed(&e->roll, NULL);
}

void roll_enter(const struct session *s, struct roll *roll)
{
    uint32_t index = session_index(s);
    struct session_more *e = &C->more[index];
    plock_take(&C->rolls_lock);
    if (e->roll != roll) {
        if (e->roll)
            unlink_from(e, index);
        e->next = roll->first;
        if (roll->first)
            C->more[roll->first].prev = index;
        store_relaxed(&roll->first, index);
        store_relaxed(&e->roll, roll);
    }
    plock_release(&C->rolls_lock);
}

void roll_leave(const struct session *s)
{
    uint32_t index = session_index(s);
    struct session_more *e = &C->more[index];
    if (!load_relaxed(&e->roll))
        return;
    plock_take(&C->rolls_lock);
    if (e->roll)
        unlink_from(e, index);
    plock_release(&C->rolls_lock);
}

void roll_clear(struct roll *roll)
{
    plock_take(&C->rolls_lock);
    while (roll->first)
        unlink_from(&C->more[roll->first], roll->first);
    plock_release(&C->rolls_lock);
}

/* The child holds what its parent held: the rolls are as they were, and what it does not hold is taken off
 * one by one. */
void rolls_forked(void)
{
    for (struct peer_box *b = C->boxes; b; b = b->next)
        b->roll = (struct roll){.first = b->roll.first};
    C->unmet = (struct roll){.first = C->unmet.first};
}

/* The boxes are gone, and with them their rolls. */
void rolls_anew(uint32_t sessions)
{
    roll_clear(&C->unmet);
    plock_take(&C->rolls_lock);
    for (uint32_t i = 1; i < sessions; i++) {
        if (load_relaxed(&C->more[i].sleepers))
            store_relaxed(&C->more[i].sleepers, 0u);
    }
    C->unmet = (struct roll){0};
    C->walks = NULL;
    plock_release(&C->rolls_lock);
}

/* ---- walks --------------------------------------------------------------------------------------------- */

void walk_begin(struct roll_walk *w, struct roll *roll)
{
    plock_take(&C->rolls_lock);
    store_relaxed(&w->at, roll->first);
    w->next = C->walks;
    C->walks = w;
    plock_release(&C->rolls_lock);
}

static void take_off(const struct roll_walk *w)
{
    for (struct roll_walk **p = &C->walks; *p; p = &(*p)->next) {
        if (*p == w) {
            *p = w->next;
            break;
        }
    }
}

struct session *walk_next(struct roll_walk *w)
{
    plock_take(&C->rolls_lock);
    struct session *s = w->at ? session_at(w->at) : NULL;
    if (s) {
        store_relaxed(&w->at, C->more[w->at].next);
        /* of the session that is on the roll, whatever the record is in a moment */
        w->flags = session_flags_acquire(s);
    } else {
        take_off(w);
    }
    plock_release(&C->rolls_lock);
    return s;
}

void walk_end(struct roll_walk *w)
{
    plock_take(&C->rolls_lock);
    take_off(w);
    store_relaxed(&w->at, 0u);
    plock_release(&C->rolls_lock);
}
