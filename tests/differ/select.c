/* select.c - select and pselect with connections. */
#include "differ.h"

CASE(idle_and_data, "nothing, then a byte")
{
    struct pair p = pair_here();
    say("idle: %s %s %s", selected(p.s, "r", 0), selected(p.s, "w", 0), selected(p.s, "x", 0));
    say("all: %s", selected(p.s, "rwx", 0));
    SAY(send(p.c, "x", 1, 0));
    say("data: %s", selected_soon(p.s, "r"));
    say("all: %s", selected(p.s, "rwx", 0));
    say("for ever: %s", selected(p.s, "r", -1));
}

CASE(hangups, "half-close, close and reset of the peer")
{
    struct pair a = pair_here(), b = pair_here(), c = pair_here();
    SAY(shutdown(a.c, SHUT_WR));
    say("half-close: %s", selected_soon(a.s, "r"));
    say("%s", selected(a.s, "rwx", 0));
    SAY(close(b.c));
    say("close: %s", selected_soon(b.s, "r"));
    say("%s", selected(b.s, "rwx", 0));
    reset(c.c);
    say("reset: %s", selected_soon(c.s, "rw"));
    say("%s", selected(c.s, "rwx", 0));
}

CASE(full, "no w while full")
{
    struct pair p = pair_here();
    long all = fill(p.c);
    say("%s", selected(p.c, "w", 20));
    say("%d", drain(p.s, all) == all);
    say("%s", selected_soon(p.c, "w"));
}

CASE(errors, "a closed number, a negative count, a bad time; the sets stay as they were")
{
    struct pair p = pair_here();
    fd_set r;
    struct timeval zero = {0, 0}, bad = {0, -1}, big = {0, 5000000};
    int closed = dup(p.s);
    close(closed);
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    FD_SET(closed, &r);
    SAY(select(closed + 1, &r, NULL, NULL, &zero));
    say("%d %d", FD_ISSET(p.s, &r), FD_ISSET(closed, &r));
    FD_CLR(closed, &r);
    SAY(select(-1, &r, NULL, NULL, &zero));
    SAY(select(p.s + 1, &r, NULL, NULL, &bad));
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    SAY(select(p.s + 1, &r, NULL, NULL, &big));
}

CASE(time_left, "the sets are empty and the time is used up after a timeout")
{
    struct pair p = pair_here();
    fd_set r;
    struct timeval tv = {0, 20000};
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY(select(p.s + 1, &r, NULL, NULL, &tv));
    say("%d, left %ld", FD_ISSET(p.s, &r), tv.tv_sec * 1000000 + tv.tv_usec);
    SAY(send(p.c, "x", 1, 0));
    FD_SET(p.s, &r);
    tv = (struct timeval){10, 0};
    SAY(select(p.s + 1, &r, NULL, NULL, &tv));
    say("%d, some is left: %d", FD_ISSET(p.s, &r), tv.tv_sec * 1000000 + tv.tv_usec > 0);
}

static int select_two(int a, int b)
{
    fd_set r;
    FD_ZERO(&r);
    FD_SET(a, &r);
    FD_SET(b, &r);
    return select((a > b ? a : b) + 1, &r, NULL, NULL, NULL);
}

CASE(beside_a_pipe, "a connection with data and a ready pipe, no timeout")
{
    struct meeting m = meet_as_server(FRESH);
    int q[2];
    SAY(pipe(q));
    SAY(write(q[1], "y", 1));
    say("idle: %d", select_two(m.s, q[0]));
    say("far: %s", far_do(&m.far, "send 700"));
    say("both: %d", SOON(select_two(m.s, q[0]) == 2));
}

CASE(only_some_asked, "numbers at and above the count are not looked at")
{
    struct pair p = pair_here();
    fd_set r;
    struct timeval zero = {0, 0};
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY(select(p.s, &r, NULL, NULL, &zero));
}

CASE(masks, "pselect lets a pending signal in only while it waits")
{
    struct pair p = pair_here();
    sigset_t all, none;
    fd_set r;
    struct timespec some = {1, 0}, zero = {0, 0};
    sigfillset(&all);
    sigemptyset(&none);
    handle(SIGUSR1, 0);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    kill(getpid(), SIGUSR1);
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY(pselect(p.s + 1, &r, NULL, NULL, &zero, &all));
    FD_SET(p.s, &r);
    SAY(pselect(p.s + 1, &r, NULL, NULL, &some, &none));
    say("handled %d, set kept %d", (int)handled, FD_ISSET(p.s, &r));
    kill(getpid(), SIGUSR1);
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    FD_SET(p.s, &r);
    SAY(pselect(p.s + 1, &r, NULL, NULL, &some, &none));
    say("handled %d", (int)handled);
}

static long select_for_ever(void *fd)
{
    fd_set r;
    FD_ZERO(&r);
    FD_SET(*(int *)fd, &r);
    return select(*(int *)fd + 1, &r, NULL, NULL, NULL);
}

CASE(blocked, "a thread in select is woken by data, by the end and by a connection")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    side_start(&side, select_for_ever, &m.s);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "send 1"));
    say("data: %s", side_end(&side));
    say("%ld", take(m.s, 0, 1, MSG_DONTWAIT));
    side_start(&side, select_for_ever, &m.s);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "close"));
    say("end: %s", side_end(&side));
    side_start(&side, select_for_ever, &m.l);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "connect %d", ntohs(differ_at.sin_port)));
    say("connection: %s", side_end(&side));
}
