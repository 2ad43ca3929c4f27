/* net.c - sockets of the cases: loopback, TCP, port 0. */
#include "differ.h"

struct sockaddr_in differ_at;

int fresh_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

int listener(int backlog)
{
    int fd = fresh_socket();
    socklen_t len = sizeof differ_at;
    differ_at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&differ_at, len) != 0 || listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)&differ_at, &len) != 0)
        say("no listener: %s", result_text(-1, errno));
    return fd;
}

static int dial_with(int flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at) != 0 && !flags) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

int dial(void)
{
    return dial_with(0);
}

void begin_connect(int fd)
{
    (void)connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at);
}

int begin_dial(void)
{
    return dial_with(SOCK_NONBLOCK);
}

int dial_port(int port)
{
    differ_at = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return dial();
}

int set_nonblock(int fd, int on)
{
    int flags = fcntl(fd, F_GETFL);
    return fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

int set_option(int fd, int option, int value)
{
    return setsockopt(fd, SOL_SOCKET, option, &value, sizeof value);
}

int set_timeout(int fd, int option, int ms)
{
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    return setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv);
}

int option_of(int fd, int option)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &len) == 0 ? value : -1;
}

int socket_error(int fd)
{
    int error = -1;
    socklen_t len = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 ? error : -1;
}

int unread(int fd)
{
    int count = -1;
    return ioctl(fd, FIONREAD, &count) == 0 ? count : -1;
}

void reset(int fd)
{
    struct linger hard = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

int bound_socket(void)
{
    int fd = fresh_socket();
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    if (bind(fd, (struct sockaddr *)&at, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&differ_at, &len) != 0)
        say("not bound: %s", result_text(-1, errno));
    return fd;
}

int connect_there(int fd)
{
    return connect(fd, (struct sockaddr *)&differ_at, sizeof differ_at);
}

struct pair pair_here(void)
{
    struct pair p = {.l = listener(16)};
    p.c = dial();
    p.s = accept(p.l, NULL, NULL);
    if (p.c < 0 || p.s < 0)
        say("no pair: %s", result_text(-1, errno));
    return p;
}

struct pair pair_in(void)
{
    struct pair p = pair_here();
    char byte = 'a';
    if (send(p.c, &byte, 1, 0) != 1 || recv(p.s, &byte, 1, 0) != 1 || send(p.s, &byte, 1, 0) != 1 ||
        recv(p.c, &byte, 1, 0) != 1)
        say("no exchange: %s", result_text(-1, errno));
    return p;
}

unsigned char pattern(long at)
{
    return (unsigned char)(at * 31 + (at >> 8) * 7 + (at >> 16));
}

long give(int fd, long at, long count)
{
    static __thread unsigned char block[65536];
    long done = 0;
    while (done < count) {
        long part = count - done < (long)sizeof block ? count - done : (long)sizeof block;
        for (long i = 0; i < part; i++)
            block[i] = pattern(at + done + i);
        long n = send(fd, block, (size_t)part, MSG_NOSIGNAL);
        if (n < 0)
            return -1;
        done += n;
    }
    return done;
}

long take(int fd, long at, long count, int flags)
{
    static __thread unsigned char block[65536];
    long done = 0;
    while (done < count) {
        long part = count - done < (long)sizeof block ? count - done : (long)sizeof block;
        long n = recv(fd, block, (size_t)part, flags);
        if (n < 0)
            return done ? done : -1;
        if (n == 0)
            break;
        for (long i = 0; i < n; i++)
            if (block[i] != pattern(at + done + i))
                return -2;
        done += n;
    }
    return done;
}

long fill(int fd)
{
    static char block[65536];
    long all = 0;
    /* the peer's kernel may still be taking what was sent: full is what stays full, to the last byte */
    for (int quiet = 0; quiet < 20;) {
        long n = send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            n = send(fd, block, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            all += n;
            quiet = 0;
        } else if (errno == EAGAIN) {
            quiet++;
            nap(1);
        } else {
            return -1;
        }
    }
    return all;
}

long send_till_error(int fd)
{
    long n;
    while ((n = send(fd, "x", 1, MSG_NOSIGNAL)) == 1)
        ;
    return n;
}

long drain(int fd, long count)
{
    static char block[65536];
    long all = 0;
    while (all < count) {
        long n =
            recv(fd, block, (size_t)(count - all) < sizeof block ? (size_t)(count - all) : sizeof block, 0);
        if (n <= 0)
            break;
        all += n;
    }
    return all;
}
