/* main.c - berth daemon: flags, the runtime directory and its lock, background, start and stop.
 *
 * Theory of operation
 *
 * One daemon per runtime directory. The lock is flock(2) on `daemon.lock`, which also holds the pid: it is
 * let go by the kernel however the daemon ends, so a socket found there after the lock was taken is a dead
 * one's and is replaced. The file is removed at a clean stop, while locked; who then gets a lock on the
 * removed file notices that it is not the one in the directory any more, and tries again.
 *
 * --background: the parent waits for one byte that the child writes once the socket listens.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/option.h"
#include "daemon/daemon.h"
#include "daemon/registry.h"

static const char usage[] =
    "Usage: berth daemon [OPTIONS]\n"
    "\n"
    "Runs the berth daemon, which introduces the apps of this host to each other.\n"
    "\n"
    "  -d, --runtime-dir DIR   where its socket is (default: $BERTH_RUNTIME_DIR, /run/berth as root,\n"
    "                          else $XDG_RUNTIME_DIR/berth, else /tmp/berth-UID)\n"
    "      --config FILE       read this YAML file first (see docs/config.md)\n"
    "      --background        return when it answers; it logs to daemon.log in the runtime directory\n"
    "      --auto              leave when nobody has needed it for a second\n"
    "      --log-level LEVEL   error, warn, info or debug (default: info)\n"
    "  -h, --help              show this\n";

struct flags {
    const char *runtime_dir, *config;
    bool background;
    bool has_level;
    enum log_level level;
};

static int wrong_use(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* In the words of the other commands. */
static int wrong_use(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("berth daemon: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputs("\nSee 'berth daemon --help'.\n", stderr);
    va_end(ap);
    return BERTH_E_INVALID;
}

/* 0; 1: help was shown; negative: wrong */
static int parse_flags(int argc, char **argv, struct daemon *d, struct flags *f)
{
    static const struct option options[] = {{"runtime-dir", required_argument, NULL, 'd'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"background", no_argument, NULL, 'b'},
                                            {"auto", no_argument, NULL, 'a'},
                                            {"log-level", required_argument, NULL, 'l'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    char text[512];
    optind = 0; /* whoever called us may have used getopt before */
    int c;
    while ((c = option_next(argc, argv, ":d:h", options)) != -1) {
        switch (c) {
        case 'd':
            f->runtime_dir = optarg;
            break;
        case 'c':
            f->config = optarg;
            break;
        case 'b':
            f->background = true;
            break;
        case 'a':
            d->automatic = true;
            break;
        case 'l':
            if (log_parse_level(optarg, &f->level))
                return wrong_use("unknown log level '%s': error, warn, info or debug", optarg);
            f->has_level = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 1;
        default:
            option_wrong(c, argv, text, sizeof text);
            return wrong_use("%s", text);
        }
    }
    if (optind < argc)
        return wrong_use("'%s' is not expected here", argv[optind]);
    return 0;
}

/* ---- runtime directory ---- */

static int prepare_directory(struct daemon *d, const char *given)
{
    struct stat st;
    int err = runtime_dir_resolve(given, d->dir, sizeof d->dir);
    if (err) {
        fprintf(stderr, "berth daemon: runtime directory%s%s: %s\n", given ? " " : "", given ? given : "",
                err == BERTH_E_INVALID ? "its name is too long" : berth_strerror(err));
        return err;
    }
    if (mkdir(d->dir, 0700) == 0)
        (void)chmod(d->dir, d->uid == 0 ? 0755 : 0700);
    else if (errno != EEXIST) {
        fprintf(stderr, "berth daemon: cannot make %s: %s; choose another one with --runtime-dir\n", d->dir,
                strerror(errno));
        return BERTH_E_SYSTEM;
    }
    if (lstat(d->dir, &st) < 0 || !S_ISDIR(st.st_mode)) {
        fprintf(stderr, "berth daemon: %s is not a directory\n", d->dir);
        return BERTH_E_SYSTEM;
    }
    if (st.st_uid != d->uid || st.st_mode & (S_IWGRP | S_IWOTH)) {
        fprintf(
            stderr,
            "berth daemon: %s (owner %u, mode %04o) must belong to uid %u and be writable by nobody else; "
            "change that or choose another one with --runtime-dir\n",
            d->dir, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777, (unsigned)d->uid);
        return BERTH_E_PERMISSION;
    }
    return 0;
}

/* ---- lock ---- */

static void lock_path(const struct daemon *d, char *out, size_t size)
{
    (void)snprintf(out, size, "%s/daemon.lock", d->dir);
}

static void report_holder(const struct daemon *d, int fd)
{
    char pid[32] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    long holder = n > 0 ? strtol(pid, NULL, 10) : 0;
    if (holder > 0)
        fprintf(stderr, "berth daemon: one serves %s already: pid %ld\n", d->dir, holder);
    else
        fprintf(stderr, "berth daemon: another one is just starting or stopping in %s\n", d->dir);
}

/* Of a file in the runtime directory, by errno. */
static void report_file(const char *path)
{
    bool full = errno == ENOSPC || errno == EDQUOT;
    fprintf(stderr, "berth daemon: %s: %s%s\n", path, strerror(errno),
            full ? "; free some or choose another directory with --runtime-dir" : "");
}

/* Cut only afterwards: on a full disk nothing is had again that was given back. 0, or an error and errno. */
static int write_pid(int fd)
{
    char pid[32];
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    ssize_t done = pwrite(fd, pid, (size_t)n, 0);
    if (done >= 0 && done < n)
        errno = ENOSPC;
    return done != n || ftruncate(fd, n) < 0 ? BERTH_E_SYSTEM : 0;
}

static void log_path(const struct daemon *d, char *out, size_t size)
{
    (void)snprintf(out, size, "%s/daemon.log", d->dir);
}

static void release_lock(struct daemon *d)
{
    char path[sizeof d->dir + 32];
    if (d->lock_fd < 0)
        return;
    if (d->automatic &&
        d->stopping) { /* nobody asked for this daemon, so it leaves nothing behind; a failure stays told */
        log_path(d, path, sizeof path);
        (void)unlink(path);
    }
    lock_path(d, path, sizeof path);
    (void)unlink(path);
    close(d->lock_fd);
    d->lock_fd = -1;
}

static int take_lock(struct daemon *d)
{
    char path[sizeof d->dir + 32];
    lock_path(d, path, sizeof path);
    for (;;) {
        struct stat mine, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0) {
            report_file(path);
            return BERTH_E_SYSTEM;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            report_holder(d, fd);
            close(fd);
            return BERTH_E_BUSY;
        }
        if (fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_ino == there.st_ino &&
            mine.st_dev == there.st_dev) {
            d->lock_fd = fd;
            if (!write_pid(fd))
                return 0;
            report_file(path);
            release_lock(d);
            return BERTH_E_SYSTEM;
        }
        close(fd); /* its holder removed it between our open and our lock */
    }
}

/* ---- background ---- */

static int open_log(struct daemon *d)
{
    char path[sizeof d->dir + 32];
    log_path(d, path, sizeof path);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        report_file(path);
    return fd;
}

/* In the parent: waits until the child answers or is gone, and gives the exit status. */
static int await_child(int ready, const struct daemon *d)
{
    char byte;
    ssize_t n;
    do {
        n = read(ready, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 1)
        return 0;
    fprintf(stderr, "berth daemon: it did not start; see %s/daemon.log\n", d->dir);
    return 1;
}

static void detach_from_terminal(struct daemon *d)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)setsid();
    if (chdir("/") < 0)
        log_debug("chdir: %s", strerror(errno));
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        if (null > 2)
            close(null);
    }
    dup2(d->log_fd, 2);
    if (d->log_fd > 2)
        close(d->log_fd);
    d->log_fd = -1;
}

/* ---- start and stop ---- */

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void daemon_init(struct daemon *d)
{
    *d = (struct daemon){.uid = geteuid(),
                         .gid = getegid(),
                         .socket_mode = 0600,
                         .started = clock_now(),
                         .epfd = -1,
                         .lock_fd = -1,
                         .log_fd = -1,
                         .accept.fd = -1,
                         .signals.fd = -1,
                         .netlink.fd = -1,
                         .limits = {.apps = 4096,
                                    .workers = 16384,
                                    .listeners = 65536,
                                    .outbox_bytes = 4ull << 30,
                                    .sessions = SLOTS_MAX}};
    list_init(&d->conns);
    list_init(&d->doomed);
    list_init(&d->stays);
    list_init(&d->claims);
    list_init(&d->moves);
    list_init(&d->apps);
    list_init(&d->left);
    list_init(&d->namespaces);
    list_init(&d->spaces);
}

static int serve(struct daemon *d, int ready)
{
    raise_descriptor_limit();
    int err = server_open(d);
    if (!err && !ns_find(d, NS_DEFAULT)) {
        gid_t group = d->has_socket_group ? d->socket_group : d->gid;
        err = ns_add(d, NS_DEFAULT, NULL, d->uid, group, 0);
    }
    if (!err) {
        log_info("berth %s serves %s", BERTH_RELEASE, d->dir);
        if (ready >= 0) {
            if (write(ready, "", 1) != 1)
                log_debug("whoever started this daemon has not waited for it");
            close(ready);
        }
        err = server_run(d);
    } else {
        log_error("cannot start in %s: %s", d->dir, berth_strerror(err));
    }
    server_close(d);
    namespaces_free(d);
    idmap_free(&d->app_by_id);
    idmap_free(&d->worker_by_id);
    idmap_free(&d->outbox_by_handle);
    idmap_free(&d->listener_by_id);
    release_lock(d);
    return err ? 1 : 0;
}

/* The lock is taken before the fork, so that a refusal is the caller's to see; flock belongs to the
 * description, which the child shares and the parent then leaves to it. */
static int serve_in_background(struct daemon *d)
{
    int ready[2];
    d->log_fd = open_log(d);
    if (d->log_fd < 0) {
        release_lock(d);
        return 1;
    }
    if (pipe2(ready, O_CLOEXEC) < 0) {
        fprintf(stderr, "berth daemon: pipe: %s\n", strerror(errno));
        release_lock(d);
        return 1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "berth daemon: fork: %s\n", strerror(errno));
        release_lock(d);
        return 1;
    }
    if (pid > 0) {
        close(ready[1]);
        return await_child(ready[0], d);
    }
    close(ready[0]);
    detach_from_terminal(d);
    (void)write_pid(d->lock_fd);
    _exit(serve(d, ready[1]));
}

int daemon_main(int argc, char **argv)
{
    struct daemon d;
    struct flags f = {.level = LOG_LEVEL_INFO};
    daemon_init(&d);
    d.relays = true;
    log_set_level(LOG_LEVEL_INFO);
    int err = parse_flags(argc, argv, &d, &f);
    if (err)
        return err > 0 ? 0 : 2;
    if (f.background) /* what whoever called had open is not ours to keep open */
        (void)close_range(3, ~0u, 0);
    err = f.config ? config_load(&d, f.config) : 0;
    if (err) {
        namespaces_free(&d);
        return 2;
    }
    if (f.has_level)
        log_set_level(f.level);
    if (prepare_directory(&d, f.runtime_dir) || take_lock(&d)) {
        namespaces_free(&d);
        return 1;
    }
    return f.background ? serve_in_background(&d) : serve(&d, -1);
}
