/* walls.c - what may be taken from a process: files, memory, /proc, the whole file system, memfd_create. Before its
 * first socket, after it, and in a child: its sockets go on. */
#include "differ.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define MUCH 700000

struct talk {
    int s;
    long at;
};

/* So many bytes there and back. */
static void exchange(struct far *far, struct talk *t, long bytes)
{
    far_begin(far, "recv %ld; send %ld", bytes, bytes);
    long given = give(t->s, t->at, bytes), taken = take(t->s, t->at, bytes, 0);
    t->at += bytes;
    say("%ld %ld, far %s", given, taken, far_answer(far));
}

static int met; /* the port at which the far side listens */

static struct talk as_client(struct far *far)
{
    far_begin(far, "accept");
    struct talk t = {dial_port(met), 0};
    say("connected: %d, far %s", t.s >= 0, far_answer(far));
    return t;
}

static void as_server(struct far *far)
{
    int l = listener(8);
    far_begin(far, "connect %d", ntohs(differ_at.sin_port));
    struct talk t = {accept(l, NULL, NULL), 0};
    say("accepted: %d, far %s", t.s >= 0, far_answer(far));
    exchange(far, &t, MUCH);
    say("%s", polled(t.s, POLLIN | POLLOUT, 0));
    close(t.s);
    close(l);
}

/* Each end once: two programs besides, for each of them counts from its first byte. */
static struct far other, third;

static void prepare(void)
{
    other = far_new(FRESH);
    third = far_new(FRESH);
    met = atoi(far_do(&other, "listen"));
}

static void both_ends(void)
{
    struct talk t = as_client(&other);
    exchange(&other, &t, MUCH);
    as_server(&third);
    struct pair p = pair_here();
    say("%ld", give(p.c, 0, 60000));
    say("%ld", take(p.s, 0, 60000, 0));
    SAY(set_nonblock(p.s, 1));
    SAY(recv(p.s, (char[1]){0}, 1, 0));
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 4, 1000));
}

static void child_too(void)
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        struct pair q = pair_here();
        _exit(give(p.c, 0, 60000) != 60000 || give(q.c, 0, 60000) != 60000 ||
              take(q.s, 0, 60000, 0) != 60000);
    }
    int status = -1;
    say("%ld", take(p.s, 0, 60000, 0));
    waitpid(pid, &status, 0);
    say("child: %d", status);
}

/* ---- the walls ---- */

static void limit_to(int resource, rlim_t most)
{
    struct rlimit limit = {most, most};
    SAY(setrlimit(resource, &limit));
}

static void no_files(void)
{
    limit_to(RLIMIT_FSIZE, 0);
}

static void little_memory(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld", &pages) != 1)
        say("no statm");
    if (f)
        fclose(f);
    limit_to(RLIMIT_AS, (rlim_t)pages * 4096 + (24 << 20));
}

static void no_proc(void)
{
    uid_t uid = getuid();
    if (unshare(uid ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        say("no namespace of its own: %s", result_text(-1, errno));
    else if (umount2("/proc", MNT_DETACH) < 0)
        say("umount: %s", result_text(-1, errno));
    SAY(access("/proc/self/fd", F_OK));
}

static void empty_root(void)
{
    char name[] = "differ-root-XXXXXX"; /* in the scratch directory of the run */
    int here = mkdtemp(name) ? 0 : -1;
    if (getuid())
        unshare(CLONE_NEWUSER);
    say("%d %s", here, result_text(chroot(name), errno));
    SAY(chdir("/"));
    SAY(access("/tmp", F_OK));
}

static void no_memfd(int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    SAY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    SAY(syscall(SYS_memfd_create, "x", 0));
}

static void no_memfd_eperm(void)
{
    no_memfd(EPERM);
}

static void no_memfd_enosys(void)
{
    no_memfd(ENOSYS);
}

static void before(void (*wall)(void))
{
    prepare();
    wall();
    both_ends();
    child_too();
}

static void after(void (*wall)(void))
{
    prepare();
    struct far friend = far_new(FRESH);
    int there = atoi(far_do(&friend, "listen")), here = met;
    met = there;
    struct talk old = as_client(&friend);
    met = here;
    struct pair p = pair_here();
    exchange(&friend, &old, 3000);
    wall();
    exchange(&friend, &old, MUCH);
    say("%ld", give(p.c, 0, 60000));
    say("%ld", take(p.s, 0, 60000, 0));
    both_ends();
    child_too();
    exchange(&friend, &old, MUCH);
}

static void in_a_child(void (*wall)(void))
{
    prepare();
    struct far friend = far_new(FRESH);
    int there = atoi(far_do(&friend, "listen")), here = met;
    met = there;
    struct talk old = as_client(&friend);
    met = here;
    exchange(&friend, &old, 3000);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        wall();
        exchange(&friend, &old, MUCH);
        both_ends();
        child_too();
        fflush(stdout);
        _exit(0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    say("child: %d", status);
    old.at += MUCH;
    exchange(&friend, &old, 3000);
    child_too();
}

#define WALL(name, what)                                                                                     \
    CASE(name##_before, what " before the first socket")                                                     \
    {                                                                                                        \
        before(name);                                                                                        \
    }                                                                                                        \
    CASE(name##_after, what " after the first connections")                                                  \
    {                                                                                                        \
        after(name);                                                                                         \
    }                                                                                                        \
    CASE(name##_in_a_child, what " in a child that has inherited a connection")                              \
    {                                                                                                        \
        in_a_child(name);                                                                                    \
    }

WALL(no_files, "no file may have a byte")
WALL(little_memory, "24 MB more than the process has")
WALL(no_proc, "/proc is not there")
WALL(empty_root, "chroot into an empty directory")
WALL(no_memfd_eperm, "memfd_create says EPERM")
WALL(no_memfd_enosys, "memfd_create says ENOSYS")

CASE(no_way_out, "no descriptor that a program has not opened itself leads to a directory")
{
    struct pair p = pair_here();
    int directories = 0;
    for (int fd = 0; fd < 4096; fd++) {
        struct stat st;
        directories += fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    }
    say("%d", directories);
    close(p.s);
}

CASE(stdio_in_an_empty_root, "after a chroot a connection goes to libc's stdio: halves of it end one by one")
{
    struct pair p = pair_here();
    SAY(give(p.c, 0, 5));
    SAY(shutdown(p.c, SHUT_WR));
    pid_t pid = fork();
    if (pid == 0) {
        char buf[100];
        close(p.c);
        empty_root();
        FILE *f = fdopen(p.s, "r+");
        long n, all = 0;
        while (f && (n = read(p.s, buf, sizeof buf)) > 0)
            all += n;
        nap(200); /* the first direction has ended */
        say("%ld, %ld", all, give(p.s, 0, MUCH));
        _exit(0);
    }
    close(p.s);
    long taken = take(p.c, 0, MUCH, 0);
    waitpid(pid, NULL, 0); /* it has said all that it says */
    say("%ld", taken);
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(stdout_in_an_empty_root, "the same: what it wrote its output to ends with it, not with the connection")
{
    int q[2] = {-1, -1}, hold[2] = {-1, -1}, status = -1;
    struct pair p = pair_here();
    SAY(pipe(q));
    SAY(pipe(hold));
    pid_t pid = fork();
    if (pid == 0) {
        char x;
        dup2(q[1], 1);
        close(q[0]);
        close(q[1]);
        close(hold[1]);
        close(p.c);
        empty_root();
        FILE *f = fdopen(p.s, "r+");
        pid_t heir = f ? fork() : -1; /* has the connection */
        if (heir == 0) {
            close(1);
            _exit((int)read(hold[0], &x, 1));
        }
        _exit(heir > 0);
    }
    close(p.s);
    close(q[1]);
    close(hold[0]);
    waitpid(pid, &status, 0);
    say("%d, %s", WEXITSTATUS(status), polled_soon(q[0], POLLHUP));
    say("%s", polled(p.c, POLLIN, 0));
    close(hold[1]);
    say("%s", polled_soon(p.c, POLLIN | POLLRDHUP));
}
