/* parting.c - a worker leaves its master's family while threads of it sleep at the listener that both have,
 * or are just being served there; it goes on serving, and the memory that it writes from then on is another.
 *
 * ROUNDS times, each by processes of their own. The preload library calls client_part when a process becomes
 * another user; here the user stays the same.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "berth/berth.h"
#include "client/client.h"
#include "client/family.h"

#define CALLS 12
#define PATIENCE (20 * NS_PER_SEC)

static berth_listener listener;
static struct berth_endpoint at;

#define MUST(step, condition)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "parting: %s: not %s\n", step, #condition);                                      \
            fflush(NULL);                                                                                    \
            _exit(1);                                                                                        \
        }                                                                                                    \
    } while (0)

static void *serve(void *arg)
{
    uint32_t *served = arg;
    berth_session s;
    char byte = 0;
    while (byte != 'z') {
        MUST("worker", berth_accept(listener, PATIENCE, &s) == 0);
        MUST("worker", berth_read(s, &byte, 1, PATIENCE) == 1);
        MUST("worker", berth_write(s, &byte, 1, PATIENCE) == 1);
        (void)berth_close(s);
        if (byte != 'z')
            (void)fetch_add_sc(served, 1u);
    }
    return NULL;
}

static void call(char out)
{
    berth_session s;
    char in = 0;
    MUST("caller", berth_connect(&at, PATIENCE, &s) == 0);
    MUST("caller", berth_write(s, &out, 1, PATIENCE) == 1);
    MUST("caller", berth_read(s, &in, 1, PATIENCE) == 1 && in == out);
    (void)berth_close(s);
}

static void worker(int told)
{
    pthread_t thread[2];
    uint32_t served = 0;
    berth_session of_before;
    char byte;
    for (int i = 0; i < 2; i++)
        MUST("worker", pthread_create(&thread[i], NULL, serve, &served) == 0);
    MUST("worker", berth_connect(&at, PATIENCE, &of_before) == 0);
    MUST("worker", berth_write(of_before, "a", 1, 0) == 1);
    MUST("worker", berth_read(of_before, &byte, 1, PATIENCE) == 1);
    MUST("worker", client_related());
    client_part();
    MUST("worker", client_attached() && !client_related());
    MUST("worker", berth_read(of_before, &byte, 1, 0) == BERTH_E_BAD_HANDLE);
    MUST("worker", write(told, "x", 1) == 1);
    for (int i = 0; i < 2; i++)
        (void)pthread_join(thread[i], NULL);
    MUST("worker", load_relaxed(&served) == 1 + CALLS);
    pid_t pid = fork(); /* the new family has a second member */
    if (pid == 0) {
        MUST("grandchild", berth_accept(listener, PATIENCE, &of_before) == 0);
        MUST("grandchild", client_related());
        _exit(0);
    }
    MUST("worker", berth_connect(&at, PATIENCE, &of_before) == 0);
    int status = -1;
    MUST("worker", waitpid(pid, &status, 0) == pid && status == 0);
    _exit(0);
}

/* What of the family's memory the worker could write: nothing of it moves any more. */
static uint32_t family_sum(void)
{
    const uint32_t *word = (const void *)C->family->session;
    uint32_t sum = 0, n = family_sessions(C->family);
    for (size_t i = 0; i < n * sizeof(struct session) / 4; i++)
        sum = sum * 31 + load_relaxed(&word[i]);
    return sum;
}

static void master(int told)
{
    struct berth_attach_options o = {.name = "master", .spin_ns = -1};
    char byte;
    int parted[2];
    MUST("master", berth_attach(&o) == 0);
    MUST("master", berth_listen_uri("tcp://127.0.0.1:0", NULL, &listener) == 0);
    MUST("master", berth_listener_endpoint(listener, &at) == 0);
    MUST("master", pipe(parted) == 0);
    pid_t pid = fork();
    if (pid == 0)
        worker(parted[1]);
    MUST("master", read(parted[0], &byte, 1) == 1);
    (void)client_related(); /* hears of the worker that was */
    uint32_t sum = family_sum();
    MUST("master", write(told, &at, sizeof at) == sizeof at);
    int status = -1;
    MUST("master", waitpid(pid, &status, 0) == pid && status == 0);
    MUST("master", family_sum() == sum);
    _exit(0);
}

static void caller(void)
{
    struct berth_attach_options o = {.name = "caller", .spin_ns = -1};
    MUST("caller", berth_attach(&o) == 0);
    for (int i = 0; i < CALLS; i++)
        call((char)('b' + i));
    call('z');
    call('z');
    _exit(0);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 10;
    for (int i = 0; i < rounds; i++) {
        int told[2], status = -1;
        if (pipe(told))
            return 2;
        pid_t pid[2];
        if ((pid[0] = fork()) == 0)
            master(told[1]);
        close(told[1]);
        bool began = read(told[0], &at, sizeof at) == sizeof at;
        close(told[0]);
        if (began && (pid[1] = fork()) == 0)
            caller();
        for (int k = 0; k < 1 + began; k++) {
            if (waitpid(pid[k], &status, 0) != pid[k] || status)
                return 1;
        }
    }
    puts("parting: passed");
    return 0;
}
