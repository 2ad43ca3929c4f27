/* attach_test.c - libberth attaches to a fake daemon, which answers well, wrongly, half, late or never. */
#include "fake_daemon.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/client.h"
#include "client/control.h"
#include "client/news.h"
#include "shm/segment.h"

static void attach_and_tell(void)
{
    int before = descriptors();
    int rc = attach();
    tell(rc);
    tell(rc == 0 ? 0 : descriptors() - before); /* a failed attach leaves nothing open */
    if (rc == 0)
        (void)berth_detach();
}

static void what_hello_says(void **state)
{
    struct child c = start(attach_and_tell);
    accept_child(&c);
    assert_true(take(&c, CTL_HELLO));
    struct ctl_hello *m = (void *)c.bytes;
    assert_int_equal(m->h.len, sizeof *m);
    assert_int_equal(m->magic, CTL_MAGIC);
    assert_int_equal(m->version, CTL_VERSION);
    assert_string_equal(m->name, "child");
    assert_int_not_equal(m->h.seq, 0);
    assert_int_equal(c.nfds, 2);
    const void *map;
    uint64_t size;
    const char *why = "";
    check(segment_open(c.fds[1], WORKER_PAGE_BYTES, WORKER_PAGE_BYTES, false, &map, &size, &why) == 0,
          "worker page: %s", why);
    segment_unmap(map, size);
    struct answer a = good_welcome(&c);
    answer(&c, &a);
    assert_int_equal(result(&c), 0);
    assert_int_equal(result(&c), 0);
    if (take(&c, CTL_DETACH)) {
        struct answer done = {.h = {.type = CTL_DONE, .len = sizeof done.h, .seq = c.seq},
                              .len = sizeof done.h};
        answer(&c, &done);
    }
    finish(&c);
}

static void attach_and_look(void)
{
    tell(control_news());
    (void)attach();
    tell(control_news());
    control_poll();
    tell(control_news());
    (void)berth_detach();
}

/* Before it has a number, or with its parent's, a worker looks at another word than its own. Where they stand
 * alike by chance it would take for old what was sent to it first. */
static void a_new_worker_looks_once(void **state)
{
    (void)state;
    struct child c = start(attach_and_look);
    assert_int_equal(result(&c), 0);
    welcome_child(&c);
    assert_int_equal(result(&c), 1);
    assert_int_equal(result(&c), 0);
    if (take(&c, CTL_DETACH)) {
        struct answer done = {.h = {.type = CTL_DONE, .len = sizeof done.h, .seq = c.seq},
                              .len = sizeof done.h};
        answer(&c, &done);
    }
    finish(&c);
}

static struct ctl_listener numbered(uint32_t number)
{
    return (struct ctl_listener){.h = {.type = CTL_BACKLOG, .len = sizeof(struct ctl_listener)},
                                 .backlog = number};
}

static void *sleep_in_poll(void *fd)
{
    struct pollfd p = {.fd = *(int *)fd, .events = POLLIN};
    (void)client_poll(NULL, 0, &p, 1, -1, NULL, NULL);
    return NULL;
}

static void send_more_than_goes(void)
{
    pthread_t thread;
    int never[2];
    uint32_t n = 0;
    if (attach() != 0 || pipe(never) != 0 || pthread_create(&thread, NULL, sleep_in_poll, &never[0]) != 0)
        _exit(1);
    (void)usleep(50000); /* it sleeps */
    do {
        struct ctl_listener m = numbered(++n);
        if (control_send(&m, NULL, 0) != 0)
            _exit(1);
    } while (!control_unsent());
    tell(n);
    for (int64_t end = clock_now() + longer(5) * NS_PER_SEC; control_unsent() && clock_now() < end;)
        (void)usleep(1000); /* this thread does nothing more for it */
    _exit(control_unsent());
}

/* A daemon that does not read: what finds no room is kept, and sent by whoever sleeps, though its sender
 * never calls again. */
static void what_was_kept_is_sent_by_a_sleeper(void **state)
{
    (void)state;
    struct child c = start(send_more_than_goes);
    welcome_child(&c);
    uint32_t last = (uint32_t)result(&c), seen = 0;
    while (seen < last && take(&c, CTL_BACKLOG))
        seen = ((struct ctl_listener *)(void *)c.bytes)->backlog;
    assert_int_equal(seen, last);
    finish(&c);
}

static void attach_with(void (*change)(struct answer *a, int i), int i, int lowest, int highest,
                        const char *what)
{
    struct child c = start(attach_and_tell);
    accept_child(&c);
    assert_true(take(&c, CTL_HELLO));
    struct answer a = good_welcome(&c);
    change(&a, i);
    answer(&c, &a);
    close(c.sock); /* whatever it waits for now will not come */
    c.sock = -1;
    int rc = result(&c), left = result(&c);
    check(rc >= lowest && rc <= highest, "%s %d: attach gave %d, %s", what, i, rc, berth_error_name(rc));
    check(left <= 0, "%s %d: the failed attach left %d descriptors", what, i, left);
    finish(&c);
}

static const int attach_codes[] = {BERTH_E_VERSION, BERTH_E_UNKNOWN_NAMESPACE, BERTH_E_WRONG_SECRET,
                                   BERTH_E_LIMIT,   BERTH_E_NO_MEMORY,         BERTH_E_PERMISSION,
                                   BERTH_E_INVALID};

static void refuse(struct answer *a, int i)
{
    a->welcome.h.status = attach_codes[i];
    a->nfds = 0;
}

static void each_refusal_has_its_code(void **state)
{
    for (int i = 0; i < (int)(sizeof attach_codes / sizeof attach_codes[0]); i++)
        attach_with(refuse, i, attach_codes[i], attach_codes[i], "refusal");
}

static void spoil(struct answer *a, int i)
{
    switch (i) {
    case 0:
        a->nfds = 0;
        break; /* no directory */
    case 1:
        a->len = a->h.len = sizeof(struct ctl_header);
        break; /* truncated, and says so */
    case 2:
        a->len = sizeof(struct ctl_header);
        break; /* truncated */
    case 3:
        a->len = sizeof(struct ctl_header) / 2;
        break;
    case 4:
        a->len -= 8;
        break;
    case 5:
        a->h.len += 8;
        break; /* says more than comes */
    case 6:
        a->h.type = CTL_DONE;
        break; /* another reply */
    case 7:
        a->h.type = 999;
        break;
    case 8:
        a->h.seq += 1;
        break; /* to another question */
    case 9:
        a->h.seq = 0;
        break;
    case 10:
        a->h.status = 5;
        break; /* no code */
    case 11:
        a->h.status = -4711;
        break;
    case 12:
        a->welcome.version = CTL_VERSION + 1;
        break;
    case 13:
        a->welcome.worker = 0;
        break;
    case 14:
        a->fds[0] = listening;
        break; /* not a segment */
    case 15:
        a->fds[0] = memfd_of(DIRECTORY_BYTES, 0, 0, false);
        break;
    case 16:
        a->fds[0] = memfd_of(PAGE_BYTES, ABI_MAGIC_DIR, ABI_VERSION, true);
        break;
    case 17:
        a->fds[0] = memfd_of(DIRECTORY_BYTES, ABI_MAGIC_PAGE, ABI_VERSION, true);
        break;
    case 18:
        a->fds[0] = memfd_of(DIRECTORY_BYTES, ABI_MAGIC_DIR, ABI_VERSION + 1, true);
        break;
    case 19:
        a->nfds = 1;
        break; /* no bell */
    default:
        a->len = 0;
        break; /* nothing at all */
    }
}

static void spoiled_welcomes_are_errors(void **state)
{
    for (int i = 0; i <= 20; i++)
        attach_with(spoil, i, BERTH_E_LAST, -1, "spoiled WELCOME");
}

static void a_daemon_that_hangs_up(void **state)
{
    struct child c = start(attach_and_tell);
    accept_child(&c);
    assert_true(take(&c, CTL_HELLO));
    close(c.sock);
    c.sock = -1;
    assert_int_equal(result(&c), BERTH_E_DAEMON_GONE);
    assert_true(result(&c) <= 0);
    finish(&c);
}

static void a_daemon_that_says_nothing(void **state)
{
    struct child c = start(attach_and_tell);
    accept_child(&c);
    int64_t begin = clock_now();
    int rc = result(&c);
    int64_t took = clock_now() - begin;
    check(rc == BERTH_E_TIMED_OUT || rc == BERTH_E_DAEMON_GONE || rc == BERTH_E_NO_DAEMON, "attach gave %s",
          berth_error_name(rc));
    check(took > 3 * NS_PER_SEC && took < longer(8 * NS_PER_SEC), "attach waited %lld ms",
          (long long)(took / NS_PER_MS));
    assert_true(result(&c) <= 0);
    finish(&c);
}

static void no_daemon_body(void)
{
    static const char *const dirs[] = {"/nonexistent/berth", "/"};
    for (int i = 0; i < 2; i++) {
        struct berth_attach_options o = {.runtime_dir = dirs[i], .spin_ns = -1};
        tell(berth_attach(&o));
    }
    char longer[200];
    memset(longer, 'x', sizeof longer);
    longer[0] = '/';
    longer[199] = 0;
    struct berth_attach_options o = {.runtime_dir = longer, .spin_ns = -1};
    tell(berth_attach(&o));
}

static void no_daemon(void **state)
{
    struct child c = start(no_daemon_body);
    assert_int_equal(result(&c), BERTH_E_NO_DAEMON);
    assert_int_equal(result(&c), BERTH_E_NO_DAEMON);
    assert_int_equal(result(&c), BERTH_E_INVALID);
    finish(&c);
}

static void bad_options_body(void)
{
    char name[80], secret[200];
    memset(name, 'n', sizeof name);
    memset(secret, 's', sizeof secret);
    name[79] = secret[199] = 0;
    struct berth_attach_options bad[] = {
        {.name = ""},
        {.name = name},
        {.ns = name},
        {.secret = secret},
        {.flags = 1u << 9},
        {.rx_fifo_size = 4095},
        {.rx_fifo_size = (64u << 20) + 1},
        {.tx_fifo_size = 1},
        {.segment_size = 4096},
        {.segment_size = 1ull << 40},
        {.spin_ns = 1000001},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bad[i].runtime_dir = dir;
        tell(berth_attach(&bad[i]));
    }
}

static void bad_options(void **state)
{
    struct child c = start(bad_options_body);
    for (int i = 0; i < 11; i++) {
        int rc = result(&c);
        check(rc == BERTH_E_INVALID, "bad option %d gave %s", i, berth_error_name(rc));
    }
    finish(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_hello_says),
        cmocka_unit_test(a_new_worker_looks_once),
        cmocka_unit_test(what_was_kept_is_sent_by_a_sleeper),
        cmocka_unit_test(each_refusal_has_its_code),
        cmocka_unit_test(spoiled_welcomes_are_errors),
        cmocka_unit_test(a_daemon_that_hangs_up),
        cmocka_unit_test(a_daemon_that_says_nothing),
        cmocka_unit_test(no_daemon),
        cmocka_unit_test(bad_options),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
