/* run.c - `berth run`: a program on berth, and nothing else about it changed.
 *
 * Theory of operation
 *
 * No process stays between the shell and the program: this one finds (or starts) the daemon, asks it to stay
 * for its own pid, sets a few environment variables and becomes the program by execvp(3). So exit status,
 * signals, job control, terminal and descriptors are the program's own. An auto-started daemon stays until
 * this pid is gone, even where the program opens its first socket late or never.
 *
 * Nothing is lost by berth's absence: where no daemon can be had, or the preload library cannot be used, a
 * warning says so and the program runs on the kernel. Mistakes of the caller (flags, a secret file that
 * cannot be read) are errors.
 *
 * The daemon that is started here must not keep anything of the caller: it gets /dev/null for standard input
 * and output, a memfd for what it complains about until it answers, no other descriptor, no preloaded
 * library, and a session of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "berth/error.h"
#include "cli/cli.h"

#define SHIM_NAME "libberth-preload.so"
#define START_TRIES 3
#define START_PATIENCE_MS 5000
#define OTHERS_PATIENCE_MS 300
#define STAY_PATIENCE_MS 500 /* a daemon that is stopped costs a program that, and no more */

struct run_options {
    const char *runtime_dir, *ns, *secret_file;
    bool verbose;
};

static bool verbose;

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *fmt, ...)
{
    if (!verbose)
        return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "berth run: %s\n", text);
}

static void warn_kernel(const char *program, const char *why)
{
    (void)fprintf(stderr, "berth run: warning: %s; %s runs on the kernel alone\n", why, program);
}

/* ---- the daemon ---- */

static void become_daemon_starter(const char *dir, int complaints)
{
    sigset_t none;
    struct sigaction plain = {.sa_handler = SIG_DFL};
    int null = open("/dev/null", O_RDWR);

    (void)setsid();
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, &plain, NULL);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(complaints, 2) < 0 || chdir("/") < 0)
        _exit(1);
    (void)syscall(SYS_close_range, 3u, ~0u, 0u);
    (void)umask(022);
    (void)unsetenv("LD_PRELOAD");
    (void)execl("/proc/self/exe", "berth", "daemon", "--auto", "--background", "--runtime-dir", dir,
                (char *)NULL);
    _exit(1);
}

/* Starts a daemon and waits until the starter is done. `complaints` receives what it said. True when it says
 * that all went well. */
static bool start_daemon(const char *dir, char *complaints, size_t size)
{
    int fd = memfd_create("berth-daemon-start", MFD_CLOEXEC);
    int status = -1;
    complaints[0] = '\0';
    if (fd < 0)
        return false;
    pid_t pid = fork();
    if (pid == 0)
        become_daemon_starter(dir, fd);
    if (pid > 0) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        ssize_t n = pread(fd, complaints, size - 1, 0);
        complaints[n > 0 ? n : 0] = '\0';
    }
    (void)close(fd);
    return status == 0;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int ask_to_stay(int sock)
{
    struct ctl_stay ask = {.h = {.type = CTL_STAY, .len = sizeof ask}, .pid = (uint32_t)getpid()};
    struct ctl_header done;
    return ctl_ask(sock, STAY_PATIENCE_MS, &ask, CTL_DONE, &done, sizeof done, NULL);
}

/* True when a daemon has said that it stays. `why` says why not. */
static bool get_daemon(const char *dir, char *why, size_t size)
{
    char complaints[400] = "";
    int err = 0;
    for (int try = 0; try < START_TRIES; try++) {
        int sock = ctl_connect(dir);
        if (sock == BERTH_E_NO_DAEMON) {
            note("starting a daemon in %s", dir);
            bool started = start_daemon(dir, complaints, sizeof complaints);
            /* where ours did not start, another `berth run` may have been faster: then that one will answer
             */
            int64_t end = now_ms() + (started ? START_PATIENCE_MS : OTHERS_PATIENCE_MS);
            while ((sock = ctl_connect(dir)) == BERTH_E_NO_DAEMON && now_ms() < end)
                (void)usleep(2000);
        }
        if (sock < 0) {
            err = sock;
            break;
        }
        err = ask_to_stay(sock);
        if (err == BERTH_E_TIMED_OUT)
            daemon_silent(dir, sock, why, size);
        (void)close(sock);
        if (err == BERTH_E_TIMED_OUT)
            return false;
        if (!err)
            return true;
        if (err != BERTH_E_DAEMON_GONE) /* that one was about to leave: the next try starts another */
            break;
    }
    char *end = strchr(complaints, '\n');
    if (end)
        *end = '\0';
    if (err == BERTH_E_PERMISSION && dir_unreachable(dir))
        (void)snprintf(why, size, "%s cannot be reached: %s", dir, strerror(EACCES));
    else if (err == BERTH_E_PERMISSION)
        (void)snprintf(why, size, "the daemon of %s does not admit this user", dir);
    else if (*complaints)
        (void)snprintf(why, size, "no daemon can be started in %s (%s)", dir, complaints);
    else
        (void)snprintf(why, size, "no daemon can be had in %s: %s", dir, berth_strerror(err));
    return false;
}

/* ---- environment ---- */

static bool find_shim(char *out, size_t size)
{
    char dir[PATH_MAX];
    if (own_directory_of_executable(dir, sizeof dir) < 0)
        return false;
    /* the build tree; as installed; an installation that was moved as a whole */
    static const char *const below[] = {"/src/shim/" SHIM_NAME, NULL,
                                        "/../" BERTH_LIBDIR_NAME "/berth/" SHIM_NAME};
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
        int n = below[i] ? snprintf(out, size, "%s%s", dir, below[i])
                         : snprintf(out, size, "%s", BERTH_LIBDIR "/berth/" SHIM_NAME);
        if (n > 0 && n < (int)size && access(out, R_OK) == 0)
            return true;
    }
    return false;
}

static int find_libc(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (!slash || strcmp(slash, "/libc.so.6") != 0)
        return 0;
    const char *from = !strncmp(info->dlpi_name, "/usr/", 5) ? info->dlpi_name + 4 : info->dlpi_name;
    (void)snprintf(arg, PATH_MAX, "%.*s", (int)(slash - from), from);
    return 1;
}

/* The library by the loader's token: /usr/lib/berth/$LIB/libberth-preload.so. Only glibc's loader knows it.
 * One of another kind (musl's) finds no such file and goes on, where it would end the program if it found a
 * library that is made for glibc; and what that program starts is under berth again. Where our own libc does
 * not lie as the token has it, the name stays as it is. */
static void name_by_token(char *shim, size_t size)
{
    char lib[PATH_MAX] = "", probe[2 * PATH_MAX], dir[PATH_MAX];
    char *slash = strrchr(shim, '/');
    if (!slash || !dl_iterate_phdr(find_libc, lib))
        return;
    (void)snprintf(dir, sizeof dir, "%.*s", (int)(slash - shim), shim);
    if (snprintf(probe, sizeof probe, "%s%s/" SHIM_NAME, dir, lib) >= (int)sizeof probe ||
        access(probe, R_OK) < 0)
        return;
    static const char rest[] = "/$LIB/" SHIM_NAME;
    if (strlen(dir) + sizeof rest <= size)
        memcpy(stpcpy(shim, dir), rest, sizeof rest);
}

static bool preload(const char *shim)
{
    const char *old = getenv("LD_PRELOAD");
    char *value;
    if (!old || !*old)
        return setenv("LD_PRELOAD", shim, 1) == 0;
    size_t len = strlen(shim);
    if (!strncmp(old, shim, len) && (!old[len] || old[len] == ':' || old[len] == ' '))
        return true; /* berth run within berth run */
    if (asprintf(&value, "%s:%s", shim, old) < 0)
        return false;
    bool done = setenv("LD_PRELOAD", value, 1) == 0;
    free(value);
    return done;
}

/* Absolute, since the program may change its directory, and readable. 0 or the exit status after a message.
 */
static int set_secret_file(const char *file)
{
    char *path = realpath(file, NULL);
    if (!path || access(path, R_OK) < 0) {
        int err = usage_error("run", "the secret file '%s' cannot be read: %s", file, strerror(errno));
        free(path);
        return err;
    }
    (void)setenv("BERTH_SECRET_FILE", path, 1);
    free(path);
    return 0;
}

static int set_environment(const struct run_options *o, const char *dir)
{
    if (o->ns) {
        int err = namespace_check("run", o->ns);
        if (err)
            return err;
        (void)setenv("BERTH_NAMESPACE", o->ns, 1);
    }
    if (o->secret_file) {
        int err = set_secret_file(o->secret_file);
        if (err)
            return err;
    }
    (void)setenv("BERTH_RUNTIME_DIR", dir, 1);
    if (o->verbose)
        (void)setenv("BERTH_LOG", "info", 0);
    return 0;
}

/* To the library: it is to say in this process, and in no other, if it cannot follow the program. It takes the
 * variable away. */
static void announce(void)
{
    char pid[16];
    (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
    (void)setenv("BERTH_RUN_PID", pid, 1);
}

/* Sets LD_PRELOAD if all that it takes is there; else warns. */
static void enter_berth(char *const argv[], const char *path, const char *dir)
{
    const char *program = argv[0];
    char shim[PATH_MAX], why[1024];
    if (!find_shim(shim, sizeof shim)) {
        warn_kernel(program, SHIM_NAME " is neither beside this command nor in " BERTH_LIBDIR "/berth");
    } else if (strpbrk(shim, " :")) { /* what separates the names in LD_PRELOAD */
        (void)snprintf(why, sizeof why, "the path of berth's library has a space or colon in it (%.800s)",
                       shim);
        warn_kernel(program, why);
    } else if (get_daemon(dir, why, sizeof why)) {
        const char *obstacle = program_why_not_preloadable(path, argv);
        if (obstacle) {
            (void)snprintf(why, sizeof why, "%.900s %s, so that no library can be preloaded into it", path,
                           obstacle);
            warn_kernel(program, why);
        }
        note("daemon in %s, library %s", dir, shim);
        name_by_token(shim, sizeof shim);
        if (!obstacle)
            announce();
        if (!preload(shim))
            warn_kernel(program, "out of memory");
    } else {
        warn_kernel(program, why);
    }
}

int cmd_run(int argc, char **argv)
{
    static const struct option options[] = {{"runtime-dir", required_argument, NULL, 'd'},
                                            {"namespace", required_argument, NULL, 'n'},
                                            {"secret-file", required_argument, NULL, 's'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct run_options o = {0};
    char dir[RUNTIME_DIR_MAX], path[PATH_MAX];
    int c, err;
    while ((c = option_next(argc, argv, "+:d:n:s:vh", options)) != -1) {
        switch (c) {
        case 'd':
            o.runtime_dir = optarg;
            break;
        case 'n':
            o.ns = optarg;
            break;
        case 's':
            o.secret_file = optarg;
            break;
        case 'v':
            o.verbose = verbose = true;
            break;
        case 'h':
            return help_print("run");
        default:
            return option_error("run", c, argv);
        }
    }
    if (optind >= argc)
        return usage_error("run", "which program? berth run -- PROGRAM ARGUMENTS");
    char **program = argv + optind;
    err = resolve_dir("run", o.runtime_dir, dir);
    if (err == EXIT_USAGE)
        return err;
    bool dir_usable = !err;
    err = program_find(program[0], path, sizeof path);
    if (err) {
        (void)failure("run", "%s: %s", program[0],
                      err == EXIT_NOT_FOUND ? "not found" : "cannot be executed");
        return err;
    }
    const char *off = getenv("BERTH_OFF");
    if (off && *off && strcmp(off, "0") != 0) {
        note("BERTH_OFF is set: %s runs on the kernel", program[0]);
    } else if (dir_usable) {
        err = set_environment(&o, dir);
        if (err)
            return err;
        enter_berth(program, path, dir);
    } else { /* resolve_dir has said why */
        warn_kernel(program[0], "no daemon can be had");
    }
    (void)fflush(NULL);
    (void)execvp(program[0], program);
    err = errno;
    (void)failure("run", "%s: %s", program[0], strerror(err));
    return err == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}
