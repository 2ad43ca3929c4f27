/* sleep.c - the routine of sleep.h that compares the count of handlers and makes the system call.
 *
 * Where a handler interrupts it, the thread's pc is
 *   before the system call, or at it: the kernel has not begun, or has taken the call back to begin it again
 *                                     (SA_RESTART);
 *   behind it: the call is over, with -EINTR or with what it was for, which must not be lost.
 * The first kind goes on at the end, where the answer is -EINTR. The routine has no frame, so nothing else is
 * to be done.
 */
#include "base/sleep.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

__thread uint64_t berth_handlers;
__thread struct sleep_place *berth_place;
__thread struct sleep_mask berth_call_mask;

extern const char berth_sleep_from[] __attribute__((visibility("hidden")));
extern const char berth_sleep_till[] __attribute__((visibility("hidden")));
extern const char berth_sleep_out[] __attribute__((visibility("hidden")));
__attribute__((visibility("hidden"))) long berth_sleep_call(const uint64_t *count, uint64_t is, long n,
                                                            long a, long b, long c, long d, long e, long f);

_Static_assert(EINTR == 4, "the routine knows it by number");

#if defined(__x86_64__)
#define ROUTINE                                                                                              \
    "berth_sleep_from:\n"                                                                                    \
    "    cmpq %rsi, (%rdi)\n"                                                                                \
    "    jne berth_sleep_out\n"                                                                              \
    "    movq %rdx, %rax\n"                                                                                  \
    "    movq %rcx, %rdi\n"                                                                                  \
    "    movq %r8, %rsi\n"                                                                                   \
    "    movq %r9, %rdx\n"                                                                                   \
    "    movq 8(%rsp), %r10\n"                                                                               \
    "    movq 16(%rsp), %r8\n"                                                                               \
    "    movq 24(%rsp), %r9\n"                                                                               \
    "    syscall\n"                                                                                          \
    "berth_sleep_till:\n"                                                                                    \
    "    ret\n"                                                                                              \
    "berth_sleep_out:\n"                                                                                     \
    "    movq $-4, %rax\n"                                                                                   \
    "    ret\n"
#elif defined(__aarch64__)
#define ROUTINE                                                                                              \
    "berth_sleep_from:\n"                                                                                    \
    "    ldr x9, [x0]\n"                                                                                     \
    "    cmp x9, x1\n"                                                                                       \
    "    b.ne berth_sleep_out\n"                                                                             \
    "    mov x8, x2\n"                                                                                       \
    "    mov x0, x3\n"                                                                                       \
    "    mov x1, x4\n"                                                                                       \
    "    mov x2, x5\n"                                                                                       \
    "    mov x3, x6\n"                                                                                       \
    "    mov x4, x7\n"                                                                                       \
    "    ldr x5, [sp]\n"                                                                                     \
    "    svc 0\n"                                                                                            \
    "berth_sleep_till:\n"                                                                                    \
    "    ret\n"                                                                                              \
    "berth_sleep_out:\n"                                                                                     \
    "    mov x0, #-4\n"                                                                                      \
    "    ret\n"
#endif

/* With unwind information: pthread_cancel unwinds through it. */
__asm__(".pushsection .text\n"
        ".p2align 4\n"
        ".globl berth_sleep_call, berth_sleep_from, berth_sleep_till, berth_sleep_out\n"
        ".hidden berth_sleep_call\n"
        ".hidden berth_sleep_from\n"
        ".hidden berth_sleep_till\n"
        ".hidden berth_sleep_out\n"
        ".type berth_sleep_call, %function\n"
        "berth_sleep_call:\n"
        ".cfi_startproc\n" ROUTINE ".cfi_endproc\n"
        ".size berth_sleep_call, . - berth_sleep_call\n"
        ".popsection\n");

long sys_sleep6(const struct sleep_mark *mark, long n, long a, long b, long c, long d, long e, long f)
{
    int type = PTHREAD_CANCEL_DEFERRED;
    bool alone = __libc_single_threaded; /* who sleeps makes no thread meanwhile; a handler of its own may */
    if (!alone)
        (void)pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    long ret = berth_sleep_call(&berth_handlers, mark->handlers, n, a, b, c, d, e, f);
    if (!alone)
        (void)pthread_setcanceltype(type, NULL);
    return ret;
}

void sleep_mask_begin(const sigset_t *mask)
{
    if (!mask)
        return;
    memcpy(&berth_call_mask.mask, mask, sizeof berth_call_mask.mask);
    fence_compiler();
    berth_call_mask.is = true;
}

void sleep_interrupted(uintptr_t *pc, bool restart)
{
    store_relaxed(&berth_handlers, berth_handlers + (restart ? 1 : 1 + SLEEP_NORESTART));
    if (*pc >= (uintptr_t)berth_sleep_from && *pc < (uintptr_t)berth_sleep_till)
        *pc = (uintptr_t)berth_sleep_out;
}

struct sleep_place *sleep_leave(void)
{
    struct sleep_place *place = berth_place;
    berth_place = NULL; /* what the handler does is another call, with sleeps of its own */
    if (place)
        place->leave(place);
    return place;
}

void sleep_back(struct sleep_place *place)
{
    place->back(place);
    berth_place = place;
}
