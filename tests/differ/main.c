/* main.c - differ: runs one case of the differential suite.
 *
 * differ --list        each case and what it asks, a line each
 * differ NAME          that case; NAME is area.case
 * differ AREA          all cases of that file, each under its name
 *
 * A case runs in a process of its own that starts afresh by exec, so that it has met nobody and nobody's
 * memory is in it. This process only watches: after 5 seconds (DIFFER_SECONDS) it writes HANG and ends the
 * case with all it has started. A case that dies by a signal says DIED. Both are outputs as any other, to be
 * compared.
 */
#include "differ.h"

#include <sys/prctl.h>
#include <time.h>

static struct differ_case *cases;

static int before(const struct differ_case *a, const struct differ_case *b)
{
    int order = strcmp(a->file, b->file);
    return order < 0 || (order == 0 && a->line <= b->line);
}

void differ_add(struct differ_case *it)
{
    struct differ_case **at = &cases;
    while (*at && before(*at, it))
        at = &(*at)->next;
    it->next = *at;
    *at = it;
}

static const char *full_name(const struct differ_case *it)
{
    static char text[200];
    const char *base = strrchr(it->file, '/');
    base = base ? base + 1 : it->file;
    snprintf(text, sizeof text, "%.*s.%s", (int)strcspn(base, "."), base, it->name);
    return text;
}

static int in_area(const struct differ_case *it, const char *area)
{
    const char *name = full_name(it);
    return strncmp(name, area, strlen(area)) == 0 && name[strlen(area)] == '.';
}

static int limit_ms(void)
{
    const char *text = getenv("DIFFER_SECONDS");
    return text && atoi(text) > 0 ? atoi(text) * 1000 : 5000;
}

/* Its status, or -1 when the time was over. SIGCHLD is blocked and waited for. */
static int status_within(pid_t pid, int ms)
{
    struct timespec end, now;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    for (;;) {
        int status;
        if (waitpid(pid, &status, WNOHANG) == pid)
            return status;
        clock_gettime(CLOCK_MONOTONIC, &now);
        long left = (end.tv_sec - now.tv_sec) * 1000 + (end.tv_nsec - now.tv_nsec) / 1000000;
        if (left <= 0)
            return -1;
        struct timespec wait = {left / 1000, left % 1000 * 1000000};
        sigtimedwait(&child, NULL, &wait);
    }
}

static void watch(const struct differ_case *it)
{
    char name[200];
    sigset_t child, old;
    snprintf(name, sizeof name, "%s", full_name(it));
    fflush(stdout);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &old);
    pid_t watcher = getpid(), pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        sigprocmask(SIG_SETMASK, &old, NULL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != watcher)
            _exit(1);
        execl("/proc/self/exe", "differ", "--run", name, (char *)NULL);
        _exit(127);
    }
    int status = status_within(pid, limit_ms());
    kill(-pid, SIGKILL); /* and what it has started */
    if (status == -1) {
        waitpid(pid, NULL, 0);
        puts("HANG");
    } else if (WIFSIGNALED(status)) {
        printf("DIED of SIG%s\n", sigabbrev_np(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != 0) {
        printf("EXIT %d\n", WEXITSTATUS(status));
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int found = 0;
    if (strcmp(what, "--list") == 0) {
        for (struct differ_case *it = cases; it; it = it->next)
            printf("%s\t%s\n", full_name(it), it->what);
        return 0;
    }
    if (strcmp(what, "--peer") == 0 && argc == 3)
        far_serve(atoi(argv[2]));
    if (strcmp(what, "--peer") == 0 && argc == 5)
        far_serve_on(atoi(argv[2]), atol(argv[3]), atol(argv[4]));
    if (strcmp(what, "--run") == 0 && argc == 3) {
        setvbuf(stdout, NULL, _IOLBF, 0);
        differ_main_tid = my_tid();
        for (struct differ_case *it = cases; it; it = it->next)
            if (strcmp(full_name(it), argv[2]) == 0) {
                it->run();
                return 0;
            }
        return 2;
    }
    for (struct differ_case *it = cases; it; it = it->next) {
        int area = in_area(it, what);
        if (!area && strcmp(full_name(it), what) != 0)
            continue;
        if (area)
            printf("== %s\n", full_name(it));
        watch(it);
        found = 1;
    }
    if (!found) {
        fprintf(stderr, "differ: no case \"%s\"; usage: differ --list | AREA | AREA.CASE\n", what);
        return 2;
    }
    return 0;
}
