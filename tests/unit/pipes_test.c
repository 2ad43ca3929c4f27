/* pipes_test.c - writing into pipes of others under a description that they share, as where there is no /proc
 * to open one's own.
 *
 * A full table of descriptors stands for the missing /proc: the pipe cannot be opened anew, and stays as it
 * came.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/fds.h"
#include "client/state.h"

/* Taken while nothing can be opened, and then made to block. */
static int came(int fd)
{
    struct rlimit was, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = (struct rlimit){3, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int own = own_pipe(fd);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(own, fd);
    assert_int_equal(fcntl(own, F_SETFL, 0), 0);
    return own;
}

static int both_ends(int fd)
{
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int both = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    assert_true(both >= 0);
    return both;
}

static void fill(int fd)
{
    static const char some[4096];
    int both = both_ends(fd);
    while (write(both, some, sizeof some) > 0 || write(both, some, 1) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
    close(both);
}

static void a_full_pipe_is_no_wait(void **state)
{
    int p[2];
    assert_int_equal(pipe(p), 0);
    int fd = came(p[1]);
    fill(fd);
    assert_int_equal(pipe_put(fd, "token", 5), -EAGAIN);
    own_fd_close(fd);
    close(p[0]);
}

static void what_is_put_stays_what_it_was(void **state)
{
    int p[2];
    char token[64], got[64];
    assert_int_equal(pipe(p), 0);
    int fd = came(p[1]);
    for (int i = 0; i < 5; i++) {
        memset(token, 'a' + i, sizeof token);
        assert_int_equal(pipe_put(fd, token, sizeof token), 64);
    }
    for (int i = 0; i < 5; i++) {
        memset(token, 'a' + i, sizeof token);
        assert_int_equal(read(p[0], got, sizeof got), 64);
        assert_memory_equal(got, token, 64);
    }
    own_fd_close(fd);
    close(p[0]);
}

/* In a child, which SIGPIPE would end. */
static void put_without_reader(bool already)
{
    int p[2];
    sigset_t pending, some;
    signal(SIGPIPE, SIG_DFL);
    alarm((unsigned)longer(20));
    if (pipe(p) != 0)
        _exit(1);
    int fd = came(p[1]);
    close(p[0]);
    sigemptyset(&some);
    sigaddset(&some, SIGPIPE);
    if (already && (sigprocmask(SIG_BLOCK, &some, NULL) != 0 || raise(SIGPIPE) != 0))
        _exit(2);
    if (pipe_put(fd, "token", 5) != -EPIPE)
        _exit(3);
    bell_ring(fd);
    if (sigpending(&pending) != 0 || sigismember(&pending, SIGPIPE) != already)
        _exit(4);
    if (already)
        _exit(0);
    sigprocmask(SIG_BLOCK, NULL, &some);
    if (sigismember(&some, SIGPIPE) || sigismember(&some, SIGTERM))
        _exit(5);
    signal(SIGPIPE, SIG_IGN);
    if (pipe_put(fd, "token", 5) != -EPIPE)
        _exit(6);
    _exit(sigpending(&pending) != 0 || sigismember(&pending, SIGPIPE) ? 7 : 0);
}

static void no_reader_is_no_signal(void **state)
{
    for (int already = 0; already < 2; already++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
            put_without_reader(already);
        int status = -1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        check(status == 0, "put into a pipe without reader, a signal pending %d: status %#x", already,
              status);
    }
}

/* Full, and of a peer that made it block: still each ring is an edge. */
static void a_full_bell_rings(void **state)
{
    int p[2], mine[2];
    assert_int_equal(pipe(p), 0);
    assert_int_equal(pipe(mine), 0);
    (void)fcntl(p[1], F_SETPIPE_SZ, 8192);
    (void)fcntl(mine[1], F_SETPIPE_SZ, 8192);
    int watch = both_ends(p[0]), fd = came(both_ends(p[0])), ep = epoll_create1(EPOLL_CLOEXEC);
    C->bell_fd = both_ends(mine[0]);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, watch, &ev), 0);
    for (int i = 0; i < 40; i++) {
        if (i % 2)
            fill(fd);
        if (i % 4 == 3)
            fill(C->bell_fd);
        (void)epoll_wait(ep, &ev, 1, 0);
        bell_ring(fd);
        check(epoll_wait(ep, &ev, 1, 0) == 1, "ring %d was not heard", i);
    }
    own_fd_close(fd);
    close(C->bell_fd);
    C->bell_fd = -1;
    for (int i = 0; i < 2; i++) {
        close(p[i]);
        close(mine[i]);
    }
    close(watch);
    close(ep);
}

/* Where it can be, flags are our own; and what a number was once is forgotten when it is closed. */
static void flags_of_ones_own(void **state)
{
    int p[2];
    assert_int_equal(pipe(p), 0);
    own_fd_close(came(dup(p[1])));
    int fd = own_pipe(dup(p[1]));
    assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
    assert_int_equal(fcntl(p[1], F_GETFL) & O_NONBLOCK, 0);
    fill(fd);
    assert_int_equal(pipe_put(fd, "token", 5), -EAGAIN);
    own_fd_close(fd);
    close(p[0]);
    close(p[1]);
}

/* It is written as it came, under the same number, until it is written often; nothing is lost where it changes. */
static void opened_when_it_pays(void **state)
{
    int p[2];
    char got[64];
    assert_int_equal(pipe2(p, O_NONBLOCK), 0);
    int fd = own_pipe_later(both_ends(p[1])), shared = dup(fd);
    assert_true(client_owns_fd(fd));
    assert_int_equal(fcntl(shared, F_SETFL, O_NONBLOCK | O_APPEND), 0);
    assert_true(fcntl(fd, F_GETFL) & O_APPEND);
    for (char i = 0; i < 20; i++) {
        if (i == 3) /* by now it would block */
            assert_int_equal(fcntl(shared, F_SETFL, O_APPEND), 0);
        assert_int_equal(pipe_put(fd, (char[64]){i}, 64), 64);
    }
    assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND), O_RDWR | O_NONBLOCK);
    assert_true(client_owns_fd(fd));
    for (char i = 0; i < 20; i++) {
        assert_int_equal(read(p[0], got, sizeof got), 64);
        assert_int_equal(got[0], i);
    }
    fill(fd);
    assert_int_equal(pipe_put(fd, "token", 5), -EAGAIN);
    own_fd_close(fd);
    close(shared);
    close(p[0]);
    close(p[1]);
}

/* Also when the last numbers are taken, and there is room below them. */
static void room_is_what_is_free(void **state)
{
    struct rlimit was, few;
    int taken[40] = {0}, n = 0;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){40, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    C->bell_fd = open("/dev/null", O_RDONLY);
    assert_true(fds_room(16)); /* the last ones */
    int last = fcntl(C->bell_fd, F_DUPFD, 39);
    assert_int_equal(last, 39);
    assert_true(fds_room(16)); /* others */
    while ((taken[n] = dup(C->bell_fd)) >= 0)
        n++;
    assert_false(fds_room(1));
    assert_true(n > 16);
    close(taken[n - 1]);
    close(taken[0]);
    close(taken[n / 2]);
    assert_true(fds_room(3));
    assert_false(fds_room(4));
    close(last);
    assert_true(fds_room(4));
    assert_false(fds_room(5));
    for (int i = 1; i < n - 1; i++) {
        if (i != n / 2)
            close(taken[i]);
    }
    close(C->bell_fd);
    C->bell_fd = -1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_pipe_is_no_wait), cmocka_unit_test(what_is_put_stays_what_it_was),
        cmocka_unit_test(no_reader_is_no_signal), cmocka_unit_test(a_full_bell_rings),
        cmocka_unit_test(flags_of_ones_own),      cmocka_unit_test(opened_when_it_pays),
        cmocka_unit_test(room_is_what_is_free),
    };
    alarm((unsigned)longer(60));
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
