/* nested_epoll.c - an epoll set as a member of another set, of poll and of select (epoll(7): it is readable
 * when it has events). */
#include "differ.h"

struct nest {
    struct pair p;
    int inner;
};

static struct nest nest_new(unsigned events)
{
    struct nest n = {.p = pair_in()};
    n.inner = epoll_with(n.p.s, events, 1);
    return n;
}

/* So many bytes one after the other; how often the outer look told one, and how often it told and nothing was
 * there. */
static void serve(struct nest *n, const char *(*outer)(int, int), int arg)
{
    int told = 0, spurious = 0, idle = 0;
    for (int i = 0; i < 5; i++) {
        if (send(n->p.c, "x", 1, 0) != 1)
            say("no send");
        told += strcmp(outer(arg, 1000), "-") != 0;
        spurious += strcmp(epolled(n->inner, 8, 0), "1:IN") != 0;
        if (recv(n->p.s, (char[9]){0}, 9, MSG_DONTWAIT) != 1)
            say("no byte");
        idle += strcmp(epolled(n->inner, 8, 0), "-") != 0;
        idle += strcmp(outer(arg, 0), "-") != 0;
    }
    say("told %d of 5, spurious %d, though idle %d", told, spurious, idle);
}

static const char *outer_epoll(int ep, int ms)
{
    return epolled(ep, 8, ms);
}

static const char *outer_poll(int ep, int ms)
{
    return polled(ep, POLLIN, ms);
}

static const char *outer_select(int ep, int ms)
{
    return selected(ep, "r", ms);
}

CASE(level_in_level, "level inner set in a level outer set")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_epoll, epoll_with(n.inner, EPOLLIN, 9));
}

CASE(level_in_edge, "level inner set, watched by edge")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_epoll, epoll_with(n.inner, EPOLLIN | EPOLLET, 9));
}

CASE(edge_in_level, "edge inner set, watched by level")
{
    struct nest n = nest_new(EPOLLIN | EPOLLET);
    serve(&n, outer_epoll, epoll_with(n.inner, EPOLLIN, 9));
}

CASE(edge_in_edge, "edge inner set, watched by edge")
{
    struct nest n = nest_new(EPOLLIN | EPOLLET);
    serve(&n, outer_epoll, epoll_with(n.inner, EPOLLIN | EPOLLET, 9));
}

CASE(level_in_edge_unread,
     "level inner set, watched by edge: looking at the inner one is no news to the outer one")
{
    struct nest n = nest_new(EPOLLIN);
    int outer = epoll_with(n.inner, EPOLLIN | EPOLLET, 9);
    if (send(n.p.c, "x", 1, 0) != 1)
        say("no send");
    say("outer: %s", epolled(outer, 8, 1000));
    say("inner: %s", epolled(n.inner, 8, 1000));
    say("outer again: %s", epolled(outer, 8, 50));
}

CASE(edge_in_level_shared, "an edge inner set of a connection that a child has too: a wait in vain sleeps")
{
    struct nest n = nest_new(EPOLLIN | EPOLLET);
    int outer = epoll_with(n.inner, EPOLLIN, 9);
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    say("%s", epolled(outer, 8, 600));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    say("CPU %s", (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 200
                      ? "little"
                      : "much");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

CASE(in_poll, "an epoll set in poll")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_poll, n.inner);
}

CASE(in_select, "an epoll set in select")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_select, n.inner);
}

CASE(edge_in_poll, "an edge epoll set in poll")
{
    struct nest n = nest_new(EPOLLIN | EPOLLET);
    serve(&n, outer_poll, n.inner);
}

CASE(three_levels, "a set in a set in a set")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_epoll, epoll_with(epoll_with(n.inner, EPOLLIN, 8), EPOLLIN, 9));
}

CASE(duplicate, "a dup of the inner set in the outer one")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_epoll, epoll_with(dup(n.inner), EPOLLIN, 9));
}

CASE(oneshot_outer, "the outer set watches once")
{
    struct nest n = nest_new(EPOLLIN);
    int outer = epoll_with(n.inner, EPOLLIN | EPOLLONESHOT, 9);
    for (int i = 0; i < 3; i++) {
        SAY(send(n.p.c, "x", 1, 0));
        say("told: %s", epolled(outer, 8, 1000));
        say("again: %s", epolled(outer, 8, 20));
        SAY(epoll_mod(outer, n.inner, EPOLLIN | EPOLLONESHOT, 9));
        say("armed again: %s", epolled(outer, 8, 1000));
        say("inner: %s", epolled(n.inner, 8, 0));
        SAY(recv(n.p.s, (char[9]){0}, 9, MSG_DONTWAIT));
        SAY(epoll_mod(outer, n.inner, EPOLLIN | EPOLLONESHOT, 9));
    }
}

CASE(first_member_later, "the inner set gets its first connection after it was nested")
{
    int inner = epoll_create1(0), outer = epoll_with(inner, EPOLLIN, 9);
    say("empty: %s", epolled(outer, 8, 0));
    struct pair p = pair_here();
    SAY(epoll_add(inner, p.s, EPOLLIN, 1));
    say("idle: %s", epolled(outer, 8, 20));
    SAY(send(p.c, "x", 1, 0));
    say("data: %s", epolled(outer, 8, 1000));
    say("inner: %s", epolled(inner, 8, 0));
    SAY(epoll_del(inner, p.s));
    say("taken out: %s", epolled(outer, 8, 20));
}

CASE(pipe_and_connection, "a pipe and a connection in the same inner set")
{
    struct nest n = nest_new(EPOLLIN);
    int q[2], outer = epoll_with(n.inner, EPOLLIN, 9);
    SAY(pipe(q));
    SAY(epoll_add(n.inner, q[0], EPOLLIN, 2));
    say("idle: %s", epolled(outer, 8, 20));
    SAY(write(q[1], "y", 1));
    say("pipe: %s", epolled(outer, 8, 1000));
    say("inner: %s", epolled(n.inner, 8, 0));
    SAY(send(n.p.c, "x", 1, 0));
    polled_soon(n.p.s, POLLIN);
    say("inner: %s", epolled(n.inner, 8, 0));
    SAY(read(q[0], (char[9]){0}, 9));
    say("connection: %s", epolled(outer, 8, 1000));
    SAY(recv(n.p.s, (char[9]){0}, 9, 0));
    say("idle: %s", epolled(outer, 8, 20));
}

static long wait_in(void *ep)
{
    struct epoll_event event;
    return epoll_wait(*(int *)ep, &event, 1, -1);
}

CASE(blocked_outer, "a thread that waits in the outer set is woken")
{
    struct nest n = nest_new(EPOLLIN);
    int outer = epoll_with(n.inner, EPOLLIN, 9);
    struct side side;
    side_start(&side, wait_in, &outer);
    side_blocked(&side);
    SAY(send(n.p.c, "x", 1, 0));
    say("%s", side_end(&side));
}

CASE(blocked_far, "the outer set wakes for another program's byte")
{
    struct meeting m = meet_as_client(FRESH);
    int inner = epoll_with(m.s, EPOLLIN, 1), outer = epoll_with(inner, EPOLLIN, 9);
    struct side side;
    say("idle: %s", epolled(outer, 8, 0));
    side_start(&side, wait_in, &outer);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "send 1"));
    say("%s", side_end(&side));
    say("inner: %s", epolled(inner, 8, 0));
    say("%ld", take(m.s, 0, 1, MSG_DONTWAIT));
    say("idle: %s", epolled(outer, 8, 20));
}

CASE(inherited, "a child waits in the outer set it has inherited")
{
    struct nest n = nest_new(EPOLLIN);
    int outer = epoll_with(n.inner, EPOLLIN, 9);
    pid_t pid = fork();
    if (pid == 0) {
        say("child: %s", epolled(outer, 8, 2000));
        say("child, inner: %s", epolled(n.inner, 8, 0));
        exit(0);
    }
    asleep(pid);
    if (send(n.p.c, "x", 1, 0) != 1)
        say("no send");
    waitpid(pid, NULL, 0);
    say("parent: %s", epolled(outer, 8, 0));
    say("parent, inner: %s", epolled(n.inner, 8, 0));
}

CASE(loops, "ELOOP for sets in a circle, EINVAL for a set in itself")
{
    int a = epoll_create1(0), b = epoll_create1(0);
    SAY(epoll_add(a, a, EPOLLIN, 1));
    SAY(epoll_add(a, b, EPOLLIN, 1));
    SAY(epoll_add(b, a, EPOLLIN, 1));
}

CASE(nested_before_members, "three levels are made first, the connection comes last")
{
    int inner = epoll_create1(0), middle = epoll_with(inner, EPOLLIN, 8),
        outer = epoll_with(middle, EPOLLIN, 9);
    struct nest n = {.p = pair_here(), .inner = inner};
    SAY(epoll_add(inner, n.p.s, EPOLLIN, 1));
    serve(&n, outer_epoll, outer);
}

CASE(three_levels_edge, "three levels, each by edge")
{
    struct nest n = nest_new(EPOLLIN | EPOLLET);
    int middle = epoll_with(n.inner, EPOLLIN | EPOLLET, 8);
    serve(&n, outer_epoll, epoll_with(middle, EPOLLIN | EPOLLET, 9));
}

CASE(three_levels_poll, "a set in a set in poll")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_poll, epoll_with(n.inner, EPOLLIN, 8));
}

CASE(dup_in_poll, "a dup of the set in poll, another in select")
{
    struct nest n = nest_new(EPOLLIN);
    serve(&n, outer_poll, dup(n.inner));
    serve(&n, outer_select, dup(n.inner));
}

CASE(listener_inside, "a listener in the inner set")
{
    int l = listener(8), inner = epoll_with(l, EPOLLIN, 1), outer = epoll_with(inner, EPOLLIN, 9);
    say("idle: %s", epolled(outer, 8, 20));
    for (int i = 0; i < 2; i++) {
        int c = dial();
        say("%s", epolled(outer, 8, 1000));
        say("%s", epolled(inner, 8, 0));
        say("%d", c >= 0 && accept(l, NULL, NULL) >= 0);
        say("idle: %s", epolled(outer, 8, 20));
    }
    say("poll: %s", polled(inner, POLLIN, 0));
    int c = dial();
    say("poll: %s", polled(inner, POLLIN, 1000));
    say("select: %s, %d", selected(inner, "r", 1000), c >= 0);
}

CASE(listener_inside_fresh, "a listener in the inner set, connected to by a fresh program")
{
    int l = listener(8), inner = epoll_with(l, EPOLLIN, 1), outer = epoll_with(inner, EPOLLIN, 9);
    struct far far = far_new(FRESH);
    set_nonblock(l, 1);
    far_begin(&far, "connect %d", ntohs(differ_at.sin_port));
    say("%s", epolled(outer, 8, 2000));
    say("%s", epolled(inner, 8, 0));
    int s = accept(l, NULL, NULL);
    say("accepted %d, far: %s", s >= 0, far_answer(&far));
    say("idle: %s", epolled(outer, 8, 20));
    SAY(epoll_add(inner, s, EPOLLIN, 2));
    say("far: %s", far_do(&far, "send 1"));
    say("%s", epolled(outer, 8, 1000));
    say("%s", epolled(inner, 8, 0));
    say("%ld", take(s, 0, 1, MSG_DONTWAIT));
    say("idle: %s", epolled(outer, 8, 20));
}

CASE(greeting_in_every_form, "a fresh server's greeting through poll, select and sets of an inner set")
{
    for (int form = 0; form < 4; form++) {
        struct meeting m = meet_as_client(FRESH);
        int inner = epoll_with(m.s, EPOLLIN | (form & 1 ? EPOLLET : 0), 1);
        far_begin(&m.far, "send 100000");
        if (form == 0)
            say("%s", polled(inner, POLLIN, 2000));
        else if (form == 1)
            say("%s", selected(inner, "r", 2000));
        else
            say("%s", epolled(epoll_with(inner, EPOLLIN | (form == 3 ? EPOLLET : 0), 9), 8, 2000));
        say("%s", epolled(inner, 8, 0));
        say("%ld", take(m.s, 0, 1, MSG_DONTWAIT));
        say("%ld, sent %s", take(m.s, 1, 99999, 0), far_answer(&m.far));
    }
}

CASE(outer_has_connection_too, "a connection in the inner set, another in the outer one")
{
    struct nest n = nest_new(EPOLLIN);
    struct pair q = pair_here();
    int outer = epoll_with(n.inner, EPOLLIN, 9);
    SAY(epoll_add(outer, q.s, EPOLLIN, 2));
    say("idle: %s", epolled(outer, 8, 0));
    SAY(send(q.c, "x", 1, 0));
    say("outer's: %s", epolled(outer, 8, 1000));
    SAY(send(n.p.c, "x", 1, 0));
    polled_soon(n.p.s, POLLIN);
    say("both: %s", epolled(outer, 8, 1000));
    SAY(recv(q.s, (char[9]){0}, 9, 0));
    say("inner's: %s", epolled(outer, 8, 1000));
    SAY(epoll_del(n.inner, n.p.s));
    say("none: %s", epolled(outer, 8, 20));
}

CASE(oneshot_inner, "an inner set that watches once")
{
    struct nest n = nest_new(EPOLLIN | EPOLLONESHOT);
    int outer = epoll_with(n.inner, EPOLLIN, 9);
    SAY(send(n.p.c, "x", 1, 0));
    say("%s", epolled(outer, 8, 1000));
    say("%s", epolled(n.inner, 8, 0));
    say("disarmed: %s", epolled(outer, 8, 20));
    SAY(epoll_mod(n.inner, n.p.s, EPOLLIN | EPOLLONESHOT, 1));
    say("armed: %s", epolled(outer, 8, 1000));
}

CASE(out_inside, "an inner set that waits for room")
{
    struct pair p = pair_here();
    int inner = epoll_with(p.c, EPOLLOUT, 1), outer = epoll_with(inner, EPOLLIN, 9);
    say("room: %s", epolled(outer, 8, 1000));
    long all = fill(p.c);
    say("full: %s %s", epolled(inner, 8, 0), epolled(outer, 8, 20));
    say("read: %d", drain(p.s, all) == all);
    say("room: %s", epolled(outer, 8, 1000));
    say("%s", epolled(inner, 8, 0));
}

CASE(end_inside, "the peer's end and reset wake the outer set")
{
    struct meeting m = meet_as_server(FRESH);
    int inner = epoll_with(m.s, EPOLLIN | EPOLLRDHUP, 1), outer = epoll_with(inner, EPOLLIN | EPOLLET, 9);
    say("idle: %s", epolled(outer, 8, 0));
    say("far: %s", far_do(&m.far, "shutdown wr"));
    say("%s", epolled(outer, 8, 1000));
    say("%s", epolled(inner, 8, 0));
    far_kill(&m.far);
    say("%s", polled_soon(m.s, POLLRDHUP));
}

CASE(inner_closed, "the inner set is closed while it is nested")
{
    struct nest n = nest_new(EPOLLIN);
    int outer = epoll_with(n.inner, EPOLLIN, 9);
    SAY(send(n.p.c, "x", 1, 0));
    say("%s", epolled(outer, 8, 1000));
    SAY(close(n.inner));
    say("%s", epolled(outer, 8, 20));
    SAY(recv(n.p.s, (char[9]){0}, 9, 0));
}

CASE(two_outers, "an inner set in two outer sets, one by level, one by edge")
{
    struct nest n = nest_new(EPOLLIN);
    int a = epoll_with(n.inner, EPOLLIN, 8), b = epoll_with(n.inner, EPOLLIN | EPOLLET, 9);
    for (int i = 0; i < 2; i++) {
        SAY(send(n.p.c, "x", 1, 0));
        say("%s", epolled(a, 8, 1000));
        say("%s", epolled(b, 8, 1000));
        say("%s %s", epolled(a, 8, 0), epolled(b, 8, 0));
        SAY(recv(n.p.s, (char[9]){0}, 9, 0));
        say("%s %s", epolled(a, 8, 0), epolled(b, 8, 0));
    }
}

CASE(blocked_poll, "a thread that polls the set is woken, and one that selects it")
{
    struct nest n = nest_new(EPOLLIN);
    struct side side;
    side_start(&side, wait_in, &n.inner);
    side_blocked(&side);
    struct pollfd f = {n.inner, POLLIN, 0};
    say("idle: %d", poll(&f, 1, 20));
    SAY(send(n.p.c, "x", 1, 0));
    say("%s", polled(n.inner, POLLIN, 1000));
    say("%s", side_end(&side));
}

static void edge_over_level(int levels, const char *between)
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    set_nonblock(p.s, 1);
    for (int i = 0; i < levels; i++)
        ep = epoll_with(ep, EPOLLIN | EPOLLET, 2 + i);
    for (int round = 0; round < 5; round++) {
        SAY(send(p.c, "abc", 3, 0));
        say("%s", epolled(ep, 8, 1000));
        if (*between) {
            SAY(send(p.c, between, strlen(between), 0));
            say("again: %s", epolled(ep, 8, 1000));
        }
        say("%ld", drain(p.s, 3 + (long)strlen(between)));
        say("empty: %s", epolled(ep, 8, 0));
    }
}

CASE(edges_outside_of_a_level, "each arrival is an edge of the outer set, whatever the inner one asks for")
{
    for (int levels = 1; levels <= 3; levels++)
        edge_over_level(levels, "");
}

CASE(edges_outside_of_unread_bytes, "also while bytes lie there")
{
    edge_over_level(1, "de");
    edge_over_level(2, "de");
}

/* Where a listener is in a set twice, or in a set and in one inside, one of the two goes or changes. */
static void one_of_two(int nested, int how)
{
    int l = listener(8), other = dup(l), outer = epoll_create1(0), first = outer;
    set_nonblock(l, 1);
    if (nested) {
        first = epoll_create1(0);
        epoll_add(outer, first, EPOLLIN, 9);
    }
    epoll_add(first, l, EPOLLIN, 1);
    epoll_add(outer, other, EPOLLIN, 2);
    int c[3] = {dial(), -1, -1};
    say("%d", SOON(strstr(epolled(outer, 8, 10), "2:IN") != NULL));
    if (how == 0)
        epoll_del(first, l);
    if (how == 1)
        epoll_mod(first, l, EPOLLOUT, 1);
    if (how == 2)
        epoll_mod(first, l, EPOLLIN | EPOLLET | EPOLLONESHOT, 1);
    for (int i = 0; i < 2; i++) {
        while (accept(other, NULL, NULL) >= 0)
            ;
        c[1 + i] = dial();
        say("2 is told: %d", SOON(strstr(epolled(outer, 8, 10), "2:IN") != NULL));
    }
    for (int i = 0; i < 3; i++)
        close(c[i]);
}

CASE(listener_twice,
     "a listener under two numbers in one set: one is taken out, asks for less, fires its one shot")
{
    for (int how = 0; how < 3; how++)
        one_of_two(0, how);
}

CASE(listener_inside_and_outside, "the same, one of them in a set inside")
{
    for (int how = 0; how < 3; how++)
        one_of_two(1, how);
}

CASE(listener_masks_differ, "a set inside asks for OUT, the one around it for IN, of the same listener")
{
    int l = listener(8), other = dup(l), inner = epoll_with(l, EPOLLOUT | EPOLLET, 1);
    int outer = epoll_with(inner, EPOLLIN, 9);
    epoll_add(outer, other, EPOLLIN | EPOLLET, 2);
    say("%s", epolled(outer, 8, 0));
    for (int i = 0; i < 3; i++) {
        say("%d", dial() >= 0);
        say("%s", epolled(outer, 8, 1000));
        say("%s", epolled(outer, 8, 0));
    }
}

static void edges_of_a_listener(int ways)
{
    int l = listener(16), ep = epoll_with(l, EPOLLIN | EPOLLET, 1), outer = epoll_with(ep, EPOLLIN, 2);
    set_nonblock(l, 1);
    for (int i = 0; i < 4; i++) {
        say("dial: %d", dial() >= 0);
        if (ways == 0)
            say("poll: %s", polled_soon(ep, POLLIN));
        if (ways == 1)
            say("select: %s", selected(ep, "r", 1000));
        if (ways == 2)
            say("outer: %s", epolled(outer, 8, 1000));
        say("itself: %s, %s", epolled(ep, 8, 0), epolled(ep, 8, 0));
        say("after: %s", polled(ep, POLLIN, 0));
        if (i == 2)
            say("accepted: %d %d %d", accept(l, NULL, NULL) >= 0, accept(l, NULL, NULL) >= 0,
                accept(l, NULL, NULL) >= 0);
    }
}

CASE(edges_of_a_listener_by_poll, "poll on a set with a listener by edge: each connection is told once")
{
    edges_of_a_listener(0);
}

CASE(edges_of_a_listener_by_select, "the same by select")
{
    edges_of_a_listener(1);
}

CASE(edges_of_a_listener_by_a_set, "the same by a set around it")
{
    edges_of_a_listener(2);
}

static long poll_a_set(void *fd)
{
    struct pollfd f = {*(int *)fd, POLLIN, 0};
    return poll(&f, 1, 3000);
}

CASE(listener_added_under_a_poll,
     "a thread polls an empty set; a listener is put into it, then somebody connects")
{
    int ep = epoll_create1(0), l = listener(8);
    struct side side;
    side_start(&side, poll_a_set, &ep);
    side_blocked(&side);
    epoll_add(ep, l, EPOLLIN, 1);
    say("dial: %d", dial() >= 0);
    say("%s", side_end(&side));
}

static int late_ep, late_fd;

static long adds_late(void *unused)
{
    (void)unused;
    asleep(differ_main_tid);
    return epoll_add(late_ep, late_fd, EPOLLIN, 1);
}

CASE(poll_of_a_connection_and_a_set,
     "the set has its first connection while a thread polls both, the connection first")
{
    struct pair p = pair_here(), q = pair_here();
    struct side side;
    late_ep = epoll_create1(0);
    late_fd = p.s;
    SAY(send(p.c, "x", 1, 0));
    side_start(&side, adds_late, NULL);
    struct pollfd both[2] = {{.fd = q.s, .events = POLLIN}, {.fd = late_ep, .events = POLLIN}};
    SAY(poll(both, 2, 3000));
    say("%s %s", bits((unsigned)both[0].revents), bits((unsigned)both[1].revents));
    say("added: %s", side_end(&side));
}

/* How often the outer set, by edge, tells of an end in the inner one that is always writable: after it was put in,
 * and after a byte has come that it may or may not be watched for. */
static void edges_of(int end, unsigned events)
{
    int inner = epoll_create1(0), outer = epoll_with(inner, EPOLLIN | EPOLLET, 9), l = listener(8);
    struct pair p = {.c = dial(), .s = accept(l, NULL, NULL)};
    int here = end ? p.s : p.c, there = end ? p.c : p.s, first = 0, second = 0;
    epoll_add(inner, here, events, 1);
    for (int i = 0; i < 4; i++)
        first += strcmp(epolled(outer, 8, i ? 20 : 0), "-") != 0;
    SAY(send(there, "x", 1, 0));
    for (int i = 0; i < 4; i++)
        second += strcmp(epolled(outer, 8, 20), "-") != 0;
    say("%s of the %s: %d, %d", bits(events), end ? "acceptor" : "connector", first, second);
}

CASE(edge_of_what_has_moved,
     "an outer set by edge tells of what has come, not of what is said about the connection")
{
    for (int end = 0; end < 2; end++) {
        edges_of(end, EPOLLOUT);
        edges_of(end, EPOLLOUT | EPOLLIN);
        edges_of(end, EPOLLOUT | EPOLLET);
    }
}

CASE(edge_beside_what_is_polled,
     "a poll of a connection and of the outer set is no news to the outer set, by edge")
{
    struct pair p = pair_here(), q = pair_here();
    int in = epoll_create1(0), out = epoll_with(in, EPOLLIN | EPOLLET, 1);
    SAY(shutdown(p.c, SHUT_WR));
    (void)epoll_add(in, p.s, EPOLLIN, 1);
    (void)epoll_add(in, q.s, EPOLLIN | EPOLLOUT, 2);
    SAY(send(q.c, "hello", 5, 0));
    say("%s", epolled(out, 8, 1000));
    struct pollfd polled[] = {{.fd = p.s, .events = POLLIN}, {.fd = out, .events = POLLIN}};
    for (int i = 0; i < 3; i++) {
        SAY(poll(polled, 2, 0));
        say("%x %x", polled[0].revents, polled[1].revents);
    }
    say("%s", epolled(out, 8, 0));
    SAY(send(p.s, "x", 1, 0));
    SAY(send(q.c, "!", 1, 0));
    SAY(poll(polled, 2, 1000));
    say("%x %x", polled[0].revents, polled[1].revents);
    say("%s", epolled(out, 8, 1000));
}

CASE(edge_beside_an_end,
     "an outer set by edge hears of one connection while another one in the set has ended")
{
    for (int polls = 0; polls < 2; polls++) {
        struct pair p = pair_here(), q = pair_here();
        int in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 1);
        (void)epoll_add(in, q.s, EPOLLIN, 2);
        SAY(shutdown(p.c, SHUT_WR));
        say("%s", epolled(out, 8, 1000));
        for (int i = 0; i < 3; i++) {
            SAY(send(q.c, "x", 1, 0));
            struct pollfd polled = {.fd = out, .events = POLLIN};
            if (polls)
                SAY(poll(&polled, 1, 1000));
            say("%s", epolled(out, 8, 1000));
            say("%s", epolled(out, 8, 0));
        }
    }
}

CASE(edges_that_calls_make, "by edge: shutdown and SO_RCVLOWAT of what has ended, bytes for who asks for "
                            "EPOLLPRI, fewer than SO_RCVLOWAT")
{
    struct pair p = pair_here();
    int set = epoll_with(p.s, EPOLLOUT | EPOLLPRI | EPOLLET, 1), in = epoll_with(p.s, EPOLLIN, 2);
    int out = epoll_with(in, EPOLLIN | EPOLLET, 3), four = 4, one = 1;
    say("%s %s", epolled(set, 8, 1000), epolled(out, 8, 0));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &four, sizeof four));
    SAY(send(p.c, "ab", 2, 0));
    (void)usleep(100000);
    say("%s", epolled(set, 8, 0));
    SAY(send(p.c, "cd", 2, 0));
    say("%s", epolled(set, 8, 1000));
    say("%s", epolled(out, 8, 1000));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));
    say("%s", epolled(out, 8, 0));
    SAY(shutdown(p.c, SHUT_WR));
    say("%s", epolled(set, 8, 1000));
    say("%s %s", epolled(out, 8, 1000), epolled(out, 8, 0));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &four, sizeof four));
    say("%s", epolled(set, 8, 0));
    say("%s %s", epolled(out, 8, 0), epolled(out, 8, 0));
    for (int i = 0; i < 2; i++) {
        SAY(shutdown(p.s, SHUT_WR));
        say("%s", epolled(set, 8, 1000));
        say("%s", epolled(out, 8, 0));
    }
}

CASE(no_edge_of_what_has_nothing,
     "by edge: what is put into the inner set, or changed there, and has nothing to tell")
{
    struct pair p = pair_here(), q = pair_here();
    int in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(out, 8, 1000));
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = 3};
    SAY(epoll_ctl(in, EPOLL_CTL_ADD, q.s, &ev));
    say("%s", epolled(out, 8, 0));
    ev.events = EPOLLIN;
    SAY(epoll_ctl(in, EPOLL_CTL_MOD, q.s, &ev));
    say("%s", epolled(out, 8, 0));
    ev.events = EPOLLOUT;
    SAY(epoll_ctl(in, EPOLL_CTL_MOD, q.s, &ev));
    say("%s", epolled(out, 8, 0));
    ev.events = EPOLLIN;
    SAY(epoll_ctl(in, EPOLL_CTL_MOD, q.s, &ev));
    SAY(send(q.c, "y", 1, 0));
    say("%s", epolled(out, 8, 1000));
    say("%s", epolled(out, 8, 0));
}

CASE(no_edge_of_a_spent_shot, "by edge: what comes at a one-shot that has fired in the inner set")
{
    struct pair p = pair_here(), q = pair_here();
    int in = epoll_with(p.s, EPOLLIN | EPOLLONESHOT, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    SAY(epoll_add(in, q.s, EPOLLIN, 3));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(out, 8, 1000));
    say("%s", epolled(in, 8, 1000));
    SAY(send(p.c, "y", 1, 0));
    (void)usleep(50000);
    say("%s", epolled(out, 8, 0));
    SAY(send(q.c, "z", 1, 0));
    say("%s", epolled(out, 8, 1000));
    SAY(send(p.c, "y", 1, 0));
    (void)usleep(50000);
    say("%s", epolled(out, 8, 0));
    SAY(epoll_mod(in, p.s, EPOLLIN | EPOLLONESHOT, 1));
    say("%s", epolled(out, 8, 1000));
}

CASE(level_of_lowat, "fewer bytes than SO_RCVLOWAT are there when a set is asked, and then enough, by level")
{
    for (int one_shot = 0; one_shot < 2; one_shot++) {
        struct pair p = pair_here();
        int in = epoll_with(p.s, EPOLLIN | (one_shot ? EPOLLONESHOT : 0), 1),
            out = epoll_with(in, EPOLLIN, 2), many = 12;
        SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &many, sizeof many));
        SAY(send(p.c, "few", 3, 0));
        say("%s", epolled(in, 8, 0));
        say("%s", epolled(out, 8, 0));
        SAY(send(p.c, "and enough", 10, 0));
        say("%s", epolled(out, 8, 1000));
        say("%s", epolled(in, 8, 1000));
    }
}

CASE(edge_of_lowat_after_a_reset,
     "SO_RCVLOWAT is an edge where a FIN had come before the reset, and none after a reset alone")
{
    for (int fin = 0; fin < 2; fin++) {
        struct pair p = pair_here();
        int set = epoll_with(p.s, EPOLLIN | EPOLLET, 1), four = 4, one = 1;
        SAY(send(p.s, "lost", 4, 0));
        (void)usleep(100000);
        if (fin)
            SAY(shutdown(p.c, SHUT_WR));
        say("%s", epolled(set, 8, fin ? 1000 : 0));
        SAY(close(p.c));
        say("%s", epolled(set, 8, 1000));
        SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &four, sizeof four));
        say("%s", epolled(set, 8, 0));
        say("%s", epolled(set, 8, 0));
        int error = 0;
        socklen_t len = sizeof error;
        SAY(getsockopt(p.s, SOL_SOCKET, SO_ERROR, &error, &len));
        say("%d", error);
        SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));
        say("%s", epolled(set, 8, 0));
    }
    struct pair p = pair_here();
    int set = epoll_with(p.s, EPOLLIN | EPOLLOUT | EPOLLET, 1), one = 1;
    say("%s", epolled(set, 8, 0));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one));
    say("%s", epolled(set, 8, 0));
}

CASE(rdnorm_alone, "an inner set that the outer one asks for EPOLLRDNORM alone")
{
    struct pair p = pair_here();
    int in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLRDNORM, 2);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(in, 8, 1000));
    say("%s", epolled(out, 8, 0));
}
