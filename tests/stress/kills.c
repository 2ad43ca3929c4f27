/* kills.c - processes that use libberth in every way are killed at random moments, while others go on
 * undisturbed.
 *
 * The survivors: an echo server, clients that exchange streams with it and check each byte, and a caller that
 * connects to whatever victim listens and takes refusals, resets and early ends from it, but no wrong byte
 * and no silence. The victims: clients that write much and little, clients that only connect and close,
 * listeners that serve and that never accept, processes that attach and detach, and some that fork. One is
 * killed every millisecond or so and replaced.
 *
 * The first process never attaches. It takes words on its standard input (run N, stop) and answers each with
 * a line, so that the test that started it can look at survivors and daemon in between
 * (tests/e2e/test_kill.py).
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

#define VICTIMS 6
#define SURVIVING_CLIENTS 2
#define VICTIM_PORT 7801 /* and VICTIMS after it */

static int with_forks;

static void on_term(int sig)
{
    stopping = 1;
}

static const struct echo_rules rules = {.wait = 100 * MS};

/* ---- streams ---- */

/* Sends `total` bytes and reads them back. 0, or how the peer failed us; a wrong byte or silence is the end
 * of the test. */
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
            expect(w, "write");
            sent += (uint64_t)w;
            if (w)
                continue;
        }
        if (got == sent)
            continue;
        ssize_t n = berth_read(s, in, sizeof in, PATIENCE);
        if (n == BERTH_E_INTERRUPTED)
            continue;
        if (tolerant && (n == BERTH_E_RESET || n == 0))
            return BERTH_E_RESET;
        expect(n, "read");
        if (n == 0)
            fail(0, "the stream ended");
        for (ssize_t i = 0; i < n; i++) {
            if (in[i] != byte_at(key, got + (uint64_t)i))
                fail(0, "a byte differs");
        }
        got += (uint64_t)n;
    }
    return 0;
}

static void end_clean(berth_session s)
{
    uint8_t b;
    ssize_t n;
    expect(berth_shutdown(s, BERTH_SHUT_WR), "shutdown");
    while ((n = berth_read(s, &b, 1, PATIENCE)) == BERTH_E_INTERRUPTED)
        ;
    if (n != 0)
        fail(n, "the end of the stream");
    expect(berth_close(s), "close");
}

/* ---- survivors ---- */

static void survive_serving(berth_listener l)
{
    role = "server";
    echo_serve(l, &rules);
    expect(berth_unlisten(l), "unlisten");
    expect(berth_detach(), "detach");
}

static void survive_as_client(uint64_t r)
{
    role = "client";
    attach("client");
    berth_session kept, s;
    expect(berth_connect_uri(uri, PATIENCE, &kept), "connect");
    while (!stopping) { /* one for long, others for short */
        (void)exchange(kept, &r, next_random(&r) % 200000 + 1, 0);
        int err = berth_connect_uri(uri, PATIENCE, &s);
        if (err == BERTH_E_INTERRUPTED)
            continue;
        expect(err, "connect");
        (void)exchange(s, &r, next_random(&r) % 20000 + 1, 0);
        end_clean(s);
        usleep((useconds_t)(next_random(&r) % 2000));
    }
    end_clean(kept);
}

static void survive_calling(uint64_t r)
{
    role = "caller";
    attach("caller");
    unsigned good = 0, cut = 0, none = 0;
    while (!stopping) {
        char victim[64];
        snprintf(victim, sizeof victim, "tcp://127.0.0.1:%d", VICTIM_PORT + (int)(next_random(&r) % VICTIMS));
        berth_session s;
        int err = berth_connect_uri(victim, SEC, &s);
        if (err == 0) {
            /* of one that never accepts nothing comes back: do not wait for it too long */
            uint8_t b = 7;
            ssize_t n = berth_write(s, &b, 1, 0);
            n = n == 1 ? berth_read(s, &b, 1, 20 * MS) : n;
            if (n == 1 && b != 7)
                fail(b, "a byte differs");
            err = n == 1 ? exchange(s, &r, next_random(&r) % 100000 + 1, 1) : BERTH_E_RESET;
            good += err == 0;
            cut += err != 0;
            expect(next_random(&r) % 4 ? berth_close(s) : berth_reset(s), "close");
        } else if (err == BERTH_E_REFUSED || err == BERTH_E_NO_ROUTE || err == BERTH_E_RESET ||
                   err == BERTH_E_TIMED_OUT) {
            none++;
            usleep(300);
        } else if (err != BERTH_E_INTERRUPTED) {
            fail(err, "connect");
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
        if (!s[i] && berth_connect_uri(uri, longer(SEC), &s[i]) != 0)
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
            (void)berth_write(s[i], much, next_random(r) % (next_random(r) % 2 ? 2000 : sizeof much) + 1,
                              2 * MS);
        }
    }
}

static void listen_somewhere(int n, uint64_t *r)
{
    char here[64];
    berth_listener l;
    snprintf(here, sizeof here, "tcp://127.0.0.1:%d", VICTIM_PORT + n);
    while (berth_listen_uri(here, NULL, &l) != 0)
        usleep(200);
    if (next_random(r) % 4 == 0)
        pause(); /* what comes waits, until the kill */
    echo_serve(l, &rules);
}

static void come_and_go(void)
{
    for (;;) {
        berth_session s;
        uint8_t b[100] = "";
        if (berth_connect_uri(uri, longer(SEC), &s) == 0) {
            (void)berth_write(s, b, sizeof b, 0);
            (void)berth_read(s, b, sizeof b, 2 * MS);
        }
        (void)berth_detach();
        (void)enter("guest");
    }
}

static void be_victim(int n, uint64_t r)
{
    role = "victim";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int kind = (int)(next_random(&r) % 8);
    if (enter(kind < 4 ? "victim" : "listener") != 0)
        exit(3);
    /* the child dies soon after, in its own way */
    if (with_forks && next_random(&r) % 4 == 0 && fork() == 0) {
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
    role = "kills";
    setenv("BERTH_SPIN_US", "0", 1); /* so many on so few CPUs: who waits sleeps */
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    with_forks = argc > 2 && atoi(argv[2]);
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    fprintf(stderr, "kills: seed %llu\n", (unsigned long long)seed);
    struct sigaction sa = {.sa_handler = on_term};
    sigaction(SIGTERM, &sa, NULL);
    survivor[survivors++] = far_side(survive_serving);
    printf("server %d ", (int)survivor[0]);
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
