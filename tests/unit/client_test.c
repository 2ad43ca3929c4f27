/* client_test.c - libberth's calls against a fake daemon: handles that are none, and answers and news of
 * every kind. */
#include "fake_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/outbox.h"
#include "client/rings.h"
#include "client/slots.h"
#include "client/state.h"
#include "shm/ctlsock.h"
#include "shm/segment.h"

/* ---- without an attach, and with wrong handles ---- */

#define NOT_ATTACHED_CALLS 5
static void not_attached_body(void)
{
    struct berth_endpoint ep = at(80);
    uint64_t out;
    tell(berth_listen(&ep, NULL, &out));
    tell(berth_connect(&ep, 0, &out));
    tell(berth_listen_uri("tcp://127.0.0.1:80", NULL, &out));
    tell(berth_connect_uri("tcp://127.0.0.1:80", 0, &out));
    tell(berth_detach());
}

static void calls_without_attach(void **state)
{
    struct child c = start(not_attached_body);
    for (int i = 0; i < NOT_ATTACHED_CALLS; i++) {
        int rc = result(&c);
        check(rc == BERTH_E_NOT_ATTACHED, "call %d without attach gave %s", i, berth_error_name(rc));
    }
    finish(&c);
}

static const uint64_t foreign[] = {0,
                                   1,
                                   77,
                                   1ull << 32,
                                   5ull << 32 | 3,
                                   0x7fffffffffffffff,
                                   ~0ull,
                                   1ull << 63,
                                   1ull << 63 | 1,
                                   (1ull << 63) | 9ull << 32 | 2,
                                   0xffffffff};
#define FOREIGN (sizeof foreign / sizeof foreign[0])
#define HANDLE_CALLS 22

static void all_calls_with(uint64_t h)
{
    char buf[8];
    struct iovec v[2] = {{buf, 8}, {buf, 8}};
    struct berth_endpoint ep;
    uint64_t out;
    struct berth_event ev;
    tell(berth_read(h, buf, 8, 0));
    tell(berth_readv(h, v, 2, 0));
    tell(berth_write(h, buf, 8, 0));
    tell(berth_writev(h, v, 2, 0));
    tell(berth_read_spans(h, v, 0));
    tell(berth_read_consume(h, 0));
    tell(berth_write_spans(h, 8, v, 0));
    tell(berth_write_commit(h, 0));
    tell(berth_shutdown(h, BERTH_SHUT_WR));
    tell(berth_close(h));
    tell(berth_reset(h));
    tell(berth_local_endpoint(h, &ep));
    tell(berth_remote_endpoint(h, &ep));
    tell(berth_error(h));
    tell(berth_option_set(h, BERTH_OPT_TX_FIFO_SIZE, 65536));
    tell(berth_option_get(h, BERTH_OPT_READABLE, &out));
    tell(berth_accept(h, 0, &out));
    tell(berth_unlisten(h));
    tell(berth_listener_endpoint(h, &ep));
    berth_waitset *set = berth_waitset_create();
    if (!set)
        _exit(8);
    tell(berth_waitset_add(set, h, BERTH_IN, 1));
    tell(berth_waitset_modify(set, h, BERTH_IN, 1));
    tell(berth_waitset_remove(set, h));
    if (berth_waitset_wait(set, &ev, 1, 0) != 0)
        _exit(7);
    berth_waitset_destroy(set);
}

static void foreign_handles_body(void)
{
    tell(attach());
    for (size_t i = 0; i < FOREIGN; i++)
        all_calls_with(foreign[i]);
}

static void foreign_handles_are_errors_everywhere(void **state)
{
    struct child c = start(foreign_handles_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    for (size_t i = 0; i < FOREIGN; i++) {
        for (int call = 0; call < HANDLE_CALLS; call++) {
            int rc = result(&c);
            check(rc == BERTH_E_BAD_HANDLE, "handle %#llx, call %d: %s", (unsigned long long)foreign[i], call,
                  berth_error_name(rc));
        }
    }
    finish(&c);
}

static void second_attach_body(void)
{
    tell(attach());
    tell(attach());
}

static void a_second_attach_is_refused(void **state)
{
    struct child c = start(second_attach_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    assert_int_equal(result(&c), BERTH_E_ALREADY_ATTACHED);
    finish(&c);
}

/* ---- listen ---- */

static void listen_body(void)
{
    struct berth_endpoint ep = at(80);
    uint64_t out = 12345;
    tell(attach());
    int rc = berth_listen(&ep, NULL, &out);
    tell(rc);
    tell(rc == 0 || out == 12345); /* outputs untouched on failure */
    char buf[64];
    tell(berth_endpoint_format(&ep, buf, sizeof buf)); /* the library goes on */
}

static void listen_with(void (*change)(struct answer *a, int i), int i, int lowest, int highest)
{
    struct child c = start(listen_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    check(take(&c, CTL_LISTEN), "no LISTEN came");
    assert_int_equal(c.nfds, 1);
    struct answer a = {.len = sizeof a.listened};
    a.listened = (struct ctl_listened){.h = {.type = CTL_LISTENED, .len = sizeof a.listened, .seq = c.seq},
                                       .listener = 9,
                                       .epoch = 1,
                                       .port = 80};
    change(&a, i);
    answer(&c, &a);
    close(c.sock);
    c.sock = -1;
    int rc = result(&c);
    check(rc >= lowest && rc <= highest, "LISTENED %d: listen gave %d, %s", i, rc, berth_error_name(rc));
    check(result(&c) == 1, "LISTENED %d: a failed listen wrote its output", i);
    assert_int_equal(result(&c), 12);
    finish(&c);
}

static const int listen_codes[] = {BERTH_E_ADDRESS_IN_USE, BERTH_E_ADDRESS, BERTH_E_NO_ROUTE,
                                   BERTH_E_PERMISSION,     BERTH_E_LIMIT,   BERTH_E_NO_MEMORY};

static void refuse_listen(struct answer *a, int i)
{
    a->h.status = listen_codes[i];
}

static void spoil_listened(struct answer *a, int i)
{
    switch (i) {
    case 0:
        a->len = a->h.len = sizeof(struct ctl_header);
        break;
    case 1:
        a->h.type = CTL_DONE;
        break;
    case 2:
        a->h.seq++;
        break;
    case 3:
        a->h.status = 3;
        break;
    case 4:
        a->h.status = -99999;
        break;
    case 5:
        a->listened.listener = 0;
        break;
    case 6:
        a->listened.port = 0;
        break;
    default:
        a->len = 4;
        break;
    }
}

static void unspoiled(struct answer *a, int i)
{
}

static void listen_answers(void **state)
{
    listen_with(unspoiled, 0, 0, 0);
    for (int i = 0; i < 6; i++)
        listen_with(refuse_listen, i, listen_codes[i], listen_codes[i]);
    for (int i = 0; i < 8; i++)
        listen_with(spoil_listened, i, BERTH_E_LAST, -1);
}

static void daemon_gone_body(void)
{
    struct berth_endpoint ep = at(80), there = at(8080);
    uint64_t out;
    tell(attach());
    usleep(50000);
    tell(berth_listen(&ep, NULL, &out));
    int rc = berth_connect(&there, NS_PER_SEC, &out);
    tell(rc);
    tell(berth_detach());
}

static void a_daemon_that_goes_away(void **state)
{
    struct child c = start(daemon_gone_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    close(c.sock);
    c.sock = -1;
    assert_int_equal(result(&c), BERTH_E_DAEMON_GONE);
    assert_int_equal(result(&c), BERTH_E_DAEMON_GONE); /* it listens there, but nobody can introduce us */
    assert_int_equal(result(&c), 0);
    finish(&c);
}

/* ---- connect ---- */

static void connect_body(void)
{
    struct berth_endpoint ep = at(8080), none = at(8081);
    uint64_t out = 12345;
    tell(attach());
    int rc = berth_connect(&none, 0, &out);
    /* nobody is asked: no message goes to the daemon */
    tell(rc == BERTH_E_NO_ROUTE || rc == BERTH_E_REFUSED);
    rc = berth_connect(&ep, 2 * NS_PER_SEC, &out);
    tell(rc);
    tell(rc == 0 || out == 12345);
}

static void connect_with(void (*change)(struct answer *a, int i), int i, int lowest, int highest)
{
    int token[2];
    assert_int_equal(pipe2(token, O_CLOEXEC | O_NONBLOCK), 0);
    struct child c = start(connect_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    assert_int_equal(result(&c), 1);
    bool introduced = false;
    int segment = -1;
    uint32_t facing = 0;
    while (!introduced) { /* it may want ports first */
        while (c.nfds)
            close(c.fds[--c.nfds]);
        int n = ctl_recv(c.sock, c.bytes, sizeof c.bytes, c.fds, &c.nfds, 0);
        check(n > 0, "no INTRODUCE came");
        struct ctl_header *h = (void *)c.bytes;
        c.seq = h->seq;
        if (h->type == CTL_PORTS) {
            struct answer a = {.len = sizeof a.ports};
            a.ports = *(struct ctl_ports *)(void *)c.bytes;
            a.h = (struct ctl_header){.type = CTL_PORTS_ARE, .len = sizeof a.ports, .seq = c.seq};
            a.ports.first = 20000;
            a.ports.count = 16;
            answer(&c, &a);
        } else if (h->type == CTL_OUTBOX) { /* first of all: the answer of a listener could be quicker */
            assert_int_equal(c.nfds, 1);
            assert_int_equal(segment, -1);
            segment = c.fds[0];
            facing = ((struct ctl_outbox *)(void *)c.bytes)->facing_app;
            c.nfds = 0;
        } else if (h->type == CTL_INTRODUCE) {
            introduced = true;
        }
    }
    struct ctl_introduce *m = (void *)c.bytes;
    assert_int_equal(m->listener, LISTENER);
    assert_int_equal(outbox_worker(m->outbox), WORKER);
    assert_int_equal(c.nfds, 0);
    assert_int_equal(facing, SERVER_APP);
    const void *map;
    uint64_t size;
    const char *why = "";
    check(segment_open(segment, SEGMENT_MIN, SEGMENT_MAX, false, &map, &size, &why) == 0,
          "outbox segment: %s", why);
    const struct segment_header *sh = map;
    assert_int_equal(sh->magic, ABI_MAGIC_OUTBOX);
    assert_int_equal(sh->outbox, m->outbox);
    assert_int_equal(sh->facing_app, SERVER_APP);
    assert_int_equal(sh->size, size);
    segment_unmap(map, size);
    close(segment);
    struct answer a = {.len = sizeof a.introduced, .fds = {token[1]}, .nfds = 1};
    a.introduced =
        (struct ctl_introduced){.h = {.type = CTL_INTRODUCED, .len = sizeof a.introduced, .seq = c.seq},
                                .listener = LISTENER,
                                .epoch = 1,
                                .app = SERVER_APP,
                                .backlog = 16};
    change(&a, i);
    answer(&c, &a);
    if (lowest != 0) {
        close(c.sock);
        c.sock = -1;
    } else { /* ports may be asked for only now */
        struct pollfd p[2] = {{.fd = c.sock, .events = POLLIN}, {.fd = c.results, .events = POLLIN}};
        while (poll(p, 2, 5000) > 0 && !(p[1].revents & POLLIN) && take(&c, CTL_PORTS)) {
            struct answer ports = {.len = sizeof ports.ports};
            ports.ports = *(struct ctl_ports *)(void *)c.bytes;
            ports.h = (struct ctl_header){.type = CTL_PORTS_ARE, .len = sizeof ports.ports, .seq = c.seq};
            ports.ports.first = 20000;
            ports.ports.count = 16;
            answer(&c, &ports);
        }
    }
    int rc = result(&c);
    check(rc >= lowest && rc <= highest, "INTRODUCED %d: connect gave %d, %s", i, rc, berth_error_name(rc));
    check(result(&c) == 1, "INTRODUCED %d: a failed connect wrote its output", i);
    if (rc == 0) {
        struct token t;
        assert_int_equal(read(token[0], &t, sizeof t), sizeof t);
        assert_int_equal(t.magic, TOKEN_MAGIC);
        assert_int_equal(t.listener, LISTENER);
    }
    close(token[0]);
    close(token[1]);
    finish(&c);
}

static const int connect_codes[] = {BERTH_E_REFUSED, BERTH_E_PERMISSION, BERTH_E_LIMIT, BERTH_E_NO_MEMORY};

static void refuse_connect(struct answer *a, int i)
{
    a->h.status = connect_codes[i];
    a->nfds = 0;
}

static void spoil_introduced(struct answer *a, int i)
{
    switch (i) {
    case 0:
        a->nfds = 0;
        break;
    case 1:
        a->len = a->h.len = sizeof(struct ctl_header);
        break;
    case 2:
        a->h.type = CTL_DONE;
        break;
    case 3:
        a->h.status = 7;
        break;
    case 4:
        a->len = 0;
        break;
    default:
        a->h.seq += 3;
        break;
    }
}

static void connect_answers(void **state)
{
    connect_with(unspoiled, 0, 0, 0);
    for (int i = 0; i < 4; i++)
        connect_with(refuse_connect, i, connect_codes[i], connect_codes[i]);
    for (int i = 0; i < 6; i++)
        connect_with(spoil_introduced, i, BERTH_E_LAST, -1);
}

/* ---- what comes unasked ---- */

static void pushes_body(void)
{
    struct berth_event ev;
    tell(attach());
    berth_waitset *set = berth_waitset_create();
    if (!set)
        _exit(8);
    int64_t end = clock_now() + longer(20 * NS_PER_SEC);
    struct berth_endpoint ep = at(80);
    uint64_t l;
    int rc = 0;
    while (rc != BERTH_E_DAEMON_GONE && clock_now() < end) {
        (void)berth_waitset_wait(set, &ev, 1, NS_PER_MS);
        rc = berth_listen(&ep, NULL, &l); /* answered LIMIT in between, until the daemon goes */
    }
    tell(rc);
    tell(descriptors() < 100);
    berth_waitset_destroy(set);
    tell(berth_detach());
}

/* ---- a reader that never gives back what was retired ---- */

#define KEPT_LIMIT (32u << 20)
#define KEPT_CYCLES 7

static void retiring_body(void)
{
    tell(attach());
    int fd = -1;
    uint64_t retired = 0;
    C->outbox_limit = KEPT_LIMIT;
    struct own_box *box = outbox_create(SERVER_APP, &fd);
    if (!box)
        _exit(9);
    close(fd);
    struct outbox_rec *r = outbox_rec_of(box);
    for (int i = 0; i < KEPT_CYCLES; i++) { /* a burst, and calm after it */
        uint32_t rec;
        if (outbox_ring_alloc(box, 4u << 20, NONE, &rec) != 0)
            _exit(10);
        outbox_ring_free(box, rec);
        uint64_t before = r->bytes;
        r->grown_at = 0;
        (void)usleep(1010000);
        outbox_shrink();
        retired += before - r->bytes;
    }
    tell((long)(retired >> 10));
    tell((long)(r->bytes >> 10));
}

static void what_a_reader_can_pin_is_bounded(void **state)
{
    struct child c = start(retiring_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    int retired = result(&c), bytes = result(&c);
    check(retired > 0, "nothing was given back at all");
    check(retired <= (int)(KEPT_LIMIT >> 10), "%d KB were retired, and a reader may have kept them all",
          retired);
    check(bytes <= (int)(KEPT_LIMIT >> 10), "%d KB are in use", bytes);
    finish(&c);
}

/* ---- two that meet a worker at the same time ---- */

#define MEETINGS 200u

struct meeting {
    struct own_box *box;
    uint32_t channel[MEETINGS];
    uint32_t *here;
};

static void *meets(void *arg)
{
    struct meeting *m = arg;
    for (uint32_t i = 0; i < MEETINGS; i++) {
        (void)fetch_add_sc(m->here, 1u);
        while (load_sc(m->here) < 2 * (i + 1)) /* to the same moment, which a sleep is not */
            ;
        if (outbox_channel_alloc(m->box, 1000 + i, &m->channel[i]) != 0)
            _exit(11);
    }
    return NULL;
}

static void meeting_body(void)
{
    tell(attach());
    int fd = -1, twice = 0;
    struct own_box *box = outbox_create(SERVER_APP, &fd);
    if (!box)
        _exit(9);
    close(fd);
    uint32_t here = 0;
    pthread_t t;
    struct meeting one = {.box = box, .here = &here}, other = one;
    if (pthread_create(&t, NULL, meets, &one) != 0)
        _exit(10);
    meets(&other);
    pthread_join(t, NULL);
    for (uint32_t i = 0; i < MEETINGS; i++)
        twice += one.channel[i] != other.channel[i];
    tell(twice);
    tell(outbox_rec_channels(outbox_rec_of(box)));
}

static void a_worker_is_faced_by_one_channel(void **state)
{
    struct child c = start(meeting_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    int twice = result(&c);
    check(twice == 0, "%d of %u workers were given two channels", twice, MEETINGS);
    assert_int_equal(result(&c), MEETINGS);
    finish(&c);
}

/* ---- handlers of forks that libc has twice ---- */

int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso);

/* As a child finds it whose parent forked while another thread was in here. */
int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    for (int i = 0; i < 2; i++) {
        if (__register_atfork(prepare, parent, child, NULL) != 0)
            return ENOMEM;
    }
    return 0;
}

static void forks_body(void)
{
    tell(attach());
    alarm((unsigned)(longer(10 * NS_PER_SEC) / NS_PER_SEC));
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(10);
            pid = fork();
            _exit(pid < 0 || (pid > 0 && waitpid(pid, NULL, 0) != pid));
        }
        int status = -1;
        waitpid(pid, &status, 0);
        tell(status);
    }
}

static void handlers_of_forks_may_be_there_twice(void **state)
{
    struct child c = start(forks_body);
    welcome_child(&c);
    for (int i = 0; i < 3; i++)
        assert_int_equal(result(&c), 0);
    finish(&c);
}

/* ---- an outbox that its maker has given back, while a child has it mapped ---- */

static void given_back_body(void)
{
    tell(attach());
    int fd = -1, other_fd = -1;
    struct own_box *box = outbox_create(SERVER_APP, &fd);
    if (!box)
        _exit(9);
    outbox_bury(box);
    outbox_record_free(box->index); /* as the parent does, which made it; we are the child */
    struct own_box *other = outbox_create(SERVER_APP, &other_fd);
    if (!other)
        _exit(10);
    close(fd);
    close(other_fd);
    tell(outbox_by_index(box->index) == NULL);
    C->own_graves = box->next;
    outbox_unmap(box);
    tell(outbox_by_index(other->index) == other);
    tell(outbox_find(SERVER_APP) == other);
    tell(members_has(&outbox_rec_of(other)->mapped, C->member));
}

static void an_outbox_given_back_is_not_taken_for_another(void **state)
{
    all_is_true(given_back_body, 4);
}

static int any_descriptor(uint64_t r)
{
    int fd;
    void *map;
    int fds[2];
    switch (r % 5) {
    case 0:
        return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    case 3:
        assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
        close(fds[0]);
        return fds[1];
    case 1:
        return memfd_of(PAGE_BYTES, 0, 0, false);
    case 2:
        return memfd_of(WORKER_PAGE_BYTES, ABI_MAGIC_PAGE, ABI_VERSION, true);
    default:
        assert_int_equal(segment_create("push", SEGMENT_MIN, &fd, &map), 0);
        *(struct segment_header *)map = (struct segment_header){.magic = ABI_MAGIC_OUTBOX,
                                                                .version = ABI_VERSION,
                                                                .lines_per_slot = 2,
                                                                .outbox = outbox_handle_make(8, 1),
                                                                .facing_app = APP,
                                                                .size = SEGMENT_MIN,
                                                                .owner_worker = 8,
                                                                .chunks = (uint32_t)(r >> 32)};
        munmap(map, SEGMENT_MIN);
        return fd;
    }
}

static void push_random(struct child *c, uint64_t *seed)
{
    static const uint16_t types[] = {
        CTL_PEER,   CTL_PEER,  CTL_DEAD,   CTL_MEMBER_DEAD, CTL_RETIRED,   CTL_LISTENER_GONE, CTL_EVICTED,
        CTL_MOVING, CTL_MOVED, CTL_RECALL, CTL_SEGMENT_IS,  CTL_OUTBOX_IS, CTL_WELCOME,       CTL_LISTENED,
        0,          999};
    uint64_t r = next_random(seed);
    union {
        struct ctl_header h;
        struct ctl_outbox_is is;
        uint8_t bytes[128];
    } m;
    for (size_t i = 0; i < sizeof m; i += 8) {
        uint64_t x = r & 1 ? next_random(seed) : next_random(seed) & 15;
        memcpy(m.bytes + i, &x, 8);
    }
    size_t len = r >> 8 & 3 ? sizeof m.is : 1 + (r >> 10) % sizeof m; /* none of 0: that is an end */
    m.h = (struct ctl_header){.type = types[(r >> 20) % (sizeof types / sizeof types[0])],
                              .len = (uint16_t)len,
                              .status = r >> 30 & 7 ? 0 : -(int)(r >> 34 & 31)};
    if (m.h.type == CTL_EVICTED)
        m.h.status = 0; /* else it were the last one */
    if (m.h.type == CTL_PEER || m.h.type == CTL_OUTBOX_IS) {
        m.is.outbox = outbox_handle_make(8, 1 + (uint32_t)(r >> 40 & 3));
        m.is.worker = 8;
        m.is.dead = r >> 45 & 1;
    }
    int fds[CTL_FDS_MAX], n = m.h.type == CTL_PEER && (r >> 50 & 3) ? 3 : (int)(r >> 52 & 3);
    for (int i = 0; i < n; i++)
        fds[i] = any_descriptor(m.h.type == CTL_PEER && (r >> 54 & 3) ? (i == 0   ? 3 | r
                                                                         : i == 1 ? 2
                                                                                  : 0)
                                                                      : next_random(seed));
    (void)ctl_send(c->sock, m.bytes, len, fds, n, MSG_DONTWAIT);
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

static void random_pushes_are_survived(void **state)
{
    const char *given = getenv("BERTH_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)clock_now();
    print_message("BERTH_TEST_SEED=%llu\n", (unsigned long long)seed);
    struct child c = start(pushes_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    for (int i = 0; i < 400; i++) {
        for (int k = 0; k < 8; k++)
            push_random(&c, &seed);
        check(take(&c, CTL_LISTEN), "the library gave up after random messages, round %d", i);
        struct answer a = {.len = sizeof a.listened};
        a.h = (struct ctl_header){
            .type = CTL_LISTENED, .len = sizeof a.listened, .seq = c.seq, .status = BERTH_E_LIMIT};
        answer(&c, &a);
    }
    close(c.sock);
    c.sock = -1;
    assert_int_equal(result(&c), BERTH_E_DAEMON_GONE);
    check(result(&c) == 1, "random messages left descriptors behind");
    assert_int_equal(result(&c), 0);
    finish(&c);
}

/* The daemon closes what it has evicted when it comes to it. */
static void who_is_evicted_knows_before_the_end(void **state)
{
    struct child c = start(pushes_body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    assert_true(take(&c, CTL_LISTEN));
    struct ctl_header m = {.type = CTL_EVICTED, .len = sizeof m, .status = BERTH_E_UNKNOWN_NAMESPACE};
    assert_int_equal(ctl_send(c.sock, &m, sizeof m, NULL, 0, 0), 0);
    assert_int_equal(result(&c), BERTH_E_DAEMON_GONE);
    assert_int_equal(result(&c), 1);
    assert_int_equal(result(&c), 0);
    finish(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_without_attach),
        cmocka_unit_test(foreign_handles_are_errors_everywhere),
        cmocka_unit_test(a_second_attach_is_refused),
        cmocka_unit_test(listen_answers),
        cmocka_unit_test(a_daemon_that_goes_away),
        cmocka_unit_test(connect_answers),
        cmocka_unit_test(random_pushes_are_survived),
        cmocka_unit_test(who_is_evicted_knows_before_the_end),
        cmocka_unit_test(what_a_reader_can_pin_is_bounded),
        cmocka_unit_test(a_worker_is_faced_by_one_channel),
        cmocka_unit_test(an_outbox_given_back_is_not_taken_for_another),
        cmocka_unit_test(handlers_of_forks_may_be_there_twice),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
