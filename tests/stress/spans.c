/* spans.c - who waits while somebody else has a span of the session open.
 *
 * A thread or a process holds a span; others wait for its end. They must sleep, be told at once when it is
 * closed, and not wait for ever when its holder is killed in it, or closes the session meanwhile. All can be
 * cancelled, and have deadlines.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/client.h"
#include "party.h"

#define HELD (400 * MS)
#define SOON longer(100 * MS)
#define CPU (HELD / 4) /* a waiter that spun would need HELD */
#define WAITERS 4

static berth_session mine;

static void echo(berth_listener l)
{
    berth_session s = take(l);
    char c;
    put_all(s, "x", 1); /* something to read */
    for (;;)
        get_all(s, &c, 1);
}

static void span_open(uint32_t events)
{
    struct iovec v[2];
    long n = events == EPOLLOUT ? client_write_spans(mine, 1, v) : client_read_spans(mine, v);
    if (n <= 0)
        fail(n, "no span");
}

static void span_close(uint32_t events)
{
    expect(events == EPOLLOUT ? client_write_commit(mine, 0) : client_read_consume(mine, 0),
           "the span is closed");
}

struct waiter {
    pthread_t thread;
    uint32_t events;
    int64_t deadline, ended, cpu;
    int result;
};

static void *wait_for_it(void *arg)
{
    struct waiter *w = arg;
    struct sleep_mark mark = sleep_mark_now();
    int64_t cpu = time_of(CLOCK_THREAD_CPUTIME_ID);
    w->result = client_wait_span(mine, w->events, w->deadline, &mark);
    w->cpu = time_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
    w->ended = now();
    return NULL;
}

static void wait_begin(struct waiter *w, uint32_t events, int64_t deadline)
{
    *w = (struct waiter){.events = events, .deadline = deadline};
    if (pthread_create(&w->thread, NULL, wait_for_it, w) != 0)
        fail(0, "a thread");
}

/* It has ended since then, and not long after. */
static void wait_ends(struct waiter *w, int64_t since, int64_t within, int result)
{
    (void)pthread_join(w->thread, NULL);
    if (w->result != result)
        fail(w->result, "the wait ended otherwise than with %d", result);
    if (w->ended < since)
        fail(0, "it did not wait");
    if (w->ended - since > within)
        fail(0, "it was told %lld ms late", (long long)((w->ended - since) / MS));
    if (w->cpu > CPU)
        fail(0, "it used %lld ms of CPU", (long long)(w->cpu / MS));
}

static void held_by_a_thread(uint32_t events)
{
    struct waiter w[WAITERS], late;
    span_open(events);
    for (int i = 0; i < WAITERS; i++)
        wait_begin(&w[i], events, DEADLINE_NEVER);
    int64_t end = now() + HELD / 4;
    wait_begin(&late, events, end);
    pause_ms(HELD / MS);
    wait_ends(&late, end, HELD / 4 * 3 + SOON, BERTH_E_TIMED_OUT);
    (void)pthread_cancel(w[0].thread);
    void *how;
    (void)pthread_join(w[0].thread, &how);
    if (how != PTHREAD_CANCELED)
        fail(0, "it was not cancelled");
    int64_t since = now();
    span_close(events);
    for (int i = 1; i < WAITERS; i++)
        wait_ends(&w[i], since, SOON, 0);
    wait_begin(&late, events, DEADLINE_NEVER); /* of none that is open */
    wait_ends(&late, since, SOON, 0);
}

/* What a relative does with its span. */
enum end { CLOSED, KILLED, LET_GO };

static void held_by_a_relative(uint32_t events, enum end how)
{
    int ready[2], go[2];
    char c;
    if (pipe(ready) || pipe(go))
        fail(0, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        span_open(events);
        (void)!write(ready[1], "r", 1);
        (void)!read(go[0], &c, 1);
        if (how == LET_GO) {
            expect(client_close(mine), "close");
            int err = events == EPOLLOUT ? client_write_commit(mine, 0) : client_read_consume(mine, 0);
            if (err != BERTH_E_BAD_HANDLE)
                fail(err, "a span of what was closed");
        } else if (how == CLOSED) {
            span_close(events);
        }
        (void)!write(ready[1], "r", 1);
        for (;;)
            pause_ms(1000);
    }
    if (read(ready[0], &c, 1) != 1)
        fail(0, "the relative is gone");
    if (events == EPOLLOUT && client_write(mine, "y", 1) != BERTH_E_BUSY)
        fail(0, "the session is not busy");
    struct waiter w[WAITERS];
    for (int i = 0; i < WAITERS; i++)
        wait_begin(&w[i], events, DEADLINE_NEVER);
    pause_ms(HELD / MS);
    int64_t since = now();
    if (how == KILLED)
        kill(pid, SIGKILL);
    else if (write(go[1], "g", 1) != 1 || read(ready[0], &c, 1) != 1)
        fail(0, "the relative is gone");
    for (int i = 0; i < WAITERS; i++)
        wait_ends(&w[i], since, SOON, 0);
    if (events == EPOLLOUT)
        expect(client_write(mine, "y", 1) - 1, "a write after it");
    kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(go[i]);
    }
}

int main(void)
{
    role = "the holder";
    alarm((unsigned)longer(50));
    (void)far_side(echo);
    attach("spans");
    mine = dial();
    struct sleep_mark mark = sleep_mark_now();
    expect(client_wait(mine, EPOLLIN, now() + PATIENCE, &mark), "a byte to read");
    for (int i = 0; i < 2; i++) {
        uint32_t events = i ? EPOLLOUT : EPOLLIN;
        held_by_a_thread(events);
        held_by_a_relative(events, CLOSED);
        held_by_a_relative(events, KILLED);
        held_by_a_relative(events, LET_GO);
    }
    printf("spans: passed\n");
    return 0;
}
