/* full.c - processes whose table of descriptors is full when they meet others for the first time.
 *
 *   full connect|accept|listeners
 *
 * connect: with a full table, what is in reserve is enough for the first meetings; then a connect fails at
 * once, and says why; with descriptors free again it works. Nothing is silent in between. listeners: and a
 * client whose listeners come and go does not fill up. accept: the same on the other side. Connectors may
 * have to wait, as on the kernel, but each is served in the end.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "echo.h"

#define TABLE 120
#define SERVERS 6
#define CLIENTS 8

static int filling[TABLE];
static int filled;

static void fill_table(void)
{
    int fd;
    while (filled < TABLE && (fd = fcntl(0, F_DUPFD_CLOEXEC, 0)) >= 0)
        filling[filled++] = fd;
    if (filled == 0 || filled == TABLE)
        fail(0, "the table did not come to be full");
}

static void empty_table(void)
{
    while (filled > 0)
        close(filling[--filled]);
}

static void serve(berth_listener l)
{
    struct echo_rules rules = {.wait = 100 * MS};
    echo_serve(l, &rules);
}

static void ask(berth_session s, uint64_t key)
{
    uint8_t out[2000], in[sizeof out];
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = byte_at(key, i);
    put_all(s, out, sizeof out);
    get_all(s, in, sizeof in);
    if (memcmp(in, out, sizeof in) != 0)
        fail(0, "other bytes came back");
}

static void small_table(void)
{
    struct rlimit limit = {TABLE, TABLE};
    expect(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
}

static void connecting(void)
{
    char at[SERVERS][sizeof uri];
    for (int i = 0; i < SERVERS; i++) {
        (void)far_side(serve);
        memcpy(at[i], uri, sizeof uri);
    }
    small_table();
    attach("full");
    fill_table();
    int met = 0, refused = 0;
    for (int i = 0; i < SERVERS; i++) {
        berth_session s;
        int64_t begin = now();
        int err = berth_connect_uri(at[i], PATIENCE, &s);
        if (err) {
            if (err != BERTH_E_NO_MEMORY || now() - begin > longer(SEC))
                fail(err, "a connect with a full table, after %lld ms", (long long)((now() - begin) / MS));
            refused++;
            continue;
        }
        if (refused)
            fail(0, "a connect found room where the one before found none");
        ask(s, (uint64_t)i);
        met++;
        expect(berth_close(s), "close");
    }
    printf("%d met with a full table, %d refused\n", met, refused);
    if (!met || !refused)
        fail(0, "there should be a reserve, and an end of it");
    empty_table();
    pause_ms(50);
    for (int i = 0; i < SERVERS; i++) {
        berth_session s;
        expect(berth_connect_uri(at[i], PATIENCE, &s), "a connect when there is room again");
        ask(s, (uint64_t)i);
        expect(berth_close(s), "close");
    }
}

static void client(void *arg)
{
    attach(NULL);
    berth_session s = dial();
    ask(s, (uint64_t)getpid());
    expect(berth_close(s), "close");
}

static int told;

static int serve_one(berth_listener l)
{
    berth_session s;
    uint8_t buf[2000];
    int err = berth_accept(l, 100 * MS, &s);
    if (err == BERTH_E_NO_MEMORY && filled) {
        told++;
        pause_ms(5);
        return 0;
    }
    if (err == BERTH_E_TIMED_OUT)
        return 0;
    expect(err, "accept");
    get_all(s, buf, sizeof buf);
    put_all(s, buf, sizeof buf);
    expect_end(s);
    expect(berth_close(s), "close");
    return 1;
}

static void full_server(berth_listener l)
{
    int served = 0;
    fill_table();
    for (int64_t end = now() + 2 * SEC; now() < end;)
        served += serve_one(l);
    empty_table();
    printf("%d served with a full table, told of it %d times\n", served, told);
    fflush(stdout);
    if (!told)
        fail(0, "accept did not say that there is no descriptor");
    if (served == 0 || served == CLIENTS)
        fail(0, "%d were served with a full table: there should be a reserve, and an end of it", served);
    for (;;)
        (void)serve_one(l);
}

static void accepting(void)
{
    small_table();
    (void)far_side(full_server);
    int64_t begin = now();
    pid_t pid[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        pid[i] = start(client, NULL);
    for (int i = 0; i < CLIENTS; i++)
        reap(pid[i], "a client of a server with a full table");
    reap(start(client, NULL), "a client when there is room again");
    if (now() - begin < SEC)
        fail(0, "nobody had to wait");
}

#define ROUNDS 300

static void come_and_go(berth_listener l)
{
    for (;;) {
        (void)serve_one(l);
        expect(berth_unlisten(l), "unlisten");
        l = listen_here(8);
        if (write(1, uri, sizeof uri) != (ssize_t)sizeof uri)
            _exit(0);
    }
}

static long kilobytes(void)
{
    char line[128];
    long kb = -1;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        (void)sscanf(line, "VmSize: %ld", &kb);
    if (f)
        (void)fclose(f);
    return kb;
}

/* A listener that has gone costs a client nothing that stays. */
static void listeners(void)
{
    int tell[2], out = dup(1);
    expect(pipe(tell), "pipe");
    (void)dup2(tell[1], 1);
    (void)far_side(come_and_go);
    (void)dup2(out, 1);
    attach("full");
    long before = 0;
    for (int i = 0; i < ROUNDS; i++) {
        berth_session s = dial();
        ask(s, (uint64_t)i);
        expect(berth_close(s), "close");
        if (read(tell[0], uri, sizeof uri) != (ssize_t)sizeof uri)
            fail(0, "the next listener's address");
        if (i == ROUNDS / 10)
            before = kilobytes();
    }
    long grown = kilobytes() - before;
    printf("%ld KB for %d listeners\n", grown, ROUNDS - ROUNDS / 10);
    if (grown > 4096)
        fail(0, "listeners that have gone are still paid for");
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(which, "connect"))
        connecting();
    else if (!strcmp(which, "accept"))
        accepting();
    else if (!strcmp(which, "listeners"))
        listeners();
    else
        return 2;
    printf("full %s: passed\n", which);
    return 0;
}
