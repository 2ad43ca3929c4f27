/* events.c - events are taken off the queues and handed to the sessions that they name. */
#include "client/events.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/link.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "shm/slot.h"

static void resync(struct peer_box *box)
{
    for (struct session *s = NULL; (s = session_after(s));) {
        if (load_relaxed(&s->state) == SESSION_OPEN && s->peer_outbox == box->handle)
            session_event(box, s->peer_slot);
    }
    channel_scan(box);
}

/* Offers that they accepted are found by their slots. */
void channel_scan(struct peer_box *box)
{
    const struct segment_header *h = (const struct segment_header *)(const void *)box->seg[0];
    uint32_t chunks = load_acquire(&h->chunks);
    for (uint32_t i = 0; i < chunks * CHUNK_SLOTS && i < SLOTS_MAX; i++) {
        const struct slot *p = peer_slot(box, i);
        if (!p)
            break;
        uint8_t state = slot_state(p); /* CLOSED: accepted, answered and done with before we looked */
        if (state == SLOT_ACCEPTED || state == SLOT_CLOSED)
            session_event(box, i);
    }
}

/* One batch of a channel. True: there may be more. */
static bool take(struct peer_box *box)
{
    uint32_t slots[POP_MAX];
    bool all;
    uint32_t n = channel_pop(box, slots, &all);
    for (uint32_t i = 0; i < n; i++)
        session_event(box, slots[i]);
    if (all)
        resync(box);
    return n + all == POP_MAX;
}

/* One thread at a time: what it finds it hands to whoever waits for it. `all`: the armed ones too. */
void events_poll(bool all)
{
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
        while (take(b))
            ;
    }
    for (struct peer_box **p = &C->armed; all && *p;) {
        struct peer_box *b = *p;
        if (!channel_has_news(b)) {
            p = &b->next_polled;
            continue;
        }
        struct channel *mine = outbox_channel(b->own, b->own_channel);
        store_sc(&mine->arm, mine->arm + 1); /* even: it is polled again */
        b->idle = 0;
        store_release(p, b->next_polled);
        b->next_polled = C->polled;
        store_release(&C->polled, b);
        C->polled_count++;
        while (take(b))
            ;
    }
    plock_release(&C->poll_lock);
}
