/* first_meeting.c - two programs that have never met: what the first sends is seen by the other in every way
 * of looking.
 *
 * The far side is a program of its own, started by exec, so that nothing of either's memory is known to the
 * other. Each way of looking has a case for each size of the first data, since what does not fit in the first
 * piece of memory comes in another.
 */
#include "differ.h"

typedef const char *look_fn(int s);

static const char *by_poll0(int s)
{
    return polled_soon(s, POLLIN);
}

static const char *by_poll_in_out(int s)
{
    struct pollfd p = {s, POLLIN | POLLOUT, 0};
    return SOON(poll(&p, 1, 1000) == 1 && (p.revents & POLLIN)) ? "seen" : "NOT SEEN";
}

static const char *by_poll_beside_pipe(int s)
{
    int q[2];
    if (pipe(q) != 0 || write(q[1], "y", 1) != 1)
        return "no pipe";
    struct pollfd f[2] = {{s, POLLIN, 0}, {q[0], POLLIN, 0}};
    return SOON(poll(f, 2, 1000) == 2) ? "seen" : "NOT SEEN";
}

static const char *by_poll_wait(int s)
{
    return polled(s, POLLIN, 2000);
}

static const char *by_select0(int s)
{
    return selected_soon(s, "r");
}

static const char *by_select_read_write(int s)
{
    return selected_soon(s, "rw");
}

static const char *by_epoll0(int s)
{
    return epolled_soon(epoll_with(s, EPOLLIN, 1));
}

static const char *by_epoll_in_out(int s)
{
    int ep = epoll_with(s, EPOLLIN | EPOLLOUT, 1);
    return SOON(strcmp(epolled(ep, 8, 1000), "1:IN|OUT") == 0) ? "seen" : "NOT SEEN";
}

static const char *by_epoll_edge(int s)
{
    return epolled(epoll_with(s, EPOLLIN | EPOLLET, 1), 8, 2000);
}

static const char *by_fionread(int s)
{
    return SOON(unread(s) > 0) ? "seen" : "NOT SEEN";
}

static const char *by_recv(int s)
{
    char byte;
    return SOON(recv(s, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 1) ? "seen" : "NOT SEEN";
}

/* The far server greets at once, and this client looks. Afterwards a read does not say EAGAIN, and every byte
 * comes. */
static void greet(look_fn *look, long size)
{
    struct meeting m = meet_as_client(FRESH);
    far_begin(&m.far, "send %ld", size);
    say("look: %s", look(m.s));
    say("read at once: %ld", take(m.s, 0, 1, MSG_DONTWAIT));
    say("the rest: %d", take(m.s, 1, size - 1, 0) == size - 1);
    say("sent: %s", far_answer(&m.far));
}

#define GREETING(way, size, text)                                                                            \
    CASE(way##_##size, "a fresh server's first " text ", seen by the client: " #way)                         \
    {                                                                                                        \
        greet(by_##way, size);                                                                               \
    }
#define GREETINGS(way)                                                                                       \
    GREETING(way, 1, "byte")                                                                                 \
    GREETING(way, 100000, "100 KB")                                                                          \
    GREETING(way, 300000, "300 KB")                                                                          \
    GREETING(way, 3000000, "3 MB")

GREETINGS(poll0)
GREETINGS(poll_in_out)
GREETINGS(poll_beside_pipe)
GREETING(poll_wait, 1000000, "MB")
GREETINGS(select0)
GREETINGS(select_read_write)
GREETINGS(epoll0)
GREETING(epoll_in_out, 1, "byte")
GREETING(epoll_in_out, 1000000, "MB")
GREETING(epoll_edge, 1, "byte")
GREETING(epoll_edge, 1000000, "MB")
GREETING(fionread, 1, "byte")
GREETING(fionread, 1000000, "MB")
GREETING(recv, 1000000, "MB")

CASE(request_seen_by_server, "a fresh client's first byte, seen by poll and select with timeout 0")
{
    struct meeting m = meet_as_server(FRESH);
    say("far: %s", far_do(&m.far, "send 1"));
    say("poll: %s", polled_soon(m.s, POLLIN | POLLOUT));
    say("select: %s", selected_soon(m.s, "rw"));
    say("%ld", take(m.s, 0, 1, MSG_DONTWAIT));
}

CASE(first_reset, "a fresh peer's RST, seen by SO_ERROR")
{
    struct meeting m = meet_as_client(FRESH);
    say("far: %s", far_do(&m.far, "rst"));
    int error = 0;
    say("seen: %d", SOON((error = socket_error(m.s)) != 0));
    say("%s", strerrorname_np(error));
    SAY(send(m.s, "x", 1, MSG_NOSIGNAL));
}

CASE(first_end, "a fresh peer that says nothing and closes")
{
    struct meeting m = meet_as_client(FRESH);
    say("far: %s", far_do(&m.far, "close"));
    say("%s", polled_soon(m.s, POLLIN | POLLRDHUP));
    SAY(recv(m.s, (char[9]){0}, 9, MSG_DONTWAIT));
}

CASE(in_mid_stream, "bursts that grow, looked for with poll 0, read without waiting")
{
    struct meeting m = meet_as_client(FRESH);
    long at = 0;
    for (long size = 1; size <= 2000000; size *= 8) {
        far_begin(&m.far, "send %ld", size);
        long false_ready = 0, got = 0;
        while (got < size) {
            if (!strstr(polled_soon(m.s, POLLIN), "IN"))
                break;
            long n = take(m.s, at, 1, MSG_DONTWAIT);
            if (n == 1)
                n += take(m.s, at + 1, 65536 < size - got - 1 ? 65536 : size - got - 1, MSG_DONTWAIT);
            else
                false_ready++;
            n = n < 0 ? 0 : n;
            at += n;
            got += n;
        }
        say("%ld of %ld, EAGAIN after readable %ld, sent %s", got, size, false_ready, far_answer(&m.far));
    }
}

CASE(one_who_has_much_under_way,
     "edge: a process that has just accepted, and does nothing else, is heard by one whose "
     "memory has grown")
{
    int l = listener(16);
    struct sockaddr_in at = differ_at;
    if (kin()) {
        int s = accept(l, NULL, NULL);
        nap(50); /* the other has been told, and sleeps again */
        (void)send(s, "x", 1, 0);
        stay();
    }
    for (int i = 0; i < 8; i++) {
        struct pair p = pair_here();
        if (fill(p.c) <= 0)
            say("nothing goes in");
    }
    theirs_begins();
    differ_at = at;
    int c = dial(), ep = epoll_with(c, EPOLLIN | EPOLLOUT | EPOLLET, 1);
    say("%s", epolled(ep, 8, 1000));
    say("%s", epolled(ep, 8, 3000));
}
