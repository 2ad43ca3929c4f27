/* fresh_fork.c - a socket that was made before a fork, or has two numbers, and becomes something after it: by parent,
 * child or both. What becomes of it becomes of it for all. */
#include "differ.h"

#include <sched.h>

static char text[100];

/* Both ends of a connection work, from here. */
static void talk(int c, int s)
{
    SAY(send(c, "ping", 4, MSG_NOSIGNAL));
    SAY(recv(s, text, 9, 0));
    SAY(send(s, "pong!", 5, MSG_NOSIGNAL));
    SAY(recv(c, text, 9, 0));
}

CASE(parent_connects, "a fresh socket: the parent connects, the child uses it")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        struct sockaddr_in peer = {0};
        socklen_t len = sizeof peer;
        SAY(getpeername(fd, (struct sockaddr *)&peer, &len));
        say("the listener: %d", peer.sin_port == differ_at.sin_port);
        say("%s", polled(fd, POLLIN | POLLOUT, 0));
        SAY(send(fd, "hello", 5, 0));
        SAY(recv(fd, text, 9, 0));
        SAY(connect_there(fd));
        stay();
    }
    SAY(connect_there(fd));
    int s = accept(l, NULL, NULL);
    SAY(send(s, "to you", 6, 0));
    theirs();
    SAY(recv(s, text, 9, 0));
    talk(fd, s);
}

CASE(child_connects, "the child connects and stays, the parent uses it")
{
    int l = listener(8), fd = fresh_socket();
    struct sockaddr_in peer = {0};
    socklen_t len = sizeof peer;
    if (kin()) {
        SAY(connect_there(fd));
        stay();
    }
    SAY(getpeername(fd, (struct sockaddr *)&peer, &len));
    theirs();
    SAY(getpeername(fd, (struct sockaddr *)&peer, &len));
    say("%s", polled(fd, POLLIN | POLLOUT, 0));
    talk(fd, accept(l, NULL, NULL));
    SAY(connect_there(fd));
}

CASE(child_connects_and_ends, "the child connects and ends, the parent goes on with the connection")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(connect_there(fd));
        SAY(send(fd, "first", 5, 0));
        part_over();
    }
    theirs_last();
    int s = accept(l, NULL, NULL);
    SAY(recv(s, text, 9, 0));
    talk(fd, s);
    SAY(connect_there(fd));
    SAY(close(fd));
    SAY(recv(s, text, 9, 0));
}

CASE(child_is_killed, "the child connects and is killed")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(connect_there(fd));
        stay();
    }
    theirs();
    kin_ends();
    SAY(connect_there(fd));
    talk(fd, accept(l, NULL, NULL));
}

CASE(untouched_child_holds_it,
     "the parent connects and closes; a child that has never touched it still has it")
{
    int l = listener(8), fd = fresh_socket();
    if (kin())
        stay();
    SAY(connect_there(fd));
    int s = accept(l, NULL, NULL);
    talk(fd, s);
    SAY(close(fd));
    say("%s", polled(s, POLLIN | POLLRDHUP, 30));
    kin_ends();
    say("%s", polled_soon(s, POLLIN | POLLRDHUP));
    SAY(recv(s, text, 9, 0));
}

CASE(child_closed_its_copy, "the child closes its copy before the parent connects")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(close(fd));
        stay();
    }
    theirs();
    SAY(connect_there(fd));
    int s = accept(l, NULL, NULL);
    talk(fd, s);
    SAY(close(fd));
    SAY(recv(s, text, 9, 0));
}

CASE(both_connect, "both connect it, one after the other")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(connect_there(fd));
        SAY(send(fd, "child", 5, 0));
        stay();
    }
    SAY(connect_there(fd));
    theirs();
    int s = accept(l, NULL, NULL);
    SAY(recv(s, text, 9, 0));
    SAY(set_nonblock(l, 1));
    SAY(accept(l, NULL, NULL));
}

CASE(both_connect_at_once, "both connect it at the same time: one connection, and who is late is told so")
{
    int l = listener(8), fd = fresh_socket(), good = 0;
    if (kin()) {
        int r = connect_there(fd);
        _exit(r == 0 ? 0 : errno == EISCONN || errno == EALREADY ? 1 : 2);
    }
    theirs_begins();
    int r = connect_there(fd), status = -1;
    good = r == 0 || errno == EISCONN || errno == EALREADY;
    waitpid(kin_pid, &status, 0);
    say("%d %d", good, status == 0 || status == 256);
    say("connected: %d", connect_there(fd) == -1 && errno == EISCONN);
    talk(fd, accept(l, NULL, NULL));
    SAY(set_nonblock(l, 1));
    SAY(accept(l, NULL, NULL));
}

CASE(nonblocking_both, "a non-blocking connect by the parent; the child asks how it went")
{
    int l = listener(8), fd = fresh_socket();
    SAY(set_nonblock(fd, 1));
    if (kin()) {
        say("%s", polled_soon(fd, POLLOUT));
        say("error %d", socket_error(fd));
        SAY(connect_there(fd));
        SAY(connect_there(fd));
        stay();
    }
    SAY(connect_there(fd));
    theirs();
    SAY(connect_there(fd));
    talk(fd, accept(l, NULL, NULL));
}

CASE(connecting_over_fork,
     "begun before the fork: the child takes the good news, the parent finds it connected")
{
    int l = listener(8), fd = begin_dial();
    if (kin()) {
        say("%s", polled_soon(fd, POLLOUT));
        SAY(connect_there(fd));
        SAY(connect_there(fd));
        stay();
    }
    theirs();
    SAY(connect_there(fd));
    talk(fd, accept(l, NULL, NULL));
}

CASE(refused_over_fork, "a connect that is refused in the child; the parent then connects elsewhere")
{
    int l = listener(8), fd = fresh_socket();
    struct sockaddr_in good = differ_at;
    close(listener(1)); /* nobody is there any more */
    struct sockaddr_in bad = differ_at;
    int gone = listener(1);
    bad = differ_at;
    close(gone);
    if (kin()) {
        SAY(connect(fd, (struct sockaddr *)&bad, sizeof bad));
        stay();
    }
    theirs();
    differ_at = good;
    say("error %d", socket_error(fd));
    SAY(connect_there(fd));
    talk(fd, accept(l, NULL, NULL));
}

CASE(parent_connects_and_epolls, "in a set of the child's before the parent connects")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        int ep = epoll_with(fd, EPOLLIN, 1);
        say("%s", epolled(ep, 8, 0));
        turn();
        say("%s", epolled(ep, 8, 1000));
        SAY(recv(fd, text, 9, 0));
        say("%s", epolled(ep, 8, 20));
        stay();
    }
    theirs();
    SAY(connect_there(fd));
    int s = accept(l, NULL, NULL);
    SAY(send(s, "x", 1, 0));
    theirs();
}

CASE(set_over_fork, "in a set that both have; the child connects, the parent waits")
{
    int l = listener(8), fd = fresh_socket(), ep = epoll_with(fd, EPOLLIN, 1);
    say("%s", epolled(ep, 8, 0));
    if (kin()) {
        say("%s", epolled(ep, 8, 0));
        SAY(connect_there(fd));
        stay();
    }
    theirs();
    say("%s", epolled(ep, 8, 20));
    int s = accept(l, NULL, NULL);
    SAY(send(s, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(recv(fd, text, 9, 0));
    SAY(epoll_del(ep, fd));
    SAY(send(s, "x", 1, 0));
    say("%s", epolled(ep, 8, 20));
}

CASE(child_binds, "the child binds a fresh socket; the parent sees its name, listens and accepts")
{
    int fd = fresh_socket();
    struct sockaddr_in at = {0};
    socklen_t len = sizeof at;
    if (kin()) {
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        SAY(bind(fd, (struct sockaddr *)&here, sizeof here));
        stay();
    }
    SAY(getsockname(fd, (struct sockaddr *)&at, &len));
    say("port 0: %d", at.sin_port == 0);
    theirs();
    SAY(getsockname(fd, (struct sockaddr *)&differ_at, &len));
    say("port 0: %d", differ_at.sin_port == 0);
    SAY(bind(fd, (struct sockaddr *)&differ_at, len));
    SAY(listen(fd, 8));
    int c = dial();
    talk(c, accept(fd, NULL, NULL));
}

CASE(parent_listens, "bound before the fork, listening after it by the parent; the child accepts")
{
    int l = bound_socket();
    if (kin()) {
        int s = accept(l, NULL, NULL);
        SAY(send(s, "child", 5, 0));
        SAY(close(s));
        turn();
        s = accept(l, NULL, NULL);
        SAY(send(s, "child", 5, 0));
        stay();
    }
    SAY(listen(l, 8));
    say("non-blocking: %d", !!(fcntl(l, F_GETFL) & O_NONBLOCK));
    for (int i = 0; i < 2; i++) {
        int c = dial();
        theirs();
        SAY(recv(c, text, 9, 0));
    }
}

CASE(child_listens, "bound before the fork, listening by the child; the parent accepts")
{
    int l = bound_socket();
    if (kin()) {
        SAY(listen(l, 8));
        stay();
    }
    theirs();
    for (int i = 0; i < 3; i++) {
        int c = dial();
        say("%s", polled(l, POLLIN, 1000));
        talk(c, accept(l, NULL, NULL));
    }
}

CASE(child_listens_and_blocks, "the parent sleeps in accept of what the child listens at")
{
    int l = bound_socket();
    if (kin()) {
        SAY(listen(l, 8));
        turn();
        asleep(getppid());
        int c = dial();
        _exit(recv(c, text, 9, 0) != 5);
    }
    theirs();
    theirs_begins();
    int s = accept(l, NULL, NULL);
    SAY(s >= 0);
    SAY(send(s, "hello", 5, 0));
    kin_ended();
}

CASE(workers_each_listen, "four workers listen at what was bound before they were made, and take turns")
{
    int l = bound_socket(), order[4][2], good = 0;
    for (int i = 0; i < 4; i++) {
        if (pipe(order[i]) != 0)
            say("no pipe");
        if (fork() == 0) {
            int bad = listen(l, 16);
            while (read(order[i][0], text, 1) == 1) {
                int s = accept(l, NULL, NULL);
                bad += s < 0 || send(s, "w", 1, 0) != 1;
                close(s);
            }
            _exit(bad);
        }
    }
    SAY(listen(l, 16));
    for (int i = 0; i < 20; i++) {
        int c = dial();
        if (write(order[i % 4][1], "g", 1) != 1)
            say("no worker");
        long n = recv(c, text, 1, 0), end = recv(c, text, 1, 0);
        good += n == 1 && end == 0;
        close(c);
    }
    say("served: %d", good);
}

CASE(listener_both_accept, "listening before the fork: parent and child take turns, each blocking")
{
    int l = listener(8);
    if (kin()) {
        for (int i = 0; i < 3; i++) {
            int s = accept(l, NULL, NULL);
            SAY(send(s, "c", 1, 0));
            close(s);
            turn();
        }
        part_over();
    }
    for (int i = 0; i < 3; i++) {
        int c = dial();
        theirs();
        SAY(recv(c, text, 9, 0));
        c = dial();
        int s = accept(l, NULL, NULL);
        SAY(send(s, "p", 1, 0));
        SAY(recv(c, text, 9, 0));
    }
}

CASE(bound_connects, "bound before the fork, connected by the child; the parent goes on")
{
    struct sockaddr_in own = {0};
    socklen_t len = sizeof own;
    int fd = bound_socket();
    in_port_t port = differ_at.sin_port;
    int l = listener(8);
    if (kin()) {
        SAY(connect_there(fd));
        stay();
    }
    theirs();
    SAY(getsockname(fd, (struct sockaddr *)&own, &len));
    say("its port: %d", own.sin_port == port);
    talk(fd, accept(l, NULL, NULL));
    SAY(connect_there(fd));
}

CASE(shut_down_fresh, "shutdown of a fresh socket by the child")
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(shutdown(fd, SHUT_RDWR));
        stay();
    }
    theirs();
    say("%s", polled(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    SAY(recv(fd, text, 9, 0));
    SAY(connect_there(fd));
    SAY(accept(l, NULL, NULL) >= 0);
}

CASE(daemon_connects, "the parent ends, the child connects the socket that it came with")
{
    int l = listener(8), fd = fresh_socket(), q[2];
    SAY(pipe(q));
    pid_t pid = fork();
    if (pid == 0) {
        if (fork() != 0)
            _exit(0);
        close(l);
        int good = connect_there(fd) == 0 && send(fd, "daemon", 6, 0) == 6 && recv(fd, text, 9, 0) == 3;
        _exit(write(q[1], "no", good ? 1 : 2) < 0);
    }
    close(fd);
    waitpid(pid, NULL, 0);
    int s = accept(l, NULL, NULL);
    say("%s", polled(s, POLLIN, 1000));
    SAY(recv(s, text, 9, 0));
    SAY(send(s, "you", 3, 0));
    SAY(read(q[0], text, 2));
}

CASE(many_fresh, "a hundred fresh sockets over three forks; each process connects a third")
{
    int l = listener(128), good = 0;
    static int fd[99];
    for (int i = 0; i < 99; i++)
        fd[i] = fresh_socket();
    for (int k = 0; k < 3; k++) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            int bad = 0;
            for (int i = k; i < 99; i += 3)
                bad += connect_there(fd[i]) != 0;
            _exit(bad);
        }
        waitpid(pid, &status, 0);
        say("child: %d", status);
    }
    for (int i = 0; i < 99; i++) {
        int s = accept(l, NULL, NULL);
        good += s >= 0 && send(s, "x", 1, 0) == 1 && recv(fd[i / 33 + i % 33 * 3], text, 9, 0) == 1;
    }
    say("%d", good);
}

CASE(no_room_over_fork,
     "a connect that finds no room and waits; the child makes some and takes the connection")
{
    int l = listener(0), fd[2];
    for (int i = 0; i < 2; i++) {
        fd[i] = begin_dial();
        nap(20);
    }
    if (kin()) {
        for (int i = 0; i < 2; i++) {
            int s = accept(l, NULL, NULL);
            SAY(send(s, "x", 1, 0));
        }
        say("%s", polled(fd[1], POLLIN, 3000));
        SAY(recv(fd[1], text, 9, 0));
        stay();
    }
    theirs();
    SAY(recv(fd[0], text, 9, 0));
    SAY(connect_there(fd[1]));
    SAY(connect_there(fd[1]));
}

/* ---- what a relative has accepted and answered, asked for without waiting ---- */

static void answered_by_kin(void (*ask)(int fd))
{
    int l = listener(8), fd[3];
    for (int i = 0; i < 3; i++)
        fd[i] = dial();
    if (kin()) {
        for (int i = 0; i < 3; i++)
            SAY(send(accept(l, NULL, NULL), "x", 1, 0));
        stay();
    }
    theirs();
    for (int i = 0; i < 3; i++)
        ask(fd[i]);
}

static void ask_recv(int fd)
{
    SAY(recv(fd, text, 9, MSG_DONTWAIT));
}

static void ask_poll(int fd)
{
    say("%s", polled(fd, POLLIN, 0));
}

static void ask_number(int fd)
{
    int n = -1;
    SAY(ioctl(fd, FIONREAD, &n));
    say("%d", n);
}

CASE(recv_of_kin, "recv with MSG_DONTWAIT has the byte")
{
    answered_by_kin(ask_recv);
}

CASE(poll_of_kin, "poll with no time tells of the byte")
{
    answered_by_kin(ask_poll);
}

static void ask_set(int fd)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = 0};
    int set = epoll_create1(0);
    SAY(epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev));
    SAY(epoll_wait(set, &ev, 1, 0));
    close(set);
}

CASE(set_of_kin, "a set tells of the byte at once")
{
    answered_by_kin(ask_set);
}

CASE(number_of_kin, "FIONREAD counts the byte")
{
    answered_by_kin(ask_number);
}

/* ---- dup ---- */
CASE(dup_then_connect, "connected by one number, used by the other, the first closed")
{
    int l = listener(8), a = fresh_socket(), b = dup(a);
    SAY(set_nonblock(b, 1));
    SAY(connect_there(a));
    say("%s", polled_soon(b, POLLOUT));
    SAY(connect_there(b));
    SAY(connect_there(a));
    SAY(close(a));
    SAY(set_nonblock(b, 0));
    talk(b, accept(l, NULL, NULL));
}

CASE(dup_then_fork, "two numbers, the child closes one and connects by the other")
{
    int l = listener(8), a = fresh_socket(), b = dup(a);
    if (kin()) {
        SAY(close(a));
        SAY(connect_there(b));
        SAY(close(b));
        stay();
    }
    theirs();
    SAY(close(b));
    talk(a, accept(l, NULL, NULL));
}

CASE(dup_in_child, "a number that the child adds by dup2 over its own")
{
    int l = listener(8), a = fresh_socket(), other = fresh_socket();
    if (kin()) {
        SAY(dup2(a, other) == other);
        SAY(close(a));
        SAY(connect_there(other));
        SAY(set_option(other, SO_KEEPALIVE, 1));
        stay();
    }
    theirs();
    say("%ld %ld", (long)option_of(a, SO_KEEPALIVE), (long)option_of(other, SO_KEEPALIVE));
    talk(a, accept(l, NULL, NULL));
    SAY(recv(other, text, 9, 0));
}

CASE(own_in_a_common_set, "a child puts a socket of its own into a set that both have, and connects it")
{
    int l = listener(8), ep = epoll_create1(0);
    if (kin()) {
        int fd = fresh_socket();
        SAY(epoll_add(ep, fd, EPOLLIN, 1));
        SAY(connect_there(fd));
        say("%s", epolled(ep, 8, 20));
        turn();
        say("%s", epolled(ep, 8, 1000));
        SAY(recv(fd, text, 9, 0));
        say("%s", epolled(ep, 8, 20));
        SAY(close(fd));
        say("%s", epolled(ep, 8, 20));
        stay();
    }
    theirs();
    int s = accept(l, NULL, NULL);
    SAY(send(s, "x", 1, 0));
    theirs();
    say("%s", epolled(ep, 8, 20));
}

CASE(own_in_a_common_set_over_fork, "the same, which has a child of its own before it connects")
{
    int l = listener(8), ep = epoll_create1(0);
    if (kin()) {
        int fd = fresh_socket();
        SAY(epoll_add(ep, fd, EPOLLIN, 1));
        pid_t pid = fork();
        if (pid == 0)
            _exit(connect_there(fd) != 0);
        waitpid(pid, NULL, 0);
        say("%s", epolled(ep, 8, 20));
        turn();
        say("%s", epolled(ep, 8, 1000));
        SAY(recv(fd, text, 9, 0));
        say("%s", epolled(ep, 8, 20));
        SAY(close(fd));
        say("%s", epolled(ep, 8, 20));
        stay();
    }
    theirs();
    int s = accept(l, NULL, NULL);
    SAY(send(s, "x", 1, 0));
    theirs();
    say("%s", epolled(ep, 8, 20));
}

/* ---- beside forks, and passed ---- */

static long connects(void *unused)
{
    long good = 0;
    (void)unused;
    for (int i = 0; i < 300; i++) {
        int fd = fresh_socket(), other = i % 3 ? -1 : dup(fd);
        if (i % 2)
            sched_yield();
        good += connect_there(fd) == 0 && send(fd, "x", 1, 0) == 1 && recv(fd, &(char){0}, 1, 0) == 1;
        close(fd);
        close(other);
    }
    return good;
}

static long echoes(void *l)
{
    long good = 0;
    char byte;
    for (int i = 0; i < 300; i++) {
        int s = accept(*(int *)l, NULL, NULL);
        good += recv(s, &byte, 1, 0) == 1 && send(s, &byte, 1, 0) == 1;
        close(s);
    }
    return good;
}

CASE(connects_beside_forks, "a thread makes sockets and connects them while another forks")
{
    struct side client, server;
    int l = listener(128), bad = 0;
    side_start(&server, echoes, &l);
    side_start(&client, connects, NULL);
    for (int i = 0; i < 40; i++) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            nap(i % 4);
            _exit(0);
        }
        nap(1);
        if (i % 4 < 2)
            waitpid(pid, &status, 0);
        bad += i % 4 < 2 && status != 0;
    }
    say("connected %s, served %s, children %d", side_end(&client), side_end(&server), bad);
}

static void pass(int over, int fd)
{
    char byte = 'f', space[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    SAY(sendmsg(over, &m, 0));
}

static int passed(int over)
{
    int fd = -1;
    char byte, space[CMSG_SPACE(sizeof fd)];
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(over, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

/* Made after the fork and passed to the child, who connects it; or the parent does. */
static void passed_on(int (*make)(void), int child_connects)
{
    int u[2], l = listener(8);
    struct sockaddr_in at = differ_at;
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    if (kin()) {
        int fd = passed(u[1]);
        SAY(set_option(fd, SO_KEEPALIVE, 1));
        SAY(set_nonblock(fd, 1));
        if (child_connects)
            begin_connect(fd);
        turn();
        say("%s", polled(fd, POLLIN, 1000));
        SAY(recv(fd, text, 9, 0));
        SAY(send(fd, "child", 5, 0));
        stay();
    }
    int fd = make();
    differ_at = at;
    pass(u[0], fd);
    theirs();
    say("keepalive %d, non-blocking %d", option_of(fd, SO_KEEPALIVE), !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    if (!child_connects)
        begin_connect(fd);
    int s = accept(l, NULL, NULL);
    say("%s", polled(fd, POLLOUT, 1000));
    SAY(send(s, "x", 1, 0));
    theirs();
    SAY(recv(s, text, 9, 0));
    SAY(send(fd, "parent", 6, 0));
    SAY(recv(s, text, 9, 0));
}

CASE(passed_fresh, "a fresh socket is sent to the child, who connects it")
{
    passed_on(fresh_socket, 1);
}

CASE(passed_fresh_connected_here, "sent, and then connected by who has sent it")
{
    passed_on(fresh_socket, 0);
}

CASE(passed_bound, "a bound one is sent to the child, who connects it")
{
    passed_on(bound_socket, 1);
}

CASE(passed_bound_connected_here, "a bound one is sent, and then connected by who has sent it")
{
    passed_on(bound_socket, 0);
}
