/* waiting.c - who polls and never drains, two waiters in one process, a sleeper and its sibling. */
#include "protocols.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *polls(void *arg)
{
    struct waiter *w = arg;
    uint64_t r = seed | 1;
    for (int i = 0; i < (rounds ? rounds : 300);
         i++) { /* reads without ever asking the set: the queue is left alone */
        uint8_t out[100], in[100];
        size_t n = next_random(&r) % sizeof out + 1;
        memset(out, i, n);
        put_all(w->s, out, n);
        int64_t end = now() + PATIENCE;
        for (size_t got = 0; got < n;) {
            ssize_t k = berth_read(w->s, in + got, n - got, 0);
            if (k > 0)
                got += (size_t)k;
            else if (k != BERTH_E_WOULD_BLOCK || now() > end)
                fail(k, "the one that polls");
        }
        if (memcmp(in, out, n) != 0)
            fail(0, "the echo differs");
    }
    return NULL;
}

static void *waits(void *arg)
{
    struct waiter *w = arg;
    uint64_t r = seed * 7 + (uint64_t)(uintptr_t)w->set;
    r |= 1;
    ask_echo(w, &r, rounds ? rounds : 300);
    return NULL;
}

void waiters(void)
{
    pid_t far = far_side(far_echo_threads);
    attach("near");
    struct waiter w[5];
    pthread_t t[5];
    for (int i = 0; i < 5;
         i++) { /* a blocked reader, two sets by level and edge, one that polls, one more blocked */
        way = i == 1 ? LEVEL : i == 2 ? EDGE : BLOCKING;
        w[i] = waiter_make(dial(), BERTH_IN);
    }
    way = EDGE;
    for (int i = 0; i < 5; i++)
        pthread_create(&t[i], NULL, i == 3 ? polls : waits, &w[i]);
    for (int i = 0; i < 5; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < 5; i++)
        berth_close(w[i].s);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* Two sets, of two threads, watch one session; whichever is told reads. */
static void *one_of_two(void *arg)
{
    struct waiter *w = arg;
    uint8_t buf[512];
    ssize_t n;
    while ((n = read_some(w, buf, sizeof buf)) > 0)
        ;
    if (n < 0)
        fail(n, "one of two readers");
    return NULL;
}

static void far_dribbles(berth_listener l)
{
    berth_session s = take(l);
    uint64_t r = seed | 1;
    uint8_t buf[600] = {0};
    for (int i = 0; i < (rounds ? rounds : 2000); i++) {
        put_all(s, buf, next_random(&r) % sizeof buf + 1);
        if (i % 16 == 0)
            pause_ms(1);
    }
    berth_shutdown(s, BERTH_SHUT_WR);
    expect_end(s);
    berth_close(s);
}

void two_sets(void)
{
    for (int i = 0; i < 3; i++) {
        pid_t child = fork(); /* an app of its own each time */
        if (child == 0) {
            pid_t far = far_side(far_dribbles);
            attach("near");
            berth_session s = dial();
            struct waiter w[2];
            pthread_t t[2];
            way = i == 1 ? LEVEL : EDGE;
            w[0] = waiter_make(s, BERTH_IN);
            way = i == 2 ? EDGE : LEVEL;
            w[1] = waiter_make(s, BERTH_IN);
            for (int k = 0; k < 2; k++)
                pthread_create(&t[k], NULL, one_of_two, &w[k]);
            for (int k = 0; k < 2; k++)
                pthread_join(t[k], NULL);
            berth_close(s);
            reap(far, "the far side");
            exit(0);
        }
        reap(child, "the reader");
    }
}

/* Many threads sleep for one session, each for a byte; the peer wakes a few of them. */
#define CROWD 40

static berth_session shared;

static void *wants_one_byte(void *arg)
{
    char c;
    ssize_t n = berth_read(shared, &c, 1, PATIENCE);
    if (n != 1)
        fail(n, "one of many was not woken");
    return NULL;
}

static void far_feeds(berth_listener l)
{
    berth_session s = take(l);
    uint64_t r = seed | 1;
    char c, all[CROWD] = {0};
    for (;;) {
        if (berth_read(s, &c, 1, -1) != 1)
            exit(0);
        if (next_random(&r) % 2)
            (void)usleep(next_random(&r) % 2000); /* most of them sleep */
        else if (next_random(&r) % 4 == 0)
            pause_ms(130);                      /* and soundly: only a wake ends it */
        for (size_t left = sizeof all; left;) { /* by one write or by several */
            size_t n = next_random(&r) % 3 ? next_random(&r) % left + 1 : left;
            put_all(s, all, n);
            left -= n;
            if (next_random(&r) % 4 == 0)
                (void)usleep(next_random(&r) % 200);
        }
    }
}

void one_word(void)
{
    pid_t far = far_side(far_feeds);
    attach("near");
    shared = dial();
    for (int i = 0; i < (rounds ? rounds : 150); i++) {
        pthread_t t[CROWD];
        for (int k = 0; k < CROWD; k++)
            pthread_create(&t[k], NULL, wants_one_byte, NULL);
        put_all(shared, "x", 1);
        for (int k = 0; k < CROWD; k++)
            pthread_join(t[k], NULL);
    }
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}
