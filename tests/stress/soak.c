/* soak.c - all that sessions are used for at once, for a while; then nothing may be left.
 *
 *   soak seconds [seed [break]]
 *
 * Three processes, each an app of its own, each with a listener and threads that connect to any of the three
 * (itself too) and threads that accept. A thread uses sessions in one of three ways: blocking (a thread for
 * each direction), without blocking (a few at a time, in turn), by an event set (many at a time; level or
 * edge). All run into each other: who connects in one way may be accepted in another.
 *
 * A session begins with a `plan`, which the connector writes, so that both sides know what must come: two
 * streams of random length at once, in messages of 1 byte to 1 MiB, by fifos of 4 KiB to 4 MiB, whose bytes
 * tell their place (byte_at). It ends
 *   HALVES   each side shuts its direction down when its stream is over, while the other goes on. All must
 *            come, and the end
 *   CLOSE    one side closes at a random moment, bytes unread or not: the other sees the end or a reset
 *   ABORT    one side resets at a random moment: the other sees a reset
 *   EARLY    the connector goes at once, without a plan
 * What each process counts in shared memory must agree in the end. Then sessions, their memory and their
 * descriptors must have gone: "quiet" is said, for who asks the daemon; after a line on stdin all detach, and
 * each looks at what it has left itself.
 *
 * break: a byte of each 200th message is wrong. So one can see that this would be seen.
 */
#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "party.h"

#define PROCESSES 3
#define MESSAGE_MOST (1u << 20)
#define STREAM_MOST_LOG2 22
#define HEAP_SLACK 65536u /* libc keeps a little for threads that were */
#define TOGETHER 12       /* sessions of one event set or of one thread that does not block */

enum kind { HALVES, CLOSE, ABORT, EARLY, KINDS };
enum way { BLOCKING, TURNS, LEVEL, EDGE, WAYS };

struct plan {
    uint64_t key;
    uint64_t length[2]; /* of the stream to the acceptor, and of that to the connector */
    /* CLOSE, ABORT: after so many bytes in both directions, as the one who ends it counts */
    uint64_t cut;
    uint32_t kind;
    uint32_t ends; /* who ends it: 1 the connector */
};

struct flow {
    berth_session s;
    int connector;
    struct plan plan;
    _Atomic size_t planned; /* bytes of the plan that went or came */
    _Atomic uint64_t sent, got;
    atomic_int out_over, in_over; /* that direction: nothing more */
    atomic_int closed;            /* by ourselves, in the middle */
    uint64_t out_random, in_random;
    uint32_t watching;
};

struct counts {
    atomic_ulong connected[KINDS], accepted[KINDS];
    atomic_ulong bytes_out, bytes_in; /* of HALVES */
    atomic_ulong resets, ends_in_the_middle;
};

static struct shared {
    struct counts counts;
    char at[PROCESSES][sizeof uri];
    atomic_int listening, done, detach;
    atomic_int quiet;
} * all;

static int64_t until;
static int breaking;
static int me;
static berth_listener listener;

/* ---- chance ---- */

/* 1 to 2^log2, each power of two as likely as the others. */
static uint64_t any_size(uint64_t *r, unsigned log2)
{
    uint64_t most = 1ull << next_random(r) % (log2 + 1);
    return next_random(r) % most + 1;
}

static void any_limits(berth_session s, uint64_t *r)
{
    if (next_random(r) % 3 == 0)
        return;
    expect(berth_option_set(s, BERTH_OPT_TX_FIFO_SIZE, 4096ull << next_random(r) % 11), "the size of a fifo");
    expect(berth_option_set(s, BERTH_OPT_RX_FIFO_SIZE, 4096ull << next_random(r) % 11), "the size of a fifo");
}

static struct plan any_plan(uint64_t *r)
{
    struct plan p = {
        .key = next_random(r), .ends = next_random(r) % 2, .kind = (uint32_t)(next_random(r) % 8)};
    p.kind = p.kind < 4 ? HALVES : p.kind < 6 ? CLOSE : p.kind < 7 ? ABORT : EARLY;
    p.length[0] = any_size(r, STREAM_MOST_LOG2);
    p.length[1] = any_size(r, STREAM_MOST_LOG2);
    p.cut = next_random(r) % (p.length[0] + p.length[1]);
    return p;
}

/* ---- one session, either side ---- */

static uint64_t out_length(const struct flow *f)
{
    return f->plan.length[f->connector ? 0 : 1];
}

static uint64_t in_length(const struct flow *f)
{
    return f->plan.length[f->connector ? 1 : 0];
}

static uint64_t out_key(const struct flow *f)
{
    return f->plan.key ^ (f->connector ? 0 : ~0ull);
}

static int known(const struct flow *f)
{
    return f->planned == sizeof f->plan;
}

/* A call said that there is no more. May it? */
static void ended(struct flow *f, ssize_t code, const char *what)
{
    if (f->closed || (!f->connector && !known(f) && (code == 0 || code == BERTH_E_RESET))) /* EARLY */
        return;
    if (code != 0 && code != BERTH_E_RESET && code != BERTH_E_CLOSED)
        fail(code, "%s, after %llu bytes of %llu in, %llu of %llu out", what, (unsigned long long)f->got,
             (unsigned long long)in_length(f), (unsigned long long)f->sent,
             (unsigned long long)out_length(f));
    int whole = code == 0 && f->got == in_length(f);
    if (whole)
        return;
    if (f->plan.kind == HALVES || f->plan.ends == (uint32_t)f->connector)
        fail(code, "%s: kind %u, after %llu bytes of %llu in, %llu of %llu out", what, f->plan.kind,
             (unsigned long long)f->got, (unsigned long long)in_length(f), (unsigned long long)f->sent,
             (unsigned long long)out_length(f));
    if (code == 0 && f->plan.kind == ABORT)
        fail(code, "%s: an end after %llu bytes of %llu where a reset was to come", what,
             (unsigned long long)f->got, (unsigned long long)in_length(f));
    atomic_fetch_add(code == 0 ? &all->counts.ends_in_the_middle : &all->counts.resets, 1);
}

/* Ends it in the middle if it is time. A connector only once its plan has come for sure. */
static int cut(struct flow *f)
{
    if (!known(f) || f->plan.kind == HALVES || f->plan.ends != (uint32_t)f->connector ||
        (f->connector && f->got == 0) || f->sent + f->got < f->plan.cut || atomic_exchange(&f->closed, 1))
        return f->closed;
    expect(f->plan.kind == CLOSE ? berth_close(f->s) : berth_reset(f->s), "ending a session in the middle");
    return 1;
}

/* Out of the buffer of the thread. WOULD_BLOCK, TIMED_OUT; 0: something went or it is over. */
static ssize_t push(struct flow *f, uint8_t *buf, int64_t timeout)
{
    ssize_t n;
    if (f->connector && !known(f)) {
        n = berth_write(f->s, (uint8_t *)&f->plan + f->planned, sizeof f->plan - f->planned, timeout);
        if (n < 0)
            return n == BERTH_E_WOULD_BLOCK || n == BERTH_E_TIMED_OUT ? n : (fail(n, "writing the plan"), n);
        f->planned += (size_t)n;
        return 0;
    }
    uint64_t length = out_length(f), sent = f->sent, size = any_size(&f->out_random, 20);
    if (size > length - sent)
        size = length - sent;
    for (uint64_t i = 0; i < size; i++)
        buf[i] = byte_at(out_key(f), sent + i);
    if (breaking && next_random(&f->out_random) % 200 == 0)
        buf[size / 2] ^= 1;
    n = berth_write(f->s, buf, size, timeout);
    if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_TIMED_OUT)
        return n;
    if (n < 0 && !(f->closed && n == BERTH_E_BAD_HANDLE))
        ended(f, n, "a write");
    if (n > 0)
        f->sent = sent + (uint64_t)n;
    if (n > 0 && f->sent == length) {
        int err = berth_shutdown(f->s, BERTH_SHUT_WR);
        if (err && !f->closed)
            ended(f, err, "a shutdown");
    }
    if (n < 0 || f->sent == length)
        f->out_over = 1;
    (void)cut(f);
    return 0;
}

static void check_came(struct flow *f, const uint8_t *buf, size_t n)
{
    uint64_t key = ~out_key(f), at = f->got;
    if (n > in_length(f) - at)
        fail(0, "%zu bytes came after %llu of %llu", n, (unsigned long long)at,
             (unsigned long long)in_length(f));
    for (size_t i = 0; i < n; i++) {
        unsigned long long place = at + i;
        if (buf[i] != byte_at(key, place))
            fail(0, "byte %llu of %llu is %u, not %u", place, (unsigned long long)in_length(f), buf[i],
                 byte_at(key, place));
    }
    f->got = at + n;
}

static ssize_t pull(struct flow *f, uint8_t *buf, int64_t timeout)
{
    int plan = !f->connector && !known(f);
    uint8_t *to = plan ? (uint8_t *)&f->plan + f->planned : buf;
    size_t room = plan ? sizeof f->plan - f->planned : any_size(&f->in_random, 20);
    ssize_t n = berth_read(f->s, to, room, timeout);
    if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_TIMED_OUT)
        return n;
    if (n <= 0) {
        if (!(f->closed && n == BERTH_E_BAD_HANDLE))
            ended(f, n, "a read");
        f->in_over = 1;
        if (plan)
            f->out_over = 1; /* there never will be one */
        return 0;
    }
    if (plan)
        f->planned += (size_t)n;
    else
        check_came(f, buf, (size_t)n);
    (void)cut(f);
    return 0;
}

static int over(const struct flow *f)
{
    return f->closed || (f->in_over && f->out_over);
}

static struct flow *flow_make(berth_session s, int connector, uint64_t *r)
{
    struct flow *f = calloc(1, sizeof *f);
    if (!f)
        fail(0, "no memory for a session");
    f->s = s;
    f->connector = connector;
    f->out_random = next_random(r) | 1;
    f->in_random = next_random(r) | 1;
    any_limits(s, r);
    return f;
}

static void flow_end(struct flow *f)
{
    uint32_t kind = known(f) ? f->plan.kind : EARLY;
    struct counts *c = &all->counts;
    if (!f->closed)
        expect(berth_close(f->s), "close");
    if (kind == HALVES) {
        if (f->got != in_length(f) || f->sent != out_length(f))
            fail(0, "a session ended before its end");
        atomic_fetch_add(&c->bytes_out, f->sent);
        atomic_fetch_add(&c->bytes_in, f->got);
    }
    atomic_fetch_add(f->connector ? &c->connected[kind] : &c->accepted[kind], 1);
    free(f);
}

/* Another one, to any of the three. NULL: it has gone already, as planned. */
static struct flow *flow_connect(uint64_t *r)
{
    berth_session s;
    struct plan plan = any_plan(r);
    expect(berth_connect_uri(all->at[next_random(r) % PROCESSES], PATIENCE, &s), "connect");
    if (plan.kind == EARLY) {
        expect(next_random(r) % 2 ? berth_close(s) : berth_reset(s), "an early end");
        atomic_fetch_add(&all->counts.connected[EARLY], 1);
        return NULL;
    }
    struct flow *f = flow_make(s, 1, r);
    f->plan = plan;
    return f;
}

/* NULL: nobody there within the time. */
static struct flow *flow_accept(uint64_t *r, int64_t timeout)
{
    berth_session s;
    int err = berth_accept(listener, timeout, &s);
    if (err == BERTH_E_WOULD_BLOCK || err == BERTH_E_TIMED_OUT)
        return NULL;
    expect(err, "accept");
    return flow_make(s, 0, r);
}

/* ---- the ways to use them ---- */

struct user {
    pthread_t thread;
    enum way way;
    int connects;
    uint64_t r;
    uint8_t *buf;
};

static int goes_on(const struct user *u)
{
    return u->connects ? now() < until : atomic_load(&all->done) < PROCESSES;
}

static struct flow *flow_next(struct user *u, int64_t timeout)
{
    return u->connects ? flow_connect(&u->r) : flow_accept(&u->r, timeout);
}

static void *writes(void *arg)
{
    struct flow *f = arg;
    uint8_t *buf = malloc(MESSAGE_MOST);
    if (!buf)
        fail(0, "no memory for messages");
    for (int64_t since = now(); !f->out_over && !f->closed;) {
        uint64_t before = f->sent;
        ssize_t n = push(f, buf, 100 * MS);
        if (f->sent != before || n == 0)
            since = now();
        else if (now() - since > PATIENCE)
            fail(n, "a blocked writer: nothing for %lld s, %llu of %llu sent", PATIENCE / SEC,
                 (unsigned long long)before, (unsigned long long)out_length(f));
    }
    free(buf);
    return NULL;
}

static void use_blocking(struct user *u)
{
    while (goes_on(u)) {
        struct flow *f = flow_next(u, 50 * MS);
        if (!f)
            continue;
        pthread_t writer;
        int writing = 0;
        if (f->connector)
            writing = pthread_create(&writer, NULL, writes, f) == 0;
        while (!f->in_over && !f->closed) {
            ssize_t n = pull(f, u->buf, PATIENCE);
            if (n < 0 && !f->closed)
                fail(n, "a blocked reader: %llu of %llu came", (unsigned long long)f->got,
                     (unsigned long long)in_length(f));
            if (!f->connector && known(f) && !writing)
                writing = pthread_create(&writer, NULL, writes, f) == 0;
        }
        if (writing)
            pthread_join(writer, NULL);
        flow_end(f);
    }
}

static void use_in_turns(struct user *u)
{
    struct flow *flows[TOGETHER] = {NULL};
    int64_t since = now();
    for (int used = 1; used || goes_on(u);) {
        int moved = 0;
        used = 0;
        for (int i = 0; i < TOGETHER; i++) {
            if (!flows[i] && goes_on(u) && next_random(&u->r) % 4 == 0)
                flows[i] = flow_next(u, 0);
            struct flow *f = flows[i];
            if (!f)
                continue;
            used++;
            if (!f->out_over && !f->closed && (f->connector || known(f)))
                moved += push(f, u->buf, 0) == 0;
            if (!f->in_over && !f->closed)
                moved += pull(f, u->buf, next_random(&u->r) % 64 ? 0 : MS) == 0;
            if (over(f)) {
                flow_end(f);
                flows[i] = NULL;
            }
        }
        if (moved || !used)
            since = now();
        if (now() - since > PATIENCE)
            fail(0, "%d sessions in turn: nothing moved for %lld s", used, PATIENCE / SEC);
        if (!moved)
            usleep(200);
    }
}

static uint32_t wanted(const struct flow *f, enum way w)
{
    if (w == EDGE)
        return BERTH_IN | BERTH_OUT | BERTH_EDGE;
    int writes_now = !f->out_over && (f->connector || known(f));
    return (f->in_over ? 0 : BERTH_IN) | (writes_now ? BERTH_OUT : 0);
}

/* By level one call each way; by edge until neither does anything. */
static void flow_step(struct flow *f, enum way w, uint8_t *buf)
{
    int moved;
    do {
        moved = 0;
        if (!f->in_over && !f->closed)
            moved += pull(f, buf, 0) == 0;
        if (!f->out_over && !f->closed && (f->connector || known(f)))
            moved += push(f, buf, 0) == 0;
    } while (w == EDGE && moved && !over(f));
}

static void use_by_events(struct user *u)
{
    berth_waitset *set = berth_waitset_create();
    if (!set)
        fail(0, "no waitset");
    if (!u->connects)
        expect(berth_waitset_add(set, listener, BERTH_IN, 0), "the listener's add");
    int used = 0;
    for (int64_t since = now(); used || goes_on(u);) {
        struct flow *next = used < TOGETHER && goes_on(u) ? flow_next(u, 0) : NULL;
        if (next) {
            next->watching = wanted(next, u->way);
            expect(berth_waitset_add(set, next->s, next->watching, (uint64_t)(uintptr_t)next),
                   "a session's add");
            used++;
        }
        struct berth_event ev[TOGETHER];
        int n = berth_waitset_wait(set, ev, TOGETHER, u->connects && used < TOGETHER ? 0 : 20 * MS);
        expect(n, "an event set's wait");
        if (n || !used)
            since = now();
        if (now() - since > PATIENCE)
            fail(0, "%d sessions in an event set: no event for %lld s", used, PATIENCE / SEC);
        for (int i = 0; i < n; i++) {
            struct flow *f = (struct flow *)(uintptr_t)ev[i].data;
            if (!f)
                continue;
            flow_step(f, u->way, u->buf);
            if (over(f)) {
                flow_end(f);
                used--;
            } else if (u->way == LEVEL && wanted(f, LEVEL) != f->watching) {
                f->watching = wanted(f, LEVEL);
                expect(berth_waitset_modify(set, f->s, f->watching, (uint64_t)(uintptr_t)f), "a modify");
            }
        }
    }
    berth_waitset_destroy(set);
}

static void *use(void *arg)
{
    struct user *u = arg;
    static void (*const uses[WAYS])(struct user *) = {use_blocking, use_in_turns, use_by_events,
                                                      use_by_events};
    u->buf = malloc(MESSAGE_MOST);
    if (!u->buf)
        fail(0, "no memory for messages");
    uses[u->way](u);
    free(u->buf);
    return NULL;
}

/* ---- what is left ---- */

static int descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

/* Mappings of memory that has a name of berth's. */
static int mappings(void)
{
    char line[512];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    while (f && fgets(line, sizeof line, f))
        n += strstr(line, "memfd:berth") != NULL;
    if (f)
        (void)fclose(f);
    return n;
}

static size_t heap(void)
{
    return mallinfo2().uordblks;
}

static void wait_for(const atomic_int *what, int value, const char *text)
{
    for (int64_t end = now() + PATIENCE; atomic_load(what) < value; pause_ms(2)) {
        if (now() > end)
            fail(0, "waiting for %s", text);
    }
}

/* Who sleeps in berth gives back what the others have done with; here nobody else does. */
static void settle(const atomic_int *what, const char *text, int64_t patience)
{
    berth_waitset *set = berth_waitset_create();
    if (!set)
        fail(0, "no waitset");
    struct berth_event ev;
    for (int64_t end = now() + patience; !atomic_load(what);) {
        if (now() > end)
            fail(0, "waiting for %s", text);
        expect(berth_waitset_wait(set, &ev, 1, 10 * MS), "the wait in the end");
    }
    berth_waitset_destroy(set);
}

static void process(void *arg)
{
    char name[16];
    struct user users[2 * WAYS];
    me = *(int *)arg;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)snprintf(name, sizeof name, "soak-%d", me);
    role = name;
    int fds = descriptors();
    size_t bytes = heap();
    attach(name);
    listener = listen_here(64);
    memcpy(all->at[me], uri, sizeof uri);
    atomic_fetch_add(&all->listening, 1);
    wait_for(&all->listening, PROCESSES, "the listeners");
    for (int i = 0; i < 2 * WAYS; i++) {
        users[i] = (struct user){.way = (enum way)(i / 2), .connects = i % 2};
        users[i].r = (seed * 1000 + (uint64_t)(me * 100 + i)) * 0x9e3779b97f4a7c15ull | 1;
        if (pthread_create(&users[i].thread, NULL, use, &users[i]) != 0)
            fail(0, "no thread");
    }
    for (int i = 1; i < 2 * WAYS; i += 2)
        pthread_join(users[i].thread, NULL);
    atomic_fetch_add(&all->done, 1);
    for (int i = 0; i < 2 * WAYS; i += 2)
        pthread_join(users[i].thread, NULL);
    uint64_t r = seed | 1;
    for (struct flow *f; (f = flow_accept(&r, 0));) { /* those who went before they were accepted */
        while (!over(f)) {
            ssize_t n = pull(f, (uint8_t[1]){0}, SEC);
            if (n < 0 || known(f))
                fail(n, "somebody waits who should have gone");
        }
        flow_end(f);
    }
    atomic_fetch_add(&all->quiet, 1);
    settle(&all->detach, "the word to detach", 6 * PATIENCE);
    expect(berth_unlisten(listener), "unlisten");
    expect(berth_detach(), "detach");
    if (descriptors() != fds)
        fail(0, "%d descriptors are left", descriptors() - fds);
    if (mappings())
        fail(0, "%d mappings are left", mappings());
    if (heap() > bytes + HEAP_SLACK)
        fail(0, "%zu bytes of heap are left", heap() - bytes);
}

/* ---- all of it ---- */

static void check_counts(void)
{
    struct counts *c = &all->counts;
    unsigned long sessions = 0;
    for (int k = 0; k < KINDS; k++) {
        sessions += c->connected[k];
        if (c->connected[k] == 0)
            fail(0, "no session of kind %d", k);
        /* who resets a connection that waits takes it back, or does not */
        if (k == EARLY ? c->accepted[k] > c->connected[k] : c->accepted[k] != c->connected[k])
            fail(0, "%lu sessions of kind %d connected, %lu accepted", c->connected[k], k, c->accepted[k]);
    }
    if (c->bytes_in != c->bytes_out)
        fail(0, "%lu bytes out, %lu in", c->bytes_out, c->bytes_in);
    printf("%lu sessions (%lu whole, with %lu bytes; %lu early, of which %lu were accepted), %lu resets, %lu "
           "ends "
           "seen "
           "in the middle\n",
           sessions, c->connected[HALVES], c->bytes_out, c->connected[EARLY], c->accepted[EARLY], c->resets,
           c->ends_in_the_middle);
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 30;
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    breaking = argc > 3;
    role = "soak";
    signal(SIGPIPE, SIG_IGN);
    until = now() + seconds * SEC;
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        fail(0, "no memory");
    pid_t pid[PROCESSES];
    for (int i = 0; i < PROCESSES; i++)
        pid[i] = start(process, &i);
    while (atomic_load(&all->quiet) < PROCESSES) {
        int st;
        pid_t one = waitpid(-1, &st, WNOHANG);
        if (one != 0)
            fail(0, "one of them ended with status %x", st);
        if (now() > until + 3 * PATIENCE)
            fail(0, "they do not come to an end");
        pause_ms(5);
    }
    check_counts();
    printf("quiet\n");
    fflush(stdout);
    char line[16];
    if (!fgets(line, sizeof line, stdin))
        fail(0, "no word to detach");
    atomic_store(&all->detach, 1);
    for (int i = 0; i < PROCESSES; i++)
        reap(pid[i], "one of them");
    printf("soak: passed\n");
    return 0;
}
