/* shutdown.c - who may still read and write after which shutdown, close and reset. */
#include "differ.h"

CASE(write_side, "SHUT_WR: EPIPE here, the end there, the other way goes on")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    SAY(shutdown(p.c, SHUT_WR));
    SAY(send(p.c, "x", 1, MSG_NOSIGNAL));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(send(p.s, "def", 3, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    SAY(shutdown(p.c, SHUT_WR));
}

CASE(read_side, "SHUT_RD: what was there and what comes is still read, then the end")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    polled_soon(p.s, POLLIN);
    SAY(shutdown(p.s, SHUT_RD));
    say("%s", polled(p.s, POLLIN | POLLRDHUP, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(send(p.c, "def", 3, 0));
    say("arrived: %d", SOON(unread(p.s) == 3));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(send(p.s, "x", 1, 0));
}

CASE(both_then_data, "the peer writes after SHUT_RDWR here")
{
    struct pair p = pair_here();
    SAY(shutdown(p.s, SHUT_RDWR));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(send(p.s, "x", 1, MSG_NOSIGNAL));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    SAY(send(p.c, "x", 1, MSG_NOSIGNAL));
    say("then: %s", polled(p.c, POLLIN | POLLOUT | POLLRDHUP, 50));
}

CASE(bad_calls, "a bad direction, twice, not connected, no socket")
{
    struct pair p = pair_here();
    int q[2];
    SAY(pipe(q));
    SAY(shutdown(p.s, 3));
    SAY(shutdown(p.s, -1));
    SAY(shutdown(p.s, SHUT_RDWR));
    SAY(shutdown(p.s, SHUT_RDWR));
    SAY(shutdown(999, SHUT_WR));
    SAY(shutdown(q[0], SHUT_WR));
}

CASE(after_peer_closed, "shutdown and writes after the peer has closed")
{
    struct pair p = pair_here();
    SAY(close(p.c));
    polled_soon(p.s, POLLRDHUP);
    SAY(send(p.s, "x", 1, MSG_NOSIGNAL));
    say("reset comes: %s", polled_soon(p.s, POLLERR | POLLHUP));
    say("SO_ERROR %s", strerrorname_np(socket_error(p.s)));
    SAY(send(p.s, "x", 1, MSG_NOSIGNAL));
    SAY(shutdown(p.s, SHUT_WR));
}

CASE(close_with_unread, "close with unread bytes resets the peer")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    polled_soon(p.s, POLLIN);
    SAY(close(p.s));
    say("%s", polled_soon(p.c, POLLERR | POLLHUP));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    SAY(send(p.c, "x", 1, MSG_NOSIGNAL));
}

CASE(reset_after_data, "data, then a reset: the data is gone")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    polled_soon(p.s, POLLIN);
    reset(p.c);
    say("%s", polled_soon(p.s, POLLERR | POLLHUP));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    SAY(send(p.s, "x", 1, MSG_NOSIGNAL));
}

CASE(reset_before_anything, "accepted and reset before the connecting side has done anything")
{
    int l = listener(5), c = dial();
    reset(accept(l, NULL, NULL));
    SAY(shutdown(c, SHUT_RDWR));
    say("%d", socket_error(c));
}

CASE(sigpipe, "SIGPIPE for send and write, none with MSG_NOSIGNAL, none when ignored")
{
    struct pair p = pair_here();
    handle(SIGPIPE, 0);
    SAY(shutdown(p.c, SHUT_WR));
    SAY(send(p.c, "x", 1, 0));
    say("handled %d", (int)handled);
    SAY(write(p.c, "x", 1));
    say("handled %d", (int)handled);
    SAY(send(p.c, "x", 1, MSG_NOSIGNAL));
    say("handled %d", (int)handled);
    SAY(send(p.c, "x", 0, 0));
    SAY(write(p.c, "x", 0));
    say("handled %d", (int)handled);
    signal(SIGPIPE, SIG_IGN);
    SAY(send(p.c, "x", 1, 0));
}

CASE(sigpipe_kills, "a write after the end, SIGPIPE at its default")
{
    struct pair p = pair_here();
    SAY(shutdown(p.c, SHUT_WR));
    SAY(send(p.c, "x", 1, 0));
}

static struct pair pair;

static long blocked_recv(void *fd)
{
    return recv(*(int *)fd, (char[9]){0}, 9, 0);
}

static long blocked_send(void *fd)
{
    return send_till_error(*(int *)fd);
}

static void while_blocked(long (*call)(void *), int fd, int who, int how)
{
    struct side side;
    side_start(&side, call, &fd);
    side_blocked(&side);
    SAY(shutdown(who, how));
    say("%s", side_end(&side));
}

CASE(own_read_side_while_reading, "SHUT_RD by another thread ends a blocked recv")
{
    pair = pair_here();
    while_blocked(blocked_recv, pair.s, pair.s, SHUT_RD);
}

CASE(own_both_while_reading, "SHUT_RDWR by another thread ends a blocked recv")
{
    pair = pair_here();
    while_blocked(blocked_recv, pair.s, pair.s, SHUT_RDWR);
}

CASE(own_write_side_while_writing, "SHUT_WR by another thread ends a blocked send")
{
    pair = pair_here();
    fill(pair.c);
    while_blocked(blocked_send, pair.c, pair.c, SHUT_WR);
}

CASE(own_both_while_writing, "SHUT_RDWR by another thread ends a blocked send")
{
    pair = pair_here();
    fill(pair.c);
    while_blocked(blocked_send, pair.c, pair.c, SHUT_RDWR);
}

CASE(peer_write_side_while_reading, "the peer's SHUT_WR ends a blocked recv")
{
    pair = pair_here();
    while_blocked(blocked_recv, pair.s, pair.c, SHUT_WR);
}

CASE(own_write_side_while_reading, "SHUT_WR by another thread leaves a blocked recv alone")
{
    pair = pair_here();
    struct side side;
    side_start(&side, blocked_recv, &pair.s);
    side_blocked(&side);
    SAY(shutdown(pair.s, SHUT_WR));
    side_blocked(&side);
    SAY(send(pair.c, "x", 1, 0));
    say("%s", side_end(&side));
}

CASE(child_shuts_down, "a shutdown in a child holds for the parent")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0)
        _exit(shutdown(p.s, SHUT_WR));
    waitpid(pid, NULL, 0);
    SAY(send(p.s, "x", 1, MSG_NOSIGNAL));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

/* The peer has ended its sending in good order, and cuts off what is left: by a reset, or by a close with our
 * bytes unread. */
static void cut_after_end(int with_bytes, int ended_here, int by_close)
{
    struct pair p = pair_here();
    if (with_bytes)
        SAY(send(p.c, "abc", 3, 0));
    SAY(shutdown(p.c, SHUT_WR));
    if (by_close)
        SAY(send(p.s, "def", 3, 0));
    polled_soon(p.s, POLLRDHUP);
    say("unread there: %d", SOON(unread(p.c) == (by_close ? 3 : 0)));
    if (ended_here)
        SAY(shutdown(p.s, SHUT_WR));
    if (by_close)
        SAY(close(p.c));
    else
        reset(p.c);
    say("%s", polled_soon(p.s, POLLHUP));
    pair = p;
}

CASE(cut_after_end_read_first, "after the peer's end a cut is no error to who reads")
{
    for (int i = 0; i < 8; i++) {
        cut_after_end(i & 1, i & 2, i & 4);
        SAY(recv(pair.s, (char[9]){0}, 9, 0));
        SAY(recv(pair.s, (char[9]){0}, 9, MSG_PEEK));
        SAY(recv(pair.s, (char[9]){0}, 9, 0));
        say("%s", polled(pair.s, POLLIN | POLLOUT | POLLRDHUP, 0));
        SAY(send(pair.s, "x", 1, MSG_NOSIGNAL));
        say("%s, SO_ERROR %s", polled(pair.s, POLLIN | POLLOUT | POLLRDHUP, 0),
            strerrorname_np(socket_error(pair.s)));
    }
}

CASE(cut_after_end_write_first, "after the peer's end a cut is EPIPE to who writes, once as an error")
{
    handle(SIGPIPE, 0);
    for (int i = 0; i < 8; i++) {
        cut_after_end(i & 1, i & 2, i & 4);
        say("%s", polled(pair.s, POLLIN | POLLOUT | POLLRDHUP, 0));
        SAY(send(pair.s, "x", 1, 0));
        say("handled %d, %s", (int)handled, polled(pair.s, POLLIN | POLLOUT | POLLRDHUP, 0));
        SAY(recv(pair.s, (char[9]){0}, 9, 0));
        SAY(recv(pair.s, (char[9]){0}, 9, 0));
        say("SO_ERROR %s", strerrorname_np(socket_error(pair.s)));
    }
}

CASE(cut_after_end_asked_first, "after the peer's end SO_ERROR calls a cut EPIPE; an edge tells of it")
{
    for (int i = 0; i < 8; i++) {
        cut_after_end(i & 1, i & 2, i & 4);
        say("SO_ERROR %s", strerrorname_np(socket_error(pair.s)));
        say("SO_ERROR %s", strerrorname_np(socket_error(pair.s)));
        say("%s", polled(pair.s, POLLIN | POLLOUT | POLLRDHUP, 0));
        SAY(recv(pair.s, (char[9]){0}, 9, 0));
        SAY(send(pair.s, "x", 1, MSG_NOSIGNAL));
    }
    struct pair p = pair_here();
    SAY(shutdown(p.c, SHUT_WR));
    int ep = epoll_with(p.s, EPOLLIN | EPOLLRDHUP | EPOLLET, 1);
    say("%s", epolled_soon(ep));
    reset(p.c);
    say("%s", epolled_soon(ep));
}

/* What both ends have ended, or one has cut off, is connected to nobody. */
static void nobody(const char *what, int fd)
{
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    say("%s:", what);
    SAY(getpeername(fd, (struct sockaddr *)&at, &len));
    SAY(shutdown(fd, SHUT_RD));
    SAY(shutdown(fd, SHUT_WR));
    SAY(shutdown(fd, SHUT_RDWR));
    say("%s", polled(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    SAY(send(fd, "x", 1, MSG_NOSIGNAL));
    SAY(recv(fd, (char[9]){0}, 9, 0));
    say("SO_ERROR %s", strerrorname_np(socket_error(fd)));
}

CASE(not_connected_any_more, "shutdown and getpeername after a reset, after both ends, after one")
{
    struct pair p = pair_here();
    reset(p.c);
    polled_soon(p.s, POLLHUP);
    nobody("reset", p.s);
    p = pair_here();
    SAY(close(p.c));
    polled_soon(p.s, POLLRDHUP);
    nobody("closed there", p.s);
    p = pair_here();
    SAY(shutdown(p.s, SHUT_WR));
    SAY(close(p.c));
    polled_soon(p.s, POLLHUP);
    nobody("ended here, closed there", p.s);
    p = pair_here();
    SAY(shutdown(p.s, SHUT_WR));
    polled_soon(p.c, POLLRDHUP);
    SAY(shutdown(p.c, SHUT_WR));
    polled_soon(p.s, POLLHUP);
    nobody("both ended, the first", p.s);
    nobody("both ended, the second", p.c);
    p = pair_here();
    SAY(shutdown(p.c, SHUT_WR));
    polled_soon(p.s, POLLRDHUP);
    reset(p.c);
    polled_soon(p.s, POLLHUP);
    nobody("ended, then reset", p.s);
    p = pair_here();
    SAY(shutdown(p.c, SHUT_RDWR));
    SAY(shutdown(p.c, SHUT_RDWR));
    polled_soon(p.s, POLLRDHUP);
    SAY(send(p.s, "x", 1, MSG_NOSIGNAL));
    polled_soon(p.s, POLLHUP);
    nobody("answered by a reset", p.s);
}

CASE(closed_before_the_first_write,
     "who has connected and not looked since writes to one that was accepted and closed")
{
    struct meeting m = meet_as_client(FRESH);
    (void)far_do(&m.far, "close");
    nap(20);
    SAY(send(m.s, "x", 1, MSG_NOSIGNAL));
    nap(20);
    SAY(send(m.s, "x", 1, MSG_NOSIGNAL));
    SAY(recv(m.s, (char[9]){0}, 9, 0));
}
