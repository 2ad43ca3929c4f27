/* stress.c - a server and clients that exchange random streams, checked byte for byte.
 *
 * Each client process opens sessions one after another or many at a time, sends a pseudo-random stream in
 * pieces of random size and checks the echo. The server serves all of them through one event set, or by a
 * thread-free blocking loop. Sessions end by half close, by close, or by reset, chosen at random; what must
 * hold is that no byte is lost, none is wrong, and nobody hangs. Prints the seed; the same seed makes the
 * same choices.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "echo.h"

static struct echo_rules rules = {.wait = 30 * SEC};

static void serve(berth_listener l)
{
    echo_serve(l, &rules);
}

/* ---- clients ---- */

static void one_session(uint64_t *r, size_t most)
{
    int err;
    berth_session s = dial();
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
                fail(w, "write");
            if (w > 0)
                sent += (uint64_t)w;
            if (sent == total && kind != 1 && (err = berth_shutdown(s, BERTH_SHUT_WR)) != 0)
                fail(err, "shutdown");
        } else {
            ssize_t n = berth_read(s, in, next_random(r) % sizeof in + 1, PATIENCE);
            if (n < 0)
                fail(n, "read");
            if (n == 0)
                fail(0, "end of stream too early");
            for (ssize_t i = 0; i < n; i++) {
                if (in[i] != byte_at(key, got + (uint64_t)i))
                    fail(0, "a byte differs");
            }
            got += (uint64_t)n;
        }
    }
    if (stop == total && kind != 1) {
        ssize_t n = berth_read(s, in, 1, PATIENCE);
        if (n != 0)
            fail(n, "the end of the stream");
    }
    err = kind == 2 ? berth_reset(s) : berth_close(s);
    if (err)
        fail(err, "close");
    if (berth_read(s, in, 1, 0) != BERTH_E_BAD_HANDLE)
        fail(0, "a stale handle works");
}

static void client(uint64_t r, int sessions, size_t most)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    attach("client");
    for (int i = 0; i < sessions; i++)
        one_session(&r, most);
    exit(0);
}

int main(int argc, char **argv)
{
    int clients = argc > 1 ? atoi(argv[1]) : 3, sessions = argc > 2 ? atoi(argv[2]) : 100;
    size_t most = argc > 3 ? (size_t)atoll(argv[3]) : 1000000;
    seed = argc > 4 ? strtoull(argv[4], NULL, 0) : (uint64_t)time(NULL);
    rules.edge = argc > 5 && atoi(argv[5]);
    printf("stress: %d clients, %d sessions each, up to %zu bytes, seed %llu%s\n", clients, sessions, most,
           (unsigned long long)seed, rules.edge ? ", edge-triggered" : "");
    fflush(stdout);
    pid_t srv = far_side(serve);
    int bad = 0;
    for (int i = 0; i < clients; i++) {
        if (fork() == 0)
            client((seed + (uint64_t)i) * 0x9e3779b97f4a7c15ull | 1, sessions, most);
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
