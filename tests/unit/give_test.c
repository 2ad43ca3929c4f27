/* give_test.c - sessions that are passed on, and nobody takes them: each end of it is told, and nothing stays. */
#include "check.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "berth/error.h"
#include "expect.h"
#include "fake_app.h"
#include "shm/ctlsock.h"

static void tcp_pair(int end[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&at, &len), 0);
    end[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(end[0], (struct sockaddr *)&at, sizeof at), 0);
    end[1] = accept(l, NULL, NULL);
    assert_true(end[1] >= 0);
    close(l);
}

/* A session is passed on, both ends' apps end, and then nobody is left who could take it: what keeps an app goes
 * together with what faces it. */
static void passed_on_to_nobody(void **state, bool with_itself, bool peer_first)
{
    struct fake_app a, b, witness;
    outbox_handle own, peers;
    int end[2], record = fake_page(0);
    fake_attach(&witness, &the_daemon, "witness");
    fake_attach(&a, &the_daemon, "giver");
    if (!with_itself)
        fake_attach(&b, &the_daemon, "peer");
    struct fake_app *peer = with_itself ? &a : &b;
    expect(0, fake_listen(peer, "127.0.0.1", 6050, 0, NULL));
    expect(0, fake_introduce(&a, peer->in.listened.listener, 1, peer->app, &own));
    peers = own;
    if (!with_itself) {
        expect(0, fake_listen(&a, "127.0.0.1", 6051, 0, NULL));
        expect(0, fake_introduce(&b, a.in.listened.listener, 1, a.app, &peers));
    }
    tcp_pair(end);
    struct ctl_move m = {.from.outbox = own, .peer.outbox = peers};
    expect(0, fake_request(&a, CTL_GIVE, &m, sizeof m, (int[]){record, end[0], end[1]}, 3));
    close(record);
    close(end[1]);
    if (!with_itself && peer_first)
        fake_close(&b);
    fake_close(&a);
    if (!with_itself && !peer_first)
        fake_close(&b);
    fake_expect_left(&witness, 1, 1, 1000); /* their ends are worked off first */
    close(end[0]);
    usleep(1500000); /* it looks through what it keeps, and the last test of all at what is left */
    assert_int_equal(fake_status(&witness), 0);
    fake_close(&witness);
}

static void passed_on_by_who_is_its_own_peer(void **state)
{
    passed_on_to_nobody(state, true, false);
}

static void passed_on_by_who_ends_before_its_peer(void **state)
{
    passed_on_to_nobody(state, false, false);
}

static void passed_on_by_who_ends_after_its_peer(void **state)
{
    passed_on_to_nobody(state, false, true);
}

/* The relay of these tests ends at once (fake_app.c): the peer is told so, and not when its time is over. */
static void passed_on_to_a_relay_that_ends(void **state)
{
    struct fake_app a, b;
    outbox_handle own, peers;
    int end[2], record = fake_page(0);
    fake_attach(&a, &the_daemon, "giver");
    fake_attach(&b, &the_daemon, "peer");
    expect(0, fake_listen(&b, "127.0.0.1", 6052, 0, NULL));
    expect(0, fake_introduce(&a, b.in.listened.listener, 1, b.app, &own));
    expect(0, fake_listen(&a, "127.0.0.1", 6053, 0, NULL));
    expect(0, fake_introduce(&b, a.in.listened.listener, 1, a.app, &peers));
    tcp_pair(end);
    struct ctl_move m = {.from.outbox = own, .peer.outbox = peers};
    expect(0, fake_request(&a, CTL_GIVE, &m, sizeof m, (int[]){record, end[0], end[1]}, 3));
    do /* it waits 5 s at most, and the relay's time is 10 s */
        assert_true(fake_receive(&b) > 0);
    while (b.in.h.type != CTL_MOVED);
    assert_int_equal(b.in.move.from.outbox, own);
    assert_int_equal(b.in.move.to.outbox, 0);
    close(record);
    close(end[0]);
    close(end[1]);
    fake_close(&a);
    fake_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passed_on_by_who_is_its_own_peer),
        cmocka_unit_test(passed_on_by_who_ends_before_its_peer),
        cmocka_unit_test(passed_on_by_who_ends_after_its_peer),
        cmocka_unit_test(passed_on_to_a_relay_that_ends),
        cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, daemon_start_clean, daemon_stop_clean);
}
