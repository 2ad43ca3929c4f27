/* signals.c - every call that blocks, interrupted by handlers of every kind: which go on, which end with
 * EINTR (signal(7)). */
#include "calls.h"

#include <sys/ucontext.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* siginterrupt */
sighandler_t sysv_signal(int sig, sighandler_t handler);

static struct scene sc;
static enum call call;
static int tid, handled;
static pthread_t main_thread;

static void nothing(int sig)
{
    (void)sig;
    __atomic_fetch_add(&handled, 1, __ATOMIC_RELAXED);
}

static void resets_itself(int sig)
{
    nothing(sig);
    (void)signal(sig, SIG_DFL);
}

static void becomes_interrupting(int sig) /* what is installed afterwards does not count */
{
    nothing(sig);
    (void)sigaction(sig, &(struct sigaction){.sa_handler = nothing}, NULL);
}

static void with_info(int sig, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    nothing(sig);
}

enum kind { PLAIN, RESTART, ONE_SHOT, ITSELF, BECOMES, SYSV, INTERRUPT, BSD, BESIDE, TWO, KINDS };

static const char *const kind_names[KINDS] = {"plain",
                                              "SA_RESTART",
                                              "SA_RESETHAND",
                                              "resets itself",
                                              "SA_RESTART that becomes plain",
                                              "sysv_signal",
                                              "signal and siginterrupt",
                                              "signal",
                                              "SA_RESTART beside a plain one for another signal",
                                              "SA_RESTART, then plain"};

static void install(enum kind kind)
{
    struct sigaction act = {.sa_handler = nothing};
    (void)sigaction(SIGUSR2, &act, NULL);
    switch (kind) {
    case RESTART:
    case BESIDE:
    case TWO:
        act.sa_flags = SA_RESTART;
        if (kind != RESTART)
            break;
        act.sa_sigaction = with_info;
        act.sa_flags |= SA_SIGINFO;
        break;
    case ONE_SHOT:
        act.sa_flags = (int)SA_RESETHAND;
        break;
    case ITSELF:
        act.sa_handler = resets_itself;
        break;
    case BECOMES:
        act.sa_handler = becomes_interrupting;
        act.sa_flags = SA_RESTART;
        break;
    case SYSV:
        (void)sysv_signal(SIGUSR1, nothing);
        return;
    case INTERRUPT:
    case BSD:
        (void)signal(SIGUSR1, nothing);
        (void)siginterrupt(SIGUSR1, kind == INTERRUPT);
        return;
    default:
        break;
    }
    (void)sigaction(SIGUSR1, &act, NULL);
}

static void *other(void *arg)
{
    enum kind kind = *(enum kind *)arg;
    wait_asleep(&tid);
    (void)pthread_kill(main_thread, SIGUSR1);
    wait_asleep(&tid);
    if (kind == TWO) {
        (void)pthread_kill(main_thread, SIGUSR2);
        wait_asleep(&tid);
    }
    end_wait(call, &sc);
    return NULL;
}

static void one(enum kind kind)
{
    sigset_t set;
    pthread_t t;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigaddset(&set, SIGUSR2);
    sc = scene_for(call);
    handled = tid = 0;
    install(kind);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&t, NULL, other, &kind))
        abort();
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    say_tid(&tid);
    long r = call_now(call, &sc);
    int error = errno;
    printf("%s, %s: %s %s, handled %d\n", call_names[call], kind_names[kind], r < 0 ? "-1" : "done",
           r < 0 ? strerrorname_np(error) : "", handled);
    (void)pthread_join(t, NULL);
    scene_close(&sc);
}

/* A part that was there before the signal is what the call returns. */
static void *other_part(void *arg)
{
    (void)arg;
    wait_asleep(&tid);
    (void)pthread_kill(main_thread, SIGUSR1);
    return NULL;
}

static void part(void)
{
    pthread_t t;
    call = RECV_ALL;
    sc = scene_for(call);
    install(PLAIN);
    tid = 0;
    (void)send(sc.s[0], "seven b", 7, 0);
    if (pthread_create(&t, NULL, other_part, NULL))
        abort();
    say_tid(&tid);
    SAY(call_now(call, &sc));
    (void)pthread_join(t, NULL);
    scene_close(&sc);
}

int main(int argc, char **argv)
{
    main_thread = pthread_self();
    bool all = argc > 1 && !strcmp(argv[1], "all");
    for (call = 0; call < CALLS; call++) {
        for (enum kind kind = 0; kind < KINDS; kind++)
            if (all || kind < ONE_SHOT || call == RECV || call == ACCEPT)
                one(kind);
    }
    part();
    return 0;
}
