/* party.c - what the processes of these programs begin with; a wrong step ends the process with a sentence
 * and status 1. */
#include "party.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *role = "stress";
uint64_t seed = 1;
char uri[64];

uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull >> 16;
}

void fail(long code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "%s[%d]: ", role, (int)getpid());
    vfprintf(stderr, format, ap); /* NOLINT(clang-analyzer-valist.Uninitialized): va_start is above */
    va_end(ap);
    fprintf(stderr, "%s%s\n", code < 0 ? ": " : "", code < 0 ? berth_strerror((int)code) : "");
    exit(1);
}

void expect(long code, const char *what)
{
    if (code < 0)
        fail(code, "%s", what);
}

uint8_t byte_at(uint64_t key, uint64_t offset)
{
    return (uint8_t)((offset * 0x9e3779b97f4a7c15ull ^ key) >> 32);
}

int64_t time_of(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * SEC + ts.tv_nsec;
}

int64_t now(void)
{
    return time_of(CLOCK_MONOTONIC);
}

void pause_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

int enter(const char *name)
{
    struct berth_attach_options o = {.name = name, .spin_ns = -1};
    return berth_attach(&o);
}

void attach(const char *name)
{
    expect(enter(name), "attach");
}

berth_listener listen_here(uint32_t backlog)
{
    struct berth_listen_options o = {.backlog = backlog};
    berth_listener l;
    int err = berth_listen_uri("tcp://127.0.0.1:0", &o, &l);
    if (err)
        fail(err, "listen");
    struct berth_endpoint ep;
    if ((err = berth_listener_endpoint(l, &ep)) != 0)
        fail(err, "listener endpoint");
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%u", ep.port);
    return l;
}

berth_session dial(void)
{
    berth_session s;
    int err = berth_connect_uri(uri, PATIENCE, &s);
    if (err)
        fail(err, "connect");
    return s;
}

berth_session take(berth_listener l)
{
    berth_session s;
    int err = berth_accept(l, PATIENCE, &s);
    if (err)
        fail(err, "accept");
    return s;
}

void put_all(berth_session s, const void *buf, size_t n)
{
    ssize_t w = berth_write(s, buf, n, PATIENCE);
    if (w != (ssize_t)n)
        fail(w, "write of %zu bytes gave %zd", n, w);
}

void get_all(berth_session s, void *buf, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = berth_read(s, (char *)buf + got, n - got, PATIENCE);
        if (r <= 0)
            fail(r, "read: %zu of %zu bytes came", got, n);
        got += (size_t)r;
    }
}

void expect_end(berth_session s)
{
    char c;
    ssize_t r = berth_read(s, &c, 1, PATIENCE);
    if (r != 0)
        fail(r, "the end of the stream was expected");
}

/* A process of this app or, before anybody attached, of another. */
pid_t start(void (*what)(void *), void *arg)
{
    pid_t pid = fork();
    if (pid < 0)
        fail(0, "fork");
    if (pid == 0) {
        what(arg);
        exit(0);
    }
    return pid;
}

void reap(pid_t pid, const char *what)
{
    int st;
    if (waitpid(pid, &st, 0) != pid || st != 0)
        fail(0, "%s ended with status %x", what, st);
}

/* The far side tells where it listens, then runs. */
struct far {
    void (*serve)(berth_listener);
    int tell;
};

static void far_main(void *arg)
{
    struct far *far = arg;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    attach("far");
    berth_listener l = listen_here(128);
    if (write(far->tell, uri, sizeof uri) != (ssize_t)sizeof uri)
        exit(1);
    close(far->tell);
    far->serve(l);
}

pid_t far_side(void (*serve)(berth_listener))
{
    int fds[2];
    if (pipe(fds) != 0)
        fail(0, "pipe");
    struct far far = {serve, fds[1]};
    pid_t pid = start(far_main, &far);
    close(fds[1]);
    if (read(fds[0], uri, sizeof uri) != (ssize_t)sizeof uri)
        fail(0, "the far side did not begin");
    close(fds[0]);
    return pid;
}
