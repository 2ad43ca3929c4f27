/* protocols.c - what sessions must bear beyond plain use: one scenario for each name on the command line.
 *
 *   protocols SCENARIO [seed [rounds]]
 *
 * Every scenario is a peer (an app of its own, "the far side") and processes of this app that fork, die or exit. Each byte
 * is checked: what two processes write into one direction carries the writer in its high bit and a count in the rest, so
 * that each writer's bytes are seen to be whole and in order however they are mixed. Any wait that takes longer than
 * PATIENCE is a failure: a wake-up was lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
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
#define PATIENCE (20 * SEC)

static uint64_t seed = 1;
static int rounds = 0; /* 0: the scenario's own number */
static char uri[64];

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull >> 16;
}

static __attribute__((noreturn, format(printf, 2, 3))) void fail(long code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "protocols[%d]: ", (int)getpid());
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "%s%s\n", code < 0 ? ": " : "", code < 0 ? berth_strerror((int)code) : "");
    exit(1);
}

static int64_t now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * SEC + ts.tv_nsec;
}

static void pause_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static void attach(const char *name)
{
    struct berth_attach_options o = {.name = name, .spin_ns = -1};
    int err = berth_attach(&o);
    if (err)
        fail(err, "attach");
}

static berth_listener listen_here(uint32_t backlog)
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

static berth_session dial(void)
{
    berth_session s;
    int err = berth_connect_uri(uri, 10 * SEC, &s);
    if (err)
        fail(err, "connect");
    return s;
}

static berth_session take(berth_listener l)
{
    berth_session s;
    int err = berth_accept(l, PATIENCE, &s);
    if (err)
        fail(err, "accept");
    return s;
}

static void put_all(berth_session s, const void *buf, size_t n)
{
    ssize_t w = berth_write(s, buf, n, PATIENCE);
    if (w != (ssize_t)n)
        fail(w, "write of %zu bytes gave %zd", n, w);
}

static void get_all(berth_session s, void *buf, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = berth_read(s, (char *)buf + got, n - got, PATIENCE);
        if (r <= 0)
            fail(r, "read: %zu of %zu bytes came", got, n);
        got += (size_t)r;
    }
}

static void expect_end(berth_session s)
{
    char c;
    ssize_t r = berth_read(s, &c, 1, PATIENCE);
    if (r != 0)
        fail(r, "the end of the stream was expected");
}

/* A process of this app or, before anybody attached, of another. */
static pid_t start(void (*what)(void *), void *arg)
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

static void reap(pid_t pid, const char *what)
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

static pid_t far_side(void (*serve)(berth_listener))
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

/* ---- ways to wait ---- */

enum way { BLOCKING, LEVEL, EDGE, WAYS };
static enum way way;

struct waiter {
    berth_waitset *set;
    berth_session s;
};

static struct waiter waiter_make(berth_session s, uint32_t events)
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

static ssize_t read_some(struct waiter *w, void *buf, size_t n)
{
    for (;;) {
        ssize_t r = berth_read(w->s, buf, n, w->set ? 0 : PATIENCE);
        if (r != BERTH_E_WOULD_BLOCK || !w->set)
            return r;
        waiter_wait(w);
    }
}

static ssize_t write_some(struct waiter *w, const void *buf, size_t n)
{
    for (;;) {
        ssize_t r = berth_write(w->s, buf, n, w->set ? 0 : PATIENCE);
        if (r != BERTH_E_WOULD_BLOCK || !w->set)
            return r;
        waiter_wait(w);
    }
}

/* ---- marked bytes: who, and how many before ---- */

static void write_marked(struct waiter *w, unsigned who, uint64_t *count, uint64_t total, uint64_t *r, size_t most)
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

/* restarts: a new writer may take the other's place, and begins at 0 */
static void check_marked(const uint8_t *buf, size_t n, uint64_t count[2], int restarts)
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

/* ---- 1: connect before accept ---- */

static void one_thread(void)
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

static void parent_waits_for_client(void)
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
#define SERVE_MS 500

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

static void prefork(void)
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

/* ---- 3: fork with sessions held ---- */

#define STREAM 3000000u

/* Sends STREAM bytes, marked as 0's, and checks what comes until its end; then says how many came. */
static void *sends(void *arg)
{
    struct waiter w = {.s = *(berth_session *)arg};
    uint64_t r = seed | 1, count = 0;
    write_marked(&w, 0, &count, STREAM, &r, 20000);
    int err = berth_shutdown(w.s, BERTH_SHUT_WR);
    if (err)
        fail(err, "the far side's shutdown");
    return NULL;
}

static void far_checks(berth_listener l, int restarts, uint64_t want0, uint64_t want1)
{
    for (;;) {
        berth_session s;
        if (berth_accept(l, -1, &s) != 0)
            return;
        pthread_t sender;
        pthread_create(&sender, NULL, sends, &s);
        static uint8_t buf[70000];
        uint64_t count[2] = {0, 0}, r = seed * 77 | 1;
        ssize_t n;
        while ((n = berth_read(s, buf, next_random(&r) % sizeof buf + 1, PATIENCE)) > 0)
            check_marked(buf, (size_t)n, count, restarts);
        if (n < 0)
            fail(n, "the far side, after %llu and %llu bytes", (unsigned long long)count[0],
                 (unsigned long long)count[1]);
        if (count[0] != want0 || (!restarts && count[1] != want1))
            fail(0, "%llu and %llu bytes came", (unsigned long long)count[0], (unsigned long long)count[1]);
        pthread_join(sender, NULL);
        int err = berth_close(s);
        if (err)
            fail(err, "the far side's close");
    }
}

static void far_both(berth_listener l)
{
    far_checks(l, 0, STREAM, STREAM);
}

static void far_one(berth_listener l)
{
    far_checks(l, 0, STREAM, 0);
}

static void read_stream(struct waiter *w, uint64_t total)
{
    uint8_t buf[30000];
    uint64_t count[2] = {0, 0}, r = seed * 3 | 1;
    ssize_t n;
    while ((n = read_some(w, buf, next_random(&r) % sizeof buf + 1)) > 0)
        check_marked(buf, (size_t)n, count, 0);
    if (n < 0 || count[0] != total)
        fail(n, "the reader got %llu of %llu bytes", (unsigned long long)count[0], (unsigned long long)total);
}

/* Parent writes, child reads; and the other way round. */
static void fork_two_directions(void)
{
    pid_t far = far_side(far_one);
    attach("near");
    for (int i = 0; i < 2 * WAYS; i++) {
        way = (enum way)(i % WAYS);
        berth_session s = dial();
        int parent_writes = i < WAYS;
        pid_t pid = fork();
        uint64_t r = (seed + (uint64_t)i) * 0x9e3779b97f4a7c15ull | 1, count = 0;
        if (parent_writes == (pid != 0)) {
            struct waiter w = waiter_make(s, BERTH_OUT);
            write_marked(&w, 0, &count, STREAM, &r, 60000);
            berth_shutdown(s, BERTH_SHUT_WR);
        } else {
            struct waiter w = waiter_make(s, BERTH_IN);
            read_stream(&w, STREAM);
        }
        if (pid == 0)
            exit(0);
        reap(pid, "the child");
        berth_close(s);
    }
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* Both write; and both read, each byte going to one of them. */
static void fork_same_direction(void)
{
    pid_t far = far_side(far_both);
    attach("near");
    for (int i = 0; i < WAYS; i++) {
        way = (enum way)i;
        berth_session s = dial();
        int result[2];
        if (pipe(result) != 0)
            fail(0, "pipe");
        pid_t pid = fork();
        unsigned who = pid == 0;
        uint64_t r = (seed + (uint64_t)(2 * i) + who) * 0x9e3779b97f4a7c15ull | 1, count = 0;
        struct waiter out = waiter_make(s, BERTH_OUT);
        write_marked(&out, who, &count, STREAM, &r, 30000);
        if (pid == 0 && write(result[1], "x", 1) != 1)
            exit(1);
        char x;
        if (pid != 0 && (read(result[0], &x, 1) != 1 || berth_shutdown(s, BERTH_SHUT_WR) != 0))
            fail(0, "the end of what both wrote");
        struct waiter in = waiter_make(s, 0);
        if (in.set && berth_waitset_modify(in.set, s, BERTH_IN | (way == EDGE ? BERTH_EDGE : 0), 1) != 0)
            fail(0, "modify");
        uint8_t buf[30000];
        uint64_t got = 0, other;
        ssize_t n;
        while ((n = read_some(&in, buf, next_random(&r) % sizeof buf + 1)) > 0)
            got += (uint64_t)n;
        if (n < 0)
            fail(n, "reader %u after %llu bytes", who, (unsigned long long)got);
        if (pid == 0) {
            if (write(result[1], &got, sizeof got) != (ssize_t)sizeof got)
                exit(1);
            exit(0);
        }
        if (read(result[0], &other, sizeof other) != (ssize_t)sizeof other)
            fail(0, "the child's count");
        if (got + other != STREAM)
            fail(0, "%llu and %llu bytes were read", (unsigned long long)got, (unsigned long long)other);
        reap(pid, "the child");
        close(result[0]);
        close(result[1]);
        berth_close(s);
    }
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* Children that do nothing but write and read are killed at any moment, also under a lock. */
static void far_killed(berth_listener l)
{
    far_checks(l, 1, STREAM, 0);
}

struct toucher {
    berth_session s;
    uint64_t r;
};

static void *touch_reading(void *arg)
{
    struct toucher *t = arg;
    static uint8_t buf[5000];
    uint64_t r = t->r * 5 | 1;
    for (;;) {
        ssize_t n = berth_read(t->s, buf, next_random(&r) % 5000 + 1, SEC / 100);
        if (n == 0)
            return NULL;
    }
}

static void touch(void *arg)
{
    struct toucher *t = arg;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pthread_t reader;
    pthread_create(&reader, NULL, touch_reading, t);
    struct waiter w = {.s = t->s};
    uint64_t count = 0;
    write_marked(&w, 1, &count, UINT64_MAX, &t->r, 3000);
}

static void fork_killed(void)
{
    pid_t far = far_side(far_killed);
    attach("near");
    int n = rounds ? rounds : 60;
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    struct toucher t = {.s = dial()};
    struct waiter w = {.s = t.s};
    uint64_t count = 0;
    for (int i = 0; i < n; i++) {
        t.r = next_random(&r) | 1;
        if (getenv("BERTH_FAULTS")) { /* read by the child alone */
            char number[24];
            snprintf(number, sizeof number, "%llu", next_random(&r) % (i % 2 ? 300ull : 20000ull) + 1ull);
            setenv("BERTH_FAULT_STORE", number, 1);
        }
        pid_t pid = start(touch, &t);
        uint64_t until = STREAM * (uint64_t)(i + 1) / (uint64_t)n;
        struct timespec ts = {0, (long)(next_random(&r) % 8000000)};
        if (i % 2)
            nanosleep(&ts, NULL);
        write_marked(&w, 0, &count, until, &r, 5000);
        if (!(i % 2))
            nanosleep(&ts, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    int err = berth_shutdown(t.s, BERTH_SHUT_WR);
    if (err)
        fail(err, "shutdown");
    static uint8_t buf[65536];
    ssize_t got;
    while ((got = berth_read(t.s, buf, sizeof buf, PATIENCE)) > 0)
        ;
    if (got < 0)
        fail(got, "reading what the children left");
    berth_close(t.s);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

static void far_echo(berth_listener l)
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

static void far_echo_threads(berth_listener l)
{
    for (;;) {
        berth_session s, *arg = malloc(sizeof *arg);
        if (berth_accept(l, -1, &s) != 0)
            return;
        *arg = s;
        pthread_t t;
        pthread_create(&t, NULL, echoes, arg);
        pthread_detach(t);
    }
}

static void ask_echo(struct waiter *w, uint64_t *r, int times)
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

/* daemon(3): the parent leaves at once, the child goes on with session and listener; and again from there. */
static void daemonize(void)
{
    pid_t far = far_side(far_echo_threads);
    int done[2];
    if (pipe(done) != 0)
        fail(0, "pipe");
    pid_t first = fork();
    if (first == 0) {
        attach("near");
        uint64_t r = seed | 1;
        berth_session s[WAYS];
        for (int i = 0; i < WAYS; i++) {
            way = (enum way)i;
            s[i] = dial();
            struct waiter w = waiter_make(s[i], BERTH_IN);
            if (i != EDGE) /* one is not even accepted yet, perhaps */
                ask_echo(&w, &r, 20);
        }
        berth_listener l = listen_here(8);
        for (int depth = 0; depth < 3; depth++) {
            if (fork() != 0)
                _exit(0);
            pause_ms(depth * 30); /* the parent's death is known, or not yet */
            for (int i = 0; i < WAYS; i++) {
                way = (enum way)i;
                struct waiter w = waiter_make(s[i], BERTH_IN);
                ask_echo(&w, &r, 200);
                if (w.set)
                    berth_waitset_destroy(w.set);
            }
            berth_session c = dial(), a = take(l);
            put_all(c, "self", 4);
            char buf[4];
            get_all(a, buf, 4);
            berth_close(c);
            expect_end(a);
            berth_close(a);
        }
        for (int i = 0; i < WAYS; i++)
            berth_close(s[i]);
        if (write(done[1], "y", 1) != 1)
            exit(1);
        exit(0);
    }
    close(done[1]);
    char y = 0;
    if (read(done[0], &y, 1) != 1 || y != 'y')
        fail(0, "the last of the children did not come to its end");
    waitpid(first, NULL, 0);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* The parent's ring moves, after the fork, to a segment that only the parent can write; then the child writes. */
static int go[2];

static void far_late(berth_listener l)
{
    char x;
    berth_session s = take(l);
    if (read(go[0], &x, 1) != 1)
        exit(1);
    static uint8_t buf[70000];
    uint64_t count[2] = {0, 0};
    ssize_t n;
    while ((n = berth_read(s, buf, sizeof buf, PATIENCE)) > 0)
        check_marked(buf, (size_t)n, count, 0);
    if (n < 0 || count[0] != 3500000 || count[1] != 500000)
        fail(n, "%llu and %llu bytes came", (unsigned long long)count[0], (unsigned long long)count[1]);
    berth_close(s);
}

static void growth(void)
{
    if (pipe(go) != 0)
        fail(0, "pipe");
    pid_t far = far_side(far_late);
    attach("near");
    berth_session s = dial();
    struct waiter w = {.s = s};
    uint64_t r = seed | 1, count = 0;
    int turn[2], back[2];
    if (pipe(turn) != 0 || pipe(back) != 0)
        fail(0, "pipe");
    char x = 'x';
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 1; i <= 5; i++) { /* in turn with the parent, both growing */
            if (read(turn[0], &x, 1) != 1)
                exit(1);
            write_marked(&w, 1, &count, (uint64_t)i * 100000, &r, 30000);
            if (write(back[1], &x, 1) != 1)
                exit(1);
        }
        exit(0);
    }
    for (int i = 1; i <= 5; i++) {
        write_marked(&w, 0, &count, i == 5 ? 3500000 : (uint64_t)i * 600000, &r, 60000);
        if (write(turn[1], &x, 1) != 1 || read(back[0], &x, 1) != 1)
            fail(0, "the child's turn");
        if (i == 2 && write(go[1], &x, 1) != 1)
            fail(0, "go");
    }
    reap(pid, "the child");
    berth_shutdown(s, BERTH_SHUT_WR);
    expect_end(s);
    berth_close(s);
    reap(far, "the far side");
}

/* A child that had its part leaves; the parent goes on as before. And one that closes what the parent still uses. */
static void child_leaves(void)
{
    pid_t far = far_side(far_echo);
    attach("near");
    uint64_t r = seed | 1;
    for (int i = 0; i < 3 * WAYS; i++) {
        way = (enum way)(i % WAYS);
        berth_session s = dial();
        struct waiter w = waiter_make(s, BERTH_IN);
        ask_echo(&w, &r, 30);
        pid_t pid = fork();
        if (pid == 0) {
            struct waiter mine = waiter_make(s, BERTH_IN);
            ask_echo(&mine, &r, 30);
            if (i / WAYS == 1 && berth_close(s) != 0)
                fail(0, "the child's close");
            if (i / WAYS == 1 && berth_write(s, "x", 1, 0) != BERTH_E_BAD_HANDLE)
                fail(0, "what the child has closed still works");
            if (i / WAYS == 2)
                kill(getpid(), SIGKILL);
            exit(0);
        }
        int st;
        waitpid(pid, &st, 0);
        if (st != 0 && (i / WAYS != 2 || !WIFSIGNALED(st)))
            fail(0, "the child ended with %x", st);
        ask_echo(&w, &r, 200);
        if (w.set)
            berth_waitset_destroy(w.set);
        if (berth_close(s) != 0)
            fail(0, "close");
    }
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* A server that forks for each session, and closes its own copy: the end is seen when the child ends, however it does. */
static void fork_per_session(void)
{
    int tell[2];
    if (pipe(tell) != 0)
        fail(0, "pipe");
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGCHLD, SIG_IGN);
        attach("forking");
        berth_listener l = listen_here(64);
        if (write(tell[1], uri, sizeof uri) != (ssize_t)sizeof uri)
            exit(1);
        for (int i = 0;; i++) {
            berth_session s;
            if (berth_accept(l, -1, &s) != 0)
                exit(1);
            if (fork() == 0) {
                char buf[64];
                ssize_t n;
                while ((n = berth_read(s, buf, sizeof buf, PATIENCE)) > 0 && memchr(buf, '!', (size_t)n) == NULL)
                    put_all(s, buf, (size_t)n);
                if (i % 3 == 0)
                    berth_close(s);
                if (i % 3 == 1)
                    kill(getpid(), SIGKILL);
                _exit(0);
            }
            if (berth_close(s) != 0)
                fail(0, "the parent's close");
        }
    }
    if (read(tell[0], uri, sizeof uri) != (ssize_t)sizeof uri)
        fail(0, "the server did not begin");
    attach("client");
    for (int i = 0; i < (rounds ? rounds : 100); i++) { /* more than a family may have members at once */
        berth_session s = dial();
        char buf[6];
        put_all(s, "hello", 5);
        get_all(s, buf, 5);
        put_all(s, "!", 1);
        expect_end(s);
        berth_close(s);
    }
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

/* ---- 6 and 7: streams that end at once, in rings that others have just left ---- */

static uint8_t byte_at(uint64_t key, uint64_t offset)
{
    return (uint8_t)((offset * 0x9e3779b97f4a7c15ull ^ key) >> 32);
}

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
            while ((got = berth_read(k->s, buf, next_random(&r) % (next_random(&r) % 3 ? 5000 : sizeof buf) + 1,
                                     0)) > 0)
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
static void ring_swap(void)
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

static void fin_races(void)
{
    pid_t far = far_side(sink);
    attach("near");
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < (rounds ? rounds : 3000); i++)
        send_stream(&r, 8 + next_random(&r) % (i % 10 ? 64 : 30000));
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* ---- 5: who polls and never drains, two waiters in one process, a sleeper and its sibling ---- */

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

static void waiters(void)
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

static void two_sets(void)
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

/* ---- 7: death between any two stores; the daemon may be dead as well ---- */

static int told[2];

static void tell(char what)
{
    if (write(told[1], &what, 1) != 1)
        exit(1);
}

static void *until_it_ends(void *arg)
{
    struct waiter *w = arg;
    uint8_t buf[4096];
    ssize_t n;
    while ((n = read_some(w, buf, sizeof buf)) > 0)
        (void)berth_write(w->s, buf, (size_t)n, PATIENCE);
    if (n == BERTH_E_TIMED_OUT)
        fail(n, "a dead peer was not noticed");
    if (w->set)
        berth_waitset_destroy(w->set);
    (void)berth_close(w->s);
    free(w);
    tell('e');
    return NULL;
}

static void far_counts(berth_listener l)
{
    for (int i = 0;; i++) {
        berth_session s;
        if (berth_accept(l, -1, &s) != 0)
            return;
        tell('a');
        way = (enum way)(i % WAYS);
        struct waiter *w = malloc(sizeof *w);
        *w = waiter_make(s, BERTH_IN);
        pthread_t t;
        pthread_create(&t, NULL, until_it_ends, w);
        pthread_detach(t);
    }
}

static void victim(void *arg)
{
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)*(uint64_t *)arg);
    setenv("BERTH_FAULT_STORE", number, 1);
    struct berth_attach_options o = {.name = "victim", .spin_ns = -1};
    if (berth_attach(&o) != 0)
        exit(0); /* the daemon was killed first */
    berth_session s;
    if (berth_connect_uri(uri, SEC, &s) != 0)
        exit(0);
    uint8_t buf[2000] = {0};
    for (int i = 0; i < 20; i++) {
        if (berth_write(s, buf, (size_t)100 * (size_t)i + 1, SEC) <= 0 || berth_read(s, buf, sizeof buf, SEC) <= 0)
            exit(0);
    }
    berth_close(s);
}

static void expect_ends(int *begun, int *ended, int64_t patience)
{
    int64_t end = now() + patience, quiet = now() + 60 * MS;
    for (;;) {
        char c;
        while (read(told[0], &c, 1) == 1) {
            *begun += c == 'a';
            *ended += c == 'e';
            quiet = now() + 60 * MS;
        }
        if (*begun == *ended && now() > quiet)
            return;
        if (now() > end)
            fail(0, "%d of %d ends were noticed", *ended, *begun);
        pause_ms(1);
    }
}

/* seed: the first store at which the victim ends, by itself where the build can do so, else by SIGKILL at some moment.
 * With BERTH_TEST_DAEMON, its pid: the daemon is killed at the first death too. */
static void fault(void)
{
    const char *daemon = getenv("BERTH_TEST_DAEMON");
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    if (pipe2(told, O_NONBLOCK) != 0)
        fail(0, "pipe");
    pid_t far = far_side(far_counts);
    int begun = 0, ended = 0;
    for (uint64_t n = seed; n < seed + (uint64_t)(rounds ? rounds : 40); n++) {
        uint64_t at = daemon ? n : n * n / 8 + n; /* the first ones close together */
        pid_t pid = start(victim, &at);
        if (!getenv("BERTH_FAULTS")) {
            struct timespec ts = {0, (long)(next_random(&r) % 4000000)};
            nanosleep(&ts, NULL);
            kill(pid, SIGKILL);
        }
        waitpid(pid, NULL, 0);
        if (daemon) {
            kill(atoi(daemon), SIGKILL);
            expect_ends(&begun, &ended, 5 * SEC);
            break;
        }
        expect_ends(&begun, &ended, 5 * SEC);
    }
    printf("%d sessions ended\n", ended);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

static const struct scenario {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"one-thread", one_thread},
    {"parent-waits", parent_waits_for_client},
    {"prefork", prefork},
    {"fork-two-directions", fork_two_directions},
    {"fork-same-direction", fork_same_direction},
    {"fork-killed", fork_killed},
    {"daemonize", daemonize},
    {"growth", growth},
    {"child-leaves", child_leaves},
    {"fork-per-session", fork_per_session},
    {"ring-swap", ring_swap},
    {"fin", fin_races},
    {"waiters", waiters},
    {"two-sets", two_sets},
    {"fault", fault},
};

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 0);
    if (argc > 3)
        rounds = atoi(argv[3]);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (argc > 1 && strcmp(scenarios[i].name, argv[1]) == 0) {
            scenarios[i].run();
            printf("%s: passed\n", argv[1]);
            return 0;
        }
    }
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        printf("%s\n", scenarios[i].name);
    return argc > 1 ? 2 : 0;
}
