/* cancel.c - pthread_cancel of a thread that is blocked in each blocking call. */
#include "differ.h"

static struct pair pair;
static int cleaned;

static void clean_up(void *nothing)
{
    (void)nothing;
    cleaned++;
}

static long in_accept(void *a)
{
    (void)a;
    return accept(pair.l, NULL, NULL);
}

static long in_recv(void *a)
{
    (void)a;
    return recv(pair.s, (char[9]){0}, 9, 0);
}

static long in_read(void *a)
{
    (void)a;
    return read(pair.s, (char[9]){0}, 9);
}

static long in_recvmsg(void *a)
{
    (void)a;
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return recvmsg(pair.s, &message, 0);
}

static long in_send(void *a)
{
    static char block[65536];
    (void)a;
    for (;;)
        if (send(pair.c, block, sizeof block, 0) < 0)
            return -1;
}

static long in_poll(void *a)
{
    (void)a;
    struct pollfd p = {pair.s, POLLIN, 0};
    return poll(&p, 1, -1);
}

static long in_select(void *a)
{
    (void)a;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pair.s, &set);
    return select(pair.s + 1, &set, NULL, NULL, NULL);
}

static long in_epoll(void *a)
{
    struct epoll_event event;
    (void)a;
    return epoll_wait(epoll_with(pair.s, EPOLLIN, 1), &event, 1, -1);
}

static long with_cleanup(long (*call)(void *))
{
    long n;
    pthread_cleanup_push(clean_up, NULL);
    n = call(NULL);
    pthread_cleanup_pop(0);
    return n;
}

static long call_with_cleanup(void *call)
{
    return with_cleanup(*(long (**)(void *))call);
}

static void cancel_in(long (*call)(void *))
{
    struct side side;
    pair = pair_here();
    side_start(&side, call_with_cleanup, &call);
    side_blocked(&side);
    pthread_cancel(side.thread);
    const char *end = side_end(&side);
    say("%s, cleaned up %d", end, cleaned);
}

CASE(accept, "cancelled in accept")
{
    cancel_in(in_accept);
}

CASE(recv, "cancelled in recv")
{
    cancel_in(in_recv);
}

CASE(read, "cancelled in read")
{
    cancel_in(in_read);
}

CASE(recvmsg, "cancelled in recvmsg")
{
    cancel_in(in_recvmsg);
}

CASE(send, "cancelled in a send to a full peer")
{
    cancel_in(in_send);
}

CASE(poll, "cancelled in poll")
{
    cancel_in(in_poll);
}

CASE(select, "cancelled in select")
{
    cancel_in(in_select);
}

CASE(epoll_wait, "cancelled in epoll_wait")
{
    cancel_in(in_epoll);
}
