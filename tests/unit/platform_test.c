/* platform_test.c - the kernel facts that berth is built on, each with a sentence on what a kernel without it
 * lacks.
 *
 * Linux 5.14 (SO_NETNS_COOKIE) and glibc 2.35 (rseq) have them all. A failure here explains a failure
 * elsewhere.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/clock.h"
#include "base/sys.h"
#include "berth/error.h"
#include "shm/abi.h"
#include "shm/segment.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SIZE ((uint64_t)SEGMENT_MIN)

struct made {
    int fd;
    char *map;
};

static struct made make(uint64_t size)
{
    struct made m;
    void *map;
    int rc = segment_create("berth-platform-test", size, &m.fd, &map);
    check(rc == 0, "no sealed memfd can be made: %s", strerror(errno));
    m.map = map;
    return m;
}

static void drop(struct made m, uint64_t size)
{
    munmap(m.map, size);
    close(m.fd);
}

static int wait_for(pid_t pid)
{
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static pid_t must_fork(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    return pid;
}

/* ---- seals --------------------------------------------------------------------------------------------- */

static void a_sealed_memfd_gets_no_new_writer(void **state)
{
    struct made m = make(SIZE);
    m.map[0] = 1;
    void *again = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
    check(again == MAP_FAILED && errno == EPERM, "F_SEAL_FUTURE_WRITE does not refuse a writable map");
    void *readable = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, m.fd, 0);
    check(readable != MAP_FAILED, "F_SEAL_FUTURE_WRITE refuses a read-only map");
    check(mprotect(readable, SIZE, PROT_READ | PROT_WRITE) < 0,
          "mprotect makes a sealed read-only map writable");
    check(pwrite(m.fd, "x", 1, 0) < 0 && errno == EPERM, "write() goes through F_SEAL_FUTURE_WRITE");
    check(ftruncate(m.fd, SIZE * 2) < 0 && errno == EPERM, "F_SEAL_GROW does not hold");
    check(ftruncate(m.fd, 0) < 0 && errno == EPERM, "F_SEAL_SHRINK does not hold");

    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", m.fd);
    int reopened = open(path, O_RDWR | O_CLOEXEC);
    if (reopened >= 0) { /* root may open it, and must gain nothing */
        again = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, reopened, 0);
        check(again == MAP_FAILED, "reopening through /proc gives a writable map of a sealed memfd");
        close(reopened);
    }
    m.map[0] = 2; /* the map made before goes on */
    check(((volatile char *)readable)[0] == 2, "the two maps of a memfd disagree");
    munmap(readable, SIZE);
    drop(m, SIZE);
}

static void sealed_blocks_come_but_do_not_go(void **state)
{
    struct made m = make(SIZE);
    check(fallocate(m.fd, 0, 0, SIZE) == 0, "fallocate of a sealed memfd: %s", strerror(errno));
    check(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES) < 0,
          "a hole can be punched in a sealed memfd: a reader that checked its blocks could be charged after "
          "all");
    check(madvise(m.map, PAGE_BYTES, MADV_REMOVE) < 0, "MADV_REMOVE punches a hole in a sealed memfd");
    struct stat st;
    assert_int_equal(fstat(m.fd, &st), 0);
    check((uint64_t)st.st_blocks * 512 >= SIZE, "st_blocks of a full memfd says %lld",
          (long long)st.st_blocks);
    drop(m, SIZE);
}

static void a_forked_child_writes_through_the_inherited_map(void **state)
{
    struct made m = make(SIZE);
    pid_t pid = must_fork();
    if (pid == 0) {
        m.map[100] = 42;
        _exit(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0) == MAP_FAILED ? 0 : 1);
    }
    check(wait_for(pid) == 0, "a child could map a sealed memfd writable");
    check(m.map[100] == 42, "a child's write through an inherited map of a sealed memfd is not seen");
    drop(m, SIZE);
}

/* ---- futex --------------------------------------------------------------------------------------------- */

static int sleep_on(const uint32_t *word, uint32_t value)
{
    struct timespec ts = {.tv_sec = 5};
    return (int)sys_futex_wait(word, value, &ts);
}

static void a_reader_sleeps_on_a_read_only_map(void **state)
{
    struct made m = make(SIZE);
    const void *ro;
    uint64_t size;
    assert_int_equal(segment_open(m.fd, SIZE, SIZE, false, &ro, &size, NULL), 0);
    const uint32_t *word = ro;
    assert_int_equal(sleep_on(word, 1), -EAGAIN); /* it is 0 */
    pid_t pid = must_fork();
    if (pid == 0) {
        int rc = 0;
        while (load_acquire(word) == 0 && (rc = sleep_on(word, 0)) != -ETIMEDOUT &&
               (rc == 0 || rc == -EAGAIN || rc == -EINTR))
            ;
        _exit(load_acquire(word) == 1 && rc != -ETIMEDOUT ? 0 : 1);
    }
    usleep(20000);
    store_sc((uint32_t *)(void *)m.map, 1);
    (void)sys_futex_wake(m.map, INT32_MAX);
    check(wait_for(pid) == 0,
          "a futex wait on a read-only shared map is refused or not woken by the writer's wake");

    pid = must_fork(); /* and the other way: the wake comes from one who can only read */
    if (pid == 0) {
        long woken = 0;
        for (int i = 0; i < 200 && woken == 0; i++) {
            usleep(10000);
            woken = sys_futex_wake(word, 1);
        }
        _exit(woken == 1 ? 0 : 1);
    }
    int rc = sleep_on((uint32_t *)(void *)m.map, 1);
    check(rc == 0, "a futex wake through a read-only shared map does not reach the writer: %d", rc);
    check(wait_for(pid) == 0, "a futex wake through a read-only shared map woke nobody");
    segment_unmap(ro, size);
    drop(m, SIZE);
}

/* ---- pipes and epoll ----------------------------------------------------------------------------------- */

static int ready(int ep, int timeout_ms)
{
    struct epoll_event ev;
    return epoll_wait(ep, &ev, 1, timeout_ms);
}

/* Opened through /proc: with a description of its own, whose flags nobody else can change. */
static int open_anew(int fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static void a_pipe_never_drained_is_a_broadcast(void **state)
{
    enum { SETS = 4 };
    char some[4096];
    int fds[2], ep[SETS], filled = 0;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    int bell = open_anew(fds[0]), ringer = open_anew(fds[0]);
    assert_true(bell >= 0 && ringer >= 0);
    assert_int_equal(fcntl(bell, F_SETPIPE_SZ, 8192), 8192);
    for (int i = 0; i < SETS; i++) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
        ep[i] = epoll_create1(EPOLL_CLOEXEC);
        assert_int_equal(epoll_ctl(ep[i], EPOLL_CTL_ADD, bell, &ev), 0);
        assert_int_equal(ready(ep[i], 0), 0);
    }
    for (int round = 0; round < 20000; round++) {
        if (write(ringer, "", 1) < 0) { /* full: a page of it is read, and there is room again */
            assert_int_equal(errno, EAGAIN);
            assert_int_equal(read(ringer, some, sizeof some), sizeof some);
            for (int i = 0; i < SETS; i++)
                (void)ready(ep[i], 0); /* that may be an edge, too */
            assert_int_equal(write(ringer, "", 1), 1);
            filled++;
        }
        for (int i = 0; i < SETS; i++)
            check(ready(ep[i], 1000) == 1, "round %d: epoll set %d missed the edge of a pipe", round, i);
        for (int i = 0; i < SETS; i++)
            check(ready(ep[i], 0) == 0, "round %d: one write gave epoll set %d two edges", round, i);
    }
    check(filled >= 2, "it was full %d times only", filled);
    for (int i = 0; i < SETS; i++)
        close(ep[i]);
    close(bell);
    close(ringer);
    close(fds[0]);
    close(fds[1]);
}

static void a_pipe_opened_anew_has_flags_of_its_own(void **state)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    int mine = open_anew(fds[1]);
    assert_int_equal(fcntl(fds[1], F_SETFL, 0), 0);
    assert_true(fcntl(mine, F_GETFL) & O_NONBLOCK);
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(write(mine, "", 1), 1); /* and no SIGPIPE: it is a reader itself */
    close(mine);
}

static void epoll_pwait2_takes_nanoseconds(void **state)
{
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev;
    struct timespec ts = {.tv_nsec = 200 * NS_PER_US};
    int64_t best = INT64_MAX;
    for (int i = 0; i < 20; i++) {
        int64_t start = clock_now();
        long rc = sys_call6(SYS_epoll_pwait2, ep, sys_arg(&ev), 1, sys_arg(&ts), 0, 8);
        check(rc == 0, "epoll_pwait2 (Linux 5.11) gives %ld", rc);
        int64_t took = clock_now() - start;
        check(took >= 200 * NS_PER_US, "epoll_pwait2 came back after %lld ns of 200000", (long long)took);
        best = took < best ? took : best;
    }
    check(best < 900 * NS_PER_US, "epoll_pwait2 rounds 200 us up to %lld ns", (long long)best);
    close(ep);
}

/* SPLICE_F_NONBLOCK holds whatever the flags of the descriptions: full or empty, nobody waits. */
static void splices_do_not_wait_for_pipes(void **state)
{
    int from[2], to[2];
    char some[4096] = {0};
    struct iovec v = {.iov_base = some, .iov_len = 8};
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    alarm((unsigned)longer(20));
    check(splice(from[0], NULL, to[1], NULL, 64, SPLICE_F_NONBLOCK) < 0 && errno == EAGAIN,
          "empty to empty: %s", strerror(errno));
    int slots = fcntl(to[1], F_GETPIPE_SZ) / 4096;
    for (int i = 0; i < slots; i++)
        check(vmsplice(to[1], &v, 1, SPLICE_F_NONBLOCK) == 8, "page %d into a pipe of %d: %s", i, slots,
              strerror(errno));
    check(vmsplice(to[1], &v, 1, SPLICE_F_NONBLOCK) < 0 && errno == EAGAIN, "vmsplice into a full pipe");
    assert_int_equal(write(from[1], some, 8), 8);
    check(splice(from[0], NULL, to[1], NULL, 64, SPLICE_F_NONBLOCK) < 0 && errno == EAGAIN,
          "into a full pipe");
    alarm(0);
    for (int i = 0; i < 2; i++) {
        close(from[i]);
        close(to[i]);
    }
}

/* ---- the accept queue: a pipe of 64-byte records ------------------------------------------------------- */

static void a_pipe_holds_a_thousand_records(void **state)
{
    int p[2], n = 0;
    char record[64] = {0};
    assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
    while (write(p[1], record, sizeof record) == (ssize_t)sizeof record)
        n++;
    check(errno == EAGAIN, "a full pipe says %s", strerror(errno));
    check(n >= 1000, "a pipe holds %d records of 64 bytes only; see fs.pipe-user-pages-soft", n);
    assert_int_equal(read(p[0], record, sizeof record), sizeof record);
    close(p[0]);
    signal(SIGPIPE, SIG_IGN);
    check(write(p[1], record, sizeof record) < 0 && errno == EPIPE, "a pipe without readers takes records");
    signal(SIGPIPE, SIG_DFL);
    close(p[1]);
}

#define WRITERS 3
#define READERS 2
#define RECORDS 4000

struct record {
    uint32_t writer, n, fill[14];
};

static void write_records(int fd, uint32_t writer)
{
    for (uint32_t i = 0; i < RECORDS; i++) {
        struct record r = {.writer = writer, .n = i};
        for (uint32_t k = 0; k < 14; k++)
            r.fill[k] = writer * 1000003 + i;
        if (write(fd, &r, sizeof r) != (ssize_t)sizeof r)
            _exit(1);
    }
    _exit(0);
}

static void read_records(int fd, uint32_t *seen)
{
    struct record r;
    ssize_t n;
    while ((n = read(fd, &r, sizeof r)) > 0) {
        if (n != (ssize_t)sizeof r || r.writer >= WRITERS || r.n >= RECORDS)
            _exit(2);
        for (uint32_t k = 0; k < 14; k++)
            if (r.fill[k] != r.writer * 1000003 + r.n)
                _exit(3);
        fetch_add_sc(seen + r.writer * RECORDS + r.n, 1);
    }
    _exit(n < 0);
}

static void records_are_whole_with_many_writers_and_readers(void **state)
{
    int p[2];
    size_t size = WRITERS * RECORDS * sizeof(uint32_t);
    uint32_t *seen = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[WRITERS + READERS];
    assert_true(seen != MAP_FAILED);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    for (uint32_t i = 0; i < WRITERS + READERS; i++) {
        pids[i] = must_fork();
        if (pids[i] == 0) {
            close(p[i < WRITERS ? 0 : 1]);
            if (i < WRITERS)
                write_records(p[1], i);
            read_records(p[0], seen);
        }
    }
    close(p[0]);
    close(p[1]);
    for (uint32_t i = 0; i < WRITERS + READERS; i++)
        check(wait_for(pids[i]) == 0, "64-byte records of several writers are torn in a pipe");
    for (uint32_t i = 0; i < WRITERS * RECORDS; i++)
        check(seen[i] == 1, "record %u was read %u times", i, seen[i]);
    munmap(seen, size);
}

struct sleeper {
    int ep, read_fd;
    uint32_t *asleep, *wakes;
};

static void *sleep_exclusively(void *arg)
{
    struct sleeper *s = arg;
    fetch_add_sc(s->asleep, 1);
    if (ready(s->ep, 1500) == 1) {
        char record[64];
        fetch_add_sc(s->wakes, 1);
        while (read(s->read_fd, record, sizeof record) < 0 && errno == EINTR)
            ;
    }
    return NULL;
}

static void one_record_wakes_one_exclusive_sleeper(void **state)
{
    enum { SLEEPERS = 4 };
    int p[2];
    uint32_t asleep = 0, wakes = 0;
    struct sleeper s[SLEEPERS];
    pthread_t t[SLEEPERS];
    char record[64] = {0};
    assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
    for (int i = 0; i < SLEEPERS; i++) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE};
        s[i] = (struct sleeper){epoll_create1(EPOLL_CLOEXEC), p[0], &asleep, &wakes};
        check(epoll_ctl(s[i].ep, EPOLL_CTL_ADD, p[0], &ev) == 0, "EPOLLEXCLUSIVE is refused for a pipe");
        assert_int_equal(pthread_create(&t[i], NULL, sleep_exclusively, &s[i]), 0);
    }
    while (load_sc(&asleep) < SLEEPERS)
        usleep(1000);
    usleep(100000);
    assert_int_equal(write(p[1], record, sizeof record), sizeof record);
    usleep(200000);
    uint32_t woken = load_sc(&wakes);
    assert_int_equal(write(p[1], record, sizeof record), sizeof record);
    usleep(200000);
    uint32_t woken_again = load_sc(&wakes);
    for (int i = 0; i < SLEEPERS; i++) {
        pthread_join(t[i], NULL);
        close(s[i].ep);
    }
    check(woken == 1, "one record in a pipe woke %u of %d EPOLLEXCLUSIVE sleepers", woken, SLEEPERS);
    check(woken_again == 2, "the second record found %u awake", woken_again);
    close(p[0]);
    close(p[1]);
}

/* ---- identity and death -------------------------------------------------------------------------------- */

static uint64_t cookie_of(int fd, int option, const char *name)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    check(getsockopt(fd, SOL_SOCKET, option, &cookie, &len) == 0 && len == sizeof cookie, "%s: %s", name,
          strerror(errno));
    return cookie;
}

static void a_socket_tells_its_network_namespace(void **state)
{
    int a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
        b = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    uint64_t here = cookie_of(a, SO_NETNS_COOKIE, "SO_NETNS_COOKIE (Linux 5.14)");
    if (b >= 0) {
        check(cookie_of(b, SO_NETNS_COOKIE, "SO_NETNS_COOKIE") == here, "one network namespace, two cookies");
        close(b);
    }
    check(here != 0, "the cookie of a network namespace is 0");
    pid_t pid = must_fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
            _exit(77); /* not allowed here */
        int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        _exit(cookie_of(c, SO_NETNS_COOKIE, "SO_NETNS_COOKIE") == here);
    }
    int status = wait_for(pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        print_message("no right to make a network namespace: two of them were not compared\n");
    else
        check(status == 0, "two network namespaces share a cookie");
    close(a);
}

static void a_socket_cookie_survives_dup_and_fork(void **state)
{
    int a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), b = dup(a),
        other = socket(AF_INET, SOCK_STREAM, 0);
    uint64_t cookie = cookie_of(a, SO_COOKIE, "SO_COOKIE");
    check(cookie != 0 && cookie_of(b, SO_COOKIE, "SO_COOKIE") == cookie, "dup changes SO_COOKIE");
    check(cookie_of(other, SO_COOKIE, "SO_COOKIE") != cookie, "two sockets share an SO_COOKIE");
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(cookie_of(a, SO_COOKIE, "SO_COOKIE") != cookie);
    check(wait_for(pid) == 0, "fork changes SO_COOKIE");
    close(a);
    close(b);
    close(other);
}

static void death_is_the_end_of_the_attach_socket(void **state)
{
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
    pid_t pid = must_fork();
    if (pid == 0) {
        close(s[0]);
        if (send(s[1], "last words", 10, 0) != 10)
            _exit(1);
        for (;;)
            pause();
    }
    close(s[1]);
    char buf[32];
    struct pollfd p = {.fd = s[0], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    wait_for(pid);
    check(recv(s[0], buf, sizeof buf, 0) == 10, "what a killed process sent last is lost");
    check(poll(&p, 1, 5000) == 1, "a killed process's SEQPACKET socket gives no event");
    check(recv(s[0], buf, sizeof buf, 0) == 0, "a killed process's SEQPACKET socket gives no end of file");
    close(s[0]);
}

static void a_pidfd_is_readable_for_a_zombie(void **state)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    check(fd >= 0, "pidfd_open (Linux 5.3): %s", strerror(errno));
    struct pollfd p = {.fd = fd, .events = POLLIN};
    check(poll(&p, 1, 0) == 0, "a pidfd of a living process is readable");
    assert_int_equal(kill(pid, SIGKILL), 0);
    check(poll(&p, 1, 5000) == 1, "a pidfd of a zombie is not readable");
    check(kill(pid, 0) == 0, "kill(pid, 0) tells a zombie from a living process after all");
    int late = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd q = {.fd = late, .events = POLLIN};
    check(late >= 0 && poll(&q, 1, 0) == 1, "a pidfd opened for a zombie is not readable");
    wait_for(pid);
    close(fd);
    close(late);
}

static void a_page_can_be_wiped_on_fork(void **state)
{
    char *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(madvise(page, PAGE_BYTES, MADV_WIPEONFORK) == 0, "MADV_WIPEONFORK (Linux 4.14): %s",
          strerror(errno));
    page[0] = 1;
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(page[0]);
    check(wait_for(pid) == 0, "a child sees what MADV_WIPEONFORK must hide");
    assert_int_equal(page[0], 1);
    munmap(page, PAGE_BYTES);
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

static const volatile struct rseq *my_rseq(void)
{
    char *self;
#if defined(__x86_64__)
    __asm__("mov %%fs:0, %0" : "=r"(self));
#else
    self = __builtin_thread_pointer();
#endif
    return (const volatile struct rseq *)(const void *)(self + __rseq_offset);
}

static void rseq_tells_the_cpu_by_a_load(void **state)
{
    check(__rseq_size > 0, "glibc registers no rseq area (2.35, not switched off by GLIBC_TUNABLES)");
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE && seen < 4; cpu++) {
        if (!CPU_ISSET(cpu, &before))
            continue;
        seen++;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
        check((int)my_rseq()->cpu_id == cpu, "rseq says CPU %u on CPU %d", my_rseq()->cpu_id, cpu);
        assert_int_equal(sched_getcpu(), cpu);
    }
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void an_unconnected_tcp_socket_looks_hung_up(void **state)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    assert_int_equal(poll(&p, 1, 0), 1);
    check(p.revents == (POLLOUT | POLLHUP),
          "poll of an unconnected TCP socket gives %#x, not POLLOUT|POLLHUP: "
          "the descriptor behind a stack socket must never be shown to the kernel's poll",
          p.revents);
    close(fd);
}

/* ---- what segment_open refuses ------------------------------------------------------------------------- */

static void refused(int fd, bool populated, const char *what)
{
    const void *map = (const void *)1;
    uint64_t size = 77;
    const char *why = NULL;
    check(fd >= 0, "%s cannot be made: %s", what, strerror(errno));
    int rc = segment_open(fd, SIZE, SIZE * 4, populated, &map, &size, &why);
    check(rc == BERTH_E_PROTOCOL, "%s was accepted (%d)", what, rc);
    check(why && why[0], "%s was refused without a reason", what);
    check(map == (const void *)1 && size == 77, "%s: outputs touched", what);
    close(fd);
}

static int memfd_with(unsigned flags, uint64_t size, int seals)
{
    int fd = memfd_create("berth-platform-test", MFD_CLOEXEC | flags);
    if (fd >= 0 && (ftruncate(fd, (off_t)size) < 0 || (seals && fcntl(fd, F_ADD_SEALS, seals) < 0))) {
        close(fd);
        return -1;
    }
    return fd;
}

static void segments_that_are_refused(void **state)
{
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE, 0), false, "an unsealed memfd");
    refused(memfd_with(0, SIZE, 0), false, "a memfd that cannot be sealed");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE, all & ~F_SEAL_SHRINK), false, "a memfd that can shrink");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE, all & ~F_SEAL_GROW), false, "a memfd that can grow");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE, all & ~F_SEAL_FUTURE_WRITE), false,
            "a memfd that others can write");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE / 2, all), false, "a memfd that is too small");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE * 4 + PAGE_BYTES, all), false, "a memfd that is too large");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE + 1, all), false, "a memfd of no whole pages");
    refused(memfd_with(MFD_ALLOW_SEALING, SIZE, all), true, "a memfd with holes");
    int one_hole = memfd_with(MFD_ALLOW_SEALING, SIZE, all);
    assert_int_equal(fallocate(one_hole, 0, 0, SIZE - PAGE_BYTES), 0);
    refused(one_hole, true, "a memfd with one hole");
    refused(open("/dev/null", O_RDONLY | O_CLOEXEC), false, "/dev/null");
    refused(eventfd(0, EFD_CLOEXEC), false, "an eventfd");
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    refused(p[0], false, "a pipe");
    close(p[1]);
    char path[] = "/var/tmp/berth-platform-XXXXXX"; /* a disk, where /tmp may be tmpfs */
    int file = mkostemp(path, O_CLOEXEC);
    assert_true(file >= 0);
    unlink(path);
    assert_int_equal(ftruncate(file, SIZE), 0);
    refused(file, false, "a file on disk");
    const void *map;
    uint64_t size;
    assert_int_equal(segment_open(-1, SIZE, SIZE, false, &map, &size, NULL), BERTH_E_PROTOCOL);
    assert_int_equal(segment_open(1 << 20, SIZE, SIZE, false, &map, &size, NULL), BERTH_E_PROTOCOL);
}

static void a_hugetlb_memfd_is_refused(void **state)
{
    int fd = memfd_with(MFD_ALLOW_SEALING | MFD_HUGETLB, SIZE * 2,
                        F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
    if (fd < 0) {
        print_message("no hugetlb memfd here: %s\n", strerror(errno));
        skip();
    }
    refused(fd, false, "a hugetlb memfd (reading one raises SIGBUS when the reserve runs out)");
}

static void a_good_segment_is_mapped_read_only(void **state)
{
    struct made m = make(SIZE * 2);
    const void *map;
    uint64_t size = 0;
    const char *why = "";
    assert_int_equal(segment_open(m.fd, SIZE, SIZE * 4, false, &map, &size, &why), 0);
    assert_int_equal(size, SIZE * 2);
    m.map[size - 1] = 9;
    assert_int_equal(((const volatile char *)map)[size - 1], 9);
    check(mprotect((void *)(uintptr_t)map, PAGE_BYTES, PROT_READ | PROT_WRITE) < 0,
          "the reader's map can be made writable");
    segment_unmap(map, size);
    assert_int_equal(fallocate(m.fd, 0, 0, (off_t)SIZE * 2), 0);
    assert_int_equal(segment_open(m.fd, SIZE, SIZE * 4, true, &map, &size, &why), 0);
    segment_unmap(map, size);
    assert_true(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
    drop(m, SIZE * 2);
}

/* Why `populated` is asked for at all. */
static void reading_a_hole_allocates(void **state)
{
    struct made m = make(SIZE);
    const void *map;
    uint64_t size;
    struct stat st;
    assert_int_equal(segment_open(m.fd, SIZE, SIZE, false, &map, &size, NULL), 0);
    assert_int_equal(fstat(m.fd, &st), 0);
    blkcnt_t before = st.st_blocks;
    for (uint64_t i = 0; i < SIZE; i += PAGE_BYTES)
        (void)((const volatile char *)map)[i];
    assert_int_equal(fstat(m.fd, &st), 0);
    check(st.st_blocks > before,
          "reading holes costs nothing on this kernel: no need to ask for populated segments");
    segment_unmap(map, size);
    drop(m, SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sealed_memfd_gets_no_new_writer),
        cmocka_unit_test(sealed_blocks_come_but_do_not_go),
        cmocka_unit_test(a_forked_child_writes_through_the_inherited_map),
        cmocka_unit_test(a_reader_sleeps_on_a_read_only_map),
        cmocka_unit_test(a_pipe_never_drained_is_a_broadcast),
        cmocka_unit_test(a_pipe_opened_anew_has_flags_of_its_own),
        cmocka_unit_test(epoll_pwait2_takes_nanoseconds),
        cmocka_unit_test(splices_do_not_wait_for_pipes),
        cmocka_unit_test(a_pipe_holds_a_thousand_records),
        cmocka_unit_test(records_are_whole_with_many_writers_and_readers),
        cmocka_unit_test(one_record_wakes_one_exclusive_sleeper),
        cmocka_unit_test(a_socket_tells_its_network_namespace),
        cmocka_unit_test(a_socket_cookie_survives_dup_and_fork),
        cmocka_unit_test(death_is_the_end_of_the_attach_socket),
        cmocka_unit_test(a_pidfd_is_readable_for_a_zombie),
        cmocka_unit_test(a_page_can_be_wiped_on_fork),
        cmocka_unit_test(rseq_tells_the_cpu_by_a_load),
        cmocka_unit_test(an_unconnected_tcp_socket_looks_hung_up),
        cmocka_unit_test(segments_that_are_refused),
        cmocka_unit_test(a_hugetlb_memfd_is_refused),
        cmocka_unit_test(a_good_segment_is_mapped_read_only),
        cmocka_unit_test(reading_a_hole_allocates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
