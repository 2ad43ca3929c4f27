/* sleep.h - system calls that block, as POSIX has them: a handler that has run ends them, and so does
 * pthread_cancel.
 *
 * Theory of operation
 *
 * A call of the kernel's that waits is one step: a signal comes before it or ends it. A wait of ours is many
 * steps (look, spin, arm, look again, sleep), and a handler may run between any two of them. What it did may
 * be what the program waits for, so the sleep must not begin any more. Therefore each thread counts the
 * handlers that have run in it. Whoever begins to wait notes the count (sleep_mark_now), and sys_sleep6 does
 * not sleep when the count has moved since: it says -EINTR, as if the handler had come during the sleep.
 *
 * Between that comparison and the system call there is still a moment. Both stand in one short routine in
 * assembler, and who runs handlers (shim/signals.c) asks sleep_interrupted() about the place where the thread
 * was interrupted: if it is in the routine and the kernel has not finished the call, the thread goes on at
 * the routine's end, with -EINTR. musl does the same for cancellation.
 *
 * The upper half of the count is of handlers without SA_RESTART, as they were installed when they ran. After
 * -EINTR sleep_restarts() says whether Linux would have gone on waiting, and the wait goes on with the mark
 * that it leaves.
 *
 * While it sleeps, sys_sleep6 lets pthread_cancel end the thread. Who calls it must have no lock, and pushes
 * a cleanup handler (pthread_cleanup_push) for what has to be undone.
 *
 * A handler may never come back: it calls siglongjmp, or pthread_exit. So whoever is counted while it sleeps
 * says so by a sleep_place, and is taken out of the count before the handler runs, and put in again when it
 * has returned.
 */
#ifndef BERTH_BASE_SLEEP_H
#define BERTH_BASE_SLEEP_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/single_threaded.h>

#include "base/atomic.h"
#include "base/sys.h"

#define SLEEP_NORESTART (1ull << 32) /* one handler without SA_RESTART, in the count */

/* Handlers of the program's that have run in this thread. */
extern __thread uint64_t berth_handlers __attribute__((tls_model("initial-exec"), visibility("hidden")));

struct sleep_mark {
    uint64_t handlers;
};

static inline struct sleep_mark sleep_mark_now(void)
{
    fence_compiler();
    return (struct sleep_mark){load_relaxed(&berth_handlers)};
}

/* Has a handler run since? For those who spin. */
static inline bool sleep_signalled(const struct sleep_mark *mark)
{
    return load_relaxed(&berth_handlers) != mark->handlers;
}

/* After INTERRUPTED: may the call go on, since each handler that has run had SA_RESTART? Renews the mark. */
static inline bool sleep_restarts(struct sleep_mark *mark)
{
    struct sleep_mark was = *mark;
    *mark = sleep_mark_now(); /* one load: a handler that comes now is seen the next time */
    return (was.handlers ^ mark->handlers) < SLEEP_NORESTART;
}

/* A system call that blocks. As sys_call6; -EINTR also when a handler has run since the mark. A point of
 * cancellation. */
long sys_sleep6(const struct sleep_mark *mark, long n, long a, long b, long c, long d, long e, long f);

#define sys_sleep_ppoll(mark, fds, n, ts, mask)                                                              \
    sys_sleep6(mark, SYS_ppoll, sys_arg(fds), (long)(n), sys_arg(ts), sys_arg(mask), 8, 0)
#define sys_sleep_epoll(mark, ep, evs, n, ts, mask)                                                          \
    sys_sleep6(mark, SYS_epoll_pwait2, (long)(ep), sys_arg(evs), (long)(n), sys_arg(ts), sys_arg(mask), 8)

/* A call that has its answer without waiting is a point of cancellation all the same. */
static inline void sleep_testcancel(void)
{
    if (__builtin_expect(!__libc_single_threaded, 0))
        pthread_testcancel();
}

/* The signal mask of a call that brings one of its own, while the thread is in it: what a handler that runs
 * there starts from. */
struct sleep_mask {
    uint64_t mask;
    bool is;
};
extern __thread struct sleep_mask berth_call_mask
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

void sleep_mask_begin(const sigset_t *mask); /* NULL: none */
static inline void sleep_mask_end(void)
{
    berth_call_mask.is = false;
}

/* For who stands before handlers, with all signals blocked: one runs now. `pc` is where the thread goes on
 * after it. */
void sleep_interrupted(uintptr_t *pc, bool restart);

/* What a thread is counted for while it sleeps. Both are called with all signals blocked, in a thread that
 * holds no lock. */
struct sleep_place {
    void (*leave)(struct sleep_place *place); /* the thread may never come back */
    /* it has come back: its sleep is over, and it goes on behind it */
    void (*back)(struct sleep_place *place);
};

/* Of the calling thread's sleep, NULL: none. Set and taken away under a hold (base/hold.h). */
extern __thread struct sleep_place *berth_place
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Around a handler: what sleep_leave gives is for sleep_back. */
struct sleep_place *sleep_leave(void);
void sleep_back(struct sleep_place *place);

#endif
