/* real.h - the functions that the preload library replaces, as the next library in line (libc) has them.
 *
 * Each pointer starts at a trampoline that resolves them all, so a call may come before any constructor ran,
 * and the common path is one indirect call without a test. One that libc lacks answers ENOSYS.
 */
#ifndef BERTH_SHIM_REAL_H
#define BERTH_SHIM_REAL_H

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#define REAL_FUNCTIONS(X)                                                                                    \
    X(int, socket, (int d, int t, int p), (d, t, p))                                                         \
    X(int, bind, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))                                \
    X(int, listen, (int fd, int n), (fd, n))                                                                 \
    X(int, accept4, (int fd, struct sockaddr *a, socklen_t *n, int f), (fd, a, n, f))                        \
    X(int, accept, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))                                   \
    X(int, connect, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))                             \
    X(int, shutdown, (int fd, int how), (fd, how))                                                           \
    X(int, close, (int fd), (fd))                                                                            \
    X(int, close_range, (unsigned a, unsigned b, int f), (a, b, f))                                          \
    X(int, dup, (int fd), (fd))                                                                              \
    X(int, dup2, (int a, int b), (a, b))                                                                     \
    X(int, dup3, (int a, int b, int f), (a, b, f))                                                           \
    X(int, fcntl, (int fd, int c, void *a), (fd, c, a))                                                      \
    X(int, ioctl, (int fd, unsigned long r, void *a), (fd, r, a))                                            \
    X(ssize_t, read, (int fd, void *b, size_t n), (fd, b, n))                                                \
    X(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n))                                         \
    X(ssize_t, readv, (int fd, const struct iovec *v, int n), (fd, v, n))                                    \
    X(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))                                   \
    X(ssize_t, preadv2, (int fd, const struct iovec *v, int n, off64_t o, int f), (fd, v, n, o, f))          \
    X(ssize_t, pwritev2, (int fd, const struct iovec *v, int n, off64_t o, int f), (fd, v, n, o, f))         \
    X(ssize_t, recv, (int fd, void *b, size_t n, int f), (fd, b, n, f))                                      \
    X(ssize_t, recvfrom, (int fd, void *b, size_t n, int f, struct sockaddr *a, socklen_t *l),               \
      (fd, b, n, f, a, l))                                                                                   \
    X(ssize_t, recvmsg, (int fd, struct msghdr *m, int f), (fd, m, f))                                       \
    X(int, recvmmsg, (int fd, struct mmsghdr *m, unsigned n, int f, struct timespec *t), (fd, m, n, f, t))   \
    X(ssize_t, send, (int fd, const void *b, size_t n, int f), (fd, b, n, f))                                \
    X(ssize_t, sendto, (int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l),      \
      (fd, b, n, f, a, l))                                                                                   \
    X(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f))                                 \
    X(int, sendmmsg, (int fd, struct mmsghdr *m, unsigned n, int f), (fd, m, n, f))                          \
    X(ssize_t, sendfile64, (int out, int in, off64_t *o, size_t n), (out, in, o, n))                         \
    X(ssize_t, splice, (int a, off64_t *ao, int b, off64_t *bo, size_t n, unsigned f), (a, ao, b, bo, n, f)) \
    X(int, getsockname, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))                              \
    X(int, getpeername, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))                              \
    X(int, getsockopt, (int fd, int l, int o, void *v, socklen_t *n), (fd, l, o, v, n))                      \
    X(int, setsockopt, (int fd, int l, int o, const void *v, socklen_t n), (fd, l, o, v, n))                 \
    X(int, poll, (struct pollfd * p, nfds_t n, int t), (p, n, t))                                            \
    X(int, ppoll, (struct pollfd * p, nfds_t n, const struct timespec *t, const sigset_t *m), (p, n, t, m))  \
    X(int, select, (int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t), (n, r, w, e, t))             \
    X(int, pselect, (int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *t, const sigset_t *m),   \
      (n, r, w, e, t, m))                                                                                    \
    X(int, epoll_create, (int n), (n))                                                                       \
    X(int, epoll_create1, (int f), (f))                                                                      \
    X(int, epoll_ctl, (int ep, int op, int fd, struct epoll_event *ev), (ep, op, fd, ev))                    \
    X(int, epoll_wait, (int ep, struct epoll_event *ev, int n, int t), (ep, ev, n, t))                       \
    X(int, epoll_pwait, (int ep, struct epoll_event *ev, int n, int t, const sigset_t *m),                   \
      (ep, ev, n, t, m))                                                                                     \
    X(int, epoll_pwait2,                                                                                     \
      (int ep, struct epoll_event *ev, int n, const struct timespec *t, const sigset_t *m),                  \
      (ep, ev, n, t, m))                                                                                     \
    X(int, sigsuspend, (const sigset_t *m), (m))                                                             \
    X(int, sigaction, (int s, const struct sigaction *a, struct sigaction *o), (s, a, o))

struct real_functions {
#define X(ret, name, params, args) ret(*name) params;
    REAL_FUNCTIONS(X)
#undef X
};

extern struct real_functions real;
void real_resolve(void);

#endif
