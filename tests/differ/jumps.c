/* jumps.c - handlers that leave a blocked call by siglongjmp, and waits that a forked child has no part in.
 */
#include "differ.h"

#include <dirent.h>
#include <setjmp.h>

#define ROUNDS 150 /* more than there are places for what a wait keeps */

static sigjmp_buf out;
static struct pair pair;
static int set;

static void jump(int sig)
{
    (void)sig;
    siglongjmp(out, 1);
}

static int descriptors(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

static void do_recv(void)
{
    char byte;
    (void)!recv(pair.s, &byte, 1, 0);
}

static void do_poll(void)
{
    struct pollfd p[2] = {{pair.s, POLLIN, 0}, {pair.c, POLLIN, 0}};
    (void)poll(p, 2, -1);
}

static void do_poll_many(void)
{
    struct pollfd p[100];
    for (int i = 0; i < 100; i++)
        p[i] = (struct pollfd){pair.s, POLLIN, 0};
    (void)poll(p, 100, -1);
}

static void do_select(void)
{
    fd_set r;
    FD_ZERO(&r);
    FD_SET(pair.s, &r);
    FD_SET(pair.c, &r);
    (void)select((pair.s > pair.c ? pair.s : pair.c) + 1, &r, NULL, NULL, NULL);
}

static void do_accept(void)
{
    (void)accept(pair.l, NULL, NULL);
}

static void do_epoll(void)
{
    struct epoll_event event;
    (void)epoll_wait(set, &event, 1, -1);
}

static void do_fresh_epoll(void)
{
    set = epoll_with(pair.s, EPOLLIN, 1);
    do_epoll();
}

static void jump_out(void (*call)(void))
{
    struct itimerval once = {.it_value = {0, 1000}};
    if (sigsetjmp(out, 1) == 0) {
        setitimer(ITIMER_REAL, &once, NULL);
        call();
        say("it has returned");
    }
    if (call == do_fresh_epoll)
        close(set);
}

/* Nothing is left behind, and everything works afterwards. */
static void jumps(void (*call)(void))
{
    pair = pair_here();
    set = epoll_with(pair.s, EPOLLIN, 1);
    signal(SIGALRM, jump);
    for (int i = 0; i < 10; i++)
        jump_out(call);
    int before = descriptors();
    for (int i = 0; i < ROUNDS; i++)
        jump_out(call);
    say("descriptors left behind: %d", descriptors() - before);
    set = epoll_with(pair.s, EPOLLIN, 1);
    say("idle: %s %s %s", polled(pair.s, POLLIN, 5), selected(pair.s, "r", 5), epolled(set, 8, 5));
    char byte;
    say("a byte: %zd", send(pair.c, "x", 1, 0));
    say("%s %s %s", polled(pair.s, POLLIN, 500), selected(pair.s, "r", 500), epolled(set, 8, 500));
    say("%zd", recv(pair.s, &byte, 1, 0));
}

CASE(recv, "out of recv")
{
    jumps(do_recv);
}

CASE(poll, "out of poll for two")
{
    jumps(do_poll);
}

CASE(poll_many, "out of poll for a hundred")
{
    jumps(do_poll_many);
}

CASE(select, "out of select")
{
    jumps(do_select);
}

CASE(accept, "out of accept")
{
    jumps(do_accept);
}

CASE(epoll, "out of epoll_wait")
{
    jumps(do_epoll);
}

CASE(epoll_closed, "out of epoll_wait, the set is closed and another one made, each time")
{
    jumps(do_fresh_epoll);
}

/* ---- and then the thread ends ---- */

static __thread sigjmp_buf thread_out;
static __thread volatile sig_atomic_t may_jump; /* the frame to jump to is there */

static void thread_jump(int sig)
{
    (void)sig;
    if (may_jump)
        siglongjmp(thread_out, 1);
}

struct leap {
    void (*call)(void);
    int cancelled;
};

static void __attribute__((noinline)) use_the_stack(void)
{
    volatile char used[4096];
    for (size_t i = 0; i < sizeof used; i++)
        used[i] = (char)i;
}

static long leap_and_end(void *it)
{
    struct leap *leap = it;
    if (sigsetjmp(thread_out, 1) == 0) {
        may_jump = 1;
        leap->call();
    }
    may_jump = 0;
    use_the_stack();
    if (!leap->cancelled)
        pthread_exit((void *)7);
    for (;;)
        pause();
}

CASE(thread_ends, "out of each call, and then the thread ends, or is cancelled")
{
    void (*const calls[])(void) = {do_recv, do_poll, do_poll_many, do_select, do_accept, do_epoll};
    pair = pair_here();
    set = epoll_with(pair.s, EPOLLIN, 1);
    signal(SIGUSR1, thread_jump);
    for (int i = 0; i < 12; i++) {
        struct leap leap = {calls[i / 2], i % 2};
        struct side side;
        side_start(&side, leap_and_end, &leap);
        side_blocked(&side);
        pthread_kill(side.thread, SIGUSR1);
        nap(5);
        if (leap.cancelled)
            pthread_cancel(side.thread);
        void *value = NULL;
        say("%d", pthread_join(side.thread, &value));
        say("%s", value == PTHREAD_CANCELED ? "cancelled" : value == (void *)7 ? "ended" : "?");
    }
}

/* A signal that a thread raises by what it does, sent by another. */
static void jump_of_fault(int sig)
{
    struct itimerval once = {.it_value = {0, 1000}};
    pair = pair_here();
    set = epoll_with(pair.s, EPOLLIN, 1);
    signal(sig, jump);
    handle(SIGUSR1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        nap(20);
        kill(getppid(), sig);
        _exit(0);
    }
    if (sigsetjmp(out, 1) == 0)
        do_epoll();
    use_the_stack();
    waitpid(pid, NULL, 0);
    raise(SIGUSR1);
    setitimer(ITIMER_REAL, &once, NULL);
    handle(SIGALRM, 0);
    say("%s, handled %d", epolled(set, 8, 50), (int)handled > 0);
}

CASE(fault, "out of epoll_wait, by a handler of SIGSEGV")
{
    jump_of_fault(SIGSEGV);
}

CASE(abort, "out of epoll_wait, by a handler of SIGABRT")
{
    jump_of_fault(SIGABRT);
}

/* ---- others wait as well ---- */

static long wait_level(void *unused)
{
    struct epoll_event event;
    (void)unused;
    return epoll_wait(set, &event, 1, 1000);
}

static long wait_and_leap(void *unused)
{
    long n = 0;
    if (sigsetjmp(thread_out, 1) == 0) {
        may_jump = 1;
        n = wait_level(unused);
        may_jump = 0;
        return n;
    }
    may_jump = 0;
    return 0;
}

CASE(wake_left_behind,
     "a handler leaves a wait for good at the moment in which a byte comes: another thread is told")
{
    int lost = 0;
    pair = pair_here();
    set = epoll_with(pair.s, EPOLLIN, 1);
    signal(SIGUSR1, thread_jump);
    for (int i = 0; i < 100 && !lost; i++) {
        struct side a, b;
        char byte;
        side_start(&a, wait_and_leap, NULL);
        side_start(&b, wait_level, NULL);
        side_blocked(&a);
        side_blocked(&b);
        (void)!send(pair.c, "x", 1, 0);
        for (volatile int spin = 0; spin < i % 20 * 500; spin++)
            ;
        pthread_kill(a.thread, SIGUSR1);
        side_end(&a);
        lost += strcmp(side_end(&b), "1") != 0;
        (void)!recv(pair.s, &byte, 1, 0);
    }
    say("not told: %d", lost);
}

/* ---- handlers that do come back ---- */

static void close_the_set(int sig)
{
    (void)sig;
    close(set);
}

CASE(closed_by_handler, "a handler closes the set that its thread waits in; another one is made")
{
    pair = pair_here();
    struct pair q = pair_here();
    struct itimerval once = {.it_value = {0, 20000}};
    set = epoll_with(pair.s, EPOLLIN, 1);
    signal(SIGALRM, close_the_set);
    setitimer(ITIMER_REAL, &once, NULL);
    struct epoll_event event;
    SAY(epoll_wait(set, &event, 1, -1));
    int other = epoll_with(q.s, EPOLLIN, 2);
    say("idle: %s", epolled(other, 8, 5));
    SAY(send(q.c, "x", 1, 0));
    say("%s", epolled(other, 8, 500));
}

static int in_handler;

static void fork_there(int sig)
{
    (void)sig;
    in_handler = fork();
}

/* Of the two processes that come back from the wait each goes on with it. */
static void forked_in(const char *(*look)(void))
{
    pair = pair_here();
    struct itimerval once = {.it_value = {0, 20000}};
    set = epoll_with(pair.s, EPOLLIN, 1);
    signal(SIGALRM, fork_there);
    setitimer(ITIMER_REAL, &once, NULL);
    const char *result = look();
    if (in_handler == 0)
        _exit(strcmp(result, "-1 EINTR") != 0 || send(pair.c, "child", 5, 0) != 5 ||
              strcmp(polled(pair.s, POLLIN, 500), "IN") != 0);
    int status = -1;
    waitpid(in_handler, &status, 0);
    say("%s, child: %d", result, status);
    say("%s %s", polled(pair.s, POLLIN, 500), epolled(set, 8, 500));
    say("%d", unread(pair.s));
}

static const char *wait_poll(void)
{
    struct pollfd p = {pair.s, POLLIN, 0};
    int n = poll(&p, 1, -1);
    return result_text(n, errno);
}

static const char *wait_epoll(void)
{
    struct epoll_event event;
    int n = epoll_wait(set, &event, 1, -1);
    return result_text(n, errno);
}

CASE(fork_in_poll, "a handler forks while its thread polls")
{
    forked_in(wait_poll);
}

CASE(fork_in_epoll, "a handler forks while its thread waits in a set")
{
    forked_in(wait_epoll);
}

/* ---- the waits of the parent's threads ---- */

#define SETS 60

static long wait_in(void *ep)
{
    struct epoll_event event;
    return epoll_wait(*(int *)ep, &event, 1, 3000);
}

CASE(parents_waits, "a child closes the sets that its parent's threads wait in: nothing is left of them")
{
    static int sets[SETS];
    static struct side side[SETS];
    pair = pair_here();
    for (int i = 0; i < SETS; i++) {
        sets[i] = epoll_with(pair.s, EPOLLIN, i);
        side_start(&side[i], wait_in, &sets[i]);
    }
    for (int i = 0; i < SETS; i++)
        side_blocked(&side[i]);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < SETS; i++)
            close(sets[i]);
        _exit(descriptors() < SETS ? 0 : 1);
    }
    int status = -1, told = 0;
    waitpid(pid, &status, 0);
    say("child: %d", status);
    SAY(send(pair.c, "x", 1, 0));
    for (int i = 0; i < SETS; i++)
        told += strcmp(side_end(&side[i]), "1") == 0;
    say("told: %d", told);
}
