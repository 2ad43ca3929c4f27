/* mutate.c - a peer whose memory changes under the eyes of those who read it.
 *
 *   mutate [seed [seconds]]
 *
 * One process after the other attaches, listens, connects and talks by the library's own code, and goes on
 * doing so, while other threads of it write words into all that it may write: slots, slot_info, channel
 * lines, event queues, chunk table, segment headers, worker page; wild values, and such as are nearly right,
 * some of them for a moment only, so that two reads of one word differ. Three kinds of processes meet it or
 * live beside it:
 *
 *   the victim     accepts by event sets (level and edge) and by blocking calls, and connects to the mutator,
 *                  reads, writes, takes spans and polls. It must not crash, use wild memory (the sanitizers
 *                  tell), or stay in a call.
 *   the friends    ask the victim, on each of its listeners, and compare each byte. One of them is the victim
 *                  itself, which asks an honest server.
 *   the strangers  a pair that has nothing to do with the mutator.
 *
 * Now and then the mutator is stopped, as it stands, and everybody else rests: then the victim must rest,
 * too. hostile.c has what a peer can do without another thread.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/fds.h"
#include "client/outbox.h"
#include "client/state.h"
#include "echo.h"

#define LISTENERS 3  /* of the victim: level, edge, blocking */
#define BLOCKING 3   /* threads of the victim that accept and echo by blocking calls */
#define CONNECTORS 2 /* and that connect to the mutator */
#define HANDS (BLOCKING + CONNECTORS + 1)
#define ASKERS 3 /* a friend, the victim itself, a stranger */
#define LONGEST_ANSWER (4 * SEC)
#define LONGEST_CALL (3 * SEC) /* beyond what was allowed to it, on a machine that has other things to do */
#define LONGEST_CPU SEC
#define REST (300 * MS)
#define REST_CPU (REST / 3)

/* Shared by all of them. */
struct board {
    char at[LISTENERS][64];        /* the victim's listeners */
    char honest_at[64];            /* the honest server's */
    uint32_t bad_port;             /* where the mutator listens; 0: nowhere */
    uint32_t stage;                /* of the mutator: 1 it writes, 2 it has written enough */
    uint32_t rest, over;           /* said by the parent */
    uint64_t words, met;           /* written by mutators; sessions that they had */
    uint64_t calls, taken, dialed; /* of the victim's hands */
    int64_t beat[HANDS];           /* when each last came back from a call */
    int tid[HANDS];
    uint64_t answers[ASKERS], fresh[ASKERS];
    int64_t slowest[ASKERS];
};

static struct board *board;
static uint64_t turn; /* the seed of the mutator of now */

static void count(uint64_t *what)
{
    (void)fetch_add_sc(what, 1);
}

/* ---- asking and comparing ---- */

struct asker {
    int who;
    const char *to[LISTENERS];
    int places;
};

static berth_session dial_at(const char *where)
{
    berth_session s;
    int err = berth_connect_uri(where, PATIENCE, &s);
    if (err)
        fail(err, "an honest connect to %s", where);
    return s;
}

static void ask(berth_session s, uint64_t *r, size_t most)
{
    static __thread uint8_t out[40000], in[40000];
    size_t n = next_random(r) % most + 1;
    uint64_t key = next_random(r);
    for (size_t i = 0; i < n; i++)
        out[i] = byte_at(key, i);
    put_all(s, out, n);
    get_all(s, in, n);
    if (memcmp(in, out, n) != 0)
        fail(0, "wrong bytes in an honest answer");
}

static void *ask_on(void *arg)
{
    const struct asker *a = arg;
    uint64_t r = (seed + (uint64_t)a->who) * 0x9e3779b97f4a7c15ull | 1;
    berth_session kept[LISTENERS] = {0};
    for (uint64_t n = 0; !load_relaxed(&board->over); n++) {
        if (load_relaxed(&board->rest)) {
            pause_ms(5);
            continue;
        }
        int64_t begin = now();
        int place = (int)(next_random(&r) % (uint64_t)a->places);
        bool blocking = a->places > 1 && place == LISTENERS - 1; /* its threads serve one session at a time */
        if (blocking || n % 16 == 0) {
            berth_session s = dial_at(a->to[place]);
            ask(s, &r, 2000);
            expect(berth_close(s), "an honest close");
            count(&board->fresh[a->who]);
        } else {
            if (!kept[place])
                kept[place] = dial_at(a->to[place]);
            ask(kept[place], &r, n % 8 ? 3000 : 40000);
        }
        int64_t took = now() - begin;
        if (took > load_relaxed(&board->slowest[a->who]))
            store_relaxed(&board->slowest[a->who], took);
        if (took > LONGEST_ANSWER)
            fail(0, "an answer from %s took %lld ms", a->to[place], (long long)(took / MS));
        count(&board->answers[a->who]);
        if (n % 4 == 0)
            (void)usleep(next_random(&r) % 2000);
    }
    for (int i = 0; i < a->places; i++) {
        if (kept[i])
            expect(berth_close(kept[i]), "an honest close");
    }
    return NULL;
}

static void friend(void *arg)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    role = "a friend of the victim";
    attach("friend");
    (void)arg;
    (void)ask_on(&(struct asker){0, {board->at[0], board->at[1], board->at[2]}, LISTENERS});
}

static void stranger(void *arg)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    role = "a stranger";
    attach("stranger");
    (void)arg;
    (void)ask_on(&(struct asker){2, {board->honest_at}, 1});
}

static void serve_honestly(berth_listener l)
{
    role = "the honest server";
    echo_serve(l, &(struct echo_rules){.hostile = 1, .wait = SEC / 10});
}

/* ---- the victim ---- */

struct hand {
    int index;
    berth_listener l;
    uint64_t r;
    int64_t began, cpu;
};

static void call_begins(struct hand *h)
{
    h->began = now();
    h->cpu = time_of(CLOCK_THREAD_CPUTIME_ID);
}

static void call_ended(struct hand *h, int64_t allowed, const char *what)
{
    int64_t at = now(), took = at - h->began, cpu = time_of(CLOCK_THREAD_CPUTIME_ID) - h->cpu;
    store_relaxed(&board->beat[h->index], at);
    count(&board->calls);
    if (took > allowed + LONGEST_CALL)
        fail(0, "%s of %lld ms took %lld ms", what, (long long)(allowed / MS), (long long)(took / MS));
    if (cpu > LONGEST_CPU)
        fail(0, "%s took %lld ms of the processor", what, (long long)(cpu / MS));
}

static void hand_begins(struct hand *h)
{
    store_relaxed(&board->tid[h->index], (int)syscall(SYS_gettid));
    store_relaxed(&board->beat[h->index], now());
}

/* One session after the other, by blocking calls; one that says nothing for a while has had its turn. */
static void *serve_blocking(void *arg)
{
    struct hand *h = arg;
    static __thread uint8_t buf[65536];
    hand_begins(h);
    while (!stopping) {
        berth_session s;
        call_begins(h);
        int err = berth_accept(h->l, SEC / 10, &s);
        call_ended(h, SEC / 10, "accept");
        if (err == BERTH_E_TIMED_OUT || err == BERTH_E_INTERRUPTED)
            continue;
        expect(err, "the victim's accept");
        count(&board->taken);
        for (int round = 0; round < 64; round++) {
            call_begins(h);
            ssize_t n = berth_read(s, buf, sizeof buf, SEC / 10);
            call_ended(h, SEC / 10, "read");
            if (n <= 0)
                break;
            call_begins(h);
            ssize_t w = berth_write(s, buf, (size_t)n, SEC / 10);
            call_ended(h, SEC / 10, "write");
            if (w != n)
                break;
        }
        (void)berth_close(s);
    }
    return NULL;
}

/* Looks at all that is offered to it: what is named must be there. */
static ssize_t look_at_spans(berth_session s, uint64_t *r)
{
    struct iovec spans[2];
    ssize_t n = berth_read_spans(s, spans, 0);
    volatile uint8_t sum = 0;
    size_t all = 0;
    for (ssize_t i = 0; i < n; i++) {
        for (size_t at = 0; at < spans[i].iov_len; at += 512)
            sum = (uint8_t)(sum + ((uint8_t *)spans[i].iov_base)[at]);
        all += spans[i].iov_len;
    }
    if (n > 0)
        n = berth_read_consume(s, next_random(r) % (all + 1));
    return n;
}

static ssize_t write_by_spans(berth_session s, uint64_t *r)
{
    struct iovec spans[2];
    size_t want = next_random(r) % 20000 + 1, all = 0;
    ssize_t n = berth_write_spans(s, want, spans, 0);
    for (ssize_t i = 0; i < n; i++) {
        memset(spans[i].iov_base, 'v', spans[i].iov_len);
        all += spans[i].iov_len;
    }
    if (n > 0)
        n = berth_write_commit(s, all < want ? all : want);
    return n;
}

static ssize_t wait_by_set(berth_session s)
{
    struct berth_event ev[2];
    berth_waitset *set = berth_waitset_create();
    if (!set)
        fail(0, "no waitset");
    int err = berth_waitset_add(set, s, BERTH_IN, 1);
    int n = err ? err : berth_waitset_wait(set, ev, 2, 20 * MS);
    berth_waitset_destroy(set);
    return n;
}

static ssize_t wait_by_poll(berth_session s)
{
    struct client_poll_item item = {.handle = s, .events = EPOLLIN};
    return client_poll(&item, 1, NULL, 0, 20 * MS, NULL, NULL);
}

/* One of the things that a program does with a session. False: it is over. */
static bool do_something(struct hand *h, berth_session s)
{
    static __thread uint8_t buf[70000];
    static const char *const names[] = {"write",      "patient write", "read",         "patient read",
                                        "read_spans", "write_spans",   "waitset_wait", "poll"};
    size_t n = next_random(&h->r) % sizeof buf + 1;
    int what = load_relaxed(&board->rest) ? 3 : (int)(next_random(&h->r) % 8);
    int64_t allowed = 0;
    ssize_t got;
    call_begins(h);
    switch (what) {
    case 0:
        got = berth_write(s, buf, n, 0);
        break;
    case 1:
        got = berth_write(s, buf, n, allowed = 20 * MS);
        break;
    case 2:
        got = berth_read(s, buf, n, 0);
        break;
    case 3:
        got = berth_read(s, buf, n, allowed = 20 * MS);
        break;
    case 4:
        got = look_at_spans(s, &h->r);
        break;
    case 5:
        got = write_by_spans(s, &h->r);
        break;
    case 6:
        got = wait_by_set(s);
        allowed = 20 * MS;
        break;
    default:
        got = wait_by_poll(s);
        allowed = 20 * MS;
    }
    call_ended(h, allowed, names[what]);
    return got >= 0 || got == BERTH_E_WOULD_BLOCK || got == BERTH_E_TIMED_OUT;
}

static void *connect_on(void *arg)
{
    struct hand *h = arg;
    hand_begins(h);
    while (!stopping) {
        char where[64];
        berth_session s;
        uint32_t port = load_acquire(&board->bad_port);
        store_relaxed(&board->beat[h->index], now());
        if (!port || load_relaxed(&board->rest)) {
            pause_ms(2);
            continue;
        }
        snprintf(where, sizeof where, "tcp://127.0.0.1:%u", port);
        call_begins(h);
        int err = berth_connect_uri(where, SEC / 5, &s);
        call_ended(h, SEC / 5, "connect");
        if (err) {
            pause_ms(2);
            continue;
        }
        count(&board->dialed);
        for (int i = 0; i < 200 && !stopping && do_something(h, s); i++)
            ;
        call_begins(h);
        (void)(next_random(&h->r) % 2 ? berth_close(s) : berth_reset(s));
        call_ended(h, 0, "close");
    }
    return NULL;
}

static void *serve_edge(void *arg)
{
    echo_serve(*(berth_listener *)arg, &(struct echo_rules){.edge = 1, .hostile = 1, .wait = SEC / 10});
    return NULL;
}

static void *ask_honest_server(void *arg)
{
    (void)arg;
    return ask_on(&(struct asker){1, {board->honest_at}, 1});
}

static void stop(int sig)
{
    (void)sig;
    stopping = 1;
}

static void begin_thread(void *(*what)(void *), void *arg)
{
    pthread_t t;
    if (pthread_create(&t, NULL, what, arg) != 0)
        fail(0, "no thread");
}

static void victim(berth_listener level)
{
    static struct hand hands[HANDS];
    static berth_listener edge;
    role = "the victim";
    signal(SIGTERM, stop);
    memcpy(board->at[0], uri, sizeof uri);
    edge = listen_here(128);
    memcpy(board->at[1], uri, sizeof uri);
    berth_listener blocking = listen_here(128);
    memcpy(board->at[2], uri, sizeof uri);
    store_release(&board->rest, 0);
    begin_thread(serve_edge, &edge);
    begin_thread(ask_honest_server, NULL);
    for (int i = 0; i < BLOCKING + CONNECTORS; i++) {
        hands[i] =
            (struct hand){.index = i, .l = blocking, .r = (seed + (uint64_t)i) * 0x9e3779b97f4a7c15ull | 1};
        begin_thread(i < BLOCKING ? serve_blocking : connect_on, &hands[i]);
    }
    echo_serve(level, &(struct echo_rules){.hostile = 1, .wait = SEC / 10});
    _exit(0);
}

/* ---- the mutator ---- */

static uint64_t nasty(uint64_t *r)
{
    static const uint64_t known[] = {
        0,          1,          2,    3,    4,          ~0ull,      ~0ull >> 1,       ~0ull >> 2,
        1ull << 63, 1ull << 32, 4096, 8192, 1ull << 27, 1ull << 28, (1ull << 27) + 2, 0x8000000000000001ull};
    uint64_t v = next_random(r) << 40 ^ next_random(r) << 16 ^ next_random(r);
    switch (next_random(r) % 5) {
    case 0:
        return known[next_random(r) % (sizeof known / sizeof known[0])];
    case 1:
        return v;
    case 2:
        return v & 0xffff;
    case 3: /* two small halves: channel lines, queue entries, names of slots */
        return (v & 0xff) | (v & 0xff00) << 24;
    default:
        return ring_word((uint32_t)(v % 5), v / 5 % 400 * PAGE_BYTES, (uint32_t)(v >> 20) % 30);
    }
}

/* The entry of a queue of ours that is read next, or near it. */
static uint64_t *queue_entry(struct own_box *box, uint64_t *r)
{
    struct chan_rec *chan = &outbox_rec_of(box)->chan[next_random(r) % 4];
    uint64_t word = load_relaxed(&chan->queue);
    uint64_t *q = word ? (uint64_t *)(void *)outbox_ring_at(box, word, NULL) : NULL;
    return q ? &q[(chan->tx_pos + next_random(r) % 8 - 4) % QUEUE_ENTRIES] : NULL;
}

static uint64_t *any_word(uint64_t *r)
{
    uint64_t n = 0, at;
    struct own_box *box;
    for (box = load_acquire(&C->outboxes); box; box = box->next)
        n++;
    uint64_t which = next_random(r) % (n + 1);
    if (which == n)
        return (uint64_t *)(void *)C->page + next_random(r) % (WORKER_PAGE_BYTES / 8);
    for (box = C->outboxes; which--;)
        box = box->next;
    uint32_t seg = next_random(r) % 4 ? 0 : (uint32_t)(next_random(r) % 4);
    if (!box->seg[seg] || !box->writable[seg])
        seg = 0;
    uint64_t slot = next_random(r) % 16, word = next_random(r) % 8;
    switch (next_random(r) % 9) {
    case 0:
        at = next_random(r) % (box->seg_size[seg] / 8);
        break;
    case 1: /* its header */
        at = word;
        break;
    case 2:
        at = OUTBOX_CHUNK_TABLE / 8 + slot % 4;
        break;
    case 3:
        at = OUTBOX_CHANNELS / 8 + next_random(r) % 64;
        break;
    case 4: {
        uint64_t *entry = queue_entry(box, r);
        if (entry)
            return entry;
        at = word;
        break;
    }
    case 5: /* slot_info */
        at = (OUTBOX_CHUNK0 + CHUNK_SLOTS * CACHE_LINE) / 8 + slot * 8 + word;
        break;
    default:
        at = OUTBOX_CHUNK0 / 8 + slot * 8 + word;
    }
    return (uint64_t *)(void *)box->seg[seg] + (at < box->seg_size[seg] / 8 ? at : 0);
}

#define MODES 6

struct pen {
    uint64_t r;
    int mode;
};

static void *write_words(void *arg)
{
    struct pen *pen = arg;
    uint64_t *r = &pen->r;
    for (;;) {
        uint64_t *word = any_word(r), old = load_relaxed(word), flash = 0;
        switch (pen->mode) {
        case 0:
            store_release(word, nasty(r));
            break;
        case 1:
            store_release(word, old ^ 1ull << next_random(r) % 64);
            break;
        case 2: /* a little off is worse than nonsense */
            store_release(word, old + next_random(r) % 64 - 32);
            break;
        case 3:
            flash = nasty(r);
            break;
        case 4:
            flash = old + next_random(r) % 9000;
            break;
        default:
            store_release(word, next_random(r) % 3 ? old + 2 : nasty(r));
        }
        for (int i = 0; flash && i < 2000; i++) {
            store_release(word, flash);
            store_release(word, old);
        }
        count(&board->words);
        for (uint64_t i = pen->mode < 3 ? next_random(r) % 3000 : 0; i > 0; i--)
            cpu_relax();
    }
    return NULL;
}

#define SESSIONS 12

static void mutator(uint64_t r, bool ends_in_order)
{
    static uint8_t buf[60000];
    static struct pen pens[2];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)alarm(10);
    role = "the mutator";
    attach("mutator");
    berth_listener l = listen_here(16);
    store_release(&board->bad_port, (uint32_t)strtoul(strrchr(uri, ':') + 1, NULL, 10));
    berth_session s[SESSIONS];
    int n = 0;
    for (; n < 7; n++) {
        s[n] = dial_at(board->at[n % LISTENERS]);
        size_t len = next_random(&r) % 3000 + 1;
        (void)berth_write(s[n], buf, len, SEC);
        (void)berth_read(s[n], buf, sizeof buf, SEC);
    }
    for (int i = 0; i < 3; i++)
        n += berth_accept(l, SEC / 20, &s[n]) == 0;
    fetch_add_sc(&board->met, (uint64_t)n);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    (void)dup2(null, 2); /* what its own library thinks of it is of no interest; that it may crash neither */
    int threads = 1 + (int)(next_random(&r) % 2), mode = (int)(next_random(&r) % MODES);
    for (int i = 0; i < threads; i++) {
        pens[i] = (struct pen){next_random(&r) | 1, mode};
        begin_thread(write_words, &pens[i]);
    }
    store_release(&board->stage, 1);
    for (int64_t end = now() + SEC / 2; now() < end;) {
        int i = (int)(next_random(&r) % (uint64_t)n);
        if (next_random(&r) % 2)
            (void)berth_write(s[i], buf, next_random(&r) % sizeof buf + 1, 0);
        else
            (void)berth_read(s[i], buf, sizeof buf, 0);
        if (n < SESSIONS && berth_accept(l, 0, &s[n]) == 0) {
            n++;
            count(&board->met);
        }
        if (next_random(&r) % 16 == 0) {
            for (struct peer_box *b = C->boxes; b; b = b->next)
                bell_ring(b->worker->bell_fd);
        }
        if (n > 7 && next_random(&r) % 64 == 0)
            (void)berth_close(s[--n]);
        if (next_random(&r) % 8 == 0)
            (void)usleep(200);
    }
    store_release(&board->stage, 2);
    if (ends_in_order)
        exit(0);
    for (;;)
        pause();
}

/* ---- the parent ---- */

static pid_t victim_pid;

/* Its stack tells where: the sanitizers print it at an abort. */
__attribute__((noreturn)) static void victim_fails(int tid, const char *how)
{
    fprintf(stderr, "mutate: the victim %s (thread %d), the mutator's seed is 0x%llx\n", how, tid,
            (unsigned long long)turn);
    syscall(SYS_tgkill, victim_pid, tid, SIGABRT);
    waitpid(victim_pid, NULL, 0);
    exit(1);
}

static void look_after(const pid_t *pids, int n)
{
    for (int i = 0; i < n; i++) {
        int st;
        if (waitpid(pids[i], &st, WNOHANG) != 0)
            fail(0, "%s is gone with status %x, the mutator's seed is 0x%llx",
                 pids[i] == victim_pid ? "the victim" : "an honest one", st, (unsigned long long)turn);
    }
    for (int i = 0; i < BLOCKING + CONNECTORS; i++) {
        int64_t beat = load_relaxed(&board->beat[i]);
        if (beat && now() - beat > 2 * LONGEST_CALL)
            victim_fails(board->tid[i], "hangs");
    }
}

/* What each thread of the victim has used of the processors, and of which it was most since `before`. */
struct used {
    int tid;
    int64_t cpu;
};

#define MOST_THREADS 64

static int threads_used(struct used *all)
{
    char name[300];
    int n = 0;
    snprintf(name, sizeof name, "/proc/%d/task", (int)victim_pid);
    DIR *tasks = opendir(name);
    for (struct dirent *d; tasks && n < MOST_THREADS && (d = readdir(tasks));) {
        if (d->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "/proc/%d/task/%s/schedstat", (int)victim_pid, d->d_name);
        FILE *f = fopen(name, "re");
        char line[100];
        if (f && fgets(line, sizeof line, f))
            all[n++] = (struct used){(int)strtol(d->d_name, NULL, 10), strtoll(line, NULL, 10)};
        if (f)
            (void)fclose(f);
    }
    if (tasks)
        (void)closedir(tasks);
    return n;
}

static int busiest_thread(const struct used *before, int n)
{
    struct used after[MOST_THREADS];
    int m = threads_used(after), tid = victim_pid;
    int64_t most = -1;
    for (int i = 0; i < m; i++) {
        int64_t cpu = after[i].cpu;
        for (int k = 0; k < n; k++)
            cpu -= before[k].tid == after[i].tid ? before[k].cpu : 0;
        fprintf(stderr, "mutate: thread %d of the victim used %lld us\n", after[i].tid,
                (long long)(cpu / 1000));
        if (cpu > most)
            most = cpu, tid = after[i].tid;
    }
    return tid;
}

/* The mutator stands still and nobody asks: what the victim still does, it does in vain. */
static int64_t rest(pid_t bad)
{
    clockid_t clock;
    struct used threads[MOST_THREADS];
    kill(bad, SIGSTOP);
    store_release(&board->rest, 1);
    pause_ms(200);
    if (clock_getcpuclockid(victim_pid, &clock) != 0)
        return 0; /* gone: look_after tells */
    int n = threads_used(threads);
    int64_t before = time_of(clock);
    pause_ms(REST / MS);
    int64_t used = time_of(clock) - before;
    if (used > REST_CPU)
        victim_fails(busiest_thread(threads, n), "does not rest");
    store_release(&board->rest, 0);
    return used;
}

int main(int argc, char **argv)
{
    role = "mutate";
    signal(SIGPIPE, SIG_IGN);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)now();
    int seconds = argc > 2 ? atoi(argv[2]) : 60;
    printf("mutate: seed 0x%llx, %d s\n", (unsigned long long)seed, seconds);
    (void)fflush(stdout);
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        fail(0, "mmap");
    board->rest = 1; /* until the victim has its listeners */
    pid_t server = far_side(serve_honestly);
    memcpy(board->honest_at, uri, sizeof uri);
    victim_pid = far_side(victim);
    while (load_acquire(&board->rest) && waitpid(victim_pid, NULL, WNOHANG) == 0)
        pause_ms(5);
    pid_t friend_pid = start(friend, NULL), stranger_pid = start(stranger, NULL);
    pid_t pids[] = {victim_pid, server, friend_pid, stranger_pid};
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1, rounds = 0, ended = 0, rests = 0;
    int64_t busiest = 0;
    for (int64_t end = now() + seconds * SEC; now() < end; rounds++) {
        turn = next_random(&r) | 1;
        store_release(&board->stage, 0);
        pid_t bad = fork();
        bool in_order = rounds % 4 == 1; /* its sessions are closed, its memory goes */
        if (bad == 0)
            mutator(turn, in_order);
        int st = 0;
        bool gone = false;
        for (int64_t begin = now(); load_acquire(&board->stage) < 2 && !gone && now() - begin < 12 * SEC;
             pause_ms(5)) {
            look_after(pids, 4);
            gone = waitpid(bad, &st, WNOHANG) == bad;
        }
        if (gone && load_relaxed(&board->stage) == 0)
            fail(0, "the mutator did not come to its part, status %x", st);
        if (!gone && rounds % 2 == 0) {
            int64_t used = rest(bad);
            busiest = used > busiest ? used : busiest;
            rests++;
        }
        store_release(&board->bad_port, 0);
        for (int64_t begin = now(); in_order && !gone && now() - begin < SEC; pause_ms(5))
            gone = waitpid(bad, &st, WNOHANG) == bad;
        if (!gone) {
            kill(bad, SIGKILL);
            waitpid(bad, &st, 0);
        }
        ended += gone;
    }
    look_after(pids, 4);
    store_release(&board->over, 1);
    reap(friend_pid, "a friend of the victim");
    reap(stranger_pid, "a stranger");
    kill(victim_pid, SIGTERM);
    reap(victim_pid, "the victim");
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    printf("%llu mutators (%llu ended of themselves) wrote %llu words in %llu sessions\n",
           (unsigned long long)rounds, (unsigned long long)ended, (unsigned long long)board->words,
           (unsigned long long)board->met);
    printf("the victim: %llu calls, %llu sessions taken by blocking calls, %llu dialed; at most %lld of %lld "
           "ms in "
           "%llu rests\n",
           (unsigned long long)board->calls, (unsigned long long)board->taken,
           (unsigned long long)board->dialed, (long long)(busiest / MS), (long long)(REST / MS),
           (unsigned long long)rests);
    static const char *const who[ASKERS] = {"a friend", "the victim itself", "a stranger"};
    uint64_t all = 0;
    for (int i = 0; i < ASKERS; i++) {
        printf("%s asked: %llu answers, %llu on new sessions, the slowest after %lld ms\n", who[i],
               (unsigned long long)board->answers[i], (unsigned long long)board->fresh[i],
               (long long)(board->slowest[i] / MS));
        if (board->answers[i] < (uint64_t)seconds)
            fail(0, "%s was hardly answered", who[i]);
        all += board->answers[i];
    }
    if (board->words == 0 || board->dialed == 0 || board->taken == 0)
        fail(0, "nothing was tried");
    printf("mutate: passed, %llu answers checked\n", (unsigned long long)all);
    return 0;
}
