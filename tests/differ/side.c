/* side.c - threads that block, and how another knows that they do. */
#include "differ.h"

#include <sys/syscall.h>

int differ_main_tid;
volatile sig_atomic_t handled;

int my_tid(void)
{
    return (int)syscall(SYS_gettid);
}

/* 1: it sleeps; 0: not, or not known; -1: it is no more. */
static int sleeps(int tid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    FILE *f = fopen(path, "re");
    if (!f)
        return errno == ENOENT || errno == ESRCH ? -1 : 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    char *state = strrchr(text, ')');
    if (!state || state[1] != ' ' || state[2] == 'Z' || state[2] == 'X')
        return -1;
    return state[2] == 'S';
}

void asleep(int tid)
{
    int in_a_row = 0, now = 0;
    for (int look = 0; look < 1000 && in_a_row < 8 && now >= 0; look++) {
        now = sleeps(tid);
        in_a_row = now > 0 ? in_a_row + 1 : 0;
        nap(1);
        if (now == 0 && errno == EMFILE) { /* no descriptor to look with */
            nap(40);
            return;
        }
    }
}

void poke(int tid, int sig)
{
    asleep(tid);
    syscall(SYS_tgkill, getpid(), tid, sig);
}

static void *side_run(void *it)
{
    struct side *side = it;
    __atomic_store_n(&side->tid, my_tid(), __ATOMIC_RELEASE);
    __atomic_store_n(&side->began, 1, __ATOMIC_RELEASE);
    errno = 0;
    side->result = side->call(side->argument);
    side->error = errno;
    __atomic_store_n(&side->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

void side_start(struct side *side, long (*call)(void *), void *argument)
{
    *side = (struct side){.call = call, .argument = argument};
    if (pthread_create(&side->thread, NULL, side_run, side) != 0)
        say("no thread");
    while (!__atomic_load_n(&side->began, __ATOMIC_ACQUIRE))
        nap(1);
}

void side_blocked(struct side *side)
{
    asleep(side->tid);
}

const char *side_end(struct side *side)
{
    struct timespec end;
    void *value = NULL;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 1;
    if (pthread_timedjoin_np(side->thread, &value, &end) != 0)
        return "STILL BLOCKED";
    return value == PTHREAD_CANCELED ? "cancelled" : result_text(side->result, side->error);
}

static void count(int sig)
{
    (void)sig;
    handled++;
}

void handle(int sig, int flags)
{
    struct sigaction action = {.sa_handler = count, .sa_flags = flags};
    sigaction(sig, &action, NULL);
}
