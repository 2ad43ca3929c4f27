/* take.c - a session that another program has given away is made again here, see give.c and move.c. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "client/accept.h"
#include "client/again.h"
#include "client/arrive.h"
#include "client/channel.h"
#include "client/control.h"
#include "client/give.h"
#include "client/life.h"
#include "client/move.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/session.h"
#include "client/slots.h"
#include "shm/segment.h"
#include "shm/slot.h"

/* *out is a copy: who wrote it may write it still. The bytes are read where they lie. */
static int read_given(int fd, struct given *out, const void **all, uint64_t *size)
{
    const void *map;
    const char *why = "it does not say what it must";
    int err = segment_open(fd, PAGE_BYTES, SEGMENT_MAX, false, &map, size, &why);
    if (!err) {
        struct given g;
        memcpy(&g, map, sizeof g);
        __asm__ volatile("" ::: "memory"); /* what is checked is what is used */
        if (g.magic != GIVEN_MAGIC || g.flags & ~GIVEN_FLAGS || g.tail < g.from ||
            g.tail - g.from > 1ull << RING_MAX_LOG2 || *size != given_bytes(g.tail - g.from) ||
            g.tail >= WANT_NOTHING || g.head >= WANT_NOTHING) {
            segment_unmap(map, *size);
            err = BERTH_E_PROTOCOL;
        } else {
            *out = g;
            *all = map;
        }
    }
    if (err)
        log_warn("a session that was given is refused: %s", why);
    return err;
}

/* The outbox of the other end, and ours that faces it. It counts one session more. */
static int meet(const struct ctl_move *m, struct peer_box **out, struct own_box **own)
{
    struct ctl_outbox ask = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof ask}, .outbox = m->peer.outbox};
    struct ctl_outbox_is is;
    int fds[3] = {-1, -1, -1}, n = 3;
    struct peer_box *box = peer_box_find(m->peer.outbox);
    if (!box) {
        int err = control_request(&ask, NULL, 0, &is, sizeof is, fds, &n);
        if (!err && n != 3)
            err = BERTH_E_PROTOCOL;
        if (err) {
            while (n > 0)
                (void)sys_close(fds[--n]);
            return err;
        }
        plock_take(&C->lock);
        box = peer_box_add(&is, fds);
        plock_release(&C->lock);
        if (!box)
            return BERTH_E_NO_MEMORY;
        if (is.dead)
            peer_worker_dead(is.worker);
    }
    int err = 0;
    *out = box;
    *own = answering_outbox(box, &err);
    if (!*own)
        return err;
    plock_take(&C->lock);
    bool gone = box->buried != 0;
    if (!gone)
        fetch_add_sc(&box->sessions, 1);
    plock_release(&C->lock);
    return gone ? BERTH_E_IN_PROGRESS : 0;
}

/* What comes with the slot lies in memory that may have to be fetched. */
static const struct slot *slot_of(struct peer_box *box, uint32_t index)
{
    int err = BERTH_E_WOULD_BLOCK;
    const struct slot *p = NULL;
    int64_t end = clock_now() + SEGMENT_TIMEOUT_NS;
    while (!(p = peer_slot_find(box, index, &err)) && err == BERTH_E_WOULD_BLOCK && clock_now() < end) {
        struct client_poll_item none = {0};
        (void)client_poll(&none, 0, NULL, 0, NS_PER_MS, NULL, NULL);
    }
    return p;
}

/* Its peer is told of our outbox, then (the daemon keeps the order) of the slot in it. */
static int tell_where(const struct session *s, const struct ctl_move *m, struct peer_box *box,
                      const struct own_box *own)
{
    channel_announce_once(box);
    const struct session_cache *c = &C->cache[session_index(s)];
    struct ctl_move moved = {.h = {.type = CTL_MOVED, .len = sizeof moved},
                             .from = m->from,
                             .to = session_place(s, c),
                             .peer = m->peer};
    return control_send(&moved, NULL, 0);
}

static int take(const struct ctl_move *m, const struct given *g, const uint8_t *bytes, session_handle *out)
{
    struct peer_box *box;
    struct own_box *own;
    int err = meet(m, &box, &own);
    if (err)
        return err;
    const struct slot *p = slot_of(box, m->peer.slot);
    struct session *s = p ? session_alloc() : NULL;
    err = !p   ? BERTH_E_PROTOCOL
          : !s ? BERTH_E_LIMIT
               : session_make_again(s, g, bytes, &m->peer, m->to.outbox != 0, box, own, p);
    if (err && s)
        session_free(s);
    if (err) {
        fetch_add_sc(&box->sessions, ~0u);
        return err;
    }
    *out = session_handle_of(s);
    channel_await(box);
    session_arrives(*out);
    if ((err = tell_where(s, m, box, own)) != 0) {
        (void)session_finish(*out, true);
        return err;
    }
    return 0;
}

/* No session that another had: an offer that nobody has accepted. */
static int take_offered(const struct ctl_move *m, session_handle *out)
{
    struct peer_box *box;
    struct own_box *own;
    int err = meet(m, &box, &own);
    if (err)
        return err;
    err =
        slot_of(box, m->peer.slot) ? accept_at(box, m->peer.slot, m->peer.generation, out) : BERTH_E_PROTOCOL;
    fetch_add_sc(&box->sessions, ~0u); /* who accepts counts for himself */
    return err;
}

int client_take(int fd, session_handle *out)
{
    struct ctl_move ask = {.h = {.type = CTL_TAKE, .len = sizeof ask}}, m;
    int record = -1, n = 1;
    struct given g;
    const void *all;
    uint64_t size;
    if (!client_attach_as_heir(fd))
        return BERTH_E_NOT_ATTACHED;
    int err = control_request(&ask, &fd, 1, &m, sizeof m, &record, &n);
    if (err)
        return err;
    if (!m.from.outbox && !n)
        return take_offered(&m, out);
    err = n == 1 ? read_given(record, &g, &all, &size) : BERTH_E_PROTOCOL;
    if (!err) {
        err = take(&m, &g, (const uint8_t *)all + PAGE_BYTES, out);
        segment_unmap(all, size);
    }
    if (n == 1)
        (void)sys_close(record);
    if (err) { /* nobody will have it now */
        log_warn("a session that was given could not be taken: %s", berth_strerror(err));
        session_is_nowhere(&m.from);
    }
    return err;
}
