/* calls.h - every call that blocks, each on sockets of its own, and what ends its wait. */
#ifndef BERTH_TESTS_CALLS_H
#define BERTH_TESTS_CALLS_H

#include "posix.h"

enum call {
    RECV,
    READ,
    READV,
    RECVMSG,
    RECV_TIMED,
    RECV_ALL,
    RECV_PEEK,
    SEND,
    WRITEV,
    SEND_TIMED,
    ACCEPT,
    ACCEPT_TIMED,
    POLL,
    PPOLL,
    SELECT,
    PSELECT,
    EPOLL,
    SPLICE_IN,
    SPLICE_OUT,
    SENDFILE,
    CALLS
};

static const char *const call_names[CALLS] = {"recv",
                                              "read",
                                              "readv",
                                              "recvmsg",
                                              "recv with SO_RCVTIMEO",
                                              "recv MSG_WAITALL",
                                              "recv MSG_PEEK",
                                              "send",
                                              "writev",
                                              "send with SO_SNDTIMEO",
                                              "accept",
                                              "accept with SO_RCVTIMEO",
                                              "poll",
                                              "ppoll",
                                              "select",
                                              "pselect",
                                              "epoll_wait",
                                              "splice from a session",
                                              "splice into a session",
                                              "sendfile"};

struct scene {
    int l, s[2], pipe[2], ep, file;
};

static inline bool call_sends(enum call call)
{
    return call == SEND || call == WRITEV || call == SEND_TIMED || call == SPLICE_OUT || call == SENDFILE;
}

static inline struct scene scene_for(enum call call)
{
    struct scene sc = {.ep = -1, .file = -1};
    struct timeval long_time = {60, 0};
    sc.l = listener();
    pair_at(sc.l, sc.s);
    if (pipe(sc.pipe) < 0)
        abort();
    if (call == RECV_TIMED)
        (void)setsockopt(sc.s[1], SOL_SOCKET, SO_RCVTIMEO, &long_time, sizeof long_time);
    if (call == SEND_TIMED)
        (void)setsockopt(sc.s[1], SOL_SOCKET, SO_SNDTIMEO, &long_time, sizeof long_time);
    if (call == ACCEPT_TIMED)
        (void)setsockopt(sc.l, SOL_SOCKET, SO_RCVTIMEO, &long_time, sizeof long_time);
    if (call_sends(call)) {
        int size = 65536;
        (void)setsockopt(sc.s[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        fill(sc.s[1]);
    }
    if (call == EPOLL) {
        struct epoll_event ev = {.events = EPOLLIN};
        sc.ep = epoll_create1(0);
        (void)epoll_ctl(sc.ep, EPOLL_CTL_ADD, sc.s[1], &ev);
    }
    if (call == SPLICE_OUT && write(sc.pipe[1], buf, 4096) != 4096)
        abort();
    if (call == SENDFILE) {
        sc.file = memfd_create("posix", 0);
        if (write(sc.file, buf, sizeof buf) != (ssize_t)sizeof buf)
            abort();
    }
    return sc;
}

static inline long call_now(enum call call, struct scene *sc)
{
    struct iovec iov = {buf, 100}, much = {buf, sizeof buf};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    struct pollfd p = {.fd = sc->s[1], .events = POLLIN};
    struct epoll_event ev;
    fd_set set;
    off_t offset = 0;
    FD_ZERO(&set);
    FD_SET(sc->s[1], &set);
    switch (call) {
    case RECV:
    case RECV_TIMED:
        return recv(sc->s[1], buf, 100, 0);
    case READ:
        return read(sc->s[1], buf, 100);
    case READV:
        return readv(sc->s[1], &iov, 1);
    case RECVMSG:
        return recvmsg(sc->s[1], &m, 0);
    case RECV_ALL:
        return recv(sc->s[1], buf, 20, MSG_WAITALL);
    case RECV_PEEK:
        return recv(sc->s[1], buf, 100, MSG_PEEK);
    case SEND:
    case SEND_TIMED:
        return send(sc->s[1], buf, 4096, 0);
    case WRITEV:
        return writev(sc->s[1], &much, 1);
    case ACCEPT:
    case ACCEPT_TIMED:
        return accept(sc->l, NULL, NULL) >= 0 ? 1 : -1;
    case POLL:
        return poll(&p, 1, -1);
    case PPOLL:
        return ppoll(&p, 1, NULL, NULL);
    case SELECT:
        return select(sc->s[1] + 1, &set, NULL, NULL, NULL);
    case PSELECT:
        return pselect(sc->s[1] + 1, &set, NULL, NULL, NULL, NULL);
    case EPOLL:
        return epoll_wait(sc->ep, &ev, 1, -1);
    case SPLICE_IN:
        return splice(sc->s[1], NULL, sc->pipe[1], NULL, 100, 0);
    case SPLICE_OUT:
        return splice(sc->pipe[0], NULL, sc->s[1], NULL, 4096, 0);
    case SENDFILE:
        return sendfile(sc->s[1], sc->file, &offset, sizeof buf);
    default:
        return -1;
    }
}

/* What such a call waits for. */
static inline void end_wait(enum call call, struct scene *sc)
{
    if (call == ACCEPT || call == ACCEPT_TIMED)
        (void)client();
    else if (call_sends(call))
        drain(sc->s[0]);
    else
        (void)send(sc->s[0], "twenty bytes, no less", 20, 0);
}

static inline void scene_close(struct scene *sc)
{
    (void)close(sc->l);
    (void)close(sc->s[0]);
    (void)close(sc->s[1]);
    (void)close(sc->pipe[0]);
    (void)close(sc->pipe[1]);
    if (sc->ep >= 0)
        (void)close(sc->ep);
    if (sc->file >= 0)
        (void)close(sc->file);
}

#endif
