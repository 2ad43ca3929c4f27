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

static long in_write(void *a)
{
    static char block[65536];
    (void)a;
    for (;;)
        if (write(pair.c, block, sizeof block) < 0)
            return -1;
}

static long in_readv(void *a)
{
    (void)a;
    char byte;
    struct iovec part = {&byte, 1};
    return readv(pair.s, &part, 1);
}

static long in_ppoll(void *a)
{
    (void)a;
    struct pollfd f = {pair.s, POLLIN, 0};
    return ppoll(&f, 1, NULL, NULL);
}

static long in_listener_poll(void *a)
{
    (void)a;
    struct pollfd f = {pair.l, POLLIN, 0};
    return poll(&f, 1, -1);
}

static long in_timed_recv(void *a)
{
    (void)a;
    set_timeout(pair.s, SO_RCVTIMEO, 4000);
    return recv(pair.s, (char[9]){0}, 9, 0);
}

CASE(write, "cancelled in write")
{
    cancel_in(in_write);
}

CASE(readv, "cancelled in readv")
{
    cancel_in(in_readv);
}

CASE(ppoll, "cancelled in ppoll")
{
    cancel_in(in_ppoll);
}

CASE(listener_poll, "cancelled in a poll of a listener")
{
    cancel_in(in_listener_poll);
}

CASE(timed_recv, "cancelled in a recv with SO_RCVTIMEO")
{
    cancel_in(in_timed_recv);
}

static long disabled(void *a)
{
    (void)a;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    return recv(pair.s, (char[9]){0}, 9, 0);
}

CASE(disabled, "a thread that has disabled cancellation reads on")
{
    struct side side;
    pair = pair_here();
    side_start(&side, disabled, NULL);
    side_blocked(&side);
    pthread_cancel(side.thread);
    side_blocked(&side);
    SAY(send(pair.c, "abc", 3, 0));
    say("%s", side_end(&side));
}

static long first;

static long pending(void *a)
{
    char byte;
    (void)a;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    first = recv(pair.s, &byte, 1, 0);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    return recv(pair.s, &byte, 1, 0); /* a byte is there; a cancellation point acts all the same */
}

CASE(pending, "a cancellation that waits acts at the next call, which takes nothing")
{
    struct side side;
    pair = pair_here();
    side_start(&side, pending, NULL);
    side_blocked(&side);
    pthread_cancel(side.thread);
    SAY(send(pair.c, "ab", 2, 0));
    say("%s", side_end(&side));
    say("first: %ld", first);
    SAY(recv(pair.s, (char[9]){0}, 9, MSG_DONTWAIT));
}

static long pending_send(void *a)
{
    (void)a;
    pthread_cancel(pthread_self());
    return send(pair.c, "abc", 3, 0);
}

CASE(pending_send, "a thread that has cancelled itself sends nothing")
{
    struct side side;
    pair = pair_here();
    side_start(&side, pending_send, NULL);
    say("%s", side_end(&side));
    say("%s", polled(pair.s, POLLIN, 20));
}

static long not_a_point(void *a)
{
    int error = 5;
    socklen_t len = sizeof error;
    (void)a;
    pthread_cancel(pthread_self());
    getsockopt(pair.s, SOL_SOCKET, SO_ERROR, &error, &len);
    ioctl(pair.s, FIONREAD, &error);
    epoll_with(pair.s, EPOLLIN, 1);
    shutdown(pair.s, SHUT_WR);
    return error;
}

CASE(no_point, "getsockopt, ioctl, epoll_ctl and shutdown are no cancellation points")
{
    struct side side;
    pair = pair_here();
    side_start(&side, not_a_point, NULL);
    say("%s", side_end(&side));
}

static long asynchronous(void *a)
{
    (void)a;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    return recv(pair.s, (char[9]){0}, 9, 0);
}

CASE(asynchronous, "asynchronous cancellation in recv; the connection goes on")
{
    struct side side;
    pair = pair_here();
    side_start(&side, asynchronous, NULL);
    side_blocked(&side);
    pthread_cancel(side.thread);
    say("%s", side_end(&side));
    SAY(send(pair.c, "abc", 3, 0));
    SAY(recv(pair.s, (char[9]){0}, 9, 0));
}

CASE(goes_on, "after a cancelled read others read and wait as before")
{
    struct side side;
    pair = pair_here();
    side_start(&side, in_recv, NULL);
    side_blocked(&side);
    pthread_cancel(side.thread);
    say("%s", side_end(&side));
    side_start(&side, in_recv, NULL);
    side_blocked(&side);
    SAY(send(pair.c, "abc", 3, 0));
    say("%s", side_end(&side));
    say("%s", polled(pair.s, POLLIN, 0));
}

static long in_sendmsg(void *a)
{
    static char block[65536];
    struct iovec part = {block, sizeof block};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    (void)a;
    for (;;)
        if (sendmsg(pair.c, &message, 0) < 0)
            return -1;
}

static long in_pselect(void *a)
{
    fd_set set;
    (void)a;
    FD_ZERO(&set);
    FD_SET(pair.s, &set);
    return pselect(pair.s + 1, &set, NULL, NULL, NULL, NULL);
}

static long in_epoll_pwait(void *a)
{
    struct epoll_event event;
    (void)a;
    return epoll_pwait(epoll_with(pair.s, EPOLLIN, 1), &event, 1, -1, NULL);
}

static long in_accept4(void *a)
{
    (void)a;
    return accept4(pair.l, NULL, NULL, SOCK_CLOEXEC);
}

static long in_recvmmsg(void *a)
{
    char byte;
    struct iovec part = {&byte, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    (void)a;
    return recvmmsg(pair.s, &message, 1, 0, NULL);
}

static long in_waitall(void *a)
{
    char block[100];
    (void)a;
    return recv(pair.s, block, sizeof block, MSG_WAITALL);
}

static long in_splice(void *a)
{
    int t[2];
    (void)a;
    return pipe(t) == 0 ? splice(pair.s, NULL, t[1], NULL, 100, 0) : -2;
}

CASE(sendmsg, "cancelled in sendmsg to a full peer")
{
    cancel_in(in_sendmsg);
}

CASE(pselect, "cancelled in pselect")
{
    cancel_in(in_pselect);
}

CASE(epoll_pwait, "cancelled in epoll_pwait")
{
    cancel_in(in_epoll_pwait);
}

CASE(accept4, "cancelled in accept4")
{
    cancel_in(in_accept4);
}

CASE(recvmmsg, "cancelled in recvmmsg")
{
    cancel_in(in_recvmmsg);
}

CASE(waitall, "cancelled in a recv with MSG_WAITALL")
{
    cancel_in(in_waitall);
}

CASE(splice, "cancelled in splice from an idle connection")
{
    cancel_in(in_splice);
}
