/* home.c - servers and callers that fork for each connection and leave it to the child, many at a time: so
 * both ends of a session move into the children's own outboxes, while both directions carry bytes and
 * children are killed. Each byte is checked at both ends. Where children are killed the other end may see an
 * end or a reset in mid-stream: but no wrong byte, and never silence.
 *
 *     home SEED ROUNDS [kill]
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/session.h"
#include "party.h"

#define KIDS 8        /* of the callers, at a time */
#define ROOM 64       /* the server may have heard of fewer ends */
#define BYTES 120000u /* in each direction */
#define PIECE 400u
#define AHEAD 1000u /* of what the other end has sent: so there is much waiting */

enum { GOOD = 0, CUT = 7 };

static bool killing;
static struct tally {
    int ended[2], good[2], home[2], stop;
    pid_t kid[2][ROOM];
} * tally;

static uint64_t key_of(uint64_t key, bool server)
{
    return server ? key ^ 0x5555555555555555ull : key;
}

static void wait_for(session_handle s, uint32_t events, uint64_t sent, uint64_t received, uint64_t *r)
{
    struct sleep_mark mark = sleep_mark_now();
    int err;
    if (events == EPOLLIN && next_random(r) % 2) {
        err = client_wait(s, events, now() + PATIENCE, &mark);
    } else {
        struct client_poll_item item = {.handle = s, .events = events};
        int n = client_poll_since(&mark, &item, 1, NULL, 0, PATIENCE, NULL, NULL);
        err = n == 0 ? BERTH_E_TIMED_OUT : n;
    }
    if (err != BERTH_E_TIMED_OUT)
        return;
    const struct session *rec = session_get(s);
    fail(err, "waits in vain: sent %llu, received %llu; flags %x, moving %u, worker %u of %u",
         (unsigned long long)sent, (unsigned long long)received, rec ? rec->flags : 0, rec ? rec->moving : 0,
         rec ? session_owner(rec) : 0, C->worker);
}

static ssize_t get_some(session_handle s, void *buf, size_t n)
{
    struct iovec v = {buf, n};
    return client_readv(s, &v, 1, 0);
}

static ssize_t put_some(session_handle s, const void *buf, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)buf, n};
    return client_writev(s, &v, 1);
}

static int work(session_handle s, uint64_t key, bool server, uint64_t *r)
{
    uint64_t out = key_of(key, server), in = key_of(key, !server), sent = 0, received = 0;
    uint8_t buf[PIECE];
    while (sent < BYTES || received < BYTES) {
        uint64_t may = received + AHEAD < BYTES ? received + AHEAD : BYTES;
        size_t n = 1 + next_random(r) % PIECE;
        n = n < may - sent ? n : may - sent;
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(out, sent + i);
        ssize_t put = n ? put_some(s, buf, n) : BERTH_E_WOULD_BLOCK;
        if (put < 0 && put != BERTH_E_WOULD_BLOCK)
            return (int)put;
        sent += put > 0 ? (uint64_t)put : 0;
        ssize_t got = received < BYTES ? get_some(s, buf, 1 + next_random(r) % PIECE) : BERTH_E_WOULD_BLOCK;
        if (got == 0 || (got < 0 && got != BERTH_E_WOULD_BLOCK))
            return got ? (int)got : BERTH_E_CLOSED;
        for (ssize_t i = 0; i < got; i++) {
            if (buf[i] != byte_at(in, received + (uint64_t)i))
                fail(0, "wrong byte at %llu", (unsigned long long)received + (unsigned long long)i);
        }
        received += got > 0 ? (uint64_t)got : 0;
        if (put < 0 && got < 0)
            wait_for(s, (n ? EPOLLOUT : 0) | (received < BYTES ? EPOLLIN : 0), sent, received, r);
    }
    return 0;
}

static __attribute__((noreturn)) void kid(session_handle s, uint64_t key, bool server)
{
    uint64_t r = key * 3 + server + 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    role = server ? "a server's child" : "a caller's child";
    for (size_t done = 0; server && done < sizeof key;) {
        ssize_t n = get_some(s, (uint8_t *)&key + done, sizeof key - done);
        if (n == BERTH_E_WOULD_BLOCK) {
            wait_for(s, EPOLLIN, 0, 0, &r);
        } else if (n <= 0) {
            if (!killing)
                fail(n, "no key");
            exit(CUT);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    if (server)
        put_all((berth_session)s, &key, sizeof key);
    int err = work(s, key, server, &r);
    const struct session *rec = session_get(s);
    if (err && !killing)
        fail(err, "its session");
    if (rec && worker_is_us(session_owner(rec)))
        __atomic_fetch_add(&tally->home[server], 1, __ATOMIC_RELAXED);
    if (!err && !server) { /* the server ends it, and that is told */
        uint8_t c;
        ssize_t n;
        while ((n = get_some(s, &c, 1)) == BERTH_E_WOULD_BLOCK)
            wait_for(s, EPOLLIN, BYTES, BYTES, &r);
        if (n && !killing)
            fail(n, "no end");
    }
    (void)client_close(s);
    exit(err ? CUT : GOOD);
}

/* How many are there. */
static int reap_kids(bool server)
{
    int n = 0, st;
    for (int i = 0; i < ROOM; i++) {
        pid_t pid = tally->kid[server][i];
        if (pid && waitpid(pid, &st, WNOHANG) == pid) {
            tally->kid[server][i] = 0;
            bool cut = WIFSIGNALED(st) ? WTERMSIG(st) == SIGKILL : WEXITSTATUS(st) == CUT;
            if (st && (!killing || !cut))
                fail(0, "a child ended with status %x", st);
            tally->good[server] += !st;
            tally->ended[server]++;
        } else {
            n += pid != 0;
        }
    }
    return n;
}

static void leave_to_kid(session_handle s, uint64_t key, bool server)
{
    int place = 0;
    while (place < ROOM && tally->kid[server][place])
        place++;
    if (place == ROOM)
        fail(0, "children do not end");
    pid_t pid = fork();
    if (pid == 0)
        kid(s, key, server);
    tally->kid[server][place] = pid;
    (void)client_close(s);
}

static void serve(int go)
{
    role = "server";
    attach(role);
    listener_handle l = (listener_handle)listen_here(64);
    if (write(go, uri, sizeof uri) != (ssize_t)sizeof uri)
        exit(1);
    while (__atomic_load_n(&tally->stop, __ATOMIC_RELAXED) < 2) {
        session_handle s;
        struct client_poll_item item = {.handle = l, .events = EPOLLIN};
        (void)client_poll(&item, 1, NULL, 0, 5 * MS, NULL, NULL);
        (void)reap_kids(true);
        if (client_accept(l, &s) == 0)
            leave_to_kid(s, 0, true);
    }
    while (reap_kids(true))
        pause_ms(1);
}

static void call(int go)
{
    uint64_t r = seed * 1000 + 1;
    role = "callers";
    if (read(go, uri, sizeof uri) != (ssize_t)sizeof uri)
        exit(1);
    attach(role);
    while (!__atomic_load_n(&tally->stop, __ATOMIC_RELAXED)) {
        if (reap_kids(false) >= KIDS) {
            pause_ms(1);
            continue;
        }
        /* its child goes on when both ends know each other: else a death that is heard of meanwhile, and there
         * are many, may lead to a second offer */
        uint64_t key = next_random(&r) | 1, again = 0;
        berth_session s = dial();
        ssize_t n =
            berth_write(s, &key, sizeof key, PATIENCE); /* whom it is for may have been killed already */
        n = n == sizeof key ? berth_read(s, &again, sizeof again, PATIENCE) : n;
        if (n != sizeof again && !killing)
            fail(n, "no answer");
        if (n == sizeof again)
            leave_to_kid((session_handle)s, key, false);
        else
            (void)client_close((session_handle)s);
    }
    while (reap_kids(false))
        pause_ms(1);
}

static void kill_one(const pid_t *kids, uint64_t *r)
{
    uint64_t first = next_random(r);
    for (int i = 0; i < ROOM; i++) {
        pid_t pid = kids[(first + (uint64_t)i) % ROOM];
        if (pid && kill(pid, SIGKILL) == 0)
            return;
    }
}

int main(int argc, char **argv)
{
    int go[2], rounds = argc > 2 ? atoi(argv[2]) : 100, st;
    pid_t side[2];
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    killing = argc > 3 && !strcmp(argv[3], "kill");
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED || pipe(go) < 0)
        fail(0, "pipe");
    for (int i = 0; i < 2; i++) {
        if ((side[i] = fork()) == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            (i ? serve : call)(go[i]);
            _exit(0);
        }
    }
    uint64_t r = seed;
    int64_t end = now() + 4 * PATIENCE;
    while (tally->ended[0] < rounds) {
        pause_ms(killing ? (long)(1 + next_random(&r) % 20) : 5);
        for (int i = 0; i < 2; i++) {
            if (waitpid(side[i], &st, WNOHANG) == side[i])
                fail(0, "the %s ended with status %x", i ? "server" : "callers", st);
        }
        if (now() > end)
            fail(0, "%d of %d in too long a time", tally->ended[0], rounds);
        if (killing)
            kill_one(tally->kid[next_random(&r) % 2], &r);
    }
    for (int i = 0; i < 2; i++) {
        tally->stop = i + 1;
        if (waitpid(side[i], &st, 0) != side[i] || st)
            fail(0, "the %s ended with status %x", i ? "server" : "callers", st);
    }
    printf("home: passed, %d good of %d; moved: %d and %d\n", tally->good[0], tally->ended[0], tally->home[0],
           tally->home[1]);
    return 0;
}
