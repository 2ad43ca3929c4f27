/* pipes.c - pipes of workers, by which others wake them and offer them sessions, opened anew for each who gets them.
 *
 * Theory of operation
 *
 * Whoever writes into a pipe of another must not be made to wait, and O_NONBLOCK belongs to the open file description: whoever
 * holds one together with others can clear it at any moment. So no two processes are given the same one: each handout opens the
 * pipe anew, through /proc/self/fd, which the daemon has even where workers have none. What a worker gave is kept to open it by,
 * and never written or read here.
 *
 * Only anonymous pipes are opened, and the kernel says which these are without asking a file system: that of a foreign
 * descriptor may be anybody's, and answer when it likes.
 *
 * What is left: the kernel holds a pipe's lock while it copies what is written, and an open waits for it. A worker that writes
 * out of memory whose pages come when it likes (a FUSE file, userfaultfd) can so make its own introductions wait, and with them
 * the daemon.
 *
 * An open needs a descriptor for as long as its message takes to be sent. One is kept in reserve for it, so that a full table
 * delays nobody's introduction: there is one thread, so it is back before the next needs it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/registry.h"

static void path_of(int fd, char path[32])
{
    (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
}

bool pipes_can_be_opened(const struct daemon *d)
{
    char path[32], target[8];
    path_of(d->epfd, path);
    return readlink(path, target, sizeof target) > 0;
}

bool is_pipe_for_writing(int fd)
{
    char path[32], target[8] = "";
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY)
        return false;
    path_of(fd, path);
    return readlink(path, target, sizeof target - 1) > 0 && !strncmp(target, "pipe:[", 6);
}

void pipes_reserve(struct daemon *d)
{
    if (d->reserve_fd < 0)
        d->reserve_fd = fcntl(d->epfd, F_DUPFD_CLOEXEC, 3);
}

int pipe_open_anew(struct daemon *d, int fd)
{
    char path[32];
    path_of(fd, path);
    /* for reading too: a pipe whose owner has gone raises no SIGPIPE in those who write, and a full one can be emptied */
    int own = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (own < 0 && errno == EMFILE && d->reserve_fd >= 0) {
        close(d->reserve_fd);
        d->reserve_fd = -1;
        own = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    if (own >= 0)
        return own;
    int err = errno;
    log_warn("a pipe of a worker cannot be opened: %s", strerror(err));
    pipes_reserve(d);
    return err == EMFILE || err == ENFILE || err == ENOMEM ? BERTH_E_NO_MEMORY : BERTH_E_PERMISSION;
}

void pipe_sent(struct daemon *d, int own)
{
    close(own);
    pipes_reserve(d);
}
