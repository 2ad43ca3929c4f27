/* give.c - a session goes to another program, with the descriptor that stands for it: who gives it. Who takes
 * it is in take.c, what its peer does in move.c.
 *
 * What is written down (struct given) is read by a program of the same user, which may be anybody: it is
 * checked like all that comes from outside. The bytes that the peer has not read follow, each at the place
 * that its offset has in the stream.
 */
#include <string.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/family.h"
#include "client/give.h"
#include "client/hello.h"
#include "client/life.h"
#include "client/move.h"
#include "client/outbox.h"
#include "client/session.h"
#include "client/wake.h"
#include "client/watch.h"
#include "shm/segment.h"
#include "shm/slot.h"

/* of what has come to an end, or is shared, no more than the kernel's sockets know is given */
#define NOT_GIVEN (SF_RESET | SF_DEAD | SF_TENTATIVE | SF_READ_SPAN | SF_STOPPED)

/* ---- giving -------------------------------------------------------------------------------------------- */

bool may_give(const struct session *s, const struct session_cache *c, bool shared)
{
    const struct slot *peer = load_acquire(&c->peer);
    uint32_t flags = session_flags(s), both = SF_SHUT_RD | SF_SHUT_WR;
    /* a connector that does not know us yet finds us, where we were, before it hears where the session goes */
    return session_state(s) == SESSION_OPEN && peer && c->own && !(flags & NOT_GIVEN) &&
           (flags & both) != both && (shared || !session_others_live(s)) && !s->write_span && !s->error &&
           !(session_moving(s) & (MOVING_PEER | MOVING_GONE)) &&
           slot_generation_known(peer) == session_peer_generation(s);
}

static void bytes_out(const struct session *s, const uint8_t *ring, uint64_t from, uint8_t *to)
{
    for (uint64_t at = from; at < s->tail;) {
        uint64_t n = s->tx_size - (at & (s->tx_size - 1));
        n = n < s->tail - at ? n : s->tail - at;
        memcpy(to + (at - from), ring + (at & (s->tx_size - 1)), n);
        at += n;
    }
}

int given_look(const struct session *s, const struct session_cache *c, struct to_give *g)
{
    struct own_box *own = outbox_by_index(s->own_outbox);
    g->from = count_offset(slot_head(c->peer));
    if (g->from > s->tail || g->from < s->head_seen || s->tail - g->from > s->tx_size)
        return BERTH_E_PROTOCOL;
    g->ring = g->from < s->tail ? outbox_ring_at(own, C->family->ring[s->tx_rec].word, NULL) : NULL;
    if (g->from < s->tail && !g->ring)
        return BERTH_E_BUSY;
    g->size = given_bytes(s->tail - g->from);
    return 0;
}

void given_write(const struct session *s, const struct session_cache *c, const struct to_give *from,
                 struct given *g)
{
    *g = (struct given){.magic = GIVEN_MAGIC,
                        .flags = session_flags(s) & GIVEN_FLAGS,
                        .head = s->head,
                        .from = from->from,
                        .tail = s->tail,
                        .tx_limit = session_tx_limit(s),
                        .rx_limit = info_rx_limit(outbox_info(outbox_by_index(s->own_outbox), s->own_slot)),
                        .lowat = session_lowat(s),
                        .offer_seq = session_offer_seq(s),
                        .local_port = s->local.port,
                        .remote_port = s->remote.port,
                        .local_family = s->local.family,
                        .remote_family = s->remote.family,
                        .nonblock = session_file(s, FILE_NONBLOCK),
                        .place = slot_place(c->own)};
    memcpy(g->local_addr, s->local.addr, 16);
    memcpy(g->remote_addr, s->remote.addr, 16);
    if (from->ring)
        bytes_out(s, from->ring, from->from, (uint8_t *)g + PAGE_BYTES);
}

/* Both locks are held. */
static int write_down(const struct session *s, const struct session_cache *c, int *fd)
{
    struct to_give from;
    void *map;
    int err = given_look(s, c, &from);
    if (!err)
        err = segment_create("berth-given", from.size, fd, &map);
    if (err)
        return err;
    given_write(s, c, &from, map);
    segment_unmap(map, from.size);
    return 0;
}

/* The peer's next byte has it look where we have gone (told_data in stream.c). One that writes without end is
 * seen to have written by whoever takes the session. */
static void want_next(const struct session_cache *c)
{
    uint64_t at = count_offset(slot_tail(c->peer)), now;
    for (int i = 0; i < 16; i++, at = now) {
        slot_arm(&c->own->want, at, 0);
        if ((now = count_offset(slot_tail(c->peer))) == at)
            break;
    }
}

/* The daemon has it. Both locks are held. */
static void let_go(struct session *s, struct session_cache *c)
{
    session_hold_alone(s);
    session_set_moving(s, MOVING_GONE);
    session_set_state(s, SESSION_ZOMBIE);
    slot_set_state(c->own, SLOT_MOVED);
    want_next(c);
    session_cache_keep(s, c);
}

static void gone(struct session *s, struct session_cache *c)
{
    watches_drop(&c->watches, load_acquire(&c->peer));
    closed_wake(s, c);
    unconfirmed_take(s);
    zombie_put(s);
}

int client_give(session_handle h, int theirs, int ours)
{
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    int err = fork_child_ready();
    if (err)
        return err;
    struct session_cache *c = session_cache_of(s);
    int fds[3] = {-1, theirs, ours};
    family_lock_acquire(&s->rx_lock, C->member);
    family_lock_acquire(&s->tx_lock, C->member);
    err = session_generation(s) != (uint32_t)(h >> 32) ? BERTH_E_BAD_HANDLE
          : may_give(s, c, false)                      ? write_down(s, c, &fds[0])
                                                       : BERTH_E_BUSY;
    if (!err) {
        struct ctl_move m = {.h = {.type = CTL_GIVE, .len = sizeof m},
                             .from = session_place(s, c),
                             .peer = session_peer_place(s)};
        struct control_ask ask;
        /* under its locks: from the moment that the daemon has it nobody here may write a byte more */
        if ((err = control_ask(&ask, &m, fds, ours < 0 ? 2 : 3)) == 0)
            err = control_answer(&ask, NULL, 0, NULL, NULL);
        else if (err == BERTH_E_TIMED_OUT)
            err = BERTH_E_BUSY; /* a daemon that is slow was not asked */
        if (err == BERTH_E_TIMED_OUT)
            err = 0; /* it was, and will come to it */
        if (!err)
            let_go(s, c);
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (fds[0] >= 0)
        (void)sys_close(fds[0]);
    if (err)
        return err;
    gone(s, c);
    return 0;
}

bool client_peer_moves(session_handle h)
{
    struct session *s = session_get(h);
    const struct slot *peer = s ? load_acquire(&session_cache_of(s)->peer) : NULL;
    return s && (session_moving(s) & MOVING_PEER || (peer && slot_state(peer) == SLOT_MOVED));
}

/* ---- giving back --------------------------------------------------------------------------------------- */

uint8_t client_recall_news;

struct recall {
    struct ctl_place place;
    struct recall *next;
};

static struct recall *recalls_first; /* not done yet. Under dispatch_lock */

/* WOULD_BLOCK: somebody is in the middle of something. */
static int give_back(const struct ctl_place *place)
{
    struct session *s = session_at_place(place);
    if (!s || session_moving(s) & MOVING_GONE)
        return 0; /* a relative was faster */
    struct session_cache *c = session_cache_of(s);
    int fd = -1, err = BERTH_E_BAD_HANDLE;
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    if (session_own_slot(s) == place->slot && c->own && slot_generation_known(c->own) == place->generation) {
        bool busy = s->write_span || session_flags(s) & SF_READ_SPAN || session_moving(s) & MOVING_PEER;
        err = may_give(s, c, true) ? write_down(s, c, &fd) : busy ? BERTH_E_WOULD_BLOCK : BERTH_E_RESET;
    }
    if (!err) {
        struct ctl_move m = {.h = {.type = CTL_GIVE, .len = sizeof m, .seq = control_async_seq()},
                             .from = *place,
                             .peer = session_peer_place(s)};
        if ((err = control_send(&m, &fd, 1)) == 0)
            let_go(s, c);
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (fd >= 0)
        (void)sys_close(fd);
    if (!err) {
        if (session_flags(s) & SF_SHARED)
            shared_kick(s);
        gone(s, c);
    }
    return err;
}

void session_recalled(const struct ctl_place *place)
{
    int err = give_back(place);
    struct recall *r = err == BERTH_E_WOULD_BLOCK ? memory_get(sizeof *r) : NULL;
    if (r) {
        *r = (struct recall){*place, recalls_first};
        store_relaxed(&recalls_first, r);
    } else if (err) {
        session_is_nowhere(place);
    }
    store_sc(&client_recall_news, 1); /* relatives have it under their numbers, too */
    own_kick();
}

bool recalls_wait(void)
{
    return load_relaxed(&recalls_first) != NULL;
}

void recalls_go_on(void)
{
    struct recall *r = recalls_first, *next;
    store_relaxed(&recalls_first, NULL);
    for (; r; r = next) {
        next = r->next;
        session_recalled(&r->place);
        memory_put(r, sizeof *r);
    }
}

bool client_lives(session_handle h)
{
    return session_get(h) != NULL;
}
