/* peek_waitall.c - recv's flags: MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT, MSG_TRUNC, and their sums. */
#include "differ.h"

static char text[100];

CASE(peek, "a peek takes nothing")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    SAY(recv(p.s, text, 2, MSG_PEEK));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(recv(p.s, text, 9, MSG_PEEK | MSG_DONTWAIT));
    say("%s", polled(p.s, POLLIN, 0));
    SAY(recv(p.s, text, 9, 0));
    say("%.3s", text);
    SAY(recv(p.s, text, 9, MSG_PEEK | MSG_DONTWAIT));
}

CASE(peek_sees_more, "a second peek sees what has come since")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(send(p.c, "def", 3, 0));
    say("all six: %d", SOON(recv(p.s, text, 9, MSG_PEEK) == 6));
    say("%.6s", text);
    SAY(recv(p.s, text, 2, 0));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    say("%.4s", text);
}

CASE(peek_sees_more_fresh, "the same with a fresh program")
{
    struct meeting m = meet_as_client(FRESH);
    static char big[100000];
    say("far: %s", far_do(&m.far, "send 1"));
    SAY(recv(m.s, big, sizeof big, MSG_PEEK));
    far_begin(&m.far, "send 39999");
    say("all: %d", SOON(recv(m.s, big, sizeof big, MSG_PEEK | MSG_DONTWAIT) == 40000));
    say("%ld, sent %s", take(m.s, 0, 40000, 0), far_answer(&m.far));
}

CASE(peek_at_the_end, "a peek at the end gives 0, again and again")
{
    struct pair p = pair_here();
    SAY(close(p.c));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(recv(p.s, text, 9, 0));
}

CASE(peek_after_reset, "a peek after a reset takes the error, as a read does")
{
    struct pair p = pair_here();
    reset(p.c);
    polled_soon(p.s, POLLERR);
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(recv(p.s, text, 9, 0));
}

CASE(peek_blocks, "a peek waits for the first byte")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "sleep 20; send 3");
    SAY(recv(m.s, text, 9, MSG_PEEK));
    SAY(recv(m.s, text, 9, 0));
}

CASE(waitall, "waits for all, over several sends")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "send 3; sleep 20; send 3; sleep 20; send 4");
    SAY(recv(m.s, text, 10, MSG_WAITALL));
    far_answer(&m.far);
    far_begin(&m.far, "send 3; sleep 20; shutdown wr");
    SAY(recv(m.s, text, 10, MSG_WAITALL));
    SAY(recv(m.s, text, 10, MSG_WAITALL));
}

CASE(waitall_big, "waits for a megabyte")
{
    struct meeting m = meet_as_server(FRESH);
    static char big[1000000];
    far_begin(&m.far, "send 1000000");
    SAY(recv(m.s, big, sizeof big, MSG_WAITALL));
    say("sent %s", far_answer(&m.far));
}

CASE(waitall_dontwait, "MSG_WAITALL does not wait where nothing may wait")
{
    struct pair p = pair_here();
    SAY(recv(p.s, text, 9, MSG_WAITALL | MSG_DONTWAIT));
    SAY(send(p.c, "abc", 3, 0));
    polled_soon(p.s, POLLIN);
    SAY(recv(p.s, text, 9, MSG_WAITALL | MSG_DONTWAIT));
    SAY(send(p.c, "abc", 3, 0));
    polled_soon(p.s, POLLIN);
    set_nonblock(p.s, 1);
    SAY(recv(p.s, text, 9, MSG_WAITALL));
}

CASE(waitall_reset, "a reset while MSG_WAITALL waits")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "send 3; sleep 30; rst");
    SAY(recv(m.s, text, 9, MSG_WAITALL));
    SAY(recv(m.s, text, 9, MSG_WAITALL));
    SAY(recv(m.s, text, 9, MSG_WAITALL));
}

CASE(waitall_timeout, "SO_RCVTIMEO ends MSG_WAITALL with what is there")
{
    struct pair p = pair_here();
    SAY(set_timeout(p.s, SO_RCVTIMEO, 40));
    SAY(send(p.c, "abc", 3, 0));
    SAY(recv(p.s, text, 9, MSG_WAITALL));
    SAY(recv(p.s, text, 9, MSG_WAITALL));
}

static void given_up(struct meeting *m, long bytes, int looks_before)
{
    static char big[20000];
    int ep = epoll_create1(0);
    SAY(set_timeout(m->s, SO_RCVTIMEO, 40));
    SAY(recv(m->s, big, bytes, MSG_WAITALL));
    epoll_add(ep, m->s, EPOLLIN, 1);
    if (looks_before)
        say("%s", epolled(ep, 1, 0));
    far_begin(&m->far, "sleep 20; send 3");
    say("%s", epolled(ep, 1, 500));
    far_answer(&m->far);
    SAY(recv(m->s, big, bytes, MSG_WAITALL));
    far_begin(&m->far, "sleep 20; send 1");
    say("%s", polled(m->s, POLLIN, 500));
    far_answer(&m->far);
}

CASE(waitall_given_up, "who gave up waiting for many bytes hears of few by a set")
{
    struct meeting m = meet_as_client(FRESH);
    given_up(&m, 20000, 1);
    given_up(&m, 100, 0);
    struct meeting n = meet_as_server(FRESH);
    given_up(&n, 20000, 0);
    given_up(&n, 100, 1);
}

CASE(waitall_given_up_here, "the same within one process, for poll and for another thread, too")
{
    struct pair p = pair_in();
    SAY(set_timeout(p.s, SO_RCVTIMEO, 40));
    SAY(recv(p.s, text, 90, MSG_WAITALL));
    int ep = epoll_with(p.s, EPOLLIN, 1);
    say("%s", epolled(ep, 1, 0));
    SAY(send(p.c, "abc", 3, 0));
    say("%s", epolled(ep, 1, 500));
    SAY(recv(p.s, text, 3, 0));
    epoll_del(ep, p.s);
    SAY(recv(p.s, text, 90, MSG_WAITALL));
    SAY(send(p.c, "abc", 3, 0));
    say("%s", polled(p.s, POLLIN, 500));
    SAY(recv(p.s, text, 3, 0));
}

static long poke_main(void *sig)
{
    poke(differ_main_tid, *(int *)sig);
    return 0;
}

CASE(waitall_signal, "a signal ends MSG_WAITALL with what is there")
{
    struct pair p = pair_here();
    struct side side;
    sigset_t usr1;
    int sig = SIGUSR1;
    handle(SIGUSR1, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    SAY(send(p.c, "abc", 3, 0));
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, poke_main, &sig);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SAY(recv(p.s, text, 9, MSG_WAITALL));
    say("handled %d", (int)handled);
}

CASE(waitall_peek, "MSG_PEEK with MSG_WAITALL waits for all and takes nothing")
{
    struct meeting m = meet_as_server(FRESH);
    far_begin(&m.far, "send 3; sleep 20; send 3");
    SAY(recv(m.s, text, 6, MSG_WAITALL | MSG_PEEK));
    SAY(recv(m.s, text, 9, 0));
}

CASE(trunc, "MSG_TRUNC throws bytes away")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abcdef", 6, 0));
    polled_soon(p.s, POLLIN);
    SAY(recv(p.s, NULL, 2, MSG_TRUNC));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    say("%.4s", text);
    SAY(recv(p.s, NULL, 100, MSG_TRUNC));
    SAY(recv(p.s, text, 9, MSG_DONTWAIT));
}

CASE(dontwait, "MSG_DONTWAIT for each call")
{
    struct pair p = pair_here();
    struct iovec part = {text, sizeof text};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    SAY(recv(p.s, text, 9, MSG_DONTWAIT));
    SAY(recvfrom(p.s, text, 9, MSG_DONTWAIT, NULL, NULL));
    SAY(recvmsg(p.s, &message, MSG_DONTWAIT));
    set_nonblock(p.s, 1);
    SAY(read(p.s, text, 9));
    SAY(readv(p.s, &part, 1));
    fill(p.c);
    SAY(send(p.c, text, 9, MSG_DONTWAIT));
    SAY(sendto(p.c, text, 9, MSG_DONTWAIT, NULL, 0));
    SAY(sendmsg(p.c, &message, MSG_DONTWAIT));
    set_nonblock(p.c, 1);
    SAY(write(p.c, text, 9));
    SAY(writev(p.c, &part, 1));
}

CASE(other_flags, "MSG_OOB, MSG_ERRQUEUE, MSG_DONTROUTE, MSG_EOR, MSG_CONFIRM")
{
    struct pair p = pair_here();
    SAY(recv(p.s, text, 9, MSG_OOB));
    SAY(recv(p.s, text, 9, MSG_ERRQUEUE));
    SAY(recv(p.s, text, 9, MSG_ERRQUEUE | MSG_DONTWAIT));
    SAY(send(p.c, "a", 1, MSG_EOR));
    SAY(send(p.c, "a", 1, MSG_CONFIRM));
    SAY(send(p.c, "a", 1, MSG_DONTROUTE));
    say("three: %d", SOON(unread(p.s) == 3));
}

CASE(trunc_first_look, "MSG_TRUNC by one who connected and has not looked yet, without waiting")
{
    struct pair p = pair_here(), q = pair_here();
    SAY(send(p.s, "abc", 3, 0));
    say("found: %d", SOON(recv(p.c, NULL, 2, MSG_TRUNC | MSG_DONTWAIT) == 2));
    SAY(recv(p.c, NULL, 9, MSG_TRUNC | MSG_DONTWAIT));
    SAY(close(q.s));
    say("the end: %d", SOON(recv(q.c, NULL, 9, MSG_TRUNC | MSG_DONTWAIT) == 0));
    struct meeting m = meet_as_client(FRESH);
    say("far: %s", far_do(&m.far, "send 40000"));
    long taken = 0, got;
    say("all: %d",
        SOON((got = recv(m.s, NULL, 40000, MSG_TRUNC | MSG_DONTWAIT)) > 0 && (taken += got) == 40000));
}
