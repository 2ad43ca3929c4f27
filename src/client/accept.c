/* accept.c - taking what connectors offer.
 *
 * Theory of operation
 *
 * A token (tokens.c) names a slot of the connector's outbox. The offer is checked against the slot itself,
 * and a slot of our own outbox answers it. What cannot be answered for want of something, a descriptor say,
 * is set aside: to the connector it is as a connection in the backlog of a program that does not accept.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/accept.h"
#include "client/aside.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/family.h"
#include "client/hello.h"
#include "client/link.h"
#include "client/listener.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/session.h"
#include "client/slots.h"
#include "client/upkeep.h"
#include "shm/ctlsock.h"
#include "shm/slot.h"

/* ---- the offer ----------------------------------------------------------------------------------------- */

/* Takes the offer that `t` announces. 0; BERTH_E_REFUSED: it is stale, take the next; IN_PROGRESS: not all of
 * it is here; or a reason not to go on, and then it still stands. */
static int accept_offer(struct peer_box *box, const struct token *t, uint32_t listener, session_handle *out)
{
    int err = offer_check(box, t);
    if (err)
        return err;
    const struct slot_info *info = peer_info(box, t->slot);
    if (!info)
        return BERTH_E_REFUSED;
    struct own_box *own = answering_outbox(box, &err);
    if (!own)
        return err;
    struct session *s = session_alloc();
    if (!s)
        return BERTH_E_LIMIT;
    uint32_t own_slot;
    if ((err = outbox_slot_alloc(own, &own_slot)) != 0) {
        session_free(s);
        return err;
    }
    memcpy(s->local.addr, info->remote_addr, 16);
    memcpy(s->remote.addr, info->local_addr, 16);
    s->local.port = info_remote_port(info);
    s->remote.port = info_local_port(info);
    s->local.proto = s->remote.proto = PROTO_TCP;
    s->local.family = s->remote.family = info_addr_kind(info) == 6 ? 6 : 4;
    uint64_t limit = info_rx_limit(info);
    if (limit >= 4096 && limit < session_tx_limit(s))
        session_set_tx_limit(s, limit);
    session_set_listener(s, listener);
    session_set_offer_seq(s, t->offer_seq);
    session_meets(s, own, own_slot, box, &(struct ctl_place){box->handle, t->slot, t->generation});
    session_fill_slot(s, own);
    struct session_cache *c = session_cache_make(s);
    slot_set_peer(c->own, (uint64_t)t->generation << 32 | t->slot);
    session_set_state(s, SESSION_OPEN);
    slot_set_state(c->own, SLOT_ACCEPTED);
    channel_pair(box);
    if (load_sc(&box->worker->dead)) { /* looked at when others can find the session: sessions_of_worker_dead
                                          may be at it */
        session_add_flags(s, SF_DEAD);
    } else {
        channel_event(s, c);
        channel_announce_once(box);
    }
    /* All that tells the connector of us is on its way: if its number has not moved yet, it will hear of us
     * before it asks anybody else (slot_set_state is the fence between). Otherwise it may have chosen
     * another. */
    if (t->offer_seq > 1 || info_offer_seq_sc(info) != t->offer_seq)
        session_add_flags(s, SF_TENTATIVE);
    plock_take(&C->zombie_lock);
    s->next = C->unconfirmed;
    store_release(&C->unconfirmed, session_index(s) + 1);
    if (session_unheard(c))
        store_relaxed(&C->unheard, C->unheard + 1);
    plock_release(&C->zombie_lock);
    *out = session_handle_of(s);
    return 0;
}

static int session_accept(struct peer_box *box, const struct token *t, uint32_t listener, session_handle *out)
{
    plock_take(&C->lock); /* from here on it counts as used: peers_collect leaves it alone */
    bool gone = box->buried != 0;
    if (!gone)
        fetch_add_sc(&box->sessions, 1);
    plock_release(&C->lock);
    if (gone)
        return BERTH_E_IN_PROGRESS;
    int err = accept_offer(box, t, listener, out);
    if (err)
        fetch_add_sc(&box->sessions, ~0u);
    return err;
}

int accept_at(struct peer_box *box, uint32_t slot, uint32_t generation, session_handle *out)
{
    const struct slot_info *info = peer_info(box, slot);
    if (!info)
        return BERTH_E_PROTOCOL;
    struct token t = {.magic = TOKEN_MAGIC,
                      .listener = info_listener(info),
                      .outbox = box->handle,
                      .slot = slot,
                      .generation = generation,
                      .offer_seq = info_offer_seq(info)};
    return session_accept(box, &t, t.listener, out);
}

/* offers that were withdrawn just then, in a row, before the caller is told to come again */
#define TRIES 16

/* ---- accept -------------------------------------------------------------------------------------------- */

static int accept_held(listener_handle h, bool (*may)(void *arg), void *arg, session_handle *out)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    int err = fork_child_ready();
    if (err)
        return err;
    zombies_reap(4);
    for (int tries = 0; tries < TRIES; tries++) {
        struct token t;
        struct peer_box *box = NULL;
        if ((err = token_take(l, &t, &box)) != 0)
            return err;
        if (may && !may(arg)) {
            token_put_back(l, &t);
            return BERTH_E_LIMIT;
        }
        err = session_accept(box, &t, t.listener, out);
        if (err == BERTH_E_NO_MEMORY && memory_borrow(C->segment_size))
            err = session_accept(box, &t, t.listener, out);
        struct aside *a = err == 0 ? aside_of(l) : NULL;
        if (a && !members_has(&a->served, C->member))
            members_add(&a->served, C->member);
        if (err == 0)
            return 0;
        if (err == BERTH_E_DAEMON_GONE) { /* nobody else could tell the connector who has accepted */
            log_warn("listener %u: an offer is dropped, the daemon is gone", l->id);
        } else if (err == BERTH_E_IN_PROGRESS) { /* its outbox was given up at this very moment: it is asked
                                                    for once more */
            token_put_back(l, &t);
        } else if (err != BERTH_E_REFUSED) { /* for want of something that the program may have soon */
            token_put_back(l, &t);
            return err;
        }
    }
    listener_more(l);
    return BERTH_E_WOULD_BLOCK;
}

int client_accept_if(listener_handle h, bool (*may)(void *arg), void *arg, session_handle *out)
{
    hold_begin();
    int err = accept_held(h, may, arg, out);
    hold_end();
    return err;
}

int client_accept(listener_handle h, session_handle *out)
{
    return client_accept_if(h, NULL, NULL, out);
}
