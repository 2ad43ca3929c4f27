/* flags_fork.c - flags and options belong to the open file: set by one they hold for all who have it by fork or dup, at
 * every stage of its life. */
#include "differ.h"

#include <netinet/tcp.h>

static char text[100];

/* ---- the options ---- */

static long number_of(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, name, &value, &len) == 0 ? value : -errno;
}

static long ms_of(int fd, int name)
{
    struct timeval tv = {-1, 0};
    socklen_t len = sizeof tv;
    return getsockopt(fd, SOL_SOCKET, name, &tv, &len) == 0 ? tv.tv_sec * 1000 + tv.tv_usec / 1000 : -errno;
}

static int set_number(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value);
}

static const struct {
    int level, name, value;
} numbers[] = {
    {SOL_SOCKET, SO_KEEPALIVE, 1},
    {IPPROTO_TCP, TCP_NODELAY, 1},
    {SOL_SOCKET, SO_REUSEADDR, 1},
    {SOL_SOCKET, SO_OOBINLINE, 1},
    {SOL_SOCKET, SO_RCVBUF, 50000},
    {SOL_SOCKET, SO_SNDBUF, 60000},
    {SOL_SOCKET, SO_RCVLOWAT, 7},
    {IPPROTO_TCP, TCP_KEEPIDLE, 77},
    {IPPROTO_TCP, TCP_KEEPINTVL, 33},
    {IPPROTO_TCP, TCP_KEEPCNT, 5},
    {IPPROTO_IP, IP_TOS, 8},
    {SOL_SOCKET, SO_PRIORITY, 3},
    {IPPROTO_IP, IP_TTL, 40},
    {IPPROTO_TCP, TCP_LINGER2, 30},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 9000},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, 4000},
};
#define NUMBERS (int)(sizeof numbers / sizeof *numbers)

static void options_set(int fd)
{
    struct linger l = {1, 9};
    int bad = 0;
    for (int i = 0; i < NUMBERS; i++)
        bad += set_number(fd, numbers[i].level, numbers[i].name, numbers[i].value) != 0;
    bad += set_timeout(fd, SO_RCVTIMEO, 1500) != 0;
    bad += set_timeout(fd, SO_SNDTIMEO, 2500) != 0;
    bad += setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l) != 0;
    bad += set_nonblock(fd, 1) != 0;
    say("set, %d refused", bad);
}

static void options_said(const char *who, int fd)
{
    struct linger l = {-1, -1};
    socklen_t len = sizeof l;
    char line[400] = "", *at = line;
    for (int i = 0; i < NUMBERS; i++)
        at += sprintf(at, " %ld", number_of(fd, numbers[i].level, numbers[i].name));
    getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len);
    say("%s:%s, timeouts %ld %ld, linger %d %d, non-blocking %d", who, line, ms_of(fd, SO_RCVTIMEO),
        ms_of(fd, SO_SNDTIMEO), l.l_onoff, l.l_linger, !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
}

/* Some set by the child and read by the parent, then the other way round. */
static void options_shared(int fd)
{
    if (kin()) {
        options_set(fd);
        turn();
        say("child: keepalive %ld, idle %ld, wait %ld, non-blocking %d",
            number_of(fd, SOL_SOCKET, SO_KEEPALIVE), number_of(fd, IPPROTO_TCP, TCP_KEEPIDLE),
            ms_of(fd, SO_RCVTIMEO), !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
        stay();
    }
    theirs();
    options_said("after", fd);
    SAY(set_number(fd, SOL_SOCKET, SO_KEEPALIVE, 0));
    SAY(set_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, 99));
    SAY(set_timeout(fd, SO_RCVTIMEO, 0));
    SAY(set_nonblock(fd, 0));
    theirs();
    kin_ends();
    options_said("alone", fd);
}

CASE(options_fresh, "options of a socket of which nothing has become yet")
{
    options_shared(fresh_socket());
}

CASE(options_bound, "of one that is bound")
{
    options_shared(bound_socket());
}

CASE(options_listening, "of a listener")
{
    options_shared(listener(8));
}

CASE(options_connected, "of one that has connected")
{
    options_shared(pair_here().c);
}

CASE(options_accepted, "of one that was accepted")
{
    options_shared(pair_here().s);
}

CASE(options_connecting, "of one whose non-blocking connect was begun before the fork")
{
    (void)listener(8);
    options_shared(begin_dial());
}

CASE(options_fresh_then_connected, "set by the child on a fresh socket, which the parent then connects")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        options_set(fd);
        part_over();
    }
    theirs_last();
    SAY(set_nonblock(fd, 0));
    SAY(connect_there(fd));
    options_said("connected", fd);
    int s = accept(l, NULL, NULL);
    SAY(send(s, "abc", 3, 0));
    say("readable from 7 on: %s", polled(fd, POLLIN, 30));
    SAY(send(s, "defg", 4, 0));
    SAY(recv(fd, text, 9, 0));
}

CASE(options_of_listener_accepted, "what the child sets on a listener, those have that the parent accepts")
{
    int l = listener(8);
    if (kin()) {
        SAY(set_number(l, IPPROTO_TCP, TCP_NODELAY, 1));
        SAY(set_number(l, SOL_SOCKET, SO_KEEPALIVE, 1));
        SAY(set_timeout(l, SO_RCVTIMEO, 60));
        stay();
    }
    theirs();
    int c = dial(), s = accept(l, NULL, NULL);
    say("%d, %ld %ld %ld", c >= 0 && s >= 0, number_of(s, IPPROTO_TCP, TCP_NODELAY),
        number_of(s, SOL_SOCKET, SO_KEEPALIVE), ms_of(s, SO_RCVTIMEO));
    SAY(recv(s, text, 9, 0));
    SAY(accept(l, NULL, NULL));
}

CASE(v6only, "IPV6_V6ONLY set by the child before the parent binds")
{
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (kin()) {
        SAY(set_number(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
        stay();
    }
    theirs();
    say("%ld", number_of(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    struct sockaddr_in6 at = {.sin6_family = AF_INET6};
    socklen_t len = sizeof at;
    SAY(bind(fd, (struct sockaddr *)&at, len));
    SAY(listen(fd, 8));
    SAY(getsockname(fd, (struct sockaddr *)&at, &len));
    differ_at.sin_family = AF_INET;
    differ_at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    differ_at.sin_port = at.sin6_port;
    SAY(dial());
}

/* ---- what they do ---- */

CASE(timeout_holds, "a wait of the child ends by the timeout that the parent has set")
{
    struct pair p = pair_here();
    if (kin()) {
        SAY(recv(p.s, text, 9, 0));
        turn();
        SAY(recv(p.s, text, 9, 0));
        stay();
    }
    SAY(set_timeout(p.s, SO_RCVTIMEO, 50));
    theirs();
    SAY(set_timeout(p.s, SO_RCVTIMEO, 0));
    if (fork() == 0) {
        nap(150);
        _exit(send(p.c, "x", 1, 0) != 1);
    }
    theirs();
}

CASE(send_timeout_holds, "the same of a send that finds no room")
{
    struct pair p = pair_here();
    static char block[65536];
    if (kin()) {
        long n;
        while ((n = send(p.c, block, sizeof block, 0)) > 0)
            ;
        say("%s", result_text(n, errno));
        stay();
    }
    SAY(set_timeout(p.c, SO_SNDTIMEO, 50));
    theirs();
}

CASE(lowat_holds, "a receive waits for as many bytes as the other has said")
{
    struct pair p = pair_here();
    if (kin()) {
        SAY(set_number(p.s, SOL_SOCKET, SO_RCVLOWAT, 4));
        turn();
        nap(60);
        _exit(send(p.c, "defgh", 5, 0) != 5); /* who receives them may come first to say so */
    }
    theirs();
    SAY(send(p.c, "abc", 3, 0));
    say("%s", polled(p.s, POLLIN, 20));
    theirs_begins();
    SAY(recv(p.s, text, 9, 0));
    kin_ended();
}

CASE(linger_holds, "closed last by the parent, where the child has said how: the peer sees a reset")
{
    struct pair p = pair_here();
    struct linger hard = {1, 0};
    if (kin()) {
        SAY(setsockopt(p.s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
        part_over();
    }
    theirs_last();
    SAY(close(p.s));
    say("%s", polled_soon(p.c, POLLIN | POLLERR));
    SAY(recv(p.c, text, 9, 0));
}

CASE(linger_taken_back, "the same, and it is taken back: an end")
{
    struct pair p = pair_here();
    struct linger hard = {1, 0}, soft = {0, 0};
    SAY(setsockopt(p.s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    if (kin()) {
        SAY(setsockopt(p.s, SOL_SOCKET, SO_LINGER, &soft, sizeof soft));
        part_over();
    }
    theirs_last();
    SAY(close(p.s));
    SAY(recv(p.c, text, 9, 0));
}

CASE(error_taken_once, "a pending error is told to one of the two")
{
    struct pair p = pair_here();
    if (kin()) {
        close(p.c);
        turn();
        say("child: %d", socket_error(p.s) == ECONNRESET);
        stay();
    }
    theirs();
    reset(p.c);
    say("%s", polled_soon(p.s, POLLERR | POLLHUP));
    theirs();
    say("parent: %d", socket_error(p.s));
    SAY(recv(p.s, text, 9, 0));
}

CASE(owner, "F_SETOWN and O_ASYNC by the child, read by the parent")
{
    struct pair p = pair_here();
    int fds[] = {fresh_socket(), bound_socket(), p.l, p.c, p.s};
    pid_t us = getpid();
    signal(SIGIO, SIG_IGN);
    if (kin()) {
        int one = 1, none = 0;
        for (int i = 0; i < 5; i++) {
            SAY(fcntl(fds[i], F_SETOWN, us));
            SAY(fcntl(fds[i], F_SETSIG, SIGUSR1));
            SAY(ioctl(fds[i], FIOASYNC, &one));
        }
        turn();
        for (int i = 0; i < 5; i++)
            SAY(ioctl(fds[i], FIOASYNC, &none));
        stay();
    }
    theirs();
    for (int i = 0; i < 5; i++) {
        int owner = -1;
        say("owner %d, signal %d, async %d", fcntl(fds[i], F_GETOWN) == us,
            fcntl(fds[i], F_GETSIG) == SIGUSR1, !!(fcntl(fds[i], F_GETFL) & O_ASYNC));
        SAY(ioctl(fds[i], FIOGETOWN, &owner));
        say("owner %d", owner == us);
    }
    theirs();
    for (int i = 0; i < 5; i++)
        say("async %d", !!(fcntl(fds[i], F_GETFL) & O_ASYNC));
}

CASE(fionbio, "FIONBIO by the child holds for the parent, at each stage")
{
    struct pair p = pair_here();
    int fds[] = {fresh_socket(), bound_socket(), p.l, p.c, p.s}, one = 1;
    if (kin()) {
        for (int i = 0; i < 5; i++)
            SAY(ioctl(fds[i], FIONBIO, &one));
        stay();
    }
    theirs();
    for (int i = 0; i < 5; i++)
        say("%d", !!(fcntl(fds[i], F_GETFL) & O_NONBLOCK));
    SAY(recv(p.s, text, 9, 0));
    SAY(accept(p.l, NULL, NULL));
}

CASE(nonblock_fresh, "made non-blocking by the child before the parent connects")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(set_nonblock(fd, 1));
        stay();
    }
    theirs();
    say("non-blocking: %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    SAY(connect_there(fd));
    say("%s", polled_soon(fd, POLLOUT));
    SAY(accept(l, NULL, NULL) >= 0);
    SAY(recv(fd, text, 9, 0));
}

CASE(grandchild, "what a grandchild sets, all have")
{
    struct pair p = pair_here();
    if (kin()) {
        pid_t pid = fork();
        int status = -1;
        if (pid == 0)
            _exit(set_number(p.c, SOL_SOCKET, SO_KEEPALIVE, 1) != 0 ||
                  set_timeout(p.c, SO_RCVTIMEO, 700) != 0);
        waitpid(pid, &status, 0);
        say("grandchild: %d", status);
        turn();
        say("child: %ld %ld", number_of(p.c, SOL_SOCKET, SO_KEEPALIVE), ms_of(p.c, SO_RCVTIMEO));
        stay();
    }
    theirs();
    say("parent: %ld %ld", number_of(p.c, SOL_SOCKET, SO_KEEPALIVE), ms_of(p.c, SO_RCVTIMEO));
    SAY(set_number(p.c, SOL_SOCKET, SO_KEEPALIVE, 0));
    theirs();
}

CASE(many_set_by_children, "a hundred connections whose options a child of each has set")
{
    int l = listener(128), good = 0, fresh = 0;
    static int s[100];
    for (int i = 0; i < 100; i++) {
        int status = -1;
        pid_t pid;
        if (dial() < 0 || (s[i] = accept(l, NULL, NULL)) < 0)
            say("no connection");
        if (i % 10 == 0) {
            if ((pid = fork()) == 0) {
                for (int k = 0; k <= i; k++)
                    set_timeout(s[k], SO_RCVTIMEO, 1000 + 4 * (i + k));
                _exit(0);
            }
            waitpid(pid, &status, 0);
        }
    }
    for (int i = 0; i < 100; i++)
        good += ms_of(s[i], SO_RCVTIMEO) == (i <= 90 ? 1000 + 4 * (90 + i) : 0);
    for (int i = 0; i < 100; i++)
        close(s[i]);
    for (int i = 0; i < 100; i++) {
        int c = dial(), t = accept(l, NULL, NULL);
        fresh += ms_of(t, SO_RCVTIMEO) == 0;
        close(c);
        close(t);
    }
    say("%d as they were set, %d new ones without", good, fresh);
}

/* ---- dup ---- */

static void dup_shares(int fd)
{
    int a = dup(fd), b = dup2(fd, 150), c = fcntl(fd, F_DUPFD, 160), d = fcntl(fd, F_DUPFD_CLOEXEC, 170);
    options_set(a);
    options_said("first", fd);
    options_said("last", d);
    SAY(close(fd));
    SAY(close(a));
    SAY(set_number(b, SOL_SOCKET, SO_KEEPALIVE, 0));
    SAY(set_timeout(b, SO_SNDTIMEO, 0));
    SAY(set_nonblock(b, 0));
    options_said("left", c);
    say("cloexec: %d %d %d", fcntl(b, F_GETFD), fcntl(c, F_GETFD), fcntl(d, F_GETFD));
    SAY(close(b));
    SAY(close(d));
    SAY(set_nonblock(c, 1));
    options_said("the last", c);
}

CASE(dup_fresh, "options by one number and another of a fresh socket, also when some are closed")
{
    dup_shares(fresh_socket());
}

CASE(dup_bound, "the same when it is bound")
{
    dup_shares(bound_socket());
}

CASE(dup_listening, "of a listener")
{
    dup_shares(listener(8));
}

CASE(dup_connected, "of a connection")
{
    dup_shares(pair_here().c);
}

CASE(dup_accepted, "of an accepted one")
{
    dup_shares(pair_here().s);
}
