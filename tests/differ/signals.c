/* signals.c - blocked calls and signals: EINTR or not, by what was installed when the signal came. */
#include "differ.h"

#include <sys/mman.h>
#include <sys/sendfile.h>

static struct pair pair;
static char block[65536];
static long filled;

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

/* Byte by byte: a part that went before the signal would be the answer instead of EINTR. */
static long do_send(void)
{
    for (;;) {
        long n = send(pair.c, block, 1, 0);
        if (n != 1 || handled)
            return n;
    }
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
    poke(differ_main_tid, d->sig);
    if (!d->then_end)
        return 0;
    asleep(differ_main_tid);
    if (d->then_end == 's') {
        return drain(pair.s, filled);
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
        filled = fill(pair.c);
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

#define SIGNALLED(call, end)                                                                                 \
    CASE(call##_without_restart, "a handler without SA_RESTART interrupts " #call)                           \
    {                                                                                                        \
        disturbed(#call, do_##call, 0, 0);                                                                   \
    }                                                                                                        \
    CASE(call##_with_restart, "a handler with SA_RESTART and " #call)                                        \
    {                                                                                                        \
        disturbed(#call, do_##call, SA_RESTART, end);                                                        \
    }                                                                                                        \
    CASE(call##_one_shot, "a handler with SA_RESETHAND and without SA_RESTART interrupts " #call)            \
    {                                                                                                        \
        disturbed(#call, do_##call, (int)SA_RESETHAND, 0);                                                   \
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

/* ---- masks ---- */

CASE(blocked_signal, "a blocked signal does not disturb a read")
{
    struct meeting m = meet_as_server(FRESH);
    sigset_t all;
    handle(SIGUSR1, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    kill(getpid(), SIGUSR1);
    far_begin(&m.far, "sleep 20; send 3");
    SAY(recv(m.s, block, 9, 0));
    say("handled %d", (int)handled);
}

CASE(ppoll_mask, "ppoll lets a pending signal in only while it waits")
{
    struct pair p = pair_here();
    struct pollfd f = {p.s, POLLIN, 0};
    struct timespec some = {1, 0}, zero = {0, 0};
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    handle(SIGUSR1, SA_RESTART);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    kill(getpid(), SIGUSR1);
    SAY(ppoll(&f, 1, &zero, &all));
    SAY(ppoll(&f, 1, &some, &none));
    say("handled %d", (int)handled);
    kill(getpid(), SIGUSR1);
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    SAY(ppoll(&f, 1, &some, &none));
    say("handled %d", (int)handled);
    SAY(recv(p.s, block, 9, 0));
    SAY(ppoll(&f, 1, &some, &none));
    say("handled %d", (int)handled);
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    say("the mask is as before: %d", sigismember(&now, SIGUSR1));
}

CASE(mask_while_waiting, "a signal that only the mask of ppoll lets in ends the wait")
{
    struct pair p = pair_here();
    struct pollfd f = {p.s, POLLIN, 0};
    struct side side;
    sigset_t all, none;
    struct disturb d = {SIGUSR1, 0};
    sigfillset(&all);
    sigemptyset(&none);
    handle(SIGUSR1, SA_RESTART);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    side_start(&side, disturb, &d);
    SAY(ppoll(&f, 1, NULL, &none));
    say("handled %d", (int)handled);
}

CASE(epoll_mask_while_waiting, "the same for epoll_pwait")
{
    struct pair p = pair_here();
    struct epoll_event event;
    int ep = epoll_with(p.s, EPOLLIN, 1);
    struct side side;
    sigset_t all, none;
    struct disturb d = {SIGUSR1, 0};
    sigfillset(&all);
    sigemptyset(&none);
    handle(SIGUSR1, SA_RESTART);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    side_start(&side, disturb, &d);
    SAY(epoll_pwait(ep, &event, 1, -1, &none));
    say("handled %d", (int)handled);
}

/* ---- what is installed when ---- */

static long install_then_poke(void *flags)
{
    asleep(differ_main_tid);
    handle(SIGUSR1, *(int *)flags);
    poke(differ_main_tid, SIGUSR1);
    asleep(differ_main_tid);
    return send(pair.c, "x", 1, 0);
}

static void install_while_blocked(int before, int flags)
{
    struct side side;
    sigset_t usr1;
    pair = pair_here();
    handle(SIGUSR1, before);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, install_then_poke, &flags);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SAY(recv(pair.s, block, 9, 0));
    say("handled %d", (int)handled);
    say("%s", side_end(&side));
}

CASE(installed_while_blocked, "a handler without SA_RESTART is installed while the read is blocked")
{
    install_while_blocked(SA_RESTART, 0);
}

CASE(restart_installed_while_blocked, "a handler with SA_RESTART is installed while the read is blocked")
{
    install_while_blocked(0, SA_RESTART);
}

static void reset_itself(int sig)
{
    handled++;
    signal(sig, SIG_DFL);
}

static void make_restarting(int sig)
{
    struct sigaction action = {.sa_handler = make_restarting, .sa_flags = SA_RESTART};
    handled++;
    sigaction(sig, &action, NULL);
}

static void with_handler(void (*handler)(int), int flags, int then_end)
{
    struct side side;
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct disturb d = {SIGUSR1, then_end};
    sigset_t usr1;
    pair = pair_here();
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, disturb, &d);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SAY(recv(pair.s, block, 9, 0));
    say("handled %d", (int)handled);
}

CASE(handler_resets_itself, "a handler without SA_RESTART that puts SIG_DFL back")
{
    with_handler(reset_itself, 0, 0);
}

CASE(handler_becomes_restarting, "a handler without SA_RESTART that sets SA_RESTART for the next time")
{
    with_handler(make_restarting, 0, 0);
}

CASE(handler_with_restart_resets_itself, "a handler with SA_RESTART that puts SIG_DFL back: the read goes on")
{
    with_handler(reset_itself, SA_RESTART, 'r');
}

static void read_in_handler(int sig)
{
    (void)sig;
    handled += (int)recv(pair.s, (char[1]){0}, 1, MSG_DONTWAIT) == 1;
}

static long send_and_poke(void *nothing)
{
    (void)nothing;
    asleep(differ_main_tid);
    return kill(getpid(), SIGUSR1);
}

CASE(handler_uses_connection, "a handler that reads and writes the same connection")
{
    struct side side;
    struct sigaction action = {.sa_handler = read_in_handler, .sa_flags = 0};
    pair = pair_here();
    sigaction(SIGUSR1, &action, NULL);
    side_start(&side, send_and_poke, NULL);
    SAY(recv(pair.c, block, 9, 0));
    SAY(send(pair.c, "xy", 2, 0));
    polled_soon(pair.s, POLLIN);
    raise(SIGUSR1);
    say("handled %d", (int)handled);
    SAY(recv(pair.s, block, 9, 0));
}

CASE(ignored, "SIG_IGN, and SIGCHLD at its default, do not disturb")
{
    struct meeting m = meet_as_server(FRESH);
    signal(SIGUSR1, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0) {
        asleep(getppid());
        kill(getppid(), SIGUSR1);
        _exit(0); /* SIGCHLD */
    }
    far_begin(&m.far, "sleep 60; send 3");
    SAY(recv(m.s, block, 9, 0));
}

CASE(child_ends, "SIGCHLD with a handler: without SA_RESTART it interrupts poll")
{
    struct pair p = pair_here();
    handle(SIGCHLD, 0);
    pid_t pid = fork();
    if (pid == 0) {
        asleep(getppid());
        _exit(0);
    }
    say("%s", polled(p.s, POLLIN, 3000));
    say("handled %d", (int)handled);
}

/* ---- stopped and continued ---- */

/* A child blocks in the call, is stopped and continued, and then given a byte. */
static void stopped_in(long (*call)(void))
{
    pair = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        errno = 0;
        long n = call();
        say("child: %s", result_text(n, errno));
        exit(0);
    }
    int status;
    asleep(pid);
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    say("stopped %d", WIFSTOPPED(status));
    kill(pid, SIGCONT);
    asleep(pid);
    if (send(pair.c, "x", 1, MSG_NOSIGNAL) != 1)
        say("no send");
    waitpid(pid, &status, 0);
}

CASE(stopped_recv, "recv goes on after SIGSTOP and SIGCONT")
{
    stopped_in(do_recv);
}

CASE(stopped_poll, "poll goes on after SIGSTOP and SIGCONT")
{
    stopped_in(do_poll);
}

CASE(stopped_epoll, "epoll_wait after SIGSTOP and SIGCONT (signal(7): EINTR)")
{
    stopped_in(do_epoll);
}

CASE(alarm_repeats, "a timer without SA_RESTART interrupts each of five reads")
{
    struct itimerval it = {{0, 20000}, {0, 20000}}, none = {{0, 0}, {0, 0}};
    struct pair p = pair_here();
    handle(SIGALRM, 0);
    setitimer(ITIMER_REAL, &it, NULL);
    for (int i = 0; i < 5; i++)
        SAY(recv(p.s, block, 9, 0));
    setitimer(ITIMER_REAL, &none, NULL);
    say("handled five at least: %d", handled >= 5);
}

/* ---- sendfile and splice ---- */

static int endless;

static long do_sendfile(void)
{
    for (;;) {
        off_t at = 0;
        long n = sendfile(pair.c, endless, &at, 1);
        if (n != 1 || handled)
            return n;
    }
}

CASE(sendfile, "a handler without SA_RESTART interrupts sendfile to a full peer")
{
    endless = open("/proc/self/exe", O_RDONLY);
    pair = pair_here();
    struct side side;
    struct disturb d = {SIGUSR1, 0};
    sigset_t usr1;
    fill(pair.c);
    handle(SIGUSR1, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, disturb, &d);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SAY(do_sendfile());
    say("handled %d", (int)handled);
}

CASE(splice, "a handler without SA_RESTART interrupts splice from an idle connection")
{
    int t[2];
    pair = pair_here();
    struct side side;
    struct disturb d = {SIGUSR1, 0};
    sigset_t usr1;
    SAY(pipe(t));
    handle(SIGUSR1, 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, disturb, &d);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SAY(splice(pair.s, NULL, t[1], NULL, 100, 0));
    say("handled %d", (int)handled);
}

static long recv_in_thread(void *nothing)
{
    (void)nothing;
    return do_recv();
}

CASE(to_another_thread, "a signal that goes to another thread does not disturb the blocked one")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    sigset_t usr1;
    handle(SIGUSR1, 0);
    pair.s = m.s;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    side_start(&side, recv_in_thread, NULL);
    side_blocked(&side);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    kill(getpid(), SIGUSR1);
    say("handled %d", SOON(handled == 1));
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "send 3"));
    say("%s", side_end(&side));
}

/* ---- handlers that use sockets while the program is in malloc ---- */

static volatile sig_atomic_t met, missed;

/* All of it async-signal-safe by POSIX. */
static void meet(int sig)
{
    struct pollfd many[40];
    char byte = 0;
    int saved = errno, c = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    (void)sig;
    int ok = setsockopt(c, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof one) == 0 &&
             connect(c, (struct sockaddr *)&differ_at, sizeof differ_at) == 0;
    int s = ok ? accept(pair.l, NULL, NULL) : -1;
    for (int i = 0; i < 40; i++)
        many[i] = (struct pollfd){i & 1 ? s : c, POLLIN, 0};
    ok = ok && s >= 0 && send(c, "x", 1, 0) == 1 && poll(many, 40, 1000) == 20 && recv(s, &byte, 1, 0) == 1 &&
         byte == 'x';
    close(c);
    close(s);
    met++;
    missed += !ok;
    errno = saved;
}

CASE(in_malloc, "a handler connects, accepts, polls and sends, and has interrupted malloc")
{
    pair = pair_here();
    struct itimerval often = {{0, 300}, {0, 300}};
    void *p[64] = {0};
    unsigned seed = 1;
    signal(SIGALRM, meet);
    setitimer(ITIMER_REAL, &often, NULL);
    while (met < 1000) {
        seed = seed * 1103515245u + 12345u;
        unsigned i = seed >> 16 & 63;
        free(p[i]);
        p[i] = malloc(16 + (seed >> 8 & 4095));
    }
    signal(SIGALRM, SIG_IGN);
    say("met %d, missed %d", met >= 1000, (int)missed);
}

/* ---- the mask that a handler has ---- */

static char masks[200];

static void note_mask(int sig)
{
    sigset_t is;
    pthread_sigmask(SIG_SETMASK, NULL, &is);
    size_t at = strlen(masks);
    snprintf(masks + at, sizeof masks - at, "%s:", sig == SIGUSR1 ? "USR1" : "USR2");
    for (int i = 1; i < 32; i++) {
        at = strlen(masks);
        if (sigismember(&is, i))
            snprintf(masks + at, sizeof masks - at, " %d", i);
    }
    at = strlen(masks);
    snprintf(masks + at, sizeof masks - at, "; ");
}

/* Two signals wait, blocked; the call lets both in, and blocks another. */
static void mask_in(int (*call)(const sigset_t *mask))
{
    sigset_t blocked, in;
    pair = pair_here();
    signal(SIGUSR1, note_mask);
    signal(SIGUSR2, note_mask);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    sigemptyset(&in);
    sigaddset(&in, SIGHUP);
    raise(SIGUSR1);
    raise(SIGUSR2);
    errno = 0;
    int n = call(&in);
    say("%s, %s", result_text(n, errno), masks);
    masks[0] = 0;
    note_mask(SIGUSR1);
    say("after it: %s", masks);
}

static int in_ppoll(const sigset_t *mask)
{
    struct pollfd p = {pair.s, POLLIN, 0};
    return ppoll(&p, 1, NULL, mask);
}

static int in_kernels_ppoll(const sigset_t *mask)
{
    int q[2] = {-1, -1};
    struct pollfd p = {pipe(q) ? -1 : q[0], POLLIN, 0};
    return ppoll(&p, 1, NULL, mask);
}

static int in_epoll_pwait(const sigset_t *mask)
{
    struct epoll_event event;
    return epoll_pwait(epoll_with(pair.s, EPOLLIN, 1), &event, 1, -1, mask);
}

CASE(mask_of_ppoll, "the masks that handlers have in ppoll")
{
    mask_in(in_ppoll);
}

CASE(mask_of_kernels_ppoll, "the masks that handlers have in ppoll for a pipe")
{
    mask_in(in_kernels_ppoll);
}

CASE(mask_of_epoll_pwait, "the masks that handlers have in epoll_pwait")
{
    mask_in(in_epoll_pwait);
}

CASE(mask_of_sigsuspend, "the masks that handlers have in sigsuspend")
{
    mask_in(sigsuspend);
}

/* ---- calls that have moved bytes before ---- */

static long take_all(void)
{
    return recv(pair.s, block, 9, MSG_WAITALL);
}

static long look_at_all(void)
{
    return recv(pair.s, block, 9, MSG_WAITALL | MSG_PEEK);
}

static long take_message(void)
{
    struct iovec iov = {block, 9};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    return recvmsg(pair.s, &m, MSG_WAITALL);
}

static long take_enough(void)
{
    set_option(pair.s, SO_RCVLOWAT, 9);
    return recv(pair.s, block, 90, 0);
}

static long take_messages(void)
{
    struct iovec iov = {block, 3};
    struct mmsghdr m[2] = {{{.msg_iov = &iov, .msg_iovlen = 1}, 0}, {{.msg_iov = &iov, .msg_iovlen = 1}, 0}};
    return recvmmsg(pair.s, m, 2, 0, NULL);
}

static char much[1 << 26];

static long part_of(long n)
{
    return n > 0 && n < (long)sizeof much ? 1 : n;
}

static long send_much(void)
{
    return part_of(send(pair.c, much, sizeof much, 0));
}

static long write_much(void)
{
    struct iovec iov[2] = {{much, 1000}, {much, sizeof much - 1000}};
    return part_of(writev(pair.c, iov, 2));
}

static long sendfile_much(void)
{
    int f = memfd_create("x", 0);
    return ftruncate(f, sizeof much) ? -1 : part_of(sendfile(pair.c, f, NULL, sizeof much));
}

static long poke_and_leave(void *nothing)
{
    (void)nothing;
    poke(differ_main_tid, SIGUSR1);
    return 0;
}

/* The kernel goes on only with what has moved nothing yet. */
static void disturbed_halfway(const char *name, long (*call)(void))
{
    struct side side;
    sigset_t set;
    pair = pair_here();
    SAY(send(pair.c, "abc", 3, 0));
    handle(SIGUSR1, SA_RESTART);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    side_start(&side, poke_and_leave, NULL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    errno = 0;
    long n = call();
    say("%s: %s, handled %d", name, result_text(n, errno), (int)handled);
}

#define HALFWAY(call)                                                                                        \
    CASE(call##_halfway, "a handler with SA_RESTART ends " #call " with what has moved")                     \
    {                                                                                                        \
        disturbed_halfway(#call, call);                                                                      \
    }

HALFWAY(take_all)
HALFWAY(look_at_all)
HALFWAY(take_message)
HALFWAY(take_enough)
HALFWAY(take_messages)
HALFWAY(send_much)
HALFWAY(write_much)
HALFWAY(sendfile_much)

static long send_two(void)
{
    struct iovec iov[2] = {{much, sizeof much}, {block, 100}};
    struct mmsghdr m[2] = {{{.msg_iov = &iov[0], .msg_iovlen = 1}, 0},
                           {{.msg_iov = &iov[1], .msg_iovlen = 1}, 0}};
    return sendmmsg(pair.c, m, 2, 0);
}

HALFWAY(send_two)

static long use_as_asked(struct pair p)
{
    SAY(fcntl(p.s, F_SETOWN, getpid()));
    return fcntl(p.s, F_SETFL, fcntl(p.s, F_GETFL) | O_ASYNC);
}

CASE(sigio, "who has asked for signals of a connection gets one when something comes")
{
    handle(SIGIO, 0);
    struct pair p = pair_here();
    SAY(use_as_asked(p));
    SAY(send(p.c, "x", 1, 0));
    say("handled %d", SOON(handled));
    SAY(recv(p.s, block, 9, 0));
}
