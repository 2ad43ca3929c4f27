#include "fake_daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/ctlsock.h"
#include "shm/segment.h"

char dir[] = "/tmp/berth-test-XXXXXX";
int listening = -1;
static int directory_fd;

/* ---- the child ---- */

static int tell_fd;

void tell(long result)
{
    int r = (int)result;
    if (write(tell_fd, &r, sizeof r) != (ssize_t)sizeof r)
        _exit(9);
}

int descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

int attach(void)
{
    struct berth_attach_options o = {.name = "child", .runtime_dir = dir, .spin_ns = -1};
    return berth_attach(&o);
}

struct child start(void (*body)(void))
{
    struct child c = {.sock = -1};
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    fflush(NULL);
    c.pid = fork();
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int sig = 1; sig < 32; sig++) /* cmocka's handlers would take a crash for one of the parent's */
            signal(sig, sig == SIGPIPE ? SIG_IGN : SIG_DFL);
        alarm((unsigned)longer(30));
        close(p[0]);
        close(listening);
        tell_fd = p[1];
        body();
        _exit(0);
    }
    close(p[1]);
    c.results = p[0];
    return c;
}

int result(struct child *c)
{
    int r;
    struct pollfd p = {.fd = c->results, .events = POLLIN};
    check(poll(&p, 1, 15000) == 1, "the child hangs in a call");
    check(read(c->results, &r, sizeof r) == (ssize_t)sizeof r, "the child died in a call");
    return r;
}

void finish(struct child *c)
{
    while (c->nfds)
        close(c->fds[--c->nfds]);
    if (c->sock >= 0)
        close(c->sock);
    close(c->results);
    int status = -1;
    for (int i = 0; i < 10000 && waitpid(c->pid, &status, WNOHANG) == 0; i++)
        usleep(1000);
    check(status != -1, "the child does not end");
    check(status == 0, "the child ended with status %#x", status);
}

/* ---- the daemon's part ---- */

void accept_child(struct child *c)
{
    struct pollfd p = {.fd = listening, .events = POLLIN};
    check(poll(&p, 1, 10000) == 1, "the library does not connect");
    c->sock = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    assert_true(c->sock >= 0);
    struct timeval ten = {.tv_sec = 10};
    setsockopt(c->sock, SOL_SOCKET, SO_RCVTIMEO, &ten, sizeof ten);
}

bool take(struct child *c, uint32_t type)
{
    for (;;) {
        while (c->nfds)
            close(c->fds[--c->nfds]);
        int n = ctl_recv(c->sock, c->bytes, sizeof c->bytes, c->fds, &c->nfds, 0);
        if (n < (int)sizeof(struct ctl_header))
            return false;
        struct ctl_header *h = (void *)c->bytes;
        check(h->len == n, "the library sent a length of %u in a packet of %d", h->len, n);
        c->seq = h->seq;
        c->type = h->type;
        if (h->type == type)
            return true;
    }
}

struct answer good_welcome(const struct child *c)
{
    static int bell_fd[2] = {-1, -1};
    if (bell_fd[0] >= 0) {
        close(bell_fd[0]);
        close(bell_fd[1]);
    }
    assert_int_equal(pipe2(bell_fd, O_CLOEXEC | O_NONBLOCK), 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", bell_fd[1]);
    close(bell_fd[0]);
    bell_fd[0] = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct answer a = {.len = sizeof a.welcome, .fds = {directory_fd, bell_fd[0]}, .nfds = 2};
    a.welcome = (struct ctl_welcome){.h = {.type = CTL_WELCOME, .len = sizeof a.welcome, .seq = c->seq},
                                     .version = CTL_VERSION,
                                     .worker = WORKER,
                                     .app = APP,
                                     .uid = getuid(),
                                     .outbox_limit = 1 << 30,
                                     .sessions_limit = 1000,
                                     .daemon_pid = (uint32_t)getpid(),
                                     .name = "child",
                                     .ns = "default"};
    return a;
}

void answer(struct child *c, const struct answer *a)
{
    (void)ctl_send(c->sock, a->bytes, a->len, a->fds, a->nfds, 0);
}

void welcome_child(struct child *c)
{
    accept_child(c);
    assert_true(take(c, CTL_HELLO));
    struct answer a = good_welcome(c);
    answer(c, &a);
}

void all_is_true(void (*body)(void), int things)
{
    struct child c = start(body);
    welcome_child(&c);
    assert_int_equal(result(&c), 0);
    for (int i = 0; i < things; i++)
        check(result(&c) == 1, "answer %d", i);
    finish(&c);
}

int memfd_of(size_t size, uint32_t magic, uint16_t version, bool seal)
{
    int fd;
    void *map;
    if (!seal) {
        fd = memfd_create("liar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        return fd;
    }
    assert_int_equal(segment_create("liar", size, &fd, &map), 0);
    struct directory *d = map;
    d->magic = magic;
    d->version = version;
    munmap(map, size);
    return fd;
}

struct berth_endpoint at(uint16_t port)
{
    endpoint ep;
    endpoint_from_v4(&ep, 0x7f000001, port);
    return ep;
}

/* ---- before and after ---- */

int set_up(void **state)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (!mkdtemp(dir))
        return -1;
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s/%s", dir, CTL_SOCKET_NAME);
    listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (bind(listening, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(listening, 16) < 0)
        return -1;
    void *map;
    if (segment_create("berth-directory", DIRECTORY_BYTES, &directory_fd, &map) != 0)
        return -1;
    struct directory *directory = map;
    directory_init(directory);
    struct dir_entry e = {.port = 8080,
                          .proto = PROTO_TCP,
                          .listener = LISTENER,
                          .app = SERVER_APP,
                          .uid = getuid(),
                          .backlog = 16,
                          .epoch = 1};
    memcpy(e.addr, at(8080).addr, 16);
    setenv("BERTH_LOG", "error", 1);
    signal(SIGPIPE, SIG_IGN);
    return directory_add(directory, &e);
}

int tear_down(void **state)
{
    char path[120];
    snprintf(path, sizeof path, "%s/%s", dir, CTL_SOCKET_NAME);
    unlink(path);
    return rmdir(dir);
}
