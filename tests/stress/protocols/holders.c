/* holders.c - sessions that several processes hold, and how these end. */
#include "protocols.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Who hears late that a relative has died must not take another, which has the place since, for the dead one.
 * The deaf one is stopped while a child dies and the next comes. */
void late_word(void)
{
    pid_t far = far_side(far_echo_threads);
    attach("near");
    uint64_t r = seed | 1;
    way = BLOCKING;
    for (int i = 0; i < (rounds ? rounds : 20); i++) {
        berth_session own = dial();
        pid_t deaf = fork();
        if (deaf == 0) {
            char c;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            (void)berth_read(own, &c, 1, 1 * MS);
            raise(SIGSTOP); /* outside of berth, so that it holds no lock */
            while (berth_read(own, &c, 1, 1 * MS) != 0)
                ;
            exit(0);
        }
        waitpid(deaf, NULL, WUNTRACED);
        berth_session s = dial();
        for (int k = 0; k < 3; k++) {
            pid_t brief = fork();
            if (brief == 0)
                _exit(0);
            waitpid(brief, NULL, 0);
            struct waiter w = waiter_make(s, BERTH_IN);
            ask_echo(&w, &r, 5); /* hears of it */
            pause_ms(1);
            ask_echo(&w, &r, 5);
        }
        pid_t heir = fork();
        if (heir == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            kill(deaf, SIGCONT);
            struct waiter w = waiter_make(s, BERTH_IN);
            for (int k = 0; k < 20; k++) {
                ask_echo(&w, &r, 3);
                pause_ms(1);
            }
            exit(0);
        }
        berth_close(s); /* the heir alone has it now */
        reap(heir, "the heir");
        kill(deaf, SIGKILL);
        waitpid(deaf, NULL, 0);
        berth_close(own);
    }
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

static void twin(void *arg)
{
    static uint8_t out[8][100000], in[sizeof out[0]];
    uint64_t r = seed * 1000 + (uint64_t) * (int *)arg + 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < (rounds ? rounds : 30);
         i++) { /* the far side needs ever new segments; with each comes a look at all slots */
        berth_session s[8];
        for (int k = 0; k < 8; k++) {
            uint64_t key = next_random(&r);
            for (size_t b = 0; b < sizeof in; b++)
                out[k][b] = byte_at(key, b);
            s[k] = dial();
            put_all(s[k], out[k], sizeof in);
        }
        for (int k = 0; k < 8; k++) {
            get_all(s[k], in, sizeof in);
            if (memcmp(in, out[k], sizeof in) != 0)
                fail(0, "the echo is another's");
            berth_close(s[k]);
        }
    }
}

/* Processes that part at once: whatever they count begins alike, and they meet the same peer. */
void twins(void)
{
    pid_t far = far_side(far_echo_threads);
    attach("near");
    pid_t pid[4];
    for (int i = 0; i < 4; i++)
        pid[i] = start(twin, &i);
    for (int i = 0; i < 4; i++)
        reap(pid[i], "a twin");
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}

/* A server that forks for each session; before it accepted any it forked one that has a session of its own,
 * lives on, and is the first to hear of every death. What the others held it has no part in, and it must not
 * stand in the way. */
static void serve_beside_a_sibling(void)
{
    signal(SIGCHLD, SIG_IGN);
    attach("forking");
    berth_listener l = listen_here(64);
    berth_session own = dial(), other = take(l);
    if (fork() == 0) {
        char c;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        berth_close(other);
        (void)berth_read(own, &c, 1, -1);
        exit(0);
    }
    berth_listener at = listen_here(64);
    if (write(3, uri, sizeof uri) != (ssize_t)sizeof uri)
        exit(1);
    for (int i = 0;; i++) {
        berth_session s = take(at);
        pid_t pid = fork();
        if (pid == 0) {
            char c;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            get_all(s, &c, 1);
            put_all(s, &c, 1);
            if (i % 2)
                kill(getpid(), SIGKILL);
            _exit(0);
        }
        berth_close(s);
        waitpid(pid, NULL, 0);
        pause_ms(20); /* in which the sibling hears of it */
    }
}

void sibling_hears(void)
{
    int tell[2];
    if (pipe(tell) != 0)
        fail(0, "pipe");
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(tell[1], 3);
        serve_beside_a_sibling();
    }
    if (read(tell[0], uri, sizeof uri) != (ssize_t)sizeof uri)
        fail(0, "the server did not begin");
    attach("client");
    for (int i = 0; i < (rounds ? rounds : 20); i++) {
        berth_session s = dial();
        char c = 'x';
        put_all(s, &c, 1);
        get_all(s, &c, 1);
        int64_t since = now();
        expect_end(s);
        if (now() - since > longer(SEC))
            fail(0, "the end came after %lld ms", (long long)((now() - since) / MS));
        berth_close(s);
    }
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

static void far_brief(berth_listener l)
{
    for (;;) {
        berth_session s;
        int err = berth_accept(l, PATIENCE, &s);
        if (err == BERTH_E_INTERRUPTED) /* it was stopped */
            continue;
        expect(err, "accept");
        put_all(s, "hello", 5);
        berth_close(s);
    }
}

/* A child with a connection that was not accepted before the fork, and a parent that does nothing: the child
 * alone finds the answer, also one that was given and ended long before it looked. */
void heir_of_an_offer(void)
{
    pid_t far = far_side(far_brief);
    attach("near");
    char buf[5];
    for (int i = 0; i < (rounds ? rounds : 20); i++) {
        way = (enum way)(i % WAYS);
        kill(far, SIGSTOP);
        berth_session s = dial();
        pid_t pid = fork();
        if (pid == 0) {
            struct waiter w = waiter_make(s, BERTH_IN);
            if (i / WAYS % 2 == 0)
                kill(far, SIGCONT); /* it answers while this one looks */
            else
                pause_ms(30);
            int64_t since = now();
            for (size_t got = 0; got < sizeof buf;) {
                ssize_t n = read_some(&w, buf, sizeof buf - got);
                if (n <= 0)
                    fail(n, "the answer");
                got += (size_t)n;
            }
            if (read_some(&w, buf, 1) != 0)
                fail(0, "the end was expected");
            if (now() - since > longer(2 * SEC))
                fail(0, "the answer took %lld ms", (long long)((now() - since) / MS));
            exit(0);
        }
        if (i / WAYS % 2)
            kill(far, SIGCONT);
        reap(pid, "the heir");
        kill(far, SIGCONT);
        berth_close(s);
    }
    kill(far, SIGKILL);
    waitpid(far, NULL, 0);
}
