/* data.c - how many bytes a call waits for and gives: low-water marks, MSG_WAITALL, MSG_PEEK, MSG_TRUNC,
 * nothing at all, timeouts; and which lengths and addresses are refused. */
#include "posix.h"

#pragma GCC diagnostic ignored "-Wstringop-overflow" /* that is what it is about */
#pragma GCC diagnostic ignored "-Wstringop-overread"

#include <limits.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

static int s[2], pipes_caught;

static void on_pipe(int sig)
{
    (void)sig;
    pipes_caught++;
}

static void tell(const char *text)
{
    (void)send(s[0], text, strlen(text), 0);
}

static void settle(int n) /* until so many bytes are there */
{
    int is = 0;
    for (int i = 0; i < 400 && (ioctl(s[1], FIONREAD, &is) < 0 || is < n); i++)
        rest_ms(5);
}

static const char *later_text;
static int later_pause, tid;

static void *tells_later(void *arg)
{
    (void)arg;
    wait_asleep(&tid);
    for (const char *p = later_text; *p; p++) {
        (void)send(s[0], p, 1, 0);
        rest_ms(later_pause);
    }
    return NULL;
}

static pthread_t later(const char *text, int pause)
{
    pthread_t t;
    tid = 0;
    later_text = text;
    later_pause = pause;
    if (pthread_create(&t, NULL, tells_later, NULL))
        abort();
    say_tid(&tid);
    return t;
}

static void set_int(int fd, int name, int value)
{
    if (setsockopt(fd, SOL_SOCKET, name, &value, sizeof value) < 0)
        abort();
}

static void set_time(int fd, int name, long us)
{
    struct timeval tv = {us / 1000000, us % 1000000};
    if (setsockopt(fd, SOL_SOCKET, name, &tv, sizeof tv) < 0)
        abort();
}

static void closed(void)
{
    (void)close(s[0]);
    (void)close(s[1]);
}

static void low_water(void)
{
    pthread_t t;
    struct pollfd p = {.events = POLLIN};
    struct epoll_event ev = {.events = EPOLLIN};
    pair(s);
    set_int(s[1], SO_RCVLOWAT, 4);
    p.fd = s[1];
    int ep = epoll_create1(0);
    (void)epoll_ctl(ep, EPOLL_CTL_ADD, s[1], &ev);
    tell("12");
    settle(2);
    SAY(poll(&p, 1, 50));
    SAY(epoll_wait(ep, &ev, 1, 50));
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT | MSG_PEEK));
    SAY(recv(s[1], buf, 2, 0));
    t = later("1234", 20);
    SAY(poll(&p, 1, 5000));
    (void)pthread_join(t, NULL);
    SAY(epoll_wait(ep, &ev, 1, 1000));
    SAY(recv(s[1], buf, 100, 0));
    set_time(s[1], SO_RCVTIMEO, 100000);
    tell("12");
    settle(2);
    SAY(recv(s[1], buf, 100, 0));
    t = later("x", 1);
    SAY(recv(s[1], buf, 1, 0));
    (void)pthread_join(t, NULL);
    tell("12");
    (void)shutdown(s[0], SHUT_WR);
    SAY(poll(&p, 1, 2000));
    SAY(recv(s[1], buf, 100, 0));
    SAY(recv(s[1], buf, 100, 0));
    (void)close(ep);
    closed();
}

static void wait_all(void)
{
    pthread_t t;
    pair(s);
    tell("123");
    t = later("45", 20);
    SAY(recv(s[1], buf, 5, MSG_WAITALL));
    (void)pthread_join(t, NULL);
    tell("123");
    settle(3);
    t = later("45", 20);
    SAY(recv(s[1], buf, 5, MSG_WAITALL | MSG_PEEK));
    (void)pthread_join(t, NULL);
    SAY(recv(s[1], buf, 3, MSG_WAITALL | MSG_PEEK | MSG_DONTWAIT));
    SAY(recv(s[1], buf, 100, MSG_WAITALL | MSG_DONTWAIT));
    struct iovec iov[3] = {{buf, 2}, {NULL, 0}, {buf + 2, 4}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 3};
    t = later("123456", 5);
    SAY(recvmsg(s[1], &m, MSG_WAITALL));
    (void)pthread_join(t, NULL);
    SAY(memcmp(buf, "123456", 6));
    set_time(s[1], SO_RCVTIMEO, 80000);
    tell("12");
    settle(2);
    SAY(recv(s[1], buf, 5, MSG_WAITALL | MSG_PEEK));
    SAY(recv(s[1], buf, 5, MSG_WAITALL));
    SAY(recv(s[1], buf, 5, MSG_WAITALL));
    SAY(recv(s[1], buf, 5, MSG_WAITALL | MSG_PEEK));
    tell("12");
    (void)shutdown(s[0], SHUT_WR);
    set_time(s[1], SO_RCVTIMEO, 0);
    SAY(recv(s[1], buf, 5, MSG_WAITALL | MSG_PEEK));
    SAY(recv(s[1], buf, 5, MSG_WAITALL));
    SAY(recv(s[1], buf, 5, MSG_WAITALL));
    closed();
    pair(s); /* much of it */
    t = later("", 0);
    for (int i = 0; i < 4; i++)
        (void)send(s[0], buf, 30000, 0);
    SAY(recv(s[1], buf, sizeof buf, MSG_WAITALL | MSG_PEEK));
    SAY(recv(s[1], buf, sizeof buf, MSG_WAITALL));
    SAY(recv(s[1], buf, 120000 - sizeof buf, MSG_WAITALL));
    (void)pthread_join(t, NULL);
    closed();
}

static void peek(void)
{
    pair(s);
    tell("12");
    settle(2);
    SAY(recv(s[1], buf, 100, MSG_PEEK));
    tell("345");
    settle(5);
    SAY(recv(s[1], buf, 100, MSG_PEEK));
    SAY(recv(s[1], buf, 1, 0));
    SAY(recv(s[1], buf, 100, MSG_PEEK));
    tell("678");
    settle(7);
    SAY(recv(s[1], buf, 100, 0));
    SAY(memcmp(buf, "2345678", 7));
    tell("12345");
    settle(5);
    SAY(recv(s[1], buf, 100, MSG_PEEK | MSG_TRUNC));
    SAY(recv(s[1], buf, 3, MSG_PEEK | MSG_TRUNC));
    SAY(recv(s[1], NULL, 2, MSG_TRUNC));
    SAY(recv(s[1], buf, 1, 0));
    SAY(buf[0]);
    SAY(recv(s[1], NULL, 100, MSG_TRUNC | MSG_DONTWAIT));
    SAY(recv(s[1], NULL, 100, MSG_TRUNC | MSG_DONTWAIT));
    pthread_t t = later("1234", 10);
    SAY(recv(s[1], NULL, 4, MSG_TRUNC | MSG_WAITALL));
    (void)pthread_join(t, NULL);
    SAY(recv(s[1], buf, 100, MSG_OOB));
    SAY(recv(s[1], buf, 100, MSG_ERRQUEUE));
    closed();
}

static void nothing(void)
{
    struct iovec none[2] = {{buf, 0}, {NULL, 0}};
    struct msghdr m = {.msg_iov = none, .msg_iovlen = 2};
    pair(s);
    SAY(read(s[1], buf, 0));
    SAY(read(s[1], NULL, 0));
    SAY(readv(s[1], none, 2));
    SAY(readv(s[1], none, 0));
    SAY(readv(s[1], NULL, 0));
    SAY(recv(s[1], buf, 0, MSG_DONTWAIT));
    SAY(recvmsg(s[1], &m, MSG_DONTWAIT));
    pthread_t t = later("x", 1);
    SAY(recv(s[1], buf, 0, 0));
    (void)pthread_join(t, NULL);
    SAY(recv(s[1], NULL, 0, MSG_PEEK));
    SAY(recv(s[1], NULL, 0, MSG_DONTWAIT));
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT));
    SAY(write(s[0], buf, 0));
    SAY(write(s[0], NULL, 0));
    SAY(send(s[0], NULL, 0, 0));
    SAY(writev(s[0], none, 2));
    SAY(writev(s[0], none, 0));
    SAY(sendmsg(s[0], &m, 0));
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT));
    fill(s[0]);
    SAY(send(s[0], buf, 0, MSG_DONTWAIT));
    SAY(write(s[0], buf, 0));
    drain(s[1]);
    (void)shutdown(s[0], SHUT_WR);
    SAY(send(s[0], buf, 0, MSG_NOSIGNAL));
    SAY(write(s[0], buf, 0));
    SAY(pipes_caught);
    SAY(recv(s[1], buf, 0, 0));
    SAY(read(s[1], buf, 0));
    closed();
}

static void lengths(void)
{
    static struct iovec many[IOV_MAX + 1];
    struct iovec iov[2] = {{buf, 3}, {buf, (size_t)-1}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2},
                  too_many = {.msg_iov = many, .msg_iovlen = IOV_MAX + 1};
    char name[128];
    pair(s);
    tell("123456");
    settle(6);
    for (int i = 0; i <= IOV_MAX; i++)
        many[i] = (struct iovec){buf + i, 1};
    SAY(readv(s[1], iov, 2));
    SAY(writev(s[0], iov, 2));
    SAY(recvmsg(s[1], &m, MSG_DONTWAIT));
    SAY(sendmsg(s[0], &m, MSG_DONTWAIT));
    SAY(readv(s[1], many, IOV_MAX + 1));
    SAY(readv(s[1], many, -1));
    SAY(writev(s[0], many, IOV_MAX + 1));
    SAY(writev(s[0], many, -1));
    SAY(recvmsg(s[1], &too_many, MSG_DONTWAIT));
    SAY(sendmsg(s[0], &too_many, MSG_DONTWAIT));
    iov[1].iov_len = SSIZE_MAX;
    iov[0].iov_len = SSIZE_MAX;
    SAY(readv(s[1], iov, 2) < 0);
    SAY(read(s[1], buf, (size_t)-1));
    SAY(write(s[0], buf, (size_t)-1));
    SAY(recv(s[1], buf, 6, 0));
    SAY(readv(s[1], many, 0));
    iov[0].iov_len = 3;
    m.msg_iovlen = 1;
    m.msg_name = name;
    m.msg_namelen = (socklen_t)-1;
    SAY(recvmsg(s[1], &m, MSG_DONTWAIT));
    SAY(sendmsg(s[0], &m, MSG_DONTWAIT));
    m.msg_namelen = sizeof name;
    m.msg_flags = 0x77;
    tell("123456");
    settle(6);
    SAY(recvmsg(s[1], &m, MSG_CMSG_CLOEXEC));
    SAY(m.msg_flags == MSG_CMSG_CLOEXEC);
    SAY(m.msg_namelen);
    m.msg_name = NULL;
    m.msg_namelen = 77;
    SAY(recvmsg(s[1], &m, 0));
    SAY(m.msg_namelen);
    SAY(m.msg_flags);
    closed();
}

static void many_messages(void)
{
    struct iovec iov[4];
    struct mmsghdr v[4] = {0};
    struct timespec no = {0, 0}, bad = {0, 1000000000};
    pair(s);
    for (int i = 0; i < 4; i++) {
        iov[i] = (struct iovec){buf + i * 10, 2};
        v[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    }
    SAY(sendmmsg(s[0], v, 4, 0));
    SAY(sendmmsg(s[0], v, 0, 0));
    SAY(v[3].msg_len);
    settle(8);
    SAY(recvmmsg(s[1], v, 4, 0, &bad));
    SAY(recvmmsg(s[1], v, 2, MSG_DONTWAIT, NULL));
    SAY(recvmmsg(s[1], v, 4, MSG_WAITFORONE, NULL));
    SAY(v[1].msg_len);
    SAY(recvmmsg(s[1], v, 4, MSG_DONTWAIT, NULL));
    SAY(recvmmsg(s[1], v, 0, 0, NULL));
    tell("1234");
    settle(4);
    SAY(recvmmsg(s[1], v, 4, 0, &no));
    (void)shutdown(s[0], SHUT_WR);
    SAY(recvmmsg(s[1], v, 4, 0, NULL));
    closed();
}

static void names(void)
{
    char name[128];
    socklen_t len;
    pair(s);
    for (int i = 0; i < 5; i++) {
        static const socklen_t lens[] = {0, 2, 7, 100, (socklen_t)-1};
        len = lens[i];
        SAY(getsockname(s[0], (struct sockaddr *)name, &len));
        SAY(len);
        len = lens[i];
        SAY(getpeername(s[0], (struct sockaddr *)name, &len));
        SAY(len);
        len = lens[i];
        tell("1");
        settle(1);
        SAY(recvfrom(s[1], buf, 1, 0, (struct sockaddr *)name, &len));
        SAY(len);
    }
    closed();
}

static char big[32 << 20];

static void times(void)
{
    pair(s);
    set_time(s[1], SO_RCVTIMEO, 150000);
    set_time(s[0], SO_SNDTIMEO, 150000);
    int64_t began = now_ms();
    SAY(recv(s[1], buf, 10, 0));
    SAY(now_ms() - began >= 149 && now_ms() - began < 5000);
    SAY(recv(s[1], buf, 10, MSG_DONTWAIT));
    fill(s[0]);
    began = now_ms();
    SAY(send(s[0], big, sizeof big, 0) < (long)sizeof big);
    SAY(now_ms() - began >= 149 && now_ms() - began < 5000);
    set_time(s[1], SO_RCVTIMEO, 0);
    drain(s[1]);
    pthread_t t = later("x", 1);
    SAY(recv(s[1], buf, 10, 0));
    (void)pthread_join(t, NULL);
    closed();
    int l = listener();
    set_time(l, SO_RCVTIMEO, 100000);
    SAY(accept(l, NULL, NULL));
    (void)close(l);
}

static void addresses(void)
{
    void *bad = (void *)8, *high = (void *)(1ul << 63);
    struct iovec iov[2] = {{buf, 2}, {bad, 3}}, up[2] = {{buf, 2}, {high, 3}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    socklen_t len = 16;
    struct pollfd *nowhere = bad;
    pair(s);
    SAY(recv(s[1], bad, 3, MSG_DONTWAIT));
    tell("123456");
    settle(6);
    SAY(read(s[1], bad, 3));
    SAY(read(s[1], high, 3));
    SAY(recv(s[1], NULL, 3, 0));
    SAY(recv(s[1], bad, 3, MSG_PEEK));
    SAY(readv(s[1], bad, 1));
    SAY(readv(s[1], up, 2));
    SAY(readv(s[1], iov, 2));
    SAY(readv(s[1], iov + 1, 1));
    SAY(recvmsg(s[1], &m, 0));
    SAY(recvmsg(s[1], bad, 0));
    SAY(recvmmsg(s[1], bad, 1, 0, NULL));
    SAY(recvfrom(s[1], buf, 1, 0, (struct sockaddr *)buf, bad));
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT));
    SAY(write(s[0], bad, 3));
    SAY(write(s[0], high, 3));
    SAY(send(s[0], NULL, 3, 0));
    SAY(writev(s[0], bad, 1));
    SAY(writev(s[0], up, 2));
    SAY(writev(s[0], iov, 2));
    SAY(writev(s[0], iov + 1, 1));
    SAY(sendmsg(s[0], bad, 0));
    SAY(sendmmsg(s[0], bad, 1, 0));
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT));
    SAY(poll(nowhere, 1, 0));
    SAY(poll(NULL, 0, 0));
    SAY(select(s[1] + 1, bad, NULL, NULL, NULL));
    SAY(select(-1, NULL, NULL, NULL, NULL));
    SAY(getsockname(s[0], bad, &len));
    SAY(getpeername(s[0], (struct sockaddr *)buf, bad));
    SAY(ioctl(s[0], FIONREAD, NULL));
    SAY(ioctl(s[0], FIONBIO, bad));
    SAY(setsockopt(s[0], SOL_SOCKET, SO_KEEPALIVE, bad, 4));
    SAY(getsockopt(s[0], SOL_SOCKET, SO_TYPE, bad, &len));
    SAY(getsockopt(s[0], SOL_SOCKET, SO_TYPE, buf, bad));
    int fresh = socket(AF_INET, SOCK_STREAM, 0), l = listener(), ep = epoll_create1(0);
    SAY(connect(fresh, bad, 16));
    SAY(connect(fresh, (struct sockaddr *)&at, sizeof at));
    SAY(accept(l, bad, &len)); /* and the connection is lost */
    SAY(recv(fresh, buf, 1, 0));
    int again = client();
    len = (socklen_t)-1;
    SAY(accept(l, (struct sockaddr *)buf, &len));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, s[0], bad));
    SAY(epoll_wait(ep, (struct epoll_event *)buf, 0, 0));
    SAY(epoll_wait(ep, (struct epoll_event *)buf, INT_MAX, 0));
    struct rlimit lim = {256, 256};
    (void)setrlimit(RLIMIT_NOFILE, &lim);
    static struct pollfd list[300];
    for (int i = 0; i < 300; i++)
        list[i].fd = i ? -1 : s[0];
    SAY(poll(list, 257, 0));
    SAY(poll(list, 256, 0));
    (void)close(again);
    (void)close(fresh);
    (void)close(l);
    (void)close(ep);
    closed();
}

int main(void)
{
    (void)signal(SIGPIPE, on_pipe);
    low_water();
    wait_all();
    peek();
    nothing();
    lengths();
    many_messages();
    names();
    times();
    addresses();
    return 0;
}
