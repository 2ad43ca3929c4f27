/* common.c - see common.h. */
#include "common.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    _exit(1);
}

void die_text(const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    _exit(1);
}

static void on_alarm(int number)
{
    static const char text[] = "gave up: the measurement did not end in time\n";

    (void)number;
    if (write(2, text, sizeof(text) - 1) < 0)
        _exit(2);
    _exit(1);
}

void watchdog(int seconds)
{
    signal(SIGALRM, on_alarm);
    alarm((unsigned)seconds);
}

int cpu_of(int n)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        die("sched_getaffinity");
    n %= CPU_COUNT(&set);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set) && n-- == 0)
            return cpu;
    }
    return 0;
}

void pin_to(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("sched_setaffinity");
}

void sleep_exactly(int64_t ns)
{
    static __thread bool set;
    struct timespec ts = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

    if (!set) {
        prctl(PR_SET_TIMERSLACK, 1ul);
        set = true;
    }
    nanosleep(&ts, NULL);
}

pid_t fork_bound(void)
{
    pid_t parent = getpid();
    pid_t pid = fork();

    if (pid < 0)
        die("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) /* it was quicker */
            _exit(1);
    }
    return pid;
}

static pid_t hogs[16];

void hogs_start(int count)
{
    for (int i = 0; i < count && i < 16; i++) {
        hogs[i] = fork_bound();
        if (hogs[i] == 0) {
            for (volatile unsigned long n = 0;; n++)
                ;
        }
    }
}

void hogs_stop(void)
{
    for (int i = 0; i < 16 && hogs[i] > 0; i++) {
        kill(hogs[i], SIGKILL);
        waitpid(hogs[i], NULL, 0);
        hogs[i] = 0;
    }
}

pid_t peer_start(char *const argv[], int *fd)
{
    int ends[2];

    if (pipe(ends) < 0)
        die("pipe");
    pid_t pid = fork_bound();
    if (pid == 0) {
        dup2(ends[0], 0);
        close(ends[0]);
        close(ends[1]);
        execv("/proc/self/exe", argv);
        die("exec");
    }
    close(ends[0]);
    *fd = ends[1];
    return pid;
}

void peer_wait(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid)
        die("waitpid");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        die_text("the other side failed (wait status 0x%x)", status);
}

void peer_line(char *line, size_t size)
{
    size_t have = 0;

    /* By bytes, so that nothing of a next line is taken. */
    for (;;) {
        char c;
        ssize_t n = read(0, &c, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die_text("the other side said nothing");
        if (c == '\n')
            break;
        if (have + 1 < size)
            line[have++] = c;
    }
    line[have] = 0;
}

void peer_tell(int fd, const char *line)
{
    if (dprintf(fd, "%s\n", line) < 0)
        die("pipe to the other side");
}

double histogram_quantile(const struct histogram *h, double q)
{
    uint64_t want = (uint64_t)(q * (double)h->count), seen = 0;

    for (size_t i = 0; i < 64 * 48; i++) {
        seen += h->buckets[i];
        if (seen > want)
            return (double)((64 + (i & 63)) << (i / 64)) + (double)(1ull << (i / 64)) / 2.0;
    }
    return 0;
}

const char *option_text(int argc, char **argv, const char *name, const char *fallback)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    }
    return fallback;
}

long option_number(int argc, char **argv, const char *name, long fallback)
{
    const char *text = option_text(argc, argv, name, NULL);
    char *end;

    if (!text)
        return fallback;
    long value = strtol(text, &end, 10);
    if (*end || end == text)
        die_text("%s needs a number, not \"%s\"", name, text);
    return value;
}
