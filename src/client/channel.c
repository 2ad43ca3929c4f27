/* channel.c - how workers tell each other that a session has news.
 *
 * Theory of operation
 *
 * Each pair of workers has a channel in either direction: an event queue in the outbox of the one, and in the
 * other's outbox the word `qhead` that says how far it has popped. An event is the index of the sender's
 * slot: "look there". At most one event of a session is outstanding: the sender keeps the queue position
 * after its last one and posts no second before the receiver's qhead has passed it. The receiver publishes
 * qhead before it looks at the sessions it popped, so news that came too late for the look come with an event
 * of their own.
 *
 * Then the sender looks whether the receiver must be kicked: when the channel is armed (the receiver does not
 * poll it), or the waiter that the session names sleeps. Arm words are odd then; a word that was kicked is
 * remembered and not kicked again.
 *
 * The receiver polls at most POLLED_MAX channels; the quiet ones it arms and leaves to be kicked. After every
 * kick it looks at all of them.
 */
#include "client/channel.h"
#include "client/control.h"
#include "client/fds.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/slots.h"
#include "shm/page.h"
#include "shm/queue.h"
#include "shm/slot.h"

#define POLLED_MAX 16u
#define POLLED_IDLE 500u /* empty looks before a channel may be armed */

static const struct channel *their_channel(const struct peer_box *box)
{
    return (const struct channel *)(const void *)(box->memory->first + OUTBOX_CHANNELS) +
           load_relaxed(&box->their_channel);
}

static void kick(struct peer_box *box)
{
    if (box->worker->bell_fd >= 0)
        bell_ring(box->worker->bell_fd);
}

static void kick_if_needed(struct peer_box *box, const struct slot *peer)
{
    struct peer_worker *w = box->worker;
    bool needed = false;
    uint32_t arm = channel_armed(their_channel(box));
    if (arm & 1 && arm != load_relaxed(&box->kicked_channel)) {
        store_relaxed(&box->kicked_channel, arm);
        needed = true;
    }
    uint32_t waiter = slot_waiter(peer);
    arm = waiter_armed(&w->page->waiter[waiter]);
    if (arm & 1 && arm != load_relaxed(&w->kicked[waiter])) {
        store_relaxed(&w->kicked[waiter], arm);
        needed = true;
    }
    if (needed)
        kick(box);
}

/* The session may be closed by another thread meanwhile, and its record be another's: each word is read once.
 */
void channel_event(struct session *s, struct session_cache *c)
{
    order_take(&C->lock); /* seldom, but from anywhere: for the checker it is every time */
    struct peer_box *box = load_relaxed(&c->box);
    const struct slot *peer = load_relaxed(&c->peer);
    if (!box || load_relaxed(&box->own_channel) == NONE || load_acquire(&box->their_channel) == NONE ||
        load_relaxed(&box->worker->dead)) {
        if (box && !load_relaxed(&box->worker->dead))
            channel_pair(box);
        if (!box || box->own_channel == NONE)
            return;
    }
    struct own_box *own = box->own;
    struct chan_rec *chan = &outbox_rec_of(own)->chan[box->own_channel];
    bool known = load_acquire(&box->their_channel) != NONE;
    family_lock_acquire(&chan->tx_lock, C->member);
    uint32_t qhead = known ? channel_qhead(their_channel(box)) : 0;
    uint32_t ahead = (uint32_t)chan->tx_pos - qhead;
    uint64_t qhead64 = ahead <= QUEUE_ENTRIES ? chan->tx_pos - ahead : chan->tx_pos - QUEUE_ENTRIES;
    if (session_event_pos(s) <= qhead64) { /* else one is outstanding */
        /* not where another process of the family made the queue after it was forked */
        bool writable = false;
        uint64_t *q = (uint64_t *)(void *)outbox_ring_at(own, chan->queue, &writable);
        if (!writable || queue_full((uint32_t)chan->tx_pos, qhead)) {
            struct channel *ch = outbox_channel(own, box->own_channel);
            channel_move_resync(ch);
        } else {
            uint32_t slot = session_own_slot(s);
            queue_put(q, (uint32_t)chan->tx_pos, slot);
            chan_rec_sent(chan);
            if (session_own_slot(s) == slot)
                session_set_event_pos(s, chan->tx_pos);
        }
    }
    family_lock_release(&chan->tx_lock); /* the fence before the arm words are read */
    if (known && peer)
        kick_if_needed(box, peer);
    else
        kick(box); /* a first meeting: nothing is known of who sleeps */
}

/* ---- pairing ------------------------------------------------------------------------------------------- */

/* Looks in the peer's outbox for the channel that is for us. It says how much of ours the peer has taken, also while
 * its own queue lies in a segment that is not here yet: who did not look there would take for outstanding what the
 * peer has seen, and tell nothing of what came after that. */
static void find_theirs(struct peer_box *box)
{
    const struct channel *table =
        (const struct channel *)(const void *)(box->memory->first + OUTBOX_CHANNELS);
    for (uint32_t i = 0; i < CHANNELS_MAX; i++) {
        uint64_t word = channel_queue(&table[i]);
        if (!word)
            return;                                    /* they are handed out in order */
        if (channel_peer_worker(&table[i]) != box->me) /* acquire: it may have been another's */
            continue;
        uint64_t size;
        int err = 0;
        store_release(&box->their_channel, i);
        const uint8_t *q = ring_log2(word) == QUEUE_LOG2 ? peer_ring_find(box, word, &size, &err) : NULL;
        store_release(&box->queue, (const uint64_t *)(const void *)q);
        return;
    }
}

bool channel_hears(const struct peer_box *box)
{
    return load_acquire(&box->queue) != NULL;
}

bool channel_announce(const struct peer_box *box)
{
    struct ctl_outbox msg = {.h = {.type = CTL_ANNOUNCE, .len = sizeof msg},
                             .outbox = box->own->handle,
                             .worker = box->worker->id};
    return control_send(&msg, NULL, 0) == 0;
}

void channel_announce_once(struct peer_box *box)
{
    if (!load_relaxed(&box->announced) && channel_announce(box))
        store_relaxed(&box->announced, true);
}

/* It comes from everywhere where somebody is told something, so it takes no lock that is held while sessions
 * are looked at: whoever takes events next finds the box on C->paired. */
void channel_pair(struct peer_box *box)
{
    plock_take(&C->lock);
    if (!box->own)
        box->own = outbox_of(box->worker->app, box->me);
    if (box->own && box->own_channel == NONE) {
        bool got = outbox_channel_alloc(box->own, box->worker->id, &box->own_channel) == 0;
        if (got && box->starved) { /* what should have been told meanwhile */
            struct channel *ch = outbox_channel(box->own, box->own_channel);
            channel_move_resync(ch);
            (void)channel_announce(box); /* it looks for our channel when it hears of our outbox */
        }
        store_relaxed(&box->starved, !got);
        if (!got)
            store_relaxed(&C->starved, true);
    }
    if (!channel_hears(box))
        find_theirs(box);
    /* the queue of a channel that we inherited is its owner's to take events from: we look at our sessions
     * directly */
    bool ready = box->own_channel != NONE && channel_hears(box) && !load_relaxed(&box->polled) &&
                 !box->buried && !load_acquire(&C->forked) && box->me == load_relaxed(&C->worker);
    if (ready) {
        store_relaxed(&box->polled, true);
        struct peer_box *first = load_relaxed(&C->paired);
        do {
            box->next_polled = first;
        } while (!compare_exchange_sc(&C->paired, &first, box));
    }
    plock_release(&C->lock);
}

/* Most peers tell us of their outbox when they have a channel for us in it (ANNOUNCE). Where we have asked for the
 * outbox ourselves nobody does: its owner hears of ours, and makes the channel, when it comes to that. */
void channels_pair(void)
{
    bool left = false;
    if (!exchange_sc(&C->unpaired, false))
        return;
    for (struct peer_box *b = load_acquire(&C->boxes); b; b = load_acquire(&b->next)) {
        if (b->me != load_relaxed(&C->worker) || load_relaxed(&b->worker->dead) ||
            !load_relaxed(&b->sessions) || channel_hears(b))
            continue;
        channel_pair(b);
        left |= !channel_hears(b);
    }
    if (left)
        store_sc(&C->unpaired, true);
}

void channel_await(const struct peer_box *box)
{
    if (!channel_hears(box))
        store_sc(&C->unpaired, true);
}

void channels_enter(void)
{
    if (!load_relaxed(&C->paired))
        return;
    for (struct peer_box *b = exchange_sc(&C->paired, NULL), *next; b; b = next) {
        next = b->next_polled;
        b->next_polled = C->polled;
        store_release(&C->polled, b);
        store_relaxed(&C->polled_count, C->polled_count + 1);
    }
}

/* ---- receiving ----------------------------------------------------------------------------------------- */

/* Takes what is in the queue of one channel, a batch at most. `all`: some were lost, each session may have
 * news. */
uint32_t channel_pop(struct peer_box *box, uint32_t slots[POP_MAX], bool *all)
{
    struct own_box *own = box->own;
    struct channel *mine = outbox_channel(own, box->own_channel);
    struct chan_rec *chan = &outbox_rec_of(own)->chan[box->own_channel];
    uint32_t n = 0, slot;
    *all = false;
    if (!family_lock_try_now(&chan->rx_lock))
        return 0; /* somebody is at it */
    uint32_t pos = mine->qhead;
    while (n < POP_MAX && queue_peek(box->queue, pos, &slot)) {
        slots[n++] = slot;
        pos++;
    }
    if (n)
        channel_set_qhead(mine, pos); /* before any of the sessions is looked at */
    uint32_t sync = channel_resync(their_channel(box));
    if (sync != box->their_resync) {
        box->their_resync = sync;
        *all = true;
    }
    family_lock_release(&chan->rx_lock);
    return n;
}

bool channel_has_news(const struct peer_box *box)
{
    uint32_t slot;
    uint32_t pos = channel_own_qhead(outbox_channel(box->own, box->own_channel));
    return box->behind || load_relaxed(&box->rescan) || queue_peek(box->queue, pos, &slot) ||
           channel_resync_seen(their_channel(box)) != box->their_resync;
}

/* Anything in a polled channel? The senders of armed channels kick. Where another thread is taking events
 * this waits until it has done so: what it found it has handed on then, and the caller, who looks for what
 * has been handed to it after this, finds it. */
bool events_waiting(void)
{
    if (load_relaxed(&C->unpaired))
        channels_pair();
    if (!load_relaxed(&C->polled) && !load_relaxed(&C->paired))
        return false;
    plock_take(&C->poll_lock); /* whoever has it may have lost the CPU, and hundreds may want to sleep */
    channels_enter();
    bool found = false;
    for (struct peer_box *b = C->polled; b && !found; b = b->next_polled)
        found = channel_has_news(b);
    plock_release(&C->poll_lock);
    return found;
}

/* Sends seldom used channels to sleep when there are more than it is good to look at each time. */
void channel_rearm(void)
{
    if (load_relaxed(&C->polled_count) <= POLLED_MAX || !plock_try(&C->poll_lock))
        return;
    channels_enter();
    for (struct peer_box **p = &C->polled; *p && C->polled_count > POLLED_MAX;) {
        struct peer_box *b = *p;
        struct channel *mine = outbox_channel(b->own, b->own_channel);
        if (b->idle < POLLED_IDLE) {
            p = &b->next_polled;
            continue;
        }
        channel_arm(mine); /* then look once more, as before any sleep */
        if (channel_has_news(b)) {
            channel_disarm(mine);
            b->idle = 0;
            continue;
        }
        store_release(p, b->next_polled);
        b->next_polled = C->armed;
        store_release(&C->armed, b);
        C->polled_count--;
    }
    plock_release(&C->poll_lock);
}
