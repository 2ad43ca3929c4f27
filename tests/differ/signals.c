/* signals.c - blocked calls and signals: EINTR or not, by what was installed when the signal came. */
#include "differ.h"

static struct pair pair;
static char block[65536];

/* What the main thread blocks in. Each gives what the call gave. */
static long do_recv(void)
{
    return recv(pair.s, block, 9, 0);
}

static long do_read(void)
{
    return read(pair.s, block, 9);
}

static long do_accept(void)
{
    int fd = accept(pair.l, NULL, NULL);
    return fd < 0 ? -1 : 0;
}

static long do_send(void)
{
    return send(pair.c, block, sizeof block, 0);
}

static long do_poll(void)
{
    struct pollfd p = {pair.s, POLLIN, 0};
    return poll(&p, 1, -1);
}

static long do_select(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pair.s, &set);
    return select(pair.s + 1, &set, NULL, NULL, NULL);
}

static long do_epoll(void)
{
    struct epoll_event event;
    return epoll_wait(epoll_with(pair.s, EPOLLIN, 1), &event, 1, -1);
}

struct disturb {
    int sig, then_end;
};

/* Sends the signal to the blocked main thread; when that goes on blocking, gives it what it waits for. */
static long disturb(void *it)
{
    struct disturb *d = it;
    static char rest[1 << 20];
    poke(differ_main_tid, d->sig);
    if (!d->then_end)
        return 0;
    asleep(differ_main_tid);
    if (d->then_end == 's') {
        while (recv(pair.s, rest, sizeof rest, MSG_DONTWAIT) > 0)
            nap(1);
        return 0;
    }
    if (d->then_end == 'a')
        return dial();
    return send(pair.c, "x", 1, 0);
}

static void disturbed(const char *name, long (*call)(void), int flags, int then_end)
{
    struct side side;
    struct disturb d = {SIGUSR1, then_end};
    sigset_t set;
    pair = pair_here();
    if (call == do_send)
        fill(pair.c);
    handle(SIGUSR1, flags);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    side_start(&side, disturb, &d);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    errno = 0;
    long n = call();
    say("%s: %s, handled %d", name, result_text(n, errno), (int)handled);
    if (then_end)
        side_end(&side);
}

#define SIGNALLED(call, end)                                                                                       \
    CASE(call##_without_restart, "a handler without SA_RESTART interrupts " #call)                                 \
    {                                                                                                              \
        disturbed(#call, do_##call, 0, 0);                                                                         \
    }                                                                                                              \
    CASE(call##_with_restart, "a handler with SA_RESTART and " #call)                                              \
    {                                                                                                              \
        disturbed(#call, do_##call, SA_RESTART, end);                                                              \
    }                                                                                                              \
    CASE(call##_one_shot, "a handler with SA_RESETHAND and without SA_RESTART interrupts " #call)                  \
    {                                                                                                              \
        disturbed(#call, do_##call, (int)SA_RESETHAND, 0);                                                         \
    }
SIGNALLED(recv, 'r')
SIGNALLED(read, 'r')
SIGNALLED(accept, 'a')
SIGNALLED(send, 's')
SIGNALLED(poll, 0)
SIGNALLED(select, 0)
SIGNALLED(epoll, 0)

CASE(restart_beside_another, "SA_RESTART goes on though another signal has a handler without it")
{
    handle(SIGTERM, 0);
    disturbed("recv", do_recv, SA_RESTART, 'r');
}

CASE(one_shot_restart, "SA_RESETHAND with SA_RESTART goes on")
{
    disturbed("recv", do_recv, (int)SA_RESETHAND | SA_RESTART, 'r');
}

CASE(no_defer, "SA_NODEFER interrupts as any")
{
    disturbed("recv", do_recv, SA_NODEFER, 0);
}
