/* timeouts.c - SO_RCVTIMEO and SO_SNDTIMEO; timeouts of poll and of sets. */
#include "differ.h"

static char text[65536];

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

CASE(recv, "a read ends with EAGAIN, not before its time")
{
    struct pair p = pair_here();
    SAY(set_timeout(p.s, SO_RCVTIMEO, 50));
    long start = now_ms();
    SAY(recv(p.s, text, 9, 0));
    say("it waited: %d", now_ms() - start >= 45);
    SAY(read(p.s, text, 9));
    SAY(recv(p.s, text, 9, MSG_PEEK));
    SAY(send(p.c, "x", 1, 0));
    SAY(recv(p.s, text, 9, 0));
}

CASE(recv_gets_data, "data within the time")
{
    struct meeting m = meet_as_server(FRESH);
    SAY(set_timeout(m.s, SO_RCVTIMEO, 3000));
    far_begin(&m.far, "sleep 20; send 5");
    SAY(recv(m.s, text, 9, 0));
}

CASE(send, "a write to a full peer ends with EAGAIN")
{
    struct pair p = pair_here();
    SAY(set_timeout(p.c, SO_SNDTIMEO, 50));
    fill(p.c);
    long start = now_ms();
    SAY(send_till_error(p.c));
    say("it waited: %d", now_ms() - start >= 45);
}

CASE(send_part, "a big write gives what went before its time was over")
{
    struct pair p = pair_here();
    static char big[30000000];
    SAY(set_timeout(p.c, SO_SNDTIMEO, 100));
    long n = send(p.c, big, sizeof big, 0);
    say("some but not all: %d", n > 0 && n < (long)sizeof big);
}

CASE(accept, "accept of a listener with SO_RCVTIMEO; what it gives has the timeout too")
{
    int l = listener(4);
    SAY(set_timeout(l, SO_RCVTIMEO, 40));
    SAY(accept(l, NULL, NULL));
    int c = dial(), s = accept(l, NULL, NULL);
    struct timeval tv;
    socklen_t len = sizeof tv;
    say("%d", c >= 0 && s >= 0);
    SAY(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
    say("inherited: %ld us of 40000", (long)tv.tv_usec);
    SAY(recv(s, text, 9, 0));
}

CASE(read_back, "getsockopt gives it back; 0, negative, bad, short")
{
    struct pair p = pair_here();
    struct timeval tv = {3, 200000}, bad = {0, 1000000}, minus = {-1, 0};
    socklen_t len = sizeof tv;
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    tv = (struct timeval){9, 9};
    SAY(getsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
    say("%ld.%06ld, length %u", (long)tv.tv_sec, (long)tv.tv_usec, (unsigned)len);
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &bad, sizeof bad));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &tv, 4));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_RCVTIMEO, &minus, sizeof minus));
    SAY(recv(p.s, text, 9, 0));
    SAY(getsockopt(p.s, SOL_SOCKET, SO_SNDTIMEO, &tv, &len));
    say("%ld.%06ld", (long)tv.tv_sec, (long)tv.tv_usec);
}

CASE(poll_ignores_it, "poll and select do not heed SO_RCVTIMEO")
{
    struct meeting m = meet_as_server(FRESH);
    SAY(set_timeout(m.s, SO_RCVTIMEO, 10));
    far_begin(&m.far, "sleep 50; send 1");
    say("%s", polled(m.s, POLLIN, 2000));
    say("%s", selected(m.s, "r", 2000));
}

CASE(non_blocking, "a non-blocking read does not wait for SO_RCVTIMEO")
{
    struct pair p = pair_here();
    SAY(set_timeout(p.s, SO_RCVTIMEO, 4000));
    set_nonblock(p.s, 1);
    long start = now_ms();
    SAY(recv(p.s, text, 9, 0));
    say("at once: %d", now_ms() - start < 2000);
}

CASE(set_while_blocked, "a timeout that is set while a read waits does not end that read")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        asleep(getppid());
        set_timeout(p.s, SO_RCVTIMEO, 20);
        nap(60);
        _exit(send(p.c, "x", 1, 0) != 1);
    }
    SAY(recv(p.s, text, 9, 0));
}

static long poke_main(void *sig)
{
    poke(differ_main_tid, *(int *)sig);
    return 0;
}

static void with_signal(int fd, int option, int accepting)
{
    struct side side;
    sigset_t usr1;
    int sig = SIGUSR1;
    handle(SIGUSR1, SA_RESTART);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    SAY(set_timeout(fd, option, 4000));
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, poke_main, &sig);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    if (accepting)
        SAY(accept(fd, NULL, NULL));
    else if (option == SO_RCVTIMEO)
        SAY(recv(fd, text, 9, 0));
    else
        SAY(send_till_error(fd));
    say("handled %d", (int)handled);
}

CASE(recv_restart, "with SO_RCVTIMEO a signal ends recv even with SA_RESTART (signal(7))")
{
    with_signal(pair_here().s, SO_RCVTIMEO, 0);
}

CASE(accept_restart, "the same for accept")
{
    with_signal(listener(4), SO_RCVTIMEO, 1);
}

CASE(send_restart, "with SO_SNDTIMEO a signal ends send even with SA_RESTART")
{
    struct pair p = pair_here();
    fill(p.c);
    with_signal(p.c, SO_SNDTIMEO, 0);
}

CASE(poll_waits, "poll, select and epoll_wait wait as long as was said")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    long start = now_ms();
    say("%s", polled(p.s, POLLIN, 30));
    say("%d", now_ms() - start >= 29);
    start = now_ms();
    say("%s", selected(p.s, "r", 30));
    say("%d", now_ms() - start >= 29);
    start = now_ms();
    say("%s", epolled(ep, 4, 30));
    say("%d", now_ms() - start >= 29);
}

static long recv_nothing(void *fd)
{
    return recv(*(int *)fd, NULL, 0, 0);
}

CASE(recv_nothing, "a recv of no bytes waits, once, and gives 0 whatever ended that")
{
    struct pair p = pair_here();
    char byte;
    struct iovec none = {&byte, 0};
    struct msghdr message = {.msg_iov = &none, .msg_iovlen = 1};
    struct side side;
    SAY(recv(p.s, &byte, 0, MSG_DONTWAIT));
    SAY(set_timeout(p.s, SO_RCVTIMEO, 30));
    SAY(recv(p.s, &byte, 0, 0));
    SAY(recv(p.s, &byte, 0, MSG_PEEK));
    SAY(recv(p.s, &byte, 0, MSG_WAITALL));
    SAY(recvmsg(p.s, &message, 0));
    SAY(read(p.s, &byte, 0));
    SAY(set_timeout(p.s, SO_RCVTIMEO, 0));
    handle(SIGUSR1, 0);
    side_start(&side, recv_nothing, &p.s);
    side_blocked(&side);
    pthread_kill(side.thread, SIGUSR1);
    say("a signal: %s", side_end(&side));
    say("handled %d", (int)handled);
    side_start(&side, recv_nothing, &p.s);
    side_blocked(&side);
    SAY(send(p.c, "x", 1, 0));
    say("a byte: %s", side_end(&side));
    SAY(recv(p.s, &byte, 1, 0));
    side_start(&side, recv_nothing, &p.s);
    side_blocked(&side);
    reset(p.c);
    say("a reset: %s", side_end(&side));
    SAY(recv(p.s, &byte, 0, 0));
    SAY(recv(p.s, &byte, 0, 0));
}
