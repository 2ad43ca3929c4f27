/* dying.c - death between any two stores; the daemon may be dead as well. */
#include "protocols.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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
