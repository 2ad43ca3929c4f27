/* hide_test.c - one kernel listener in several programs: in the directory while one of them alone accepts. */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "expect.h"
#include "fake_app.h"
#include "session/endpoint.h"

static int listen_at(struct fake_app *a, uint16_t port, uint64_t socket, uint32_t *id)
{
    struct ctl_listen m = {.port = port, .proto = PROTO_TCP, .backlog = 8, .socket = socket};
    int queue[2];
    m.flags = CTL_LISTEN_KERNEL;
    endpoint at;
    endpoint_from_v4(&at, 0x7f000001, port);
    memcpy(m.addr, at.addr, 16);
    assert_int_equal(pipe2(queue, O_NONBLOCK | O_CLOEXEC), 0);
    int err = fake_request(a, CTL_LISTEN, &m, sizeof m, &queue[1], 1);
    close(queue[0]);
    close(queue[1]);
    if (!err)
        *id = a->in.listened.listener;
    return err;
}

static void hidden_while_others_have_it(void **state)
{
    struct fake_app a, b, c;
    uint32_t of_a, of_b, unused;
    fake_attach(&a, &the_daemon, "first");
    fake_attach(&b, &the_daemon, "second");
    fake_attach(&c, &the_daemon, "third");
    int dir = fcntl(b.in_fds[0], F_DUPFD_CLOEXEC, 3);
    expect(0, listen_at(&a, 5510, 77, &of_a));
    assert_true(in_directory(dir, "127.0.0.1", 5510));

    /* until a process has ended, and until another one has */
    pid_t pid[2];
    for (int i = 0; i < 2; i++) {
        if ((pid[i] = fork()) == 0)
            for (;;)
                pause();
        int pidfd = (int)syscall(SYS_pidfd_open, pid[i], 0);
        struct ctl_listener hide = {.listener = of_a};
        expect(BERTH_E_NOT_OWNER, fake_request(&b, CTL_HIDE, &hide, sizeof hide, &pidfd, 1));
        assert_int_equal(in_directory(dir, "127.0.0.1", 5510), i == 0);
        expect(0, fake_request(&a, CTL_HIDE, &hide, sizeof hide, &pidfd, 1));
        assert_false(in_directory(dir, "127.0.0.1", 5510));
        close(pidfd);
    }
    for (int i = 0; i < 2; i++) {
        assert_false(in_directory(dir, "127.0.0.1", 5510));
        kill(pid[i], SIGKILL);
        waitpid(pid[i], NULL, 0);
        expect(0, fake_status(&a));
    }
    expect_soon(1, in_directory(dir, "127.0.0.1", 5510));

    /* another program accepts from the same socket: neither is offered anything */
    expect(BERTH_E_ADDRESS_IN_USE, listen_at(&b, 5510, 77, &of_b));
    assert_false(in_directory(dir, "127.0.0.1", 5510));
    expect(BERTH_E_ADDRESS_IN_USE, listen_at(&c, 5510, 77, &unused));
    struct ctl_listener un = {.h = {.type = CTL_UNLISTEN, .len = sizeof un}, .listener = of_a};
    assert_int_equal(fake_send(&a, &un, sizeof un, NULL, 0), 0);
    expect(0, fake_status(&a));
    expect(BERTH_E_ADDRESS_IN_USE, listen_at(&b, 5510, 77, &of_b)); /* the third one accepts, too */
    fake_close(&c);
    expect_soon(0, listen_at(&b, 5510, 77, &of_b));
    assert_true(in_directory(dir, "127.0.0.1", 5510));
    fake_close(&b);
    fake_close(&a);
    close(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_while_others_have_it),
        cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, daemon_start_clean, daemon_stop_clean);
}
