/* ways.c - reading and writing by each way to wait, bytes that say who wrote them, and echoes. */
#include "protocols.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum way way;

struct waiter waiter_make(berth_session s, uint32_t events)
{
    struct waiter w = {.s = s};
    if (way == BLOCKING)
        return w;
    w.set = berth_waitset_create();
    int err = w.set ? berth_waitset_add(w.set, s, events | (way == EDGE ? BERTH_EDGE : 0), 1) : -1;
    if (err)
        fail(err, "waitset");
    return w;
}

static void waiter_wait(struct waiter *w)
{
    struct berth_event ev[2];
    int n = berth_waitset_wait(w->set, ev, 2, PATIENCE);
    if (n <= 0)
        fail(n, "%s waiter: nothing in %lld s", way == EDGE ? "edge" : "level", PATIENCE / SEC);
}

ssize_t read_some(struct waiter *w, void *buf, size_t n)
{
    for (;;) {
        ssize_t r = berth_read(w->s, buf, n, w->set ? 0 : PATIENCE);
        if (r != BERTH_E_WOULD_BLOCK || !w->set)
            return r;
        waiter_wait(w);
    }
}

ssize_t write_some(struct waiter *w, const void *buf, size_t n)
{
    for (;;) {
        ssize_t r = berth_write(w->s, buf, n, w->set ? 0 : PATIENCE);
        if (r != BERTH_E_WOULD_BLOCK || !w->set)
            return r;
        waiter_wait(w);
    }
}

/* ---- marked bytes: who, and how many before ---- */

void write_marked(struct waiter *w, unsigned who, uint64_t *count, uint64_t total, uint64_t *r, size_t most)
{
    uint8_t buf[65536];
    while (*count < total) {
        size_t n = next_random(r) % most + 1;
        if (n > total - *count)
            n = (size_t)(total - *count);
        for (size_t i = 0; i < n; i++)
            buf[i] = (uint8_t)(who << 7 | ((*count + i) & 127));
        ssize_t done = write_some(w, buf, n);
        if (done <= 0)
            fail(done, "writer %u after %llu bytes", who, (unsigned long long)*count);
        *count += (uint64_t)done;
    }
}

void check_marked(const uint8_t *buf, size_t n, uint64_t count[2], int restarts)
{
    for (size_t i = 0; i < n; i++) {
        unsigned who = buf[i] >> 7;
        if ((buf[i] & 127) != (count[who] & 127)) {
            if (!restarts || !who || buf[i] & 127)
                fail(0, "writer %u: byte %llu is %u", who, (unsigned long long)count[who], buf[i]);
            count[who] = 0;
        }
        count[who]++;
    }
}

/* ---- echoes ---- */

void far_echo(berth_listener l)
{
    for (;;) {
        berth_session s;
        if (berth_accept(l, -1, &s) != 0)
            return;
        static uint8_t buf[65536];
        ssize_t n;
        while ((n = berth_read(s, buf, sizeof buf, -1)) > 0)
            put_all(s, buf, (size_t)n);
        if (n < 0)
            fail(n, "the echo");
        berth_close(s);
    }
}

static void *echoes(void *arg)
{
    berth_session s = *(berth_session *)arg;
    free(arg);
    uint8_t buf[4096];
    ssize_t n;
    while ((n = berth_read(s, buf, sizeof buf, -1)) > 0)
        put_all(s, buf, (size_t)n);
    berth_close(s);
    return NULL;
}

void far_echo_threads(berth_listener l)
{
    for (;;) {
        berth_session s, *arg;
        if (berth_accept(l, -1, &s) != 0)
            return;
        arg = malloc(sizeof *arg);
        if (!arg)
            fail(0, "no memory for an echo");
        *arg = s;
        pthread_t t;
        pthread_create(&t, NULL, echoes, arg);
        pthread_detach(t);
    }
}

void ask_echo(struct waiter *w, uint64_t *r, int times)
{
    uint8_t out[3000], in[3000];
    for (int i = 0; i < times; i++) {
        size_t n = next_random(r) % sizeof out + 1;
        for (size_t k = 0; k < n; k++)
            out[k] = (uint8_t)next_random(r);
        ssize_t done = write_some(w, out, n);
        if (done != (ssize_t)n)
            fail(done, "write to the echo");
        for (size_t got = 0; got < n;) {
            ssize_t k = read_some(w, in + got, n - got);
            if (k <= 0)
                fail(k, "read from the echo");
            got += (size_t)k;
        }
        if (memcmp(in, out, n) != 0)
            fail(0, "the echo differs");
        if (i % 50 == 0)
            pause_ms(2); /* the far side falls asleep */
    }
}
