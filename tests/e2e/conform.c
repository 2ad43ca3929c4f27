/* conform.c - says what the socket calls of this process do, one line for each, so that the same run with and
 * without the preload library can be compared line by line (test_shim.py). Both ends are in this process, in
 * one thread, so what is printed is deterministic. Prints nothing that may differ between two runs on the
 * kernel: no port numbers, no descriptor numbers, no times.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int sigpipes;

static void on_pipe(int sig)
{
    (void)sig;
    sigpipes++;
}

static void on_alarm(int sig)
{
    (void)sig;
}

static const char *name_of(int error)
{
    const char *n = strerrorname_np(error);
    return n ? n : "?";
}

/* Prints the text, the result and, where it is -1, the error. */
#define SAY(call)                                                                                            \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        long said = (long)(call);                                                                            \
        int why = errno;                                                                                     \
        printf("%s = %ld%s%s\n", #call, said, said == -1 ? " " : "", said == -1 ? name_of(why) : "");        \
    } while (0)

static struct sockaddr_in at;

static int listener(int backlog)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || getsockname(fd, (struct sockaddr *)&at, &len) ||
        listen(fd, backlog))
        perror("listener");
    return fd;
}

static void pair(int l, int *client, int *server)
{
    *client = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(*client, (struct sockaddr *)&at, sizeof at))
        perror("connect");
    *server = accept(l, NULL, NULL);
    if (*server < 0)
        perror("accept");
}

static void settle(int fd, short events)
{
    struct pollfd p = {fd, events, 0};
    poll(&p, 1, 1000);
}

static void say_poll(const char *what, int fd, short events, int timeout)
{
    struct pollfd p = {fd, events, 0};
    int n = poll(&p, 1, timeout);
    printf("poll %s = %d revents %x\n", what, n, (unsigned)p.revents);
}

static void say_option(const char *what, int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    int r = getsockopt(fd, level, name, &value, &len);
    printf("%s = %d len %u value %d\n", what, r, (unsigned)len, value);
}

static void fresh(void)
{
    char b[8];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), zero = 0;
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    puts("# a socket that is not connected");
    SAY(read(fd, b, 1));
    SAY(recv(fd, b, 1, MSG_DONTWAIT));
    SAY(send(fd, b, 1, MSG_NOSIGNAL));
    sigpipes = 0;
    SAY(write(fd, b, 1));
    printf("SIGPIPE %d\n", sigpipes);
    SAY(shutdown(fd, SHUT_WR));
    SAY(shutdown(fd, 9));
    SAY(getpeername(fd, (struct sockaddr *)&ss, &len));
    SAY(accept(fd, NULL, NULL));
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(fd, F_GETFL));
    SAY(fcntl(fd, F_SETFL, O_NONBLOCK));
    SAY(fcntl(fd, F_GETFL));
    SAY(ioctl(fd, FIONBIO, &zero));
    SAY(fcntl(fd, F_GETFL));
    say_poll("fresh", fd, POLLIN | POLLOUT, 0);
    say_option("SO_TYPE", fd, SOL_SOCKET, SO_TYPE);
    say_option("SO_DOMAIN", fd, SOL_SOCKET, SO_DOMAIN);
    say_option("SO_PROTOCOL", fd, SOL_SOCKET, SO_PROTOCOL);
    say_option("SO_ERROR", fd, SOL_SOCKET, SO_ERROR);
    SAY(connect(fd, (struct sockaddr *)&at, 3));
    int other = dup(fd);
    SAY(close(fd));
    SAY(read(fd, b, 1));
    SAY(read(other, b, 1));
    SAY(close(other));
    SAY(close(other));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in nobody = {
        .sin_family = AF_INET, .sin_port = htons(1), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SAY(connect(fd, (struct sockaddr *)&nobody, sizeof nobody));
    close(fd);
}

static void options(int l)
{
    static const struct {
        const char *what;
        int level, name, value;
    } set[] = {
        {"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 7},
        {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1},
        {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 33},
        {"TCP_KEEPIDLE bad", IPPROTO_TCP, TCP_KEEPIDLE, 0},
        {"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 5},
        {"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 4},
        {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 65536},
        {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 100},
        {"TCP_CORK", IPPROTO_TCP, TCP_CORK, 1},
        {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, 900},
        {"IP_TOS", IPPROTO_IP, IP_TOS, 16},
        {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1},
        {"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1},
        {"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 3},
        {"unknown", IPPROTO_TCP, 9999, 1},
    };
    int c, s;
    puts("# options, before the connect and after");
    pair(l, &c, &s);
    int f = socket(AF_INET, SOCK_STREAM, 0);
    for (int pass = 0; pass < 3; pass++) {
        int fd = pass == 0 ? f : pass == 1 ? c : s;
        for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
            errno = 0;
            int r = setsockopt(fd, set[i].level, set[i].name, &set[i].value, sizeof(int));
            printf("set %s = %d %s\n", set[i].what, r, r ? name_of(errno) : "");
            say_option(set[i].what, fd, set[i].level, set[i].name);
        }
        struct timeval tv = {0, 30000};
        SAY(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    }
    char b[4];
    SAY(read(c, b, 4));
    SAY(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &(char){1}, 1));
    say_option("SO_ACCEPTCONN listener", l, SOL_SOCKET, SO_ACCEPTCONN);
    say_option("SO_ACCEPTCONN session", c, SOL_SOCKET, SO_ACCEPTCONN);
    struct tcp_info info;
    socklen_t len = sizeof info;
    SAY(getsockopt(c, IPPROTO_TCP, TCP_INFO, &info, &len));
    printf("state %d\n", info.tcpi_state);
    close(f);
    close(c);
    close(s);
}

static void stream(int l)
{
    char b[64], d[64];
    int c, s, n;
    struct sockaddr_in name = {0}, peer = {0};
    socklen_t len = sizeof name;
    puts("# bytes");
    pair(l, &c, &s);
    SAY(getsockname(c, (struct sockaddr *)&name, &len));
    len = sizeof peer;
    SAY(getpeername(s, (struct sockaddr *)&peer, &len));
    printf("same address and port %d, len %u\n",
           name.sin_port == peer.sin_port && name.sin_addr.s_addr == peer.sin_addr.s_addr, (unsigned)len);
    len = 4;
    SAY(getpeername(c, (struct sockaddr *)&peer, &len));
    printf("len %u\n", (unsigned)len);
    SAY(write(c, "hello, world", 12));
    settle(s, POLLIN);
    SAY(ioctl(s, FIONREAD, &n));
    printf("FIONREAD %d\n", n);
    SAY(recv(s, b, 5, MSG_PEEK));
    SAY(recv(s, b, 5, 0));
    printf("%.5s\n", b);
    SAY(recv(s, NULL, 2, MSG_TRUNC));
    struct iovec v[2] = {{b, 2}, {d, 60}};
    SAY(readv(s, v, 2));
    printf("%.2s|%.3s\n", b, d);
    SAY(recv(s, b, 4, MSG_DONTWAIT));
    SAY(recv(s, b, 4, MSG_OOB));
    v[0] = (struct iovec){(char *)"abc", 3};
    v[1] = (struct iovec){(char *)"defg", 4};
    SAY(writev(c, v, 2));
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    SAY(sendmsg(c, &m, MSG_NOSIGNAL));
    SAY(sendto(c, "xyz", 3, 0, NULL, 0));
    SAY(recv(s, b, 17, MSG_WAITALL));
    printf("%.17s\n", b);
    SAY(write(c, "12345", 5));
    len = sizeof peer;
    SAY(recvfrom(s, b, sizeof b, 0, (struct sockaddr *)&peer, &len));
    printf("addrlen %u\n", (unsigned)len);
    SAY(write(c, "12345", 5));
    v[0] = (struct iovec){b, 3};
    char control[64];
    m = (struct msghdr){.msg_iov = v,
                        .msg_iovlen = 1,
                        .msg_control = control,
                        .msg_controllen = sizeof control,
                        .msg_name = &peer,
                        .msg_namelen = sizeof peer};
    SAY(recvmsg(s, &m, 0));
    printf("namelen %u controllen %zu flags %x\n", (unsigned)m.msg_namelen, m.msg_controllen,
           (unsigned)m.msg_flags);
    struct mmsghdr mm[2] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}},
                            {.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}}};
    SAY(recvmmsg(s, mm, 2, MSG_WAITFORONE, NULL));
    SAY(sendmmsg(c, mm, 2, 0));
    SAY(read(s, b, sizeof b));
    SAY(connect(c, (struct sockaddr *)&at, sizeof at));
    SAY(listen(c, 1));
    SAY(bind(c, (struct sockaddr *)&at, sizeof at));
    SAY(accept(c, NULL, NULL));
    SAY(lseek(c, 0, SEEK_CUR));
    close(c);
    close(s);
}

static void ends(int l)
{
    char b[16];
    int c, s;
    puts("# ends of a stream");
    pair(l, &c, &s);
    SAY(write(c, "last", 4));
    SAY(shutdown(c, SHUT_WR));
    sigpipes = 0;
    SAY(write(c, "x", 1));
    printf("SIGPIPE %d\n", sigpipes);
    SAY(send(c, "x", 1, MSG_NOSIGNAL));
    printf("SIGPIPE %d\n", sigpipes);
    settle(s, POLLRDHUP);
    say_poll("half closed", s, POLLIN | POLLOUT | POLLRDHUP, 0);
    SAY(read(s, b, 16));
    SAY(read(s, b, 16));
    SAY(write(s, "answer", 6));
    SAY(read(c, b, 16));
    SAY(shutdown(s, SHUT_WR));
    settle(c, POLLRDHUP);
    say_poll("both halves closed", c, POLLIN | POLLOUT | POLLRDHUP, 0);
    SAY(read(c, b, 16));
    close(c);
    close(s);

    puts("# written after the peer has closed");
    pair(l, &c, &s);
    SAY(write(s, "answer", 6));
    close(s);
    settle(c, POLLRDHUP);
    sigpipes = 0;
    SAY(write(c, "lost", 4));
    printf("SIGPIPE %d\n", sigpipes);
    SAY(read(c, b, 16));
    SAY(read(c, b, 16));
    SAY(write(c, "x", 1));
    printf("SIGPIPE %d\n", sigpipes);
    SAY(send(c, "x", 1, MSG_NOSIGNAL));
    SAY(read(c, b, 16));
    close(c);

    puts("# closed with bytes unread");
    pair(l, &c, &s);
    SAY(write(c, "unread", 6));
    settle(s, POLLIN);
    close(s);
    settle(c, POLLIN);
    SAY(read(c, b, 16));
    close(c);

    puts("# linger 0");
    pair(l, &c, &s);
    struct linger li = {1, 0};
    SAY(setsockopt(s, SOL_SOCKET, SO_LINGER, &li, sizeof li));
    close(s);
    settle(c, POLLIN);
    say_poll("reset", c, POLLIN | POLLOUT | POLLRDHUP, 0);
    say_option("SO_ERROR", c, SOL_SOCKET, SO_ERROR);
    say_option("SO_ERROR again", c, SOL_SOCKET, SO_ERROR);
    close(c);

    puts("# shut for reading");
    pair(l, &c, &s);
    SAY(shutdown(c, SHUT_RD));
    SAY(read(c, b, 16));
    SAY(shutdown(c, SHUT_RDWR));
    settle(s, POLLIN);
    SAY(read(s, b, 16));
    close(c);
    close(s);
}

static void descriptors(int l)
{
    char b[16];
    int c, s;
    puts("# descriptors");
    pair(l, &c, &s);
    int d = dup(c);
    SAY(close(c));
    SAY(write(d, "dup", 3));
    SAY(read(s, b, 16));
    int spare = open("/dev/null", O_RDONLY);
    SAY(dup2(d, spare) == spare);
    close(d);
    SAY(write(spare, "dup2", 4));
    SAY(read(s, b, 16));
    SAY(fcntl(spare, F_GETFD));
    int high = fcntl(spare, F_DUPFD_CLOEXEC, 200);
    printf("high %d cloexec %d\n", high >= 200, fcntl(high, F_GETFD));
    SAY(fcntl(high, F_SETFL, O_NONBLOCK));
    SAY(fcntl(spare, F_GETFL) & O_NONBLOCK);
    SAY(read(spare, b, 16));
    close(high);
    int null = open("/dev/null", O_RDWR);
    SAY(dup2(null, spare) == spare); /* the last descriptor of the session goes */
    settle(s, POLLIN);
    SAY(read(s, b, 16));
    SAY(write(spare, "x", 1));
    close(spare);
    close(null);
    close(s);
}

static void say_epoll(const char *what, int ep, int timeout)
{
    struct epoll_event ev[8];
    memset(ev, 0, sizeof ev);
    int n = epoll_wait(ep, ev, 8, timeout);
    printf("epoll %s = %d", what, n);
    for (int i = 0; i < n; i++)
        printf(" %x:%llu", ev[i].events, (unsigned long long)ev[i].data.u64);
    puts("");
}

static void epolls(int l)
{
    char b[16];
    int c, s, ep = epoll_create1(EPOLL_CLOEXEC), p[2];
    puts("# epoll");
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.u64 = 1};
    int f = socket(AF_INET, SOCK_STREAM, 0);
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, f, &ev));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, f, &ev));
    say_epoll("fresh", ep, 0);
    SAY(connect(f, (struct sockaddr *)&at, sizeof at));
    say_epoll("connected", ep, 1000);
    close(accept(l, NULL, NULL));
    settle(f, POLLIN | POLLRDHUP);
    say_epoll("closed by peer", ep, 1000);
    close(f);
    say_epoll("empty", ep, 0);
    SAY(epoll_ctl(ep, EPOLL_CTL_DEL, f, &ev));

    ev = (struct epoll_event){.events = EPOLLIN, .data.u64 = 2};
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev));
    say_epoll("listener, nobody", ep, 0);
    c = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(c, (struct sockaddr *)&at, sizeof at));
    say_epoll("listener", ep, 1000);
    s = accept(l, NULL, NULL);
    say_epoll("accepted", ep, 0);
    SAY(epoll_ctl(ep, EPOLL_CTL_DEL, l, NULL));
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, l, &ev));

    ev = (struct epoll_event){.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = 3};
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
    say_epoll("edge, nothing", ep, 0);
    SAY(write(c, "a", 1));
    say_epoll("edge", ep, 1000);
    say_epoll("edge, no change", ep, 0);
    SAY(write(c, "b", 1));
    say_epoll("edge again", ep, 1000);
    SAY(read(s, b, 16));
    say_epoll("edge, read", ep, 0);
    ev.events = EPOLLIN | EPOLLONESHOT;
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, s, &ev));
    SAY(write(c, "c", 1));
    say_epoll("one shot", ep, 1000);
    say_epoll("one shot, spent", ep, 0);
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, s, &ev));
    say_epoll("one shot, again", ep, 1000);
    ev = (struct epoll_event){.events = EPOLLIN | EPOLLOUT, .data.u64 = 4};
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, s, &ev));
    say_epoll("level in and out", ep, 1000);
    SAY(pipe(p));
    ev = (struct epoll_event){.events = EPOLLIN, .data.u64 = 5};
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev));
    SAY(read(s, b, 16));
    ev.data.u64 = 6;
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, s, &ev));
    SAY(write(p[1], "p", 1));
    say_epoll("a pipe beside it", ep, 1000);
    SAY(epoll_ctl(ep, EPOLL_CTL_DEL, s, NULL));
    SAY(epoll_ctl(ep, EPOLL_CTL_DEL, s, NULL));
    SAY(write(c, "d", 1));
    SAY(read(p[0], b, 1));
    say_epoll("removed", ep, 0);
    SAY(epoll_wait(ep, &ev, 0, 0));
    close(p[0]);
    close(p[1]);
    close(c);
    close(s);
    close(ep);
}

static void selects(int l)
{
    int c, s;
    puts("# select");
    pair(l, &c, &s);
    fd_set r, w, e;
    struct timeval tv = {0, 0};
    int n = (c > s ? c : s) + 1;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&e);
    FD_SET(c, &r);
    FD_SET(s, &r);
    FD_SET(c, &w);
    FD_SET(c, &e);
    SAY(select(n, &r, &w, &e, &tv));
    printf("r %d %d w %d e %d\n", !!FD_ISSET(c, &r), !!FD_ISSET(s, &r), !!FD_ISSET(c, &w), !!FD_ISSET(c, &e));
    SAY(write(c, "x", 1));
    FD_ZERO(&r);
    FD_SET(s, &r);
    FD_SET(l, &r);
    struct timespec ts = {1, 0};
    SAY(pselect((l > n ? l : n) + 1, &r, NULL, NULL, &ts, NULL));
    printf("r %d l %d\n", !!FD_ISSET(s, &r), !!FD_ISSET(l, &r));
    close(c);
    FD_ZERO(&r);
    FD_SET(c, &r);
    FD_SET(s, &r);
    tv = (struct timeval){0, 1000};
    SAY(select(n, &r, NULL, NULL, &tv));
    close(s);
}

static void nonblocking(int l)
{
    char b[4096] = {0};
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), s, error;
    puts("# non-blocking");
    int r = connect(c, (struct sockaddr *)&at, sizeof at);
    /* at once is allowed */
    printf("connect %s\n", r == 0 || errno == EINPROGRESS ? "started" : name_of(errno));
    say_poll("connected", c, POLLOUT, 1000);
    socklen_t len = sizeof error;
    getsockopt(c, SOL_SOCKET, SO_ERROR, &error, &len);
    printf("SO_ERROR %d\n", error);
    int flags = fcntl(l, F_GETFL);
    SAY(fcntl(l, F_SETFL, flags | O_NONBLOCK));
    s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    printf("accepted %d flags %x cloexec %d\n", s >= 0, (unsigned)fcntl(s, F_GETFL), fcntl(s, F_GETFD));
    SAY(accept(l, NULL, NULL));
    SAY(accept4(l, NULL, NULL, 1));
    SAY(fcntl(l, F_SETFL, flags));
    SAY(fcntl(l, F_GETFL) == flags);
    SAY(read(c, b, 1));
    long sent = 0, got = 0;
    ssize_t k;
    while ((k = write(s, b, sizeof b)) > 0)
        sent += k;
    printf("full: %s, more than 64 KiB %d\n", name_of(errno), sent > 65536);
    say_poll("full", s, POLLOUT, 0);
    while (got < sent && (k = read(c, b, sizeof b)) != 0) {
        if (k > 0)
            got += k;
        else
            settle(c, POLLIN);
    }
    printf("all came %d\n", got == sent);
    say_poll("drained", s, POLLOUT, 1000);
    close(c);
    close(s);
}

static void files(int l)
{
    char b[32];
    int c, s, p[2];
    puts("# sendfile and splice");
    char path[] = "/tmp/berth-conform-XXXXXX";
    int f = mkstemp(path);
    unlink(path);
    SAY(write(f, "0123456789", 10));
    pair(l, &c, &s);
    off_t off = 3;
    SAY(sendfile(c, f, &off, 4));
    printf("off %ld\n", (long)off);
    SAY(read(s, b, 32));
    printf("%.4s\n", b);
    SAY(sendfile(c, f, &off, 400));
    SAY(read(s, b, 32));
    SAY(sendfile(c, f, &off, 400));
    SAY(lseek(f, 8, SEEK_SET));
    SAY(sendfile(c, f, NULL, 400));
    SAY(lseek(f, 0, SEEK_CUR));
    SAY(read(s, b, 32));
    SAY(pipe(p));
    SAY(write(p[1], "through", 7));
    SAY(splice(p[0], NULL, c, NULL, 7, 0));
    settle(s, POLLIN);
    SAY(splice(s, NULL, p[1], NULL, 32, 0));
    SAY(read(p[0], b, 32));
    printf("%.7s\n", b);
    close(f);
    close(p[0]);
    close(p[1]);
    close(c);
    close(s);
}

static void signals(int l)
{
    char b[4];
    int c, s;
    puts("# signals");
    pair(l, &c, &s);
    struct sigaction act = {.sa_handler = on_alarm};
    struct itimerval it = {.it_value = {0, 30000}};
    sigaction(SIGALRM, &act, NULL);
    setitimer(ITIMER_REAL, &it, NULL);
    SAY(read(c, b, 4));
    setitimer(ITIMER_REAL, &it, NULL);
    SAY(accept(l, NULL, NULL));
    setitimer(ITIMER_REAL, &it, NULL);
    struct pollfd p = {c, POLLIN, 0};
    SAY(poll(&p, 1, 2000));
    act.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &act, NULL);
    struct timeval tv = {0, 100000};
    setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SAY(read(c, b, 4));
    setitimer(ITIMER_REAL, &it, NULL);
    SAY(read(c, b, 4));
    close(c);
    close(s);
}

static void *late_writer(void *arg)
{
    usleep(30000);
    if (write(*(int *)arg, "late", 4) != 4)
        perror("late");
    return NULL;
}

static void processes(int l)
{
    char b[16];
    int c, s, status;
    puts("# threads and processes");
    pair(l, &c, &s);
    pthread_t t;
    pthread_create(&t, NULL, late_writer, &c);
    SAY(read(s, b, 16));
    pthread_join(t, NULL);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        ssize_t n = read(s, b, 16);
        _exit(n == 4 && write(s, "child", 5) == 5 ? 7 : 1);
    }
    SAY(write(c, "fork", 4));
    SAY(read(c, b, 16));
    SAY(waitpid(pid, &status, 0) == pid);
    printf("status %d\n", WEXITSTATUS(status));
    /* NOLINTBEGIN(clang-analyzer-unix.Vfork): what children do all the same is what is tested */
    pid = vfork();
    if (pid == 0) {
        close(c);
        close(s);
        close(l);
        _exit(0);
    } /* NOLINTEND(clang-analyzer-unix.Vfork) */
    waitpid(pid, &status, 0);
    SAY(write(c, "still", 5));
    SAY(read(s, b, 16));
    pid = fork();
    if (pid == 0) {
        int k = socket(AF_INET, SOCK_STREAM, 0);
        _exit(connect(k, (struct sockaddr *)&at, sizeof at) == 0 && write(k, "hi", 2) == 2 ? 0 : 1);
    }
    int a = accept(l, NULL, NULL);
    SAY(recv(a, b, 2, MSG_WAITALL));
    SAY(read(a, b, 2));
    waitpid(pid, &status, 0);
    close(a);
    close(c);
    close(s);
}

static void closing(void)
{
    int l = listener(8), c, s;
    char b[4];
    puts("# close_range and a closed listener");
    pair(l, &c, &s);
    SAY(close(l));
    int f = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(f, (struct sockaddr *)&at, sizeof at));
    close(f);
    SAY(close_range((unsigned)c, (unsigned)c, 0));
    settle(s, POLLIN);
    SAY(read(s, b, 4));
    SAY(read(c, b, 4));
    closefrom(3);
    SAY(read(s, b, 4));
    l = listener(8);
    pair(l, &c, &s);
    SAY(write(c, "ok", 2));
    SAY(read(s, b, 4));
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    struct sigaction act = {.sa_handler = on_pipe};
    sigaction(SIGPIPE, &act, NULL);
    int l = listener(16);
    fresh();
    options(l);
    stream(l);
    ends(l);
    descriptors(l);
    epolls(l);
    selects(l);
    nonblocking(l);
    files(l);
    signals(l);
    processes(l);
    closing();
    return 0;
}
