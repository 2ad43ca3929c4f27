/* channel.h - the event queues between two workers. */
#ifndef BERTH_CLIENT_CHANNEL_H
#define BERTH_CLIENT_CHANNEL_H

#include "base/sys.h"
#include "client/state.h"
#include "shm/slot.h"

#define POP_MAX 64u

/* So many sleepers the writer wakes himself: a peer may have thousands on one word. Those that were woken
 * wake the others, see wait.c. */
#define NOTIFY_WAKES 8u

void channel_pair(struct peer_box *box); /* makes our side and finds theirs, as far as it can be done now */
void channels_enter(void);               /* those met since take part in polling; under poll_lock */
void channel_event(struct session *s, struct session_cache *c);
bool channel_announce(const struct peer_box *box); /* tells its worker of our outbox, through the daemon */
/* the same, if that has not been done. By two at once: the daemon minds it no more than we do */
void channel_announce_once(struct peer_box *box);
bool channel_has_news(const struct peer_box *box);
uint32_t channel_pop(struct peer_box *box, uint32_t slots[POP_MAX], bool *all); /* how many it took */
/* anything in a polled channel? */
bool events_waiting(void);
/* Has it a channel for us, and is that here? Before that nothing is heard of it by events. */
bool channel_hears(const struct peer_box *box);
/* A session may bring news by a channel that its owner has yet to make. */
void channel_await(const struct peer_box *box);
void channels_pair(void); /* looks for those */
void channel_rearm(void); /* sends seldom used channels to sleep */

/* Our tail went from one offset to the other: the peer is told if it waits for that. True: it is. */
static inline bool notify_data(struct session *s, struct session_cache *c, uint64_t old_offset,
                               uint64_t new_offset)
{
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer)
        return false; /* it will be told when it is known: session_linked */
    uint64_t want = slot_want(peer);
    if (__builtin_expect(!slot_crossed(want, old_offset, new_offset), 1))
        return false;
    if (want & COUNT_FLAG)
        (void)sys_futex_wake(slot_tail_futex(c->own), (long)NOTIFY_WAKES);
    else
        channel_event(s, c);
    return true;
}

/* The same of our head. */
static inline void notify_space(struct session *s, struct session_cache *c, uint64_t old_offset,
                                uint64_t new_offset)
{
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer)
        return;
    uint64_t want = slot_want_space(peer);
    if (__builtin_expect(!slot_crossed(want, old_offset, new_offset), 1))
        return;
    if (want & COUNT_FLAG)
        (void)sys_futex_wake(slot_head_futex(c->own), (long)NOTIFY_WAKES);
    else
        channel_event(s, c);
}

#endif
