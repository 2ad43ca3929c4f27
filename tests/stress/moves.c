/* moves.c - sessions that go from program to program while both directions carry bytes, and programs that are
 * killed on the way.
 *
 * Callers connect, threads of one process; holders are programs of their own. The first holder accepts; each
 * works on a session for a while, then hands it to the next with what it has sent and received so far, by a
 * stand-in over a unix socket, as the preload library does it. Each byte is checked at both ends. Where
 * holders are killed a caller may see an end or a reset in mid-stream: but no wrong byte, and never silence.
 *
 *     moves SEED ROUNDS [kill]
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/session.h"
#include "party.h"

#define HOLDERS 3
#define CALLERS 4
#define BYTES 200000u /* in each direction */
#define HOPS 6

static bool killing;
static int way[HOLDERS][2]; /* to holder i: [0] is his */

struct baton {
    uint64_t sent, received, key;
    uint32_t hops, pad;
};

struct tally {
    int good, cut, stop;
};
static struct tally *tally;

/* ---- stand-ins ----------------------------------------------------------------------------------------- */

static void tcp_pair(int pair[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(l, (struct sockaddr *)&at, sizeof at) < 0 || listen(l, 1) < 0 ||
        getsockname(l, (struct sockaddr *)&at, &len) < 0 ||
        connect(pair[0], (struct sockaddr *)&at, sizeof at) < 0 ||
        (pair[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC)) < 0)
        fail(0, "no stand-in: %s", strerror(errno));
    close(l);
}

static void hand_over(int to, const struct baton *b, int fd)
{
    char space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {(void *)(uintptr_t)b, sizeof *b};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    while (sendmsg(to, &m, MSG_NOSIGNAL) < 0) {
        if (errno != EINTR && errno != EAGAIN)
            fail(0, "not handed over: %s", strerror(errno));
    }
}

/* -1: nothing there. */
static int get_handed(int from, struct baton *b)
{
    char space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {b, sizeof *b};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd = -1;
    if (recvmsg(from, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != (ssize_t)sizeof *b || !CMSG_FIRSTHDR(&m))
        return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

/* ---- both ends ----------------------------------------------------------------------------------------- */

static uint64_t back(uint64_t key)
{
    return key ^ 0x5555555555555555ull;
}

/* A piece in either direction, as much as goes. 1: something has moved, 0: nothing can, 2: both are through;
 * negative: it is over. */
static int work(session_handle s, uint64_t out_key, uint64_t in_key, struct baton *b, uint64_t *r)
{
    uint8_t buf[8192];
    int moved = 0;
    if (b->sent < BYTES) {
        size_t n = 1 + next_random(r) % sizeof buf;
        n = n < BYTES - b->sent ? n : BYTES - b->sent;
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(out_key, b->sent + i);
        ssize_t put = client_write(s, buf, n);
        if (put > 0) {
            b->sent += (uint64_t)put;
            moved = 1;
        } else if (put != BERTH_E_WOULD_BLOCK) {
            return put ? (int)put : BERTH_E_RESET;
        }
    }
    if (b->received < BYTES) {
        size_t n = 1 + next_random(r) % sizeof buf;
        n = n < BYTES - b->received ? n : BYTES - b->received;
        ssize_t got = client_read(s, buf, n, 0);
        if (got == 0)
            return BERTH_E_CLOSED;
        if (got < 0 && got != BERTH_E_WOULD_BLOCK)
            return (int)got;
        for (ssize_t i = 0; i < got; i++) {
            if (buf[i] != byte_at(in_key, b->received + (uint64_t)i))
                fail(0, "wrong byte at %llu", (unsigned long long)b->received + (unsigned long long)i);
        }
        if (got > 0) {
            b->received += (uint64_t)got;
            moved = 1;
        }
    }
    return b->sent == BYTES && b->received == BYTES ? 2 : moved;
}

/* ---- holders ------------------------------------------------------------------------------------------- */

static int give_away(session_handle s, int stand_in, const struct baton *b, int to)
{
    int pair[2] = {stand_in, -1};
    if (stand_in < 0)
        tcp_pair(pair);
    int err = client_give(s, pair[0], pair[1]);
    if (err) {
        if (stand_in < 0) {
            close(pair[0]);
            close(pair[1]);
        }
        return err;
    }
    struct baton next = *b;
    next.hops++;
    hand_over(to, &next, pair[0]);
    close(pair[0]);
    if (pair[1] >= 0)
        close(pair[1]);
    return 0;
}

/* stand_in: -1 where it was accepted here. */
static void hold(session_handle s, int stand_in, struct baton b, int me, uint64_t *r)
{
    uint32_t turns = (uint32_t)(next_random(r) % 20), turn = 0;
    for (;;) {
        int is = work(s, back(b.key), b.key, &b, r);
        if (is < 0 || is == 2) {
            if (is < 0 && !killing && is != BERTH_E_BAD_HANDLE)
                fail(is, "a holder's session");
            break;
        }
        if (++turn >= turns && b.hops < HOPS) {
            int err = give_away(s, stand_in, &b, way[(me + 1) % HOLDERS][1]);
            if (!err)
                return;
            if (err != BERTH_E_BUSY && !killing)
                fail(err, "it is not given away");
        }
        if (is == 0) {
            struct sleep_mark mark = sleep_mark_now();
            uint32_t events = (b.sent < BYTES ? EPOLLOUT : 0) | (b.received < BYTES ? EPOLLIN : 0);
            struct client_poll_item item = {.handle = s, .events = events};
            if (client_poll_since(&mark, &item, 1, NULL, 0, PATIENCE, NULL, NULL) == 0)
                fail(0, "holder %d waits in vain: sent %llu, received %llu, hops %u", me,
                     (unsigned long long)b.sent, (unsigned long long)b.received, b.hops);
        }
    }
    (void)client_close(s);
    if (stand_in >= 0)
        close(stand_in);
}

/* It came too late: a relay has the session, and the stand-in is what it looks like. */
static void hold_plain(int fd, struct baton b)
{
    uint8_t buf[8192];
    while (b.sent < BYTES || b.received < BYTES) {
        struct pollfd p = {
            .fd = fd, .events = (short)((b.sent < BYTES ? POLLOUT : 0) | (b.received < BYTES ? POLLIN : 0))};
        if (poll(&p, 1, (int)(PATIENCE / MS)) <= 0)
            fail(0, "a relay is silent");
        size_t n = sizeof buf < BYTES - b.sent ? sizeof buf : BYTES - b.sent;
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(back(b.key), b.sent + i);
        ssize_t put = n ? send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        b.sent += put > 0 ? (uint64_t)put : 0;
        ssize_t got = b.received < BYTES ? recv(fd, buf, sizeof buf, MSG_DONTWAIT) : -1;
        if (b.received < BYTES && (got == 0 || (got < 0 && errno != EAGAIN))) {
            if (!killing)
                fail(got, "a relay has ended");
            break;
        }
        for (ssize_t i = 0; i < got; i++) {
            if (buf[i] != byte_at(b.key, b.received + (uint64_t)i))
                fail(0, "wrong byte of a relay at %llu",
                     (unsigned long long)b.received + (unsigned long long)i);
        }
        b.received += got > 0 ? (uint64_t)got : 0;
    }
    close(fd);
}

/* False: it is over already. Where a process is killed its callers offer again what somebody else of the app may
 * have accepted: of two that accept only one has the connection. */
static bool get_key(session_handle s, uint64_t *key)
{
    for (size_t done = 0; done < sizeof *key;) {
        struct iovec v = {(uint8_t *)key + done, sizeof *key - done};
        ssize_t n = client_readv(s, &v, 1, 0);
        if (n == 0 || (n < 0 && n != BERTH_E_WOULD_BLOCK)) {
            if (!killing)
                fail(n, "no key");
            (void)client_close(s);
            return false;
        }
        done += n > 0 ? (size_t)n : 0;
        struct client_poll_item item = {.handle = s, .events = EPOLLIN};
        if (n < 0)
            (void)client_poll(&item, 1, NULL, 0, SEC, NULL, NULL);
    }
    return true;
}

static __attribute__((noreturn)) void holder(int me, int go)
{
    uint64_t r = seed * 77 + (uint64_t)me + 1;
    static char names[HOLDERS][16] = {"holder 0", "holder 1", "holder 2"};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    role = names[me];
    listener_handle l = 0;
    if (me == 0) {
        attach("first");
        berth_listener bl = listen_here(64);
        l = (listener_handle)bl;
        if (write(go, uri, sizeof uri) != (ssize_t)sizeof uri)
            exit(1);
    }
    for (;;) { /* until it is killed */
        struct baton b;
        session_handle s;
        struct pollfd p = {.fd = way[me][0], .events = POLLIN};
        if (l && client_accept(l, &s) == 0) {
            b = (struct baton){0};
            if (get_key(s, &b.key))
                hold(s, -1, b, me, &r);
            continue;
        }
        int fd = get_handed(way[me][0], &b);
        if (fd < 0) {
            if (l) {
                struct client_poll_item item = {.handle = l, .events = EPOLLIN};
                (void)client_poll(&item, 1, &p, 1, 100 * MS, NULL, NULL);
            } else {
                (void)poll(&p, 1, 100);
            }
            continue;
        }
        int err = client_take(fd, &s);
        if (err == BERTH_E_BUSY) {
            hold_plain(fd, b);
            continue;
        }
        if (err) {
            if (!killing)
                fail(err, "it is not to be had");
            close(fd);
            continue;
        }
        hold(s, fd, b, me, &r);
    }
}

/* ---- callers ------------------------------------------------------------------------------------------- */

static __attribute__((noreturn)) void silence(session_handle h, const struct baton *b)
{
    const struct session *s = session_get(h);
    const struct session_cache *c = s ? &C->cache[session_index(s)] : NULL;
    const struct slot *p = c ? c->peer : NULL;
    if (s && c && c->own)
        fprintf(stderr,
                "its record: state %u, flags %x, moving %u, peer %llx.%u.%u, place %u; the peer's slot: %s "
                "generation %u, state %u, place %u, at our %u, tail %llu, head %llu\n",
                s->state, s->flags, s->moving, (unsigned long long)s->peer_outbox, s->peer_slot,
                s->peer_generation, slot_peer_place(c->own), p ? "" : "none", p ? p->generation : 0,
                p ? p->state : 0u, p ? slot_place(p) : 0, p ? slot_peer_place(p) : 0,
                (unsigned long long)(p ? p->tail >> 1 : 0), (unsigned long long)(p ? p->head >> 1 : 0));
    fail(0, "a caller waits in vain: sent %llu, received %llu", (unsigned long long)b->sent,
         (unsigned long long)b->received);
}

static void *caller(void *arg)
{
    uint64_t r = seed * 1000 + (uint64_t)(uintptr_t)arg + 1;
    while (!__atomic_load_n(&tally->stop, __ATOMIC_RELAXED)) {
        uint64_t key = next_random(&r) | 1;
        struct baton b = {.key = key};
        berth_session s = dial();
        put_all(s, &key, sizeof key);
        int is;
        while ((is = work((session_handle)s, key, back(key), &b, &r)) >= 0 && is != 2) {
            struct sleep_mark mark = sleep_mark_now();
            uint32_t events = (b.sent < BYTES ? EPOLLOUT : 0) | (b.received < BYTES ? EPOLLIN : 0);
            if (is == 0 &&
                client_wait((session_handle)s, events, now() + PATIENCE, &mark) == BERTH_E_TIMED_OUT)
                silence((session_handle)s, &b);
            /* client_wait waits for one of the two */
        }
        if (is < 0 && !killing)
            fail(is, "a caller's session: sent %llu, received %llu", (unsigned long long)b.sent,
                 (unsigned long long)b.received);
        if (is == 2 && !killing)
            expect_end(s);
        __atomic_fetch_add(is == 2 ? &tally->good : &tally->cut, 1, __ATOMIC_RELAXED);
        berth_close(s);
    }
    return NULL;
}

static void callers(int go)
{
    pthread_t t[CALLERS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    role = "callers";
    if (read(go, uri, sizeof uri) != (ssize_t)sizeof uri)
        exit(1);
    attach("callers");
    for (uintptr_t i = 0; i < CALLERS; i++)
        pthread_create(&t[i], NULL, caller, (void *)i);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(t[i], NULL);
    exit(0);
}

static pid_t begin(int i, int go[2])
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (i == HOLDERS)
            callers(go[0]);
        holder(i, go[1]);
    }
    return pid;
}

int main(int argc, char **argv)
{
    pid_t pid[HOLDERS + 1];
    int go[2], rounds = argc > 2 ? atoi(argv[2]) : 100;
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    killing = argc > 3 && !strcmp(argv[3], "kill");
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pipe(go) < 0)
        fail(0, "pipe");
    for (int i = 0; i < HOLDERS; i++) {
        if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, way[i]) < 0)
            fail(0, "socketpair");
    }
    for (int i = 0; i <= HOLDERS; i++)
        pid[i] = begin(i, go);
    uint64_t r = seed;
    int64_t end = now() + 4 * PATIENCE;
    while (tally->good + tally->cut < rounds) {
        int st;
        pause_ms(killing ? (long)(5 + next_random(&r) % 60) : 5);
        for (int i = 0; i <= HOLDERS; i++) {
            if (waitpid(pid[i], &st, WNOHANG) == pid[i])
                fail(0, "%s %d ended with status %x", i == HOLDERS ? "callers" : "holder", i, st);
        }
        if (now() > end)
            fail(0, "%d good and %d cut of %d in too long a time", tally->good, tally->cut, rounds);
        if (!killing)
            continue;
        int i = 1 + (int)(next_random(&r) % (HOLDERS - 1)); /* never the first: it listens */
        kill(pid[i], SIGKILL);
        waitpid(pid[i], NULL, 0);
        pid[i] = begin(i, go);
    }
    tally->stop = 1;
    for (int i = HOLDERS; i >= 0; i--) {
        int st = 0;
        if (i == HOLDERS) {
            waitpid(pid[i], &st, 0);
        } else {
            kill(pid[i], SIGKILL);
            waitpid(pid[i], NULL, 0);
        }
        if (st)
            fail(0, "the callers ended with status %x", st);
    }
    printf("moves: passed, %d good, %d cut\n", tally->good, tally->cut);
    return 0;
}
