/* streams.c - streams that end at once, in rings that others have just left. */
#include "protocols.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

struct sunk {
    berth_session s;
    uint64_t key, got;
    uint8_t head[8];
};

static int sink_check(struct sunk *k, const uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i++, k->got++) {
        if (k->got < 8)
            k->head[k->got] = buf[i];
        if (k->got == 7)
            memcpy(&k->key, k->head, 8);
        if (k->got >= 8 && buf[i] != byte_at(k->key, k->got))
            fail(0, "byte %llu differs", (unsigned long long)k->got);
    }
    return 0;
}

/* Reads every stream to its end and answers with its length. Even listeners wait by level, others by edge. */
static void sink(berth_listener l)
{
    berth_waitset *set = berth_waitset_create();
    int err = set ? berth_waitset_add(set, l, BERTH_IN, 0) : -1;
    if (err)
        fail(err, "waitset");
    uint64_t r = seed * 11 | 1, n_sessions = 0;
    static uint8_t buf[300000];
    for (;;) {
        struct berth_event ev[32];
        int n = berth_waitset_wait(set, ev, 32, -1);
        if (n < 0)
            fail(n, "wait");
        for (int i = 0; i < n; i++) {
            struct sunk *k = (struct sunk *)(uintptr_t)ev[i].data;
            berth_session s;
            while (!k && berth_accept(l, 0, &s) == 0) {
                struct sunk *fresh = calloc(1, sizeof *fresh);
                fresh->s = s;
                uint32_t edge = ++n_sessions % 2 ? BERTH_EDGE : 0;
                if ((err = berth_waitset_add(set, s, BERTH_IN | edge, (uint64_t)(uintptr_t)fresh)) != 0)
                    fail(err, "add");
            }
            if (!k)
                continue;
            ssize_t got;
            while ((got = berth_read(k->s, buf,
                                     next_random(&r) % (next_random(&r) % 3 ? 5000 : sizeof buf) + 1, 0)) > 0)
                sink_check(k, buf, (size_t)got);
            if (got == BERTH_E_WOULD_BLOCK)
                continue;
            if (got < 0)
                fail(got, "a stream of %llu bytes so far", (unsigned long long)k->got);
            put_all(k->s, &k->got, 8);
            berth_close(k->s);
            free(k);
        }
    }
}

static void send_stream(uint64_t *r, size_t total)
{
    berth_session s = dial();
    static __thread uint8_t buf[200000];
    uint64_t key = next_random(r) << 20 ^ next_random(r), sent = 0;
    while (sent < total) {
        size_t n = next_random(r) % (next_random(r) % 2 ? 700 : sizeof buf) + 1;
        if (n > total - sent)
            n = total - sent;
        for (size_t i = 0; i < n; i++)
            buf[i] = sent + i < 8 ? (uint8_t)(key >> 8 * (sent + i)) : byte_at(key, sent + i);
        put_all(s, buf, n);
        sent += n;
    }
    int err = berth_shutdown(s, BERTH_SHUT_WR);
    uint64_t answer;
    if (err)
        fail(err, "shutdown");
    get_all(s, &answer, 8);
    if (answer != total)
        fail(0, "%llu of %zu bytes had come at the end of the stream", (unsigned long long)answer, total);
    expect_end(s);
    berth_close(s);
}

static int over;

static void *ring_taker(void *arg)
{
    uint64_t r = seed * 131 + (uint64_t)(uintptr_t)arg;
    r = r * 0x9e3779b97f4a7c15ull | 1;
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED))
        send_stream(&r, 9 + next_random(&r) % 70000);
    return NULL;
}

/* One stream grows through all sizes of rings; others take every ring that it leaves. */
void ring_swap(void)
{
    pid_t far = far_side(sink);
    attach("near");
    pthread_t takers[2];
    for (intptr_t i = 0; i < 2; i++)
        pthread_create(&takers[i], NULL, ring_taker, (void *)(i + 1));
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < (rounds ? rounds : 15); i++)
        send_stream(&r, 4000000 + next_random(&r) % 4000000);
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(takers[i], NULL);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

void fin_races(void)
{
    pid_t far = far_side(sink);
    attach("near");
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < (rounds ? rounds : 3000); i++)
        send_stream(&r, 8 + next_random(&r) % (i % 10 ? 64 : 30000));
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}
