/* nested_edges.c - sets that watch other sets by edge: what is an event for the outer one (epoll(7)).
 *
 * The last cases do random things from a fixed seed; SEED and STEPS in the environment try others:
 *     SEED=77 build/tests/differ/differ nested_edges.random_level */
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <time.h>

#include "differ.h"

static void tell(const char *what, int ep)
{
    say("%s: %s", what, epolled(ep, 8, 0));
}

static void settle(void)
{
    nap(3);
}

CASE(listener_inside, "each connection that comes to a listener in the inner set is one edge outside")
{
    for (int edge = 0; edge < 2; edge++) {
        int l = listener(8), in = epoll_with(l, EPOLLIN | (edge ? EPOLLET : 0), 1);
        int out = epoll_with(in, EPOLLIN | EPOLLET, 2);
        set_nonblock(l, 1);
        for (int i = 0; i < 3; i++) {
            SAY(dial() >= 0);
            say("outer: %s", epolled(out, 8, 1000));
            tell("again", out);
            tell("again", out);
            if (i == 1)
                say("accepted: %d", accept(l, NULL, NULL) >= 0);
            tell("inner", in);
            tell("outer", out);
            tell("inner", in);
            tell("outer", out);
        }
    }
}

CASE(listener_nested_late,
     "the same for a set that goes into the outer one when connections have come already")
{
    int l = listener(8), in = epoll_with(l, EPOLLIN, 1), first = dial();
    say("inner: %s", epolled(in, 8, 1000));
    int out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    tell("outer", out);
    tell("again", out);
    int second = dial();
    say("outer: %s", epolled(out, 8, 1000));
    tell("again", out);
    say("%d", first >= 0 && second >= 0);
}

/* What makes the edge is gone, or asks for something else, before anybody looks; the other is ready by level still. */
static void gone_unseen(int how)
{
    struct pair p = pair_here(), q = pair_here();
    int in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    epoll_add(in, q.s, EPOLLIN, 3);
    SAY(send(q.c, "x", 1, 0));
    say("outer: %s", epolled(out, 8, 1000));
    tell("outer", out);
    SAY(send(p.c, "x", 1, 0));
    settle();
    if (how == 0)
        SAY(close(p.s));
    if (how == 1)
        SAY(epoll_del(in, p.s));
    if (how == 2)
        SAY(epoll_mod(in, p.s, EPOLLOUT | EPOLLONESHOT, 1));
    if (how == 3)
        SAY(epoll_mod(in, p.s, 0, 1));
    if (how == 4)
        SAY(recv(p.s, (char[9]){0}, 9, 0));
    tell("outer", out);
    tell("outer", out);
}

CASE(edge_of_one_that_is_closed, "the connection that makes an edge outside is closed before anybody looks")
{
    gone_unseen(0);
}

CASE(edge_of_one_that_is_taken_out, "it is taken out of the inner set")
{
    gone_unseen(1);
}

CASE(edge_of_one_that_is_changed, "it asks for something else, or for nothing")
{
    gone_unseen(2);
    gone_unseen(3);
}

CASE(edge_of_one_that_is_read, "its bytes are read")
{
    gone_unseen(4);
}

CASE(no_edge_of_a_spent_shot, "a one-shot that has fired inside makes no edge, also while another is ready")
{
    struct pair p = pair_here(), q = pair_here();
    int in = epoll_with(p.s, EPOLLIN | EPOLLONESHOT, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    SAY(epoll_add(in, q.s, EPOLLIN, 3));
    SAY(send(p.c, "x", 1, 0));
    SAY(send(q.c, "x", 1, 0));
    say("outer: %s", epolled(out, 8, 1000));
    say("inner: %s", epolled(in, 8, 1000));
    SAY(send(p.c, "y", 1, 0));
    settle();
    tell("outer", out);
    SAY(epoll_mod(in, p.s, EPOLLIN | EPOLLONESHOT, 1));
    tell("outer", out);
    tell("outer", out);
}

static long wait_once(void *ep)
{
    return strcmp(epolled(*(int *)ep, 8, 1500), "-") != 0;
}

/* `early`: they lie in each other before the innermost has anything. */
static void five(int early, int ops)
{
    struct pair p = pair_here();
    int sets[6], l = listener(8), ends[2], made = 0;
    SAY(pipe2(ends, O_NONBLOCK));
    for (int i = 0; i < 6; i++)
        sets[i] = epoll_create1(0);
    epoll_add(sets[0], l, EPOLLIN, 1);
    for (int i = 3; early && i >= 0; i--)
        made += epoll_add(sets[i], sets[i + 1], EPOLLIN | ops, 10 + i) == 0;
    say("idle: %s", epolled(sets[0], 8, 20));
    for (int i = 3; !early && i >= 0; i--)
        made += epoll_add(sets[i], sets[i + 1], EPOLLIN | ops, 10 + i) == 0;
    say("made: %d", made);
    epoll_add(sets[4], p.s, EPOLLIN, 2);
    epoll_add(sets[4], ends[0], EPOLLIN, 3);
    SAY(epoll_add(sets[4], sets[5], EPOLLIN, 4));
    say("%s", epolled(sets[0], 8, 20));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(sets[0], 8, 1000));
    say("%s", polled(sets[0], POLLIN, 0));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    say("%s", epolled(sets[0], 8, 20));
    SAY(dial() >= 0);
    say("%s", epolled(sets[0], 8, 1000));
    SAY(accept(l, NULL, NULL) >= 0);
    SAY(write(ends[1], "x", 1));
    say("%s", epolled(sets[0], 8, 1000));
}

CASE(five_deep, "as many sets in each other as there may be, with a listener in the outermost, and one more")
{
    for (int early = 0; early < 2; early++) {
        five(early, 0);
        five(early, (int)EPOLLET);
    }
}

CASE(
    stepped_aside,
    "a thread sleeps in a set that is put around three others meanwhile: it is woken by a byte and by a pipe")
{
    struct pair p = pair_here();
    int sets[5], ends[2];
    pthread_t other;
    void *told;
    SAY(pipe2(ends, O_NONBLOCK));
    for (int i = 0; i < 5; i++)
        sets[i] = epoll_create1(0);
    epoll_add(sets[0], p.s, EPOLLIN | EPOLLET, 1);
    epoll_add(sets[4], ends[0], EPOLLIN | EPOLLET, 3);
    for (int round = 0; round < 2; round++) {
        pthread_create(&other, NULL, (void *(*)(void *))(void *)wait_once, &sets[0]);
        nap(50);
        for (int i = 3; round == 0 && i >= 0; i--)
            SAY(epoll_add(sets[i], sets[i + 1], EPOLLIN, 10 + i));
        nap(50);
        if (round == 0)
            SAY(write(ends[1], "x", 1));
        else
            SAY(send(p.c, "x", 1, 0));
        pthread_join(other, &told);
        say("woken: %ld", (long)told);
    }
}

static const char *cost_of(int ep, const char **told)
{
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    *told = epolled(ep, 8, 400);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    return (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 150 ? "little"
                                                                                                    : "much";
}

CASE(idle, "a wait around a set by edge in which nothing happens sleeps, whenever its connection came")
{
    for (int first = 0; first < 2; first++) {
        struct pair p = pair_here();
        const char *told;
        int in = epoll_create1(0), out = epoll_create1(0);
        if (first)
            epoll_add(in, p.s, EPOLLIN, 1);
        epoll_add(out, in, EPOLLIN | EPOLLET, 2);
        if (!first)
            epoll_add(in, p.s, EPOLLIN, 1);
        const char *cost = cost_of(out, &told);
        say("%s, CPU %s", told, cost);
        SAY(send(p.c, "x", 1, 0));
        say("%s", epolled(out, 8, 1000));
        cost = cost_of(out, &told);
        say("%s, CPU %s", told, cost);
    }
}

CASE(read_beside_another,
     "one of two is read without the set, the other by it: what the first asks for anew is an edge")
{
    for (int edge = 0; edge < 2; edge++) {
        struct pair p = pair_here(), q = pair_here();
        int in = epoll_with(q.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | (edge ? EPOLLET : 0), 2);
        epoll_add(in, p.s, EPOLLIN, 3);
        SAY(send(q.c, "x", 1, 0));
        SAY(send(p.c, "x", 1, 0));
        settle();
        SAY(recv(p.s, (char[9]){0}, 9, 0));
        say("%s", epolled(out, 8, 1000));
        say("%s", epolled(in, 8, 0));
        SAY(recv(q.s, (char[9]){0}, 9, 0));
        say("%s", epolled(in, 8, 0));
        SAY(epoll_mod(in, p.s, EPOLLIN | EPOLLOUT, 3));
        say("%s", epolled(out, 8, 300));
    }
}

CASE(room_after_a_change, "what has been told is changed to ask for room, which comes later")
{
    struct pair p = pair_here();
    int in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(out, 8, 1000));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
    long sent = fill(p.s);
    SAY(epoll_mod(in, p.s, EPOLLIN | EPOLLOUT, 1));
    tell("full", out);
    say("%d", drain(p.c, sent) == sent);
    say("%s", epolled(out, 8, 1000));
    say("%s", epolled(in, 8, 1000));
}

CASE(both_worlds_one_by_one,
     "inner sets by edge with a pipe and a connection each, ready in both, few events at a time")
{
    for (int max = 2; max <= 3; max++) {
        int out = epoll_create1(0);
        for (int i = 0; i < 2; i++) {
            struct pair p = pair_here();
            int ends[2], in = epoll_with(p.s, EPOLLIN, 1);
            SAY(pipe2(ends, O_NONBLOCK));
            epoll_add(in, ends[0], EPOLLIN, 2);
            epoll_add(out, in, EPOLLIN | EPOLLET, 10 + i);
            SAY(send(p.c, "x", 1, 0));
            SAY(write(ends[1], "x", 1));
        }
        settle();
        int told = 0;
        for (int i = 0; i < 6; i++) {
            struct epoll_event seen[3];
            int n = epoll_wait(out, seen, max, 0);
            told += n > 0 ? n : 0;
        }
        say("told %d", told);
    }
}

CASE(same_data, "an inner set and a pipe that was hung up have the same data: both are told")
{
    struct pair p = pair_here();
    struct epoll_event seen[8];
    int ends[2], in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 0);
    SAY(pipe2(ends, O_NONBLOCK));
    epoll_add(out, ends[0], EPOLLIN, 0);
    SAY(send(p.c, "x", 1, 0));
    SAY(close(ends[1]));
    settle();
    int n = epoll_wait(out, seen, 8, 1000);
    say("%d events", n);
}

CASE(one_shot_of_both,
     "an inner set once, with a pipe and a connection: fired by both, armed again while another thread waits")
{
    struct pair p = pair_here();
    int ends[2], in = epoll_with(p.s, EPOLLIN | EPOLLET, 1), out = epoll_create1(0);
    pthread_t other;
    SAY(pipe2(ends, O_NONBLOCK));
    epoll_add(in, ends[0], EPOLLIN | EPOLLET, 3);
    epoll_add(out, in, EPOLLIN | EPOLLONESHOT, 2);
    SAY(send(p.c, "x", 1, 0));
    SAY(write(ends[1], "x", 1));
    settle();
    say("%s", epolled(out, 8, 1000));
    say("%s", epolled(in, 8, 0));
    pthread_create(&other, NULL, (void *(*)(void *))(void *)wait_once, &out);
    nap(50);
    SAY(epoll_mod(out, in, EPOLLIN | EPOLLONESHOT, 2));
    nap(50);
    SAY(send(p.c, "y", 1, 0));
    void *told;
    pthread_join(other, &told);
    say("the other thread: %ld", (long)told);
}

CASE(listener_armed_again,
     "a listener once, in a family: a connection that came while it was spent is told when it is armed again")
{
    for (int edge = 0; edge < 2; edge++) {
        int l = listener(8), in = epoll_with(l, EPOLLIN | EPOLLONESHOT, 1);
        int out = epoll_with(in, EPOLLIN | (edge ? EPOLLET : 0), 2);
        pid_t child = fork();
        if (child == 0) {
            pause();
            _exit(0);
        }
        set_nonblock(l, 1);
        SAY(dial() >= 0);
        say("%s", epolled(out, 8, 1000));
        say("%s", epolled(in, 8, 1000));
        SAY(accept(l, NULL, NULL) >= 0);
        SAY(dial() >= 0);
        tell("spent", out);
        SAY(epoll_mod(in, l, EPOLLIN | EPOLLONESHOT, 1));
        say("%s", epolled(out, 8, 300));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

CASE(listener_closed_unseen,
     "a connection comes and the listener is closed before anybody looks; another is ready")
{
    struct pair p = pair_here();
    int l = listener(8), in = epoll_with(p.s, EPOLLIN, 1), out = epoll_with(in, EPOLLIN | EPOLLET, 2);
    epoll_add(in, l, EPOLLIN, 3);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(out, 8, 1000));
    SAY(dial() >= 0);
    SAY(close(l));
    tell("outer", out);
    tell("outer", out);
}

/* ---- random programs ----------------------------------------------------------------------------------- */

static uint64_t state;

static unsigned any(unsigned below)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(state >> 33) % below;
}

enum { PAIRS = 3, SETS = 4, FDS = 2 * PAIRS + 3 };
static int fd_of[FDS]; /* the ends of the pairs, a listener, a pipe's reading end, its writing end */
static int set_of[SETS];

static unsigned any_events(bool level)
{
    unsigned events =
        (unsigned[]){EPOLLIN, EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT, EPOLLIN | EPOLLRDHUP, 0}[any(6)];
    if (!level && any(3) == 0)
        events |= EPOLLET;
    if (any(6) == 0)
        events |= EPOLLONESHOT;
    return events;
}

static void control(bool level)
{
    int set = (int)any(2), which = (int)any(FDS - 1);
    static const int ops[] = {EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL};
    static const char *const names[] = {"add", "add", "mod", "del"};
    unsigned op = any(4), events = any_events(level);
    int done = epoll_op(set_of[set], ops[op], fd_of[which], events, which + 1);
    say("%s %d, %d (%s%s%s): %d", names[op], set, which + 1,
        bits(events & ~(unsigned)(EPOLLET | EPOLLONESHOT)), events & EPOLLET ? " edge" : "",
        events & EPOLLONESHOT ? " once" : "", done);
}

static void bytes(void)
{
    unsigned end = any(2 * PAIRS);
    if (any(3))
        say("send %u: %ld", end + 1,
            (long)send(fd_of[end], "hello", 1 + any(4), MSG_DONTWAIT | MSG_NOSIGNAL));
    else
        say("recv %u: %ld", end + 1, (long)recv(fd_of[end], (char[9]){0}, 1 + any(8), MSG_DONTWAIT));
    settle();
}

/* Without Nagle's algorithm, or the kernel's bytes come when an acknowledgement does. */
static void new_pair(unsigned pair)
{
    struct pair p = pair_here();
    int on = 1;
    close(p.l);
    fd_of[2 * pair] = p.c;
    fd_of[2 * pair + 1] = p.s;
    if (setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(p.s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        say("no TCP_NODELAY");
}

static void others(void)
{
    switch (any(6)) {
    case 0:
        say("dial: %d", dial() >= 0);
        break;
    case 1: {
        int s = accept4(fd_of[2 * PAIRS], NULL, NULL, SOCK_NONBLOCK);
        say("accept: %d", s >= 0);
        if (s >= 0)
            close(s);
        break;
    }
    case 2:
        say("pipe: %ld", (long)write(fd_of[2 * PAIRS + 2], "x", 1));
        break;
    case 3:
        say("pipe read: %ld", (long)read(fd_of[2 * PAIRS + 1], (char[4]){0}, 4));
        break;
    case 4: { /* an end is closed, and both are made anew */
        unsigned pair = any(PAIRS), end = any(2);
        struct sockaddr_in at = differ_at;
        say("renew %u, %u first", 2 * pair + 1, end);
        close(fd_of[2 * pair + end]);
        settle();
        for (int i = 0; i < SETS; i++)
            tell("while half is closed", set_of[i]);
        close(fd_of[2 * pair + (end ^ 1)]);
        new_pair(pair);
        differ_at = at;
        break;
    }
    default: {
        unsigned end = any(2 * PAIRS);
        if (any(4) == 0)
            say("shutdown %u: %d", end + 1, shutdown(fd_of[end], SHUT_WR));
        nap(50); /* the acknowledgement is an event */
        break;
    }
    }
    settle();
}

static void look_somewhere(void)
{
    unsigned set = any(SETS), how = any(5);
    if (how == 0)
        say("poll %u: %s", set, polled(set_of[set], POLLIN, 0));
    else
        say("wait %u: %s", set, epolled(set_of[set], 8, 0));
}

/* Sets 0 and 1 hold what there is, 2 lies around both, 3 around 2. */
static void random_program(uint64_t seed, unsigned steps, bool level)
{
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    say("seed %d", (int)seed);
    int l = listener(64), ends[2];
    struct sockaddr_in at = differ_at;
    for (unsigned i = 0; i < PAIRS; i++)
        new_pair(i);
    differ_at = at;
    set_nonblock(l, 1);
    if (pipe2(ends, O_NONBLOCK) < 0)
        say("no pipe");
    fd_of[2 * PAIRS] = l;
    fd_of[2 * PAIRS + 1] = ends[0];
    fd_of[2 * PAIRS + 2] = ends[1];
    for (int i = 0; i < SETS; i++)
        set_of[i] = epoll_create1(0);
    epoll_add(set_of[2], set_of[0], EPOLLIN | EPOLLET, 20);
    epoll_add(set_of[2], set_of[1], EPOLLIN | (any(2) ? EPOLLET : 0), 21);
    epoll_add(set_of[3], set_of[2], EPOLLIN | (any(2) ? EPOLLET : 0), 30);
    for (unsigned i = 0; i < steps; i++) {
        unsigned what = any(10);
        if (what < 3)
            control(level);
        else if (what < 6)
            bytes();
        else if (what < 7)
            others();
        else
            look_somewhere();
    }
    for (int i = 0; i < SETS; i++)
        close(set_of[i]);
    for (int i = 0; i < FDS; i++)
        close(fd_of[i]);
}

static void random_programs(uint64_t first, unsigned programs, bool level)
{
    const char *seed = getenv("SEED"), *steps = getenv("STEPS");
    for (uint64_t i = 0; i < (seed ? 1 : programs); i++)
        random_program(seed ? strtoull(seed, NULL, 10) : first + i, steps ? (unsigned)atoi(steps) : 60,
                       level);
}

CASE(random_level, "random programs, all in the inner sets by level")
{
    random_programs(1, 8, true);
}

CASE(random_edge, "random programs")
{
    random_programs(101, 8, false);
}

static int told_by, answered; /* eventfds */

static long tells(void *rounds)
{
    uint64_t n = 1;
    for (long i = 0; i < (long)(intptr_t)rounds; i++) {
        if (write(told_by, &n, 8) != 8 || read(answered, &n, 8) != 8)
            return i;
    }
    return (long)(intptr_t)rounds;
}

CASE(told_by_another_thread,
     "by edge: what another thread does to a descriptor in the inner set is there when the outer has told")
{
    struct pair p = pair_here();
    struct side side;
    struct epoll_event event;
    int inner = epoll_with(p.s, EPOLLIN | EPOLLET, 1), outer = epoll_with(inner, EPOLLIN | EPOLLET, 2);
    uint64_t n;
    long rounds = 4000, heard = 0;
    told_by = eventfd(0, EFD_NONBLOCK);
    answered = eventfd(0, 0);
    SAY(epoll_add(inner, told_by, EPOLLIN | EPOLLET, 3));
    side_start(&side, tells, (void *)(intptr_t)rounds);
    while (heard < rounds && epoll_wait(outer, &event, 1, 2000) == 1) {
        while (epoll_wait(inner, &event, 1, 0) == 1) {
            n = 1;
            heard += event.data.u64 == 3 && read(told_by, &n, 8) == 8 && write(answered, &n, 8) == 8;
        }
    }
    say("heard %ld", heard);
}
