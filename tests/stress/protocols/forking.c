/* forking.c - fork with sessions held. */
#include "protocols.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
void fork_two_directions(void)
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
void fork_same_direction(void)
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

void fork_killed(void)
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

/* daemon(3): the parent leaves at once, the child goes on with session and listener; and again from there. */
void daemonize(void)
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

/* The parent's ring moves, after the fork, to a segment that only the parent can write; then the child
 * writes. */
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

void growth(void)
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

/* A child that had its part leaves; the parent goes on as before. And one that closes what the parent still
 * uses. */
void child_leaves(void)
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

static void serve_in_children(berth_listener l)
{
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0;; i++) {
        berth_session s;
        expect(berth_accept(l, -1, &s), "accept");
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
        expect(berth_close(s), "the parent's close");
    }
}

/* A server that forks for each session, and closes its own copy: the end is seen when the child ends, however
 * it does. */
void fork_per_session(void)
{
    pid_t server = far_side(serve_in_children);
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

/* A session that the parent made after the fork is the parent's alone: the child can see its record, and not
 * use it. */
void not_owner(void)
{
    pid_t far = far_side(far_echo);
    attach("near");
    int told[2];
    if (pipe(told) != 0)
        fail(0, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        berth_session s;
        char c;
        if (read(told[0], &s, sizeof s) != (ssize_t)sizeof s)
            exit(1);
        int err[] = {berth_close(s), berth_reset(s), berth_shutdown(s, BERTH_SHUT_WR)};
        for (int i = 0; i < 3; i++) {
            if (err[i] != BERTH_E_NOT_OWNER)
                fail(err[i], "ending the parent's session (%d) gave %d", i, err[i]);
        }
        ssize_t n = berth_read(s, &c, 1, 0);
        if (n != BERTH_E_BAD_HANDLE && n != BERTH_E_NOT_OWNER)
            fail(n, "reading the parent's session gave %zd", n);
        exit(0);
    }
    berth_session s = dial();
    if (write(told[1], &s, sizeof s) != (ssize_t)sizeof s)
        fail(0, "pipe");
    reap(pid, "the child");
    struct waiter w = {.s = s};
    uint64_t r = seed | 1;
    ask_echo(&w, &r, 20);
    berth_close(s);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* A thread uses berth for the first time, and then goes on, while others fork: whatever it had begun, its own
 * sessions stay as they are, and the children can use berth too, and so can theirs. */
static void use_it(uint64_t r)
{
    uint8_t out[6000], in[6000];
    size_t n = next_random(&r) % 4 ? 1 : next_random(&r) % sizeof out + 1;
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)next_random(&r);
    berth_session s = dial();
    put_all(s, out, n);
    get_all(s, in, n);
    if (memcmp(in, out, n) != 0)
        fail(0, "the echo differs");
    berth_close(s);
}

static void *first_use(void *arg)
{
    const int *over = arg;
    int err = enter("near");
    if (err && err != BERTH_E_ALREADY_ATTACHED)
        fail(err, "attach");
    struct berth_event ev;
    berth_waitset *set = berth_waitset_create();
    if (!set)
        fail(0, "no waitset");
    expect(berth_waitset_wait(set, &ev, 1, 0), "a wait");
    berth_waitset_destroy(set);
    for (uint64_t i = 1; i < 4 || !__atomic_load_n(over, __ATOMIC_RELAXED); i++)
        use_it(seed * 1000 + i);
    return arg;
}

static void forks_meanwhile(void *arg)
{
    int depth = *(int *)arg - 1, over = 0;
    pid_t pid[4];
    pthread_t user;
    alarm((unsigned)longer(30));
    if (pthread_create(&user, NULL, first_use, &over) != 0)
        fail(0, "no thread");
    for (int i = 0; i < 4 && depth > 0; i++) {
        pid[i] = start(forks_meanwhile, &depth);
        usleep((useconds_t)(i * 40));
    }
    for (int i = 0; i < 4 && depth > 0; i++)
        reap(pid[i], "a child forked while its parent met berth");
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    pthread_join(user, NULL);
    use_it(seed);
}

static void any_child(void *arg)
{
    int kind = *(int *)arg % 12; /* one in twelve: a server meets so many workers of an app and no more */
    if (kind == 0)
        use_it(seed);
    if (kind % 2)
        _exit(0);
}

/* The same with threads that began long ago, and with children that end at once, at the same time as others
 * are forked: what they leave behind is let go of while sessions are made and closed. */
static void among_users(void *arg)
{
    pthread_t user[2];
    int over = 0;
    attach("near");
    for (int i = 0; i < 2; i++) {
        if (pthread_create(&user[i], NULL, first_use, &over) != 0)
            fail(0, "no thread");
    }
    for (int i = 0; i < *(int *)arg; i++) {
        pid_t pid[3];
        for (int k = 0; k < 3; k++)
            pid[k] = start(any_child, &(int){i + k});
        for (int k = 0; k < 3; k++)
            reap(pid[k], "a child forked among threads");
    }
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(user[i], NULL);
}

void forks_among_users(void)
{
    pid_t far = far_side(far_echo_threads),
          family[3]; /* more than there are CPUs, perhaps: each is stopped anywhere */
    int times = rounds ? rounds : 300;
    for (int i = 0; i < 3; i++)
        family[i] = start(among_users, &times);
    for (int i = 0; i < 3; i++)
        reap(family[i], "a process that forked among threads");
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

void fork_meanwhile(void)
{
    pid_t far = far_side(far_echo_threads);
    int depth = 3;
    for (int i = 0; i < (rounds ? rounds : 25); i++)
        reap(start(forks_meanwhile, &depth), "a process that forked while it met berth");
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}
