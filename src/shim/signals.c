/* signals.c - stands before the program's signal handlers, so that none runs while its thread holds a lock of
 * berth's, and those that run are known.
 *
 * Theory of operation: see base/hold.h. What sigaction() installs is `stand_in`, and the program's own
 * handler is kept here. stand_in runs with all signals blocked. When its thread holds nothing it sets the
 * mask that the program's handler was to have, and calls it. Else it notes the signal and has the thread go
 * on with all signals blocked, so that there is never more than one to note; when the hold ends, the signal
 * is sent to the thread once more, as it was, and the mask put back.
 *
 * Each handler that runs is counted, and a system call that has not begun to sleep is ended (base/sleep.h):
 * so no signal is lost between a look and the sleep after it, and it is known of each whether it had
 * SA_RESTART when it ran. While it runs, its thread is not counted among those that sleep, since it may leave
 * by siglongjmp.
 *
 * Signals that the thread raises by what it does (SIGSEGV and the like) cannot wait. `stand_before_fault`
 * puts nothing off and leaves the mask as it is: the program's handler runs as if it were not there, but for
 * what its thread is counted for.
 *
 * A handler's mask is that which the kernel would have given it: in ppoll, sigsuspend and their like it
 * starts from the mask of the call.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "base/hold.h"
#include "base/memory.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "shim/shim.h"

#define SIGNALS 65
#define MASK_BYTES 8 /* the kernel's */
#if defined(__x86_64__)
#define PC(uc) ((uintptr_t *)&(uc)->uc_mcontext.gregs[REG_RIP])
#else
#define PC(uc) ((uintptr_t *)&(uc)->uc_mcontext.pc)
#endif

/* What the program asked for. Each word is read once: another thread may be changing it. */
APART static struct asked {
    uintptr_t handler;
    uint64_t mask;
    int flags;
} asked[SIGNALS];

static __thread struct {
    int sig;
    siginfo_t info;
    uint64_t mask;
} put_off __attribute__((tls_model("initial-exec")));

static void set_mask(uint64_t mask)
{
    (void)sys_call(SYS_rt_sigprocmask, (long)SIG_SETMASK, &mask, 0L, (long)MASK_BYTES);
}

static void deliver(void)
{
    uint64_t mask = put_off.mask;
    int sig = put_off.sig;
    siginfo_t info = put_off.info;
    store_relaxed(&berth_hold.waiting, 0u);
    (void)sys_call(SYS_rt_tgsigqueueinfo, sys_call(SYS_getpid, 0L, 0L, 0L, 0L),
                   sys_call(SYS_gettid, 0L, 0L, 0L, 0L), (long)sig, &info);
    set_mask(mask); /* and here it comes */
}

/* What was put off in the parent is the parent's. */
void signals_after_fork(void)
{
    if (load_relaxed(&berth_hold.waiting)) {
        store_relaxed(&berth_hold.waiting, 0u);
        set_mask(put_off.mask);
    }
}

/* A handler of the program's runs. */
struct run {
    struct sleep_place *place; /* the sleep it has interrupted */
    int cancel_type;
};

/* A sleep lets itself be cancelled at any moment. In a handler, and after one that leaves it for good, that
 * would be in the midst of what else the library does. */
static struct run run_begin(ucontext_t *uc, int flags)
{
    struct run run = {NULL, PTHREAD_CANCEL_DEFERRED};
    sleep_interrupted(PC(uc), flags & SA_RESTART);
    sleep_mask_end();
    run.place = sleep_leave();
    if (run.place && !__libc_single_threaded)
        (void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &run.cancel_type);
    return run;
}

static void run_end(const struct run *run)
{
    if (!run->place)
        return;
    sleep_back(run->place);
    if (run->cancel_type != PTHREAD_CANCEL_DEFERRED)
        (void)pthread_setcanceltype(run->cancel_type, NULL);
}

static void stand_in(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uint64_t mask;
    memcpy(&mask, &uc->uc_sigmask, MASK_BYTES);
    if (load_relaxed(&berth_hold.depth)) {
        put_off.sig = sig;
        put_off.info = *info;
        put_off.mask = mask;
        memset(&uc->uc_sigmask, 0xff, MASK_BYTES);
        store_relaxed(&berth_hold.waiting, 1u);
        return;
    }
    uintptr_t handler = load_relaxed(&asked[sig].handler);
    int flags = load_relaxed(&asked[sig].flags);
    struct sleep_mask call = berth_call_mask;
    if (call.is)
        mask = call.mask;
    struct run run = run_begin(uc, flags);
    mask |= load_relaxed(&asked[sig].mask) | (flags & SA_NODEFER ? 0 : 1ull << (sig - 1));
    if (flags & (int)SA_RESETHAND) {
        struct sigaction none = {.sa_handler = SIG_DFL};
        (void)real.sigaction(sig, &none, NULL);
    }
    set_mask(mask);
    ((void (*)(int, siginfo_t *, void *))handler)(sig, info, context);
    if (__builtin_expect(run.place || call.is, 0)) {
        set_mask(~0ull);
        run_end(&run);
        berth_call_mask = call;
    }
}

static void stand_before_fault(int sig, siginfo_t *info, void *context)
{
    uintptr_t handler = load_relaxed(&asked[sig].handler);
    struct run run = {NULL, 0};
    bool free = !load_relaxed(&berth_hold.depth); /* else the library is at work, and has no place to leave */
    if (free)
        run = run_begin(context, load_relaxed(&asked[sig].flags));
    ((void (*)(int, siginfo_t *, void *))handler)(sig, info, context);
    if (free)
        run_end(&run);
}

static bool stood_before(int sig)
{
    return sig > 0 && sig < SIGNALS;
}

static bool is_fault(int sig)
{
    return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGTRAP ||
           sig == SIGSYS || sig == SIGABRT;
}

/* As the program asked for it, from what the kernel has. */
static void translate(struct sigaction *from_kernel, const struct asked *was)
{
    if (!(from_kernel->sa_flags & SA_SIGINFO) ||
        (from_kernel->sa_sigaction != stand_in && from_kernel->sa_sigaction != stand_before_fault))
        return;
    from_kernel->sa_handler = (void (*)(int))was->handler;
    from_kernel->sa_flags =
        (from_kernel->sa_flags & ~SA_SIGINFO) | (was->flags & (SA_SIGINFO | (int)SA_RESETHAND));
    memset(&from_kernel->sa_mask, 0, sizeof from_kernel->sa_mask);
    memcpy(&from_kernel->sa_mask, &was->mask, MASK_BYTES);
}

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    if (!stood_before(sig))
        return real.sigaction(sig, act, old);
    struct asked was = asked[sig];
    struct sigaction mine, kernel;
    if (act && act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN) {
        store_relaxed(&berth_hold_deliver, deliver);
        mine = *act;
        mine.sa_flags = act->sa_flags | SA_SIGINFO;
        if (is_fault(sig)) {
            mine.sa_sigaction = stand_before_fault;
        } else {
            mine.sa_sigaction = stand_in;
            mine.sa_flags &= ~(int)SA_RESETHAND;
            memset(&mine.sa_mask, 0xff, sizeof mine.sa_mask);
        }
        uint64_t all = ~0ull, before = 0, mask;
        memcpy(&mask, &act->sa_mask, MASK_BYTES);
        (void)sys_call(SYS_rt_sigprocmask, (long)SIG_SETMASK, &all, &before, (long)MASK_BYTES);
        store_relaxed(&asked[sig].mask, mask);
        store_relaxed(&asked[sig].flags, act->sa_flags);
        store_relaxed(&asked[sig].handler, (uintptr_t)act->sa_handler);
        int ret = real.sigaction(sig, &mine, &kernel);
        if (ret < 0)
            asked[sig] = was;
        set_mask(before);
        if (ret < 0)
            return ret;
    } else if (real.sigaction(sig, act, &kernel) < 0) {
        return -1;
    }
    if (old) {
        translate(&kernel, &was);
        *old = kernel;
    }
    return 0;
}

/* ---- waiting with another mask ---- */

EXPORT int sigsuspend(const sigset_t *mask)
{
    sleep_mask_begin(pointer_wild(mask) ? NULL : mask);
    int ret = real.sigsuspend(mask);
    sleep_mask_end();
    return ret;
}

/* ---- the older calls, which libc makes of its own sigaction ---- */

sighandler_t bsd_signal(int sig, sighandler_t handler);
sighandler_t ssignal(int sig, sighandler_t handler);
sighandler_t sysv_signal(int sig, sighandler_t handler);
sighandler_t __sysv_signal(int sig, sighandler_t handler);

static uint64_t interrupting; /* signals for which the program called siginterrupt(sig, 1) */

static sighandler_t install(int sig, sighandler_t handler, int flags)
{
    struct sigaction act = {.sa_handler = handler, .sa_flags = flags}, old;
    if (handler == SIG_ERR) {
        errno = EINVAL;
        return SIG_ERR;
    }
    return sigaction(sig, &act, &old) < 0 ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
    bool interrupts = sig > 0 && sig < SIGNALS && load_relaxed(&interrupting) >> (sig - 1) & 1;
    return install(sig, handler, interrupts ? 0 : SA_RESTART);
}

EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler)
{
    return signal(sig, handler);
}

EXPORT sighandler_t ssignal(int sig, sighandler_t handler)
{
    return signal(sig, handler);
}

/* What signal() is in programs built for X/Open without BSD: one shot, and nothing is restarted. */
EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
    return install(sig, handler, (int)SA_RESETHAND | SA_NODEFER);
}

EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
    return __sysv_signal(sig, handler);
}

EXPORT int siginterrupt(int sig, int interrupts)
{
    struct sigaction act;
    if (sigaction(sig, NULL, &act) < 0)
        return -1;
    if (interrupts) {
        (void)fetch_or_sc(&interrupting, 1ull << (sig - 1));
        act.sa_flags &= ~SA_RESTART;
    } else {
        (void)fetch_and_sc(&interrupting, ~(1ull << (sig - 1)));
        act.sa_flags |= SA_RESTART;
    }
    return sigaction(sig, &act, NULL);
}

EXPORT sighandler_t sigset(int sig, sighandler_t handler)
{
    sigset_t set, old;
    struct sigaction act;
    if (handler == SIG_ERR || sigemptyset(&set) < 0 || sigaddset(&set, sig) < 0) {
        errno = EINVAL;
        return SIG_ERR;
    }
    if (handler == SIG_HOLD) {
        if (sigaction(sig, NULL, &act) < 0 || sigprocmask(SIG_BLOCK, &set, &old) < 0)
            return SIG_ERR;
        return sigismember(&old, sig) ? SIG_HOLD : act.sa_handler;
    }
    sighandler_t was = install(sig, handler, 0);
    if (was == SIG_ERR || sigprocmask(SIG_UNBLOCK, &set, &old) < 0)
        return SIG_ERR;
    return sigismember(&old, sig) ? SIG_HOLD : was;
}
