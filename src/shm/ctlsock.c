/* ctlsock.c - the way to the daemon: runtime directory, connection, packets with descriptors.
 *
 * Theory of operation
 *
 * One daemon serves one runtime directory and listens there on a SEQPACKET socket, so that each packet is one
 * message of control.h and the end of the connection is the death of the other side. This file is the one
 * place that knows the rule by which everybody (daemon, command, library, preload library) finds the same
 * directory, and the one place that packs and unpacks SCM_RIGHTS.
 *
 * Invariants: no libc call that the preload library replaces; errno is as before on return; a descriptor that
 * came with a packet is either handed to the caller or closed, whatever else goes wrong; every descriptor
 * made here is CLOEXEC.
 */
#include "shm/ctlsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/sys.h"
#include "berth/error.h"
#include "shm/control.h"

_Static_assert(RUNTIME_DIR_MAX + sizeof CTL_SOCKET_NAME <= sizeof((struct sockaddr_un *)0)->sun_path,
               "a runtime directory of the longest name must leave room for the socket's");

static const struct timeval daemon_patience = {.tv_usec = 300000};

/* ---- runtime directory ---- */

static bool own_directory(const char *path, uid_t uid, mode_t forbidden)
{
    struct stat st = {0}; /* the analyzer does not see that a raw call fills it */
    if (sys_call(SYS_newfstatat, (long)AT_FDCWD, path, &st, (long)AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    return S_ISDIR(st.st_mode) && st.st_uid == uid && !(st.st_mode & forbidden);
}

static int make_absolute(const char *path, char *out, size_t size)
{
    int n;
    if (path[0] == '/') {
        n = snprintf(out, size, "%s", path);
    } else {
        char cwd[4096];
        if (sys_call(SYS_getcwd, cwd, (long)sizeof cwd, 0, 0) < 0)
            return BERTH_E_INVALID;
        n = snprintf(out, size, "%s/%s", cwd, path);
    }
    return n > 0 && (size_t)n < size ? 0 : BERTH_E_INVALID;
}

static int choose(const char *given, char out[RUNTIME_DIR_MAX])
{
    if (given && *given)
        return make_absolute(given, out, RUNTIME_DIR_MAX);
    const char *env = secure_getenv("BERTH_RUNTIME_DIR");
    if (env && *env)
        return make_absolute(env, out, RUNTIME_DIR_MAX);
    uid_t uid = (uid_t)sys_call(SYS_geteuid, 0L, 0, 0, 0);
    if (uid == 0)
        return make_absolute("/run/berth", out, RUNTIME_DIR_MAX);
    env = secure_getenv("XDG_RUNTIME_DIR");
    /* after su or sudo it often is another user's: then it is as if it were not set */
    if (env && env[0] == '/' && own_directory(env, uid, 0)) {
        int n = snprintf(out, RUNTIME_DIR_MAX, "%s/berth", env);
        if (n > 0 && n < (int)RUNTIME_DIR_MAX)
            return 0;
    }
    (void)snprintf(out, RUNTIME_DIR_MAX, "/tmp/berth-%u", (unsigned)uid);
    long made = sys_call(SYS_mkdirat, (long)AT_FDCWD, out, 0700L, 0);
    if (made < 0 && made != -EEXIST)
        return BERTH_E_PERMISSION;
    /* /tmp is everybody's: somebody may have been there first, with a directory or a link of his own */
    return own_directory(out, uid, S_IWGRP | S_IWOTH) ? 0 : BERTH_E_PERMISSION;
}

int runtime_dir_resolve(const char *given, char *out, size_t size)
{
    int saved = errno;
    char dir[RUNTIME_DIR_MAX];
    int err = choose(given, dir);
    if (!err) {
        size_t len = strlen(dir);
        while (len > 1 && dir[len - 1] == '/')
            dir[--len] = '\0';
        if (len >= size)
            err = BERTH_E_INVALID;
        else
            memcpy(out, dir, len + 1);
    }
    errno = saved;
    return err;
}

/* ---- connection ---- */

static int connect_error(long ret)
{
    switch (-ret) {
    case EACCES:
    case EPERM:
        return BERTH_E_PERMISSION;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        return BERTH_E_NO_MEMORY;
    default: /* no such path, nobody listens, or too busy for as long as we wait */
        return BERTH_E_NO_DAEMON;
    }
}

int ctl_connect(const char *runtime_dir)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    size_t len = strlen(runtime_dir);
    if (len + sizeof "/" CTL_SOCKET_NAME > sizeof sa.sun_path)
        return BERTH_E_INVALID;
    memcpy(sa.sun_path, runtime_dir, len);
    memcpy(sa.sun_path + len, "/" CTL_SOCKET_NAME, sizeof "/" CTL_SOCKET_NAME);

    long sock = sys_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return connect_error(sock);
    /* bounds the connect too: a stopped daemon with a full backlog must not hang its apps */
    (void)sys_call6(SYS_setsockopt, sock, SOL_SOCKET, SO_SNDTIMEO, sys_arg(&daemon_patience),
                    sizeof daemon_patience, 0);
    long ret;
    do {
        ret = sys_connect(sock, &sa, sizeof sa);
    } while (ret == -EINTR);
    if (ret == 0)
        return (int)sock;
    (void)sys_close(sock);
    return connect_error(ret);
}

/* ---- packets ---- */

union control_room {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(CTL_FDS_MAX * sizeof(int))];
};

static int send_error(long ret)
{
    switch (-ret) {
    case EAGAIN:
        return BERTH_E_WOULD_BLOCK;
    case ENOMEM:
    case ENOBUFS:
    case ETOOMANYREFS:
        return BERTH_E_NO_MEMORY;
    case EMSGSIZE:
    case EBADF:
    case EINVAL:
        return BERTH_E_INVALID;
    default:
        return BERTH_E_DAEMON_GONE;
    }
}

int ctl_send(int sock, const void *msg, size_t len, const int *fds, int nfds, int flags)
{
    union control_room room;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)msg, .iov_len = len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds < 0 || nfds > (int)CTL_FDS_MAX)
        return BERTH_E_INVALID;
    if (nfds > 0) {
        memset(&room, 0, sizeof room);
        mh.msg_control = room.bytes;
        mh.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)nfds * sizeof(int));
    }
    long ret;
    do {
        ret = sys_sendmsg(sock, &mh, flags | MSG_NOSIGNAL);
    } while (ret == -EINTR);
    return ret < 0 ? send_error(ret) : 0;
}

/* As many as the kernel lets through. What finds no room it would close itself, and us wait for it
 * (daemon/pipes.c). */
#define FDS_OF_A_PACKET 253u /* its SCM_MAX_FD */

union receive_room {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(FDS_OF_A_PACKET * sizeof(int))];
};

static void close_now(int fd)
{
    (void)sys_close(fd);
}

void (*ctl_close)(int fd) = close_now;

/* How many there are; those beyond CTL_FDS_MAX are closed. */
static int take_descriptors(struct msghdr *mh, int out[CTL_FDS_MAX])
{
    int n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++, n++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (n < (int)CTL_FDS_MAX)
                out[n] = fd;
            else
                ctl_close(fd);
        }
    }
    return n;
}

int ctl_recv(int sock, void *buf, size_t size, int *fds, int *nfds, int flags)
{
    union receive_room room;
    struct iovec iov = {.iov_base = buf, .iov_len = size};
    struct msghdr mh = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room.bytes, .msg_controllen = sizeof room};
    int got[CTL_FDS_MAX] = {0}, n, err = 0;

    room.align = (struct cmsghdr){0};
    if (nfds)
        *nfds = 0;
    long ret = sys_recvmsg(sock, &mh, flags | MSG_CMSG_CLOEXEC);
    if (ret < 0)
        return ret == -EAGAIN  ? BERTH_E_WOULD_BLOCK
               : ret == -EINTR ? BERTH_E_INTERRUPTED
                               : BERTH_E_DAEMON_GONE;
    n = take_descriptors(&mh, got);
    if (mh.msg_flags & MSG_CTRUNC) /* this process's table is full */
        err = BERTH_E_NO_MEMORY;
    if (n > (int)CTL_FDS_MAX) {
        n = (int)CTL_FDS_MAX;
        err = BERTH_E_PROTOCOL;
    }
    if (mh.msg_flags & MSG_TRUNC ||
        (ret == 0 && n > 0)) /* an empty packet is no message, and no end if it has descriptors */
        err = BERTH_E_PROTOCOL;
    if (err || !fds || !nfds) {
        while (n > 0)
            ctl_close(got[--n]);
        return err ? err : (int)ret;
    }
    memcpy(fds, got, (size_t)n * sizeof got[0]);
    *nfds = n;
    return (int)ret;
}
