/* by_number.c - the same calls by syscall(), as libraries make them for want of a function in their libc. */
#include <sys/sendfile.h>
#include <sys/syscall.h>

#include "differ.h"

static struct pair pair_by_number(void)
{
    struct pair p;
    int l = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    SAY(syscall(SYS_bind, l, &at, sizeof at));
    SAY(syscall(SYS_listen, l, 8));
    SAY(syscall(SYS_getsockname, l, &at, &len));
    p.c = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    SAY(syscall(SYS_connect, p.c, &at, len));
    p.s = (int)syscall(SYS_accept4, l, NULL, NULL, SOCK_CLOEXEC);
    return p;
}

CASE(talk, "socket to close, all by number")
{
    char buf[32] = "";
    struct pair p = pair_by_number();
    struct iovec v = {"there", 5}, w = {buf, sizeof buf};
    struct msghdr out = {.msg_iov = &v, .msg_iovlen = 1}, in = {.msg_iov = &w, .msg_iovlen = 1};
    SAY(syscall(SYS_write, p.c, "hello", 5));
    SAY(syscall(SYS_read, p.s, buf, sizeof buf));
    say("%s", buf);
    SAY(syscall(SYS_writev, p.s, &v, 1));
    SAY(syscall(SYS_readv, p.c, &w, 1));
    SAY(syscall(SYS_sendto, p.c, "to", 2, 0, NULL, 0));
    SAY(syscall(SYS_recvfrom, p.s, buf, sizeof buf, 0, NULL, NULL));
    SAY(syscall(SYS_sendmsg, p.c, &out, 0));
    SAY(syscall(SYS_recvmsg, p.s, &in, 0));
    say("%s", buf);
    SAY(syscall(SYS_shutdown, p.c, SHUT_WR));
    SAY(syscall(SYS_read, p.s, buf, sizeof buf));
    SAY(syscall(SYS_close, p.s));
    SAY(syscall(SYS_read, p.c, buf, sizeof buf));
    SAY(syscall(SYS_close, p.c));
    SAY(syscall(SYS_read, p.c, buf, sizeof buf));
}

CASE(waits, "poll, select and epoll by number")
{
    struct pair p = pair_in();
    struct pollfd f = {p.s, POLLIN, 0};
    struct timespec soon = {0, 1000000};
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = 7}, got = {0};
    unsigned long none = 0;
    struct {
        const void *mask;
        size_t size;
    } masked = {&none, sizeof none};
    fd_set r;
    int ep = (int)syscall(SYS_epoll_create1, 0);
    SAY(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p.s, &e));
    SAY(syscall(SYS_ppoll, &f, 1, &soon, &none, sizeof none));
    SAY(syscall(SYS_epoll_pwait, ep, &got, 1, 1, &none, sizeof none));
    SAY(syscall(SYS_write, p.c, "x", 1));
    soon = (struct timespec){2, 0};
    SAY(syscall(SYS_ppoll, &f, 1, &soon, &none, sizeof none));
    say("%s", bits((unsigned)f.revents));
    SAY(syscall(SYS_epoll_pwait, ep, &got, 1, 2000, &none, sizeof none));
    say("%s %u", bits(got.events), got.data.u32);
    FD_ZERO(&r);
    FD_SET(p.s, &r);
    SAY(syscall(SYS_pselect6, p.s + 1, &r, NULL, NULL, &soon, &masked));
}

CASE(copies, "dup, fcntl and options by number")
{
    struct pair p = pair_in();
    char buf[8];
    int one = 1, value = 0;
    socklen_t len = sizeof value;
    int copy = (int)syscall(SYS_dup, p.c), other = (int)syscall(SYS_fcntl, p.c, F_DUPFD, 100L);
    SAY(syscall(SYS_write, copy, "a", 1));
    SAY(syscall(SYS_write, other, "b", 1));
    SAY(syscall(SYS_dup3, p.c, copy, 0) == copy);
    SAY(syscall(SYS_write, copy, "c", 1));
    SAY(syscall(SYS_recvfrom, p.s, buf, 3, MSG_WAITALL, NULL, NULL));
    say("%.3s", buf);
    SAY(syscall(SYS_setsockopt, p.c, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof one));
    SAY(syscall(SYS_getsockopt, copy, IPPROTO_TCP, 1, &value, &len));
    say("%d", value);
    SAY(syscall(SYS_fcntl, p.s, F_SETFL, (long)O_NONBLOCK));
    SAY(syscall(SYS_read, p.s, buf, 1));
    SAY(syscall(SYS_close, p.c));
    SAY(syscall(SYS_close, copy));
    SAY(syscall(SYS_read, p.s, buf, 1));
    SAY(syscall(SYS_close_range, other, other, 0));
    say("%s", polled_soon(p.s, POLLIN));
    SAY(syscall(SYS_read, p.s, buf, 1));
}
