/* holders.c - sessions that several processes hold, and how these end. */
#include "protocols.h"

#include <signal.h>
#include <stdlib.h>
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
