/* connect.c - the states of a connecting socket. */
#include "differ.h"

CASE(in_progress, "a non-blocking connect: EINPROGRESS, then OUT, SO_ERROR 0, EISCONN")
{
    int l = listener(4), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(c, POLLIN | POLLOUT, 1000));
    say("SO_ERROR %d", socket_error(c));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%d", accept(l, NULL, NULL) >= 0);
}

CASE(refused, "nobody listens: blocking and not")
{
    int l = listener(4), c = fresh_socket(), d = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    close(l);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(c, POLLIN | POLLOUT, 0));
    SAY(connect(d, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(d, POLLIN | POLLOUT, 1000));
    say("SO_ERROR %s", strerrorname_np(socket_error(d)));
    say("SO_ERROR %d", socket_error(d));
}

CASE(connected_again, "connect of a connected socket")
{
    struct pair p = pair_here();
    SAY(connect(p.c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(connect(p.s, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(connect(p.l, (struct sockaddr *)&differ_at, sizeof differ_at));
}

CASE(not_connected, "calls on a socket that was never connected")
{
    int fd = fresh_socket();
    SAY(recv(fd, (char[9]){0}, 9, MSG_DONTWAIT));
    SAY(send(fd, "x", 1, MSG_NOSIGNAL));
    SAY(shutdown(fd, SHUT_WR));
    SAY(read(fd, (char[9]){0}, 9));
    SAY(accept(fd, NULL, NULL));
}

CASE(bad_addresses, "short lengths, wrong families")
{
    int l = listener(4), fd = fresh_socket();
    struct sockaddr_in wrong = differ_at;
    SAY(connect(fd, (struct sockaddr *)&differ_at, 4));
    SAY(connect(fd, (struct sockaddr *)&differ_at, 0));
    wrong.sin_family = AF_UNIX;
    SAY(connect(fd, (struct sockaddr *)&wrong, sizeof wrong));
    SAY(connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%d", accept(l, NULL, NULL) >= 0);
}

CASE(again_after_refused, "a socket that was refused connects at the second try")
{
    int l = listener(4), c = fresh_socket();
    struct sockaddr_in first = differ_at;
    close(l);
    SAY(connect(c, (struct sockaddr *)&first, sizeof first));
    l = listener(4);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(send(c, "x", 1, 0));
    int s = accept(l, NULL, NULL);
    SAY(recv(s, (char[9]){0}, 9, 0));
}

CASE(refused_in_set, "a refused connect as a set tells it, by level and by edge")
{
    int l = listener(4), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    close(l);
    begin_connect(c);
    int level = epoll_with(c, EPOLLOUT, 1), edge = epoll_with(c, EPOLLOUT | EPOLLET, 2);
    say("%s", epolled(level, 8, 1000));
    say("%s", epolled(edge, 8, 1000));
    say("%s %s", epolled(level, 8, 0), epolled(edge, 8, 0));
    say("select: %s", selected(c, "rwx", 0));
    say("SO_ERROR %s", strerrorname_np(socket_error(c)));
    say("%s", epolled(level, 8, 0));
    SAY(recv(c, (char[9]){0}, 9, 0));
    SAY(send(c, "x", 1, MSG_NOSIGNAL));
}

CASE(far_listener, "connects to a fresh program, non-blocking, then sends at once")
{
    struct far far = far_new(FRESH);
    differ_at = (struct sockaddr_in){.sin_family = AF_INET,
                                     .sin_port = htons((uint16_t)atoi(far_do(&far, "listen"))),
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int c = begin_dial();
    say("%s", polled(c, POLLOUT, 1000));
    say("SO_ERROR %d", socket_error(c));
    say("sent %ld", give(c, 0, 10));
    say("far: %s", far_do(&far, "accept; recv 10; send 5"));
    say("%s", polled_soon(c, POLLIN));
    say("%ld", take(c, 0, 5, 0));
}

CASE(ready_ways, "OUT after a connect: by select, by a set, by an edge")
{
    int l = listener(8), a = begin_dial(), b = begin_dial();
    say("select: %s", selected(a, "w", 1000));
    say("all: %s", selected(a, "rwx", 0));
    int level = epoll_with(b, EPOLLIN | EPOLLOUT, 1), edge = epoll_with(b, EPOLLIN | EPOLLOUT | EPOLLET, 2);
    say("%s", epolled(level, 8, 1000));
    say("%s", epolled(edge, 8, 1000));
    say("%s", epolled(edge, 8, 0));
    say("%d", accept(l, NULL, NULL) >= 0);
}

CASE(before_accept, "what is sent before accept is there after it; the end too")
{
    int l = listener(4), c = dial();
    say("%ld", give(c, 0, 50000));
    SAY(shutdown(c, SHUT_WR));
    int s = accept(l, NULL, NULL);
    say("%ld", take(s, 0, 60000, 0));
    SAY(send(s, "x", 1, 0));
    SAY(recv(c, (char[9]){0}, 9, 0));
}

CASE(before_accept_fresh, "a fresh client has sent 200 KB before accept")
{
    int l = listener(4);
    struct far far = far_new(FRESH);
    far_begin(&far, "connect %d; send 200000", ntohs(differ_at.sin_port));
    say("%s", polled(l, POLLIN, 2000));
    nap(20);
    int s = accept(l, NULL, NULL);
    say("%s", polled_soon(s, POLLIN));
    say("%ld", take(s, 0, 1, MSG_DONTWAIT));
    say("%ld, far: %s", take(s, 1, 199999, 0), far_answer(&far));
}

static long poll_out(void *fd)
{
    struct pollfd f = {*(int *)fd, POLLOUT, 0};
    return poll(&f, 1, 2000);
}

CASE(polled_by_another, "another thread that polls the socket learns of the connect")
{
    int l = listener(4), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct side side;
    /* a fresh socket is OUT|HUP at once, so the other thread begins after the connect */
    begin_connect(c);
    side_start(&side, poll_out, &c);
    say("%s", side_end(&side));
    say("%d", accept(l, NULL, NULL) >= 0);
}

static long connect_it(void *fd)
{
    return connect(*(int *)fd, (struct sockaddr *)&differ_at, sizeof differ_at);
}

CASE(used_by_another, "what the server has accepted is connected for each thread of the client")
{
    int bad = 0;
    for (int i = 0; i < 50; i++) {
        int l = listener(4), c = fresh_socket();
        struct side side;
        side_start(&side, connect_it, &c);
        int s = accept(l, NULL, NULL);
        close(s);
        struct pollfd f = {c, POLLIN, 0};
        bad += poll(&f, 1, 1000) != 1 || recv(c, (char[1]){0}, 1, 0) != 0;
        bad += strcmp(side_end(&side), "0") != 0;
        close(c);
        close(l);
    }
    say("bad: %d", bad);
}

CASE(names_after, "getsockname and getpeername before and after")
{
    int l = listener(4), c = fresh_socket();
    struct sockaddr_in a = {0};
    socklen_t len = sizeof a;
    SAY(getsockname(c, (struct sockaddr *)&a, &len));
    say("port 0: %d, any address: %d", a.sin_port == 0, a.sin_addr.s_addr == 0);
    SAY(getpeername(c, (struct sockaddr *)&a, &len));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(getsockname(c, (struct sockaddr *)&a, &len));
    say("a port: %d, loopback: %d", a.sin_port != 0, a.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    SAY(getpeername(c, (struct sockaddr *)&a, &len));
    say("%d", accept(l, NULL, NULL) >= 0);
}

CASE(bound_first, "a client that is bound to a port keeps it")
{
    int l = listener(4), c = fresh_socket();
    struct sockaddr_in mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, a = {0};
    socklen_t len = sizeof a;
    SAY(bind(c, (struct sockaddr *)&mine, sizeof mine));
    SAY(getsockname(c, (struct sockaddr *)&mine, &len));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    int s = accept(l, (struct sockaddr *)&a, &len);
    say("%d: %d", s >= 0, a.sin_port == mine.sin_port);
    SAY(bind(c, (struct sockaddr *)&mine, sizeof mine));
}

/* ---- a connect that cannot end: the queue of who listens is full ---- */

/* Connects until one waits; how many did not is asked in queue_size alone. */
static int full_listener(void)
{
    int l = listener(0);
    for (int i = 0; i < 64; i++) {
        int c = begin_dial();
        if (strcmp(polled(c, POLLIN | POLLOUT, 30), "-") == 0) {
            close(c);
            return l;
        }
    }
    say("the queue is never full");
    return l;
}

CASE(queue_size, "how many connections a listener with a queue of 0, 1 and 5 takes")
{
    static const int sizes[] = {0, 1, 5};
    for (int i = 0; i < 3; i++) {
        int taken = 0;
        listener(sizes[i]);
        while (taken < 64 && strcmp(polled(begin_dial(), POLLIN | POLLOUT, 30), "-") != 0)
            taken++;
        say("%d: %d", sizes[i], taken);
    }
}

CASE(queue_full, "states of a connect that waits")
{
    int l = full_listener(), c = begin_dial(), ep = epoll_with(c, EPOLLIN | EPOLLOUT, 1);
    say("%s %s", polled(c, POLLIN | POLLOUT | POLLRDHUP, 0), epolled(ep, 8, 0));
    say("select: %s", selected(c, "rwx", 0));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(recv(c, (char[9]){0}, 9, 0));
    SAY(send(c, "x", 1, MSG_NOSIGNAL));
    SAY(listen(c, 1));
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    SAY(getpeername(c, (struct sockaddr *)&a, &len));
    say("SO_ERROR %d", socket_error(c));
    say("%d", l >= 0);
}

CASE(queue_full_timeout, "SO_SNDTIMEO ends a connect")
{
    full_listener();
    int c = fresh_socket();
    SAY(set_timeout(c, SO_SNDTIMEO, 40));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(set_timeout(c, SO_SNDTIMEO, 40));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
}

static void shut_while_connecting(int how)
{
    full_listener();
    int c = fresh_socket();
    struct side side;
    side_start(&side, connect_it, &c);
    side_blocked(&side);
    SAY(shutdown(c, how));
    say("%s", side_end(&side));
    say("%s", polled(c, POLLIN | POLLOUT | POLLRDHUP, 0));
    SAY(recv(c, (char[9]){0}, 9, MSG_DONTWAIT));
}

CASE(queue_full_shutdown, "SHUT_RDWR by another thread ends a blocked connect")
{
    shut_while_connecting(SHUT_RDWR);
}

CASE(queue_full_shutdown_write, "SHUT_WR by another thread ends a blocked connect")
{
    shut_while_connecting(SHUT_WR);
}

CASE(queue_full_listener_closed, "the listener is closed while a connect waits for it")
{
    int l = full_listener(), c = begin_dial();
    SAY(close(l));
    say("within a second or two: %s", polled(c, POLLOUT, 3000));
    say("SO_ERROR %s", strerrorname_np(socket_error(c)));
}

CASE(queue_full_accepted, "a connect that waited comes when accept has made room")
{
    int l = full_listener(), c = begin_dial();
    set_nonblock(l, 1);
    say("%s", polled(c, POLLOUT, 0));
    while (accept(l, NULL, NULL) >= 0)
        ;
    say("%s", polled(c, POLLOUT, 3000));
    say("SO_ERROR %d, listener %s", socket_error(c), polled(l, POLLIN, 1000));
}

CASE(queue_full_cancel, "a cancelled connect")
{
    full_listener();
    int c = fresh_socket();
    struct side side;
    side_start(&side, connect_it, &c);
    side_blocked(&side);
    pthread_cancel(side.thread);
    say("%s", side_end(&side));
    SAY(close(c));
}

static long poke_main(void *nothing)
{
    (void)nothing;
    poke(differ_main_tid, SIGUSR1);
    return 0;
}

CASE(queue_full_signal, "a signal ends a connect with EINTR, which then goes on by itself")
{
    full_listener();
    int c = fresh_socket();
    struct side side;
    sigset_t usr1;
    handle(SIGUSR1, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, poke_main, NULL);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("handled %d", (int)handled);
    set_nonblock(c, 1);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(c, POLLOUT, 0));
}

CASE(shutdown_then_again, "a shutdown takes it that the connect is through: the next one is EISCONN")
{
    int l = listener(5);
    for (int how = SHUT_WR; how <= SHUT_RDWR; how++) {
        int fd = begin_dial();
        say("%s", polled_soon(fd, POLLOUT));
        SAY(shutdown(fd, how));
        SAY(connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at));
        SAY(connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at));
        SAY(recv(accept(l, NULL, NULL), (char[9]){0}, 9, 0));
    }
}

CASE(unspec, "connect to nowhere (AF_UNSPEC): the peer hears a reset, and the socket connects anew")
{
    struct pair p = pair_here();
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    SAY(connect(p.c, &nowhere, sizeof nowhere));
    say("%s", polled_soon(p.s, POLLIN));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    (void)socket_error(p.c);
    SAY(connect_there(p.c));
    SAY(send(p.c, "x", 1, 0));
    int s = accept(p.l, NULL, NULL);
    SAY(recv(s, (char[9]){0}, 9, 0));
}
