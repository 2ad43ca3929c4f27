/* aside_test.c - closes that wait keep nobody else's waiting, and cost a thread each while they do. */
#include "check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/registry.h"

#define STUCK 3
#define OTHERS 200

static void *nothing(void *unused)
{
    return NULL;
}

/* A sanitizer has one of its own beside the first that is made. */
static void first_thread(void)
{
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, nothing, NULL), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
}

static int threads(void)
{
    int n = -2; /* . and .. */
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* A socket whose close waits until its peer, *reader, has read or is gone: SO_LINGER of socket(7). */
static int lingering(int *reader)
{
    static const char some[65536];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger linger = {.l_onoff = 1, .l_linger = 30};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (void *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (void *)&at, &len), 0);
    assert_int_equal(connect(s, (void *)&at, sizeof at), 0);
    *reader = accept(listener, NULL, NULL);
    close(listener);
    while (send(s, some, sizeof some, MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    return s;
}

static void closed(int read_end)
{
    struct pollfd p = {.fd = read_end};
    check(poll(&p, 1, 5000) == 1 && p.revents & POLLHUP, "a descriptor was not closed for 5 s");
}

static void who_waits_keeps_nobody(void **state)
{
    first_thread();
    int reader[STUCK], p[OTHERS][2], before = threads();
    for (int i = 0; i < STUCK; i++)
        close_aside(lingering(&reader[i]));
    for (int i = 0; i < OTHERS; i++) {
        assert_int_equal(pipe(p[i]), 0);
        close_aside(p[i][1]);
    }
    for (int i = 0; i < OTHERS; i++) {
        closed(p[i][0]);
        close(p[i][0]);
    }
    check(threads() <= before + 1 + STUCK + 2, "%d threads", threads());
    for (int i = 0; i < STUCK; i++)
        close(reader[i]); /* a reset: its close ends */
    for (int i = 0; i < 500 && threads() > before + 1 + 2; i++)
        usleep(10000);
    check(threads() <= before + 1 + 2, "%d threads are left", threads());
}

static void nothing_is_closed_twice(void **state)
{
    int p[2];
    assert_int_equal(pipe(p), 0);
    close_aside(-1);
    close_aside(dup(p[1]));
    usleep(50000);
    assert_true(fcntl(p[1], F_GETFD) >= 0);
    close_aside(p[1]);
    closed(p[0]);
    close(p[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waits_keeps_nobody),
        cmocka_unit_test(nothing_is_closed_twice),
    };
    alarm((unsigned)longer(60));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
