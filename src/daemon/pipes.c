/* pipes.c - pipes that wake workers, and the closing of what workers gave.
 *
 * Theory of operation
 *
 * The kernel holds a pipe's lock while it copies what somebody writes. Who writes out of memory whose pages
 * come when he likes (a FUSE file, userfaultfd) holds it as long as he likes, and whoever opens the pipe,
 * asks for its size, reads or writes it waits. Between processes of one user that hurts nobody who could not
 * be killed as well; the daemon serves many. So it does nothing of the kind with a pipe that anybody else
 * has: it asks for flags and the name only, and passes descriptors on.
 *
 * A worker's bell is made here, while nobody else knows it, so that workers need no /proc for it: one
 * description for the owner alone, one for all peers (client/fds.c says what they make of it). Both are for
 * reading too: no write raises SIGPIPE, and a full bell can be emptied.
 *
 * The last close of a description can wait likewise: a pipe's for the lock, a FUSE file's for its server, a
 * socket's for its peer, and that of a socket with descriptors unread for all of these. Such closes have
 * threads of their own, which do nothing else, as many as wait and one more. Two are left: descriptors that
 * come while our table is full the kernel closes itself, and a daemon that is to end ends when such threads
 * do.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/registry.h"

/* never drained, so small: two pages, of which one can be emptied */
#define BELL_BYTES ((int)(2 * PAGE_BYTES))
#define CLOSER_STACK (64u << 10)

static void path_of(int fd, char path[32])
{
    (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
}

bool pipes_can_be_known(const struct daemon *d)
{
    char path[32], target[8];
    path_of(d->epfd, path);
    return readlink(path, target, sizeof target) > 0;
}

/* The kernel names anonymous pipes itself: no file system, which may be anybody's, is asked. */
bool is_pipe_for_writing(int fd)
{
    char path[32], target[8] = "";
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY)
        return false;
    path_of(fd, path);
    return readlink(path, target, sizeof target - 1) > 0 && !strncmp(target, "pipe:[", 6);
}

static int bell_new(int *peers, int *owner)
{
    int p[2];
    char path[32];
    if (pipe2(p, O_NONBLOCK | O_CLOEXEC) < 0)
        return BERTH_E_NO_MEMORY;
    (void)fcntl(p[1], F_SETPIPE_SZ, BELL_BYTES);
    (void)fchmod(p[1], 0666); /* whoever holds it opens it anew, whatever his user; nobody else finds it */
    path_of(p[1], path);
    int one = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int other = one < 0 ? -1 : open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    close(p[0]);
    close(p[1]);
    if (other < 0) {
        if (one >= 0)
            close(one);
        return BERTH_E_NO_MEMORY;
    }
    *peers = one;
    *owner = other;
    return 0;
}

static int ready_peers = -1, ready_owner = -1;

void bell_prepare(void)
{
    if (ready_peers < 0)
        (void)bell_new(&ready_peers, &ready_owner); /* else it is tried when one is needed */
}

int bell_make(int *peers, int *owner)
{
    if (ready_peers < 0)
        return bell_new(peers, owner);
    *peers = ready_peers;
    *owner = ready_owner;
    ready_peers = -1;
    return 0;
}

static bool closes_at_once(int fd)
{
    int type = 0, domain = 0;
    socklen_t len = sizeof type;
    if (fcntl(fd, F_GET_SEALS) >= 0) /* a memfd, as most are */
        return true;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_DGRAM &&
           getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_INET;
}

#define STUCK_NS (10 * NS_PER_MS)
#define CLOSERS_IDLE 2u

/* One thread closes; when it has not come to an end for a while and more is to be closed, the watching one
 * starts another. A closer that has just had work naps before it sleeps: what comes meanwhile and has no hurry
 * needs nobody to be woken. */
#define NAP_NS (2 * NS_PER_MS)
#define MANY 32u /* descriptors are few: so many have a hurry */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, watch;
    int *fds;
    size_t count, room;
    uint32_t idle, done; /* closers that wait; closes, ever */
    uint32_t napping;    /* of those that wait, how many look again by themselves */
    bool started;
} aside = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .watch = PTHREAD_COND_INITIALIZER};

/* aside.lock is held. */
static void wait_for_work(bool nap)
{
    aside.idle++;
    if (nap && !aside.count) {
        struct timespec until = clock_timespec(clock_now() + NAP_NS);
        aside.napping++;
        (void)pthread_cond_clockwait(&aside.work, &aside.lock, CLOCK_MONOTONIC, &until);
        aside.napping--;
    }
    while (!aside.count)
        pthread_cond_wait(&aside.work, &aside.lock);
    aside.idle--;
}

static void *closer(void *unused)
{
    bool again = false;
    pthread_mutex_lock(&aside.lock);
    while (aside.idle < CLOSERS_IDLE) {
        wait_for_work(again);
        again = true;
        while (aside.count) {
            int fd = aside.fds[--aside.count];
            pthread_mutex_unlock(&aside.lock);
            close(fd);
            pthread_mutex_lock(&aside.lock);
            aside.done++;
        }
    }
    pthread_mutex_unlock(&aside.lock);
    return NULL;
}

static int thread_start(void *(*run)(void *))
{
    pthread_attr_t attr;
    pthread_t thread;
    int err = pthread_attr_init(&attr);
    if (err)
        return err;
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, CLOSER_STACK);
    err = pthread_create(&thread, &attr, run, NULL);
    (void)pthread_attr_destroy(&attr);
    if (err) /* better a few descriptors more than a daemon that may hang */
        log_warn("no thread to close descriptors in: %s", strerror(err));
    return err;
}

static void *watcher(void *unused)
{
    static const struct timespec a_while = {.tv_nsec = STUCK_NS};
    pthread_mutex_lock(&aside.lock);
    for (;;) {
        while (!aside.count)
            pthread_cond_wait(&aside.watch, &aside.lock);
        uint32_t done = aside.done;
        pthread_mutex_unlock(&aside.lock);
        (void)nanosleep(&a_while, NULL);
        pthread_mutex_lock(&aside.lock);
        if (aside.count && aside.done == done && !aside.idle)
            (void)thread_start(closer);
    }
    return NULL;
}

static void put_aside(int fd, bool hurry)
{
    pthread_mutex_lock(&aside.lock);
    if (aside.count == aside.room) {
        size_t room = aside.room ? 2 * aside.room : 64;
        int *more = reallocarray(aside.fds, room, sizeof *more);
        if (more) {
            aside.fds = more;
            aside.room = room;
        }
    }
    if (aside.count < aside.room)
        aside.fds[aside.count++] = fd;
    else
        log_warn("no memory to close a descriptor with");
    if (!aside.started && thread_start(watcher) == 0)
        aside.started = true; /* it starts the first closer, too: who waits here has no hurry */
    if (hurry || !aside.napping || aside.count >= MANY)
        pthread_cond_signal(&aside.work);
    pthread_cond_signal(&aside.watch);
    pthread_mutex_unlock(&aside.lock);
}

static void close_well(int fd, bool hurry)
{
    if (fd >= 0 && closes_at_once(fd))
        close(fd);
    else if (fd >= 0)
        put_aside(fd, hurry);
}

void close_aside(int fd)
{
    close_well(fd, true);
}

void close_soon(int fd)
{
    close_well(fd, false);
}
