/* move_test.c - what is heard of the other end of a session, in orders that only a busy machine brings: of
 * where it goes before the place can be met, of a place that it has left again, late; of its bytes before it is
 * known whether they are ours.
 */
#include "fake_daemon.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "client/move.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/session.h"
#include "client/slots.h"
#include "client/state.h"
#include "client/watch.h"
#include "shm/slot.h"

#define PEERS 3

struct scene {
    struct session *s;
    struct ctl_place mine, peer[PEERS];
    struct slot *first; /* the other end's, at the first of them */
};

/* One of ours, which is a peer's as well: with one slot, which is the other end's there. */
static struct ctl_place place_of_peer(uint16_t place, struct slot **its)
{
    uint32_t slot, worker = 20u + place;
    int fds[3] = {-1, memfd_of(WORKER_PAGE_BYTES, ABI_MAGIC_PAGE, ABI_VERSION, true), -1}, pipe_of[2];
    struct own_box *box = outbox_create(50u + place, &fds[0]);
    if (!box || outbox_slot_alloc(box, &slot) != 0 || pipe(pipe_of) < 0)
        _exit(21);
    fds[2] = pipe_of[1];
    *its = outbox_slot(box, slot);
    slot_set_place(*its, place);
    struct ctl_outbox_is is = {.outbox = box->handle, .worker = worker, .app = SERVER_APP};
    if (!peer_box_add(&is, fds))
        _exit(22);
    return (struct ctl_place){box->handle, slot, slot_generation(*its)};
}

/* A session of ours whose other end is at the first of the places. */
static struct scene scene(void)
{
    struct scene sc;
    uint32_t slot;
    int fd;
    struct own_box *own = outbox_create(SERVER_APP, &fd);
    if (!own || outbox_slot_alloc(own, &slot) != 0 || !(sc.s = session_alloc()))
        _exit(23);
    close(fd);
    for (uint16_t i = PEERS; i-- > 0;)
        sc.peer[i] = place_of_peer(i, &sc.first);
    session_meets(sc.s, own, slot, peer_box_find(sc.peer[0].outbox), &sc.peer[0]);
    session_fill_slot(sc.s, own);
    session_set_state(sc.s, SESSION_OPEN);
    slot_set_state(outbox_slot(own, slot), SLOT_OPEN);
    sc.mine = session_place(sc.s, session_cache_make(sc.s));
    return sc;
}

static struct ctl_move word(const struct scene *sc, const struct ctl_place *from, const struct ctl_place *to)
{
    return (struct ctl_move){.from = *from, .to = *to, .peer = sc->mine};
}

static void moved(const struct scene *sc, const struct ctl_place *from, const struct ctl_place *to)
{
    struct ctl_move m = word(sc, from, to);
    plock_take(&C->poll_lock);
    peer_moved(&m);
    plock_release(&C->poll_lock);
}

static void moves(const struct scene *sc, const struct ctl_place *from)
{
    struct ctl_move m = word(sc, from, &(struct ctl_place){0});
    plock_take(&C->poll_lock);
    peer_moves(&m);
    plock_release(&C->poll_lock);
}

static bool is_at(const struct scene *sc, const struct ctl_place *place)
{
    struct ctl_place at = session_peer_place(sc->s);
    return ctl_place_same(&at, place);
}

static bool under_way(const struct scene *sc)
{
    return session_moving(sc->s) & MOVING_PEER;
}

/* ---- a place that is not here yet, and is left before it comes ---- */

static void left_again_body(void)
{
    tell(attach());
    struct scene sc = scene();
    struct ctl_place unmet = {(outbox_handle)30 << 32 | 1, 0, 1};
    moved(&sc, &sc.peer[0], &unmet);
    tell(moves_wait());
    tell(under_way(&sc)); /* so that the end of who had it says nothing */
    moves(&sc, &unmet);
    /* else it would be met, and be thought to be there, when who had it there may have ended */
    tell(!moves_wait());
    tell(under_way(&sc));
    moved(&sc, &unmet, &sc.peer[2]);
    tell(is_at(&sc, &sc.peer[2]) && !under_way(&sc));
}

static void what_has_left_a_place_is_not_followed_to_it(void **state)
{
    all_is_true(left_again_body, 5);
}

/* ---- heard late: as a relative hears what another one has followed already ---- */

static void late_body(void)
{
    tell(attach());
    struct scene sc = scene();
    moves(&sc, &sc.peer[0]);
    moved(&sc, &sc.peer[0], &sc.peer[1]);
    tell(is_at(&sc, &sc.peer[1]) && !under_way(&sc));
    moves(&sc, &sc.peer[1]);
    moved(&sc, &sc.peer[1], &sc.peer[2]);
    tell(is_at(&sc, &sc.peer[2]) && !under_way(&sc));
    moves(&sc, &sc.peer[2]); /* and on it goes */
    moved(&sc, &sc.peer[0], &sc.peer[1]);
    tell(is_at(&sc, &sc.peer[2]));
    tell(under_way(&sc));
}

static void who_hears_late_does_not_go_back(void **state)
{
    all_is_true(late_body, 4);
}

/* ---- an edge of what cannot be had yet ---- */

static void tentative_body(void)
{
    tell(attach());
    struct scene sc = scene();
    struct epoll_event ev = {0};
    struct evset *set = evset_create(-1);
    session_add_flags(sc.s, SF_TENTATIVE);
    if (!set || evset_add(set, session_handle_of(sc.s), 0, EPOLLIN | EPOLLRDHUP | EPOLLET, 7) != 0)
        _exit(24);
    slot_set_tail(sc.first, count_word(0, COUNT_FLAG));
    watches_ready(session_cache_of(sc.s));
    tell(evset_wait(set, &ev, 1, 0, NULL, NULL) == 0);
    session_drop_flags(sc.s, SF_TENTATIVE);
    watches_ready(session_cache_of(sc.s));
    tell(evset_wait(set, &ev, 1, 0, NULL, NULL) == 1 && ev.events & EPOLLRDHUP);
    watches_ready(session_cache_of(sc.s));
    tell(evset_wait(set, &ev, 1, 0, NULL, NULL) == 0);
}

static void an_edge_is_told_when_its_bytes_are_ours(void **state)
{
    all_is_true(tentative_body, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_has_left_a_place_is_not_followed_to_it),
        cmocka_unit_test(who_hears_late_does_not_go_back),
        cmocka_unit_test(an_edge_is_told_when_its_bytes_are_ours),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
