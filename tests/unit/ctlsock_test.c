/* Packets with descriptors, and the rule by which everybody finds the daemon. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "berth/error.h"
#include "shm/control.h"
#include "shm/ctlsock.h"

static int open_count(void)
{
    int n = 0;
    for (int fd = 0; fd < 200; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void pair(int sv[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
}

static void descriptors_arrive_closed_on_exec(void **state)
{
    int sv[2], p[2], fds[CTL_FDS_MAX], n = -1;
    char buf[16];
    pair(sv);
    assert_int_equal(pipe(p), 0);
    errno = 77;
    assert_int_equal(ctl_send(sv[0], "hello", 5, p, 2, 0), 0);
    assert_int_equal(ctl_recv(sv[1], buf, sizeof buf, fds, &n, 0), 5);
    assert_int_equal(errno, 77);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(n, 2);
    assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
    assert_int_equal(write(fds[1], "x", 1), 1);
    assert_int_equal(read(p[0], buf, 1), 1);
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(p[i]);
        close(sv[i]);
    }
}

static void unwanted_and_surplus_descriptors_are_closed(void **state)
{
    int sv[2], n = -1, fds[CTL_FDS_MAX];
    char buf[4];
    pair(sv);
    int before = open_count();
    assert_int_equal(ctl_send(sv[0], "a", 1, (int[]){0, 0}, 2, 0), 0);
    assert_int_equal(ctl_recv(sv[1], buf, sizeof buf, NULL, NULL, 0), 1);
    /* too long for the reader */
    assert_int_equal(ctl_send(sv[0], "abcdefgh", 8, (int[]){0, 0}, 2, 0), 0);
    assert_int_equal(ctl_recv(sv[1], buf, sizeof buf, fds, &n, 0), BERTH_E_PROTOCOL);
    assert_int_equal(n, 0);
    /* more than any message has */
    char room[CMSG_SPACE(6 * sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec iov = {"z", 1};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(6 * sizeof(int));
    assert_int_equal(sendmsg(sv[0], &mh, 0), 1);
    assert_int_equal(ctl_recv(sv[1], buf, sizeof buf, fds, &n, 0), BERTH_E_PROTOCOL);
    assert_int_equal(n, 0);
    assert_int_equal(open_count(), before);
    close(sv[0]);
    close(sv[1]);
}

static void full_descriptor_table_is_told_apart(void **state)
{
    int sv[2], n = -1, fds[CTL_FDS_MAX];
    char buf[4];
    struct rlimit old, low;
    pair(sv);
    int before = open_count();
    assert_int_equal(ctl_send(sv[0], "a", 1, (int[]){0, 0}, 2, 0), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    int got = ctl_recv(sv[1], buf, sizeof buf, fds, &n, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(got, BERTH_E_NO_MEMORY);
    assert_int_equal(n, 0);
    assert_int_equal(open_count(), before);
    close(sv[0]);
    close(sv[1]);
}

static void end_of_connection(void **state)
{
    int sv[2], n;
    char buf[4];
    pair(sv);
    assert_int_equal(ctl_recv(sv[1], buf, sizeof buf, NULL, &n, MSG_DONTWAIT), BERTH_E_WOULD_BLOCK);
    while (ctl_send(sv[0], "a", 1, NULL, 0, MSG_DONTWAIT) == 0)
        ;
    assert_int_equal(ctl_send(sv[0], "a", 1, NULL, 0, MSG_DONTWAIT), BERTH_E_WOULD_BLOCK);
    close(sv[0]);
    while (ctl_recv(sv[1], buf, sizeof buf, NULL, &n, 0) == 1)
        ;
    assert_int_equal(ctl_recv(sv[1], buf, sizeof buf, NULL, &n, 0), 0);
    assert_int_equal(ctl_send(sv[1], "a", 1, NULL, 0, 0), BERTH_E_DAEMON_GONE); /* and no SIGPIPE */
    close(sv[1]);
}

static void nobody_there(void **state)
{
    char dir[] = "/tmp/berth-test-XXXXXX", path[128];
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ctl_connect(dir), BERTH_E_NO_DAEMON);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    (void)snprintf(path, sizeof path, "%s/" CTL_SOCKET_NAME, dir);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int l = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(ctl_connect(dir), BERTH_E_NO_DAEMON); /* left behind by a killed one */
    assert_int_equal(listen(l, 1), 0);
    int fd = ctl_connect(dir);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    close(l);
    unlink(path);
    rmdir(dir);
}

static void runtime_directory_rule(void **state)
{
    char out[RUNTIME_DIR_MAX], cwd[4096], want[8192], longname[200];
    assert_int_equal(setenv("BERTH_RUNTIME_DIR", "/from/env//", 1), 0);
    assert_int_equal(runtime_dir_resolve(NULL, out, sizeof out), 0);
    assert_string_equal(out, "/from/env");
    assert_int_equal(runtime_dir_resolve("/given", out, sizeof out), 0);
    assert_string_equal(out, "/given");
    assert_int_equal(chdir("/tmp"), 0);
    assert_non_null(getcwd(cwd, sizeof cwd));
    (void)snprintf(want, sizeof want, "%s/here", cwd);
    assert_int_equal(runtime_dir_resolve("here", out, sizeof out), 0);
    assert_string_equal(out, want);
    memset(longname, 'a', sizeof longname);
    longname[0] = '/';
    longname[sizeof longname - 1] = '\0';
    assert_int_equal(runtime_dir_resolve(longname, out, sizeof out), BERTH_E_INVALID);
    assert_string_equal(out, want);
    assert_int_equal(runtime_dir_resolve("/given", out, 3), BERTH_E_INVALID);
    unsetenv("BERTH_RUNTIME_DIR");
    assert_int_equal(runtime_dir_resolve(NULL, out, sizeof out), 0);
    if (geteuid() == 0)
        assert_string_equal(out, "/run/berth");
    else
        assert_non_null(strstr(out, "berth"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_arrive_closed_on_exec),
        cmocka_unit_test(unwanted_and_surplus_descriptors_are_closed),
        cmocka_unit_test(full_descriptor_table_is_told_apart),
        cmocka_unit_test(end_of_connection),
        cmocka_unit_test(nobody_there),
        cmocka_unit_test(runtime_directory_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
