/* exec.c - what leaves the preload library behind: a program that is executed, libc's stdio, a process that
 * is sent a descriptor. A session that goes to a program is passed on (passed.c), or becomes a socket of the
 * kernel's first (relay.c).
 *
 * Executed with: what is on 0, 1 and 2 is meant for the program (inetd and its kind), as is any other
 * descriptor without close-on-exec of which no other process has a copy. Of the rest it may be that it was
 * only forgotten to close them: so a relay takes nothing that another process of the family may wait for
 * before the program has written, or nobody else has the session any more. A session is relayed as soon as it
 * is put on 0, 1 or 2: libc's stdout and stdin are there. A socket of which nothing has been decided becomes
 * the kernel's: the program may not be under berth.
 *
 * vfork: a child that shares the memory but not the descriptors could not be followed. Once there has been a
 * session, vfork is fork.
 */
#include <alloca.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sys.h"
#include "shim/shim.h"

extern void __chk_fail(void) __attribute__((noreturn));
int __dprintf_chk(int fd, int flag, const char *format, ...);
int __vdprintf_chk(int fd, int flag, const char *format, va_list ap);

__attribute__((visibility("hidden"))) unsigned char shim_vfork_is_fork;

#define LENT_MAX 16 /* a process each */

/* ---- exec ---------------------------------------------------------------------------------------------- */

static void before_exec(void)
{
    exec_begins();
    if ((!shim_vfork_is_fork && !socks_with_berth()) || shim_foreign())
        return;
    relay_before_exec();
    int64_t patience = clock_now() + session_shared_ns;
    int lent = 0;
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (likely(!fd_words[fd]))
            continue;
        enum sock_kind kind = fd_look(fd, &s, &h);
        long flags = sys_fcntl(fd, F_GETFD, 0L);
        bool stays = flags >= 0 && !(flags & FD_CLOEXEC);
        if (kind == SOCK_FRESH && stays) {
            fd_to_kernel(fd);
        } else if (kind == SOCK_AWAY && stays && (fd <= 2 || !s->shared)) {
            (void)away_used(fd);
        } else if (kind == SOCK_SESSION && stays && (fd <= 2 || session_alone(h, patience))) {
            if (!exec_passes(fd))
                fd_to_kernel(fd);
        } else if (kind == SOCK_SESSION && stays && lent < LENT_MAX && exec_lends(fd)) {
            lent++;
        } else if (stays && kind != SOCK_SESSION) {
            listener_leaves(fd, getpid());
        }
    }
    /* what does not stay under any number: the others shall not wait for word of the exec before their close
     * ends it */
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (unlikely(fd_words[fd]) && fd_look(fd, &s, &h) == SOCK_SESSION && client_shared(h))
            (void)client_close(h);
    }
}

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
    before_exec();
    int r = NEXT(execve)(path, argv, envp);
    exec_failed();
    return r;
}

EXPORT int execv(const char *path, char *const argv[])
{
    before_exec();
    int r = NEXT(execv)(path, argv);
    exec_failed();
    return r;
}

EXPORT int execvp(const char *file, char *const argv[])
{
    before_exec();
    int r = NEXT(execvp)(file, argv);
    exec_failed();
    return r;
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
    before_exec();
    int r = NEXT(execvpe)(file, argv, envp);
    exec_failed();
    return r;
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
    before_exec();
    int r = NEXT(fexecve)(fd, argv, envp);
    exec_failed();
    return r;
}

/* How many arguments there are, with the first and the NULL at the end. */
static size_t count_args(va_list from)
{
    va_list ap;
    size_t n = 2;
    va_copy(ap, from);
    while (va_arg(ap, char *))
        n++;
    va_end(ap);
    return n;
}

static void take_args(const char **argv, const char *first, va_list *ap)
{
    size_t n = 0;
    argv[n++] = first;
    while (argv[n - 1])
        argv[n++] = va_arg(*ap, const char *);
}

#define EXECL(name, call)                                                                                    \
    EXPORT int name(const char *path, const char *arg, ...)                                                  \
    {                                                                                                        \
        va_list ap;                                                                                          \
        va_start(ap, arg);                                                                                   \
        const char **argv = alloca(count_args(ap) * sizeof *argv);                                           \
        take_args(argv, arg, &ap);                                                                           \
        va_end(ap);                                                                                          \
        return call(path, (char *const *)argv);                                                              \
    }

EXECL(execl, execv)
EXECL(execlp, execvp)

EXPORT int execle(const char *path, const char *arg, ...)
{
    va_list ap;
    va_start(ap, arg);
    const char **argv = alloca(count_args(ap) * sizeof *argv);
    take_args(argv, arg, &ap);
    char *const *envp = va_arg(ap, char *const *);
    va_end(ap);
    return execve(path, (char *const *)argv, envp);
}

/* libc makes this child by itself, so it is seen when it is there. */
static void listeners_leave(pid_t pid)
{
    if (!shim_vfork_is_fork || shim_foreign())
        return;
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (unlikely(fd_words[fd]) && fd_look(fd, &s, &h) == SOCK_LISTENER &&
            !(sys_fcntl(fd, F_GETFD, 0L) & FD_CLOEXEC))
            listener_leaves(fd, pid);
    }
}

/* The child may be there, and accept, before this process goes on. */
static void before_spawn(void)
{
    if (!socks_with_berth() || shim_foreign())
        return;
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (likely(!fd_words[fd]) || sys_fcntl(fd, F_GETFD, 0L) & FD_CLOEXEC)
            continue;
        enum sock_kind kind = fd_look(fd, &s, &h);
        if (kind == SOCK_FRESH)
            fd_to_kernel(fd);
        else if (kind == SOCK_AWAY && (fd <= 2 || !s->shared))
            (void)away_used(fd);
        else
            listener_plain(fd);
    }
}

static int spawned(int error, pid_t it, pid_t *pid)
{
    if (!error)
        listeners_leave(it);
    if (!error && pid)
        *pid = it;
    return error;
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    pid_t it = 0;
    before_spawn();
    int error = NEXT(posix_spawn)(&it, path, actions, attr, argv, envp);
    return spawned(error, it, pid);
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    pid_t it = 0;
    before_spawn();
    int error = NEXT(posix_spawnp)(&it, file, actions, attr, argv, envp);
    return spawned(error, it, pid);
}

/* The dup2 will be libc's own, in the child. */
EXPORT int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int to)
{
    fd_to_kernel(fd);
    return NEXT(posix_spawn_file_actions_adddup2)(actions, fd, to);
}

/* ---- stdio --------------------------------------------------------------------------------------------- */

EXPORT FILE *fdopen(int fd, const char *mode)
{
    if (unlikely(fd_word(fd)))
        fd_to_kernel(fd);
    return NEXT(fdopen)(fd, mode);
}

static int print(int fd, const char *format, va_list ap)
{
    char *text;
    int len = vasprintf(&text, format, ap);
    for (int done = 0; done < len;) {
        ssize_t n = write(fd, text + done, (size_t)(len - done));
        if (n < 0) {
            len = -1;
            break;
        }
        done += (int)n;
    }
    int saved = errno;
    free(text);
    errno = saved;
    return len;
}

EXPORT int vdprintf(int fd, const char *format, va_list ap)
{
    return print(fd, format, ap);
}

EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list ap)
{
    (void)flag;
    return print(fd, format, ap);
}

EXPORT int dprintf(int fd, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int len = print(fd, format, ap);
    va_end(ap);
    return len;
}

EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...)
{
    (void)flag;
    va_list ap;
    va_start(ap, format);
    int len = print(fd, format, ap);
    va_end(ap);
    return len;
}

/* ---- descriptors that are sent ------------------------------------------------------------------------- */

static void each_right(const struct msghdr *m, void (*visit)(int fd))
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            visit(fd);
        }
    }
}

static void leaves(int fd)
{
    if (!fd_word(fd))
        return;
    if (!session_passes(fd))
        fd_to_kernel(fd);
    listener_leaves(fd, 0);
}

void rights_leave(const struct msghdr *m)
{
    each_right(m, leaves);
}

void rights_came(const struct msghdr *m)
{
    int saved = errno;
    if (!shim_foreign()) {
        each_right(m, listener_came);
        each_right(m, session_came);
    }
    errno = saved;
}

/* ---- vfork --------------------------------------------------------------------------------------------- */

__attribute__((used, visibility("hidden"))) void *shim_real_vfork;

__attribute__((constructor)) static void find_vfork(void)
{
    shim_real_vfork = dlsym(RTLD_NEXT, "vfork");
}

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, @function\n"
        "vfork:\n"
        "    cmpb $0, shim_vfork_is_fork(%rip)\n"
        "    jne fork@PLT\n"
        "    mov shim_real_vfork(%rip), %rax\n"
        "    test %rax, %rax\n"
        "    je fork@PLT\n"
        "    jmp *%rax\n"
        ".size vfork, . - vfork\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, %function\n"
        "vfork:\n"
        "    adrp x16, shim_vfork_is_fork\n"
        "    ldrb w16, [x16, #:lo12:shim_vfork_is_fork]\n"
        "    cbnz w16, 1f\n"
        "    adrp x16, shim_real_vfork\n"
        "    ldr x16, [x16, #:lo12:shim_real_vfork]\n"
        "    cbz x16, 1f\n"
        "    br x16\n"
        "1:  b fork\n"
        ".size vfork, . - vfork\n");
#endif
