/* main.c - the berth command: one executable, a command a word.
 *
 * Theory of operation
 *
 * The first word chooses a command from a table; each command parses its own flags. All that is common lies
 * here: messages (they say what was wrong, with what value, and where to read on), the way to the daemon, and
 * one request with its reply. Exit status: 0, 1 for a failure, 2 for a wrong use; `berth run` passes on the
 * program's own.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "berth/error.h"
#include "cli/cli.h"

/* ---- messages ---- */

static void say(const char *command, const char *fmt, va_list ap)
{
    (void)fprintf(stderr, "berth%s%s: ", *command ? " " : "", command);
    (void)vfprintf(stderr, fmt, ap);
    (void)fputc('\n', stderr);
}

int usage_error(const char *command, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(command, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "See 'berth%s%s --help'.\n", *command ? " " : "", command);
    return EXIT_USAGE;
}

int failure(const char *command, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(command, fmt, ap);
    va_end(ap);
    return 1;
}

int option_error(const char *command, int answer, char **argv)
{
    char text[512];
    option_wrong(answer, argv, text, sizeof text);
    return usage_error(command, "%s", text);
}

/* ---- the daemon ---- */

int resolve_dir(const char *command, const char *given, char out[RUNTIME_DIR_MAX])
{
    if (given && !*given)
        return usage_error(command, "--runtime-dir is empty");
    int err = runtime_dir_resolve(given, out, RUNTIME_DIR_MAX);
    const char *env = getenv("BERTH_RUNTIME_DIR");
    if (err == BERTH_E_INVALID)
        return usage_error(command, "the runtime directory '%s' is too long; at most %u characters",
                           given ? given
                           : env ? env
                                 : "",
                           RUNTIME_DIR_MAX - 1);
    struct stat st;
    char path[RUNTIME_DIR_MAX];
    (void)snprintf(path, sizeof path, "/tmp/berth-%u", (unsigned)geteuid());
    if (err && lstat(path, &st) < 0)
        return failure(command,
                       "the runtime directory %s cannot be made: /tmp is not a directory that everybody can "
                       "write; set BERTH_RUNTIME_DIR",
                       path);
    if (err)
        return failure(command,
                       "the runtime directory %s cannot be used: it is not a directory that only you can "
                       "write; remove it or set BERTH_RUNTIME_DIR",
                       path);
    return 0;
}

bool dir_unreachable(const char *dir)
{
    char path[RUNTIME_DIR_MAX + sizeof "/" CTL_SOCKET_NAME];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/" CTL_SOCKET_NAME, dir);
    return lstat(path, &st) < 0 && errno == EACCES;
}

int connect_failure(const char *command, const char *dir, int err)
{
    if (err == BERTH_E_NO_DAEMON)
        return failure(
            command, "no daemon answers in %s; 'berth run' starts one, 'berth daemon' does it by hand", dir);
    if (err == BERTH_E_PERMISSION && dir_unreachable(dir))
        return failure(command, "%s cannot be reached: %s", dir, strerror(EACCES));
    if (err == BERTH_E_PERMISSION)
        return failure(
            command, "the daemon of %s does not admit this user (owner, group and mode of its socket)", dir);
    return failure(command, "cannot reach the daemon of %s: %s", dir, berth_strerror(err));
}

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void drop(int *fds, int n)
{
    while (n > 0)
        (void)close(fds[--n]);
}

/* Is it at work, or waiting for a CPU or a disk? One that is stopped, or waits for messages, is not. */
static bool daemon_is_at_work(int sock)
{
    struct ucred who = {0};
    socklen_t len = sizeof who;
    char path[64], text[512];
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.pid <= 0)
        return false;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)who.pid);
    FILE *f = fopen(path, "re");
    const char *state =
        f && fgets(text, sizeof text, f) ? strrchr(text, ')') : NULL; /* the name may hold one */
    bool is = state && (strncmp(state, ") R", 3) == 0 || strncmp(state, ") D", 3) == 0);
    if (f)
        (void)fclose(f);
    return is;
}

#define AT_WORK_TIMES 10 /* the patience, with one that is only late: hundreds may want its CPU */
#define AT_WORK_LOOK_MS 50

int ctl_ask(int sock, int patience_ms, void *request, uint16_t want, void *reply, size_t size, int *fd)
{
    static uint32_t seq;
    struct ctl_header h;
    memcpy(&h, request, sizeof h);
    h.seq = ++seq;
    memcpy(request, &h, sizeof h);
    int err = ctl_send(sock, request, h.len, NULL, 0, 0);
    if (err)
        return err;

    union {
        struct ctl_header h;
        char bytes[CTL_MAX];
    } got;
    int64_t end = now_ms() + patience_ms, last = now_ms() + (int64_t)patience_ms * AT_WORK_TIMES;
    for (;;) {
        int fds[CTL_FDS_MAX], n = 0;
        int64_t left = end - now_ms();
        struct pollfd pfd = {.fd = sock, .events = POLLIN};
        if (left <= 0 && (end >= last || !daemon_is_at_work(sock)) && poll(&pfd, 1, 0) <= 0)
            return BERTH_E_TIMED_OUT;
        if (left <= 0)
            end = now_ms() + AT_WORK_LOOK_MS;
        if (poll(&pfd, 1, left > 0 ? (int)left : AT_WORK_LOOK_MS) <= 0)
            continue;
        int len = ctl_recv(sock, got.bytes, sizeof got, fds, &n, MSG_DONTWAIT);
        if (len == BERTH_E_WOULD_BLOCK || len == BERTH_E_INTERRUPTED)
            continue;
        if (len <= 0)
            return len ? len : BERTH_E_DAEMON_GONE;
        if (len < (int)sizeof got.h || got.h.len != len) {
            drop(fds, n);
            return BERTH_E_PROTOCOL;
        }
        if (got.h.seq != h.seq) { /* of its own accord: not for us */
            drop(fds, n);
            continue;
        }
        if (got.h.status < 0) { /* the body need not be there */
            drop(fds, n);
            return got.h.status;
        }
        if (got.h.type != want || (size_t)len < size) {
            drop(fds, n);
            return BERTH_E_PROTOCOL;
        }
        memcpy(reply, got.bytes, size);
        if (fd)
            *fd = n > 0 ? fds[--n] : -1;
        drop(fds, n);
        return 0;
    }
}

void daemon_silent(const char *dir, int sock, char *out, size_t size)
{
    struct ucred who = {0};
    socklen_t len = sizeof who;
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 ||
        who.pid <= 0) /* or it is of another pid namespace */
        (void)snprintf(out, size, "the daemon of %s does not answer; is it stopped?", dir);
    else
        (void)snprintf(
            out, size,
            "the daemon of %s, process %d, does not answer; if it is stopped, 'kill -CONT %d' lets it go on",
            dir, (int)who.pid, (int)who.pid);
}

int daemon_status(const char *command, const char *dir, int sock, struct ctl_status_is *out)
{
    struct ctl_header ask = {.type = CTL_STATUS, .len = sizeof ask};
    char silent[RUNTIME_DIR_MAX + 128];
    int err = ctl_ask(sock, ANSWER_PATIENCE_MS, &ask, CTL_STATUS_IS, out, sizeof *out, NULL);
    if (err == BERTH_E_TIMED_OUT) {
        daemon_silent(dir, sock, silent, sizeof silent);
        return failure(command, "%s", silent);
    }
    return err ? failure(command, "the daemon of %s does not tell how it is: %s", dir, berth_strerror(err))
               : 0;
}

int daemon_open(const char *command, const char *dir, int *sock)
{
    struct ctl_status_is is;
    *sock = ctl_connect(dir);
    if (*sock < 0)
        return connect_failure(command, dir, *sock);
    int status = daemon_status(command, dir, *sock, &is);
    if (status)
        (void)close(*sock);
    return status;
}

int own_directory_of_executable(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0 || (size_t)n >= size - 1)
        return -1;
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash)
        return -1;
    *slash = '\0';
    return 0;
}

/* ---- version ---- */

int cmd_version(int argc, char **argv)
{
    static const struct option options[] = {
        {"runtime-dir", required_argument, NULL, 'd'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    const char *given = NULL;
    char dir[RUNTIME_DIR_MAX];
    int c;
    while ((c = option_next(argc, argv, ":d:h", options)) != -1) {
        if (c == 'd')
            given = optarg;
        else if (c == 'h')
            return help_print("version");
        else
            return option_error("version", c, argv);
    }
    if (optind < argc)
        return usage_error("version", "'%s' is not expected here", argv[optind]);
    printf("berth %s\ncontrol protocol %u, shared memory %u\n", BERTH_RELEASE, CTL_VERSION, ABI_VERSION);
    int err = resolve_dir("version", given, dir);
    if (err)
        return err;
    int sock = ctl_connect(dir);
    if (sock < 0 && sock != BERTH_E_NO_DAEMON)
        return connect_failure("version", dir, sock);
    if (sock < 0) {
        printf("no daemon in %s\n", dir);
        return 0;
    }
    struct ctl_status_is is = {0};
    err = daemon_status("version", dir, sock, &is);
    (void)close(sock);
    if (err)
        return err;
    is.release[sizeof is.release - 1] = '\0';
    printf("daemon %s in %s: pid %u, %u app%s, %u worker%s, up %llu s%s\n", is.release, dir, is.pid, is.apps,
           is.apps == 1 ? "" : "s", is.workers, is.workers == 1 ? "" : "s",
           (unsigned long long)(is.uptime_ns / 1000000000u),
           is.paused ? ", paused: new connections go to the kernel" : "");
    return 0;
}

static int cmd_version_short(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return usage_error("", "--version takes nothing");
    printf("berth %s\n", BERTH_RELEASE);
    return 0;
}

/* ---- dispatch ---- */

static int cmd_help(int argc, char **argv)
{
    if (argc > 2)
        return usage_error("", "help takes one command at most");
    if (argc < 2)
        return help_print("");
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return help_print("help");
    if (!strcmp(argv[1], "daemon")) /* its flags are its own */
        return cmd_daemon(2, (char *[]){"daemon", "--help", NULL});
    if (!*argv[1] || !help_text(argv[1]))
        return usage_error("", "there is no command '%s'", argv[1]);
    return help_print(argv[1]);
}

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", cmd_run},     {"daemon", cmd_daemon}, {"show", cmd_show},   {"ns", cmd_ns},
    {"pause", cmd_pause}, {"resume", cmd_resume}, {"bench", cmd_bench}, {"version", cmd_version},
    {"help", cmd_help},   {"--help", cmd_help},   {"-h", cmd_help},     {"--version", cmd_version_short},
};

int main(int argc, char **argv)
{
    opterr = 0;
    if (argc < 2) {
        (void)fputs(help_text(""), stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (!strcmp(word, commands[i].name)) {
            int status = commands[i].run(argc - 1, argv + 1);
            if (ferror(stdout) || fflush(stdout))
                return failure("", "cannot write the output: %s", strerror(errno));
            return status;
        }
    }
    if (word[0] == '-')
        return usage_error("", "unknown option '%s'", word);
    return usage_error("", "there is no command '%s'; to run a program under berth: berth run -- %s", word,
                       word);
}
