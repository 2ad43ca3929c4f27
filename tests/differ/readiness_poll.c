/* readiness_poll.c - what poll says of a connection: in every form of the call, and what must hold of the
 * call after. */
#include "differ.h"

CASE(idle, "nothing to read, room to write")
{
    struct pair p = pair_here();
    say("IN: %s", polled(p.s, POLLIN, 0));
    say("OUT: %s", polled(p.s, POLLOUT, 0));
    say("all: %s", polled(p.s, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0));
    say("none: %s", polled(p.s, 0, 0));
}

CASE(data, "a byte is there")
{
    struct pair p = pair_here();
    SAY(send(p.c, "x", 1, 0));
    say("IN: %s", polled_soon(p.s, POLLIN));
    say("IN|OUT: %s", polled(p.s, POLLIN | POLLOUT, 0));
    say("with a timeout: %s", polled(p.s, POLLIN, 1000));
    say("for ever: %s", polled(p.s, POLLIN, -1));
    say("OUT: %s", polled(p.s, POLLOUT, 0));
    say("none: %s", polled(p.s, 0, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    say("after the read: %s", polled(p.s, POLLIN, 0));
}

CASE(normal_and_band, "RDNORM, RDBAND, WRNORM, WRBAND and PRI")
{
    struct pair p = pair_here();
    say("idle: %s", polled(p.s, POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLPRI, 0));
    SAY(send(p.c, "x", 1, 0));
    say("data: %s", polled_soon(p.s, POLLRDNORM));
    say("data: %s", polled(p.s, POLLIN | POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLPRI, 0));
}

CASE(beside_ready_pipe, "a connection with data and a pipe with data in one call")
{
    struct pair p = pair_here();
    int q[2];
    SAY(pipe(q));
    SAY(write(q[1], "y", 1));
    struct pollfd f[2] = {{p.s, POLLIN, 0}, {q[0], POLLIN, 0}};
    SAY(poll(f, 2, 1000));
    say("idle: %s and %s", bits((unsigned)f[0].revents), bits((unsigned)f[1].revents));
    SAY(send(p.c, "x", 1, 0));
    say("both are told: %d", SOON(poll(f, 2, 1000) == 2));
    say("%s and %s", bits((unsigned)f[0].revents), bits((unsigned)f[1].revents));
}

CASE(fresh_socket, "a socket that was never connected")
{
    int fd = fresh_socket();
    say("%s", polled(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    say("%s", polled(fd, 0, 0));
}

CASE(closed_number, "NVAL, and others in the same call")
{
    struct pair p = pair_here();
    struct pollfd f[3] = {{p.s, POLLOUT, 0}, {999, POLLIN, 0}, {-1, POLLIN, 7}};
    SAY(poll(f, 3, 1000));
    for (int i = 0; i < 3; i++)
        say("%s", bits((unsigned)f[i].revents));
    close(p.s);
    f[0].events = POLLIN;
    SAY(poll(f, 1, 1000));
    say("closed: %s", bits((unsigned)f[0].revents));
}

CASE(same_twice, "the same connection twice in one call, with different wishes")
{
    struct pair p = pair_here();
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    struct pollfd f[3] = {{p.s, POLLIN, 0}, {p.s, POLLOUT, 0}, {p.s, POLLPRI, 0}};
    SAY(poll(f, 3, 1000));
    for (int i = 0; i < 3; i++)
        say("%s", bits((unsigned)f[i].revents));
}

CASE(peer_shut_down_writing, "RDHUP")
{
    struct pair p = pair_here();
    SAY(shutdown(p.c, SHUT_WR));
    say("%s", polled_soon(p.s, POLLIN | POLLRDHUP));
    say("without RDHUP: %s", polled(p.s, POLLIN | POLLOUT, 0));
    say("nothing wanted: %s", polled(p.s, 0, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    say("still: %s", polled(p.s, POLLIN | POLLOUT | POLLRDHUP, 0));
    say("the other side: %s", polled(p.c, POLLIN | POLLOUT | POLLRDHUP, 0));
}

CASE(own_shutdowns, "what each side sees after each side has shut down")
{
    struct pair p = pair_here();
    unsigned all = POLLIN | POLLOUT | POLLRDHUP;
    SAY(shutdown(p.s, SHUT_RD));
    say("own RD: %s", polled(p.s, (int)all, 0));
    say("peer: %s", polled(p.c, (int)all, 0));
    SAY(shutdown(p.s, SHUT_WR));
    say("own RDWR: %s", polled(p.s, (int)all, 0));
    say("peer: %s", polled_soon(p.c, POLLRDHUP));
    SAY(shutdown(p.c, SHUT_WR));
    say("peer, both: %s", polled_soon(p.c, POLLHUP));
    say("own: %s", polled_soon(p.s, POLLHUP));
}

CASE(peer_closed, "close of the peer, with and without data before it")
{
    struct pair p = pair_here();
    SAY(send(p.c, "bye", 3, 0));
    SAY(close(p.c));
    say("%s", polled_soon(p.s, POLLIN | POLLRDHUP));
    say("%s", polled(p.s, POLLIN | POLLOUT | POLLRDHUP, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    say("%s", polled(p.s, POLLIN | POLLOUT | POLLRDHUP, 0));
}

CASE(peer_reset, "a hard close of the peer")
{
    struct pair p = pair_here();
    reset(p.c);
    say("%s", polled_soon(p.s, POLLERR | POLLHUP));
    say("%s", polled(p.s, POLLIN | POLLOUT | POLLRDHUP, 0));
    say("SO_ERROR %s", strerrorname_np(socket_error(p.s)));
    say("then: %s", polled(p.s, POLLIN | POLLOUT | POLLRDHUP, 0));
    say("SO_ERROR %d", socket_error(p.s));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
}

CASE(full_and_emptied, "no OUT while full, OUT when the peer has read")
{
    struct pair p = pair_here();
    long all = fill(p.c);
    say("filled: %d", all > 0);
    say("full: %s", polled(p.c, POLLOUT, 0));
    say("full, IN|OUT: %s", polled(p.c, POLLIN | POLLOUT, 20));
    say("the peer took all: %d", drain(p.s, all) == all);
    say("emptied: %s", polled_soon(p.c, POLLOUT));
    SAY(send(p.c, "x", 1, MSG_DONTWAIT));
}

static long poll_for_ever(void *fd)
{
    struct pollfd p = {*(int *)fd, POLLIN, 0};
    return poll(&p, 1, -1);
}

CASE(blocked_then_data, "a poll that waits is woken by data")
{
    struct pair p = pair_here();
    struct side side;
    side_start(&side, poll_for_ever, &p.s);
    side_blocked(&side);
    SAY(send(p.c, "x", 1, 0));
    say("%s", side_end(&side));
}

CASE(blocked_then_far_data, "a poll that waits is woken by data of another program")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    side_start(&side, poll_for_ever, &m.s);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "send 1"));
    say("%s", side_end(&side));
    say("%ld", take(m.s, 0, 1, MSG_DONTWAIT));
}

CASE(writable_never_eagain, "each OUT is followed by a write that takes something, while a fresh peer reads")
{
    struct meeting m = meet_as_client(FRESH);
    static char block[50000];
    long sent = 0, refused = 0;
    set_nonblock(m.s, 1);
    far_begin(&m.far, "drain");
    while (sent < 5000000 && strcmp(polled(m.s, POLLOUT, 1000), "OUT") == 0) {
        long n = send(m.s, block, sizeof block, 0);
        refused += n <= 0;
        sent += n > 0 ? n : 0;
    }
    say("enough: %d, refused %ld", sent >= 5000000, refused);
    SAY(close(m.s));
    say("all came: %d", atol(far_answer(&m.far)) == sent);
}

CASE(writable_never_eagain_epoll, "the same for edges of a set")
{
    struct meeting m = meet_as_server(FRESH);
    static char block[50000];
    int ep = epoll_with(m.s, EPOLLOUT | EPOLLET, 1);
    long sent = 0, refused = 0;
    set_nonblock(m.s, 1);
    far_begin(&m.far, "drain");
    while (sent < 5000000 && strcmp(epolled(ep, 8, 1000), "1:OUT") == 0) {
        long n = send(m.s, block, sizeof block, 0);
        refused += n <= 0;
        while (n > 0) {
            sent += n;
            n = send(m.s, block, sizeof block, 0);
        }
    }
    say("enough: %d, refused %ld", sent >= 5000000, refused);
}

CASE(hangups_of_a_program,
     "what poll, select and a set say after each end of a fresh program, with and without bytes")
{
    static const char *const ends[] = {"shutdown wr", "close", "rst", "exit", "shutdown rdwr", "shutdown rd"};
    unsigned all = POLLIN | POLLOUT | POLLRDHUP;
    for (int i = 0; i < 12; i++) {
        struct meeting m = meet_as_client(FRESH);
        int rst = i % 6 == 2;
        if (i >= 6)
            far_do(&m.far, "send 3; %s", ends[i % 6]);
        else
            far_do(&m.far, "%s", ends[i % 6]);
        if (i % 6 != 5)
            polled_soon(m.s, rst ? POLLERR : POLLRDHUP);
        else if (i >= 6)
            polled_soon(m.s, POLLIN);
        const char *by_poll = polled(m.s, (int)all, 0), *by_select = selected(m.s, "rwx", 0);
        say("%s, %s bytes: %s, %s, %s", ends[i % 6], i >= 6 ? "3" : "no", by_poll, by_select,
            epolled(epoll_with(m.s, all, 1), 8, 0));
    }
}

static long poll_out(void *fd)
{
    struct pollfd f = {*(int *)fd, POLLOUT, 0};
    return poll(&f, 1, 900);
}

/* `looks`: the reader looks for more when it has read all. */
static void talk_then_fill(int looks)
{
    static char big[16 << 20];
    struct pair p = pair_here();
    struct side side;
    char byte = 'x';
    for (int i = 0; i < 200; i++)
        if (send(p.c, &byte, 1, 0) != 1 || recv(p.s, &byte, 1, 0) != 1 || send(p.s, &byte, 1, 0) != 1 ||
            recv(p.c, &byte, 1, 0) != 1)
            say("no talk");
    set_nonblock(p.s, 1);
    long all = fill(p.c), got = 0, n = 1;
    side_start(&side, poll_out, &p.c);
    side_blocked(&side);
    while (n > 0 && (looks || got < all)) {
        n = recv(p.s, big, sizeof big, 0);
        got += n > 0 ? n : 0;
    }
    say("all: %d", got == all);
    say("told: %s", side_end(&side));
}

CASE(room_after_talk,
     "a writer waits for room; the reader, which has answered each message until then, reads all")
{
    talk_then_fill(0);
}

CASE(room_after_look, "the same, and it looks for more")
{
    talk_then_fill(1);
}
