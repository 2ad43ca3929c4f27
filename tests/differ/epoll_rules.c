/* epoll_rules.c - what epoll_ctl allows, and what of a set ends with what. */
#include "differ.h"

CASE(exists, "EEXIST, ENOENT")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(epoll_add(ep, p.s, EPOLLOUT, 2));
    SAY(epoll_mod(ep, p.c, EPOLLOUT, 2));
    SAY(epoll_del(ep, p.c));
    SAY(epoll_del(ep, p.s));
    SAY(epoll_del(ep, p.s));
    SAY(epoll_mod(ep, p.s, EPOLLIN, 2));
}

CASE(bad_calls, "EBADF, EINVAL, EPERM")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0), file = open("/proc/self/exe", O_RDONLY);
    struct epoll_event event;
    volatile int none = 0, less = -1; /* which the compiler would warn of */
    SAY(epoll_add(ep, 999, EPOLLIN, 1));
    SAY(epoll_add(999, p.s, EPOLLIN, 1));
    SAY(epoll_add(p.c, p.s, EPOLLIN, 1));
    SAY(epoll_op(ep, 99, p.s, EPOLLIN, 1));
    SAY(epoll_add(ep, file, EPOLLIN, 1));
    SAY(epoll_add(ep, ep, EPOLLIN, 1));
    SAY(epoll_wait(ep, &event, none, 0));
    SAY(epoll_wait(ep, &event, less, 0));
    SAY(epoll_wait(p.s, &event, 1, 0));
    SAY(epoll_wait(999, &event, 1, 0));
}

CASE(by_a_dup, "the same connection twice in a set, by its dup")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1), d = dup(p.s);
    SAY(epoll_add(ep, d, EPOLLOUT, 2));
    say("%s", epolled(ep, 8, 1000));
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    say("%s", epolled(ep, 8, 1000));
    SAY(close(d));
    say("dup closed: %s", epolled(ep, 8, 1000));
}

CASE(set_by_a_dup, "a dup of the set gives what the set gives")
{
    struct pair p = pair_here();
    int a = epoll_create1(0), b = dup(a);
    SAY(epoll_add(b, p.s, EPOLLIN, 1));
    say("idle: %s", epolled(a, 8, 0));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(a, 8, 1000));
    say("%s", epolled(b, 8, 1000));
    SAY(epoll_mod(a, p.s, EPOLLOUT, 2));
    say("%s", epolled(b, 8, 1000));
    SAY(close(a));
    say("%s", epolled(b, 8, 1000));
}
