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
