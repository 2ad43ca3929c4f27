/* accepting.c - connects that come before the accept, and accepts by many. */
#include "protocols.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void one_thread(void)
{
    attach("both");
    berth_listener l = listen_here(16);
    berth_session c[8], s[8];
    for (int i = 0; i < 8; i++) {
        c[i] = dial();
        put_all(c[i], "hello", 5);
    }
    for (int i = 0; i < 8; i++)
        s[i] = take(l);
    char buf[8];
    for (int i = 0; i < 8; i++) {
        get_all(s[i], buf, 5);
        put_all(s[i], "world", 5);
        berth_shutdown(s[i], BERTH_SHUT_WR);
    }
    for (int i = 0; i < 8; i++) {
        get_all(c[i], buf, 5);
        if (memcmp(buf, "world", 5) != 0)
            fail(0, "wrong bytes");
        expect_end(c[i]);
        berth_close(c[i]);
        expect_end(s[i]);
        berth_close(s[i]);
    }
}

static void client_that_leaves(void *unused)
{
    berth_session s = dial();
    put_all(s, "from the child", 14);
    berth_close(s);
}

void parent_waits_for_client(void)
{
    attach("parent");
    berth_listener l = listen_here(16);
    for (int i = 0; i < 20; i++) {
        reap(start(client_that_leaves, NULL), "the client");
        berth_session s = take(l);
        char buf[16];
        get_all(s, buf, 14);
        if (memcmp(buf, "from the child", 14) != 0)
            fail(0, "wrong bytes");
        expect_end(s);
        berth_close(s);
    }
}

#define WORKERS 8
#define SERVE_MS longer(500)

static void worker(void *arg)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    berth_listener l = *(berth_listener *)arg;
    for (;;) {
        berth_session s;
        int err = berth_accept(l, -1, &s);
        if (err)
            fail(err, "a worker's accept");
        char c;
        get_all(s, &c, 1);
        pause_ms(SERVE_MS);
        put_all(s, &c, 1);
        berth_close(s);
    }
}

static void prefork_clients(void *unused)
{
    attach("clients");
    for (int wave = 0; wave < 3; wave++) {
        berth_session s[WORKERS];
        int64_t begin = now();
        for (int i = 0; i < WORKERS; i++) {
            s[i] = dial();
            put_all(s[i], "x", 1);
        }
        for (int i = 0; i < WORKERS; i++) {
            char c;
            get_all(s[i], &c, 1);
            expect_end(s[i]);
            berth_close(s[i]);
        }
        int64_t ms = (now() - begin) / MS;
        printf("wave %d: %d sessions in %lld ms\n", wave, WORKERS, (long long)ms);
        if (ms > SERVE_MS * 2 - 50)
            fail(0, "a session waited while a worker slept in accept: %lld ms", (long long)ms);
        pause_ms(20);
    }
}

void prefork(void)
{
    int ready[2];
    if (pipe(ready) != 0)
        fail(0, "pipe");
    pid_t clients = fork();
    if (clients == 0) { /* another app: forked before anybody attached */
        if (read(ready[0], uri, sizeof uri) != (ssize_t)sizeof uri)
            exit(1);
        prefork_clients(NULL);
        exit(0);
    }
    attach("prefork");
    berth_listener l = listen_here(64);
    pid_t w[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        w[i] = start(worker, &l);
    pause_ms(100);
    if (write(ready[1], uri, sizeof uri) != (ssize_t)sizeof uri)
        fail(0, "pipe");
    int st;
    waitpid(clients, &st, 0);
    for (int i = 0; i < WORKERS; i++) {
        kill(w[i], SIGKILL);
        waitpid(w[i], NULL, 0);
    }
    if (st)
        fail(0, "the clients failed");
}

/* Workers are killed at any moment, also between the token and the accept, and others take their place. A
 * worker has one session at a time, so a kill may cost one; whatever else was in its hands comes to another
 * worker. */
#define CALLERS 8

struct tally {
    int over, calls, lost;
};

static struct tally *tally; /* of both apps */

static void busy_worker(void *arg)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    berth_listener l = *(berth_listener *)arg;
    for (;;) {
        char c;
        berth_session s;
        int err = berth_accept(l, -1, &s);
        if (err)
            fail(err, "a busy worker's accept");
        if (berth_read(s, &c, 1, PATIENCE) == 1)
            (void)berth_write(s, &c, 1, PATIENCE);
        berth_close(s);
    }
}

static void *calls(void *unused)
{
    while (!__atomic_load_n(&tally->over, __ATOMIC_RELAXED)) {
        berth_session s = dial();
        char c = 'x';
        ssize_t n = berth_write(s, &c, 1, PATIENCE);
        n = n == 1 ? berth_read(s, &c, 1, PATIENCE) : n;
        if (n != 1 && n != 0 && n != BERTH_E_RESET && n != BERTH_E_CLOSED)
            fail(n, "a connection is stranded");
        __atomic_fetch_add(&tally->calls, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&tally->lost, n != 1, __ATOMIC_RELAXED);
        berth_close(s);
    }
    return NULL;
}

static void callers(int go)
{
    pthread_t t[CALLERS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(go, uri, sizeof uri) != (ssize_t)sizeof uri)
        exit(1);
    attach("callers");
    for (int i = 0; i < CALLERS; i++)
        pthread_create(&t[i], NULL, calls, NULL);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(t[i], NULL);
    exit(0);
}

void prefork_killed(void)
{
    int go[2], n = rounds ? rounds : 150;
    pid_t w[WORKERS];
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED || pipe(go) != 0)
        fail(0, "pipe");
    pid_t clients = fork();
    if (clients == 0)
        callers(go[0]);
    attach("prefork");
    berth_listener l = listen_here(64);
    for (int i = 0; i < WORKERS; i++)
        w[i] = start(busy_worker, &l);
    if (write(go[1], uri, sizeof uri) != (ssize_t)sizeof uri)
        fail(0, "pipe");
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int k = 0; k < n; k++) {
        struct timespec ts = {0, (long)(next_random(&r) % 3000000)};
        nanosleep(&ts, NULL);
        unsigned i = (unsigned)(next_random(&r) % WORKERS);
        kill(w[i], SIGKILL);
        waitpid(w[i], NULL, 0);
        w[i] = start(busy_worker, &l);
    }
    __atomic_store_n(&tally->over, 1, __ATOMIC_RELAXED);
    reap(clients, "the callers");
    for (int i = 0; i < WORKERS; i++) {
        kill(w[i], SIGKILL);
        waitpid(w[i], NULL, 0);
    }
    printf("%d workers killed, %d of %d calls lost\n", n, tally->lost, tally->calls);
    if (tally->lost > n || tally->calls < n)
        fail(0, "%d of %d calls lost by %d kills", tally->lost, tally->calls, n);
}
