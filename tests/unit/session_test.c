/* session_test.c - the public API over a real daemon: what sessions do, and the error codes that only they
 * can give. Client and server are one process and mostly one thread, which must work, too. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "berth/berth.h"
#include "fake_app.h"

#define expect(code, call)                                                                                   \
    do {                                                                                                     \
        long got_ = (long)(call);                                                                            \
        check(got_ == (long)(code), "%s gave %ld %s, not %ld", #call, got_,                                  \
              got_ < 0 ? berth_error_name((int)got_) : "", (long)(code));                                    \
    } while (0)

struct duo {
    berth_listener listener;
    struct berth_endpoint at;
    berth_session client, server;
};

static void open_duo(struct duo *d)
{
    expect(0, berth_listen_uri("tcp://127.0.0.1:0", NULL, &d->listener));
    expect(0, berth_listener_endpoint(d->listener, &d->at));
    assert_true(d->at.port != 0);
    expect(BERTH_E_WOULD_BLOCK, berth_accept(d->listener, 0, &d->server));
    expect(BERTH_E_TIMED_OUT, berth_accept(d->listener, 2 * NS_PER_MS, &d->server));
    expect(0, berth_connect(&d->at, longer(NS_PER_SEC), &d->client)); /* before anybody accepts */
    expect(0, berth_accept(d->listener, longer(NS_PER_SEC), &d->server));
}

static void close_duo(struct duo *d)
{
    if (d->client)
        expect(0, berth_close(d->client));
    if (d->server)
        expect(0, berth_close(d->server));
    expect(0, berth_unlisten(d->listener));
}

static void bytes_and_ends(void **state)
{
    struct duo d;
    char buf[64];
    open_duo(&d);
    expect(BERTH_E_WOULD_BLOCK, berth_read(d.server, buf, sizeof buf, 0));
    expect(BERTH_E_TIMED_OUT, berth_read(d.server, buf, sizeof buf, 2 * NS_PER_MS));
    expect(5, berth_write(d.client, "hello", 5, 0));
    expect(5, berth_read(d.server, buf, sizeof buf, longer(NS_PER_SEC)));
    assert_memory_equal(buf, "hello", 5);
    expect(3, berth_write(d.server, "bye", 3, 0));
    expect(0, berth_shutdown(d.server, BERTH_SHUT_WR));
    expect(BERTH_E_CLOSED, berth_write(d.server, "x", 1, 0));
    expect(3, berth_read(d.client, buf, sizeof buf, longer(NS_PER_SEC)));
    expect(0, berth_read(d.client, buf, sizeof buf, longer(NS_PER_SEC)));
    expect(0, berth_read(d.client, buf, sizeof buf, 0)); /* and stays at the end */
    expect(4, berth_write(d.client, "more", 4, 0));      /* one half is still open */
    expect(4, berth_read(d.server, buf, sizeof buf, longer(NS_PER_SEC)));
    close_duo(&d);
}

static void addresses_on_both_sides(void **state)
{
    struct duo d;
    struct berth_endpoint cl, cr, sl, sr;
    open_duo(&d);
    expect(0, berth_local_endpoint(d.client, &cl));
    expect(0, berth_remote_endpoint(d.client, &cr));
    expect(0, berth_local_endpoint(d.server, &sl));
    expect(0, berth_remote_endpoint(d.server, &sr));
    assert_memory_equal(&cl, &sr, sizeof cl);
    assert_memory_equal(&cr, &sl, sizeof cr);
    assert_int_equal(cr.port, d.at.port);
    assert_true(cl.port != 0 && cl.port != cr.port);
    close_duo(&d);
}

static void a_full_fifo_says_so(void **state)
{
    struct duo d;
    static char block[65536];
    open_duo(&d);
    uint64_t sent = 0, got = 0;
    ssize_t n;
    while ((n = berth_write(d.client, block, sizeof block, 0)) > 0) {
        sent += (uint64_t)n;
        check(sent < 256u << 20, "a fifo without end");
    }
    expect(BERTH_E_WOULD_BLOCK, n);
    expect(BERTH_E_TIMED_OUT, berth_write(d.client, block, sizeof block, 2 * NS_PER_MS));
    assert_int_equal(sent, 4u << 20);
    /* the first read may have to wait for a segment, and a non-blocking one does not */
    while (got < sent && (n = berth_read(d.server, block, sizeof block, longer(NS_PER_SEC))) > 0)
        got += (uint64_t)n;
    expect(BERTH_E_WOULD_BLOCK, berth_read(d.server, block, sizeof block, 0));
    assert_int_equal(sent, got);
    expect(1, berth_write(d.client, block, 1, 0));
    close_duo(&d);
}

/* Of shared memory that this process has in its mappings, bytes. */
static uint64_t shared_memory(void)
{
    char line[128];
    uint64_t kb = 0;
    FILE *f = fopen("/proc/self/status", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (!strncmp(line, "RssShmem:", 9))
            kb = strtoull(line + 9, NULL, 10);
    }
    fclose(f);
    return kb << 10;
}

static void what_a_burst_took_goes_back(void **state)
{
    enum { COUNT = 8 };
    struct duo d[COUNT];
    static char block[65536];
    uint64_t before = shared_memory();
    for (int i = 0; i < COUNT; i++) {
        open_duo(&d[i]);
        while (berth_write(d[i].client, block, sizeof block, 0) > 0)
            ;
    }
    assert_true(shared_memory() - before > 32u << 20);
    for (int i = 0; i < COUNT; i++) {
        for (uint64_t got = 0; got < 4u << 20;) {
            ssize_t n = berth_read(d[i].server, block, sizeof block, longer(NS_PER_SEC));
            check(n > 0, "read %zd", n);
            got += (uint64_t)n;
        }
    }
    int64_t end = clock_now() + longer(15 * NS_PER_SEC);
    while (shared_memory() > before + (2u << 20) && clock_now() < end)
        expect(BERTH_E_TIMED_OUT, berth_read(d[0].server, block, 1, 500 * NS_PER_MS));
    assert_true(shared_memory() <= before + (2u << 20));
    for (int i = 0; i < COUNT; i++) { /* and the sessions go on */
        expect(5, berth_write(d[i].client, "hello", 5, 0));
        expect(5, berth_read(d[i].server, block, sizeof block, longer(NS_PER_SEC)));
        assert_memory_equal(block, "hello", 5);
        close_duo(&d[i]);
    }
}

static void resets_reach_the_peer(void **state)
{
    struct duo d;
    char buf[8];
    open_duo(&d);
    expect(0, berth_reset(d.client));
    expect(BERTH_E_BAD_HANDLE, berth_read(d.client, buf, 8, 0));
    d.client = 0;
    expect(BERTH_E_RESET, berth_read(d.server, buf, 8, longer(NS_PER_SEC)));
    close_duo(&d);

    open_duo(&d); /* a close with bytes unread is a reset, RFC 9293 3.10.4 as Linux has it */
    expect(4, berth_write(d.client, "lost", 4, 0));
    expect(0, berth_close(d.server));
    d.server = 0;
    ssize_t n = berth_read(d.client, buf, 8, longer(NS_PER_SEC));
    expect(BERTH_E_RESET, n);
    close_duo(&d);
}

static void writing_to_one_that_closed(void **state)
{
    struct duo d;
    open_duo(&d);
    expect(0, berth_close(d.server));
    d.server = 0;
    ssize_t n = 1;
    for (int i = 0; i < 100 && n > 0; i++)
        n = berth_write(d.client, "x", 1, NS_PER_MS);
    check(n == BERTH_E_CLOSED || n == BERTH_E_RESET, "writing to a closed peer gives %s",
          berth_error_name((int)n));
    close_duo(&d);
}

static void nobody_listens(void **state)
{
    berth_session s = 42;
    expect(BERTH_E_REFUSED, berth_connect_uri("tcp://127.0.0.1:1", longer(NS_PER_SEC), &s));
    expect(BERTH_E_REFUSED, berth_connect_uri("tcp://[::1]:1", longer(NS_PER_SEC), &s));
    expect(BERTH_E_NO_ROUTE, berth_connect_uri("tcp://203.0.113.9:80", longer(NS_PER_SEC), &s));
    expect(BERTH_E_URI, berth_connect_uri("tcp://127.0.0.1:0", longer(NS_PER_SEC), &s));
    expect(BERTH_E_URI, berth_connect_uri("tcp:/127.0.0.1:80", longer(NS_PER_SEC), &s));
    expect(BERTH_E_UNSUPPORTED, berth_listen_uri("udp://127.0.0.1:80", NULL, &s));
    assert_int_equal(s, 42);
    berth_listener a, b;
    expect(0, berth_listen_uri("tcp://127.0.0.1:7001", NULL, &a));
    expect(BERTH_E_ADDRESS_IN_USE, berth_listen_uri("tcp://127.0.0.1:7001", NULL, &b));
    expect(BERTH_E_ADDRESS, berth_listen_uri("tcp://203.0.113.9:7001", NULL, &b));
    expect(0, berth_unlisten(a));
    expect(BERTH_E_BAD_HANDLE, berth_unlisten(a));
}

struct waiting_connect {
    struct berth_endpoint at;
    berth_session session;
    int result;
};

static void *connect_late(void *arg)
{
    struct waiting_connect *w = arg;
    w->result = berth_connect(&w->at, 5 * NS_PER_SEC, &w->session);
    return NULL;
}

static void a_full_backlog(void **state)
{
    enum { MANY = 40 };
    struct berth_listen_options o = {.backlog = 2};
    berth_listener l;
    berth_session s[MANY], accepted;
    struct berth_endpoint at;
    int n = 0, rc = 0;
    expect(0, berth_listen_uri("tcp://127.0.0.1:0", &o, &l));
    expect(0, berth_listener_endpoint(l, &at));
    while (n < MANY && (rc = berth_connect(&at, 0, &s[n])) == 0)
        n++;
    expect(BERTH_E_IN_PROGRESS, rc);
    check(n >= 2 && n <= 4, "a backlog of 2 took %d", n); /* Linux takes one more */
    expect(BERTH_E_TIMED_OUT, berth_connect(&at, 2 * NS_PER_MS, &accepted));
    struct waiting_connect late = {.at = at};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, connect_late, &late), 0);
    usleep(5000);
    for (int i = 0; i < n; i++) {
        expect(0, berth_accept(l, longer(NS_PER_SEC), &accepted));
        expect(0, berth_close(accepted));
    }
    pthread_join(t, NULL); /* went through when there was room */
    expect(0, late.result);
    expect(0, berth_close(late.session));
    for (int i = 0; i <= n; i++)
        expect(0, berth_close(s[i]));
    expect(0, berth_unlisten(l));
}

static void a_full_backlog_in_a_wait_set(void **state)
{
    struct berth_listen_options o = {.backlog = 1};
    berth_listener l;
    berth_session s[8], accepted[8];
    struct berth_endpoint at;
    struct berth_event ev;
    int n = 0, rc = 0, taken = 0;
    expect(0, berth_listen_uri("tcp://127.0.0.1:0", &o, &l));
    expect(0, berth_listener_endpoint(l, &at));
    while (n < 8 && (rc = berth_connect(&at, 0, &s[n])) == 0)
        n++;
    expect(BERTH_E_IN_PROGRESS, rc);
    berth_waitset *set = berth_waitset_create();
    assert_non_null(set);
    expect(0, berth_waitset_add(set, s[n], BERTH_OUT, 7));
    expect(0, berth_waitset_wait(set, &ev, 1, 0));
    expect(0, berth_waitset_wait(set, &ev, 1, 5 * NS_PER_MS));
    expect(0, berth_accept(l, longer(NS_PER_SEC), &accepted[taken++]));
    expect(1, berth_waitset_wait(set, &ev, 1, longer(NS_PER_SEC)));
    assert_int_equal(ev.data, 7);
    check(ev.events == BERTH_OUT, "events %x", ev.events);
    expect(0, berth_error(s[n]));
    expect(2, berth_write(s[n], "in", 2, 0));
    while (berth_accept(l, 20 * NS_PER_MS, &accepted[taken]) == 0)
        taken++;
    assert_int_equal(taken, n + 1);
    for (int i = 0; i <= n; i++) {
        expect(0, berth_close(s[i]));
        expect(0, berth_close(accepted[i]));
    }
    berth_waitset_destroy(set);
    expect(0, berth_unlisten(l));
}

static void spans_are_exclusive(void **state)
{
    struct duo d;
    struct iovec v[2];
    char buf[16];
    open_duo(&d);
    int n = berth_write_spans(d.client, 10, v, 0);
    check(n == 1 || n == 2, "write_spans gave %d", n);
    memcpy(v[0].iov_base, "abc", 3);
    expect(BERTH_E_BUSY, berth_write(d.client, "x", 1, 0));
    expect(BERTH_E_BUSY, berth_write_spans(d.client, 1, v, 0));
    expect(0, berth_write_commit(d.client, 3));
    n = berth_read_spans(d.server, v, longer(NS_PER_SEC));
    check(n == 1 && v[0].iov_len == 3 && !memcmp(v[0].iov_base, "abc", 3), "read_spans gave %d", n);
    expect(BERTH_E_BUSY, berth_read(d.server, buf, 1, 0));
    expect(BERTH_E_BUSY, berth_read_spans(d.server, v, 0));
    expect(BERTH_E_INVALID, berth_read_consume(d.server, 4));
    expect(0, berth_read_consume(d.server, 1));
    expect(2, berth_read(d.server, buf, sizeof buf, 0));
    assert_memory_equal(buf, "bc", 2);
    close_duo(&d);
}

static void on_alarm(int sig)
{
}

static void a_signal_interrupts_a_wait(void **state)
{
    struct duo d;
    char buf[8];
    struct sigaction sa = {.sa_handler = on_alarm}, old;
    struct itimerval soon = {.it_value.tv_usec = 30000, .it_interval.tv_usec = 30000}, never = {0};
    open_duo(&d);
    sigaction(SIGALRM, &sa, &old);
    setitimer(ITIMER_REAL, &soon, NULL);
    ssize_t r = berth_read(d.server, buf, 8, 5 * NS_PER_SEC);
    berth_session s;
    int a = berth_accept(d.listener, 5 * NS_PER_SEC, &s);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &old, NULL);
    expect(BERTH_E_INTERRUPTED, r);
    expect(BERTH_E_INTERRUPTED, a);
    close_duo(&d);
}

static void options_in_range(void **state)
{
    struct duo d;
    uint64_t v = 0;
    open_duo(&d);
    expect(0, berth_option_set(d.client, BERTH_OPT_TX_FIFO_SIZE, 65536));
    expect(0, berth_option_get(d.client, BERTH_OPT_TX_FIFO_SIZE, &v));
    assert_int_equal(v, 65536);
    expect(BERTH_E_INVALID, berth_option_set(d.client, BERTH_OPT_TX_FIFO_SIZE, 4095));
    expect(BERTH_E_INVALID, berth_option_set(d.client, BERTH_OPT_TX_FIFO_SIZE, (64u << 20) + 1));
    expect(BERTH_E_INVALID, berth_option_set(d.client, (enum berth_option)99, 1));
    expect(6, berth_write(d.client, "unread", 6, 0));
    expect(0, berth_option_get(d.server, BERTH_OPT_READABLE, &v));
    assert_int_equal(v, 6);
    expect(0, berth_option_get(d.client, BERTH_OPT_UNREAD, &v));
    assert_int_equal(v, 6);
    close_duo(&d);
}

/* Every byte, with random sizes, rings that grow and a reader that pauses. */
struct stream {
    berth_session session;
    uint64_t bytes, seed;
};

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 167 + (offset >> 8) * 13 + (offset >> 16));
}

static void *write_stream(void *arg)
{
    struct stream *s = arg;
    uint8_t *buf = malloc(1 << 18);
    for (uint64_t at = 0; buf && at < s->bytes;) {
        uint64_t len = 1 + next_random(&s->seed) % (1 << (next_random(&s->seed) % 19));
        if (len > s->bytes - at)
            len = s->bytes - at;
        for (uint64_t i = 0; i < len; i++)
            buf[i] = byte_at(at + i);
        if (berth_write(s->session, buf, len, longer(10 * NS_PER_SEC)) != (ssize_t)len)
            break;
        at += len;
    }
    free(buf);
    (void)berth_shutdown(s->session, BERTH_SHUT_WR);
    return NULL;
}

static void every_byte_in_order(void **state)
{
    struct duo d;
    open_duo(&d);
    struct stream s = {.session = d.client, .bytes = 48 << 20, .seed = (uint64_t)clock_now()};
    uint64_t seed = s.seed + 1;
    print_message("seed %llu\n", (unsigned long long)s.seed);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, write_stream, &s), 0);
    uint8_t *buf = malloc(1 << 18);
    uint64_t at = 0;
    for (;;) {
        uint64_t len = 1 + next_random(&seed) % (1 << (next_random(&seed) % 19));
        ssize_t n = berth_read(d.server, buf, len, longer(10 * NS_PER_SEC));
        check(n >= 0, "read at %llu: %s", (unsigned long long)at, berth_error_name((int)n));
        if (n == 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            check(buf[i] == byte_at(at + (uint64_t)i), "byte %llu is wrong",
                  (unsigned long long)at + (uint64_t)i);
        at += (uint64_t)n;
        if (next_random(&seed) % 200 == 0)
            usleep(500);
    }
    pthread_join(t, NULL);
    free(buf);
    assert_int_equal(at, s.bytes);
    close_duo(&d);
}

static void many_sessions_come_and_go(void **state)
{
    struct duo d;
    open_duo(&d);
    for (int i = 0; i < 3000; i++) {
        berth_session c, s;
        int x = 0;
        expect(0, berth_connect(&d.at, longer(NS_PER_SEC), &c));
        expect(sizeof i, berth_write(c, &i, sizeof i, longer(NS_PER_SEC)));
        expect(0, berth_accept(d.listener, longer(NS_PER_SEC), &s));
        expect(sizeof x, berth_read(s, &x, sizeof x, longer(NS_PER_SEC)));
        assert_int_equal(x, i);
        expect(0, berth_close(i & 1 ? c : s));
        expect(0, berth_read(i & 1 ? s : c, &x, sizeof x, longer(NS_PER_SEC)));
        expect(0, berth_close(i & 1 ? s : c));
        expect(BERTH_E_BAD_HANDLE, berth_close(c)); /* stale, and stays so when its record is used again */
    }
    close_duo(&d);
}

static int start(void **state)
{
    daemon_start(&the_daemon);
    struct berth_attach_options o = {.name = "session-test", .runtime_dir = the_daemon.dir, .spin_ns = -1};
    return berth_attach(&o);
}

static int stop(void **state)
{
    int rc = berth_detach();
    if (rc)
        print_error("detach gave %d\n", rc);
    return daemon_stop_clean(state) || rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_ends),
        cmocka_unit_test(addresses_on_both_sides),
        cmocka_unit_test(a_full_fifo_says_so),
        cmocka_unit_test(what_a_burst_took_goes_back),
        cmocka_unit_test(resets_reach_the_peer),
        cmocka_unit_test(writing_to_one_that_closed),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(a_full_backlog),
        cmocka_unit_test(a_full_backlog_in_a_wait_set),
        cmocka_unit_test(spans_are_exclusive),
        cmocka_unit_test(a_signal_interrupts_a_wait),
        cmocka_unit_test(options_in_range),
        cmocka_unit_test(every_byte_in_order),
        cmocka_unit_test(many_sessions_come_and_go),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
