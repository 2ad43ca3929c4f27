/* listener.c - listeners: when they are readable, what accept then gives, and how they end. */
#include "differ.h"

CASE(idle, "nobody has come")
{
    int l = listener(4);
    say("%s", polled(l, POLLIN | POLLOUT | POLLRDHUP, 0));
    set_nonblock(l, 1);
    SAY(accept(l, NULL, NULL));
}

CASE(readable_then_accept, "poll says readable: the accept that follows gives a connection")
{
    int l = listener(4);
    set_nonblock(l, 1);
    int c = dial();
    say("connected: %d", c >= 0);
    say("%s", polled(l, POLLIN, 1000));
    say("%d", accept(l, NULL, NULL) >= 0);
    say("%s", polled(l, POLLIN, 0));
}

CASE(readable_then_accept_fresh, "the same for fresh programs, by poll, select and epoll")
{
    int l = listener(8), port = ntohs(differ_at.sin_port), ep = epoll_with(l, EPOLLIN, 1);
    set_nonblock(l, 1);
    for (int i = 0; i < 6; i++) {
        struct far far = far_new(FRESH);
        far_begin(&far, "connect %d", port);
        say("%s", i % 3 == 0   ? polled(l, POLLIN, 2000)
                  : i % 3 == 1 ? selected(l, "r", 2000)
                               : epolled(ep, 4, 2000));
        int s = accept(l, NULL, NULL);
        say("accept %s", s < 0 ? result_text(-1, errno) : "gives a connection");
        say("far: %s", far_answer(&far));
    }
    say("%s", polled(l, POLLIN, 0));
}

CASE(level_and_edge, "a listener in level and edge sets")
{
    int l = listener(8), level = epoll_with(l, EPOLLIN, 1), edge = epoll_with(l, EPOLLIN | EPOLLET, 2);
    say("idle: %s %s", epolled(level, 4, 0), epolled(edge, 4, 0));
    int c = dial();
    say("one: %s", epolled(level, 4, 1000));
    say("one: %s", epolled(edge, 4, 1000));
    say("again: %s %s", epolled(level, 4, 0), epolled(edge, 4, 0));
    int d = dial();
    say("two: %s", epolled(edge, 4, 1000));
    say("%d", accept(l, NULL, NULL) >= 0);
    say("one left: %s %s", epolled(level, 4, 0), epolled(edge, 4, 0));
    say("%d", accept(l, NULL, NULL) >= 0);
    say("none: %s %s", epolled(level, 4, 0), epolled(edge, 4, 0));
    say("%d", c >= 0 && d >= 0);
}

static long accept_it(void *l)
{
    return accept(*(int *)l, NULL, NULL) < 0 ? -1 : 0;
}

CASE(shutdown_ends_accept, "shutdown by another thread ends a blocked accept with EINVAL")
{
    int l = listener(4);
    struct side side;
    side_start(&side, accept_it, &l);
    side_blocked(&side);
    SAY(shutdown(l, SHUT_RDWR));
    say("%s", side_end(&side));
    SAY(accept(l, NULL, NULL));
    say("%s", polled(l, POLLIN | POLLOUT | POLLRDHUP, 0));
}

CASE(closed_with_waiting, "a listener that is closed resets who waits")
{
    int l = listener(4), c = dial();
    SAY(send(c, "x", 1, 0));
    SAY(close(l));
    say("%s", polled_soon(c, POLLERR | POLLHUP));
    SAY(recv(c, (char[9]){0}, 9, 0));
    int d = fresh_socket();
    SAY(connect(d, (struct sockaddr *)&differ_at, sizeof differ_at));
}

CASE(closed_with_waiting_fresh, "the same for a fresh client")
{
    int l = listener(4);
    struct far far = far_new(FRESH);
    say("far: %s", far_do(&far, "connect %d; send 1", ntohs(differ_at.sin_port)));
    SAY(close(l));
    say("far: %s", far_do(&far, "recv 1; connect %d", ntohs(differ_at.sin_port)));
}

CASE(shut_with_waiting, "a listener that is shut down resets who waits; it can listen again")
{
    int l = listener(4), c = dial();
    SAY(shutdown(l, SHUT_RDWR));
    say("%s", polled_soon(c, POLLERR | POLLHUP));
    SAY(accept(l, NULL, NULL));
    SAY(listen(l, 4));
    set_nonblock(l, 1);
    SAY(accept(l, NULL, NULL));
    socklen_t len = sizeof differ_at;
    SAY(getsockname(l, (struct sockaddr *)&differ_at, &len)); /* it need not be the port from before */
    int d = dial();
    say("%d, %s", d >= 0, polled(l, POLLIN, 1000));
    say("%d", accept(l, NULL, NULL) >= 0);
}

CASE(shutdown_directions, "SHUT_WR does nothing to a listener, SHUT_RD ends it")
{
    int l = listener(4);
    set_nonblock(l, 1);
    SAY(shutdown(l, SHUT_WR));
    SAY(accept(l, NULL, NULL));
    int c = dial();
    say("%d, %s", c >= 0, polled(l, POLLIN, 1000));
    say("%d", accept(l, NULL, NULL) >= 0);
    SAY(shutdown(l, SHUT_RD));
    SAY(accept(l, NULL, NULL));
}

static long poll_it(void *l)
{
    struct pollfd f = {*(int *)l, POLLIN, 0};
    return poll(&f, 1, 2000) == 1 ? f.revents : -1;
}

CASE(shutdown_wakes_poll, "shutdown by another thread wakes a poll of the listener")
{
    int l = listener(4);
    struct side side;
    side_start(&side, poll_it, &l);
    side_blocked(&side);
    SAY(shutdown(l, SHUT_RDWR));
    say("%s", side_end(&side));
}

static long wait_it(void *ep)
{
    struct epoll_event event;
    return epoll_wait(*(int *)ep, &event, 1, 2000) == 1 ? (long)event.events : -1;
}

CASE(shutdown_wakes_set, "shutdown by another thread wakes a set with the listener")
{
    int l = listener(4), ep = epoll_with(l, EPOLLIN, 1);
    struct side side;
    side_start(&side, wait_it, &ep);
    side_blocked(&side);
    SAY(shutdown(l, SHUT_RDWR));
    say("%s", side_end(&side));
}

CASE(shutdown_ends_all_acceptors, "shutdown ends each of three blocked accepts")
{
    int l = listener(4);
    struct side side[3];
    for (int i = 0; i < 3; i++)
        side_start(&side[i], accept_it, &l);
    for (int i = 0; i < 3; i++)
        side_blocked(&side[i]);
    SAY(shutdown(l, SHUT_RDWR));
    for (int i = 0; i < 3; i++)
        say("%s", side_end(&side[i]));
}

CASE(client_gone, "a client that has closed before accept: a connection, its bytes, the end")
{
    int l = listener(4), c = dial();
    SAY(send(c, "abc", 3, 0));
    SAY(close(c));
    say("%s", polled(l, POLLIN, 1000));
    int s = accept(l, NULL, NULL);
    SAY(recv(s, (char[9]){0}, 9, 0));
    SAY(recv(s, (char[9]){0}, 9, 0));
}

CASE(client_reset, "a client that has reset before accept")
{
    int l = listener(4), c = dial();
    set_nonblock(l, 1);
    reset(c);
    say("%s", polled(l, POLLIN, 1000));
    int s = accept(l, NULL, NULL);
    say("a connection: %d", s >= 0);
    SAY(recv(s, (char[9]){0}, 9, 0));
    SAY(recv(s, (char[9]){0}, 9, 0));
}

CASE(client_gone_fresh, "a fresh program that connects, sends and ends before accept")
{
    int l = listener(4);
    struct far far = far_new(FRESH);
    say("far: %s", far_do(&far, "connect %d; send 100000; close", ntohs(differ_at.sin_port)));
    far_kill(&far);
    say("%s", polled(l, POLLIN, 1000));
    int s = accept(l, NULL, NULL);
    say("%ld", take(s, 0, 200000, 0));
    SAY(recv(s, (char[9]){0}, 9, 0));
}

CASE(in_order, "connections come in the order in which they were made")
{
    int l = listener(8);
    char name = 'a';
    for (int i = 0; i < 5; i++, name++) {
        int c = dial();
        if (send(c, &name, 1, 0) != 1)
            say("no send");
    }
    for (int i = 0; i < 5; i++) {
        char got = 0;
        int s = accept(l, NULL, NULL);
        SAY(recv(s, &got, 1, 0));
        say("%c", got);
    }
}

CASE(accept_flags, "accept4's flags; O_NONBLOCK is not inherited; the address")
{
    int l = listener(8), c = dial(), d = dial();
    struct sockaddr_in a = {0}, b = {0};
    socklen_t len = sizeof a, own = sizeof b;
    set_nonblock(l, 1);
    polled(l, POLLIN, 1000);
    int s = accept(l, (struct sockaddr *)&a, &len);
    say("O_NONBLOCK %d, close on exec %d", !!(fcntl(s, F_GETFL) & O_NONBLOCK), fcntl(s, F_GETFD));
    SAY(getsockname(c, (struct sockaddr *)&b, &own));
    say("family %d, length %u, the client's: %d", a.sin_family, (unsigned)len, a.sin_port == b.sin_port);
    SAY(accept4(l, NULL, NULL, 0x40000000));
    s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    say("O_NONBLOCK %d, close on exec %d", !!(fcntl(s, F_GETFL) & O_NONBLOCK), fcntl(s, F_GETFD));
    SAY(recv(s, (char[9]){0}, 9, 0));
    say("%d", d >= 0);
}

CASE(short_address, "accept with a short and with a negative length")
{
    int l = listener(8), c = dial(), d = dial();
    struct sockaddr_in a = {0};
    socklen_t len = 4;
    say("%d", accept(l, (struct sockaddr *)&a, &len) >= 0 && c >= 0 && d >= 0);
    say("length %u", (unsigned)len);
    len = (socklen_t)-1;
    SAY(accept(l, (struct sockaddr *)&a, &len));
}

CASE(not_for_listeners, "calls that a listener refuses")
{
    int l = listener(8);
    SAY(recv(l, (char[9]){0}, 9, 0));
    SAY(read(l, (char[9]){0}, 9));
    SAY(send(l, "x", 1, MSG_NOSIGNAL));
    SAY(listen(l, 20));
    SAY(bind(l, (struct sockaddr *)&differ_at, sizeof differ_at));
    struct pair p = pair_here();
    SAY(accept(p.s, NULL, NULL));
    SAY(listen(p.s, 4));
    SAY(accept(0, NULL, NULL));
}

CASE(dup_of_it, "a dup of a listener accepts after the first was closed")
{
    int l = listener(8), d = dup(l), c = dial();
    SAY(close(l));
    say("%s", polled(d, POLLIN, 1000));
    say("%d", accept(d, NULL, NULL) >= 0 && c >= 0);
    int e = dial();
    say("%s", polled(d, POLLIN, 1000));
    say("%d", accept(d, NULL, NULL) >= 0 && e >= 0);
}

CASE(two_listeners, "two listeners in one set; each is told for its own")
{
    int a = listener(8);
    struct sockaddr_in first = differ_at;
    int b = listener(8), ep = epoll_with(a, EPOLLIN, 1);
    SAY(epoll_add(ep, b, EPOLLIN, 2));
    int c = dial();
    say("%s", epolled(ep, 8, 1000));
    differ_at = first;
    int d = dial();
    polled(a, POLLIN, 1000);
    say("%s", epolled(ep, 8, 1000));
    say("%d", accept(b, NULL, NULL) >= 0 && c >= 0);
    say("%s", epolled(ep, 8, 1000));
    say("%d", accept(a, NULL, NULL) >= 0 && d >= 0);
    say("%s", epolled(ep, 8, 0));
}

CASE(parent_and_child_poll,
     "parent and child poll one listener; after one has accepted, the other sees nothing")
{
    int l = listener(8), ready[2];
    set_nonblock(l, 1);
    SAY(pipe(ready));
    pid_t pid = fork();
    if (pid == 0) {
        char go;
        const char *seen = polled(l, POLLIN, 2000);
        if (strcmp(seen, "IN") != 0 || read(ready[0], &go, 1) != 1)
            _exit(1);
        _exit(strcmp(polled(l, POLLIN, 0), "-") != 0);
    }
    asleep(pid);
    int c = dial();
    say("%s", polled(l, POLLIN, 1000));
    asleep(pid);
    say("%d", accept(l, NULL, NULL) >= 0 && c >= 0);
    SAY(write(ready[1], "g", 1));
    int status = -1;
    waitpid(pid, &status, 0);
    say("child: %d", status);
}

CASE(burst, "twenty fresh connections: each event of the set gives one at least, none gives EAGAIN first")
{
    int l = listener(64), ep = epoll_with(l, EPOLLIN, 1), got = 0, empty = 0;
    int port = ntohs(differ_at.sin_port);
    struct far far[4];
    set_nonblock(l, 1);
    for (int i = 0; i < 4; i++) {
        far[i] = far_new(FRESH);
        far_begin(&far[i], "connect %d; connect %d; connect %d; connect %d; connect %d", port, port, port,
                  port, port);
    }
    while (got < 20 && strcmp(epolled(ep, 8, 2000), "1:IN") == 0) {
        int of_this = 0;
        while (accept(l, NULL, NULL) >= 0)
            of_this++;
        got += of_this;
        empty += of_this == 0;
    }
    say("%d, events without a connection %d", got, empty);
    for (int i = 0; i < 4; i++)
        say("far: %s", far_answer(&far[i]));
}

static int accept_refused(int l)
{
    return accept(l, NULL, NULL) == -1 && errno == EINVAL;
}

CASE(shutdown_by_child, "a child shuts the listener down: nobody can connect, nobody accepts")
{
    int l = listener(5), ep = epoll_with(l, EPOLLIN, 1), status = -1;
    set_nonblock(l, 1);
    say("%s", epolled(ep, 1, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(shutdown(l, SHUT_RD) != 0 || dial() >= 0 || !accept_refused(l));
    waitpid(pid, &status, 0);
    say("child: %d", status);
    SAY(dial());
    say("%s, %s", epolled(ep, 1, 500), polled(l, POLLIN, 0));
    SAY(accept(l, NULL, NULL));
}

CASE(shutdown_by_parent, "the parent shuts the listener down: the child is refused, too")
{
    int l = listener(5), go[2], status = -1;
    set_nonblock(l, 1);
    SAY(pipe(go));
    pid_t pid = fork();
    if (pid == 0)
        _exit(read(go[0], &status, 1) != 1 || dial() >= 0 || !accept_refused(l) || listen(l, 5) != 0 ||
              dial() < 0);
    SAY(shutdown(l, SHUT_RDWR));
    SAY(dial());
    SAY(write(go[1], "x", 1));
    waitpid(pid, &status, 0);
    say("child: %d", status);
}
