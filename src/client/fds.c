/* fds.c - descriptors of berth's own inside a program: out of its way, known as ours, and a few in reserve.
 *
 * A descriptor that finds the process's table full is lost on its way from the daemon (recvmsg drops it), and
 * where the table is full nothing new can be made. So a few are kept in reserve, and given up together when
 * one is needed; they are made again when there is room for more than them. lost.c asks again for what was
 * lost all the same.
 *
 * Bells. What wakes a worker is a pipe of its own. It watches it edge-triggered and never reads it: each
 * write is an edge for every epoll set that has it, also when there are bytes in it already. So one ring
 * wakes all, and none can be stolen. One that is full is emptied a little by who wants to ring it: whoever
 * filled it in between has rung it, after we had published what we ring for.
 *
 * O_NONBLOCK belongs to the open file description, and one that others hold too could be made to block at any
 * moment. Our own bell's nobody else has. Those of peers, and token pipes, come under one that others share,
 * and we open them anew through /proc, which costs a process that has just begun as much as twenty writes: not
 * for the first few times that they are written. Until then, and where they cannot be opened (after chroot; no
 * free descriptor), they stay as they came, and each time it is asked whether they would block. Into one that
 * would goes vmsplice, which takes its own flags and needs no descriptor. What it puts into a pipe is a page,
 * not a copy; so it is one that nobody writes any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/fds.h"

/* ---- descriptors of our own ---------------------------------------------------------------------------- */

#define OWN_FDS_MAX (1u << 20)

enum {
    OURS = 1,
    AS_CAME = 2, /* a pipe of others, under a description that others share */
    UNTRIED = 4  /* the same, which may still be opened anew */
};

APART static uint8_t fd_is[OWN_FDS_MAX]; /* zero pages until touched */

static bool fd_has(int fd, uint8_t what)
{
    return (uint32_t)fd < OWN_FDS_MAX && load_relaxed(&fd_is[fd]) & what;
}

/* Where there is no place for that, it is taken for the worst. */
static bool is_as_came(int fd)
{
    return (uint32_t)fd >= OWN_FDS_MAX || fd_has(fd, AS_CAME);
}

static uint32_t bound; /* only up */

uint32_t client_fds_bound(void)
{
    return load_acquire(&bound);
}

static void fd_become(int fd, uint8_t what)
{
    if ((uint32_t)fd < OWN_FDS_MAX)
        store_sc(&fd_is[fd], what);
}

void own_fd_set(int fd, bool ours)
{
    uint32_t is = load_relaxed(&bound);
    while (ours && fd >= 0 && is <= (uint32_t)fd && !compare_exchange_sc(&bound, &is, (uint32_t)fd + 1))
        ;
    fd_become(fd, ours ? OURS : 0);
}

bool client_owns_fd(int fd)
{
    return fd_has(fd, OURS);
}

static uint64_t fds_limit(void)
{
    struct rlimit64 rl = {.rlim_cur = 1024};
    (void)sys_call(SYS_prlimit64, 0L, (long)RLIMIT_NOFILE, 0L, &rl);
    return rl.rlim_cur;
}

static long base; /* 0: to be found */

/* From here on, out of the program's way. Where the limit has changed unseen they come where they may. */
static long own_base(void)
{
    long is = load_relaxed(&base);
    if (!is) {
        uint64_t limit = fds_limit();
        is = limit > 1400 ? 1030 : limit > 600 ? 400 : (long)(limit * 3 / 4);
        store_relaxed(&base, is);
    }
    return is;
}

/* Moved there, and known as ours. */
static int own_number(int fd)
{
    long high = sys_fcntl(fd, F_DUPFD_CLOEXEC, own_base());
    if (high >= 0) {
        (void)sys_close(fd);
        fd = (int)high;
    }
    own_fd_set(fd, true);
    return fd;
}

void own_fd_close(int fd)
{
    if (fd < 0)
        return;
    own_fd_set(fd, false);
    (void)sys_close(fd);
}

/* ---- descriptors in reserve ---------------------------------------------------------------------------- */

/* Two meetings, each of which takes a token pipe or a segment, page and bell, and keeps two of them at most;
 * an epoll set or two to wait in. */
#define SPARES 8u
#define SLACK 8u /* the last free ones are the program's */
#define KEEP_NS (20 * NS_PER_MS)

static int spare[SPARES];
static uint32_t spares;
/* of the reserve, and not used: these numbers are ours before they are the program's */
static uint32_t given_up;
struct plock spare_lock;

/* The last numbers are the last that are taken, as a rule: where they are free, so many are. */
static bool last_are_free(uint32_t n)
{
    struct pollfd last[SPARES + SLACK];
    const struct timespec now = {0};
    uint64_t limit = fds_limit();
    if (n > SPARES + SLACK || limit < n || limit > INT32_MAX)
        return false;
    for (uint32_t i = 0; i < n; i++)
        last[i] = (struct pollfd){.fd = (int)limit - 1 - (int)i};
    if (sys_ppoll(last, n, &now, NULL) != (long)n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (last[i].revents != POLLNVAL)
            return false;
    }
    return true;
}

bool fds_room(uint32_t n)
{
    int fd[SPARES + SLACK];
    uint32_t got = 0;
    if (last_are_free(n))
        return true;
    while (got < n && got < SPARES + SLACK &&
           (fd[got] = (int)sys_fcntl(C->bell_fd, F_DUPFD_CLOEXEC, 0L)) >= 0)
        got++;
    for (uint32_t i = 0; i < got; i++)
        (void)sys_close(fd[i]);
    return got == n;
}

/* spare_lock is held. */
static void spares_take(uint32_t upto)
{
    long from = spares < upto ? own_base() : 0;
    while (spares < upto) {
        long fd = spares ? sys_fcntl(spare[0], F_DUPFD_CLOEXEC, from) : sys_eventfd(O_CLOEXEC);
        if (fd < 0)
            return;
        if (spares)
            own_fd_set((int)fd, true);
        spare[spares] = spares ? (int)fd : own_number((int)fd);
        store_relaxed(&spares, spares + 1);
    }
}

static void spare_drop(void)
{
    own_fd_close(spare[spares - 1]);
    store_relaxed(&spares, spares - 1);
}

int own_fd(int fd)
{
    if (fd < 0)
        return fd;
    fd = own_number(fd);
    uint32_t has = load_relaxed(&given_up);
    while (has && !compare_exchange_sc(&given_up, &has, has - 1))
        ;
    if (!has && load_relaxed(&spares) &&
        !fds_room(SLACK)) { /* one of the program's last: the reserve pays for it */
        plock_take(&spare_lock);
        if (spares)
            spare_drop();
        plock_release(&spare_lock);
    }
    return fd;
}

uint32_t fds_keep(void)
{
    if (load_relaxed(&spares) == SPARES)
        return SPARES;
    plock_take(&spare_lock);
    uint32_t upto = spares + exchange_sc(&given_up, 0u);
    spares_take(upto < SPARES ? upto : SPARES);
    if (spares < SPARES && fds_room(SPARES + SLACK - spares))
        spares_take(SPARES);
    uint32_t have = spares;
    plock_release(&spare_lock);
    return have;
}

void client_fds_release(void)
{
    plock_take(&spare_lock);
    fetch_add_sc(&given_up, spares);
    while (spares)
        spare_drop();
    plock_release(&spare_lock);
}

void fds_expect(void)
{
    if (!fds_room(SPARES + SLACK))
        client_fds_release();
}

void client_fds_limited(void)
{
    uint64_t limit = fds_limit();
    bool above = false;
    store_relaxed(&base, 0l);
    plock_take(&spare_lock);
    for (uint32_t i = 0; i < spares; i++)
        above |= (uint64_t)spare[i] >= limit;
    while (above && spares)
        spare_drop();
    plock_release(&spare_lock);
    if (above)
        (void)fds_keep();
}

void fds_keep_again(void)
{
    static int64_t last;
    if (load_relaxed(&spares) == SPARES)
        return;
    int64_t now = clock_now();
    if (!load_relaxed(&given_up) && now - load_relaxed(&last) < KEEP_NS)
        return;
    store_relaxed(&last, now);
    (void)fds_keep();
}

int own_epoll(void)
{
    long ep = sys_epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0) {
        client_fds_release();
        ep = sys_epoll_create1(EPOLL_CLOEXEC);
    }
    return ep < 0 ? BERTH_E_NO_MEMORY : own_fd((int)ep);
}

/* ---- pipes that others write too ----------------------------------------------------------------------- */

#define BELL_TRIES 4

bool own_fd_is(int number, int fd)
{
    bool is = sys_call(SYS_dup3, (long)fd, (long)number, (long)O_CLOEXEC, 0) >= 0;
    own_fd_close(fd);
    return is;
}

static long open_anew(int fd, int access)
{
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return sys_call(SYS_openat, (long)AT_FDCWD, path, (long)(access | O_NONBLOCK | O_CLOEXEC), 0);
}

static long open_anew_surely(int fd, int access)
{
    long own = open_anew(fd, access);
    if (own == -EMFILE) {
        client_fds_release();
        own = open_anew(fd, access);
    }
    return own;
}

int own_pipe(int fd)
{
    if (fd < 0)
        return fd;
    long own = open_anew_surely(fd, O_RDWR);
    if (own >= 0) {
        (void)sys_close(fd);
        return own_fd((int)own);
    }
    fd = own_fd(fd);
    fd_become(fd, OURS | AS_CAME);
    return fd;
}

void pipe_anew(int fd, int access)
{
    long own = fd < 0 ? -1 : open_anew_surely(fd, access);
    fd_become(fd, own >= 0 && own_fd_is(fd, (int)own) ? OURS : OURS | AS_CAME);
}

int own_pipe_later(int fd)
{
    fd = own_fd(fd);
    fd_become(fd, OURS | AS_CAME | UNTRIED);
    return fd;
}

#define FEW 8u

/* About: numbers that share a count get there sooner. */
static bool is_written_often(int fd)
{
    static uint8_t times[64];
    return fetch_add_sc(&times[fd % 64], 1) % FEW == FEW - 1;
}

/* Whoever connects to us may be of another user than we are now or were when the pipe was made, and opens
 * what it was given. Who does not hold the descriptor does not find the pipe. */
void let_others_open(int fd)
{
    (void)sys_call(SYS_fchmod, (long)fd, 0666L, 0, 0);
}

int bell_without_daemon(void)
{
    long fd = sys_eventfd(O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? BERTH_E_NO_MEMORY : own_fd((int)fd);
}

/* A pipe that has no reader any more raises SIGPIPE, which the program must not see: it is taken while it is
 * blocked. */
static long splice_in(int fd, const void *still, size_t n)
{
    const uint64_t all = ~0ull, sigpipe = 1ull << (SIGPIPE - 1);
    const struct timespec now = {0};
    uint64_t was = 0, pending = 0;
    struct iovec v = {.iov_base = (void *)(uintptr_t)still, .iov_len = n};
    (void)sys_call(SYS_rt_sigprocmask, (long)SIG_SETMASK, &all, &was, 8L);
    (void)sys_call(SYS_rt_sigpending, &pending, 8L, 0, 0);
    long ret = sys_call(SYS_vmsplice, (long)fd, &v, 1L, (long)SPLICE_F_NONBLOCK);
    if (ret == -EPIPE && !(pending & sigpipe))
        (void)sys_call(SYS_rt_sigtimedwait, &sigpipe, 0, &now, 8L);
    (void)sys_call(SYS_rt_sigprocmask, (long)SIG_SETMASK, &was, 0, 8L);
    return ret;
}

/* Not as long as it does not block: a write adds to the page that the last one began, what is spliced takes a
 * page of the few for itself. Only who clears the flag in this very moment, a process of our own user, can
 * still make us wait. */
static bool must_splice(int fd)
{
    if (!is_as_came(fd))
        return false;
    if (fd_has(fd, UNTRIED) && is_written_often(fd)) {
        pipe_anew(fd, O_RDWR);
        if (!is_as_came(fd))
            return false;
    }
    long flags = sys_fcntl(fd, F_GETFL, 0L);
    /* else a write may raise SIGPIPE */
    return flags < 0 || !(flags & O_NONBLOCK) || (flags & O_ACCMODE) != O_RDWR;
}

long pipe_put(int fd, const void *data, size_t n)
{
    if (!must_splice(fd))
        return sys_write(fd, data, (long)n);
    void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -EAGAIN;
    memcpy(page, data, n);
    long ret = splice_in(fd, page, n);
    (void)munmap(page, PAGE_BYTES);
    return ret;
}

/* Eight bytes at a time, which bell_without_daemon's understands too. */
static long ring_once(int fd)
{
    static const uint64_t one = 1;
    return must_splice(fd) ? splice_in(fd, &one, sizeof one) : sys_write(fd, &one, (long)sizeof one);
}

/* What cannot be read without its flags goes into our own bell, where a ring too many does no harm. */
static void empty_a_little(int fd)
{
    char some[PAGE_BYTES];
    if (!must_splice(fd)) {
        (void)sys_read(fd, some, (long)sizeof some);
        return;
    }
    for (int i = 0; i < 2; i++) {
        long n = sys_call6(SYS_splice, fd, 0, C->bell_fd, 0, (long)PAGE_BYTES, SPLICE_F_NONBLOCK);
        if (n != -EAGAIN)
            break;
        (void)sys_read(C->bell_fd, some, (long)sizeof some);
    }
}

void bell_ring(int fd)
{
    long n = ring_once(fd);
    for (int i = 0; n == -EAGAIN && i < BELL_TRIES; i++) {
        empty_a_little(fd);
        n = ring_once(fd);
    }
}
