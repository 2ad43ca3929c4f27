/* exhausted.c - no descriptor is free: which calls fail, and with what; which go on. */
#include "differ.h"

#include <sys/resource.h>

static int opened[256], n_opened;

static void open_all(void)
{
    while ((opened[n_opened] = open("/dev/null", O_RDONLY)) >= 0)
        n_opened++;
    say("open: %s", result_text(-1, errno));
}

static void leave_none(void)
{
    struct rlimit limit = {128, 128};
    setrlimit(RLIMIT_NOFILE, &limit);
    open_all();
}

static void leave(int n)
{
    while (n-- > 0)
        close(opened[--n_opened]);
}

CASE(new_sockets, "socket, dup, pipe and epoll_create1 say EMFILE")
{
    leave_none();
    SAY(fresh_socket());
    SAY(dup(0));
    SAY(pipe((int[2]){0}));
    SAY(epoll_create1(0));
}

CASE(accept, "accept says EMFILE, the connection waits until a descriptor is free")
{
    int l = listener(8), c = dial();
    struct far far = far_new(FRESH);
    far_begin(&far, "connect %d", ntohs(differ_at.sin_port));
    say("far: %s", far_answer(&far));
    set_nonblock(l, 1);
    leave_none();
    say("%d, %s", c >= 0, polled(l, POLLIN, 1000));
    SAY(accept(l, NULL, NULL));
    say("%s", polled(l, POLLIN, 0));
    leave(2);
    say("a connection: %d", accept(l, NULL, NULL) >= 0);
    say("%s", polled(l, POLLIN, 1000));
    say("a connection: %d", accept(l, NULL, NULL) >= 0);
    say("%s", polled(l, POLLIN, 0));
}

CASE(accept_told_by_all, "poll and a set tell of the listener each time, however often accept says EMFILE")
{
    int l = listener(8), ep = epoll_with(l, EPOLLIN, 1);
    struct far far = far_new(FRESH);
    set_nonblock(l, 1);
    far_begin(&far, "connect %d", ntohs(differ_at.sin_port));
    say("far: %s", far_answer(&far));
    leave_none();
    for (int i = 0; i < 6; i++) {
        say("%s, %s", epolled(ep, 8, 1000), polled(l, POLLIN, 0));
        SAY(accept(l, NULL, NULL));
    }
    leave(1);
    say("a connection: %d", accept(l, NULL, NULL) >= 0);
    say("%s", epolled(ep, 8, 0));
}

CASE(accept_in_set, "a set tells of the listener by level as long as connections wait")
{
    int l = listener(8), ep = epoll_with(l, EPOLLIN, 1);
    set_nonblock(l, 1);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 3; i++)
            if (dial() < 0)
                _exit(1);
        for (;;)
            pause();
    }
    say("%s", epolled(ep, 8, 2000));
    leave_none();
    for (int i = 0; i < 3; i++) {
        say("%s", epolled(ep, 8, 1000));
        SAY(accept(l, NULL, NULL));
    }
    leave(10);
    int got = 0;
    for (int i = 0; i < 3; i++)
        got += strcmp(epolled(ep, 8, 1000), "1:IN") == 0 && accept(l, NULL, NULL) >= 0;
    say("accepted %d", got);
}

/* Before it has done anything else. */
CASE(child_fills_its_table_first,
     "a child without a free descriptor puts what it has inherited into a set, and is told")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        leave_none();
        SAY(epoll_add(ep, p.s, EPOLLIN, 1));
        SAY(epoll_add(ep, p.l, EPOLLIN, 2));
        SAY(send(p.c, "x", 1, 0));
        say("%s", epolled(ep, 4, 1000));
        SAY(recv(p.s, (char[1]){0}, 1, 0));
        say("%s", polled(p.s, POLLIN | POLLOUT, 0));
        fflush(stdout);
        _exit(0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    say("child: %d", status);
}

CASE(accept_of_nobody, "a blocking accept does not wait for somebody whom it could not take")
{
    int l = listener(8);
    leave_none();
    SAY(accept(l, NULL, NULL));
}

CASE(waits, "poll, select and epoll_wait go on")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    leave_none();
    say("%s", polled(p.s, POLLIN, 20));
    say("%s", polled(p.l, POLLIN, 20));
    say("%s", selected(p.s, "r", 20));
    say("%s", epolled(ep, 8, 20));
    SAY(send(p.c, "x", 1, 0));
    say("%s", polled(p.s, POLLIN, 1000));
    say("%s", selected(p.s, "r", 1000));
    say("%s", epolled(ep, 8, 1000));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
}

static long recv_one(void *fd)
{
    return recv(*(int *)fd, (char[1]){0}, 1, 0);
}

CASE(thread_that_never_waited, "a new thread waits, reads and polls")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    leave_none();
    side_start(&side, recv_one, &m.s);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "send 1"));
    say("%s", side_end(&side));
}

CASE(connect, "a socket that exists connects")
{
    int l = listener(4), c = fresh_socket(), d = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    leave_none();
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(send(c, "x", 1, 0));
    leave(1);
    int s = accept(l, NULL, NULL);
    SAY(recv(s, (char[9]){0}, 9, 0));
    say("%d", connect(d, (struct sockaddr *)&differ_at, sizeof differ_at) == 0 || errno == EINPROGRESS);
    say("%s", polled(d, POLLOUT, 1000));
    say("SO_ERROR %d", socket_error(d));
}

CASE(first_data, "a fresh program's first megabyte comes though no descriptor is free")
{
    struct meeting m = meet_as_client(FRESH);
    leave_none();
    far_begin(&m.far, "send 1000000");
    say("%s", polled(m.s, POLLIN, 2000));
    say("%ld, sent %s", take(m.s, 0, 1000000, 0), far_answer(&m.far));
}
