/* idle.c - many threads that wait, each for a session of its own, and a client that holds those sessions and
 * does nothing. test_idle.py runs both under berth, looks from outside whether they really sleep, and then
 * has the client wake everyone.
 *
 *   idle serve WAY COUNT PORT   COUNT threads, each with one session, blocked in WAY: recv, poll, select,
 *                               epoll or accept
 *   idle serve leap COUNT PORT  as recv; at SIGUSR1 a handler leaves the sleep by siglongjmp, and the thread
 *                               ends: all but one do
 *   idle hold WAY COUNT PORT    COUNT sessions, then pause(); SIGUSR1 wakes all at once, SIGUSR2 one after
 *                               the other
 *
 * "accept" is different: each thread has its session, and is blocked in accept at the listener that all
 * share; to wake it takes a new connection. A thread answers a byte with the next one, so that an answer is
 * never the byte itself.
 *
 * Each side prints a line for the test when it is as far: "blocked" or "holding", then "answered N of COUNT"
 * for each round. Only pause() stands between: the client makes no call that berth could use to do something
 * meanwhile.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../slowness.h"

enum { LONGEST_S = 100, ANSWER_MS = 10000, STACK = 128 * 1024 };
enum way { RECV, POLL, SELECT, EPOLL, ACCEPT, LEAP, WAYS };
static const char *const way_name[WAYS] = {"recv", "poll", "select", "epoll", "accept", "leap"};

static enum way way;
static int count, listener;
static int *sessions;
static volatile sig_atomic_t asked; /* by which signal */

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    int error = errno;
    va_list list;
    va_start(list, format);
    (void)vfprintf(stderr, format, list);
    va_end(list);
    (void)fprintf(stderr, ": %s\n", strerror(error));
    exit(1);
}

static struct sockaddr_in address(const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* Until there is something to read at fd, the thread's way. The set of its own was made before. */
static void sleep_on(int fd, int set)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct epoll_event event;
    fd_set look;
    int n = 1;
    if (way == POLL)
        n = poll(&p, 1, -1);
    if (way == EPOLL)
        n = epoll_wait(set, &event, 1, -1);
    if (way == SELECT) {
        FD_ZERO(&look);
        FD_SET(fd, &look);
        n = select(fd + 1, &look, NULL, NULL, NULL);
    }
    if (n != 1)
        fail("a wait in %s gave %d", way_name[way], n);
}

/* False at the end of the session. */
static int answer(int fd, int flags)
{
    char c;
    ssize_t n = recv(fd, &c, 1, flags);
    if (n < 0)
        fail("recv (%s)", way_name[way]);
    c++;
    if (n == 1 && send(fd, &c, 1, MSG_NOSIGNAL) != 1)
        fail("send");
    return n == 1;
}

static void *serve_one(void *arg)
{
    int fd = *(int *)arg, set = -1;
    if (way == EPOLL) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if ((set = epoll_create1(0)) < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event))
            fail("an event set");
    }
    /* whoever was told that there is something must get it: only recv itself may block */
    do
        sleep_on(fd, set);
    while (answer(fd, way == RECV || way == LEAP ? 0 : MSG_DONTWAIT));
    return NULL;
}

/* A new connection wakes whichever thread; each brings one byte. */
static void *accept_some(void *arg)
{
    (void)arg;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            fail("accept");
        (void)answer(fd, 0);
        (void)close(fd);
    }
}

static __thread sigjmp_buf leap;

static void on_leap(int signal)
{
    (void)signal;
    siglongjmp(leap, 1);
}

static void *leaper(void *arg)
{
    if (!sigsetjmp(leap, 1))
        (void)serve_one(arg);
    return NULL;
}

/* All but the last thread end so. */
static void leap_when_asked(const pthread_t *threads)
{
    sigset_t set;
    int sig;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigwait(&set, &sig);
    for (int i = 0; i < count - 1; i++)
        if (pthread_kill(threads[i], SIGUSR2) || pthread_join(threads[i], NULL))
            fail("a thread that leaps");
    (void)puts("leapt");
}

static void *(*thread_of(int i))(void *)
{
    return way == ACCEPT ? accept_some : way == LEAP && i < count - 1 ? leaper : serve_one;
}

static int serve(const char *port)
{
    struct sigaction action = {.sa_handler = on_leap};
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGUSR1);
    if (sigaction(SIGUSR2, &action, NULL) || pthread_sigmask(SIG_BLOCK, &set, NULL))
        fail("signals");
    struct sockaddr_in a = address(port);
    int one = 1;
    pthread_attr_t attr;
    pthread_t *threads = calloc((size_t)count, sizeof *threads);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (!threads || listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096))
        fail("listening");
    if (pthread_attr_init(&attr) || pthread_attr_setstacksize(&attr, STACK))
        fail("attributes of threads");
    for (int i = 0; i < count; i++)
        if ((sessions[i] = accept(listener, NULL, NULL)) < 0)
            fail("accept %d", i);
    for (int i = 0; i < count; i++)
        if ((errno = pthread_create(&threads[i], &attr, thread_of(i), &sessions[i])))
            fail("thread %d", i);
    (void)puts("blocked");
    if (way == LEAP)
        leap_when_asked(threads);
    for (int i = way == LEAP ? count - 1 : 0; i < count; i++)
        (void)pthread_join(threads[i], NULL);
    (void)puts("all sessions have ended");
    return 0;
}

static int new_session(const char *port)
{
    struct sockaddr_in a = address(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
        fail("connect");
    return fd;
}

static int answered(int fd, char sent)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char got = 0;
    return poll(&p, 1, (int)longer(ANSWER_MS)) == 1 && recv(fd, &got, 1, MSG_DONTWAIT) == 1 &&
           got == sent + 1;
}

/* Once a wake is lost, the others are not waited for as long: they are asked once, at the end of the one long
 * wait. */
static void wake_all(int all_at_once, const char *port)
{
    int good = 0, *fds = calloc((size_t)count, sizeof *fds);
    if (!fds)
        fail("memory");
    for (int i = 0; i < count; i++) {
        char byte = (char)('A' + i % 26);
        fds[i] = way == ACCEPT ? new_session(port) : sessions[i];
        if (send(fds[i], &byte, 1, MSG_NOSIGNAL) != 1)
            fail("send");
        if (!all_at_once) {
            if (!answered(fds[i], byte))
                break;
            good++;
        }
    }
    for (int i = 0; all_at_once && i < count && good == i; i++)
        good += answered(fds[i], (char)('A' + i % 26));
    for (int i = 0; way == ACCEPT && i < count; i++)
        if (fds[i] > 0)
            (void)close(fds[i]);
    free(fds);
    (void)printf("answered %d of %d\n", good, count);
}

static void on_signal(int signal)
{
    asked = signal;
}

static int hold(const char *port)
{
    struct sigaction action = {.sa_handler = on_signal};
    if (sigaction(SIGUSR1, &action, NULL) || sigaction(SIGUSR2, &action, NULL))
        fail("signals");
    for (int i = 0; i < count; i++)
        sessions[i] = new_session(port);
    (void)puts("holding");
    for (;;) {
        (void)pause();
        wake_all(asked == SIGUSR1, port);
    }
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    if (argc != 5) {
        (void)fputs("usage: idle serve|hold recv|poll|select|epoll|accept COUNT PORT\n", stderr);
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)alarm((unsigned)longer(LONGEST_S));
    while (way < WAYS && strcmp(argv[2], way_name[way]) != 0)
        way++;
    count = atoi(argv[3]);
    sessions = calloc((size_t)count, sizeof *sessions);
    if (way == WAYS || count < 1 || !sessions)
        fail("not a way to wait, or not a count");
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return strcmp(argv[1], "serve") == 0 ? serve(argv[4]) : hold(argv[4]);
}
