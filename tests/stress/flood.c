/* flood.c - what a peer can make its victim do by telling it too much.
 *
 *   flood KIND [seconds]
 *
 * A victim answers an honest client, who has many sessions with it and asks on one of them. A hostile peer
 * meanwhile
 *   events     posts events of its session without a pause
 *   resync     says without a pause that events were lost
 *   sleepers   has many threads that sleep for one byte
 *   zombies    never lets go of sessions that the victim has closed
 *   tokens     fills the victim's accept queue with tokens that name nothing
 *   tail       says without a pause that one byte more has come, in a session that is watched for edges
 * The victim measures what a look at its queues costs it, in CPU time, or a write that wakes the sleepers;
 * the client, how long it waits. Both are compared with bounds that lie far above what was seen, and far
 * below what an unbounded loop takes.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/channel.h"
#include "client/events.h"
#include "client/news.h"
#include "client/outbox.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/state.h"
#include "client/upkeep.h"
#include "party.h"
#include "shm/queue.h"

#define IDLE 8000    /* sessions of the honest client, beside the one that it uses */
#define SLEEPERS 600 /* threads */
#define LINGER 3000
#define CALLS 50
#define TOKENS_AT_ONCE 64
#define BUDGET longer(3 * MS)
#define LATENCY longer(400 * MS)

static const char *kind;
static int seconds = 2;

/* Of these two kinds each has a CPU to itself, as far as others let it: else they would take turns, and there
 * would be no race. */
static void run_at(int which)
{
    cpu_set_t all, one;
    if ((strcmp(kind, "tokens") && strcmp(kind, "tail")) || sched_getaffinity(0, sizeof all, &all) != 0)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || which--)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

/* ---- the honest client ---- */

static void honest_callers(void)
{
    for (int i = 0; i < CALLS; i++) {
        berth_session s = dial();
        expect_end(s);
        berth_close(s);
    }
    for (;; pause_ms(1)) /* they are given back */
        sessions_settle();
}

static void honest(void)
{
    role = "the honest client";
    attach("honest");
    if (!strcmp(kind, "zombies"))
        honest_callers();
    for (int i = 0; i < IDLE; i++)
        (void)dial();
    berth_session s = dial();
    int64_t end = now() + seconds * SEC + SEC / 2, longest = 0;
    uint64_t asked = 0;
    for (char c = 'h'; now() < end; asked++) {
        int64_t begin = now();
        put_all(s, &c, 1);
        get_all(s, &c, 1);
        if (now() - begin > longest)
            longest = now() - begin;
        (void)usleep(200);
    }
    printf("%s: the honest client: %llu answers, the slowest after %lld us\n", kind,
           (unsigned long long)asked, (long long)(longest / 1000));
    if (longest > LATENCY)
        fail(0, "it waited %lld ms for an answer", (long long)(longest / MS));
    exit(0);
}

/* ---- the hostile one ---- */

static berth_session mine;

static void *sleeper(void *unused)
{
    for (char c; berth_read(mine, &c, 1, -1) == 1;)
        ;
    return NULL;
}

static void hostile_tokens(const struct session *s)
{
    static struct token junk[TOKENS_AT_ONCE];
    const struct route *route = route_find(load_relaxed(&s->listener));
    if (!route)
        fail(0, "the way to the listener is forgotten");
    for (;;)
        (void)sys_write(route->token_fd, junk, (long)sizeof junk);
}

static void hostile_tail(struct session *s)
{
    struct slot *own = session_cache_of(s)->own;
    for (uint64_t tail = s->tail;;)
        store_relaxed(&own->tail, count_word(++tail, 0));
}

static void hostile(void)
{
    role = "the hostile one";
    run_at(1);
    attach("hostile");
    if (!strcmp(kind, "zombies")) {
        for (int i = 0; i < LINGER; i++)
            (void)dial();
        for (;;)
            pause_ms(1000);
    }
    mine = dial();
    char c = 'x';
    put_all(mine, &c, 1);
    get_all(mine, &c, 1); /* it has met the victim */
    struct session *s = session_get(mine);
    struct peer_box *box = session_cache_of(s)->box;
    if (!box || !box->own || box->own_channel == NONE || box->their_channel == NONE)
        fail(0, "there is no channel");
    struct channel *ch = outbox_channel(box->own, box->own_channel);
    struct chan_rec *chan = &outbox_rec_of(box->own)->chan[box->own_channel];
    const struct channel *theirs =
        (const struct channel *)(const void *)(box->memory->first + OUTBOX_CHANNELS) + box->their_channel;
    uint64_t *q = (uint64_t *)(void *)outbox_ring_at(box->own, chan->queue, NULL);
    if (!strcmp(kind, "sleepers")) {
        pthread_attr_t small;
        pthread_t t;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 64 << 10);
        for (int i = 0; i < SLEEPERS; i++) {
            if (pthread_create(&t, &small, sleeper, NULL) != 0)
                fail(0, "a thread");
        }
    }
    if (!strcmp(kind, "tokens"))
        hostile_tokens(s);
    if (!strcmp(kind, "tail"))
        hostile_tail(s);
    for (;;) {
        if (!strcmp(kind, "events")) { /* as soon as the victim has taken one */
            if (!queue_full((uint32_t)chan->tx_pos, load_sc(&theirs->qhead)))
                queue_put(q, (uint32_t)chan->tx_pos++, s->own_slot);
        } else if (!strcmp(kind, "resync"))
            store_sc(&ch->resync, ch->resync + 1);
        else
            pause_ms(1000);
    }
}

/* ---- the victim ---- */

static void answer(berth_session s)
{
    char c;
    if (berth_read(s, &c, 1, 0) == 1)
        put_all(s, &c, 1);
}

struct cost {
    int64_t worst, all;
    uint64_t n;
};

static void count(struct cost *c, int64_t began)
{
    int64_t took = time_of(CLOCK_THREAD_CPUTIME_ID) - began;
    c->worst = took > c->worst ? took : c->worst;
    c->all += took;
    c->n++;
}

static uint64_t edges;

static int64_t calm; /* what a look costs on average, before anybody is hostile */

static void victim_calm(berth_session asks)
{
    struct cost looks = {0};
    for (int64_t end = now() + SEC / 5; now() < end; answer(asks)) {
        int64_t began = time_of(CLOCK_THREAD_CPUTIME_ID);
        events_poll(true);
        count(&looks, began);
    }
    calm = looks.all / (int64_t)(looks.n ? looks.n : 1);
}

/* What the victim looks at besides its queues of events. */
static void look_at(berth_listener l, struct evset *set, berth_session bad)
{
    struct epoll_event ev;
    berth_session s;
    if (!strcmp(kind, "tokens")) {
        (void)client_listener_ready(l);
        int err = berth_accept(l, 0, &s);
        if (err != BERTH_E_WOULD_BLOCK)
            fail(err, "a token that names nothing was accepted");
    } else if (!strcmp(kind,
                       "tail")) { /* looked at in any case: the hostile one tells nobody of what it stores */
        if (evset_modify(set, bad, 0, EPOLLIN | EPOLLET, 0) == 0 &&
            evset_wait(set, &ev, 1, 0, NULL, NULL) > 0)
            edges++;
    }
}

static void victim(berth_session asks, berth_session bad, berth_listener l)
{
    struct cost looks = {0}, wakes = {0};
    struct evset *set = evset_create(-1);
    if (!set || evset_add(set, bad, 0, EPOLLIN | EPOLLET, 0) != 0)
        fail(0, "no event set");
    struct peer_box *box = session_cache_of(session_get(bad))->box;
    for (int i = 0; load_acquire(&box->their_channel) == NONE; i++) { /* there is nothing to be flooded by */
        if (i == 5000)
            fail(0, "the hostile one has not said where its events are");
        pause_ms(1);
        control_poll();
        channel_pair(box);
    }
    int64_t end = now() + seconds * SEC, next = now() + SEC / 2;
    while (now() < end) {
        int64_t began = time_of(CLOCK_THREAD_CPUTIME_ID);
        events_poll(true);
        look_at(l, set, bad);
        count(&looks, began);
        answer(asks);
        if (!strcmp(kind, "sleepers")) {
            pause_ms(1);
            if (now() < next)
                continue;
            next = now() + 50 * MS; /* then all of them sleep again */
            began = time_of(CLOCK_THREAD_CPUTIME_ID);
            put_all(bad, "x", 1);
            count(&wakes, began);
        }
    }
    int64_t average = looks.all / (int64_t)(looks.n ? looks.n : 1);
    printf("%s: the victim: %llu looks, on average %lld ns (before: %lld), at worst %lld us of CPU\n", kind,
           (unsigned long long)looks.n, (long long)average, (long long)calm, (long long)(looks.worst / 1000));
    if (wakes.n)
        printf("%s: the victim: %llu writes, on average %lld us, at worst %lld us of CPU\n", kind,
               (unsigned long long)wakes.n, (long long)(wakes.all / (int64_t)wakes.n / 1000),
               (long long)(wakes.worst / 1000));
    if (!strcmp(kind, "tail") && edges < 2)
        fail(0, "it was not told of the bytes");
    if (looks.worst > BUDGET)
        fail(0, "one look took %lld us", (long long)(looks.worst / 1000));
    if (!strcmp(kind, "resync") &&
        average > 8 * calm + 1000) /* it is not to pay for the sessions of others */
        fail(0, "a look costs %lld ns, and %lld without the flood", (long long)average, (long long)calm);
    if (wakes.n && wakes.all / (int64_t)wakes.n > longer(MS / 2))
        fail(0, "one write took %lld us on average", (long long)(wakes.all / (int64_t)wakes.n / 1000));
}

/* Takes so many, and closes them. */
static void take_and_close(berth_listener l, int n)
{
    for (int i = 0; i < n; i++)
        berth_close(take(l));
}

static void victim_of_zombies(berth_listener l)
{
    uint32_t before = load_relaxed(&C->zombies_done);
    take_and_close(l, CALLS);
    for (int i = 0; i < 200 && load_relaxed(&C->zombies_done) - before < CALLS; i++) {
        sessions_settle();
        pause_ms(1);
    }
    uint32_t done = load_relaxed(&C->zombies_done) - before;
    printf("zombies: %u of %d were given back, %d lingered\n", done, CALLS, LINGER);
    if (done < CALLS)
        fail(0, "those that linger hold up the others");
}

/* Another app: forked before anybody attached. It begins when it is told where. */
struct peer {
    pid_t pid;
    int at;
};

static struct peer peer(void (*run)(void))
{
    int at[2];
    if (pipe(at) != 0)
        fail(0, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm((unsigned)longer(60));
        if (read(at[0], uri, sizeof uri) != (ssize_t)sizeof uri)
            exit(1);
        run();
        exit(1);
    }
    close(at[0]);
    return (struct peer){pid, at[1]};
}

static void begin(const struct peer *p)
{
    if (write(p->at, uri, sizeof uri) != (ssize_t)sizeof uri)
        fail(0, "pipe");
}

int main(int argc, char **argv)
{
    role = "the victim";
    kind = argc > 1 ? argv[1] : "events";
    seconds = argc > 2 ? atoi(argv[2]) : 2;
    alarm((unsigned)longer(60));
    struct peer good = peer(honest), bad = peer(hostile);
    run_at(0);
    attach("victim");
    berth_listener l = listen_here(64);
    if (!strcmp(kind, "zombies")) {
        begin(&bad);
        take_and_close(l, LINGER);
        begin(&good);
        victim_of_zombies(l);
        printf("flood: passed\n");
        return 0;
    }
    begin(&good);
    berth_session asks = 0, flooded;
    for (int i = 0; i <= IDLE; i++)
        asks = take(l);
    victim_calm(asks);
    begin(&bad);
    flooded = take(l);
    char c;
    get_all(flooded, &c, 1);
    put_all(flooded, &c, 1);
    victim(asks, flooded, l);
    kill(bad.pid, SIGKILL);
    (void)waitpid(bad.pid, NULL, 0);
    int st;
    while (waitpid(good.pid, &st, WNOHANG) == 0) {
        events_poll(true);
        answer(asks);
    }
    if (st)
        fail(0, "the honest client failed");
    printf("flood: passed\n");
    return 0;
}
