/* again.c - a session is made again, as it was, in memory of ours: from what was written down of it (give.c),
 * before anybody can find it there. Offsets are what they were, and the bytes that the peer had not read lie
 * where they must.
 */
#include <string.h>

#include "client/again.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/fifo.h"
#include "client/link.h"
#include "client/outbox.h"
#include "client/session.h"
#include "client/slots.h"
#include "shm/slot.h"

static void bytes_in(struct session_cache *c, const struct session *s, const struct given *g,
                     const uint8_t *from)
{
    for (uint64_t at = g->from; at < g->tail;) {
        uint64_t n = s->tx_size - (at & (s->tx_size - 1));
        n = n < g->tail - at ? n : g->tail - at;
        memcpy(c->tx_ring + (at & (s->tx_size - 1)), from + (at - g->from), n);
        at += n;
    }
}

int session_make_again(struct session *s, const struct given *g, const uint8_t *bytes,
                       const struct ctl_place *peer, bool peer_moves, struct peer_box *box,
                       struct own_box *own, const struct slot *p)
{
    uint32_t own_slot;
    int err = outbox_slot_alloc(own, &own_slot);
    if (err)
        return err;
    memcpy(s->local.addr, g->local_addr, 16);
    memcpy(s->remote.addr, g->remote_addr, 16);
    s->local.port = g->local_port;
    s->remote.port = g->remote_port;
    s->local.proto = s->remote.proto = PROTO_TCP;
    s->local.family = g->local_family == 6 ? 6 : 4;
    s->remote.family = g->remote_family == 6 ? 6 : 4;
    if (g->tx_limit >= 4096 && g->tx_limit <= 1ull << RING_MAX_LOG2)
        session_set_tx_limit(s, g->tx_limit);
    session_set_offer_seq(s, g->offer_seq);
    session_meets(s, own, own_slot, box, peer);
    session_set_lowat(s, g->lowat);
    session_set_file(s, FILE_NONBLOCK, g->nonblock != 0);
    session_set_moving(s, peer_moves ? MOVING_HERE | MOVING_PEER : MOVING_HERE);
    session_add_flags(s, (g->flags & GIVEN_FLAGS) | SF_CONFIRMED);
    session_fill_slot(s, own);
    struct session_cache *c = session_cache_make(s);
    slot_set_place(c->own, (uint16_t)(g->place + 1));
    slot_set_peer_place(c->own, slot_place(p));
    info_set_rx_limit(outbox_info(own, own_slot), (uint32_t)g->rx_limit);
    session_set_head(s, g->head);
    session_set_tail_seen(s, g->head);
    stream_publish_head(s, c);
    session_set_tail(s, g->from);
    session_set_head_seen(s, g->from);
    if (g->tail > g->from) {
        uint64_t size = 1u << RING_MIN_LOG2;
        while (size < g->tail - g->from)
            size *= 4;
        if ((err = fifo_swap(s, c, size)) != 0) {
            outbox_slot_free(own, own_slot);
            return err;
        }
        bytes_in(c, s, g, bytes);
        session_set_tail(s, g->tail);
    }
    if (g->flags & SF_SHUT_WR)
        slot_set_ended(c->own);
    slot_set_tail(c->own, count_word(g->tail, g->flags & SF_SHUT_WR ? COUNT_FLAG : 0));
    slot_set_peer(c->own, (uint64_t)peer->generation << 32 | peer->slot);
    session_set_state(s, SESSION_OPEN);
    slot_set_state(c->own, g->flags & SF_CONNECTOR ? SLOT_OPEN : SLOT_ACCEPTED);
    if (load_acquire(&c->peer) != p)
        return BERTH_E_PROTOCOL; /* cannot be: the cache was made from the same places */
    channel_pair(box);
    if (load_sc(&box->worker->dead)) /* as accept_offer */
        session_dead(s, session_flags(s));
    return 0;
}
