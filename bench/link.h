/* link.h - one measuring program, two worlds: the calls it makes, as libberth's or as the socket layer's.
 *
 * link.c is compiled twice, with LINK_BERTH into berth-bench and without into sock-bench. sock-bench is an
 * ordinary socket program that has never heard of berth; run.py runs it on the kernel and under `berth run`.
 * Everything is inline, so that neither side pays for the indirection. Each call waits for ever; the watchdog
 * bounds it.
 */
#ifndef BERTH_BENCH_LINK_H
#define BERTH_BENCH_LINK_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

#ifdef LINK_BERTH

#include "berth/berth.h"

typedef berth_session link_t;
typedef berth_listener link_listener;
typedef berth_waitset *link_set;
typedef struct berth_event link_event;

#define LINK_WORLDS "berth"

static inline void link_check(const char *what, ssize_t rc)
{
    if (rc < 0)
        die_text("%s: %s", what, berth_strerror((int)rc));
}

static inline void link_attach(const char *world, const char *name)
{
    (void)world;
    link_check("attach", berth_attach(&(struct berth_attach_options){.name = name, .spin_ns = -1}));
}

static inline void link_detach(void)
{
    berth_detach();
}

/* host: an IPv4 address. where, 128 bytes: receives what the connecting side is to be told. */
static inline link_listener link_listen(const char *host, char *where)
{
    struct berth_endpoint ep;
    berth_listener l;
    char uri[64];

    snprintf(uri, sizeof(uri), "tcp://%s:0", host);
    link_check("listen", berth_listen_uri(uri, &(struct berth_listen_options){.backlog = 4096}, &l));
    link_check("listener", berth_listener_endpoint(l, &ep));
    memcpy(where, "tcp://", 7);
    berth_endpoint_format(&ep, where + 6, 100);
    return l;
}

static inline link_t link_accept(link_listener l)
{
    berth_session s;

    link_check("accept", berth_accept(l, -1, &s));
    return s;
}

static inline link_t link_connect(const char *where)
{
    berth_session s;

    link_check("connect", berth_connect_uri(where, -1, &s));
    return s;
}

/* Where to, looked at once: what a loop of connects repeats. */
typedef struct berth_endpoint link_place;

static inline void link_place_of(const char *where, link_place *out)
{
    link_check(where, berth_endpoint_parse(where, 0, out, NULL, 0));
}

static inline link_t link_connect_place(const link_place *place)
{
    berth_session s;

    link_check("connect", berth_connect(place, -1, &s));
    return s;
}

static inline ssize_t link_read(link_t s, void *buf, size_t len)
{
    ssize_t n = berth_read(s, buf, len, -1);
    if (__builtin_expect(n < 0, 0))
        link_check("read", n);
    return n;
}

/* Does not wait; -1 when there is nothing. */
static inline ssize_t link_try_read(link_t s, void *buf, size_t len)
{
    ssize_t n = berth_read(s, buf, len, 0);
    if (n == BERTH_E_WOULD_BLOCK)
        return -1;
    link_check("read", n);
    return n;
}

static inline void link_write(link_t s, const void *buf, size_t len)
{
    ssize_t n = berth_write(s, buf, len, -1);
    if (__builtin_expect(n != (ssize_t)len, 0))
        die_text("write: %s", n < 0 ? berth_strerror((int)n) : "short");
}

static inline void link_end(link_t s)
{
    link_check("shutdown", berth_shutdown(s, BERTH_SHUT_WR));
}

static inline void link_close(link_t s)
{
    link_check("close", berth_close(s));
}

static inline link_set link_set_create(void)
{
    berth_waitset *set = berth_waitset_create();
    if (!set)
        die("waitset");
    return set;
}

static inline void link_set_add(link_set set, link_t s, uint64_t data)
{
    link_check("waitset", berth_waitset_add(set, s, BERTH_IN, data));
}

static inline int link_set_wait(link_set set, link_event *events, int max)
{
    int n = berth_waitset_wait(set, events, max, -1);
    if (__builtin_expect(n < 0, 0))
        link_check("wait", n);
    return n;
}

static inline uint64_t link_event_data(const link_event *e)
{
    return e->data;
}

#else /* sockets */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef int link_t;
typedef int link_listener;
typedef int link_set;
typedef struct epoll_event link_event;

#define LINK_WORLDS "tcp|unix"

static bool link_is_unix;

static inline void link_attach(const char *world, const char *name)
{
    (void)name;
    link_is_unix = strcmp(world, "unix") == 0;
}

static inline void link_detach(void)
{
}

static inline link_listener link_listen(const char *host, char *where)
{
    int fd = socket(link_is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket");
    if (link_is_unix) { /* autobind: a name nobody else has, and nothing on disk */
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        socklen_t len = sizeof(un);
        if (bind(fd, (struct sockaddr *)&un, sizeof(sa_family_t)) < 0 || listen(fd, 4096) < 0)
            die("listen");
        getsockname(fd, (struct sockaddr *)&un, &len);
        snprintf(where, 100, "%.*s", (int)(len - sizeof(sa_family_t) - 1), un.sun_path + 1);
    } else {
        struct sockaddr_in in = {.sin_family = AF_INET};
        socklen_t len = sizeof(in);
        inet_pton(AF_INET, host, &in.sin_addr);
        if (bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0 || listen(fd, 4096) < 0)
            die("listen");
        getsockname(fd, (struct sockaddr *)&in, &len);
        snprintf(where, 100, "%s:%d", host, ntohs(in.sin_port));
    }
    return fd;
}

static inline void link_nodelay(int fd)
{
    int one = 1;

    if (!link_is_unix)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static inline link_t link_accept(link_listener l)
{
    int fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("accept");
    return fd;
}

typedef struct {
    struct sockaddr_storage address;
    socklen_t length;
} link_place;

static inline void link_place_of(const char *where, link_place *out)
{
    memset(out, 0, sizeof(*out));
    if (link_is_unix) {
        struct sockaddr_un *un = (struct sockaddr_un *)&out->address;
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path + 1, where, strlen(where));
        out->length = (socklen_t)(sizeof(sa_family_t) + 1 + strlen(where));
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)&out->address;
        const char *colon = strchr(where, ':');
        char host[64] = {0};
        if (!colon || colon - where >= 64)
            die_text("bad address \"%s\"", where);
        memcpy(host, where, (size_t)(colon - where));
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)atoi(colon + 1));
        inet_pton(AF_INET, host, &in->sin_addr);
        out->length = sizeof(*in);
    }
}

static inline link_t link_connect_place(const link_place *place)
{
    int fd = socket(place->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (connect(fd, (const struct sockaddr *)&place->address, place->length) < 0)
        die("connect");
    return fd;
}

static inline link_t link_connect(const char *where)
{
    link_place place;

    link_place_of(where, &place);
    int fd = link_connect_place(&place);
    link_nodelay(fd);
    return fd;
}

static inline ssize_t link_read(link_t s, void *buf, size_t len)
{
    ssize_t n = read(s, buf, len);
    if (__builtin_expect(n < 0, 0))
        die("read");
    return n;
}

static inline ssize_t link_try_read(link_t s, void *buf, size_t len)
{
    ssize_t n = recv(s, buf, len, MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        die("read");
    return n;
}

static inline void link_write(link_t s, const void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(s, (const char *)buf + done, len - done);
        if (__builtin_expect(n < 0, 0))
            die("write");
        done += (size_t)n;
    }
}

static inline void link_end(link_t s)
{
    if (shutdown(s, SHUT_WR) < 0)
        die("shutdown");
}

static inline void link_close(link_t s)
{
    if (close(s) < 0)
        die("close");
}

static inline link_set link_set_create(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        die("epoll_create1");
    return fd;
}

static inline void link_set_add(link_set set, link_t s, uint64_t data)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = data};
    if (epoll_ctl(set, EPOLL_CTL_ADD, s, &e) < 0)
        die("epoll_ctl");
}

static inline int link_set_wait(link_set set, link_event *events, int max)
{
    int n = epoll_wait(set, events, max, -1);
    if (n < 0 && errno != EINTR)
        die("epoll_wait");
    return n < 0 ? 0 : n;
}

static inline uint64_t link_event_data(const link_event *e)
{
    return e->data.u64;
}

#endif

/* All of it; false at the end of the stream. */
static inline bool link_read_all(link_t s, void *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t n = link_read(s, (char *)buf + have, len - have);
        if (n == 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

#endif
