/* fds.c - descriptors of berth's own inside a program: out of its way, known as ours, and a few in reserve.
 *
 * A descriptor that finds the process's table full is lost on its way from the daemon (recvmsg drops it), and where the
 * table is full nothing new can be made. So a few are kept in reserve, and given up together when one is needed; they are
 * made again when there is room for more than them. control.c asks again for what was lost all the same.
 *
 * Bells. What wakes a worker is a pipe of its own. It watches it edge-triggered and never reads it: each write is an edge
 * for every epoll set that has it, also when there are bytes in it already. So one ring wakes all, and none can be stolen.
 * O_NONBLOCK belongs to the open file description, and one that others hold too could be made to block at any moment. So the
 * daemon, which has a /proc wherever we are, opens a bell or a listener's token pipe anew for each whom it gives it to, the owner
 * of the bell among them: what came from there is nobody else's. A bell that is full is read a little by who wants to
 * ring it: whoever filled it in between has rung it, after we had published what we ring for.
 * One thing is left: the kernel holds a pipe's lock while it copies what is written. Who writes out of memory whose pages
 * come when he likes (a FUSE file, userfaultfd) makes others wait for it, whatever their flags.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"

/* ---- descriptors of our own ---------------------------------------------------------------------------------- */

#define OWN_FDS_MAX (1u << 20)
static uint8_t own_fds[OWN_FDS_MAX / 8]; /* zero pages until touched */

void own_fd_set(int fd, bool ours)
{
    if (fd < 0 || (uint32_t)fd >= OWN_FDS_MAX)
        return;
    uint8_t bit = (uint8_t)(1u << (fd % 8));
    if (ours)
        fetch_or_sc(&own_fds[fd / 8], bit);
    else
        fetch_and_sc(&own_fds[fd / 8], (uint8_t)~bit);
}

bool client_owns_fd(int fd)
{
    return fd >= 0 && (uint32_t)fd < OWN_FDS_MAX && load_relaxed(&own_fds[fd / 8]) >> (fd % 8) & 1;
}

int own_fd(int fd)
{
    static int base;
    if (fd < 0)
        return fd;
    if (!base) {
        struct rlimit rl;
        base = getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur > 1400 ? 1030 : 400;
        if (rl.rlim_cur <= 600)
            base = (int)(rl.rlim_cur * 3 / 4);
    }
    long high = sys_fcntl(fd, F_DUPFD_CLOEXEC, (long)base);
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

/* ---- descriptors in reserve ------------------------------------------------------------------------------------ */

/* Two meetings, each of which takes a token pipe or a segment, page and bell, and keeps two of them at most; an epoll set
 * or two to wait in. */
#define SPARES 8u
#define SLACK 8u /* the last free ones are the program's */
#define KEEP_NS (20 * NS_PER_MS)

static int spare[SPARES];
static uint32_t spares;
static struct plock spare_lock;

bool fds_room(uint32_t n)
{
    int fd[SPARES + SLACK];
    uint32_t got = 0;
    while (got < n && got < SPARES + SLACK && (fd[got] = (int)sys_fcntl(C->kick_fd, F_DUPFD_CLOEXEC, 0L)) >= 0)
        got++;
    for (uint32_t i = 0; i < got; i++)
        (void)sys_close(fd[i]);
    return got == n;
}

uint32_t fds_keep(void)
{
    if (load_relaxed(&spares) == SPARES)
        return SPARES;
    plock_take(&spare_lock);
    bool room = fds_room(SPARES + SLACK - spares);
    while (room && spares < SPARES) {
        long fd = sys_eventfd(O_CLOEXEC);
        if (fd < 0)
            break;
        spare[spares] = own_fd((int)fd);
        store_relaxed(&spares, spares + 1);
    }
    uint32_t have = spares;
    plock_release(&spare_lock);
    return have;
}

void client_fds_release(void)
{
    plock_take(&spare_lock);
    while (spares) {
        own_fd_close(spare[spares - 1]);
        store_relaxed(&spares, spares - 1);
    }
    plock_release(&spare_lock);
}

void fds_keep_again(void)
{
    static int64_t last;
    int64_t now;
    if (load_relaxed(&spares) == SPARES || (now = clock_now()) - load_relaxed(&last) < KEEP_NS)
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

/* In a forked child: a thread of the parent may have had the lock. */
void fds_forked(void)
{
    spare_lock.word = 0;
}

/* ---- pipes that others write too ----------------------------------------------------------------------------------- */

#define BELL_BYTES (2 * PAGE_BYTES) /* never drained, so small: two pages, of which one can be emptied by reading */
#define BELL_TRIES 4

/* The daemon may be of another user than we are now or were when the pipe was made, and opens what we gave it. Who does not
 * hold the descriptor does not find the pipe. */
void let_others_open(int fd)
{
    (void)sys_call(SYS_fchmod, (long)fd, 0666L, 0, 0);
}

int bell_create(void)
{
    int fds[2] = {-1, -1};
    long err = sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC);
    if (err == -EMFILE) {
        client_fds_release();
        err = sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC);
    }
    if (err < 0)
        return BERTH_E_NO_MEMORY;
    (void)sys_fcntl(fds[1], F_SETPIPE_SZ, (long)BELL_BYTES);
    let_others_open(fds[1]);
    (void)sys_close(fds[0]);
    return fds[1];
}

int bell_without_daemon(void)
{
    long fd = sys_eventfd(O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? BERTH_E_NO_MEMORY : own_fd((int)fd);
}

/* Eight bytes at a time, which bell_without_daemon's understands too. */
void bell_ring(int fd)
{
    char some[PAGE_BYTES];
    uint64_t one = 1;
    long n = sys_write(fd, &one, 8L);
    for (int i = 0; n == -EAGAIN && i < BELL_TRIES; i++) {
        (void)sys_read(fd, some, (long)sizeof some);
        n = sys_write(fd, &one, 8L);
    }
}
