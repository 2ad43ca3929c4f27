/* dying.c - death between any two stores; the daemon may be dead as well, or the memory be a relative's. */
#include "protocols.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
    if (berth_connect_uri(uri, PATIENCE, &s) != 0)
        exit(0);
    uint8_t buf[2000] = {0};
    for (int i = 0; i < 20; i++) {
        if (berth_write(s, buf, (size_t)100 * (size_t)i + 1, SEC) <= 0 ||
            berth_read(s, buf, sizeof buf, SEC) <= 0)
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

/* seed: the first store at which the victim ends, by itself where the build can do so, else by SIGKILL at
 * some moment. With BERTH_TEST_DAEMON, its pid: the daemon is killed at the first death too. */
void fault(void)
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
            expect_ends(&begun, &ended, longer(5 * SEC));
            break;
        }
        expect_ends(&begun, &ended, longer(5 * SEC));
    }
    printf("%d sessions ended\n", ended);
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* ---- the event of a relative's ---- */

static void two_watched(berth_listener l)
{
    berth_session s[2] = {take(l), take(l)};
    berth_waitset *set = berth_waitset_create();
    char buf[64];
    for (int i = 0; i < 2; i++) {
        if (!set || berth_waitset_add(set, s[i], BERTH_IN, (uint64_t)i) != 0)
            fail(0, "waitset");
    }
    for (;;) {
        struct berth_event ev[2];
        int found = berth_waitset_wait(set, ev, 2, -1);
        for (int i = 0; i < found; i++) {
            ssize_t n = berth_read(s[ev[i].data], buf, sizeof buf, 0);
            if (n > 0 && ev[i].data == 1)
                put_all(s[1], buf, (size_t)n);
            else if (n == 0)
                return;
        }
    }
}

static void tells(void *arg)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (berth_write(*(const berth_session *)arg, "x", 1, PATIENCE) != 1)
        fail(0, "a child's byte");
}

/* A child writes into a session of its parent's, and ends at its first store, at its second, and so on until
 * it comes to its end a few times (it may have less to do at times). Their peer waits for events only, and
 * one queue tells it of both sessions: it must hear of what the parent writes into the other one. */
void event_killed(void)
{
    pid_t far = far_side(two_watched);
    attach("near");
    berth_session s[2] = {dial(), dial()};
    uint64_t r = seed * 0x9e3779b97f4a7c15ull | 1;
    int faults = getenv("BERTH_FAULTS") != NULL;
    char echo;
    put_all(s[0], "a", 1);
    put_all(s[1], "b", 1);
    get_all(s[1], &echo, 1);
    int died = 0, lived = 0, status = -1;
    for (int n = 1; faults ? lived < 8 : n <= (rounds ? rounds : 40); n++) {
        char number[24];
        pause_ms(1); /* it sleeps, and waits for an event */
        snprintf(number, sizeof number, "%d", n);
        setenv("BERTH_FAULT_STORE", number, 1); /* read by the child alone */
        pid_t pid = start(tells, &s[0]);
        struct timespec ts = {0, (long)(next_random(&r) % 2000000)};
        nanosleep(&ts, NULL);
        if (!faults)
            kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        *(status ? &died : &lived) += 1;
        put_all(s[1], "c", 1);
        get_all(s[1], &echo, 1);
    }
    if (faults && died < 20)
        fail(0, "%d deaths", died);
    printf("%d deaths\n", died);
    berth_close(s[0]);
    berth_close(s[1]);
    /* The last child may have been killed before it was heard of that it is there: then the close has left the
     * session to it, and it ends when a relative that calls berth hears of the death. */
    berth_waitset *nothing = berth_waitset_create();
    for (int64_t end = now() + PATIENCE; waitpid(far, NULL, WNOHANG) == 0;) {
        struct berth_event ev;
        (void)berth_waitset_wait(nothing, &ev, 1, 10 * MS);
        if (now() > end)
            fail(0, "the other side hears of no end");
    }
    berth_waitset_destroy(nothing);
}
