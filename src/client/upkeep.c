/* upkeep.c - what is to be done now and then for all sessions, and for one that cannot go on: look whether it
 * can now.
 *
 * A closed session is a zombie: out of the program's reach (the handle's generation has moved), its slot
 * still readable by the peer. Zombies are looked at a few at a time, of each peer in turn, whenever a session
 * is made.
 */
#include "client/upkeep.h"
#include "base/clock.h"
#include "base/hold.h"
#include "client/arrive.h"
#include "client/control.h"
#include "client/events.h"
#include "client/graves.h"
#include "client/home.h"
#include "client/life.h"
#include "client/link.h"
#include "client/news.h"
#include "client/offers.h"
#include "client/peer.h"
#include "client/rings.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/share.h"
#include "shm/slot.h"

/* A connector's session whose acceptor is not known: has somebody accepted, or is there room for its offer
 * now? */
void session_try_link(struct session *s)
{
    if (!session_seek(s))
        return;
    control_poll(); /* the daemon was asked */
    (void)session_seek(s);
}

#define LOOKED_AT 8 /* of those that nobody has accepted yet */
#define SELDOM_NS (16 * NS_PER_MS)
#define SELDOMEST_NS (256 * NS_PER_MS)

/* The app whose worker has taken a token of ours and has said nothing yet; 0: none. */
static uint32_t taker(bool seldom)
{
    struct roll_walk w;
    uint32_t app = 0;
    int n = LOOKED_AT;
    hold_begin(); /* the walk is on our stack */
    walk_begin(&w, &C->unmet);
    for (const struct session *s; (s = walk_next(&w));) {
        if (!app && n-- > 0 && session_state(s) == SESSION_OFFERED && !session_peer_outbox(s) &&
            session_flags(s) & SF_CONNECTOR && !route_full_of_ours(session_listener(s)))
            app = session_app(s);
    }
    hold_end();
    plock_take(&C->lock);
    if (app && seldom && peer_app_met(app))
        app = 0;
    plock_release(&C->lock);
    return app;
}

/* Who has accepted has told the daemon before he could write a byte: in two rounds of the daemon's it has come
 * to that, and we have heard of it. Only where our token has been taken, and now and then; seldom where one of
 * its app is known, for he who has accepted is most likely that; and ever more seldom where asking was in
 * vain, for who took the token may have been stopped. */
void acceptors_ask(void)
{
    static __thread int64_t asked, pause = NS_PER_MS;
    int64_t since = clock_now() - asked;
    if (since < pause || !taker(since < SELDOM_NS))
        return;
    for (int i = 0; i < 2; i++) {
        struct ctl_header ask = {.type = CTL_STATUS, .len = sizeof ask};
        struct ctl_status_is is;
        asked = clock_now();
        if (control_request(&ask, NULL, 0, &is, sizeof is, NULL, NULL) != 0)
            return; /* it is slow, or gone: word comes when it comes */
    }
    control_poll();
    events_poll(true);
    if (!taker(false))
        pause = NS_PER_MS;
    else if (pause < SELDOMEST_NS)
        pause *= 2;
}

void session_meet(struct session *s)
{
    session_try_link(s);
    if (load_acquire(&session_cache_of(s)->peer))
        return;
    acceptors_ask();
    if (!load_acquire(&session_cache_of(s)->peer))
        (void)session_seek(s);
}

void session_meet_now(struct session *s)
{
    session_try_link(s);
    if (!load_acquire(&session_cache_of(s)->peer))
        acceptors_look();
}

void session_look(struct session *s)
{
    acceptors_look();
    if (session_flags(s) & SF_SHARED)
        session_try_link(s);
}

/* The end is something, too. What it was the end of may have gone since, and its record be another's: that is
 * looked at, then. */
static int look_at_end(session_handle h, int (*end)(session_handle h, int how), int how)
{
    struct session *s = session_get(h);
    bool alone = s && !load_acquire(&session_cache_of(s)->peer);
    int err = end(h, how);
    if (!err && alone)
        session_look(s);
    return err;
}

static int finish(session_handle h, int abort)
{
    return session_finish(h, abort);
}

int client_shutdown(session_handle h, int how)
{
    struct session *s = session_get(h);
    if (s && !load_acquire(&session_cache_of(s)->peer))
        session_meet(s); /* who has accepted it may have reset it since */
    return look_at_end(h, session_shut, how);
}

uint32_t client_shut(session_handle h)
{
    const struct session *s = session_get(h);
    uint32_t flags = s ? session_flags(s) : 0;
    return (flags & SF_SHUT_RD ? BERTH_SHUT_RD : 0) | (flags & SF_SHUT_WR ? BERTH_SHUT_WR : 0);
}

int client_close(session_handle h)
{
    return look_at_end(h, finish, false);
}

int client_abort(session_handle h)
{
    return look_at_end(h, finish, true);
}

bool client_accepted(session_handle h)
{
    struct session *s = session_get(h);
    if (!s)
        return false;
    if (!session_cache_of(s)->peer)
        session_try_link(s);
    return session_cache_of(s)->peer != NULL;
}

/* Is the slot of the peer another one's by now? It may be followed to its new place at this moment (change_over): then the
 * two do not belong together, and it is asked again later. */
static bool peer_slot_is_anothers(struct session *s, const struct session_cache *c)
{
    if (slot_generation(load_acquire(&c->peer)) == session_peer_generation(s) ||
        !family_lock_try_now(&s->rx_lock))
        return false;
    bool is = slot_generation(load_acquire(&c->peer)) != session_peer_generation(s);
    half_unlock(&s->rx_lock);
    return is;
}

static bool peer_is_done(struct session *s, struct session_cache *c)
{
    uint32_t flags = session_flags(s);
    if (flags & SF_DEAD || (flags & (SF_RESET | SF_WRITE_LOST)) == SF_RESET)
        return true; /* who has lost a write to a peer that is shut, and not closed: that one may still read
                        what came before */
    const struct slot *peer = load_acquire(&c->peer);
    if (!peer)
        return false;
    if (peer_slot_is_anothers(s, c))
        return true;
    if (session_moving(s) & MOVING_GONE) /* whoever may still come by here would not find it */
        return (int16_t)(slot_peer_place(peer) - slot_place(c->own)) > 0;
    return session_flags(s) & SF_CONNECTOR && slot_state(peer) == SLOT_CLOSED;
}

void zombies_reap(int most)
{
    struct session *s;
    peers_collect(false);
    for (int i = 0; i < most && (s = zombie_take()); i++) {
        struct session_cache *c = session_cache_of(s);
        if (!load_acquire(&c->peer) && session_flags(s) & SF_CONNECTOR)
            session_try_link(s);
        if (peer_is_done(s, c)) {
            session_dispose(s);
            fetch_add_sc(&C->zombies_done, 1);
        } else {
            zombie_put(s);
        }
    }
}

void sessions_settle(void)
{
    outbox_shrink();
    sessions_confirm();
    if (load_relaxed(&C->sharing))
        sessions_go_home();
    if (load_relaxed(&C->arriving))
        arrivals_look();
    shared_look();
    if (load_relaxed(&C->queued) || load_relaxed(&C->reoffer_at))
        sessions_offer_again();
    uint32_t before;
    do {
        before = load_relaxed(&C->zombies_done);
        zombies_reap(8);
    } while (load_relaxed(&C->zombies_done) - before >= 4); /* as long as that helps */
}
