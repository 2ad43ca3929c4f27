/* part_test.c - a process that becomes another user: what the daemon lets it do. */
#include "check.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "expect.h"
#include "fake_app.h"

/* ---- what the daemon makes of it ---- */

static void send_child(struct fake_app *a, uint32_t member, uint32_t flags, int *end)
{
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
    struct ctl_child m = {.h = {.type = CTL_CHILD, .len = sizeof m}, .member = member, .flags = flags};
    assert_int_equal(fake_send(a, &m, sizeof m, &s[1], 1), 0);
    close(s[1]);
    *end = s[0];
}

static void say_hello(struct fake_app *child)
{
    struct ctl_child_hello hello = {.version = CTL_VERSION, .pid = (uint32_t)getpid()};
    child->page = fake_page(0);
    expect(0, fake_request(child, CTL_CHILD_HELLO, &hello, sizeof hello, &child->page, 1));
}

static void trusted_no_more(struct fake_app *a)
{
    struct ctl_header h = {0};
    struct ctl_ns ns = {.id = "mine"};
    expect(BERTH_E_PERMISSION, fake_listen(a, "127.0.0.1", 6401, 0, NULL));
    expect(BERTH_E_PERMISSION, fake_request(a, CTL_PAUSE, &h, sizeof h, NULL, 0));
    expect(BERTH_E_PERMISSION, fake_request(a, CTL_NS_ADD, &ns, sizeof ns, NULL, 0));
    /* nor its children, nor under another name */
    struct fake_app child = {.page = -1, .kick = -1, .netns = -1};
    send_child(a, 3, 0, &child.sock);
    say_hello(&child);
    expect(BERTH_E_PERMISSION, fake_listen(&child, "127.0.0.1", 6401, 0, NULL));
    expect(0, fake_request(&child, CTL_DETACH, &h, sizeof h, NULL, 0));
    struct ctl_hello hello;
    fake_hello_fill(&hello, "another", "", "", CTL_SCOPE_LOCAL);
    expect(BERTH_E_PERMISSION, fake_hello(&child, &hello));
    fake_close(&child);
}

static void a_child_apart(void **state)
{
    struct fake_app parent, b, apart = {.page = -1, .kick = -1, .netns = -1};
    fake_attach(&parent, &the_daemon, "parent");
    fake_attach(&b, &the_daemon, "other");
    expect(0, fake_listen(&parent, "127.0.0.1", 6400, 0, NULL));
    send_child(&parent, 1, CTL_CHILD_APART, &apart.sock);
    say_hello(&apart);
    assert_int_equal(apart.in.welcome.app, parent.app);
    trusted_no_more(&apart);
    /* its listener it keeps; what else its parent has is none of its business */
    struct ctl_listener backlog = {.h = {.type = CTL_BACKLOG, .len = sizeof backlog},
                                   .listener = parent.in.listened.listener};
    assert_int_equal(fake_send(&apart, &backlog, sizeof backlog, NULL, 0), 0);
    expect(0, fake_status(&apart));
    fake_close(&parent);
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "127.0.0.1", 6400, 0, NULL));
    fake_close(&apart);
    expect_soon(0, fake_listen(&b, "127.0.0.1", 6400, 0, NULL));
    fake_close(&b);
}

/* It cannot have a relative of before taken for dead. */
static void no_word_of_its_children(void **state)
{
    struct fake_app parent, apart = {.page = -1, .kick = -1, .netns = -1};
    int end, sibling;
    fake_attach(&parent, &the_daemon, "parent");
    send_child(&parent, 1, 0, &sibling);
    send_child(&parent, 2, CTL_CHILD_APART, &apart.sock);
    say_hello(&apart);
    send_child(&apart, 1, 0, &end);
    close(end);
    fake_close(&apart);
    expect(0, fake_status(&parent));
    close(sibling); /* of this one it hears, and of nothing before */
    int got = fake_receive(&parent);
    assert_true(got > 0);
    assert_int_equal(parent.in.h.type, CTL_MEMBER_DEAD);
    assert_int_equal(parent.in.dead.member, 1);
    usleep(20000);
    struct ctl_header h = {.type = CTL_STATUS, .len = sizeof h, .seq = 4711};
    assert_int_equal(fake_send(&parent, &h, sizeof h, NULL, 0), 0);
    assert_true(fake_receive(&parent) > 0);
    assert_int_equal(parent.in.h.type, CTL_STATUS_IS);
    fake_close(&parent);
}

static int move(struct fake_app *a, uint16_t type, outbox_handle from, const int *fds, int nfds)
{
    struct ctl_move m = {.h = {.type = type, .len = sizeof m}, .from.outbox = from};
    if (type == CTL_MOVED)
        return fake_send(a, &m, sizeof m, NULL, 0);
    return fake_request(a, type, &m, sizeof m, fds, nfds);
}

/* What its master's family has in memory it cannot have read, made writable, given away or taken back. */
static void hands_off(void **state)
{
    struct fake_app server, parent, apart = {.page = -1, .kick = -1, .netns = -1}, again = apart;
    outbox_handle theirs, own;
    struct ctl_outbox m;
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), record = fake_page(0);
    const int fds[3] = {record, tcp, tcp};
    fake_attach(&server, &the_daemon, "server");
    fake_attach(&parent, &the_daemon, "parent");
    expect(0, fake_listen(&server, "127.0.0.1", 6403, 0, NULL));
    uint32_t listener = server.in.listened.listener;
    expect(0, fake_introduce(&parent, listener, 1, server.app, &theirs));
    send_child(&parent, 1, CTL_CHILD_APART, &apart.sock);
    send_child(&parent, 2, CTL_CHILD_APART, &again.sock);
    say_hello(&apart);
    say_hello(&again);
    apart.worker = apart.in.welcome.worker;
    m = (struct ctl_outbox){.outbox = theirs};
    expect(BERTH_E_PERMISSION, fake_request(&apart, CTL_GET_OUTBOX, &m, sizeof m, NULL, 0));
    m = (struct ctl_outbox){.outbox = theirs};
    expect(BERTH_E_PERMISSION, fake_request(&apart, CTL_GET_SEGMENT, &m, sizeof m, NULL, 0));
    expect(BERTH_E_NOT_OWNER, move(&apart, CTL_GIVE, theirs, fds, 3));
    assert_int_equal(move(&apart, CTL_MOVED, theirs, NULL, 0), 0);
    /* nor is anything done for it by a process of its master's user */
    expect(0, fake_introduce(&apart, listener, 1, server.app, &own));
    expect(BERTH_E_PERMISSION, move(&apart, CTL_GIVE, own, fds, 3));
    /* and what is not its to end it does not end */
    m = (struct ctl_outbox){.h = {.type = CTL_RETIRE, .len = sizeof m}, .outbox = theirs};
    assert_int_equal(fake_send(&again, &m, sizeof m, NULL, 0), 0);
    assert_true(fake_ended(&again));
    m = (struct ctl_outbox){.outbox = theirs};
    expect(0, fake_request(&server, CTL_GET_OUTBOX, &m, sizeof m, NULL, 0));
    close(tcp);
    close(record);
    fake_close(&again);
    fake_close(&apart);
    fake_close(&parent);
    fake_close(&server);
}

static void parted_alone(void **state)
{
    struct fake_app a, b;
    struct ctl_header part = {.type = CTL_PART, .len = sizeof part};
    fake_attach(&a, &the_daemon, "server");
    fake_attach(&b, &the_daemon, "other");
    expect(0, fake_listen(&a, "127.0.0.1", 6402, 0, NULL));
    assert_int_equal(fake_send(&a, &part, sizeof part, NULL, 0), 0);
    trusted_no_more(&a);
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "127.0.0.1", 6402, 0, NULL));
    fake_close(&a);
    fake_close(&b);
}

static void flags_that_are_none(void **state)
{
    struct fake_app a;
    int end;
    fake_attach(&a, &the_daemon, "liar");
    send_child(&a, 1, 4, &end);
    assert_true(fake_ended(&a));
    close(end);
    fake_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_apart),       cmocka_unit_test(no_word_of_its_children),
        cmocka_unit_test(hands_off),           cmocka_unit_test(parted_alone),
        cmocka_unit_test(flags_that_are_none), cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, daemon_start_clean, daemon_stop_clean);
}
