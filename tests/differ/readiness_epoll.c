/* readiness_epoll.c - what a set says of its connections: by level, by edge, once; with whom it shares its
 * answers. */
#include "differ.h"

#include <netinet/tcp.h>

static void take_one(int fd)
{
    char byte;
    if (recv(fd, &byte, 1, MSG_DONTWAIT) != 1)
        say("no byte: %s", strerrorname_np(errno));
}

CASE(level, "level: told as long as there is something")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    say("idle: %s", epolled(ep, 8, 0));
    SAY(send(p.c, "xy", 2, 0));
    say("%s", epolled(ep, 8, 1000));
    take_one(p.s);
    say("one left: %s", epolled(ep, 8, 0));
    take_one(p.s);
    say("none: %s", epolled(ep, 8, 0));
}

CASE(edge, "edge: told once for each arrival")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN | EPOLLET, 1);
    SAY(send(p.c, "xy", 2, 0));
    say("%s", epolled(ep, 8, 1000));
    say("again: %s", epolled(ep, 8, 20));
    take_one(p.s);
    say("one left: %s", epolled(ep, 8, 20));
    SAY(send(p.c, "z", 1, 0));
    say("more came: %s", epolled(ep, 8, 1000));
    say("again: %s", epolled(ep, 8, 0));
}

CASE(edge_already_there, "edge: what was there before ADD is told")
{
    struct pair p = pair_here();
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    int ep = epoll_with(p.s, EPOLLIN | EPOLLET, 1);
    say("%s", epolled(ep, 8, 0));
    say("%s", epolled(ep, 8, 0));
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLET, 2));
    say("after MOD: %s", epolled(ep, 8, 0));
    say("%s", epolled(ep, 8, 0));
}

CASE(edge_out, "edge for OUT: at first, and after being full")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.c, EPOLLOUT | EPOLLET, 1);
    say("at first: %s", epolled(ep, 8, 0));
    say("again: %s", epolled(ep, 8, 0));
    long all = fill(p.c);
    while (strcmp(epolled(ep, 8, 0), "-") != 0)
        ;
    say("full: %s", epolled(ep, 8, 20));
    say("read: %d", drain(p.s, all) == all);
    say("room: %s", epolled(ep, 8, 1000));
    say("writable: %ld", (long)send(p.c, "x", 1, MSG_DONTWAIT));
}

CASE(edge_in_and_out, "edge for both: an arrival tells OUT too")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN | EPOLLOUT | EPOLLET, 1);
    say("at first: %s", epolled(ep, 8, 0));
    say("again: %s", epolled(ep, 8, 0));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    say("again: %s", epolled(ep, 8, 0));
}

CASE(edge_end, "edge: the end, and a reset, are told once")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN | EPOLLRDHUP | EPOLLET, 1);
    SAY(shutdown(p.c, SHUT_WR));
    say("%s", epolled(ep, 8, 1000));
    say("again: %s", epolled(ep, 8, 20));
    reset(p.c);
    say("reset: %s", epolled(ep, 8, 1000));
    say("again: %s", epolled(ep, 8, 20));
}

CASE(oneshot, "once, and again after MOD")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN | EPOLLONESHOT, 1);
    SAY(send(p.c, "xy", 2, 0));
    say("%s", epolled(ep, 8, 1000));
    say("disarmed: %s", epolled(ep, 8, 0));
    SAY(send(p.c, "z", 1, 0));
    say("disarmed: %s", epolled(ep, 8, 20));
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLONESHOT, 2));
    say("armed: %s", epolled(ep, 8, 0));
    reset(p.c);
    say("disarmed, reset: %s", epolled(ep, 8, 20));
    SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLONESHOT, 3));
    say("armed: %s", epolled(ep, 8, 1000));
}

CASE(oneshot_edge, "once and by edge")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN | EPOLLONESHOT | EPOLLET, 1);
    for (int i = 0; i < 3; i++) {
        SAY(send(p.c, "x", 1, 0));
        say("%s", epolled(ep, 8, 1000));
        say("disarmed: %s", epolled(ep, 8, 0));
        SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLONESHOT | EPOLLET, 1));
        say("armed: %s", epolled(ep, 8, 0));
        take_one(p.s);
        SAY(epoll_mod(ep, p.s, EPOLLIN | EPOLLONESHOT | EPOLLET, 1));
        say("nothing there: %s", epolled(ep, 8, 0));
    }
}

CASE(nothing_wanted, "events 0: only HUP and ERR are told")
{
    struct pair p = pair_here(), q = pair_here();
    int ep = epoll_with(p.s, 0, 1);
    SAY(epoll_add(ep, q.s, 0, 2));
    SAY(send(p.c, "x", 1, 0));
    say("data: %s", epolled(ep, 8, 20));
    SAY(shutdown(p.c, SHUT_WR));
    say("half closed: %s", epolled(ep, 8, 20));
    SAY(shutdown(p.s, SHUT_WR));
    say("closed both ways: %s", epolled(ep, 8, 1000));
    SAY(epoll_del(ep, p.s));
    reset(q.c);
    say("reset: %s", epolled(ep, 8, 1000));
}

CASE(normal_and_band, "RDNORM, RDBAND, WRNORM, WRBAND, PRI, MSG")
{
    struct pair p = pair_here();
    unsigned all = EPOLLRDNORM | EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND | EPOLLPRI | EPOLLMSG;
    int ep = epoll_with(p.s, all, 1), normal = epoll_with(p.s, EPOLLRDNORM, 2),
        band = epoll_with(p.s, EPOLLRDBAND, 3);
    say("idle: %s", epolled(ep, 8, 0));
    SAY(send(p.c, "x", 1, 0));
    say("RDNORM: %s", epolled(normal, 8, 1000));
    say("all: %s", epolled(ep, 8, 0));
    say("RDBAND: %s", epolled(band, 8, 20));
}

CASE(hangups, "what each order of ends tells")
{
    unsigned all = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    for (int order = 0; order < 6; order++) {
        struct pair p = pair_here();
        int ep = epoll_with(p.s, all, order);
        if (order == 0 || order == 2)
            shutdown(p.c, SHUT_WR);
        if (order == 1 || order == 2)
            shutdown(p.s, SHUT_WR);
        if (order == 3)
            close(p.c);
        if (order == 4)
            reset(p.c);
        if (order == 5) {
            shutdown(p.c, SHUT_WR);
            shutdown(p.s, SHUT_RDWR);
        }
        polled_soon(p.s, order == 4 ? POLLERR : order == 1 ? POLLOUT : POLLRDHUP);
        if (order == 2 || order == 5)
            polled_soon(p.s, POLLHUP);
        say("%s", epolled(ep, 8, 0));
    }
}

CASE(pwait_mask, "epoll_pwait with a mask that lets a pending signal in")
{
    struct pair p = pair_here();
    struct epoll_event event;
    int ep = epoll_with(p.s, EPOLLIN, 1);
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    handle(SIGUSR1, 0);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    kill(getpid(), SIGUSR1);
    SAY(epoll_pwait(ep, &event, 1, 0, &all));
    say("handled %d", (int)handled);
    SAY(epoll_pwait(ep, &event, 1, 1000, &none));
    say("handled %d", (int)handled);
    SAY(epoll_pwait(ep, &event, 1, 0, &none));
    SAY(send(p.c, "x", 1, 0));
    SAY(epoll_pwait(ep, &event, 1, 1000, &none));
    say("handled %d", (int)handled);
}

CASE(pwait2, "epoll_pwait2: timeouts and errors")
{
    struct pair p = pair_here();
    struct epoll_event event;
    struct timespec zero = {0, 0}, some = {0, 20000000}, bad = {0, -1};
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(epoll_pwait2(ep, &event, 1, &zero, NULL));
    SAY(epoll_pwait2(ep, &event, 1, &some, NULL));
    SAY(epoll_pwait2(ep, &event, 1, &bad, NULL));
    SAY(send(p.c, "x", 1, 0));
    SAY(epoll_pwait2(ep, &event, 1, NULL, NULL));
    say("%s", bits(event.events));
}

CASE(one_at_a_time, "maxevents 1: no connection and no pipe starves")
{
    struct pair p[3] = {pair_here(), pair_here(), pair_here()};
    int q[2][2], ep = epoll_create1(0), told[5] = {0};
    for (int i = 0; i < 3; i++) {
        epoll_add(ep, p[i].s, EPOLLIN, i);
        if (send(p[i].c, "x", 1, 0) != 1)
            say("no send");
        polled_soon(p[i].s, POLLIN);
    }
    for (int i = 0; i < 2; i++) {
        if (pipe(q[i]) != 0 || write(q[i][1], "y", 1) != 1)
            say("no pipe");
        epoll_add(ep, q[i][0], EPOLLIN, 3 + i);
    }
    for (int i = 0; i < 20; i++) {
        struct epoll_event event;
        if (epoll_wait(ep, &event, 1, 1000) == 1)
            told[event.data.u64]++;
    }
    for (int i = 0; i < 5; i++)
        say("member %d told: %s", i, told[i] ? "yes" : "NEVER");
    say("all at once: %s", epolled(ep, 8, 0));
}

CASE(many, "a hundred connections, ten events at a time, each is told")
{
    int ep = epoll_create1(0), seen[100] = {0}, all = 0;
    struct pair p[100];
    for (int i = 0; i < 100; i++) {
        p[i] = pair_here();
        epoll_add(ep, p[i].s, EPOLLIN, i);
        if (send(p[i].c, "x", 1, 0) != 1)
            say("no send");
    }
    for (int turn = 0; turn < 200 && all < 100; turn++) {
        struct epoll_event events[10];
        int n = epoll_wait(ep, events, 10, 1000);
        for (int i = 0; i < n; i++) {
            int which = (int)events[i].data.u64;
            all += !seen[which];
            seen[which] = 1;
            take_one(p[which].s);
        }
    }
    say("%d told; then %s", all, epolled(ep, 10, 0));
}

CASE(two_sets, "a connection in two sets, one by level, one by edge")
{
    struct pair p = pair_here();
    int a = epoll_with(p.s, EPOLLIN, 1), b = epoll_with(p.s, EPOLLIN | EPOLLET, 2);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(a, 8, 1000));
    say("%s", epolled(b, 8, 1000));
    say("%s %s", epolled(a, 8, 0), epolled(b, 8, 0));
    SAY(epoll_del(a, p.s));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(b, 8, 1000));
    say("%s", epolled(a, 8, 0));
}

CASE(both_ends, "both ends of a connection in one set")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(epoll_add(ep, p.c, EPOLLIN, 2));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    SAY(send(p.s, "y", 1, 0));
    polled_soon(p.c, POLLIN);
    say("%s", epolled(ep, 8, 1000));
    take_one(p.s);
    say("%s", epolled(ep, 8, 0));
}

CASE(with_timer_and_pipe, "a pipe that becomes ready while a set of connections is waited for")
{
    struct meeting m = meet_as_server(FRESH);
    int q[2], ep = epoll_with(m.s, EPOLLIN, 1);
    SAY(pipe(q));
    SAY(epoll_add(ep, q[0], EPOLLIN, 2));
    say("idle: %s", epolled(ep, 8, 20));
    if (fork() == 0) {
        asleep(differ_main_tid);
        _exit(write(q[1], "y", 1) != 1);
    }
    say("pipe: %s", epolled(ep, 8, 2000));
    say("far: %s", far_do(&m.far, "send 1"));
    polled_soon(m.s, POLLIN);
    say("both: %s", epolled(ep, 8, 2000));
}

CASE(listener_beside_a_busy_pipe,
     "a pipe is ready in every wait: each connection is told at once, by level and by edge")
{
    for (int edge = 0; edge < 2; edge++) {
        int l = listener(16), q[2] = {-1, -1};
        SAY(pipe(q));
        close(q[0]);
        int set = epoll_with(q[1], EPOLLOUT, 1);
        SAY(epoll_op(set, EPOLL_CTL_ADD, l, edge ? EPOLLIN | EPOLLET : EPOLLIN, 2));
        for (int i = 0; i < 10; i++) {
            int c = dial();
            say("%s", epolled(set, 4, i % 2 ? 0 : 200));
            if (i % 3 == 2)
                close(accept(l, NULL, NULL));
            close(c);
        }
        close(l);
        close(set);
    }
}

static void added_when_full(unsigned how)
{
    struct pair p = pair_here();
    long n = fill(p.c);
    int ep = epoll_with(p.c, EPOLLOUT | how, 1);
    say("%s", epolled(ep, 8, 0));
    say("%s", drain(p.s, n) == n ? "all" : "NOT ALL");
    say("%s", epolled(ep, 8, 2000));
}

CASE(added_when_full_edge, "edge: room in one that was full when it was added is an event")
{
    added_when_full(EPOLLET);
}

CASE(added_when_full_edge_in, "edge: the same of one that is watched for bytes, too")
{
    added_when_full(EPOLLET | EPOLLIN);
}

CASE(added_when_full_once, "edge and one shot: the same")
{
    added_when_full(EPOLLET | EPOLLONESHOT);
}

CASE(added_when_full_level, "level: the same")
{
    added_when_full(0);
}

CASE(filled_before_they_meet,
     "a client sends until there is no room, and only then waits for some; the server reads later")
{
    struct far far = far_new(FRESH);
    int s = dial_port(atoi(far_do(&far, "listen")));
    far_begin(&far, "accept;sleep 100;drain 4000000");
    nap(30);
    long n = fill(s);
    int ep = epoll_with(s, EPOLLOUT, 1);
    say("%s, then %s", n > 0 ? "full" : "NOT FULL", epolled(ep, 8, 3000));
    close(s);
}

CASE(readable_never_eagain, "edge: each event is followed by data, in bursts of a fresh program")
{
    struct meeting m = meet_as_client(FRESH);
    int ep = epoll_with(m.s, EPOLLIN | EPOLLET, 1);
    long at = 0, empty = 0, size = 2000000;
    set_nonblock(m.s, 1);
    far_begin(&m.far, "send 1; send 5000; send 200000; send %ld", size - 205001);
    while (at < size && strcmp(epolled(ep, 8, 1000), "1:IN") == 0) {
        long n = take(m.s, at, size - at, 0);
        empty += n <= 0 && at == 0; /* the first event has something for sure */
        at += n > 0 ? n : 0;
    }
    say("%ld bytes, first event false %ld, sent %s", at, empty, far_answer(&m.far));
}

static void end_alone(unsigned how, int before)
{
    struct pair p = pair_in();
    int ep = epoll_create1(0);
    if (!before)
        epoll_add(ep, p.s, EPOLLRDHUP | how, 1);
    SAY(send(p.c, "unread", 6, 0));
    polled_soon(p.s, POLLIN);
    if (before)
        epoll_add(ep, p.s, EPOLLRDHUP | how, 1);
    say("%s", epolled(ep, 8, 0));
    SAY(shutdown(p.c, SHUT_WR));
    say("%s", epolled(ep, 8, 1000));
}

CASE(end_behind_unread_bytes, "who asks for RDHUP alone hears of it, though bytes lie there unread")
{
    end_alone(0, 0);
    end_alone(0, 1);
    end_alone(EPOLLONESHOT, 0);
    end_alone(EPOLLET, 0);
}

/* What comes: bytes, room, an end. */
static void edges_of(unsigned events)
{
    struct pair p = pair_in();
    int ep = epoll_with(p.s, events | EPOLLET, 1), on = 1;
    set_nonblock(p.s, 1);
    SAY(setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    say("%s", epolled(ep, 8, 20));
    for (int i = 0; i < 3; i++) {
        SAY(send(p.c, "x", 1, 0));
        polled_soon(p.s, POLLIN);
        say("bytes: %s", epolled(ep, 8, 20));
        say("again: %s", epolled(ep, 8, 0));
    }
    SAY(send(p.s, "y", 1, 0));
    say("sent: %s", epolled(ep, 8, 20));
    SAY(shutdown(p.c, SHUT_WR));
    say("end: %s", epolled(ep, 8, 1000));
    say("again: %s", epolled(ep, 8, 0));
}

CASE(edges_are_of_what_is_asked_for,
     "bytes are no edge for who asks for room alone, nor room for who asks for bytes")
{
    edges_of(EPOLLOUT);
    edges_of(EPOLLIN);
    edges_of(EPOLLRDHUP);
    edges_of(EPOLLRDNORM);
    edges_of(EPOLLWRNORM | EPOLLRDHUP);
    edges_of(EPOLLIN | EPOLLOUT);
}
