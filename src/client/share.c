/* share.c - what a holder of shared sessions (fork.c) must look after himself, since the events go to one of
 * all. */
#include <string.h>

#include "client/channel.h"
#include "client/control.h"
#include "client/events.h"
#include "client/family.h"
#include "client/link.h"
#include "client/offers.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/share.h"
#include "client/watch.h"

static uint32_t peers_asked[8], peers_asks; /* apps, see ask_peers */

/* ---- a peer that another member has met ---- */

/* The daemon answers in order. Who forks asks anew: its child has a connection of its own. */
static outbox_handle outboxes_asked[16], outbox_refused;
static uint32_t outboxes_first, outboxes_last; /* under C->lock */

/* False: it has been asked for, and no answer has come. */
static bool enter_asked(outbox_handle handle)
{
    plock_take(&C->lock);
    uint32_t room = sizeof outboxes_asked / sizeof outboxes_asked[0], at = outboxes_first;
    while (at != outboxes_last && outboxes_asked[at % room] != handle)
        at++;
    bool entered = at == outboxes_last && at - outboxes_first < room;
    if (entered)
        outboxes_asked[outboxes_last++ % room] = handle;
    plock_release(&C->lock);
    return entered;
}

void shared_outbox_answered(int status)
{
    plock_take(&C->lock);
    uint32_t room = sizeof outboxes_asked / sizeof outboxes_asked[0];
    if (outboxes_first != outboxes_last) {
        outbox_handle asked = outboxes_asked[outboxes_first++ % room];
        if (status && status != BERTH_E_NO_MEMORY)
            store_release(&outbox_refused, asked);
    }
    plock_release(&C->lock);
}

bool peer_unreachable(const struct session *s, const struct session_cache *c)
{
    if (__builtin_expect(!(session_flags(s) & SF_SHARED), 1) || load_acquire(&c->peer))
        return false;
    outbox_handle at = session_peer_outbox(s);
    return at && (C->daemon_lost || load_acquire(&outbox_refused) == at) && !peer_box_first(at);
}

bool peer_awaited(const struct session *s, const struct session_cache *c)
{
    return session_flags(s) & SF_SHARED && !load_acquire(&c->peer) && session_peer_outbox(s) &&
           !peer_unreachable(s, c);
}

static void ask_outbox(outbox_handle handle)
{
    if (load_acquire(&outbox_refused) == handle || !enter_asked(handle))
        return;
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg, .seq = NONE}, .outbox = handle};
    (void)control_send(&msg, NULL, 0); /* no daemon: no answer, as if it had none */
}

/* Once is enough: the daemon tells of those that come later by itself. */
static void ask_peers(uint32_t app)
{
    for (uint32_t i = 0; i < 8; i++) {
        if (peers_asked[i] == app)
            return;
    }
    peers_asked[peers_asks++ % 8] = app;
    struct ctl_outbox msg = {.h = {.type = CTL_GET_PEERS, .len = sizeof msg}, .facing_app = app};
    (void)control_send(&msg, NULL, 0); /* no daemon: no answer, as if it had none */
}

void share_forget(void)
{
    memset(peers_asked, 0, sizeof peers_asked);
    outboxes_first = outboxes_last = 0;
    outbox_refused = 0;
}

/* Another member has met the acceptor. */
static void link_as_known(struct session *s, outbox_handle handle, uint32_t slot, uint32_t owner)
{
    struct peer_box *box = peer_box_of(handle, owner);
    const struct slot *p = box ? peer_slot(box, slot) : NULL;
    if (!p) {
        ask_outbox(handle);
        return;
    }
    channel_pair(box);
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    bool mine = !c->peer && s->peer_outbox == handle && s->peer_slot == slot;
    if (mine) {
        box->sessions++;
        c->box = box;
        roll_enter(s, &box->roll);
        store_release(&c->peer, p);
        fence_sc();
        if (load_acquire(&box->worker->dead)) /* as link_to */
            session_add_flags(s, SF_DEAD);
        if (worker_is_us(owner))
            route_waiting(s, -1);
        session_linked(s);
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

bool shared_link(struct session *s)
{
    if (session_cache_of(s)->peer)
        return false;
    uint32_t owner = session_owner(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    outbox_handle handle = s->peer_outbox;
    uint32_t slot = s->peer_slot;
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (handle) {
        link_as_known(s, handle, slot, owner);
        return !session_cache_of(s)->peer;
    }
    events_poll(true);
    if (worker_is_us(owner))
        return false;
    ask_peers(s->app);
    for (struct peer_box *b = load_acquire(&C->boxes); b; b = load_acquire(&b->next)) {
        struct peer_box *as = b->worker->app == s->app ? peer_box_of(b->handle, owner) : NULL;
        if (as) {
            channel_pair(as);
            channel_scan(as);
        }
    }
    return !session_cache_of(s)->peer;
}

bool session_seek(struct session *s)
{
    if (session_flags(s) & SF_SHARED && session_state(s) != SESSION_QUEUED)
        return shared_link(s);
    if (session_state(s) == SESSION_QUEUED)
        offer_again(s);
    else
        events_poll(true);
    return false;
}

/* As sessions_confirm, for what was accepted before the fork. */
void shared_confirm(void)
{
    uint32_t left = 0, unheard = 0, tentative = 0;
    if (__builtin_expect(!load_relaxed(&C->inherited_unconfirmed), 1))
        return;
    for (struct session *s = NULL; (s = session_after(s));) {
        if (!session_held_by(s, C->member) || session_flags(s) & (SF_CONNECTOR | SF_CONFIRMED) ||
            worker_is_us(session_owner(s)))
            continue;
        struct session_cache *c = session_cache_of(s);
        if (c->peer && !session_judge(s, c)) {
            struct peer_box *box = c->box;
            left++;
            unheard += session_unheard(c);
            tentative += (session_flags(s) & SF_TENTATIVE) != 0;
            if (box && box->own) /* whoever forked us is answered, and not we */
                channel_announce_once(box);
        }
        watches_ready(c);
    }
    store_relaxed(&C->inherited_unheard, unheard);
    store_relaxed(&C->inherited_tentative, tentative);
    store_relaxed(&C->inherited_unconfirmed, left);
}

void shared_look(void)
{
    if (load_relaxed(&C->inherited_unheard) || load_relaxed(&C->inherited_tentative))
        shared_confirm();
}
