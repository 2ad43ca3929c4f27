/* kills.c - processes that use libberth in every way are killed at random moments, while others go on undisturbed.
 *
 * The survivors: an echo server, clients that exchange streams with it and check each byte, and a caller that connects to
 * whatever victim listens and takes refusals, resets and early ends from it, but no wrong byte and no silence. The
 * victims: clients that write much and little, clients that only connect and close, listeners that serve and that
 * never accept, processes that attach and detach, and some that fork. One is killed every millisecond or so and replaced.
 *
 * The first process never attaches. It takes words on its standard input (run N, stop) and answers each with a line, so
 * that the test that started it can look at survivors and daemon in between (tests/e2e/test_kill.py).
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
#define MS 1000000ll
#define VICTIMS 6
#define SURVIVING_CLIENTS 2
#define VICTIM_PORT 7801 /* and VICTIMS after it */
#define SERVER "tcp://127.0.0.1:7800"

static volatile sig_atomic_t stopping;
static const char *role = "kills";
static int with_forks;

static void on_term(int sig)
{
    stopping = 1;
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull >> 16;
}

static __attribute__((noreturn)) void fail(const char *what, long code)
{
    fprintf(stderr, "%s[%d]: %s: %s (%ld)\n", role, (int)getpid(), what,
            code < 0 ? berth_strerror((int)code) : "wrong", code);
    exit(1);
}

static void expect(const char *what, long code)
{
    if (code < 0)
        fail(what, code);
}

static uint8_t byte_at(uint64_t key, uint64_t offset)
{
    return (uint8_t)((offset * 0x9e3779b97f4a7c15ull ^ key) >> 32);
}

static int attach(const char *name)
{
    struct berth_attach_options o = {.name = name, .spin_ns = 0};
    return berth_attach(&o);
}

/* ---- a server that echoes, and resets or closes as its peers do ---- */

struct echo {
    berth_session s;
    size_t have, done;
    int watching;
    uint8_t buf[65536];
};

/* What to wait for now; 0: over. */
static int echo_step(struct echo *e)
{
    for (int round = 0; round < 8; round++) {
        if (e->done < e->have) {
            ssize_t n = berth_write(e->s, e->buf + e->done, e->have - e->done, 0);
            if (n == BERTH_E_WOULD_BLOCK)
                return BERTH_OUT;
            if (n == BERTH_E_RESET || n == BERTH_E_CLOSED)
                return 0;
            expect("the server's write", n);
            e->done += (size_t)n;
            continue;
        }
        ssize_t n = berth_read(e->s, e->buf, sizeof e->buf, 0);
        if (n == BERTH_E_WOULD_BLOCK)
            return BERTH_IN;
        if (n == BERTH_E_RESET || n == 0)
            return 0;
        expect("the server's read", n);
        e->have = (size_t)n;
        e->done = 0;
    }
    return e->done < e->have ? BERTH_OUT : BERTH_IN;
}

static void serve(berth_listener l)
{
    berth_waitset *set = berth_waitset_create();
    if (!set)
        fail("waitset", errno);
    expect("waitset", berth_waitset_add(set, l, BERTH_IN, 0));
    while (!stopping) {
        struct berth_event ev[64];
        int n = berth_waitset_wait(set, ev, 64, 100 * MS);
        if (n == BERTH_E_INTERRUPTED)
            continue;
        expect("wait", n);
        for (int i = 0; i < n; i++) {
            struct echo *e = (struct echo *)(uintptr_t)ev[i].data;
            if (!e) {
                berth_session s;
                int err;
                for (int k = 0; (err = k < 16 ? berth_accept(l, 0, &s) : BERTH_E_WOULD_BLOCK) == 0; k++) {
                    e = calloc(1, sizeof *e);
                    e->s = s;
                    e->watching = BERTH_IN;
                    expect("add", berth_waitset_add(set, s, BERTH_IN, (uint64_t)(uintptr_t)e));
                }
                if (err != BERTH_E_WOULD_BLOCK)
                    fail("accept", err);
                continue;
            }
            int want = echo_step(e);
            if (!want) {
                expect("close", berth_close(e->s));
                free(e);
            } else if (want != e->watching) {
                e->watching = want;
                expect("modify", berth_waitset_modify(set, e->s, (uint32_t)want, (uint64_t)(uintptr_t)e));
            }
        }
    }
    berth_waitset_destroy(set);
}

/* ---- streams ---- */

/* Sends `total` bytes and reads them back. 0, or how the peer failed us; a wrong byte or silence is the end of the test. */
static int exchange(berth_session s, uint64_t *r, uint64_t total, int tolerant)
{
    static uint8_t out[100000], in[100000];
    uint64_t key = next_random(r), sent = 0, got = 0;
    while (got < total) {
        if (sent < total && (sent == got || next_random(r) % 2)) {
            size_t n = next_random(r) % (next_random(r) % 4 ? 300 : sizeof out) + 1;
            n = n > total - sent ? (size_t)(total - sent) : n;
            for (size_t i = 0; i < n; i++)
                out[i] = byte_at(key, sent + i);
            ssize_t w = berth_write(s, out, n, 0);
            if (w == BERTH_E_WOULD_BLOCK)
                w = 0;
            else if (w < 0 && tolerant && (w == BERTH_E_RESET || w == BERTH_E_CLOSED))
                return (int)w;
            expect("write", w);
            sent += (uint64_t)w;
            if (w)
                continue;
        }
        if (got == sent)
            continue;
        ssize_t n = berth_read(s, in, sizeof in, 10 * SEC);
        if (n == BERTH_E_INTERRUPTED)
            continue;
        if (tolerant && (n == BERTH_E_RESET || n == 0))
            return BERTH_E_RESET;
        expect("read", n);
        if (n == 0)
            fail("the stream ended", 0);
        for (ssize_t i = 0; i < n; i++) {
            if (in[i] != byte_at(key, got + (uint64_t)i))
                fail("a byte differs", 0);
        }
        got += (uint64_t)n;
    }
    return 0;
}

static void end_clean(berth_session s)
{
    uint8_t b;
    ssize_t n;
    expect("shutdown", berth_shutdown(s, BERTH_SHUT_WR));
    while ((n = berth_read(s, &b, 1, 10 * SEC)) == BERTH_E_INTERRUPTED)
        ;
    if (n != 0)
        fail("the end of the stream", n);
    expect("close", berth_close(s));
}

/* ---- survivors ---- */

static void survive_serving(int ready)
{
    role = "server";
    berth_listener l;
    expect("attach", attach("server"));
    expect("listen", berth_listen_uri(SERVER, NULL, &l));
    if (write(ready, "x", 1) != 1)
        fail("ready", errno);
    serve(l);
    expect("unlisten", berth_unlisten(l));
}

static void survive_as_client(uint64_t r)
{
    role = "client";
    expect("attach", attach("client"));
    berth_session kept, s;
    expect("connect", berth_connect_uri(SERVER, 10 * SEC, &kept));
    while (!stopping) { /* one for long, others for short */
        (void)exchange(kept, &r, next_random(&r) % 200000 + 1, 0);
        int err = berth_connect_uri(SERVER, 10 * SEC, &s);
        if (err == BERTH_E_INTERRUPTED)
            continue;
        expect("connect", err);
        (void)exchange(s, &r, next_random(&r) % 20000 + 1, 0);
        end_clean(s);
        usleep((useconds_t)(next_random(&r) % 2000));
    }
    end_clean(kept);
}

static void survive_calling(uint64_t r)
{
    role = "caller";
    expect("attach", attach("caller"));
    unsigned good = 0, cut = 0, none = 0;
    while (!stopping) {
        char uri[64];
        snprintf(uri, sizeof uri, "tcp://127.0.0.1:%d", VICTIM_PORT + (int)(next_random(&r) % VICTIMS));
        berth_session s;
        int err = berth_connect_uri(uri, SEC, &s);
        if (err == 0) {
            /* of one that never accepts nothing comes back: do not wait for it too long */
            uint8_t b = 7;
            ssize_t n = berth_write(s, &b, 1, 0);
            n = n == 1 ? berth_read(s, &b, 1, 20 * MS) : n;
            if (n == 1 && b != 7)
                fail("a byte differs", b);
            err = n == 1 ? exchange(s, &r, next_random(&r) % 100000 + 1, 1) : BERTH_E_RESET;
            good += err == 0;
            cut += err != 0;
            expect("close", next_random(&r) % 4 ? berth_close(s) : berth_reset(s));
        } else if (err == BERTH_E_REFUSED || err == BERTH_E_NO_ROUTE || err == BERTH_E_RESET ||
                   err == BERTH_E_TIMED_OUT) {
            none++;
            usleep(300);
        } else if (err != BERTH_E_INTERRUPTED) {
            fail("connect", err);
        }
    }
    fprintf(stderr, "caller: %u whole, %u cut, %u refused\n", good, cut, none);
}

/* ---- victims: none of them ends by itself, and what their calls say is not looked at ---- */

static void drown(uint64_t *r)
{
    static uint8_t much[3 << 20];
    berth_session s[8] = {0};
    for (;;) {
        unsigned i = (unsigned)(next_random(r) % 8);
        if (!s[i] && berth_connect_uri(SERVER, SEC, &s[i]) != 0)
            s[i] = 0;
        switch (next_random(r) % 8) {
        case 0:
            (void)berth_close(s[i]);
            s[i] = 0;
            break;
        case 1:
            (void)berth_reset(s[i]);
            s[i] = 0;
            break;
        case 2:
            (void)berth_shutdown(s[i], BERTH_SHUT_WR);
            break;
        case 3:
        case 4:
            (void)berth_read(s[i], much, sizeof much, 1 * MS);
            break;
        default:
            (void)berth_write(s[i], much, next_random(r) % (next_random(r) % 2 ? 2000 : sizeof much) + 1, 2 * MS);
        }
    }
}

static void listen_somewhere(int n, uint64_t *r)
{
    char uri[64];
    berth_listener l;
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%d", VICTIM_PORT + n);
    while (berth_listen_uri(uri, NULL, &l) != 0)
        usleep(200);
    if (next_random(r) % 4 == 0)
        pause(); /* what comes waits, until the kill */
    serve(l);
}

static void come_and_go(void)
{
    for (;;) {
        berth_session s;
        uint8_t b[100] = "";
        if (berth_connect_uri(SERVER, SEC, &s) == 0) {
            (void)berth_write(s, b, sizeof b, 0);
            (void)berth_read(s, b, sizeof b, 2 * MS);
        }
        (void)berth_detach();
        (void)attach("guest");
    }
}

static void be_victim(int n, uint64_t r)
{
    role = "victim";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int kind = (int)(next_random(&r) % 8);
    if (attach(kind < 4 ? "victim" : "listener") != 0)
        exit(3);
    if (with_forks && next_random(&r) % 4 == 0 && fork() == 0) { /* the child dies soon after, in its own way */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(1);
        r += 17;
    }
    if (kind < 2)
        drown(&r);
    if (kind < 4)
        come_and_go();
    listen_somewhere(n, &r);
}

/* ---- the first process ---- */

static pid_t survivor[8];
static int survivors;

static void start_survivor(const char *name, void (*run)(uint64_t), uint64_t r)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(r);
        exit(berth_detach() == 0 ? 0 : 1);
    }
    survivor[survivors++] = pid;
    printf("%s %d ", name, (int)pid);
}

static int ready_pipe[2];

static void serving(uint64_t r)
{
    close(ready_pipe[0]);
    survive_serving(ready_pipe[1]);
}

static void check_survivors(void)
{
    for (int i = 0; i < survivors; i++) {
        int st;
        if (waitpid(survivor[i], &st, WNOHANG) != 0) {
            printf("a survivor ended: pid %d, status %x\n", (int)survivor[i], (unsigned)st);
            exit(1);
        }
    }
}

static void run(int kills, uint64_t *r)
{
    pid_t victim[VICTIMS] = {0};
    for (int k = 0; k < kills + VICTIMS; k++) {
        int i = (int)(next_random(r) % VICTIMS);
        if (k >= kills)
            i = k - kills;
        if (victim[i]) {
            kill(victim[i], SIGKILL);
            waitpid(victim[i], NULL, 0);
            victim[i] = 0;
        }
        if (k >= kills)
            continue;
        fflush(stdout);
        victim[i] = fork();
        if (victim[i] == 0)
            be_victim(i, next_random(r) | 1);
        struct timespec ts = {.tv_nsec = (long)(next_random(r) % 3000000)};
        nanosleep(&ts, NULL);
        check_survivors();
    }
    printf("done\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    with_forks = argc > 2 && atoi(argv[2]);
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    fprintf(stderr, "kills: seed %llu\n", (unsigned long long)seed);
    struct sigaction sa = {.sa_handler = on_term};
    sigaction(SIGTERM, &sa, NULL);
    if (pipe(ready_pipe) != 0)
        return 1;
    start_survivor("server", serving, 1);
    close(ready_pipe[1]);
    char x;
    if (read(ready_pipe[0], &x, 1) != 1)
        return 1;
    close(ready_pipe[0]);
    for (int i = 0; i < SURVIVING_CLIENTS; i++) {
        fflush(stdout);
        start_survivor("client", survive_as_client, next_random(&r) | 1);
    }
    fflush(stdout);
    start_survivor("caller", survive_calling, next_random(&r) | 1);
    printf("\n");
    fflush(stdout);
    char word[64];
    while (fgets(word, sizeof word, stdin)) {
        if (strncmp(word, "run ", 4) == 0)
            run(atoi(word + 4), &r);
        else
            break;
    }
    int bad = 0;
    for (int i = survivors; i-- > 0;) { /* the server last */
        int st = -1;
        kill(survivor[i], SIGTERM);
        waitpid(survivor[i], &st, 0);
        if (st != 0) {
            printf("a survivor ended badly: pid %d, status %x\n", (int)survivor[i], (unsigned)st);
            bad = 1;
        }
    }
    return bad;
}
