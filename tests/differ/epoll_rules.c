/* epoll_rules.c - what epoll_ctl allows, and what of a set ends with what. */
#include "differ.h"

static long wait_one(void *set)
{
    struct epoll_event event;
    return epoll_wait(*(int *)set, &event, 1, 900);
}

CASE(closed_while_waited, "a set is closed while a thread waits in it: the wait goes on, asleep")
{
    struct pair p = pair_here();
    static int ep;
    struct side side;
    struct timespec before, after;
    ep = epoll_with(p.s, EPOLLIN, 1);
    side_start(&side, wait_one, &ep);
    side_blocked(&side);
    SAY(close(ep));
    SAY(send(p.c, "x", 1, 0));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(300000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    say("%s", side_end(&side));
    say("CPU %s", (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 100
                      ? "little"
                      : "much");
}

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

CASE(exclusive, "EPOLLEXCLUSIVE: not with MOD, not with other bits, not for sets")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0), other = epoll_create1(0);
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE, 1));
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 1));
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP, 1));
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE | EPOLLPRI, 1));
    SAY(epoll_add(ep, other, EPOLLIN | EPOLLEXCLUSIVE, 1));
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, 1));
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP, 1));
    SAY(epoll_mod(ep, p.s, EPOLLIN, 2));
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE, 2));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_del(ep, p.s));
    SAY(epoll_add(ep, p.s, EPOLLIN, 3));
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE, 3));
    say("%s", epolled(ep, 8, 0));
}

CASE(exclusive_listener, "a listener with EPOLLEXCLUSIVE in two sets")
{
    int l = listener(8), a = epoll_create1(0), b = epoll_create1(0);
    SAY(epoll_add(a, l, EPOLLIN | EPOLLEXCLUSIVE, 1));
    SAY(epoll_add(b, l, EPOLLIN | EPOLLEXCLUSIVE, 2));
    SAY(epoll_mod(a, l, EPOLLIN, 1));
    int c = dial();
    say("%s", epolled(a, 8, 1000));
    say("%d", accept(l, NULL, NULL) >= 0 && c >= 0);
    say("%s %s", epolled(a, 8, 0), epolled(b, 8, 0));
}

CASE(descriptor_closed, "a closed descriptor leaves its sets; its number may come in again")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1), was = p.s;
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(close(p.s));
    say("closed: %s", epolled(ep, 8, 20));
    SAY(epoll_del(ep, was));
    SAY(epoll_mod(ep, was, EPOLLIN, 1));
    struct pair q = pair_here();
    if (q.c != was && q.l != was)
        say("the number is not used again");
    SAY(epoll_add(ep, q.s, EPOLLIN, 2));
    SAY(epoll_add(ep, q.c, EPOLLIN, 3));
    SAY(send(q.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
}

CASE(closed_but_dupped, "a closed descriptor stays in its sets while a dup is open")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1), d = dup(p.s), was = p.s;
    SAY(close(p.s));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_del(ep, was));
    say("%s", epolled(ep, 8, 0));
    SAY(close(d));
    say("dup closed: %s", epolled(ep, 8, 20));
}

CASE(set_closed, "a closed set forgets; the connection goes on")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(close(ep));
    SAY(send(p.c, "x", 1, 0));
    int again = epoll_with(p.s, EPOLLIN, 2);
    say("%s", epolled(again, 8, 1000));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    say("%s", epolled(again, 8, 0));
    SAY(epoll_add(ep == again ? 999 : ep, p.c, EPOLLIN, 1));
}

CASE(dup2_over, "dup2 over a member takes it out")
{
    struct pair p = pair_here(), q = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(send(p.c, "x", 1, 0));
    SAY(send(q.c, "x", 1, 0));
    say("%d", dup2(q.s, p.s) == p.s);
    say("%s", epolled(ep, 8, 20));
    SAY(epoll_add(ep, p.s, EPOLLIN, 2));
    say("%s", epolled(ep, 8, 1000));
}

CASE(added_by_child, "a member that a child adds is told in the parent")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(epoll_add(ep, p.s, EPOLLIN, 1) != 0);
    int status = -1;
    waitpid(pid, &status, 0);
    say("child: %d", status);
    say("idle: %s", epolled(ep, 8, 20));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_add(ep, p.s, EPOLLIN, 2));
    SAY(epoll_del(ep, p.s));
    say("taken out: %s", epolled(ep, 8, 20));
}

CASE(before_connect, "a socket that is added before it connects, by level and by edge")
{
    int l = listener(4), c = fresh_socket(), level = epoll_with(c, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1),
        edge = epoll_with(c, EPOLLIN | EPOLLOUT | EPOLLET, 2);
    say("fresh: %s", epolled(level, 8, 0));
    say("fresh: %s", epolled(edge, 8, 0));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("connected: %s", epolled(level, 8, 1000));
    say("connected: %s", epolled(edge, 8, 1000));
    int s = accept(l, NULL, NULL);
    SAY(send(s, "x", 1, 0));
    say("data: %s", epolled(edge, 8, 1000));
    say("data: %s", epolled(level, 8, 0));
}

CASE(listener_added_before_listen, "a socket that is added before it listens")
{
    int l = fresh_socket(), ep = epoll_with(l, EPOLLIN, 1);
    socklen_t len = sizeof differ_at;
    say("fresh: %s", epolled(ep, 8, 0));
    differ_at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SAY(bind(l, (struct sockaddr *)&differ_at, len));
    SAY(getsockname(l, (struct sockaddr *)&differ_at, &len));
    SAY(listen(l, 4));
    say("listening: %s", epolled(ep, 8, 0));
    int c = dial();
    say("connection: %s", epolled(ep, 8, 1000));
    say("%d", c >= 0 && accept(l, NULL, NULL) >= 0);
    say("none: %s", epolled(ep, 8, 0));
}

CASE(del_while_ready, "DEL of a member whose event has not been taken")
{
    struct pair p = pair_here(), q = pair_here();
    int ep = epoll_with(p.s, EPOLLIN | EPOLLET, 1);
    SAY(epoll_add(ep, q.s, EPOLLIN | EPOLLET, 2));
    SAY(send(p.c, "x", 1, 0));
    SAY(send(q.c, "x", 1, 0));
    polled_soon(q.s, POLLIN);
    SAY(epoll_del(ep, p.s));
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLET, 3));
    say("%s", epolled(ep, 8, 1000));
}

CASE(mod_to_other_events, "MOD from IN to OUT and back")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_mod(ep, p.s, EPOLLOUT, 2));
    say("%s", epolled(ep, 8, 0));
    SAY(epoll_mod(ep, p.s, 0, 3));
    say("%s", epolled(ep, 8, 0));
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLOUT, 4));
    say("%s", epolled(ep, 8, 0));
}

CASE(create, "epoll_create and epoll_create1")
{
    volatile int none = 0, less = -1;
    SAY(epoll_create(none));
    SAY(epoll_create(less));
    SAY(epoll_create1(0x77));
    int ep = epoll_create1(EPOLL_CLOEXEC);
    say("%d", fcntl(ep, F_GETFD) == FD_CLOEXEC);
    SAY(read(ep, (char[9]){0}, 9));
    SAY(write(ep, "x", 1));
}

static long wait_for_ever(void *ep)
{
    struct epoll_event event;
    int n = epoll_wait(*(int *)ep, &event, 1, -1);
    return n == 1 ? (long)event.data.u64 : n;
}

CASE(added_while_waited, "a member that another thread adds while a thread waits is told")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    struct side side;
    side_start(&side, wait_for_ever, &ep);
    side_blocked(&side);
    SAY(epoll_add(ep, p.s, EPOLLIN, 7));
    SAY(send(p.c, "x", 1, 0));
    say("%s", side_end(&side));
    side_start(&side, wait_for_ever, &ep);
    say("told again: %s", side_end(&side));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    side_start(&side, wait_for_ever, &ep);
    side_blocked(&side);
    SAY(epoll_mod(ep, p.s, EPOLLOUT, 8));
    say("MOD while waited: %s", side_end(&side));
}

/* ---- one shots of the same data ---- */

CASE(shots_alike, "a listener's one shot has fired; a session with the same data in the same set is told of")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.l, EPOLLIN | EPOLLONESHOT, 7);
    SAY(dial() < 0);
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_add(ep, p.s, EPOLLIN, 7));
    say("idle: %s", epolled(ep, 8, 20));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    say("%s", epolled(ep, 8, 0));
    SAY(accept(p.l, NULL, NULL) < 0);
    SAY(dial() < 0);
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    say("still fired: %s", epolled(ep, 8, 20));
    SAY(epoll_mod(ep, p.l, EPOLLIN | EPOLLONESHOT, 7));
    say("again: %s", epolled(ep, 8, 1000));
    say("once: %s", epolled(ep, 8, 20));
}

CASE(shots_unfired,
     "a session's event is not taken for that of a listener with the same data that has not fired")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.l, EPOLLIN | EPOLLONESHOT, 7);
    SAY(epoll_add(ep, p.s, EPOLLIN | EPOLLET, 7));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(dial() < 0);
    say("%s", epolled(ep, 8, 1000));
    say("%s", epolled(ep, 8, 20));
}

CASE(shots_twins, "two listeners, one shot each, the same data: each fires once")
{
    int a = listener(8), ep = epoll_with(a, EPOLLIN | EPOLLONESHOT, 7);
    SAY(dial() < 0);
    int b = listener(8);
    SAY(epoll_add(ep, b, EPOLLIN | EPOLLONESHOT, 7));
    say("the first: %s", epolled(ep, 8, 1000));
    say("idle: %s", epolled(ep, 8, 20));
    SAY(dial() < 0);
    say("the second: %s", epolled(ep, 8, 1000));
    say("idle: %s", epolled(ep, 8, 20));
    SAY(epoll_mod(ep, a, EPOLLIN | EPOLLONESHOT, 7));
    SAY(epoll_mod(ep, b, EPOLLIN | EPOLLONESHOT, 7));
    say("both: %s", epolled(ep, 8, 1000));
    say("idle: %s", epolled(ep, 8, 20));
}

CASE(shots_of_pipes, "a pipe's events with the data of a listener that has fired its one shot")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.l, EPOLLIN | EPOLLONESHOT, 7), q[2] = {-1, -1};
    SAY(pipe(q));
    SAY(epoll_add(ep, p.s, EPOLLIN, 1));
    SAY(epoll_add(ep, q[0], EPOLLIN, 7));
    SAY(write(q[1], "x", 1));
    say("the pipe: %s", epolled(ep, 8, 1000));
    SAY(read(q[0], (char[9]){0}, 9));
    SAY(dial() < 0);
    say("the listener: %s", epolled(ep, 8, 1000));
    say("idle: %s", epolled(ep, 8, 20));
    SAY(write(q[1], "x", 1));
    say("the pipe: %s", epolled(ep, 8, 1000));
}

CASE(shots_nested, "an inner set's one shot, beside a session with the same data")
{
    struct pair p = pair_here(), o = pair_here();
    int inner = epoll_with(p.s, EPOLLIN, 1), ep = epoll_with(inner, EPOLLIN | EPOLLONESHOT, 7);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    say("%s", epolled(ep, 8, 20));
    SAY(epoll_add(ep, o.s, EPOLLIN, 7));
    SAY(send(o.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(recv(o.s, (char[9]){0}, 9, 0));
    SAY(epoll_mod(ep, inner, EPOLLIN | EPOLLONESHOT, 7));
    say("%s", epolled(ep, 8, 1000));
    say("%s", epolled(ep, 8, 20));
}
