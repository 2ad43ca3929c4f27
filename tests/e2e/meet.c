/* meet.c - programs that meet for the first time. test_meet.py starts each afresh, many times, and pairs
 * them.
 *
 *   meet nested serve|ask server|client PORT   as tokio does it: an event set in an event set, edges, and an
 *                                              eventfd by which another thread says that there is work
 *   meet select ask server|client PORT         select() and nothing else; it wants to read and to write in
 *                                              the same call
 *
 * They play: who has the first word ("server" or "client") says line 0, and who hears line N says line N+1,
 * until line LAST. Line N is its number and a length that depends on it, so whatever is lost, doubled or
 * misdirected shows. Who has heard the last line closes, the other hears the end; both say "met", and stay
 * until the end of stdin.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../slowness.h"

enum { LAST = 60, SPAN = 3000, LINE = SPAN + 16, LONGEST_S = 20, SILENCE_MS = 5000 };

struct game {
    int fd, next; /* the line that must come next */
    size_t have, out_at, out_len;
    int over;
    char in[2 * LINE], out[LINE];
};

static int asked[2]; /* eventfds: work for the other thread, and its answer */

__attribute__((noreturn)) static void fail(const char *what, int n)
{
    (void)fprintf(stderr, "%s (%d): %s\n", what, n, strerror(errno));
    exit(1);
}

static size_t line(int n, char *out)
{
    size_t at = (size_t)sprintf(out, "%d ", n), more = (size_t)(n * 37 % SPAN);
    memset(out + at, 'a' + n % 10, more);
    out[at + more] = '\n';
    return at + more + 1;
}

static void say(struct game *g, int n)
{
    g->out_len = line(n, g->out);
    g->out_at = 0;
    g->next = n + 1;
}

static void flush(struct game *g)
{
    while (g->out_at < g->out_len) {
        ssize_t n = send(g->fd, g->out + g->out_at, g->out_len - g->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            fail("send", g->next);
        g->out_at += (size_t)n;
    }
}

/* Reads all there is. True when a line has come that wants an answer. */
static int hear(struct game *g)
{
    char want[LINE];
    for (;;) {
        size_t len = line(g->next, want);
        if (g->have >= len) {
            if (g->have != len || memcmp(g->in, want, len) != 0)
                fail("another line than this has come", g->next);
            g->have = 0;
            if (g->next == LAST)
                g->over = 1;
            return 1;
        }
        ssize_t n = recv(g->fd, g->in + g->have, sizeof g->in - g->have, 0);
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n == 0 && g->next == LAST + 1 && g->have == 0) {
            g->over = 1;
            return 0;
        }
        if (n <= 0)
            fail(n ? "recv" : "an end too early, before line", g->next);
        g->have += (size_t)n;
    }
}

static void add(int ep, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl", fd);
}

/* The other thread: what it is given it gives back. */
static void *work(void *arg)
{
    uint64_t n;
    while (read(asked[0], &n, sizeof n) == sizeof n && write(asked[1], &n, sizeof n) == sizeof n)
        ;
    return arg;
}

/* One descriptor of the inner set. */
static void look_at(struct game *g, int fd, int listener, int inner)
{
    uint64_t n;
    if (fd == listener) {
        if ((g->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) < 0)
            fail("accept of a listener that is readable", listener);
        add(inner, g->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    } else if (fd == asked[1]) {
        if (read(asked[1], &n, sizeof n) != sizeof n)
            fail("the eventfd", fd);
        say(g, g->next + 1);
        flush(g);
    } else if (fd == g->fd) {
        flush(g);
        n = 1;
        if (hear(g) && !g->over && write(asked[0], &n, sizeof n) != sizeof n)
            fail("asking the other thread", fd);
    } else {
        fail("an event of a descriptor that is not ours", fd);
    }
}

static void nested(struct game *g, int listener, int first)
{
    struct epoll_event event[8];
    pthread_t thread;
    int inner = epoll_create1(0), outer = epoll_create1(0), said = 0;
    asked[0] = eventfd(0, 0);
    asked[1] = eventfd(0, EFD_NONBLOCK);
    if (inner < 0 || outer < 0 || asked[0] < 0 || asked[1] < 0 || pthread_create(&thread, NULL, work, NULL))
        fail("making", 0);
    add(outer, inner, EPOLLIN | EPOLLET);
    add(inner, asked[1], EPOLLIN | EPOLLET);
    if (listener >= 0)
        add(inner, listener, EPOLLIN);
    else
        add(inner, g->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    while (!g->over) {
        if (first && !said && g->fd >= 0) {
            say(g, 0);
            flush(g);
            said = 1;
        }
        int n = epoll_wait(outer, event, 8, (int)longer(SILENCE_MS));
        if (n != 1 || event[0].data.fd != inner)
            fail("the outer set says nothing; before line", g->next);
        while (!g->over && (n = epoll_wait(inner, event, 8, 0)) > 0)
            for (int i = 0; i < n && !g->over; i++)
                look_at(g, event[i].data.fd, listener, inner);
    }
}

static void with_select(struct game *g, int first)
{
    if (first)
        say(g, 0);
    while (!g->over) {
        struct timeval t = {.tv_sec = (time_t)longer(SILENCE_MS) / 1000};
        fd_set in, out;
        FD_ZERO(&in);
        FD_ZERO(&out);
        FD_SET(g->fd, &in);
        if (g->out_at < g->out_len || g->next < 4) /* at first always: then writable must not hide readable */
            FD_SET(g->fd, &out);
        if (select(g->fd + 1, &in, &out, NULL, &t) < 1)
            fail("select says nothing; before line", g->next);
        if (FD_ISSET(g->fd, &out))
            flush(g);
        if (FD_ISSET(g->fd, &in) && hear(g) && !g->over)
            say(g, g->next + 1);
        if (!FD_ISSET(g->fd, &in))
            (void)usleep(1000);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static struct game g = {.fd = -1};
    int one = 1, listener = -1;
    if (argc != 5) {
        (void)fputs("usage: meet nested|select serve|ask server|client PORT\n", stderr);
        return 2;
    }
    (void)alarm((unsigned)longer(LONGEST_S));
    a.sin_port = htons((uint16_t)atoi(argv[4]));
    int serves = strcmp(argv[2], "serve") == 0, first = serves == (strcmp(argv[3], "server") == 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (serves) {
        listener = fd;
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
            bind(fd, (struct sockaddr *)&a, sizeof a) || fcntl(fd, F_SETFL, O_NONBLOCK) || listen(fd, 10))
            fail("listen", fd);
    } else {
        g.fd = fd;
        if (connect(fd, (struct sockaddr *)&a, sizeof a) || fcntl(fd, F_SETFL, O_NONBLOCK))
            fail("connect", fd);
    }
    if (strcmp(argv[1], "nested") == 0)
        nested(&g, listener, first);
    else if (!serves)
        with_select(&g, first);
    (void)puts("met");
    (void)fflush(stdout);
    if (read(STDIN_FILENO, g.in, 1) < 0) /* the test may want to look at the session */
        fail("reading stdin", 0);
    (void)close(g.fd);
    return 0;
}
