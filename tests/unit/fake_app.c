#include "fake_app.h"
#include "check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "berth/error.h"
#include "daemon/daemon.h"
#include "session/directory.h"
#include "session/endpoint.h"
#include "shm/ctlsock.h"
#include "shm/segment.h"

/* ---- daemon ---- */

/* The daemon of a test is the test's own program, which it executes for a relay. A relay has no place here: it
 * would be the tests once more, with daemons and relays of their own. */
static __attribute__((constructor)) void be_no_relay(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "relay"))
        _exit(1);
}

static __attribute__((noreturn)) void be_daemon(const char *dir)
{
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);         /* cmocka's handlers would take a crash for one of the test's */
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves nothing behind */
    char *argv[] = {"daemon", "--runtime-dir", (char *)(uintptr_t)dir, "--log-level", "error", NULL};
    exit(daemon_main(5, argv)); /* not _exit: a leak checker wants its turn */
}

void daemon_start(struct test_daemon *d)
{
    strcpy(d->dir, "/tmp/berth-test-XXXXXX");
    assert_non_null(mkdtemp(d->dir));
    fflush(NULL);
    d->pid = fork();
    assert_true(d->pid >= 0);
    if (d->pid == 0)
        be_daemon(d->dir);
    int64_t deadline = clock_now() + longer(10 * NS_PER_SEC);
    int sock;
    while ((sock = ctl_connect(d->dir)) < 0) {
        check(waitpid(d->pid, NULL, WNOHANG) == 0, "the daemon did not start");
        check(clock_now() < deadline, "the daemon does not answer in %s", d->dir);
        usleep(2000);
    }
    close(sock);
}

int daemon_stop(struct test_daemon *d)
{
    int status = -1;
    kill(d->pid, SIGTERM);
    for (int i = 0; i < 5000 && waitpid(d->pid, &status, WNOHANG) == 0; i++)
        usleep(2000);
    if (status == -1) {
        kill(d->pid, SIGKILL);
        waitpid(d->pid, NULL, 0);
    }
    char path[400];
    DIR *dir = opendir(d->dir);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.' && (e->d_name[1] == 0 || e->d_name[1] == '.'))
            continue;
        snprintf(path, sizeof path, "%s/%s", d->dir, e->d_name);
        unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(d->dir);
    return status;
}

bool daemon_alive(const struct test_daemon *d)
{
    return waitpid(d->pid, NULL, WNOHANG) == 0;
}

int daemon_descriptors(const struct test_daemon *d)
{
    char path[64];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)d->pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* What they are: for whoever looks why there are too many. */
static void tell_descriptors(const struct test_daemon *d)
{
    char path[64], target[200];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)d->pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof target - 1);
        if (n > 0)
            print_error("descriptor %s: %.*s\n", e->d_name, (int)n, target);
    }
    closedir(dir);
}

struct test_daemon the_daemon;
int daemon_baseline;

/* It may be about to put something in stock: until nothing changes any more. */
void daemon_rests(struct fake_app *a, int descriptors)
{
    daemon_baseline = -1;
    for (int same = 0; same < 4;) {
        usleep(20000);
        assert_int_equal(fake_status(a), 0);
        int now = daemon_descriptors(&the_daemon) - descriptors;
        same = now == daemon_baseline ? same + 1 : 0;
        daemon_baseline = now;
    }
}

int daemon_start_clean(void **state)
{
    struct fake_app a;
    daemon_start(&the_daemon);
    fake_connect(&a, &the_daemon);
    daemon_rests(&a, 1); /* this connection */
    fake_close(&a);
    return 0;
}

int daemon_stop_clean(void **state)
{
    int status = daemon_stop(&the_daemon);
    if (status != 0)
        print_error("the daemon ended with status %#x\n", status);
    return status != 0;
}

/* ---- packets ---- */

void fake_connect(struct fake_app *a, const struct test_daemon *d)
{
    memset(a, 0, sizeof *a);
    a->page = a->kick = a->netns = -1;
    a->sock = ctl_connect(d->dir);
    check(a->sock >= 0, "connect to the daemon: %s", berth_strerror(a->sock));
    struct timeval five = {.tv_sec = 5};
    setsockopt(a->sock, SOL_SOCKET, SO_RCVTIMEO, &five, sizeof five);
}

static void close_received(struct fake_app *a)
{
    while (a->in_nfds > 0)
        close(a->in_fds[--a->in_nfds]);
}

void fake_close(struct fake_app *a)
{
    close_received(a);
    int *fds[] = {&a->sock, &a->page, &a->kick, &a->netns};
    for (size_t i = 0; i < 4; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

int fake_send(struct fake_app *a, const void *msg, size_t len, const int *fds, int nfds)
{
    return ctl_send(a->sock, msg, len, fds, nfds, 0);
}

int fake_receive(struct fake_app *a)
{
    close_received(a);
    a->in_len = ctl_recv(a->sock, &a->in, sizeof a->in, a->in_fds, &a->in_nfds, 0);
    if (a->in_len == BERTH_E_DAEMON_GONE) /* reset: it closed with something of ours unread */
        a->in_len = 0;
    check(a->in_len >= 0, "nothing comes from the daemon: %s", berth_error_name(a->in_len));
    return a->in_len;
}

int fake_request(struct fake_app *a, uint16_t type, void *msg, size_t len, const int *fds, int nfds)
{
    struct ctl_header *h = msg;
    h->type = type;
    h->len = (uint16_t)len;
    h->seq = ++a->seq;
    int rc = fake_send(a, msg, len, fds, nfds);
    if (rc)
        return rc;
    do {
        if (fake_receive(a) == 0)
            return BERTH_E_DAEMON_GONE;
    } while (a->in.h.seq != a->seq);
    assert_int_equal(a->in.h.len, a->in_len);
    return a->in.h.status;
}

bool fake_ended(struct fake_app *a)
{
    for (int i = 0; i < 1000; i++) {
        if (fake_receive(a) == 0)
            return true;
    }
    return false;
}

/* ---- attach ---- */

int fake_page(uint32_t worker)
{
    int fd;
    void *map;
    if (segment_create("berth-fake-page", WORKER_PAGE_BYTES, &fd, &map) != 0)
        return -1;
    struct worker_page *page = map;
    page->magic = ABI_MAGIC_PAGE;
    page->version = ABI_VERSION;
    page->worker = worker;
    munmap(map, WORKER_PAGE_BYTES);
    return fd;
}

int fake_outbox_segment(outbox_handle handle, uint32_t index, uint32_t facing_app)
{
    int fd;
    void *map;
    if (segment_create("berth-fake-outbox", SEGMENT_MIN, &fd, &map) != 0)
        return -1;
    struct segment_header *h = map;
    *h = (struct segment_header){.magic = index ? ABI_MAGIC_RINGS : ABI_MAGIC_OUTBOX,
                                 .version = ABI_VERSION,
                                 .lines_per_slot = 2,
                                 .outbox = handle,
                                 .index = index,
                                 .facing_app = facing_app,
                                 .size = SEGMENT_MIN,
                                 .owner_worker = outbox_worker(handle)};
    munmap(map, SEGMENT_MIN);
    return fd;
}

void fake_hello_fill(struct ctl_hello *m, const char *name, const char *ns, const char *secret,
                     uint32_t flags)
{
    memset(m, 0, sizeof *m);
    m->magic = CTL_MAGIC;
    m->version = CTL_VERSION;
    m->flags = flags;
    snprintf(m->name, sizeof m->name, "%s", name);
    snprintf(m->ns, sizeof m->ns, "%s", ns ? ns : "");
    snprintf(m->secret, sizeof m->secret, "%s", secret ? secret : "");
    m->rx_fifo_size = m->tx_fifo_size = 4 << 20;
    m->segment_size = SEGMENT_MIN;
}

int fake_hello(struct fake_app *a, const struct ctl_hello *m)
{
    struct ctl_hello copy = *m;
    if (a->page < 0)
        a->page = fake_page(0);
    if (a->netns < 0)
        a->netns = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fds[] = {a->netns, a->page};
    int rc = fake_request(a, CTL_HELLO, &copy, sizeof copy, fds, 2);
    if (rc == 0) {
        a->kick = fcntl(a->in_fds[1], F_DUPFD_CLOEXEC, 0);
        a->worker = a->in.welcome.worker;
        a->app = a->in.welcome.app;
    }
    return rc;
}

void fake_attach(struct fake_app *a, const struct test_daemon *d, const char *name)
{
    struct ctl_hello m;
    fake_connect(a, d);
    fake_hello_fill(&m, name, NULL, NULL, CTL_SCOPE_LOCAL);
    int rc = fake_hello(a, &m);
    check(rc == 0, "attach of '%s': %s", name, berth_strerror(rc));
    assert_true(a->worker != 0 && a->app != 0);
    assert_int_equal(a->in_nfds, 2); /* the directory, its bell */
}

int fake_status(struct fake_app *a)
{
    struct ctl_header m = {0};
    return fake_request(a, CTL_STATUS, &m, sizeof m, NULL, 0);
}

void fake_expect_left(struct fake_app *a, uint32_t workers, uint32_t apps, int descriptors)
{
    int more;
    int64_t end = clock_now() + longer(3 * NS_PER_SEC);
    for (;;) {
        assert_int_equal(fake_status(a), 0);
        more = daemon_descriptors(&the_daemon) - daemon_baseline;
        if ((more <= descriptors && a->in.status.workers == workers && a->in.status.apps == apps) ||
            clock_now() > end)
            break;
        usleep(10000);
    }
    if (more > descriptors)
        tell_descriptors(&the_daemon);
    check(more <= descriptors, "%d descriptors are left in the daemon, not %d", more, descriptors);
    assert_int_equal(a->in.status.workers, workers);
    assert_int_equal(a->in.status.apps, apps);
}

void nothing_is_left(void **state)
{
    struct fake_app a;
    fake_connect(&a, &the_daemon);
    fake_expect_left(&a, 0, 0, 1); /* this connection */
    fake_close(&a);
}

/* ---- requests ---- */

int fake_listen(struct fake_app *a, const char *addr, uint16_t port, uint8_t flags, int *read_end)
{
    struct ctl_listen m = {.port = port, .proto = PROTO_TCP, .flags = flags, .backlog = 16, .cookie = 99};
    endpoint ep;
    uint32_t four;
    if (inet_pton(AF_INET, addr, &four) == 1) {
        endpoint_from_v4(&ep, ntohl(four), port);
        memcpy(m.addr, ep.addr, 16);
    } else {
        assert_int_equal(inet_pton(AF_INET6, addr, m.addr), 1);
    }
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
    int rc = fake_request(a, CTL_LISTEN, &m, sizeof m, &p[1], 1);
    close(p[1]);
    if (rc == 0 && read_end)
        *read_end = p[0];
    else
        close(p[0]);
    return rc;
}

int fake_ns(struct fake_app *a, uint16_t type, const char *id, const char *secret)
{
    struct ctl_ns m = {0};
    snprintf(m.id, sizeof m.id, "%s", id);
    snprintf(m.secret, sizeof m.secret, "%s", secret ? secret : "");
    return fake_request(a, type, &m, sizeof m, NULL, 0);
}

int fake_introduce(struct fake_app *a, uint32_t listener, uint32_t n, uint32_t facing_app,
                   outbox_handle *outbox)
{
    struct ctl_introduce m = {.listener = listener, .outbox = outbox_handle_make(a->worker, n)};
    int segment = fake_outbox_segment(m.outbox, 0, facing_app);
    assert_true(segment >= 0);
    *outbox = m.outbox;
    int rc = fake_request(a, CTL_INTRODUCE, &m, sizeof m, &segment, 1);
    close(segment);
    return rc;
}

bool in_directory(int fd, const char *addr4, uint16_t port)
{
    struct directory *dir = mmap(NULL, DIRECTORY_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(dir != MAP_FAILED);
    check(mmap(NULL, DIRECTORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED,
          "an app can map the directory writable");
    assert_int_equal(dir->magic, ABI_MAGIC_DIR);
    endpoint dst;
    unsigned b[4];
    assert_int_equal(sscanf(addr4, "%u.%u.%u.%u", &b[0], &b[1], &b[2], &b[3]), 4);
    endpoint_from_v4(&dst, b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3], port);
    struct dir_entry e;
    bool found = directory_lookup(dir, &dst, 0, &e);
    munmap(dir, DIRECTORY_BYTES);
    return found;
}
