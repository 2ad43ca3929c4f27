/* sys.h - system calls without libc in between.
 *
 * The preload library replaces read, write, close, epoll_wait … for the whole process, libberth inside it
 * included. libberth must reach the kernel all the same, and must not disturb errno. These return the
 * kernel's answer: a count or descriptor, or -errno.
 */
#ifndef BERTH_BASE_SYS_H
#define BERTH_BASE_SYS_H

#include <stdint.h>
#include <sys/syscall.h>

static inline long sys_call6(long n, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "berth knows x86-64 and arm64"
#endif
}

#define sys_arg(x) ((long)(uintptr_t)(x))
#define sys_call(n, a, b, c, d) sys_call6((n), sys_arg(a), sys_arg(b), sys_arg(c), sys_arg(d), 0, 0)

#define sys_read(fd, buf, n) sys_call(SYS_read, (long)(fd), buf, n, 0)
#define sys_write(fd, buf, n) sys_call(SYS_write, (long)(fd), buf, n, 0)
#define sys_close(fd) sys_call(SYS_close, (long)(fd), 0, 0, 0)
#define sys_fcntl(fd, cmd, arg) sys_call(SYS_fcntl, (long)(fd), (long)(cmd), arg, 0)
#define sys_sendmsg(fd, msg, flags) sys_call(SYS_sendmsg, (long)(fd), msg, (long)(flags), 0)
#define sys_recvmsg(fd, msg, flags) sys_call(SYS_recvmsg, (long)(fd), msg, (long)(flags), 0)
#define sys_epoll_ctl(ep, op, fd, ev) sys_call(SYS_epoll_ctl, (long)(ep), (long)(op), (long)(fd), ev)
#define sys_epoll_create1(flags) sys_call(SYS_epoll_create1, (long)(flags), 0, 0, 0)
/* timeout in a struct timespec, NULL for ever; mask NULL or a sigset of 8 bytes */
#define sys_ppoll(fds, n, ts, mask)                                                                          \
    sys_call6(SYS_ppoll, sys_arg(fds), (long)(n), sys_arg(ts), sys_arg(mask), 8, 0)
#define sys_futex_wait(addr, val, ts) sys_call(SYS_futex, addr, 0L /* FUTEX_WAIT, shared */, (long)(val), ts)
#define sys_futex_wake(addr, n) sys_call(SYS_futex, addr, 1L /* FUTEX_WAKE, shared */, (long)(n), 0)
#define sys_eventfd(flags) sys_call(SYS_eventfd2, 0L, (long)(flags), 0, 0)
#define sys_pipe2(fds, flags) sys_call(SYS_pipe2, fds, (long)(flags), 0, 0)
#define sys_socket(d, t, p) sys_call(SYS_socket, (long)(d), (long)(t), (long)(p), 0)
#define sys_connect(fd, sa, len) sys_call(SYS_connect, (long)(fd), sa, (long)(len), 0)

#endif
