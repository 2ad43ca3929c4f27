/* lowat.c - SO_RCVLOWAT: readable, and a blocking read returns, from so many bytes on (socket(7)). */
#include "differ.h"

static char text[100];

CASE(read_back, "what is set is given back; 0 is 1")
{
    struct pair p = pair_here();
    int value = -1;
    socklen_t len = sizeof value;
    SAY(getsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &value, &len));
    say("%d", value);
    SAY(set_option(p.s, SO_RCVLOWAT, 40));
    SAY(getsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &value, &len));
    say("%d", value);
    SAY(set_option(p.s, SO_RCVLOWAT, 0));
    SAY(getsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &value, &len));
    say("%d", value);
    SAY(set_option(p.s, SO_SNDLOWAT, 10));
}

CASE(poll, "poll and select wait for so many")
{
    struct pair p = pair_here();
    SAY(set_option(p.s, SO_RCVLOWAT, 4));
    SAY(send(p.c, "ab", 2, 0));
    say("arrived: %d", SOON(unread(p.s) == 2));
    say("two: %s %s", polled(p.s, POLLIN, 20), selected(p.s, "r", 0));
    SAY(send(p.c, "cd", 2, 0));
    say("four: %s %s", polled_soon(p.s, POLLIN), selected(p.s, "r", 0));
    SAY(recv(p.s, text, 1, 0));
    say("three: %s", polled(p.s, POLLIN, 20));
}

CASE(epoll, "a set waits for so many, by level and by edge")
{
    struct pair p = pair_here();
    int level = epoll_with(p.s, EPOLLIN, 1), edge = epoll_with(p.s, EPOLLIN | EPOLLET, 2);
    SAY(set_option(p.s, SO_RCVLOWAT, 4));
    SAY(send(p.c, "ab", 2, 0));
    say("two: %s %s", epolled(level, 8, 20), epolled(edge, 8, 0));
    SAY(send(p.c, "cd", 2, 0));
    say("four: %s", epolled(level, 8, 1000));
    say("four: %s", epolled(edge, 8, 1000));
}

CASE(recv, "a blocking read waits for so many and takes all")
{
    struct meeting m = meet_as_server(FRESH);
    SAY(set_option(m.s, SO_RCVLOWAT, 4));
    /* the second part is enough by itself: the kernel's own reader sleeps on after 2 and 2 */
    far_begin(&m.far, "send 2; sleep 30; send 5");
    SAY(recv(m.s, text, 10, 0));
}

CASE(recv_less_asked, "a read of less than that does not wait for it")
{
    struct pair p = pair_here();
    SAY(set_option(p.s, SO_RCVLOWAT, 10));
    SAY(send(p.c, "abc", 3, 0));
    SAY(recv(p.s, text, 2, 0));
    SAY(recv(p.s, text, 9, MSG_DONTWAIT));
}

CASE(end, "the end counts as readable")
{
    struct pair p = pair_here();
    SAY(set_option(p.s, SO_RCVLOWAT, 10));
    SAY(send(p.c, "abc", 3, 0));
    SAY(shutdown(p.c, SHUT_WR));
    say("%s", polled_soon(p.s, POLLIN | POLLRDHUP));
    SAY(recv(p.s, text, 20, 0));
    SAY(recv(p.s, text, 20, 0));
}

CASE(timeout, "SO_RCVTIMEO gives what is there")
{
    struct pair p = pair_here();
    SAY(set_option(p.s, SO_RCVLOWAT, 10));
    SAY(set_timeout(p.s, SO_RCVTIMEO, 40));
    SAY(send(p.c, "abc", 3, 0));
    SAY(recv(p.s, text, 20, 0));
    SAY(recv(p.s, text, 20, 0));
}

CASE(lowered, "readable as soon as it is lowered")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(set_option(p.s, SO_RCVLOWAT, 10));
    SAY(send(p.c, "abc", 3, 0));
    say("arrived: %d", SOON(unread(p.s) == 3));
    say("%s", epolled(ep, 8, 20));
    SAY(set_option(p.s, SO_RCVLOWAT, 1));
    say("%s", polled(p.s, POLLIN, 0));
    say("%s", epolled(ep, 8, 0));
}

static void lowered(unsigned how, int from)
{
    struct pair p = pair_here();
    if (from == 1000)
        SAY(set_option(p.s, SO_RCVLOWAT, 1000));
    int ep = epoll_with(p.s, EPOLLIN | how, 1);
    SAY(send(p.c, "hundred", 7, 0));
    say("there: %s", epolled(ep, 4, 100));
    SAY(set_option(p.s, SO_RCVLOWAT, 1));
    say("lowered: %s", epolled(ep, 4, 1000));
    say("then: %s", epolled(ep, 4, 20));
}

CASE(lowered_is_an_edge, "the bytes that are there are enough now, and are told of, also who was told before")
{
    lowered(EPOLLET, 1000);
    lowered(EPOLLET, 1);
    lowered(EPOLLONESHOT, 1000);
}
