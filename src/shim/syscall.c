/* syscall.c - syscall(), because event libraries close sockets by syscall(SYS_close) and set up io_uring by it.
 *
 * close is taken to the shim's own; io_uring_setup answers ENOSYS, upon which they fall back to plain calls, since a
 * ring would reach sockets behind the shim's back. Everything else must reach libc's function with stack and
 * registers as they are (a clone with a new stack returns there), hence the jump in assembly.
 */
#include <dlfcn.h>

#include "base/sys.h"
#include "shim/shim.h"

long shim_syscall_close(int fd);
long shim_syscall_none(void);
void *shim_syscall_find(void);
int shim_close(int fd);

__attribute__((used, visibility("hidden"))) void *shim_real_syscall;

__attribute__((used, visibility("hidden"))) long shim_syscall_close(int fd)
{
    return shim_close(fd);
}

__attribute__((used, visibility("hidden"))) long shim_syscall_none(void)
{
    errno = ENOSYS;
    return -1;
}

__attribute__((constructor)) static void find_syscall(void)
{
    shim_real_syscall = dlsym(RTLD_NEXT, "syscall");
}

_Static_assert(SYS_io_uring_setup == 425, "the number in the assembly below");

#if defined(__x86_64__)
_Static_assert(SYS_close == 3, "the number in the assembly below");
__asm__(".text\n"
        ".globl syscall\n"
        ".type syscall, @function\n"
        "syscall:\n"
        "    cmp $3, %rdi\n"
        "    je 1f\n"
        "    cmp $425, %rdi\n"
        "    je shim_syscall_none\n"
        "    mov shim_real_syscall(%rip), %rax\n"
        "    test %rax, %rax\n"
        "    je shim_syscall_none\n"
        "    jmp *%rax\n"
        "1:  mov %esi, %edi\n"
        "    jmp shim_syscall_close\n"
        ".size syscall, . - syscall\n");
#elif defined(__aarch64__)
_Static_assert(SYS_close == 57, "the number in the assembly below");
__asm__(".text\n"
        ".globl syscall\n"
        ".type syscall, %function\n"
        "syscall:\n"
        "    cmp x0, #57\n"
        "    b.eq 1f\n"
        "    cmp x0, #425\n"
        "    b.eq shim_syscall_none\n"
        "    adrp x16, shim_real_syscall\n"
        "    ldr x16, [x16, #:lo12:shim_real_syscall]\n"
        "    cbz x16, shim_syscall_none\n"
        "    br x16\n"
        "1:  mov w0, w1\n"
        "    b shim_syscall_close\n"
        ".size syscall, . - syscall\n");
#endif
