/* daemon_test.c - the daemon against a fake app that asks properly: each answer, and each error code that the
 * daemon can give. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "berth/error.h"
#include "expect.h"
#include "fake_app.h"
#include "session/directory.h"
#include "shm/ctlsock.h"

static void hello_versions_and_options(void **state)
{
    struct fake_app a;
    struct ctl_hello m;
    fake_connect(&a, &the_daemon);
    fake_hello_fill(&m, "app", NULL, NULL, CTL_SCOPE_LOCAL);
    m.version = CTL_VERSION + 1;
    expect(BERTH_E_VERSION, fake_hello(&a, &m));
    fake_hello_fill(&m, "", NULL, NULL, CTL_SCOPE_LOCAL);
    expect(BERTH_E_INVALID, fake_hello(&a, &m));
    fake_hello_fill(&m, "app", NULL, NULL, 1u << 20);
    expect(BERTH_E_INVALID, fake_hello(&a, &m));
    fake_hello_fill(&m, "app", "nowhere", NULL, CTL_SCOPE_LOCAL);
    expect(BERTH_E_UNKNOWN_NAMESPACE, fake_hello(&a, &m));
    fake_hello_fill(&m, "app", NULL, NULL, CTL_SCOPE_LOCAL); /* after all that the connection still serves */
    expect(0, fake_hello(&a, &m));
    assert_string_equal(a.in.welcome.name, "app");
    assert_string_equal(a.in.welcome.ns, "default");
    assert_int_equal(a.in.welcome.uid, getuid());
    assert_int_equal(a.in.welcome.daemon_pid, the_daemon.pid);
    expect(BERTH_E_ALREADY_ATTACHED, fake_hello(&a, &m));
    expect(0, fake_status(&a));
    fake_close(&a);
}

static void who_is_not_attached_can_do_nothing(void **state)
{
    struct fake_app a;
    struct ctl_ports ports = {.count = 1};
    struct ctl_header detach = {0};
    fake_connect(&a, &the_daemon);
    expect(BERTH_E_NOT_ATTACHED, fake_listen(&a, "127.0.0.1", 5000, 0, NULL));
    expect(BERTH_E_NOT_ATTACHED, fake_request(&a, CTL_PORTS, &ports, sizeof ports, NULL, 0));
    expect(BERTH_E_NOT_ATTACHED, fake_request(&a, CTL_DETACH, &detach, sizeof detach, NULL, 0));
    expect(0, fake_status(&a));
    fake_close(&a);
}

static void detach_and_attach_again(void **state)
{
    struct fake_app a, b;
    struct ctl_header detach = {0};
    struct ctl_hello m;
    fake_attach(&a, &the_daemon, "again");
    expect(0, fake_listen(&a, "127.0.0.1", 5100, 0, NULL));
    expect(0, fake_request(&a, CTL_DETACH, &detach, sizeof detach, NULL, 0));
    detach = (struct ctl_header){0};
    expect(BERTH_E_NOT_ATTACHED, fake_request(&a, CTL_DETACH, &detach, sizeof detach, NULL, 0));
    fake_attach(&b, &the_daemon, "other");
    expect(0, fake_listen(&b, "127.0.0.1", 5100, 0, NULL)); /* detach gave it up */
    fake_hello_fill(&m, "again", NULL, NULL, CTL_SCOPE_LOCAL);
    expect(0, fake_hello(&a, &m));
    fake_close(&a);
    fake_close(&b);
}

static void namespaces_and_secrets(void **state)
{
    struct fake_app a, b;
    struct ctl_hello m;
    fake_connect(&a, &the_daemon);
    expect(0, fake_ns(&a, CTL_NS_ADD, "blue", "sesame"));
    expect(BERTH_E_BUSY, fake_ns(&a, CTL_NS_ADD, "blue", "sesame"));
    expect(BERTH_E_INVALID, fake_ns(&a, CTL_NS_ADD, "", NULL));
    expect(BERTH_E_UNKNOWN_NAMESPACE, fake_ns(&a, CTL_NS_DEL, "green", NULL));
    static const char *const wrong[] = {"", "sesam", "sesame ", "Sesame"};
    for (size_t i = 0; i < 4; i++) {
        fake_connect(&b, &the_daemon);
        fake_hello_fill(&m, "app", "blue", wrong[i], CTL_SCOPE_LOCAL);
        expect(BERTH_E_WRONG_SECRET, fake_hello(&b, &m));
        fake_close(&b);
    }
    fake_connect(&b, &the_daemon);
    fake_hello_fill(&m, "app", "blue", "sesame", CTL_SCOPE_LOCAL);
    expect(0, fake_hello(&b, &m));
    assert_string_equal(b.in.welcome.ns, "blue");
    expect(0, fake_ns(&a, CTL_NS_DEL, "blue", NULL)); /* its apps are evicted */
    assert_true(fake_ended(&b));
    fake_close(&b);
    fake_connect(&b, &the_daemon);
    expect(BERTH_E_UNKNOWN_NAMESPACE, fake_hello(&b, &m));
    fake_close(&a);
    fake_close(&b);
}

static void namespaces_do_not_meet(void **state)
{
    struct fake_app a, b;
    struct ctl_hello m;
    outbox_handle outbox;
    fake_attach(&a, &the_daemon, "default-app");
    expect(0, fake_ns(&a, CTL_NS_ADD, "red", NULL));
    fake_connect(&b, &the_daemon);
    fake_hello_fill(&m, "red-app", "red", NULL, CTL_SCOPE_LOCAL);
    expect(0, fake_hello(&b, &m));
    expect(0, fake_listen(&a, "127.0.0.1", 5200, 0, NULL));
    uint32_t listener = a.in.listened.listener;
    expect(0, fake_listen(&b, "127.0.0.1", 5200, 0, NULL)); /* a table of its own */
    expect(BERTH_E_REFUSED, fake_introduce(&b, listener, 1, a.app, &outbox));
    expect(0, fake_ns(&a, CTL_NS_DEL, "red", NULL));
    fake_close(&a);
    fake_close(&b);
}

static void endpoints_belong_to_one_app(void **state)
{
    struct fake_app a, b;
    fake_attach(&a, &the_daemon, "first");
    fake_attach(&b, &the_daemon, "second");
    expect(0, fake_listen(&a, "127.0.0.1", 5300, 0, NULL));
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "127.0.0.1", 5300, 0, NULL));
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "0.0.0.0", 5300, 0, NULL));
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "::", 5300, 0, NULL));
    expect(0, fake_listen(&b, "::", 5300, CTL_LISTEN_V6ONLY, NULL));
    expect(0, fake_listen(&b, "127.0.0.1", 5301, CTL_LISTEN_REUSEPORT, NULL));
    expect(0, fake_listen(&a, "127.0.0.1", 5301, CTL_LISTEN_REUSEPORT, NULL));
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&a, "127.0.0.1", 5301, 0, NULL));
    expect(BERTH_E_ADDRESS, fake_listen(&a, "203.0.113.7", 5302, 0, NULL));
    expect(0, fake_listen(&a, "127.0.0.1", 0, 0, NULL));
    uint16_t chosen = a.in.listened.port;
    assert_true(chosen != 0);
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "127.0.0.1", chosen, 0, NULL));
    struct ctl_listen strange = {.port = 5303, .proto = 17};
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    expect(BERTH_E_INVALID, fake_request(&a, CTL_LISTEN, &strange, sizeof strange, &p[1], 1));
    close(p[0]);
    close(p[1]);
    fake_close(&a);
    expect_soon(0, fake_listen(&b, "127.0.0.1", 5300, 0, NULL));
    fake_close(&b);
}

static void global_scope_has_no_route(void **state)
{
    struct fake_app a;
    struct ctl_hello m;
    outbox_handle outbox;
    fake_connect(&a, &the_daemon);
    fake_hello_fill(&m, "global", NULL, NULL, CTL_SCOPE_GLOBAL);
    expect(0, fake_hello(&a, &m));
    expect(BERTH_E_NO_ROUTE, fake_listen(&a, "127.0.0.1", 5400, 0, NULL));
    expect(BERTH_E_NO_ROUTE, fake_introduce(&a, 1, 1, 1, &outbox));
    fake_close(&a);
}

static void directory_follows_the_listeners(void **state)
{
    struct fake_app a, b;
    fake_attach(&b, &the_daemon, "reader");
    int dir = fcntl(b.in_fds[0], F_DUPFD_CLOEXEC, 3);
    fake_attach(&a, &the_daemon, "listener");
    assert_false(in_directory(dir, "127.0.0.1", 5500));
    expect(0, fake_listen(&a, "127.0.0.1", 5500, 0, NULL));
    struct ctl_listener un = {.h = {.type = CTL_UNLISTEN, .len = sizeof un},
                              .listener = a.in.listened.listener};
    assert_true(in_directory(dir, "127.0.0.1", 5500));
    assert_false(in_directory(dir, "127.0.0.1", 5501));
    struct ctl_listener foreign = un;
    /* not the owner: nothing happens */
    assert_int_equal(fake_send(&b, &foreign, sizeof foreign, NULL, 0), 0);
    foreign.h.type = CTL_SHUT;
    assert_int_equal(fake_send(&b, &foreign, sizeof foreign, NULL, 0), 0);
    expect(0, fake_status(&b));
    assert_true(in_directory(dir, "127.0.0.1", 5500));
    assert_int_equal(fake_send(&a, &un, sizeof un, NULL, 0), 0);
    expect(0, fake_status(&a));
    assert_false(in_directory(dir, "127.0.0.1", 5500));
    expect(0, fake_listen(&a, "0.0.0.0", 5500, 0, NULL));
    assert_true(in_directory(dir, "127.0.0.9", 5500));
    assert_false(in_directory(dir, "93.184.216.34", 5500));
    fake_close(&a); /* as a kill would */
    expect_soon(0, in_directory(dir, "127.0.0.9", 5500));
    close(dir);
    fake_close(&b);
}

struct pair {
    struct fake_app server, client;
    uint32_t listener;
    outbox_handle outbox; /* the client's, facing the server */
    int queue;            /* read end */
};

static void introduce(struct pair *p, uint16_t port)
{
    fake_attach(&p->server, &the_daemon, "server");
    fake_attach(&p->client, &the_daemon, "client");
    expect(0, fake_listen(&p->server, "127.0.0.1", port, 0, &p->queue));
    p->listener = p->server.in.listened.listener;
    expect(0, fake_introduce(&p->client, p->listener, 1, p->server.app, &p->outbox));
}

static void pair_close(struct pair *p)
{
    close(p->queue);
    fake_close(&p->server);
    fake_close(&p->client);
}

static int get(struct fake_app *a, uint16_t type, outbox_handle outbox, uint32_t index)
{
    struct ctl_outbox m = {.outbox = outbox, .index = index};
    return fake_request(a, type, &m, sizeof m, NULL, 0);
}

static void introduction(void **state)
{
    struct pair p;
    introduce(&p, 5600);
    assert_int_equal(p.client.in_nfds, 1);
    assert_int_equal(p.client.in.introduced.app, p.server.app);
    assert_int_equal(p.client.in.introduced.backlog, 16);
    struct token t = {.magic = TOKEN_MAGIC, .listener = p.listener, .outbox = p.outbox}, got;
    assert_int_equal(write(p.client.in_fds[0], &t, sizeof t), sizeof t);
    assert_int_equal(read(p.queue, &got, sizeof got), sizeof got);
    assert_memory_equal(&t, &got, sizeof t);

    /* no segment the second time */
    struct ctl_introduce again = {.listener = p.listener, .outbox = p.outbox};
    expect(0, fake_request(&p.client, CTL_INTRODUCE, &again, sizeof again, NULL, 0));
    again = (struct ctl_introduce){.listener = p.listener, .outbox = outbox_handle_make(p.client.worker, 77)};
    expect(BERTH_E_BAD_HANDLE, fake_request(&p.client, CTL_INTRODUCE, &again, sizeof again, NULL, 0));
    again = (struct ctl_introduce){.listener = 0xfffff, .outbox = p.outbox};
    expect(BERTH_E_REFUSED, fake_request(&p.client, CTL_INTRODUCE, &again, sizeof again, NULL, 0));
    pair_close(&p);
}

static void outboxes_go_to_whom_they_face(void **state)
{
    struct pair p;
    struct fake_app stranger;
    introduce(&p, 5700);
    fake_attach(&stranger, &the_daemon, "stranger");
    expect(0, get(&p.server, CTL_GET_OUTBOX, p.outbox, 0));
    assert_int_equal(p.server.in_nfds, 3);
    assert_int_equal(p.server.in.outbox_is.worker, p.client.worker);
    assert_int_equal(p.server.in.outbox_is.app, p.client.app);
    assert_int_equal(p.server.in.outbox_is.dead, 0);
    assert_true(mmap(NULL, SEGMENT_MIN, PROT_READ | PROT_WRITE, MAP_SHARED, p.server.in_fds[0], 0) ==
                MAP_FAILED);
    expect(BERTH_E_PERMISSION, get(&stranger, CTL_GET_OUTBOX, p.outbox, 0));
    expect(BERTH_E_BAD_HANDLE, get(&stranger, CTL_GET_OUTBOX, 12345, 0));
    expect(BERTH_E_PERMISSION, get(&stranger, CTL_GET_SEGMENT, p.outbox, 0));
    expect(BERTH_E_BAD_HANDLE, get(&stranger, CTL_GET_SEGMENT, 12345, 0));
    expect(BERTH_E_INVALID, get(&p.server, CTL_GET_SEGMENT, p.outbox, SEGMENT_INDEX_MAX + 1));
    expect(0, get(&p.server, CTL_GET_SEGMENT, p.outbox, 0));
    assert_int_equal(p.server.in_nfds, 1);
    fake_close(&stranger);
    pair_close(&p);
}

static void ask_for_segment(struct pair *p, uint32_t index, uint32_t seq)
{
    struct ctl_outbox m = {
        .h = {.type = CTL_GET_SEGMENT, .len = sizeof m, .seq = seq}, .outbox = p->outbox, .index = index};
    assert_int_equal(fake_send(&p->server, &m, sizeof m, NULL, 0), 0);
}

static void a_segment_is_waited_for(void **state)
{
    struct pair p;
    introduce(&p, 5800);
    ask_for_segment(&p, 3, 1000);
    ask_for_segment(&p, 4, 1001);
    expect(0, fake_status(&p.server)); /* the question is parked: others are answered meanwhile */
    int fd = fake_outbox_segment(p.outbox, 3, 0);
    struct ctl_outbox m = {.h = {.type = CTL_SEGMENT, .len = sizeof m}, .outbox = p.outbox, .index = 3};
    assert_int_equal(fake_send(&p.client, &m, sizeof m, &fd, 1), 0);
    close(fd);
    assert_true(fake_receive(&p.server) > 0);
    assert_int_equal(p.server.in.h.type, CTL_SEGMENT_IS);
    assert_int_equal(p.server.in.h.seq, 1000);
    assert_int_equal(p.server.in.h.status, 0);
    assert_int_equal(p.server.in.segment_is.index, 3);
    assert_int_equal(p.server.in_nfds, 1);
    fake_close(&p.client); /* the other one will never come */
    bool reset = false;
    while (!reset && fake_receive(&p.server) > 0)
        reset = p.server.in.h.type == CTL_SEGMENT_IS && p.server.in.h.seq == 1001 &&
                p.server.in.h.status == BERTH_E_RESET;
    assert_true(reset);
    pair_close(&p);
}

static void parked_questions_are_bounded(void **state)
{
    struct pair p;
    introduce(&p, 5900);
    expect(0, get(&p.server, CTL_GET_OUTBOX, p.outbox, 0));
    for (uint32_t i = 1; i <= 3000; i++) {
        ask_for_segment(&p, i, 10000 + i);
        if (i % 100)
            continue;
        struct pollfd pfd = {.fd = p.server.sock, .events = POLLIN};
        if (poll(&pfd, 1, 20) > 0)
            break;
    }
    assert_true(fake_receive(&p.server) > 0);
    expect(BERTH_E_LIMIT, p.server.in.h.status);
    pair_close(&p);
}

static void the_dead_are_announced(void **state)
{
    struct pair p;
    introduce(&p, 6000);
    expect(0, get(&p.server, CTL_GET_OUTBOX, p.outbox, 0));
    uint32_t worker = p.client.worker;
    fake_close(&p.client);
    bool told = false;
    while (!told && fake_receive(&p.server) > 0)
        told = p.server.in.h.type == CTL_DEAD && p.server.in.dead.worker == worker;
    assert_true(told);
    pair_close(&p);
}

static void announce_reaches_the_peer(void **state)
{
    struct pair p;
    introduce(&p, 6100);
    outbox_handle mine = outbox_handle_make(p.server.worker, 1);
    int fd = fake_outbox_segment(mine, 0, p.client.app);
    struct ctl_outbox m = {
        .h = {.type = CTL_OUTBOX, .len = sizeof m}, .outbox = mine, .facing_app = p.client.app};
    assert_int_equal(fake_send(&p.server, &m, sizeof m, &fd, 1), 0);
    close(fd);
    m = (struct ctl_outbox){
        .h = {.type = CTL_ANNOUNCE, .len = sizeof m}, .outbox = mine, .worker = p.client.worker};
    assert_int_equal(fake_send(&p.server, &m, sizeof m, NULL, 0), 0);
    assert_true(fake_receive(&p.client) > 0);
    assert_int_equal(p.client.in.h.type, CTL_PEER);
    assert_int_equal(p.client.in.outbox_is.outbox, mine);
    assert_int_equal(p.client.in_nfds, 3);
    pair_close(&p);
}

static void ports_are_leased_once(void **state)
{
    struct fake_app a, b;
    uint8_t taken[65536] = {0};
    endpoint lo;
    endpoint_from_v4(&lo, 0x7f000001, 0);
    fake_attach(&a, &the_daemon, "ports");
    fake_attach(&b, &the_daemon, "more");
    for (int i = 0; i < 60; i++) {
        struct fake_app *who = i & 1 ? &a : &b;
        struct ctl_ports m = {.count = 64};
        memcpy(m.addr, lo.addr, 16);
        expect(0, fake_request(who, CTL_PORTS, &m, sizeof m, NULL, 0));
        struct ctl_ports *is = &who->in.ports;
        assert_true(is->count > 0 && is->first + is->count <= 65536);
        for (uint32_t k = is->first; k < (uint32_t)is->first + is->count; k++)
            check(!taken[k]++, "port %u was leased twice", k);
    }
    int limit = 0;
    for (int i = 0; i < 5000 && limit == 0; i++) {
        struct ctl_ports m = {.count = 1024};
        memcpy(m.addr, lo.addr, 16);
        limit = fake_request(&a, CTL_PORTS, &m, sizeof m, NULL, 0);
    }
    expect(BERTH_E_LIMIT, limit);
    fake_close(&a);
    int again = BERTH_E_LIMIT; /* the dead one's are free again */
    for (int i = 0; i < 500 && again != 0; i++) {
        struct ctl_ports m = {.count = 64};
        memcpy(m.addr, lo.addr, 16);
        again = fake_request(&b, CTL_PORTS, &m, sizeof m, NULL, 0);
        if (again)
            usleep(2000);
    }
    expect(0, again);
    fake_close(&b);
}

static void a_child_holds_what_its_parent_held(void **state)
{
    struct fake_app parent, child = {.page = -1, .kick = -1, .netns = -1}, b;
    fake_attach(&parent, &the_daemon, "parent");
    expect(0, fake_listen(&parent, "127.0.0.1", 6200, 0, NULL));
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
    struct ctl_child m = {.h = {.type = CTL_CHILD, .len = sizeof m}, .member = 1};
    assert_int_equal(fake_send(&parent, &m, sizeof m, &s[1], 1), 0);
    close(s[1]);
    child.sock = s[0];
    fake_close(&parent); /* as daemon(3): the parent exits before the child has said a word */
    fake_attach(&b, &the_daemon, "other");
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "127.0.0.1", 6200, 0, NULL));
    child.page = fake_page(0);
    struct ctl_child_hello hello = {.version = CTL_VERSION, .pid = (uint32_t)getpid()};
    expect(0, fake_request(&child, CTL_CHILD_HELLO, &hello, sizeof hello, &child.page, 1));
    assert_true(child.in.welcome.worker != 0);
    expect(BERTH_E_ADDRESS_IN_USE, fake_listen(&b, "127.0.0.1", 6200, 0, NULL));
    fake_close(&child);
    expect_soon(0, fake_listen(&b, "127.0.0.1", 6200, 0, NULL));
    fake_close(&b);
}

/* Fills a pipe by a description that it then makes block. */
static void fill_and_block(int fd)
{
    static const char some[4096];
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK || fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    while (write(fd, some, sizeof some) > 0)
        ;
    while (write(fd, some, 1) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
}

static void cannot_block(int fd, const char *what)
{
    check((fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDWR | O_NONBLOCK), "%s: flags %x", what,
          (unsigned)fcntl(fd, F_GETFL));
    alarm((unsigned)longer(20));
    check(write(fd, "", 1) == -1 && errno == EAGAIN, "%s is not the pipe that was filled", what);
    alarm(0);
}

/* What peers do to the description that they have of a bell, its owner has another. */
static void a_bell_is_its_owners(void **state)
{
    struct pair p;
    introduce(&p, 6300);
    expect(0, get(&p.server, CTL_GET_OUTBOX, p.outbox, 0));
    fill_and_block(p.server.in_fds[2]);
    cannot_block(p.client.kick, "one's own bell");
    pair_close(&p);
}

/* ---- a pipe's lock, held by whoever has the pipe ---- */

struct locked {
    int fd;
    void *page;
};

static void *write_when_the_page_comes(void *arg)
{
    const struct locked *l = arg;
    (void)!write(l->fd, l->page, PAGE_BYTES);
    return NULL;
}

/* A child that writes into these out of pages that never come. */
static pid_t lock_pipes(const int *fds, int n, int leave)
{
    int ready[2];
    char c;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct locked l[4];
        pthread_t t;
        close(leave);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int u = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
        struct uffdio_api api = {.api = UFFD_API};
        if (u < 0 || ioctl(u, UFFDIO_API, &api) < 0)
            _exit(1);
        for (int i = 0; i < n; i++) {
            l[i].fd = fds[i];
            l[i].page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            struct uffdio_register r = {.range = {(uintptr_t)l[i].page, PAGE_BYTES},
                                        .mode = UFFDIO_REGISTER_MODE_MISSING};
            if (ioctl(u, UFFDIO_REGISTER, &r) < 0 ||
                pthread_create(&t, NULL, write_when_the_page_comes, &l[i]) != 0)
                _exit(1);
        }
        for (int i = 0; i < n; i++) {
            struct uffd_msg m; /* one for each that has come so far */
            if (read(u, &m, sizeof m) != (ssize_t)sizeof m)
                _exit(1);
        }
        (void)!write(ready[1], "", 1);
        for (;;)
            pause();
    }
    close(ready[1]);
    bool locked = read(ready[0], &c, 1) == 1;
    close(ready[0]);
    if (locked)
        return pid;
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return -1;
}

static void in_a_second(int64_t since, const char *what)
{
    check(clock_now() - since < longer(NS_PER_SEC),
          "%s took %lld ms while somebody held the lock of a pipe of his own", what,
          (long long)((clock_now() - since) / NS_PER_MS));
}

/* A message that breaks the rules, with a description of the pipe that is nobody's any more once it is
 * closed. */
static void send_the_last(struct fake_app *a, int pipe_fd, int times)
{
    struct ctl_header h = {.type = CTL_STATUS, .len = sizeof h, .seq = 1};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } room = {0};
    struct iovec iov = {&h, sizeof h};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = room.bytes,
                        .msg_controllen = CMSG_SPACE((size_t)times * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", pipe_fd);
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    *c = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)times * sizeof(int))};
    for (int i = 0; i < times; i++)
        memcpy(CMSG_DATA(c) + (size_t)i * sizeof fd, &fd, sizeof fd);
    assert_int_equal(sendmsg(a->sock, &mh, 0), sizeof h);
    close(fd);
}

/* Others are served, those among them who are given the pipes, and when who gave them goes. */
static void a_pipes_lock_delays_nobody(void **state)
{
    struct pair p, q;
    struct fake_app third;
    struct ctl_show show = {.what = CTL_SHOW_WORKERS};
    outbox_handle box;
    int queue;
    introduce(&p, 6600);
    expect(0, fake_listen(&p.client, "127.0.0.1", 6601, 0, &queue));
    uint32_t listener = p.client.in.listened.listener;
    expect(0, fake_introduce(&p.server, listener, 9, p.client.app, &box));
    int held[] = {fcntl(p.client.kick, F_DUPFD_CLOEXEC, 0), fcntl(p.server.in_fds[0], F_DUPFD_CLOEXEC, 0)};
    fcntl(p.client.kick, F_SETFL, 0);
    struct fake_app breaks[2];
    for (int i = 0; i < 2; i++)
        fake_connect(&breaks[i], &the_daemon);
    kill(the_daemon.pid, SIGSTOP); /* it reads these when the lock is held */
    send_the_last(&breaks[0], held[0], 1);
    send_the_last(&breaks[0], held[0], 1); /* unread when the connection is closed for the first */
    send_the_last(&breaks[1], held[0], 8); /* more than any message has */
    pid_t locker = lock_pipes(held, 2, p.client.sock);
    kill(the_daemon.pid, SIGCONT);
    if (locker < 0) {
        print_message("no userfaultfd for system calls here\n");
        skip();
    }
    int64_t start = clock_now();
    for (int i = 0; i < 2; i++) {
        assert_true(fake_ended(&breaks[i]));
        fake_close(&breaks[i]);
    }
    expect(0, get(&p.server, CTL_GET_OUTBOX, p.outbox, 0));
    fake_attach(&third, &the_daemon, "third");
    expect(0, fake_introduce(&third, listener, 1, p.client.app, &box));
    in_a_second(start, "meeting him");
    introduce(&q, 6602);
    expect(0, get(&q.server, CTL_GET_OUTBOX, q.outbox, 0));
    expect(0, fake_request(&third, CTL_SHOW, &show, sizeof show, NULL, 0));
    in_a_second(start, "others' meeting");
    close(p.client.sock); /* his other descriptors stay open: a close would wait here, as in the daemon */
    start = clock_now();
    for (int i = 0; i < 100; i++) {
        expect(0, fake_status(&third));
        usleep(1000);
    }
    fake_close(&q.client);
    expect(0, fake_request(&third, CTL_SHOW, &show, sizeof show, NULL, 0));
    in_a_second(start, "his end");
    kill(locker, SIGKILL);
    assert_int_equal(waitpid(locker, NULL, 0), locker);
    close(held[0]);
    close(held[1]);
    close(queue);
    p.client.sock = -1;
    fake_close(&third);
    pair_close(&p);
    fake_close(&q.server);
}

/* The daemon's table is full to the last place, and still it introduces those whom it knows. */
static void introductions_in_a_full_table(void **state)
{
    struct pair p;
    int more[64];
    uint32_t n = 0;
    introduce(&p, 6500);
    struct rlimit was, full = {0};
    assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, NULL, &was), 0);
    full = (struct rlimit){(rlim_t)daemon_descriptors(&the_daemon) + 8, was.rlim_max};
    assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, &full, NULL), 0);
    int before = -1;
    for (; n < 64 && daemon_descriptors(&the_daemon) != before; n++) {
        before = daemon_descriptors(&the_daemon);
        more[n] = ctl_connect(the_daemon.dir);
        assert_true(more[n] >= 0);
        usleep(30000);
    }
    assert_true(n < 64);
    for (int i = 0; i < 5; i++) {
        expect(0, get(&p.server, CTL_GET_OUTBOX, p.outbox, 0));
        assert_int_equal(p.server.in_nfds, 3);
    }
    struct ctl_introduce again = {.listener = p.listener, .outbox = p.outbox};
    expect(0, fake_request(&p.client, CTL_INTRODUCE, &again, sizeof again, NULL, 0));
    assert_int_equal(p.client.in_nfds, 1);
    assert_int_equal(prlimit(the_daemon.pid, RLIMIT_NOFILE, &was, NULL), 0);
    while (n > 0)
        close(more[--n]);
    pair_close(&p);
}

static void a_stay_is_for_oneself(void **state)
{
    pid_t pid = fork(); /* whose end is that of the stay, too */
    assert_true(pid >= 0);
    if (pid == 0) {
        struct fake_app a;
        struct ctl_stay mine = {.pid = (uint32_t)getpid()}, other = {.pid = (uint32_t)getppid()};
        fake_connect(&a, &the_daemon);
        if (fake_request(&a, CTL_STAY, &other, sizeof other, NULL, 0) != BERTH_E_PERMISSION)
            _exit(1);
        _exit(fake_request(&a, CTL_STAY, &mine, sizeof mine, NULL, 0) == 0 ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void another_user_is_not_admitted(void **state)
{
    if (getuid() != 0)
        skip();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
            _exit(1);
        _exit(ctl_connect(the_daemon.dir) == BERTH_E_PERMISSION ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void no_daemon_no_connection(void **state)
{
    expect(BERTH_E_NO_DAEMON, ctl_connect("/nonexistent"));
    char longer[300];
    memset(longer, 'x', sizeof longer);
    longer[0] = '/';
    longer[299] = 0;
    expect(BERTH_E_INVALID, ctl_connect(longer));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_versions_and_options),
        cmocka_unit_test(who_is_not_attached_can_do_nothing),
        cmocka_unit_test(detach_and_attach_again),
        cmocka_unit_test(namespaces_and_secrets),
        cmocka_unit_test(namespaces_do_not_meet),
        cmocka_unit_test(endpoints_belong_to_one_app),
        cmocka_unit_test(global_scope_has_no_route),
        cmocka_unit_test(directory_follows_the_listeners),
        cmocka_unit_test(introduction),
        cmocka_unit_test(outboxes_go_to_whom_they_face),
        cmocka_unit_test(a_segment_is_waited_for),
        cmocka_unit_test(a_bell_is_its_owners),
        cmocka_unit_test(a_pipes_lock_delays_nobody),
        cmocka_unit_test(introductions_in_a_full_table),
        cmocka_unit_test(parked_questions_are_bounded),
        cmocka_unit_test(the_dead_are_announced),
        cmocka_unit_test(announce_reaches_the_peer),
        cmocka_unit_test(ports_are_leased_once),
        cmocka_unit_test(a_child_holds_what_its_parent_held),
        cmocka_unit_test(a_stay_is_for_oneself),
        cmocka_unit_test(another_user_is_not_admitted),
        cmocka_unit_test(no_daemon_no_connection),
        cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, daemon_start_clean, daemon_stop_clean);
}
