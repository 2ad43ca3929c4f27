/* stress.c - a server and clients that exchange random streams, checked byte for byte.
 *
 * Each client process opens sessions one after another or many at a time, sends a pseudo-random stream in pieces of random
 * size and checks the echo. The server serves all of them through one event set, or by a thread-free blocking loop.
 * Sessions end by half close, by close, or by reset, chosen at random; what must hold is that no byte is lost, none
 * is wrong, and nobody hangs. Prints the seed; the same seed makes the same choices.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "berth/berth.h"

#define SEC 1000000000ll

static uint64_t seed = 1;

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull >> 16;
}

static void fail(const char *what, long code)
{
    fprintf(stderr, "stress[%d]: %s: %s\n", (int)getpid(), what, code < 0 ? berth_strerror((int)code) : "wrong");
    exit(1);
}

static uint8_t byte_at(uint64_t key, uint64_t offset)
{
    return (uint8_t)((offset * 0x9e3779b97f4a7c15ull ^ key) >> 32);
}

/* ---- server: echoes every session until its end ---- */

struct echo {
    berth_session s;
    uint8_t *buf;
    size_t have, done;
    int eof, watching;
};

/* What it waits for now, or -1: over. An edge must be used up; else a few rounds, so that nobody starves. */
static int serve_one(struct echo *e, size_t max, int edge)
{
    for (int rounds = 0; edge || rounds < 8; rounds++) {
        if (e->done < e->have) {
            ssize_t n = berth_write(e->s, e->buf + e->done, e->have - e->done, 0);
            if (n == BERTH_E_WOULD_BLOCK)
                return BERTH_OUT;
            if (n < 0 && n != BERTH_E_RESET && n != BERTH_E_CLOSED) /* those are the client's choice */
                fail("echo", n);
            if (n < 0)
                return -1;
            e->done += (size_t)n;
            continue;
        }
        if (e->eof)
            return -1;
        ssize_t n = berth_read(e->s, e->buf, max, 0);
        if (n == BERTH_E_WOULD_BLOCK)
            return BERTH_IN;
        if (n < 0 && n != BERTH_E_RESET)
            fail("read for echo", n);
        if (n < 0)
            return -1;
        e->done = 0;
        e->have = (size_t)n;
        e->eof = n == 0;
    }
    return e->done < e->have ? BERTH_OUT : BERTH_IN;
}

static void server(const char *uri, int ready, int edge)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int err = berth_attach(NULL);
    berth_listener l;
    if (err || (err = berth_listen_uri(uri, NULL, &l)) != 0)
        fail("server", err);
    berth_waitset *set = berth_waitset_create();
    if (!set || (err = berth_waitset_add(set, l, BERTH_IN, 0)) != 0)
        fail("waitset", err);
    if (write(ready, "x", 1) != 1)
        exit(1);
    static const size_t max = 65536;
    for (;;) {
        struct berth_event ev[64];
        int n = berth_waitset_wait(set, ev, 64, 30 * SEC);
        if (n < 0)
            fail("wait", n);
        if (n == 0)
            fail("the server waited 30 s for nothing", 0);
        for (int i = 0; i < n; i++) {
            if (ev[i].data == 0) {
                berth_session s;
                while ((err = berth_accept(l, 0, &s)) == 0) {
                    struct echo *e = calloc(1, sizeof *e);
                    e->s = s;
                    e->buf = malloc(max);
                    e->watching = BERTH_IN;
                    uint32_t mode = edge ? BERTH_EDGE | BERTH_OUT : 0;
                    if ((err = berth_waitset_add(set, s, BERTH_IN | mode, (uint64_t)(uintptr_t)e)) != 0)
                        fail("add", err);
                }
                if (err != BERTH_E_WOULD_BLOCK)
                    fail("accept", err);
                continue;
            }
            struct echo *e = (struct echo *)(uintptr_t)ev[i].data;
            int want = serve_one(e, max, edge);
            if (want < 0) {
                (void)berth_close(e->s);
                free(e->buf);
                free(e);
            } else if (!edge && want != e->watching) {
                e->watching = want;
                if ((err = berth_waitset_modify(set, e->s, (uint32_t)want, (uint64_t)(uintptr_t)e)) != 0)
                    fail("modify", err);
            }
        }
    }
}

/* ---- clients ---- */

static void one_session(const char *uri, uint64_t *r, size_t most)
{
    berth_session s;
    int err = berth_connect_uri(uri, 10 * SEC, &s);
    if (err)
        fail("connect", err);
    uint64_t key = next_random(r), total = next_random(r) % most + 1, sent = 0, got = 0;
    int kind = (int)(next_random(r) % 8);
    uint64_t stop = kind == 0 ? next_random(r) % total : total;
    static uint8_t out[200000], in[200000];
    while (got < stop) {
        if (sent < total && (sent == got || next_random(r) % 2)) {
            size_t n = next_random(r) % (next_random(r) % 4 ? 300 : sizeof out) + 1;
            if (n > total - sent)
                n = (size_t)(total - sent);
            for (size_t i = 0; i < n; i++)
                out[i] = byte_at(key, sent + i);
            ssize_t w = berth_write(s, out, n, 0);
            if (w < 0 && w != BERTH_E_WOULD_BLOCK)
                fail("write", w);
            if (w > 0)
                sent += (uint64_t)w;
            if (sent == total && kind != 1 && (err = berth_shutdown(s, BERTH_SHUT_WR)) != 0)
                fail("shutdown", err);
        } else {
            ssize_t n = berth_read(s, in, next_random(r) % sizeof in + 1, 20 * SEC);
            if (n < 0)
                fail("read", n);
            if (n == 0)
                fail("end of stream too early", 0);
            for (ssize_t i = 0; i < n; i++) {
                if (in[i] != byte_at(key, got + (uint64_t)i))
                    fail("a byte differs", 0);
            }
            got += (uint64_t)n;
        }
    }
    if (stop == total && kind != 1) {
        ssize_t n = berth_read(s, in, 1, 20 * SEC);
        if (n != 0)
            fail("the end of the stream", n);
    }
    err = kind == 2 ? berth_reset(s) : berth_close(s);
    if (err)
        fail("close", err);
    if (berth_read(s, in, 1, 0) != BERTH_E_BAD_HANDLE)
        fail("a stale handle works", 0);
}

static void client(const char *uri, uint64_t r, int sessions, size_t most)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int err = berth_attach(NULL);
    if (err)
        fail("attach", err);
    for (int i = 0; i < sessions; i++)
        one_session(uri, &r, most);
    exit(0);
}

int main(int argc, char **argv)
{
    int clients = argc > 1 ? atoi(argv[1]) : 3, sessions = argc > 2 ? atoi(argv[2]) : 100;
    size_t most = argc > 3 ? (size_t)atoll(argv[3]) : 1000000;
    seed = argc > 4 ? strtoull(argv[4], NULL, 0) : (uint64_t)time(NULL);
    int edge = argc > 5 && atoi(argv[5]);
    const char *uri = "tcp://127.0.0.1:7790";
    printf("stress: %d clients, %d sessions each, up to %zu bytes, seed %llu%s\n", clients, sessions, most,
           (unsigned long long)seed, edge ? ", edge-triggered" : "");
    fflush(stdout);
    int ready[2];
    if (pipe(ready) != 0)
        return 1;
    pid_t srv = fork();
    if (srv == 0)
        server(uri, ready[1], edge);
    char x;
    close(ready[1]);
    if (read(ready[0], &x, 1) != 1)
        return 1;
    int bad = 0;
    for (int i = 0; i < clients; i++) {
        if (fork() == 0)
            client(uri, (seed + (uint64_t)i) * 0x9e3779b97f4a7c15ull | 1, sessions, most);
    }
    for (int i = 0; i < clients; i++) {
        int st;
        if (wait(&st) < 0 || st != 0)
            bad++;
    }
    kill(srv, SIGTERM);
    int st;
    waitpid(srv, &st, 0);
    if (!WIFSIGNALED(st) || WTERMSIG(st) != SIGTERM)
        bad++;
    printf("stress: %s\n", bad ? "FAILED" : "passed");
    return bad ? 1 : 0;
}
