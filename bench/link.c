/* link.c - the measurements over a stream between two processes; link.h says over which.
 *
 *     NAME rtt    [--mode block|spin|wait] [--think NS] [--work NS] [--hogs N] [--pin 0|1] [--size N]
 *                 [--ms N]
 *     NAME stream [--block N] [--pin 0|1] [--ms N]
 *     NAME msgs   [--read N] [--pin 0|1] [--ms N]
 *     NAME conn   [--one-thread 0|1] [--ms N]
 *     NAME fanin  [--clients N] [--ms N]
 *     NAME idle   [--sessions N] [--used N] [--addresses N] [--daemon PID]
 *     NAME threads [--threads N] [--ms N]
 * NAME is berth-bench or sock-bench; the latter takes --world tcp|unix as well.
 *
 * The program itself is the server. The peer is this program again, by exec, with "peer" as its first
 * argument; it connects to the address that it reads from its standard input, it measures, and it prints the
 * result. Of idle threads the program itself measures its own.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "link.h"

static int arg_count;
static char **arg_values;

static long number(const char *name, long fallback)
{
    return option_number(arg_count, arg_values, name, fallback);
}

static const char *text(const char *name, const char *fallback)
{
    return option_text(arg_count, arg_values, name, fallback);
}

static int64_t duration(void)
{
    return number("--ms", 300) * 1000000;
}

static void pin_side(int side)
{
    if (number("--pin", 0))
        pin_to(cpu_of(side));
}

static void attach(const char *name)
{
    link_attach(text("--world", "tcp"), name);
}

/* This program again as a peer, with the options that this one was given. */
static pid_t peer_with_options(const char *what, int *fd)
{
    char *argv[64] = {arg_values[0], "peer", (char *)what};
    int n = 3;

    for (int i = 2; i < arg_count && n < 63; i++)
        argv[n++] = arg_values[i];
    return peer_start(argv, fd);
}

/* ---- round trips ---- */

static char message[65536];

/* How a side waits for `len` bytes; false at the end of the stream. */
struct waiting {
    char mode; /* b: in the call; s: asks again and again; w: in the event wait */
    link_set set;
};

static void waiting_init(struct waiting *w, link_t s)
{
    w->mode = text("--mode", "block")[0];
    if (w->mode == 'w') {
        w->set = link_set_create();
        link_set_add(w->set, s, 1);
    }
}

static bool receive(const struct waiting *w, link_t s, size_t len)
{
    link_event event;

    if (w->mode == 'b')
        return link_read_all(s, message, len);
    for (size_t have = 0; have < len;) {
        ssize_t n = -1;
        if (w->mode == 'w') {
            while (link_set_wait(w->set, &event, 1) == 0)
                ;
            n = link_read(s, message + have, len - have);
        } else {
            while ((n = link_try_read(s, message + have, len - have)) < 0)
                relax();
        }
        if (n == 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

/* What a program does with a message before it answers. */
static void compute(int64_t ns)
{
    if (ns) {
        for (int64_t end = now_ns() + ns; now_ns() < end;)
            ;
    }
}

static void rtt_peer(link_t s, size_t size)
{
    static struct histogram h;
    int64_t think = number("--think", 0), work = number("--work", 0), warm = duration() / 10;
    struct waiting w;

    pin_side(1);
    waiting_init(&w, s);
    int64_t begin = now_ns(), end = begin + duration() + warm, t = begin, first = 0;
    while (t < end) {
        if (think)
            sleep_exactly(think);
        compute(work);
        int64_t start = now_ns();
        link_write(s, message, size);
        if (!receive(&w, s, size))
            die_text("the server hung up");
        t = now_ns();
        if (t - begin < warm)
            continue;
        if (!first)
            first = start;
        histogram_add(&h, t - start);
    }
    if (h.count == 0)
        die_text("no round trip in the time given");
    printf("{\"p50_ns\": %.0f, \"p99_ns\": %.0f, \"count\": %llu, \"per_second\": %.0f}\n",
           histogram_quantile(&h, 0.5), histogram_quantile(&h, 0.99), (unsigned long long)h.count,
           (double)h.count * 1e9 / (double)(t - first));
}

static void rtt_server(link_listener l, size_t size)
{
    int64_t work = number("--work", 0);
    struct waiting w;

    pin_side(0);
    link_t s = link_accept(l);
#ifndef LINK_BERTH
    link_nodelay(s);
#endif
    waiting_init(&w, s);
    while (receive(&w, s, size)) {
        compute(work);
        link_write(s, message, size);
    }
    link_close(s);
}

/* ---- stream and messages ---- */

/* Sends blocks for the time given, then the end of the stream; the server answers with what it measured. */
static void send_peer(link_t s, size_t block)
{
    double gbit_or_rate[2];

    pin_side(1);
    memset(message, 'x', sizeof(message));
    int64_t end = now_ns() + duration();
    uint64_t n = 0;
    int batch = block < 1024 ? 256 : 8;
    while (now_ns() < end) {
        for (int i = 0; i < batch; i++) {
            if (block == 8)
                memcpy(message, &n, 8);
            link_write(s, message, block);
            n++;
        }
    }
    link_end(s);
    if (!link_read_all(s, gbit_or_rate, sizeof(gbit_or_rate)))
        die_text("the server hung up");
    if (gbit_or_rate[1] != (double)n * (double)block)
        die_text("%.0f bytes sent, %.0f arrived", (double)n * (double)block, gbit_or_rate[1]);
    if (block == 8)
        printf("{\"million_per_second\": %.3f}\n", gbit_or_rate[0] / 64.0 * 1000.0);
    else
        printf("{\"gbit\": %.2f}\n", gbit_or_rate[0]);
}

/* The clock starts when a tenth of the time is over. With 8-byte messages each is looked at: they count up.
 */
static void receive_server(link_listener l, size_t block, bool count)
{
    double result[2];
    uint64_t total = 0, mark = 0, next = 0;
    int64_t start = 0, begin, t;
    unsigned turn = 0;
    size_t have = 0;

    if (block > sizeof(message) - 8)
        block = sizeof(message) - 8;
    pin_side(0);
    link_t s = link_accept(l);
    begin = now_ns();
    for (;;) {
        ssize_t n = link_read(s, message + have, block);
        if (n == 0)
            break;
        total += (size_t)n;
        if (count) {
            size_t at = 0, end = have + (size_t)n;
            for (; at + 8 <= end; at += 8) {
                uint64_t value;
                memcpy(&value, message + at, 8);
                if (value != next++)
                    die_text("message %llu came out of order", (unsigned long long)value);
            }
            have = end - at;
            memmove(message, message + at, have);
        }
        if (!start && turn++ % 16 == 0) {
            t = now_ns();
            if (t - begin > duration() / 10) {
                start = t;
                mark = total;
            }
        }
    }
    t = now_ns();
    if (!start)
        die_text("the stream ended before the clock was started");
    result[0] = (double)(total - mark) * 8.0 / (double)(t - start);
    result[1] = (double)total;
    link_write(s, result, sizeof(result));
    link_close(s);
}

/* ---- connections ---- */

static void conn_peer(const char *where)
{
    link_place place;
    uint64_t n = 0;

    link_place_of(where, &place);
    for (int i = 0; i < 10; i++) /* the first ones introduce */
        link_close(link_connect_place(&place));
    int64_t start = now_ns(), end = start + duration(), t = start;
    while (t < end) {
        for (int i = 0; i < 16; i++, n++)
            link_close(link_connect_place(&place));
        t = now_ns();
    }
    /* One more that says so: the server has to have closed all of them before the clock is stopped. */
    link_t s = link_connect_place(&place);
    char c = 'e';
    link_write(s, &c, 1);
    if (!link_read_all(s, &c, 1))
        die_text("the server hung up");
    t = now_ns();
    link_close(s);
    printf("{\"per_second\": %.0f}\n", (double)n * 1e9 / (double)(t - start));
}

static void conn_server(link_listener l)
{
    char c;

    for (;;) {
        link_t s = link_accept(l);
        /* Wait for the client's close, as a server does: the side that closes first keeps the port. */
        if (link_read(s, &c, 1) == 0) {
            link_close(s);
            continue;
        }
        link_write(s, &c, 1);
        link_close(s);
        return;
    }
}

static void conn_one_thread(void)
{
    char where[128];
    link_place place;
    uint64_t n = 0;

    attach("bench");
    link_listener l = link_listen("127.0.0.1", where);
    link_place_of(where, &place);
    int64_t start = now_ns(), end = start + duration(), t = start;
    while (t < end) {
        for (int i = 0; i < 16; i++, n++) {
            link_t c = link_connect_place(&place);
            link_t s = link_accept(l);
            link_close(c);
            link_close(s);
        }
        t = now_ns();
    }
    printf("{\"per_second\": %.0f}\n", (double)n * 1e9 / (double)(t - start));
    link_detach();
}

/* ---- one of many ---- */

/* The server side of fanin and idle: any number of sessions in one event wait, messages of up to 64 bytes
 * echoed, until one of them begins with 'e' or a session ends. */
struct table {
    link_t *session;
    uint64_t count;
};

static void echo_set(link_set set, const struct table *table)
{
    char buffer[64];
    link_event events[64];

    for (;;) {
        int n = link_set_wait(set, events, 64);
        for (int i = 0; i < n; i++) {
            link_t s = table->session[link_event_data(&events[i])];
            ssize_t len = link_read(s, buffer, sizeof(buffer));
            if (len == 0 || buffer[0] == 'e')
                return;
            link_write(s, buffer, (size_t)len);
        }
    }
}

static void accept_set(link_set set, link_listener l, struct table *table, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        link_t s = link_accept(l);
#ifndef LINK_BERTH
        link_nodelay(s);
#endif
        table->session[table->count] = s;
        link_set_add(set, s, table->count++);
    }
}

static struct table table_make(uint64_t count)
{
    struct table t = {.session = calloc(count, sizeof(link_t))};

    if (!t.session)
        die("calloc");
    return t;
}

/* One of the clients: says that it is connected, and then is silent until its standard input ends. */
static void fanin_silent_peer(const char *where)
{
    char c;
    link_t s = link_connect(where);

    while (read(0, &c, 1) > 0)
        ;
    link_close(s);
}

static void fanin(void)
{
    long clients = number("--clients", 100);
    struct table table = table_make((uint64_t)clients);
    pid_t *pids = calloc((size_t)clients, sizeof(pid_t));
    int *fds = calloc((size_t)clients, sizeof(int));
    char where[128];
    char *argv[64] = {arg_values[0], "peer", "silent", "--world", (char *)text("--world", "tcp"), NULL};

    if (!pids || !fds)
        die("calloc");
    /* All of them before the attach: they are programs of their own, not workers of this app. */
    for (long i = 0; i + 1 < clients; i++)
        pids[i] = peer_start(argv, &fds[i]);
    argv[2] = "rtt";
    argv[5] = "--ms";
    argv[6] = (char *)text("--ms", "300");
    pid_t active = peer_start(argv, &fds[clients - 1]);

    attach("bench-server");
    link_listener l = link_listen("127.0.0.1", where);
    link_set set = link_set_create();
    for (long i = 0; i < clients; i++) { /* the active one is the last */
        peer_tell(fds[i], where);
        accept_set(set, l, &table, 1);
    }
    echo_set(set, &table); /* until the active one has gone */
    peer_wait(active);
    for (long i = 0; i + 1 < clients; i++)
        close(fds[i]);
    for (long i = 0; i + 1 < clients; i++)
        peer_wait(pids[i]);
    link_detach();
    free(pids);
    free(fds);
    free(table.session);
}

/* ---- idle sessions ---- */

/* The proportional share of memory that a process has: shared pages counted once over all who map them. */
static uint64_t pss_of(long pid)
{
    char path[64], line[256];
    unsigned long long kb = 0;

    snprintf(path, sizeof(path), "/proc/%ld/smaps_rollup", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Pss: %llu", &kb) == 1)
            break;
    }
    fclose(f);
    return kb * 1024;
}

/* What the kernel holds in buffers and tables for all: sockets are there and in no process. */
static uint64_t kernel_memory(void)
{
    char line[256];
    unsigned long long slab = 0, kb;

    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Slab: %llu", &kb) == 1)
            slab = kb;
    }
    fclose(f);
    return slab * 1024;
}

static void idle_peer(void)
{
    static struct histogram h;
    uint64_t sessions = (uint64_t)number("--sessions", 1000);
    long addresses = number("--addresses", 1), server = getppid(), daemon_pid = number("--daemon", 0);
    struct table table = table_make(sessions);
    link_place *places = calloc((size_t)addresses, sizeof(*places));
    char line[128], byte = 'e';

    if (!places)
        die("calloc");
    for (long i = 0; i < addresses; i++) {
        peer_line(line, sizeof(line));
        link_place_of(line, &places[i]);
    }
    memset(table.session, 1, sessions * sizeof(link_t)); /* touched, so that it is not counted below */

    uint64_t before = pss_of(getpid()) + pss_of(server) + pss_of(daemon_pid), slab = kernel_memory();
    int64_t start = now_ns();
    for (uint64_t i = 0; i < sessions; i++)
        table.session[i] = link_connect_place(&places[i * (uint64_t)addresses / sessions]);
    /* The server accepts in the order of the addresses, so the last one's echo says that it has them all. */
    char echo[8] = "hello";
    link_write(table.session[sessions - 1], echo, 8);
    if (!link_read_all(table.session[sessions - 1], echo, 8))
        die_text("the server hung up");
    int64_t setup = now_ns() - start;
    uint64_t after = pss_of(getpid()) + pss_of(server) + pss_of(daemon_pid), slab_after = kernel_memory();

    /* Any session, any time, or any of some that lie far apart: what finding one among them costs. */
    uint64_t used_sessions = (uint64_t)number("--used", (long)sessions), apart = sessions / used_sessions;
    uint64_t seed = 88172645463325252ull;
    int64_t end = now_ns() + duration();
    for (int64_t t = now_ns(); t < end;) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        link_t s = table.session[seed % used_sessions * apart];
        int64_t begin = now_ns();
        link_write(s, echo, 8);
        if (!link_read_all(s, echo, 8))
            die_text("the server hung up");
        t = now_ns();
        histogram_add(&h, t - begin);
    }
    uint64_t used = pss_of(getpid()) + pss_of(server) + pss_of(daemon_pid);
    link_write(table.session[0], &byte, 1);
    printf(
        "{\"bytes_per_session\": %.0f, \"bytes_per_session_used\": %.0f, \"kernel_bytes_per_session\": %.0f, "
        "\"setup_us\": %.2f, \"lookup_p50_ns\": %.0f, \"lookup_p99_ns\": %.0f, \"lookups\": %llu}\n",
        ((double)after - (double)before) / (double)sessions,
        ((double)used - (double)before) / (double)sessions,
        ((double)slab_after - (double)slab) / (double)sessions, (double)setup / 1e3 / (double)sessions,
        histogram_quantile(&h, 0.5), histogram_quantile(&h, 0.99), (unsigned long long)h.count);
    free(places);
    free(table.session);
}

static void idle(void)
{
    uint64_t sessions = (uint64_t)number("--sessions", 1000), done = 0;
    long addresses = number("--addresses", 1);
    struct table table = table_make(sessions);
    link_listener *l = calloc((size_t)addresses, sizeof(*l));
    char where[128], host[32];
    int fd;

    if (!l)
        die("calloc");
    /* touched, so that it is not counted as a session's */
    memset(table.session, 1, sessions * sizeof(link_t));
    pid_t pid = peer_with_options("idle", &fd);
    attach("bench-server");
    for (long i = 0; i < addresses; i++) {
        snprintf(host, sizeof(host), "127.0.0.%ld", i + 1);
        l[i] = link_listen(host, where);
        peer_tell(fd, where);
    }
    link_set set = link_set_create();
    for (long i = 0; i < addresses; i++) {
        uint64_t upto = (sessions * (uint64_t)(i + 1) + (uint64_t)addresses - 1) / (uint64_t)addresses;
        accept_set(set, l[i], &table, upto - done);
        done = upto;
    }
    echo_set(set, &table);
    peer_wait(pid);
    link_detach();
    free(l);
    free(table.session);
}

/* ---- idle threads ---- */

#define SETTLES_NS 300000000

static void *blocked(void *session)
{
    char c;

    (void)link_read(*(link_t *)session, &c, 1); /* until the session ends */
    return NULL;
}

static void threads_peer(const char *where)
{
    char c;

    for (long i = number("--threads", 200); i > 0; i--)
        (void)link_connect(where);
    while (read(0, &c, 1) > 0) /* and does not close them: they end with the program */
        ;
}

static int64_t cpu_ns(const struct rusage *used)
{
    return (int64_t)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) * 1000000000 +
           (int64_t)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) * 1000;
}

static long switches(const struct rusage *used)
{
    return used->ru_nvcsw + used->ru_nivcsw;
}

/* What a server uses while each of its threads waits for a client that says nothing. */
static void threads(void)
{
    long count = number("--threads", 200);
    struct table table = table_make((uint64_t)count);
    pthread_t *thread = calloc((size_t)count, sizeof(pthread_t));
    struct rusage before, after;
    char where[128];
    int fd;

    if (!thread)
        die("calloc");
    pid_t pid = peer_with_options("threads", &fd);
    attach("bench-server");
    link_listener l = link_listen("127.0.0.1", where);
    peer_tell(fd, where);
    for (long i = 0; i < count; i++) {
        table.session[i] = link_accept(l);
        if (pthread_create(&thread[i], NULL, blocked, &table.session[i]) != 0)
            die_text("no thread");
    }
    sleep_exactly(SETTLES_NS);
    getrusage(RUSAGE_SELF, &before);
    int64_t start = now_ns();
    sleep_exactly(duration());
    getrusage(RUSAGE_SELF, &after);
    int64_t took = now_ns() - start;
    double cpu = (double)(cpu_ns(&after) - cpu_ns(&before));
    long wakes = switches(&after) - switches(&before) - 1; /* one is our own sleep */
    printf("{\"cpu_percent\": %.3f, \"wakes_per_second\": %.1f}\n", cpu * 100 / (double)took,
           (double)wakes * 1e9 / (double)took);
    close(fd);
    peer_wait(pid);
    for (long i = 0; i < count; i++)
        pthread_join(thread[i], NULL);
    link_detach();
    free(thread);
    free(table.session);
}

/* ---- who does what ---- */

static void peer(const char *what)
{
    char where[128];

    attach("bench-client");
    if (strcmp(what, "idle") == 0) {
        idle_peer();
    } else {
        peer_line(where, sizeof(where));
        if (strcmp(what, "silent") == 0) {
            fanin_silent_peer(where);
        } else if (strcmp(what, "threads") == 0) {
            threads_peer(where);
        } else if (strcmp(what, "conn") == 0) {
            conn_peer(where);
        } else {
            link_t s = link_connect(where);
            if (strcmp(what, "rtt") == 0)
                rtt_peer(s, (size_t)number("--size", 64));
            else
                send_peer(s, strcmp(what, "msgs") == 0 ? 8 : (size_t)number("--block", 65536));
            link_close(s);
        }
    }
    fflush(stdout);
    link_detach();
}

static void serve(const char *what)
{
    bool messages = strcmp(what, "msgs") == 0;
    char where[128];
    int fd;

    pid_t pid = peer_with_options(what, &fd);
    hogs_start((int)number("--hogs", 0));
    attach("bench-server");
    link_listener l = link_listen("127.0.0.1", where);
    peer_tell(fd, where);
    if (strcmp(what, "rtt") == 0)
        rtt_server(l, (size_t)number("--size", 64));
    else if (strcmp(what, "conn") == 0)
        conn_server(l);
    else
        receive_server(l, (size_t)number("--read", messages ? 4096 : 65536), messages);
    peer_wait(pid);
    hogs_stop();
    link_detach();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    struct rlimit files;

    arg_count = argc;
    arg_values = argv;
    if (number("--size", 64) > (long)sizeof(message) || number("--block", 65536) > (long)sizeof(message))
        die_text("no more than %zu bytes at once", sizeof(message));
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    watchdog((int)(number("--ms", 300) / 1000) + (int)number("--patience", 12));
    if (strcmp(what, "peer") == 0 && argc > 2)
        peer(argv[2]);
    else if (strcmp(what, "conn") == 0 && number("--one-thread", 0))
        conn_one_thread();
    else if (strcmp(what, "fanin") == 0)
        fanin();
    else if (strcmp(what, "idle") == 0)
        idle();
    else if (strcmp(what, "threads") == 0)
        threads();
    else if (strcmp(what, "rtt") == 0 || strcmp(what, "stream") == 0 || strcmp(what, "msgs") == 0 ||
             strcmp(what, "conn") == 0)
        serve(what);
    else
        die_text("usage: rtt|stream|msgs|conn|fanin|idle|threads [--world " LINK_WORLDS
                 "] [options, see bench/link.c]");
    return 0;
}
