/* lengths_errors.c - zero lengths, lengths that are too big, counts of pieces, bad pointers, wrong
 * descriptors. */
#include <aio.h>

#include "differ.h"

#include <limits.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char text[100];
static void *volatile bad = (void *)8; /* nothing is there; volatile, so that the compiler does not warn */

CASE(zero, "reads and writes of no bytes")
{
    struct pair p = pair_here();
    SAY(send(p.c, "", 0, 0));
    SAY(write(p.c, "", 0));
    say("arrived: %s", polled(p.s, POLLIN, 20));
    SAY(read(p.s, text, 0));
    SAY(recv(p.s, text, 0, MSG_DONTWAIT));
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    SAY(read(p.s, text, 0));
    SAY(recv(p.s, text, 0, 0));
    SAY(recv(p.s, text, 9, 0));
    SAY(close(p.c));
    SAY(read(p.s, text, 0));
    SAY(recv(p.s, text, 0, 0));
}

CASE(zero_after_reset, "no bytes, after a reset and after a shutdown")
{
    struct pair p = pair_here(), q = pair_here();
    reset(p.c);
    polled_soon(p.s, POLLERR);
    SAY(read(p.s, text, 0));
    SAY(write(p.s, "", 0));
    SAY(shutdown(q.c, SHUT_WR));
    SAY(send(q.c, "", 0, MSG_NOSIGNAL));
    handle(SIGPIPE, 0);
    SAY(write(q.c, "", 0));
}

CASE(zero_pieces, "vectors of no pieces and of empty pieces")
{
    struct pair p = pair_here();
    struct iovec empty[3] = {{text, 0}, {NULL, 0}, {text, 0}}, mixed[3] = {{text, 0}, {text, 2}, {NULL, 0}};
    SAY(writev(p.c, empty, 0));
    SAY(writev(p.c, empty, 3));
    SAY(writev(p.c, mixed, 3));
    polled_soon(p.s, POLLIN);
    SAY(readv(p.s, empty, 0));
    SAY(readv(p.s, empty, 3));
    SAY(readv(p.s, mixed, 3));
    struct msghdr none = {.msg_iov = NULL, .msg_iovlen = 0};
    SAY(sendmsg(p.c, &none, 0));
    SAY(recvmsg(p.s, &none, MSG_DONTWAIT));
}

CASE(counts, "too many pieces, a negative count, pieces whose sum is too big")
{
    struct pair p = pair_here();
    static struct iovec many[1030];
    volatile int less = -1; /* which the compiler would warn of */
    struct iovec huge[2] = {{text, (size_t)SSIZE_MAX}, {text, (size_t)SSIZE_MAX}}, minus = {text, (size_t)-1};
    for (int i = 0; i < 1030; i++)
        many[i] = (struct iovec){text, 1};
    SAY(writev(p.c, many, 1024));
    SAY(writev(p.c, many, 1025));
    SAY(writev(p.c, many, less));
    SAY(readv(p.s, many, 1025));
    SAY(readv(p.s, many, less));
    SAY(writev(p.c, huge, 2));
    SAY(writev(p.c, &minus, 1));
    SAY(readv(p.s, &minus, 1));
    struct msghdr message = {.msg_iov = many, .msg_iovlen = 1025};
    SAY(sendmsg(p.c, &message, 0));
    SAY(recvmsg(p.s, &message, 0));
    message = (struct msghdr){.msg_iov = &minus, .msg_iovlen = 1};
    SAY(sendmsg(p.c, &message, 0));
    SAY(recvmsg(p.s, &message, 0));
    say("1024: %d", SOON(unread(p.s) == 1024));
}

CASE(huge_reads, "a length beyond all memory reads what is there")
{
    struct pair p = pair_here();
    volatile size_t huge = SSIZE_MAX, minus = (size_t)-1;
    SAY(send(p.c, "abcdef", 6, 0));
    polled_soon(p.s, POLLIN);
    SAY(read(p.s, text, minus));
    SAY(recv(p.s, text, minus, MSG_PEEK));
    SAY(recv(p.s, text, huge, MSG_PEEK));
    SAY(recv(p.s, text, 1UL << 31, MSG_PEEK));
    SAY(recv(p.s, text, 1UL << 30, 0));
}

CASE(many_pieces, "a scattered write and read")
{
    struct pair p = pair_here();
    struct iovec out[4] = {{(void *)"a", 1}, {(void *)"bc", 2}, {(void *)"", 0}, {(void *)"def", 3}};
    char x[2], y[3], z[9] = "";
    struct iovec in[3] = {{x, 2}, {y, 3}, {z, 9}};
    SAY(writev(p.c, out, 4));
    say("arrived: %d", SOON(unread(p.s) == 6));
    SAY(readv(p.s, in, 3));
    say("%.2s %.3s %s", x, y, z);
}

CASE(wrong_descriptors, "closed numbers, files and pipes where a socket should be")
{
    int q[2], file = open("/proc/self/exe", O_RDONLY);
    SAY(pipe(q));
    SAY(recv(999, text, 9, 0));
    SAY(send(999, text, 9, 0));
    SAY(accept(999, NULL, NULL));
    SAY(connect(999, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(recv(q[0], text, 9, 0));
    SAY(send(q[1], text, 9, 0));
    SAY(accept(q[0], NULL, NULL));
    SAY(listen(file, 1));
    SAY(connect(file, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(getsockopt(file, SOL_SOCKET, SO_ERROR, text, &(socklen_t){4}));
    SAY(close(999));
}

CASE(not_for_sockets, "lseek, pread, ftruncate, fsync on a connection")
{
    struct pair p = pair_here();
    SAY(lseek(p.s, 0, SEEK_CUR));
    SAY(pread(p.s, text, 1, 0));
    SAY(pwrite(p.s, text, 1, 0));
    SAY(ftruncate(p.s, 0));
    SAY(fsync(p.s));
    struct stat st;
    SAY(fstat(p.s, &st));
    say("a socket: %d, size %ld", S_ISSOCK(st.st_mode), (long)st.st_size);
    SAY(isatty(p.s));
}

CASE(names, "recvfrom and recvmsg tell no address of a connection")
{
    struct pair p = pair_here();
    struct sockaddr_in from = {.sin_family = 77};
    socklen_t len = sizeof from;
    SAY(send(p.c, "abcd", 4, 0));
    polled_soon(p.s, POLLIN);
    SAY(recvfrom(p.s, text, 1, 0, (struct sockaddr *)&from, &len));
    say("family %d, length %u", from.sin_family, (unsigned)len);
    struct iovec part = {text, 1};
    char control[100];
    struct msghdr message = {.msg_name = &from,
                             .msg_namelen = sizeof from,
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control,
                             .msg_flags = 0x7fff};
    SAY(recvmsg(p.s, &message, 0));
    say("name %u, control %u, flags %#x", (unsigned)message.msg_namelen, (unsigned)message.msg_controllen,
        (unsigned)message.msg_flags);
    SAY(sendto(p.c, "x", 1, 0, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(recv(p.s, text, 2, MSG_WAITALL));
}

CASE(peer_names, "getpeername and getsockname: whose they are, and short lengths")
{
    struct pair p = pair_here();
    struct sockaddr_in a = {0}, b = {0};
    socklen_t len = sizeof a;
    SAY(getpeername(p.c, (struct sockaddr *)&a, &len));
    say("the listener's: %d, length %u", a.sin_port == differ_at.sin_port, (unsigned)len);
    SAY(getsockname(p.c, (struct sockaddr *)&a, &len));
    SAY(getpeername(p.s, (struct sockaddr *)&b, &len));
    say("each other's: %d", a.sin_port == b.sin_port && a.sin_addr.s_addr == b.sin_addr.s_addr);
    len = 4;
    SAY(getpeername(p.s, (struct sockaddr *)&b, &len));
    say("length %u", (unsigned)len);
    len = (socklen_t)-1;
    SAY(getpeername(p.s, (struct sockaddr *)&b, &len));
    SAY(getpeername(p.l, (struct sockaddr *)&b, &len));
    int fd = fresh_socket();
    SAY(getpeername(fd, (struct sockaddr *)&b, &len));
}

CASE(options, "lengths and names of options")
{
    struct pair p = pair_here();
    int value = -1;
    socklen_t len = sizeof value;
    SAY(getsockopt(p.s, SOL_SOCKET, SO_TYPE, &value, &len));
    say("%d, length %u", value == SOCK_STREAM, (unsigned)len);
    len = 1;
    value = 0;
    SAY(getsockopt(p.s, SOL_SOCKET, SO_TYPE, &value, &len));
    say("%d, length %u", value, (unsigned)len);
    len = (socklen_t)-1;
    SAY(getsockopt(p.s, SOL_SOCKET, SO_TYPE, &value, &len));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_KEEPALIVE, &value, 1));
    SAY(setsockopt(p.s, SOL_SOCKET, 9999, &value, sizeof value));
    SAY(getsockopt(p.s, 9999, 1, &value, &len));
    SAY(setsockopt(p.s, SOL_SOCKET, SO_TYPE, &value, sizeof value));
    len = sizeof value;
    SAY(getsockopt(p.l, SOL_SOCKET, SO_ACCEPTCONN, &value, &len));
    say("listener %d", value);
    SAY(getsockopt(p.s, SOL_SOCKET, SO_ACCEPTCONN, &value, &len));
    say("connection %d", value);
}

CASE(fionread, "FIONREAD of each kind; FIONBIO")
{
    struct pair p = pair_here();
    int on = 1, off = 0, count = -1, fd = fresh_socket();
    say("idle %d", unread(p.s));
    SAY(send(p.c, "abc", 3, 0));
    say("three: %d", SOON(unread(p.s) == 3));
    SAY(shutdown(p.c, SHUT_WR));
    polled_soon(p.s, POLLRDHUP);
    say("with the end: %d", unread(p.s));
    SAY(recv(p.s, text, 9, 0));
    say("at the end: %d", unread(p.s));
    SAY(ioctl(p.l, FIONREAD, &count));
    SAY(ioctl(fd, FIONREAD, &count));
    say("fresh %d", count);
    SAY(ioctl(p.c, FIONBIO, &on));
    SAY(recv(p.c, text, 9, 0));
    say("O_NONBLOCK %d", !!(fcntl(p.c, F_GETFL) & O_NONBLOCK));
    SAY(ioctl(p.c, FIONBIO, &off));
    say("O_NONBLOCK %d", !!(fcntl(p.c, F_GETFL) & O_NONBLOCK));
}

CASE(poll_counts, "poll with too many, with none, ppoll with a bad time")
{
    struct pollfd one = {-1, POLLIN, 0};
    struct timespec wrong = {0, -1}, zero = {0, 0};
    struct rlimit limit = {1024, 1024};
    static struct pollfd many[1025];
    setrlimit(RLIMIT_NOFILE, &limit);
    memset(many, 0xff, sizeof many); /* -1: none is looked at */
    SAY(poll(many, 1024, 0));
    SAY(poll(many, 1025, 0));
    SAY(poll(NULL, 0, 0));
    SAY(poll(NULL, 0, 5));
    SAY(ppoll(&one, 1, &wrong, NULL));
    SAY(ppoll(&one, 1, &zero, NULL));
}

/* ---- bad pointers: a case each, since what dies in one must not hide another ---- */

#define EFAULT_CASE(name, call)                                                                              \
    CASE(efault_##name, "a bad pointer: " #call)                                                             \
    {                                                                                                        \
        struct pair p = pair_here();                                                                         \
        int ep = epoll_create1(0), fd = fresh_socket();                                                      \
        socklen_t len = 16;                                                                                  \
        struct epoll_event event = {0};                                                                      \
        if (send(p.c, "abc", 3, 0) != 3 || ep < 0 || fd < 0 || dial() < 0)                                   \
            say("no beginning");                                                                             \
        polled_soon(p.s, POLLIN);                                                                            \
        (void)len, (void)event;                                                                              \
        SAY(call);                                                                                           \
        say("the bytes are still there: %d", unread(p.s));                                                   \
    }

EFAULT_CASE(read, read(p.s, bad, 3))
EFAULT_CASE(write, write(p.c, bad, 3))
EFAULT_CASE(send, send(p.c, bad, 3, 0))
EFAULT_CASE(recv, recv(p.s, bad, 3, 0))
EFAULT_CASE(readv, readv(p.s, bad, 1))
EFAULT_CASE(writev, writev(p.c, bad, 1))
EFAULT_CASE(sendmsg, sendmsg(p.c, bad, 0))
EFAULT_CASE(recvmsg, recvmsg(p.s, bad, MSG_DONTWAIT))
EFAULT_CASE(poll, poll(bad, 1, 0))
EFAULT_CASE(select, select(p.s + 1, bad, NULL, NULL, NULL))
EFAULT_CASE(connect, connect(fd, bad, 16))
EFAULT_CASE(accept, accept(p.l, bad, &len))
EFAULT_CASE(getpeername, getpeername(p.c, bad, &len))
EFAULT_CASE(fionread, ioctl(p.c, FIONREAD, bad))
EFAULT_CASE(setsockopt, setsockopt(p.c, SOL_SOCKET, SO_KEEPALIVE, bad, 4))
EFAULT_CASE(getsockopt, getsockopt(p.c, SOL_SOCKET, SO_TYPE, bad, &len))
EFAULT_CASE(epoll_ctl, epoll_ctl(ep, EPOLL_CTL_ADD, p.c, bad))
EFAULT_CASE(epoll_wait, (epoll_add(ep, p.s, EPOLLIN, 1), epoll_wait(ep, bad, 1, 0)))
EFAULT_CASE(epoll_del_without_event, epoll_ctl(ep, EPOLL_CTL_DEL, p.c, bad))

CASE(preadv2_and_aio, "preadv2 and pwritev2 at no place, and asynchronous reads and writes of libc")
{
    struct pair p = pair_here();
    char in[9];
    struct iovec iov = {in, 9};
    SAY(pwritev2(p.c, &(struct iovec){"abc", 3}, 1, -1, 0));
    SAY(preadv2(p.s, &iov, 1, -1, 0));
    SAY(preadv2(p.s, &iov, 1, -1, RWF_NOWAIT));
    SAY(preadv2(p.s, &iov, 1, 0, 0));
    struct aiocb w = {.aio_fildes = p.c, .aio_buf = "defg", .aio_nbytes = 4};
    struct aiocb r = {.aio_fildes = p.s, .aio_buf = in, .aio_nbytes = 9};
    const struct aiocb *one = &r;
    SAY(aio_read(&r));
    SAY(aio_write(&w));
    SAY(aio_suspend(&one, 1, NULL));
    say("%d %zd", aio_error(&r), aio_return(&r));
    SAY(send(p.s, "x", 1, 0));
    SAY(recv(p.c, in, 9, 0));
}
