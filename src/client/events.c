/* events.c - events are taken off the queues and handed to the sessions that they name.
 *
 * Theory of operation
 *
 * Whoever comes by takes some of each queue: a round. A peer may post as fast as we take, or say all the time
 * that events were lost, so a box has a budget in each round, and what is beyond it is left for the next.
 * channel_has_news stays true of such a box, so that nobody goes to sleep over it, and the others have had
 * their turn meanwhile.
 *
 * Where events were lost (`resync` has moved) the box is *behind*: each session on its roll is looked at,
 * then each slot of theirs that may answer an offer of ours, step by step, in as many rounds as it takes. If
 * it moves again meanwhile, all of it is gone through once more afterwards, not at once: who always began
 * anew would never come to the end.
 */
#include "client/events.h"
#include "client/channel.h"
#include "client/link.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/watch.h"
#include "shm/queue.h"
#include "shm/segment.h"
#include "shm/slot.h"

#define EVENTS_BUDGET (2 * POP_MAX) /* of a box in a round */
#define LOOKS_BUDGET 256u           /* sessions and slots */

/* ---- offers that they accepted are found by their slots ------------------------------------------------ */

/* How many of their slots there are to look at: none if no offer of ours is open. */
static uint32_t slots_to_scan(const struct peer_box *box)
{
    const struct segment_header *h = (const struct segment_header *)(const void *)box->memory->first;
    uint32_t chunks = segment_chunks(h);
    if (!load_relaxed(&C->unmet.first) && !load_relaxed(&C->sharing))
        return 0;
    return chunks < CHUNKS_MAX ? chunks * CHUNK_SLOTS : SLOTS_MAX;
}

/* False: their memory is not here. */
static bool slot_scan(struct peer_box *box, uint32_t index)
{
    const struct slot *p = peer_slot(box, index);
    if (!p)
        return false;
    uint8_t state = slot_state(p); /* CLOSED: accepted, answered and done with before we looked */
    if (state == SLOT_ACCEPTED || state == SLOT_CLOSED)
        session_event(box, index);
    return true;
}

void channel_scan(struct peer_box *box)
{
    for (uint32_t i = 0, n = slots_to_scan(box); i < n && slot_scan(box, i); i++)
        ;
}

void channel_scan_soon(struct peer_box *box)
{
    if (!load_relaxed(&box->polled))
        channel_scan(box);
    else if (slots_to_scan(box))
        store_sc(&box->rescan, true);
}

/* ---- one box. poll_lock is held ------------------------------------------------------------------------ */

static void begin_anew(struct peer_box *box)
{
    box->behind = true;
    box->again = false;
    box->scan = 0;
    box->scan_end = slots_to_scan(box);
    walk_begin(&box->walk, &box->roll);
}

static void events_lost(struct peer_box *box)
{
    if (box->behind)
        box->again = true;
    else
        begin_anew(box);
}

/* To the end of the pass at most. */
static void catch_up(struct peer_box *box, uint32_t looks)
{
    for (; box->behind && looks; looks--) {
        struct session *s = load_relaxed(&box->walk.at) ? walk_next(&box->walk) : NULL;
        if (s) {
            if (session_state(s) == SESSION_OPEN)
                session_event(box, session_peer_slot(s));
        } else if (box->scan < box->scan_end) {
            if (!slot_scan(box, box->scan++))
                box->scan = box->scan_end;
        } else {
            walk_end(&box->walk);
            box->behind = false;
            if (box->again)
                begin_anew(box);
            return;
        }
    }
}

static void serve(struct peer_box *box, uint32_t events, uint32_t looks)
{
    uint32_t slots[POP_MAX], n = POP_MAX;
    if (load_relaxed(&box->rescan) && exchange_sc(&box->rescan, false))
        events_lost(box);
    for (; n == POP_MAX && events; events -= n) {
        bool lost;
        n = channel_pop(box, slots, &lost);
        for (uint32_t i = 0; i < n; i++)
            session_event(box, slots[i]);
        if (lost)
            events_lost(box);
    }
    catch_up(box, looks);
}

/* ---- all of them --------------------------------------------------------------------------------------- */

/* One thread at a time: what it finds it hands to whoever waits for it. `all`: the armed ones too. */
void events_poll(bool all)
{
    if (__builtin_expect(load_relaxed(&C->unpaired), 0))
        channels_pair();
    if ((!load_relaxed(&C->polled) && !load_relaxed(&C->armed) && !load_relaxed(&C->paired)) ||
        !plock_try(&C->poll_lock))
        return;
    channels_enter();
    for (struct peer_box *b = C->polled; b; b = b->next_polled) {
        if (!channel_has_news(b)) {
            b->idle++;
            continue;
        }
        b->idle = 0;
        serve(b, EVENTS_BUDGET, LOOKS_BUDGET);
    }
    for (struct peer_box **p = &C->armed; all && *p;) {
        struct peer_box *b = *p;
        if (!channel_has_news(b)) {
            p = &b->next_polled;
            continue;
        }
        struct channel *mine = outbox_channel(b->own, b->own_channel);
        channel_disarm(mine); /* even: it is polled again */
        b->idle = 0;
        store_release(p, b->next_polled);
        b->next_polled = C->polled;
        store_release(&C->polled, b);
        C->polled_count++;
        serve(b, EVENTS_BUDGET, LOOKS_BUDGET);
    }
    plock_release(&C->poll_lock);
}

/* As much as a queue holds, and all that is behind: twice, for it may have been behind when more was lost. */
void events_drain(uint32_t app)
{
    events_poll(true);
    if (!plock_try(&C->poll_lock))
        return;
    for (struct peer_box *b = C->polled; b; b = b->next_polled) {
        if (b->worker->app != app || !channel_has_news(b))
            continue;
        serve(b, QUEUE_ENTRIES, ~0u);
        catch_up(b, ~0u);
    }
    plock_release(&C->poll_lock);
}

/* ---- others than events -------------------------------------------------------------------------------- */

void box_sessions_look(outbox_handle handle)
{
    for (struct peer_box *b = peer_box_first(handle); b; b = peer_box_next(b)) {
        struct roll_walk w;
        walk_begin(&w, &b->roll);
        for (struct session *s; (s = walk_next(&w));)
            (void)watches_ready_quietly(&C->cache[session_index(s)]);
    }
    own_kick();
}

void unmet_sessions_look(uint32_t app)
{
    struct roll_walk w;
    walk_begin(&w, &C->unmet);
    for (struct session *s; (s = walk_next(&w));) {
        if (session_app(s) == app)
            (void)watches_ready_quietly(&C->cache[session_index(s)]);
    }
    own_kick();
}
