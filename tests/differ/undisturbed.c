/* undisturbed.c - who waits for one connection learns nothing of others' coming and going, and loses nothing
 * by it. */
#include "differ.h"

static struct meeting mine;
static int set, outer;

static long in_recv(void *nothing)
{
    (void)nothing;
    return recv(mine.s, (char[9]){0}, 9, 0);
}

static long in_poll(void *nothing)
{
    struct pollfd f = {mine.s, POLLIN, 0};
    (void)nothing;
    return poll(&f, 1, -1);
}

static long in_select(void *nothing)
{
    fd_set r;
    (void)nothing;
    FD_ZERO(&r);
    FD_SET(mine.s, &r);
    return select(mine.s + 1, &r, NULL, NULL, NULL);
}

static long in_epoll(void *nothing)
{
    struct epoll_event event;
    (void)nothing;
    return epoll_wait(set, &event, 1, -1);
}

static long in_outer(void *nothing)
{
    struct epoll_event event;
    (void)nothing;
    return epoll_wait(outer, &event, 1, -1);
}

static long in_accept(void *nothing)
{
    (void)nothing;
    return accept(mine.l, NULL, NULL) < 0 ? -1 : 0;
}

/* Others meet this program, talk, end well and badly, while a thread waits; then it gets what it waits for.
 */
static void while_others_come_and_go(long (*call)(void *))
{
    struct side side;
    mine = meet_as_server(FRESH);
    int port = ntohs(differ_at.sin_port);
    set = epoll_with(mine.s, EPOLLIN, 1);
    outer = epoll_with(set, EPOLLIN, 2);
    side_start(&side, call, NULL);
    side_blocked(&side);
    for (int i = 0; i < 3; i++) {
        struct meeting other = meet_as_client(FRESH);
        far_begin(&other.far, "send 300000");
        say("other: %ld, sent %s", take(other.s, 0, 300000, 0), far_answer(&other.far));
        if (i == 0)
            far_do(&other.far, "close");
        if (i == 1)
            far_do(&other.far, "rst");
        far_kill(&other.far);
        polled_soon(other.s, i == 1 ? POLLERR : POLLRDHUP);
        close(other.s);
    }
    side_blocked(&side);
    say("it waits: %d", __atomic_load_n(&side.done, __ATOMIC_ACQUIRE) == 0);
    if (call == in_accept)
        say("far: %s", far_do(&mine.far, "connect %d", port));
    else
        say("far: %s", far_do(&mine.far, "send 5"));
    say("%s", side_end(&side));
}

CASE(recv, "a thread in recv")
{
    while_others_come_and_go(in_recv);
}

CASE(poll, "a thread in poll")
{
    while_others_come_and_go(in_poll);
}

CASE(select, "a thread in select")
{
    while_others_come_and_go(in_select);
}

CASE(epoll, "a thread in a set")
{
    while_others_come_and_go(in_epoll);
}

CASE(nested, "a thread in a set of a set")
{
    while_others_come_and_go(in_outer);
}

CASE(accept, "a thread in accept")
{
    while_others_come_and_go(in_accept);
}

CASE(timeouts_hold, "waits with a timeout neither end early nor late while others come and go")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 3; i++) {
            struct meeting other = meet_as_client(FRESH);
            far_do(&other.far, "send 10; close");
        }
        _exit(0);
    }
    struct timespec a, b;
    for (int i = 0; i < 3; i++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        const char *seen = i == 0   ? polled(p.s, POLLIN, 50)
                           : i == 1 ? selected(p.s, "r", 50)
                                    : epolled(ep, 8, 50);
        clock_gettime(CLOCK_MONOTONIC, &b);
        long ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
        say("%s, early %d, late %d", seen, ms<49, ms> 1500);
    }
    waitpid(pid, NULL, 0);
}

/* ---- what a call waits for is closed by another thread ------------------------------------------------- */

static long in_poll_of_listener(void *nothing)
{
    struct pollfd f = {mine.l, POLLIN, 0};
    (void)nothing;
    return poll(&f, 1, -1);
}

static long in_send(void *nothing)
{
    static char much[1 << 20];
    (void)nothing;
    while (send(mine.s, much, sizeof much, MSG_NOSIGNAL) > 0)
        ;
    return -1;
}

/* `over`: something else takes the number. */
static void while_it_is_closed(long (*call)(void *), int over)
{
    struct side side;
    mine = meet_as_server(FRESH);
    int port = ntohs(differ_at.sin_port), other[2];
    int of_listener = call == in_accept || call == in_poll_of_listener;
    int fd = of_listener ? mine.l : mine.s;
    side_start(&side, call, NULL);
    side_blocked(&side);
    if (over && pipe(other) == 0)
        say("over it: %d", dup2(other[0], fd) == fd);
    else
        SAY(close(fd));
    nap(50);
    say("it waits: %d", __atomic_load_n(&side.done, __ATOMIC_ACQUIRE) == 0);
    say("far: %s", of_listener ? far_do(&mine.far, "connect %d", port) : far_do(&mine.far, "send 5"));
    say("%s", side_end(&side));
}

CASE(closed_recv, "another thread closes the connection that one is in recv on")
{
    while_it_is_closed(in_recv, 0);
}

CASE(replaced_recv, "another thread puts a pipe over the connection that one is in recv on")
{
    while_it_is_closed(in_recv, 1);
}

CASE(closed_poll, "another thread closes the connection that one is in poll on")
{
    while_it_is_closed(in_poll, 0);
}

CASE(closed_select, "another thread closes the connection that one is in select on")
{
    while_it_is_closed(in_select, 0);
}

CASE(closed_send, "another thread closes the connection that one is in send on")
{
    struct side side;
    mine = meet_as_server(FRESH);
    side_start(&side, in_send, NULL);
    side_blocked(&side);
    SAY(close(mine.s));
    nap(50);
    say("it waits: %d", __atomic_load_n(&side.done, __ATOMIC_ACQUIRE) == 0);
    far_kill(&mine.far);
    say("%s", side_end(&side)[0] == '-' ? "an error" : "none");
}

CASE(closed_accept, "another thread closes the listener that one is in accept on")
{
    while_it_is_closed(in_accept, 0);
}

CASE(closed_poll_of_listener, "another thread closes the listener that one is in poll on")
{
    while_it_is_closed(in_poll_of_listener, 0);
}

CASE(blocking_accept_never_again,
     "a blocking accept whose listener is closed does not say EAGAIN, whoever takes the number")
{
    for (int i = 0; i < 30; i++) {
        struct side side;
        mine.l = listener(4);
        struct sockaddr_in at = differ_at;
        side_start(&side, in_accept, NULL);
        side_blocked(&side);
        int other = i % 2 ? listener(4) : -1, c = i % 2 ? dial() : -1;
        if (i % 2)
            dup2(other, mine.l);
        else
            close(mine.l);
        nap(5);
        int d = fresh_socket();
        (void)connect(d, (struct sockaddr *)&at, sizeof at);
        const char *is = side_end(&side);
        if (strstr(is, "EAGAIN") || strstr(is, "STILL"))
            say("%s", is);
        if (i % 2)
            say("the other has its own: %s", polled_soon(other, POLLIN));
        close(d);
        close(c);
        close(other);
        close(mine.l);
    }
}
