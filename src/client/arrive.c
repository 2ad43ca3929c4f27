/* arrive.c - sessions that were taken, and whose peer still looks at where they were.
 *
 * A peer that has not heard where its session went tells the old place of what it writes. It hears when it
 * calls berth: so for some seconds whoever takes a session, and sleeps, looks by himself, each millisecond and
 * then ever more seldom (wait_cap), whether something has come. A peer that comes by later finds where the
 * session was left (told_data in stream.c), and looks for word of it then.
 */
#include "client/arrive.h"
#include "base/clock.h"
#include "base/plock.h"
#include "client/move.h"
#include "client/session.h"
#include "client/state.h"
#include "client/watch.h"
#include "shm/slot.h"

#define ARRIVALS 64u
#define LOOKS_NS (10 * NS_PER_SEC)

struct plock arrivals_lock;
static struct {
    session_handle h;
    int64_t until;
} arrival[ARRIVALS];

void session_arrives(session_handle h)
{
    plock_take(&arrivals_lock);
    if (C->arriving < ARRIVALS) { /* else there are so many that somebody is sure to be awake */
        arrival[C->arriving].h = h;
        arrival[C->arriving].until = clock_now() + LOOKS_NS;
        store_relaxed(&C->arriving, C->arriving + 1);
    }
    plock_release(&arrivals_lock);
}

static bool still_arriving(session_handle h)
{
    struct session *s = session_get(h);
    if (!s || session_moving(s) & MOVING_GONE || session_flags(s) & (SF_DEAD | SF_RESET))
        return false;
    struct session_cache *c = session_cache_of(s);
    const struct slot *peer = load_acquire(&c->peer);
    if (peer && count_offset(slot_tail(peer)) != session_head(s)) {
        watches_ready(c);
        sleepers_wake(s);
    }
    return !session_is_known(s, c);
}

void arrivals_look(void)
{
    int64_t now = clock_now();
    uint32_t left = 0;
    if (!plock_try(&arrivals_lock))
        return;
    for (uint32_t i = 0; i < C->arriving; i++) {
        if (still_arriving(arrival[i].h) && now < arrival[i].until)
            arrival[left++] = arrival[i];
    }
    store_relaxed(&C->arriving, left);
    plock_release(&arrivals_lock);
}

void arrivals_forked(void)
{
    arrivals_lock.word = 0;
    if (C->arriving)
        store_relaxed(&C->arriving, 0u);
}
