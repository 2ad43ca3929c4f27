/* exec.c - what leaves the preload library behind: a program that is executed, libc's stdio, a process that is sent a
 * descriptor. A session that goes there becomes a socket of the kernel's first (relay.c).
 *
 * Executed with: what is on 0, 1 and 2 is meant for the program (inetd and its kind), as is any other descriptor without
 * close-on-exec of which no other process has a copy. Of the rest it is assumed that it was only forgotten to close them: a
 * relay would take bytes that another process of the family waits for. For the same reason a session is relayed as soon as
 * it is put on 0, 1 or 2: libc's stdout and stdin are there.
 *
 * vfork: a child that shares the memory but not the descriptors could not be followed. Once there has been a session,
 * vfork is fork.
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

#include "base/sys.h"
#include "shim/shim.h"

extern void __chk_fail(void) __attribute__((noreturn));
int __dprintf_chk(int fd, int flag, const char *format, ...);
int __vdprintf_chk(int fd, int flag, const char *format, va_list ap);

__attribute__((visibility("hidden"))) unsigned char shim_vfork_is_fork;

/* ---- exec ------------------------------------------------------------------------------------------------- */

static void before_exec(void)
{
    if (!shim_vfork_is_fork || shim_foreign())
        return;
    for (int fd = 0; fd < (int)FD_MAX; fd++) {
        struct sock *s;
        uint64_t h;
        if (likely(!fd_words[fd]))
            continue;
        enum sock_kind kind = fd_view(fd, &s, &h);
        long flags = sys_fcntl(fd, F_GETFD, 0L);
        bool stays = flags >= 0 && !(flags & FD_CLOEXEC);
        if (kind == SOCK_SESSION && stays && (fd <= 2 || !client_shared(h)))
            fd_to_kernel(fd);
        else if (kind == SOCK_SESSION && client_shared(h))
            (void)client_close(h); /* the others shall not wait for word of the exec before their close ends it */
        else if (!stays)
            continue;
        else if (kind == SOCK_LISTENER && fd <= 2 && !sock_nonblock(s))
            sys_fcntl(fd, F_SETFL, (long)O_RDWR); /* the program did not make it non-blocking */
    }
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
    before_exec();
    return NEXT(execve)(path, argv, envp);
}

EXPORT int execv(const char *path, char *const argv[])
{
    before_exec();
    return NEXT(execv)(path, argv);
}

EXPORT int execvp(const char *file, char *const argv[])
{
    before_exec();
    return NEXT(execvp)(file, argv);
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
    before_exec();
    return NEXT(execvpe)(file, argv, envp);
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
    before_exec();
    return NEXT(fexecve)(fd, argv, envp);
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

#define EXECL(name, call)                                                                                          \
    EXPORT int name(const char *path, const char *arg, ...)                                                        \
    {                                                                                                              \
        va_list ap;                                                                                                \
        va_start(ap, arg);                                                                                         \
        const char **argv = alloca(count_args(ap) * sizeof *argv);                                                 \
        take_args(argv, arg, &ap);                                                                                 \
        va_end(ap);                                                                                                \
        return call(path, (char *const *)argv);                                                                    \
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

/* The dup2 will be libc's own, in the child. */
EXPORT int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int to)
{
    fd_to_kernel(fd);
    return NEXT(posix_spawn_file_actions_adddup2)(actions, fd, to);
}

/* ---- stdio ------------------------------------------------------------------------------------------------ */

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

/* ---- descriptors that are sent ----------------------------------------------------------------------------- */

void rights_to_kernel(const struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (fd_word(fd))
                fd_to_kernel(fd);
        }
    }
}

/* ---- vfork ------------------------------------------------------------------------------------------------- */

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
