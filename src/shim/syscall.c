/* syscall.c - syscall(), by which programs close sockets (libuv), ask for calls that their libc does not have,
 * set up io_uring, and change the user of one thread (samba).
 *
 * What is about a descriptor of berth's goes the way of the function of that name. A ring is refused where it
 * would reach sockets behind the shim's back (alone.c). Everything else must reach libc's function with stack
 * and registers as they are (a clone with a new stack returns there), hence the jump in assembly.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/sys.h"
#include "shim/shim.h"

#define CALLS 512

long shim_syscall_none(void);
long shim_syscall_ours(long n, long a, long b, long c, long d, long e, long f);
int close_range(unsigned first, unsigned last, int flags);
ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags);

__attribute__((used, visibility("hidden"))) void *shim_real_syscall;

/* Those that shim_syscall_ours() knows. */
__attribute__((used, visibility("hidden"))) const uint8_t shim_syscalls[CALLS] = {
    [SYS_read] = 1,           [SYS_write] = 1,       [SYS_readv] = 1,        [SYS_writev] = 1,
    [SYS_close] = 1,          [SYS_close_range] = 1, [SYS_dup] = 1,          [SYS_dup3] = 1,
    [SYS_fcntl] = 1,          [SYS_ioctl] = 1,       [SYS_socket] = 1,       [SYS_bind] = 1,
    [SYS_listen] = 1,         [SYS_accept] = 1,      [SYS_accept4] = 1,      [SYS_connect] = 1,
    [SYS_shutdown] = 1,       [SYS_getsockname] = 1, [SYS_getpeername] = 1,  [SYS_setsockopt] = 1,
    [SYS_getsockopt] = 1,     [SYS_sendto] = 1,      [SYS_recvfrom] = 1,     [SYS_sendmsg] = 1,
    [SYS_recvmsg] = 1,        [SYS_sendmmsg] = 1,    [SYS_recvmmsg] = 1,     [SYS_sendfile] = 1,
    [SYS_splice] = 1,         [SYS_ppoll] = 1,       [SYS_pselect6] = 1,     [SYS_epoll_create1] = 1,
    [SYS_epoll_ctl] = 1,      [SYS_epoll_pwait] = 1, [SYS_epoll_pwait2] = 1, [SYS_execve] = 1,
    [SYS_io_uring_setup] = 1, [SYS_setuid] = 1,      [SYS_setreuid] = 1,     [SYS_setresuid] = 1,
#if defined(SYS_poll) /* older ones, which newer machines do not have */
    [SYS_poll] = 1,           [SYS_select] = 1,      [SYS_dup2] = 1,         [SYS_epoll_create] = 1,
    [SYS_epoll_wait] = 1,
#endif
};

__attribute__((used, visibility("hidden"))) long shim_syscall_none(void)
{
    errno = ENOSYS;
    return -1;
}

__attribute__((constructor)) static void find_syscall(void)
{
    shim_real_syscall = dlsym(RTLD_NEXT, "syscall");
}

/* The kernel's sigset has as many bytes as it is said to have; libc's has more. NULL stays NULL. */
static const sigset_t *mask_of(long mask, long size, sigset_t *room)
{
    if (!mask || size != 8 || pointer_wild((void *)mask))
        return (const sigset_t *)mask;
    sigemptyset(room);
    memcpy(room, (const void *)mask, 8);
    return room;
}

static long waits(long n, long a, long b, long c, long d, long e, long f)
{
    sigset_t room;
    switch (n) {
    case SYS_ppoll:
        return ppoll((struct pollfd *)a, (nfds_t)b, (const struct timespec *)c, mask_of(d, e, &room));
    case SYS_pselect6: {
        long of[2] = {0, 0};
        if (f && !pointer_wild((void *)f))
            memcpy(of, (const void *)f, sizeof of);
        return pselect((int)a, (fd_set *)b, (fd_set *)c, (fd_set *)d, (const struct timespec *)e,
                       mask_of(of[0], of[1], &room));
    }
    case SYS_epoll_create1:
        return epoll_create1((int)a);
    case SYS_epoll_ctl:
        return epoll_ctl((int)a, (int)b, (int)c, (struct epoll_event *)d);
    case SYS_epoll_pwait:
        return epoll_pwait((int)a, (struct epoll_event *)b, (int)c, (int)d, mask_of(e, f, &room));
    case SYS_epoll_pwait2:
        return epoll_pwait2((int)a, (struct epoll_event *)b, (int)c, (const struct timespec *)d,
                            mask_of(e, f, &room));
#if defined(SYS_poll)
    case SYS_poll:
        return poll((struct pollfd *)a, (nfds_t)b, (int)c);
    case SYS_select:
        return select((int)a, (fd_set *)b, (fd_set *)c, (fd_set *)d, (struct timeval *)e);
    case SYS_epoll_create:
        return epoll_create((int)a);
    case SYS_epoll_wait:
        return epoll_wait((int)a, (struct epoll_event *)b, (int)c, (int)d);
#endif
    default:
        return shim_syscall_none();
    }
}

static long sockets(long n, long a, long b, long c, long d, long e, long f)
{
    switch (n) {
    case SYS_socket:
        return socket((int)a, (int)b, (int)c);
    case SYS_bind:
        return bind((int)a, (const struct sockaddr *)b, (socklen_t)c);
    case SYS_listen:
        return listen((int)a, (int)b);
    case SYS_accept:
        return accept((int)a, (struct sockaddr *)b, (socklen_t *)c);
    case SYS_accept4:
        return accept4((int)a, (struct sockaddr *)b, (socklen_t *)c, (int)d);
    case SYS_connect:
        return connect((int)a, (const struct sockaddr *)b, (socklen_t)c);
    case SYS_shutdown:
        return shutdown((int)a, (int)b);
    case SYS_getsockname:
        return getsockname((int)a, (struct sockaddr *)b, (socklen_t *)c);
    case SYS_getpeername:
        return getpeername((int)a, (struct sockaddr *)b, (socklen_t *)c);
    case SYS_setsockopt:
        return setsockopt((int)a, (int)b, (int)c, (const void *)d, (socklen_t)e);
    case SYS_getsockopt:
        return getsockopt((int)a, (int)b, (int)c, (void *)d, (socklen_t *)e);
    case SYS_sendto:
        return sendto((int)a, (const void *)b, (size_t)c, (int)d, (const struct sockaddr *)e, (socklen_t)f);
    case SYS_recvfrom:
        return recvfrom((int)a, (void *)b, (size_t)c, (int)d, (struct sockaddr *)e, (socklen_t *)f);
    case SYS_sendmsg:
        return sendmsg((int)a, (const struct msghdr *)b, (int)c);
    case SYS_recvmsg:
        return recvmsg((int)a, (struct msghdr *)b, (int)c);
    case SYS_sendmmsg:
        return sendmmsg((int)a, (struct mmsghdr *)b, (unsigned)c, (int)d);
    case SYS_recvmmsg:
        return recvmmsg((int)a, (struct mmsghdr *)b, (unsigned)c, (int)d, (struct timespec *)e);
    default:
        return waits(n, a, b, c, d, e, f);
    }
}

/* Is nothing of berth's in it? Then it is libc's, which is no point of cancellation. */
static bool plain(long n, long a, long b, long c)
{
    switch (n) {
    case SYS_socket:
    case SYS_close:
    case SYS_close_range:
    case SYS_dup3:
    case SYS_epoll_create1:
    case SYS_epoll_ctl:
    case SYS_execve:
    case SYS_io_uring_setup:
    case SYS_setuid:
    case SYS_setreuid:
    case SYS_setresuid:
#if defined(SYS_dup2)
    case SYS_dup2:
    case SYS_epoll_create:
#endif
        return false;
#if defined(SYS_poll)
    case SYS_poll:
    case SYS_select:
#endif
    case SYS_ppoll:
    case SYS_pselect6:
        return !socks_with_berth();
    case SYS_sendfile:
        return !(fd_word((int)a) | fd_word((int)b));
    case SYS_splice:
        return !(fd_word((int)a) | fd_word((int)c));
    default:
        return !fd_word((int)a);
    }
}

__attribute__((used, visibility("hidden"))) long shim_syscall_ours(long n, long a, long b, long c, long d,
                                                                   long e, long f)
{
    long (*next)(long, ...) = (__typeof__(next))shim_real_syscall;
    if (next && plain(n, a, b, c))
        return next(n, a, b, c, d, e, f);
    switch (n) {
    case SYS_read:
        return read((int)a, (void *)b, (size_t)c);
    case SYS_write:
        return write((int)a, (const void *)b, (size_t)c);
    case SYS_readv:
        return readv((int)a, (const struct iovec *)b, (int)c);
    case SYS_writev:
        return writev((int)a, (const struct iovec *)b, (int)c);
    case SYS_close:
        return close((int)a);
    case SYS_close_range:
        return close_range((unsigned)a, (unsigned)b, (int)c);
    case SYS_dup:
        return dup((int)a);
#if defined(SYS_dup2)
    case SYS_dup2:
        return dup2((int)a, (int)b);
#endif
    case SYS_dup3:
        return dup3((int)a, (int)b, (int)c);
    case SYS_fcntl:
        return fcntl((int)a, (int)b, c);
    case SYS_ioctl:
        return ioctl((int)a, (unsigned)b, c);
    case SYS_sendfile:
        return sendfile((int)a, (int)b, (off_t *)c, (size_t)d);
    case SYS_splice:
        return splice((int)a, (off64_t *)b, (int)c, (off64_t *)d, (size_t)e, (unsigned)f);
    case SYS_execve:
        return execve((const char *)a, (char *const *)b, (char *const *)c);
    case SYS_setuid:
    case SYS_setreuid:
    case SYS_setresuid:
        return next ? user_by_call(next, n, (uid_t)a, (uid_t)b, (uid_t)c) : shim_syscall_none();
    case SYS_io_uring_setup:
        return !next || ring_refused() ? shim_syscall_none() : next(n, a, b);
    default:
        return sockets(n, a, b, c, d, e, f);
    }
}

_Static_assert(CALLS == 512, "the number in the assembly below");

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl syscall\n"
        ".type syscall, @function\n"
        "syscall:\n"
        "    cmp $512, %rdi\n"
        "    jae 1f\n"
        "    lea shim_syscalls(%rip), %rax\n"
        "    cmpb $0, (%rax,%rdi)\n"
        "    jne shim_syscall_ours\n"
        "1:  mov shim_real_syscall(%rip), %rax\n"
        "    test %rax, %rax\n"
        "    je shim_syscall_none\n"
        "    jmp *%rax\n"
        ".size syscall, . - syscall\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl syscall\n"
        ".type syscall, %function\n"
        "syscall:\n"
        "    cmp x0, #512\n"
        "    b.hs 1f\n"
        "    adrp x16, shim_syscalls\n"
        "    add x16, x16, #:lo12:shim_syscalls\n"
        "    ldrb w16, [x16, x0]\n"
        "    cbnz w16, shim_syscall_ours\n"
        "1:  adrp x16, shim_real_syscall\n"
        "    ldr x16, [x16, #:lo12:shim_real_syscall]\n"
        "    cbz x16, shim_syscall_none\n"
        "    br x16\n"
        ".size syscall, . - syscall\n");
#endif
