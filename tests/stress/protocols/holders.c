/* holders.c - sessions that several processes hold, and how these end. */
#include "protocols.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Who hears late that a relative has died must not take another, which has the place since, for the dead one. The deaf one is
 * stopped while a child dies and the next comes. */
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
