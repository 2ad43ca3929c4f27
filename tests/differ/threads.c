/* threads.c - several threads at one connection, one set, one listener. */
#include "differ.h"

static char text[100];

static long wait_any(void *ep)
{
    struct epoll_event event;
    return epoll_wait(*(int *)ep, &event, 1, 300);
}

static long poll_any(void *fd)
{
    struct pollfd f = {*(int *)fd, POLLIN, 0};
    return poll(&f, 1, 2000);
}

static long accept_any(void *l)
{
    int s = accept(*(int *)l, NULL, NULL);
    return s < 0 ? -1 : 0;
}

/* How many of four threads that wait in one set are told of one arrival. */
static void four_waiters(unsigned events)
{
    struct pair p = pair_here();
    struct side side[4];
    int ep = epoll_with(p.s, events, 1), told = 0;
    for (int i = 0; i < 4; i++)
        side_start(&side[i], wait_any, &ep);
    for (int i = 0; i < 4; i++)
        side_blocked(&side[i]);
    SAY(send(p.c, "x", 1, 0));
    for (int i = 0; i < 4; i++)
        told += strcmp(side_end(&side[i]), "1") == 0;
    say("told: %d", told);
}

CASE(edge_wakes_one, "four threads in one set, by edge: one is told")
{
    four_waiters(EPOLLIN | EPOLLET);
}

CASE(oneshot_wakes_one, "four threads in one set, once: one is told")
{
    four_waiters(EPOLLIN | EPOLLONESHOT);
}

CASE(level_wakes_all, "four threads in one set, by level: all are told while nobody reads")
{
    four_waiters(EPOLLIN);
}

CASE(poll_wakes_all, "four threads in poll: all are told")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side[4];
    for (int i = 0; i < 4; i++)
        side_start(&side[i], poll_any, &m.s);
    for (int i = 0; i < 4; i++)
        side_blocked(&side[i]);
    say("far: %s", far_do(&m.far, "send 1"));
    for (int i = 0; i < 4; i++)
        say("%s", side_end(&side[i]));
}

CASE(acceptors, "four threads in accept: each gets one of four connections")
{
    int l = listener(8), c[4];
    struct side side[4];
    for (int i = 0; i < 4; i++)
        side_start(&side[i], accept_any, &l);
    for (int i = 0; i < 4; i++)
        side_blocked(&side[i]);
    for (int i = 0; i < 4; i++)
        c[i] = dial();
    for (int i = 0; i < 4; i++)
        say("%s, %d", side_end(&side[i]), c[i] >= 0);
}

static long give_part(void *fd)
{
    long n = 0;
    for (int i = 0; i < 100; i++) {
        long one = send(*(int *)fd, text, 100, 0);
        n += one > 0 ? one : 0;
    }
    return n;
}

CASE(writers, "four threads write to one connection: nothing is lost")
{
    struct pair p = pair_here();
    struct side side[4];
    for (int i = 0; i < 4; i++)
        side_start(&side[i], give_part, &p.c);
    say("read %ld", drain(p.s, 40000));
    for (int i = 0; i < 4; i++)
        say("%s", side_end(&side[i]));
    say("%s", polled(p.s, POLLIN, 0));
}

static long read_part(void *fd)
{
    char block[1000];
    long all = 0, n;
    while ((n = recv(*(int *)fd, block, sizeof block, 0)) > 0)
        all += n;
    return n < 0 ? n : all;
}

CASE(readers, "four threads read one connection: together they get all")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side[4];
    long all = 0;
    for (int i = 0; i < 4; i++)
        side_start(&side[i], read_part, &m.s);
    say("far: %s", far_do(&m.far, "send 500000; shutdown wr"));
    for (int i = 0; i < 4; i++)
        all += atol(side_end(&side[i]));
    say("%ld", all);
}

static long poll_two(void *fds)
{
    struct pollfd f[2] = {{((int *)fds)[0], POLLIN, 0}, {((int *)fds)[1], POLLIN, 0}};
    return poll(f, 2, 2000) == 1 ? f[0].revents << 8 | f[1].revents : -1;
}

CASE(sharing_parts, "two threads wait for overlapping sets of connections")
{
    struct pair a = pair_here(), b = pair_here(), c = pair_here();
    int first[2] = {a.s, b.s}, second[2] = {b.s, c.s};
    struct side x, y;
    side_start(&x, poll_two, first);
    side_start(&y, poll_two, second);
    side_blocked(&x);
    side_blocked(&y);
    SAY(send(b.c, "x", 1, 0));
    say("%s", side_end(&x));
    say("%s", side_end(&y));
    side_start(&x, poll_two, first);
    say("%s", side_end(&x));
    SAY(recv(b.s, text, 9, 0));
    side_start(&x, poll_two, first);
    side_start(&y, poll_two, second);
    side_blocked(&x);
    side_blocked(&y);
    SAY(send(c.c, "x", 1, 0));
    say("%s", side_end(&y));
    SAY(send(a.c, "x", 1, 0));
    say("%s", side_end(&x));
}

static long take_one(void *ep)
{
    struct epoll_event event;
    return epoll_wait(*(int *)ep, &event, 1, 2000);
}

CASE(one_each,
     "four threads in a set of four connections that fire once, a byte for each at once: each thread has one")
{
    struct pair p[4];
    struct side side[4];
    int ep = epoll_create1(0), told = 0;
    for (int i = 0; i < 4; i++) {
        p[i] = pair_in();
        epoll_add(ep, p[i].s, EPOLLIN | EPOLLONESHOT, i);
    }
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < 4; i++)
            side_start(&side[i], take_one, &ep);
        for (int i = 0; i < 4; i++)
            side_blocked(&side[i]);
        for (int i = 0; i < 4; i++)
            (void)!send(p[i].c, "x", 1, 0);
        for (int i = 0; i < 4; i++)
            told += strcmp(side_end(&side[i]), "1") == 0;
        for (int i = 0; i < 4; i++) {
            (void)!recv(p[i].s, text, 9, 0);
            epoll_mod(ep, p[i].s, EPOLLIN | EPOLLONESHOT, i);
        }
    }
    say("told: %d", told);
}

static long recv_one(void *fd)
{
    return recv(*(int *)fd, (char[1]){0}, 1, 0);
}

CASE(many_blocked, "ten threads, each blocked in a read of a connection of its own")
{
    static struct meeting m[10];
    struct side side[10];
    for (int i = 0; i < 10; i++)
        m[i] = meet_as_server(i % 2 ? FRESH : FORKED);
    for (int i = 0; i < 10; i++)
        side_start(&side[i], recv_one, &m[i].s);
    for (int i = 0; i < 10; i++)
        side_blocked(&side[i]);
    for (int i = 9; i >= 0; i--) {
        const char *far = far_do(&m[i].far, "send 1");
        const char *end = side_end(&side[i]);
        say("%s, %s", far, end);
    }
}

CASE(connect_elsewhere, "a thread connects while another is blocked in a read")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    side_start(&side, recv_one, &m.s);
    side_blocked(&side);
    struct pair p = pair_here();
    SAY(send(p.c, "x", 1, 0));
    SAY(recv(p.s, text, 9, 0));
    struct meeting n = meet_as_client(FRESH);
    say("far: %s", far_do(&n.far, "send 4"));
    say("%ld", take(n.s, 0, 4, 0));
    say("far: %s", far_do(&m.far, "send 1"));
    say("%s", side_end(&side));
}

CASE(first_words_beside_others,
     "ten times: threads are blocked, a fresh program's first byte is for the last of them")
{
    static struct meeting old[4];
    struct side side[4], last;
    for (int i = 0; i < 4; i++) {
        old[i] = meet_as_server(FRESH);
        side_start(&side[i], recv_one, &old[i].s);
    }
    for (int i = 0; i < 10; i++) {
        struct meeting m = meet_as_server(FRESH);
        side_start(&last, recv_one, &m.s);
        side_blocked(&last);
        const char *far = far_do(&m.far, "send 1"), *end = side_end(&last);
        say("%s, %s", far, end);
        if (strcmp(end, "1") != 0)
            return;
    }
    for (int i = 0; i < 4; i++) {
        const char *far = far_do(&old[i].far, "send 1");
        const char *end = side_end(&side[i]);
        say("%s, %s", far, end);
    }
}

static int edge_listener, edge_set;

static void *accept_edges(void *unused)
{
    (void)unused;
    for (;;) {
        struct epoll_event e;
        if (epoll_wait(edge_set, &e, 1, -1) != 1)
            continue;
        for (int fd; (fd = accept(edge_listener, NULL, NULL)) >= 0; close(fd)) {
            char byte;
            if (recv(fd, &byte, 1, 0) == 1)
                (void)send(fd, &byte, 1, MSG_NOSIGNAL);
        }
    }
    return NULL;
}

static long ask_often(void *unused)
{
    long answered = 0;
    (void)unused;
    for (int i = 0; i < 1500; i++) {
        char byte = 'q';
        int fd = dial();
        set_timeout(fd, SO_RCVTIMEO, 1000);
        answered += send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && recv(fd, &byte, 1, 0) == 1;
        close(fd);
        if (answered <= i)
            break; /* nobody was told */
    }
    return answered;
}

CASE(edges_of_a_listener_to_many,
     "four threads in one set with a listener by edge, each accepts until EAGAIN; two ask 1,500 times")
{
    pthread_t thread;
    struct side sides[2];
    edge_listener = listener(64);
    set_nonblock(edge_listener, 1);
    edge_set = epoll_with(edge_listener, EPOLLIN | EPOLLET, 1);
    for (int i = 0; i < 4; i++)
        pthread_create(&thread, NULL, accept_edges, NULL);
    for (int i = 0; i < 2; i++)
        side_start(&sides[i], ask_often, NULL);
    for (int i = 0; i < 2; i++) {
        SOON(sides[i].done);
        SOON(sides[i].done);
        say("answered %s", side_end(&sides[i]));
    }
}

static int number_of_next, all_accepted;
static long reads_the_number(void *unused)
{
    long odd = 0;
    (void)unused;
    while (!__atomic_load_n(&all_accepted, __ATOMIC_RELAXED)) {
        char byte;
        if (recv(__atomic_load_n(&number_of_next, __ATOMIC_RELAXED), &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 &&
            errno == ENOTCONN)
            odd++;
    }
    return odd;
}

CASE(number_of_accept,
     "a thread reads from the number that accept is about to give: it is not there, or a connection")
{
    struct side side;
    int l = listener(64);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 300; i++)
            (void)dial();
        pause();
        _exit(0);
    }
    number_of_next = accept(l, NULL, NULL) + 1;
    side_start(&side, reads_the_number, NULL);
    for (int i = 1; i < 300; i++) {
        int s = accept(l, NULL, NULL);
        if (s >= 0)
            __atomic_store_n(&number_of_next, s + 1, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&all_accepted, 1, __ATOMIC_RELAXED);
    SOON(side.done);
    say("not connected: %s", atoi(side_end(&side)) < 50 ? "hardly ever" : "often");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}
