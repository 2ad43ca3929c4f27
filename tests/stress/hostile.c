/* hostile.c - a peer of the same user that breaks every rule it can, beside one that keeps them.
 *
 *   hostile [seed [seconds [directory]]]     the server does chroot to that directory, where it has no /proc
 *
 * A server echoes; an honest client asks it all the time and checks each byte and how long it takes.
 * Meanwhile one process after the other attaches, connects and talks like anybody, by the library's own code,
 * and then scribbles over what it may write: slots, counters, ring words, queues, channel words, its worker
 * page, segment headers; or does not drain, or lets the server read holes. It may hurt its own sessions and
 * nothing else.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/control.h"
#include "client/fds.h"
#include "client/outbox.h"
#include "client/rings.h"
#include "client/session.h"
#include "client/state.h"
#include "echo.h"
#include "shm/queue.h"

#define SESSIONS 6

static const char *root;

static void serve(berth_listener l)
{
    if (root && chroot(root) != 0)
        fail(0, "chroot");
    echo_serve(l, &(struct echo_rules){.hostile = 1, .wait = 30 * SEC});
}

/* ---- the honest client ---- */

static void ask(berth_session s, uint64_t *r, uint64_t most)
{
    uint8_t out[4000], in[4000];
    size_t n = next_random(r) % most + 1;
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)next_random(r);
    put_all(s, out, n);
    get_all(s, in, n);
    if (memcmp(in, out, n) != 0)
        fail(0, "the honest client's bytes");
}

static void honest(int seconds)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    role = "the honest client";
    attach("honest");
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1, asked = 0;
    int64_t end = now() + seconds * SEC, longest = 0;
    berth_session kept = dial();
    for (; now() < end; asked++) {
        if (asked % 2) /* then the server sleeps, and its bell has to wake it */
            (void)usleep(next_random(&r) % 500);
        int64_t begin = now();
        ask(kept, &r, 4000);
        if (asked % 16 == 0) { /* new sessions work too */
            berth_session s = dial();
            ask(s, &r, 100);
            berth_close(s);
        }
        if (now() - begin > longest)
            longest = now() - begin;
    }
    printf("the honest client: %llu answers, the slowest after %lld ms\n", (unsigned long long)asked,
           (long long)(longest / 1000000));
    if (longest > longer(5 * SEC))
        fail(0, "a wake was lost: only the sleep's own end helped");
    if (asked < 50)
        fail(0, "the server hardly answered");
    exit(0);
}

/* ---- the hostile one ---- */

static berth_session mine[SESSIONS];

static void talk(uint64_t *r)
{
    uint8_t buf[60000];
    memset(buf, 'h', sizeof buf);
    for (int i = 0; i < SESSIONS; i++) {
        size_t n = next_random(r) % (i % 2 ? 500 : sizeof buf) + 1;
        if (berth_write(mine[i], buf, n, PATIENCE) != (ssize_t)n)
            fail(0, "a peer that is honest so far");
        if (i != 3 && berth_read(mine[i], buf, sizeof buf, PATIENCE) <= 0) /* one leaves everything unread */
            fail(0, "a peer that is honest so far");
    }
}

static struct slot *slot_of(berth_session s)
{
    struct session *record = session_get(s);
    return record ? session_cache_of(record)->own : NULL;
}

static uint64_t nasty(uint64_t *r)
{
    static const uint64_t known[] = {0,          1,          2,    3,    ~0ull,      ~0ull >> 1,
                                     1ull << 63, 1ull << 32, 4096, 8192, 1ull << 27, 0x8000000000000001ull};
    uint64_t v = next_random(r) << 40 ^ next_random(r) << 16 ^ next_random(r);
    switch (next_random(r) % 4) {
    case 0:
        return known[next_random(r) % (sizeof known / sizeof known[0])];
    case 1:
        return v;
    case 2:
        return v & 0xffff;
    default:
        return ring_word((uint32_t)(v % 5), v % 64 * PAGE_BYTES, (uint32_t)(v >> 20) % 30);
    }
}

static void spoil_slots(uint64_t *r)
{
    struct slot *s = slot_of(mine[next_random(r) % SESSIONS]);
    if (!s)
        return;
    uint64_t *words = (uint64_t *)(void *)s;
    uint64_t which = next_random(r) % 8;
    if (next_random(r) % 4 == 0) /* a little off is worse than nonsense */
        store_release(&words[which], words[which] + next_random(r) % 64 - 32);
    else
        store_release(&words[which], nasty(r));
}

static void spoil_anything(uint64_t *r)
{
    uint32_t n = 0;
    for (struct own_box *b = C->outboxes; b; b = b->next) {
        uint32_t seg = (uint32_t)(next_random(r) % OUTBOX_SEGMENTS);
        if (n++ > 4)
            break;
        seg = b->seg[seg] && b->writable[seg] ? seg : 0;
        uint64_t *words = (uint64_t *)(void *)b->seg[seg];
        uint64_t at = next_random(r) % (b->seg_size[seg] / 8);
        if (next_random(r) % 2) /* where it hurts: header, chunk table, channels, the first slots */
            at = next_random(r) % ((OUTBOX_CHUNK0 + 4096) / 8);
        store_release(&words[at], nasty(r));
    }
}

static void spoil_channels(uint64_t *r)
{
    for (struct own_box *b = C->outboxes; b; b = b->next) {
        struct channel *ch = outbox_channel(b, (uint32_t)(next_random(r) % 3));
        switch (next_random(r) % 5) {
        case 0:
            store_sc(&ch->qhead, (uint32_t)nasty(r));
            break;
        case 1:
            store_sc(&ch->arm, (uint32_t)nasty(r));
            break;
        case 2:
            store_sc(&ch->resync, ch->resync + 1); /* look at all of it, again and again */
            break;
        case 3:
            store_release(&ch->queue, nasty(r));
            break;
        default:
            ch->peer_worker = (uint32_t)next_random(r) % 8;
        }
    }
    for (uint32_t i = 0; i < 32; i++) { /* a queue that is always full of events for any slot */
        for (struct peer_box *p = C->boxes; p; p = p->next) {
            if (!p->own || p->own_channel == NONE)
                continue;
            struct chan_rec *chan = &outbox_rec_of(p->own)->chan[p->own_channel];
            uint64_t *q = (uint64_t *)(void *)outbox_ring_at(p->own, chan->queue, NULL);
            if (q)
                queue_put(q, (uint32_t)chan->tx_pos++, (uint32_t)nasty(r));
        }
    }
}

static void spoil_page(uint64_t *r)
{
    struct waiter_line *w = &C->page->waiter[next_random(r) % 3];
    store_sc(&w->arm, next_random(r) % 2 ? w->arm + 2 : (uint32_t)nasty(r));
    store_relaxed(&w->cpu, (uint32_t)nasty(r));
    for (int i = 0; i < SESSIONS; i++) { /* be told of every byte, and take no event out of the queue */
        struct slot *s = slot_of(mine[i]);
        if (s)
            store_sc(&s->want, count_word(next_random(r) % 100000, next_random(r) % 2));
    }
}

/* More bytes than were ever written, in memory that does not exist yet. */
static void claim_holes(uint64_t *r)
{
    struct session *s = session_get(mine[next_random(r) % SESSIONS]);
    if (!s)
        return;
    struct own_box *own = outbox_by_index(s->own_outbox);
    struct slot *slot = session_cache_of(s)->own;
    uint32_t rec;
    if (own && outbox_ring_alloc(own, 4u << 20, session_index(s) + 1, &rec) == 0) {
        store_release(&slot->ring, C->family->ring[rec].word);
        store_release(&slot->tail, slot->tail + (2u << 20));
    }
}

static void everything(uint64_t *r, uint8_t with)
{
    for (struct own_box *b = C->outboxes; b; b = b->next)
        memset(b->seg[0] + PAGE_BYTES, with, b->seg_size[0] - PAGE_BYTES);
    memset(&C->page->waiter, with, sizeof C->page->waiter);
    (void)next_random(r);
}

/* The server's bell as the daemon gives it out: whoever writes to it is to be made to wait. */
static void block_bell(uint64_t *r)
{
    struct peer_box *box = C->boxes;
    char some[PAGE_BYTES] = {0};
    static int given = -1, fill = -1;
    if (!box)
        return;
    if (given < 0) {
        struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg}, .outbox = box->handle};
        struct ctl_outbox_is is;
        int fds[3], nfds = 3;
        if (control_request(&msg, NULL, 0, &is, sizeof is, fds, &nfds) != 0 || nfds != 3)
            fail(0, "the server's descriptors");
        given = fds[2];
        char path[32];
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", given);
        fill = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC); /* so as not to be made to wait itself */
    }
    (void)fcntl(given, F_SETFL, 0);
    if (next_random(r) % 8 == 0)
        (void)fcntl(given, F_SETPIPE_SZ, next_random(r) % 2 ? 4096 : 65536);
    while (write(fill, some, next_random(r) % 2 ? 1 : sizeof some) > 0)
        ;
    struct token t = {.magic = TOKEN_MAGIC}; /* and what it listens by, in whole tokens */
    if (C->routes && next_random(r) % 64 == 0)
        (void)!write(C->routes->token_fd, &t, sizeof t);
}

/* Its own, by all it has of it: who wakes it is to be made to wait. */
static void block_own_bell(void)
{
    static bool full;
    char some[PAGE_BYTES] = {0};
    uint32_t any = C->page->waiter[WAITER_ANY].arm | 1;
    for (uint32_t i = 0; i < WAITERS_MAX; i++)
        store_sc(&C->page->waiter[i].arm, (any += 2)); /* asleep: each news rings */
    if (full)
        return;
    while (write(C->bell_fd, some, sizeof some) > 0 || write(C->bell_fd, some, 1) > 0)
        ;
    for (int fd = 3; fd < 4096; fd++) {
        struct stat st, bell;
        if (fstat(fd, &st) == 0 && fstat(C->bell_fd, &bell) == 0 && st.st_ino == bell.st_ino &&
            st.st_dev == bell.st_dev)
            (void)fcntl(fd, F_SETFL, 0);
    }
    full = true;
}

#define KINDS 11

static void spoil(uint64_t *r, int kind)
{
    switch (kind) {
    case 0:
        spoil_slots(r);
        break;
    case 1:
        spoil_anything(r);
        break;
    case 2:
        spoil_channels(r);
        break;
    case 3:
        spoil_page(r);
        break;
    case 4:
        claim_holes(r);
        break;
    case 5:
        everything(r, 0);
        break;
    case 6:
        everything(r, 0xff);
        break;
    case 7: /* all together */
        spoil(r, (int)(next_random(r) % 4));
        break;
    case 8:
        block_bell(r);
        break;
    case 9:
        block_own_bell();
        (void)usleep(100);
        break;
    default: { /* writes, and never reads, drains or gives back */
        uint8_t buf[3000] = {0};
        (void)berth_write(mine[next_random(r) % SESSIONS], buf, sizeof buf, 0);
        break;
    }
    }
}

static void hostile(int kind, uint64_t r)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    int null = open("/dev/null", O_WRONLY);
    attach("hostile");
    for (int i = 0; i < SESSIONS; i++)
        mine[i] = dial();
    talk(&r);
    (void)dup2(null, 2); /* what its own library thinks of it is of no interest; that it may crash neither */
    alarm((unsigned)longer(2));
    int64_t end = now() + SEC / 5;
    for (uint64_t i = 0; now() < end; i++) {
        spoil(&r, kind);
        if (i % 64 == 0 && C->boxes && C->boxes->worker->bell_fd >= 0)
            bell_ring(C->boxes->worker->bell_fd);
    }
    _exit(0);
}

static uint64_t memory_of(pid_t pid)
{
    char path[64], line[128];
    uint64_t kb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        (void)sscanf(line, "VmRSS: %lu", &kb);
    if (f)
        fclose(f);
    return kb;
}

int main(int argc, char **argv)
{
    role = "hostile";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    int seconds = argc > 2 ? atoi(argv[2]) : 5;
    root = argc > 3 ? argv[3] : NULL;
    const char *daemon = getenv("BERTH_TEST_DAEMON");
    pid_t srv = far_side(serve);
    pid_t good = fork();
    if (good == 0)
        honest(seconds);
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    int st = 0, kind = (int)(seed % KINDS), n = 0;
    uint64_t before = daemon ? memory_of(atoi(daemon)) : 0;
    while (waitpid(good, &st, WNOHANG) == 0) {
        pid_t bad = fork();
        if (bad == 0)
            hostile(kind, next_random(&r) | 1);
        int bad_st;
        if (waitpid(bad, &bad_st, 0) != bad || (WIFEXITED(bad_st) && WEXITSTATUS(bad_st) != 0))
            fail(0, "the hostile one did not come to its part");
        kind = (kind + 1) % KINDS;
        n++;
        if (waitpid(srv, NULL, WNOHANG) != 0)
            fail(0, "the server is gone");
    }
    kill(srv, SIGTERM);
    waitpid(srv, NULL, 0);
    if (daemon && memory_of(atoi(daemon)) > before + 16384)
        fail(0, "the daemon has grown");
    printf("%d hostile processes\nhostile: %s\n", n, st ? "FAILED" : "passed");
    return st != 0;
}
