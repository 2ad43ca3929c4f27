/* passed.c - a connection goes to another program: over exec, or sent over a unix socket. Not a byte is lost
 * or comes twice, and each end is told of the other's as if nothing had happened. */
#include "differ.h"

/* Some bytes each way, not all of them read. */
static void talk(int c, int s)
{
    say("sent: %ld, %ld", give(c, 0, 1000), give(s, 0, 500));
    say("read: %ld, %ld", take(s, 0, 300, 0), take(c, 0, 100, 0));
}

/* What is left of that, and more. The far side has the end that was s. */
static void go_on(struct far *far, int c)
{
    say("%s", far_do(far, "recv 700"));
    say("read: %ld", take(c, 100, 400, 0));
    say("%s", far_do(far, "send 100"));
    say("read: %ld", take(c, 500, 100, 0));
    say("sent: %ld", give(c, 1000, 5000));
    say("%s", far_do(far, "recv 5000"));
}

static void ends_well(struct far *far, int c)
{
    SAY(shutdown(c, SHUT_WR));
    say("%s", far_do(far, "recv 1;send 10;close"));
    say("read: %ld", take(c, 600, 10, 0));
    SAY(recv(c, (char[9]){0}, 9, 0));
}

CASE(over_exec, "the accepted end, with unread bytes both ways")
{
    struct pair p = pair_here();
    talk(p.c, p.s);
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 500 300"));
    go_on(&far, p.c);
    ends_well(&far, p.c);
}

CASE(over_exec_connector, "the end that connected")
{
    struct pair p = pair_here();
    talk(p.s, p.c);
    struct far far = far_alone(p.c);
    say("%s", far_do(&far, "mine 500 300"));
    go_on(&far, p.s);
    ends_well(&far, p.s);
}

CASE(over_exec_far_peer, "the other end is another program")
{
    struct meeting m = meet_as_server(FRESH);
    say("%s", far_do(&m.far, "send 1000"));
    say("sent: %ld, read: %ld", give(m.s, 0, 500), take(m.s, 0, 300, 0));
    struct far far = far_alone(m.s);
    say("%s", far_do(&far, "mine 500 300;recv 700;send 100"));
    say("%s", far_do(&m.far, "recv 600;send 2000;shutdown wr"));
    say("%s", far_do(&far, "recv 2000;recv 1;send 1;close"));
    say("%s", far_do(&m.far, "recv 1;recv 1"));
}

CASE(by_rights, "sent over a unix socket, and closed here")
{
    struct pair p = pair_here();
    struct far far = far_new(FRESH);
    talk(p.c, p.s);
    far_pass(&far, p.s);
    SAY(close(p.s));
    say("%s", far_do(&far, "mine 500 300"));
    go_on(&far, p.c);
    ends_well(&far, p.c);
}

CASE(by_rights_connector, "the end that connected, sent")
{
    struct pair p = pair_here();
    struct far far = far_new(FRESH);
    talk(p.s, p.c);
    far_pass(&far, p.c);
    SAY(close(p.c));
    say("%s", far_do(&far, "mine 500 300"));
    go_on(&far, p.s);
    ends_well(&far, p.s);
}

CASE(by_rights_to_child, "sent to a child, who is of the family")
{
    struct far far = far_new(FORKED);
    struct pair p = pair_here();
    talk(p.c, p.s);
    far_pass(&far, p.s);
    SAY(close(p.s));
    say("%s", far_do(&far, "mine 500 300"));
    go_on(&far, p.c);
    ends_well(&far, p.c);
}

CASE(fresh_from_accept, "accepted and sent at once, before a byte has gone")
{
    struct far far = far_new(FRESH);
    int l = listener(16), good = 0;
    for (int i = 0; i < 10; i++) {
        int c = dial(), s = accept(l, NULL, NULL);
        far_pass(&far, s);
        close(s);
        good += give(c, 0, 10) == 10 &&
                strcmp(far_do(&far, "mine 0 0;recv 10;send 20;close"), "0, 10, 20, 0") == 0 &&
                take(c, 0, 20, 0) == 20 && recv(c, (char[9]){0}, 9, 0) == 0;
        close(c);
    }
    say("good: %d", good);
}

CASE(much_unread, "more than a ring of the smallest kind, both ways")
{
    struct pair p = pair_here();
    say("sent: %ld, %ld", give(p.c, 0, 200000), give(p.s, 0, 150000));
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 150000 0;recv 200000;send 1000"));
    say("read: %ld", take(p.c, 0, 151000, 0));
}

CASE(stream_goes_on, "the other end does not stop sending meanwhile")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "send 3000000");
    say("read: %ld", take(m.s, 0, 10000, 0));
    struct far far = far_alone(m.s);
    say("%s", far_do(&far, "mine 0 10000;recv 2990000"));
    say("%s", far_answer(&m.far));
}

CASE(peer_sleeps_in_read, "the other end is blocked in a read")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "recv 100");
    asleep(m.far.pid);
    struct far far = far_alone(m.s);
    say("%s", far_do(&far, "mine 0 0;sleep 20;send 100"));
    say("%s", far_answer(&m.far));
}

CASE(peer_sleeps_in_write, "the other end is blocked in a write")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "send 20000000");
    asleep(m.far.pid);
    struct far far = far_alone(m.s);
    say("%s", far_do(&far, "mine 0 0;recv 20000000"));
    say("%s", far_answer(&m.far));
}

CASE(peer_polls, "the other end waits in poll and in epoll")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.c, EPOLLIN | EPOLLRDHUP, 1), et = epoll_with(p.c, EPOLLIN | EPOLLET, 2);
    struct far far = far_alone(p.s);
    say("nothing: %s %s %s", polled(p.c, POLLIN, 0), epolled(ep, 4, 0), epolled(et, 4, 0));
    say("%s", far_do(&far, "mine 0 0;send 10"));
    say("%s %s %s", polled(p.c, POLLIN, 1000), epolled(ep, 4, 1000), epolled(et, 4, 1000));
    say("read: %ld", take(p.c, 0, 10, 0));
    say("nothing: %s %s %s", polled(p.c, POLLIN, 0), epolled(ep, 4, 0), epolled(et, 4, 0));
    say("%s", far_do(&far, "close"));
    say("%s %s %s", polled(p.c, POLLIN, 1000), epolled(ep, 4, 1000), epolled(et, 4, 1000));
}

CASE(half_closed_before, "this end has sent its FIN before it goes")
{
    struct pair p = pair_here();
    say("sent: %ld", give(p.s, 0, 10));
    SAY(shutdown(p.s, SHUT_WR));
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 10 0"));
    say("read: %ld", take(p.c, 0, 10, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    say("sent: %ld", give(p.c, 0, 100));
    say("%s", far_do(&far, "recv 100;one 1"));
}

CASE(peer_half_closed_before, "the other end has sent its FIN before")
{
    struct pair p = pair_here();
    say("sent: %ld", give(p.c, 0, 10));
    SAY(shutdown(p.c, SHUT_WR));
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 0 0;recv 10;recv 1;send 100;close"));
    say("read: %ld", take(p.c, 0, 100, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(peer_closed_before, "the other end has closed, and its bytes wait")
{
    struct pair p = pair_here();
    say("sent: %ld", give(p.c, 0, 5000));
    SAY(close(p.c));
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 0 0;recv 5000;recv 1"));
}

CASE(peer_is_dead_before, "the other end's process has ended, and its bytes wait")
{
    struct meeting m = meet_as_server(FRESH);
    say("%s", far_do(&m.far, "send 5000"));
    say("%s", polled(m.s, POLLIN, 1000));
    far_kill(&m.far);
    struct far far = far_alone(m.s);
    say("%s", far_do(&far, "mine 0 0;recv 5000;recv 1"));
}

CASE(peer_dies_after, "the other end is killed when it has moved")
{
    struct meeting m = meet_as_server(FRESH);
    struct far far = far_alone(m.s);
    say("%s", far_do(&far, "mine 0 0"));
    say("%s", far_do(&m.far, "send 5000"));
    far_kill(&m.far);
    say("%s", far_do(&far, "recv 5000;recv 1"));
}

CASE(taker_dies, "who has got it is killed, with nothing unread, and with something")
{
    struct pair p = pair_here(), q = pair_here();
    struct far far = far_alone(p.s), next = far_alone(q.s);
    say("%s %s", far_do(&far, "mine 0 0;send 10"), far_do(&next, "mine 0 0;send 10"));
    say("sent: %ld", give(q.c, 0, 10));
    far_kill(&far);
    far_kill(&next);
    say("read: %ld %ld", take(p.c, 0, 10, 0), take(q.c, 0, 10, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    SAY(recv(q.c, (char[9]){0}, 9, 0));
}

CASE(taker_resets, "who has got it resets")
{
    struct pair p = pair_here();
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 0 0;rst"));
    say("%s", polled(p.c, POLLIN, 1000));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(passed_on, "from one to the next by exec, and on by sending")
{
    struct pair p = pair_here();
    talk(p.c, p.s);
    struct far next = far_new(FRESH);
    far_pass(&next, p.s);
    SAY(close(p.s));
    say("%s", far_do(&next, "mine 500 300;recv 100"));
    say("%s", far_do(&next, "exec 500 400"));
    say("%s", far_do(&next, "recv 600;send 100"));
    say("read: %ld", take(p.c, 100, 500, 0));
}

CASE(both_ends, "first the one, then the other")
{
    struct pair p = pair_here();
    talk(p.c, p.s);
    struct far s = far_alone(p.s), c = far_alone(p.c);
    say("%s", far_do(&s, "mine 500 300;recv 700;send 100"));
    say("%s", far_do(&c, "mine 1000 100;recv 500;send 77;close"));
    say("%s", far_do(&s, "recv 77;recv 1;close"));
}

/* This case, in another program with the same connections. */
static _Noreturn void again_as(const char *name, int round)
{
    char number[16];
    snprintf(number, sizeof number, "%d", round);
    setenv("ROUND", number, 1);
    fflush(stdout);
    execl("/proc/self/exe", "differ", "--run", name, (char *)NULL);
    _exit(127);
}

static int round_now(void)
{
    const char *text = getenv("ROUND");
    return text ? atoi(text) : 0;
}

CASE(both_ends_at_once, "a program that has both executes itself again and again, with more unread each time")
{
    int round = round_now(), c = 100, s = 101;
    if (round == 0) {
        struct pair p = pair_here();
        say("%d %d", dup2(p.c, c), dup2(p.s, s));
        close(p.c);
        close(p.s);
        close(p.l);
    } else {
        say("read: %ld %ld", take(c, 300 * (round - 1), 300, 0), take(s, 5 * (round - 1), 5, 0));
    }
    say("sent: %ld %ld", give(s, 1000 * round, 1000), give(c, 10 * round, 10));
    if (round < 3)
        again_as("passed.both_ends_at_once", round + 1);
    say("read: %ld %ld", take(c, 900, 3100, 0), take(s, 15, 25, 0));
    SAY(recv(c, (char[9]){0}, 9, MSG_DONTWAIT));
    SAY(recv(s, (char[9]){0}, 9, MSG_DONTWAIT));
    SAY(close(s));
    SAY(recv(c, (char[9]){0}, 9, 0));
}

/* Two programs with a connection on which 300 bytes lie unread here, and 100 there. */
static void two_programs(struct far *a, struct far *b)
{
    *a = far_new(FRESH);
    *b = far_new(FRESH);
    far_do(b, "connect %s;send 100", far_do(a, "listen"));
    far_do(a, "accept;closelistener;send 300");
}

static void both_execute(int times)
{
    struct far a, b;
    for (int i = 0; i < 8; i++) {
        two_programs(&a, &b);
        for (int k = 0; k < times; k++) {
            far_begin(&a, "exec 300 0");
            far_begin(&b, "exec 100 0");
        }
        for (int k = 0; k < times; k++)
            say("%s, %s", far_answer(&a), far_answer(&b));
        say("%s", far_do(&b, "recv 300;send 50"));
        say("%s", far_do(&a, "recv 150;close"));
        say("%s", far_do(&b, "recv 1"));
        far_kill(&a);
        far_kill(&b);
    }
}

CASE(both_ends_in_two_programs,
     "two programs execute themselves at the same moment, each with its end of one connection")
{
    both_execute(1);
}

CASE(both_ends_again_and_again, "the same three times in a row, without a look between")
{
    both_execute(3);
}

CASE(one_ends_while_the_other_is_executed,
     "a program executes itself with its end of a connection, and the other ends")
{
    struct far a, b;
    for (int i = 0; i < 8; i++) {
        two_programs(&a, &b);
        far_begin(&a, "exec 300 0");
        far_begin(&b, "%s", i % 2 ? "exec 100 0" : "recv 300;exit");
        if (i % 2) {
            say("%s", far_answer(&b));
            far_begin(&b, "exit");
        }
        say("%s", far_answer(&a));
        say("%s", far_do(&a, "recv 100"));
        say("%s", far_do(&a, "recv 1"));
        far_kill(&a);
        far_kill(&b);
    }
}

static void to_nobody(int fd, int ms)
{
    int ends[2];
    SAY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    SAY(send_fd(ends[0], fd));
    close(fd);
    nap(ms);
    close(ends[0]);
    close(ends[1]);
}

CASE(one_is_sent_and_the_other_left, "both ends are sent away: one to a program that reads it, one to nobody")
{
    for (int i = 0; i < 4; i++) {
        struct pair p = pair_here();
        struct far far = far_new(FRESH);
        say("sent: %ld", give(p.c, 0, 4));
        if (i % 2)
            to_nobody(p.c, i / 2 * 300);
        far_pass(&far, p.s);
        close(p.s);
        if (i % 2 == 0)
            to_nobody(p.c, i / 2 * 300);
        say("%s", far_do(&far, "mine 0 0;recv 4"));
        say("%s", far_do(&far, "recv 1"));
    }
}

CASE(child_before_it_is_accepted,
     "a child executes a program with a connection that nobody has accepted yet; its parent waits")
{
    int l = listener(8);
    if (round_now()) {
        give(100, 0, 100);
        _exit(take(100, 0, 200, 0) != 200);
    }
    pid_t server = fork();
    if (server == 0) {
        nap(200);
        int s = accept(l, NULL, NULL);
        _exit(take(s, 0, 100, 0) != 100 || give(s, 0, 200) != 200);
    }
    dup2(dial(), 100);
    pid_t pid = fork();
    if (pid == 0)
        again_as("passed.child_before_it_is_accepted", 1);
    int one = -1, two = -1;
    waitpid(pid, &one, 0);
    waitpid(server, &two, 0);
    say("%d %d", one, two);
}

CASE(before_it_is_accepted,
     "a program that has connected executes another one, and the other side accepts later")
{
    int round = round_now();
    if (round == 0) {
        int l = listener(8);
        pid_t pid = fork();
        if (pid > 0) {
            nap(300);
            for (int i = 0; i < 4; i++) {
                int s = accept(l, NULL, NULL);
                say("read: %ld, sent: %ld", take(s, 0, 500, 0), give(s, 0, 2000));
            }
            waitpid(pid, &round, 0);
            say("%d", round);
            return;
        }
        for (int i = 0; i < 4; i++) {
            dup2(dial(), 100 + i);
            if (i % 2)
                give(100 + i, 0, 100);
        }
        again_as("passed.before_it_is_accepted", 1);
    }
    for (int i = 0; i < 4; i++)
        give(100 + i, i % 2 ? 100 : 0, i % 2 ? 400 : 500);
    for (int i = 0; i < 4; i++) {
        if (take(100 + i, 0, 2000, 0) != 2000)
            _exit(1);
    }
}

CASE(exec_fails, "there is no such program: this one goes on")
{
    struct pair p = pair_here();
    talk(p.c, p.s);
    fcntl(p.s, F_SETFD, 0);
    SAY(execl("/nonexistent/program", "program", (char *)NULL));
    say("read: %ld, %ld", take(p.s, 300, 700, 0), take(p.c, 100, 400, 0));
    say("sent: %ld, %ld", give(p.s, 500, 10), give(p.c, 1000, 10));
    say("read: %ld, %ld", take(p.s, 1000, 10, 0), take(p.c, 500, 10, 0));
}

CASE(not_taken, "who has got it closes it without a look")
{
    struct pair p = pair_here();
    say("sent: %ld", give(p.s, 0, 10));
    struct far far = far_alone(p.s);
    say("%s", far_do(&far, "mine 0 0;close"));
    say("read: %ld", take(p.c, 0, 10, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(lost_on_the_way, "who should get it ends before it has looked")
{
    struct pair p = pair_here();
    struct far far = far_new(FRESH);
    say("sent: %ld", give(p.s, 0, 10));
    far_kill(&far);
    signal(SIGPIPE, SIG_IGN);
    SAY(send_fd(far.control, p.s));
    SAY(close(p.s));
    say("read: %ld", take(p.c, 0, 10, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(never_received, "it lies in a unix socket that is closed")
{
    struct pair p = pair_here();
    int ends[2];
    SAY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    say("sent: %ld", give(p.s, 0, 10));
    SAY(send_fd(ends[0], p.s));
    SAY(close(p.s));
    say("read: %ld", take(p.c, 0, 10, 0));
    SAY(close(ends[0]));
    SAY(close(ends[1]));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(sender_writes_on, "who has sent it writes, too")
{
    struct pair p = pair_here();
    struct far far = far_new(FRESH);
    far_pass(&far, p.s);
    say("%s", far_do(&far, "mine 0 0;send 10"));
    say("read: %ld", take(p.c, 0, 10, 0));
    say("sent: %ld", give(p.s, 10, 10));
    say("read: %ld", take(p.c, 10, 10, 0));
    say("%s", far_do(&far, "send 0"));
}

CASE(sender_writes_while_taker_reads, "who has sent it writes, too, and the receiver is at work on it")
{
    struct pair p = pair_here();
    struct far far = far_new(FRESH);
    far_pass(&far, p.s);
    say("%s", far_do(&far, "mine 0 0;send 10"));
    say("read: %ld", take(p.c, 0, 10, 0));
    far_begin(&far, "recv 5;send 10");
    asleep(far.pid);
    say("sent: %ld", give(p.s, 10, 10));
    say("read: %ld", take(p.c, 10, 10, 0));
    say("sent: %ld", give(p.c, 0, 5));
    say("%s", far_answer(&far));
    say("read: %ld", take(p.c, 10, 10, 0));
}

CASE(two_takers, "sent to two, both use it")
{
    struct pair p = pair_here();
    struct far far = far_new(FRESH), next = far_new(FRESH);
    far_pass(&far, p.s);
    say("%s", far_do(&far, "mine 0 0;send 10"));
    far_pass(&next, p.s);
    SAY(close(p.s));
    say("read: %ld", take(p.c, 0, 10, 0));
    far_begin(&far, "recv 5");
    asleep(far.pid);
    say("%s", far_do(&next, "mine 10 5;send 10"));
    say("read: %ld", take(p.c, 10, 10, 0));
    say("sent: %ld", give(p.c, 0, 5));
    say("%s", far_answer(&far));
    say("%s", far_do(&far, "close"));
    say("sent: %ld", give(p.c, 5, 5));
    say("%s", far_do(&next, "recv 5;send 10;close"));
    say("read: %ld", take(p.c, 20, 10, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(sender_goes_on, "sent, and never taken out: who has sent it goes on")
{
    struct pair p = pair_here();
    int ends[2];
    SAY(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    talk(p.c, p.s);
    SAY(send_fd(ends[0], p.s));
    say("read: %ld, %ld", take(p.s, 300, 700, 0), take(p.c, 100, 400, 0));
    say("sent: %ld, %ld", give(p.s, 500, 10), give(p.c, 1000, 10));
    say("read: %ld, %ld", take(p.s, 1000, 10, 0), take(p.c, 500, 10, 0));
}

/* from <-> this process, which passes its end to the other. A byte has gone each way. */
static void pass_on(struct far *from, struct far *to)
{
    int l = listener(8);
    say("%s", far_do(from, "connect %d;send 1", ntohs(differ_at.sin_port)));
    int s = accept(l, NULL, NULL);
    say("%ld, %ld", take(s, 0, 1, 0), give(s, 0, 1));
    say("%s", far_do(from, "recv 1"));
    far_pass(to, s);
    close(s);
}

static void received_is_awaited(enum far_kind caller, enum far_kind receiver)
{
    struct far from = far_new(caller), to = far_new(receiver);
    pass_on(&from, &to);
    say("%s", far_do(&to, "mine 1 1"));
    for (int i = 0; i < 4; i++) {
        far_begin(&to, "awaited 20000;recv 1;send 1");
        nap(50); /* so that it waits */
        say("%s", far_do(&from, "send 1;recv 1"));
        say("%s", far_answer(&to));
    }
}

CASE(awaited_from_one_who_looks_elsewhere,
     "who has sent the bytes waits for something that is no socket then")
{
    struct far from = far_new(FRESH), to = far_new(FRESH);
    pass_on(&from, &to);
    far_begin(&to, "mine 1 1;awaited 2000;recv 1");
    nap(50);
    say("%s", far_do(&from, "send 1"));
    say("%s", far_answer(&to));
}

CASE(awaited_by_relatives, "caller, server and receiver are of one family; the receiver waits by epoll")
{
    received_is_awaited(FORKED, FORKED);
}

CASE(awaited_from_a_stranger, "the same, with a caller that is another program")
{
    received_is_awaited(FRESH, FORKED);
}

CASE(awaited_by_a_stranger, "the same, with a receiver that is another program")
{
    received_is_awaited(FORKED, FRESH);
}

CASE(awaited_by_strangers, "all three are programs of their own")
{
    received_is_awaited(FRESH, FRESH);
}

CASE(options_go_along, "what was set before, asked for after")
{
    struct pair p = pair_here();
    SAY(set_option(p.s, SO_KEEPALIVE, 1));
    SAY(set_nonblock(p.s, 1));
    struct far far = far_new(FRESH);
    far_pass(&far, p.s);
    say("non-blocking: %s", far_do(&far, "flags"));
    say("%s", far_do(&far, "mine 0 0;readone 5;option keepalive;peername"));
}
