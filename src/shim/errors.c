/* errors.c - one table from libberth's errors to errno, and the rule for restarting after a signal. */
#include <signal.h>

#include "base/sys.h"
#include "shim/shim.h"

static const uint8_t numbers[] = {
    [-BERTH_E_INVALID] = EINVAL,
    [-BERTH_E_NOT_ATTACHED] = ENOTCONN,
    [-BERTH_E_ALREADY_ATTACHED] = EALREADY,
    [-BERTH_E_NO_DAEMON] = ENETDOWN,
    [-BERTH_E_DAEMON_GONE] = ENETDOWN,
    [-BERTH_E_UNKNOWN_NAMESPACE] = ENETDOWN,
    [-BERTH_E_WRONG_SECRET] = EACCES,
    [-BERTH_E_VERSION] = EPROTO,
    [-BERTH_E_NO_MEMORY] = ENOBUFS,
    [-BERTH_E_LIMIT] = ENFILE,
    [-BERTH_E_PERMISSION] = EACCES,
    [-BERTH_E_URI] = EINVAL,
    [-BERTH_E_ADDRESS_IN_USE] = EADDRINUSE,
    [-BERTH_E_ADDRESS] = EADDRNOTAVAIL,
    [-BERTH_E_NO_ROUTE] = ENETUNREACH,
    [-BERTH_E_REFUSED] = ECONNREFUSED,
    [-BERTH_E_RESET] = ECONNRESET,
    [-BERTH_E_CLOSED] = EPIPE,
    [-BERTH_E_TIMED_OUT] = ETIMEDOUT,
    [-BERTH_E_WOULD_BLOCK] = EAGAIN,
    [-BERTH_E_BAD_HANDLE] = EBADF,
    [-BERTH_E_NOT_OWNER] = EPERM,
    [-BERTH_E_INTERRUPTED] = EINTR,
    [-BERTH_E_SEGMENT_TIMED_OUT] = ETIMEDOUT,
    [-BERTH_E_IN_PROGRESS] = EINPROGRESS,
    [-BERTH_E_PROTOCOL] = ECONNRESET, /* the session was reset for it */
    [-BERTH_E_BUSY] = EAGAIN,
    [-BERTH_E_UNSUPPORTED] = EOPNOTSUPP,
    [-BERTH_E_SYSTEM] = EIO,
};

int error_number(int berth_error)
{
    int i = -berth_error;
    return i > 0 && i < (int)sizeof numbers && numbers[i] ? numbers[i] : EIO;
}

int fail(int berth_error)
{
    errno = error_number(berth_error);
    return -1;
}

/* The kernel's own struct, not libc's. */
struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

/* signal(7): a call with a timeout set by SO_RCVTIMEO or SO_SNDTIMEO is never restarted; otherwise one interrupted
 * by a handler with SA_RESTART is. Which handler ran is not known here, so every one that exists must have it. */
bool signal_restarts(int64_t timeout)
{
    if (timeout)
        return false;
    for (int sig = 1; sig <= 64; sig++) {
        struct kernel_sigaction act = {0};
        if (sys_call(SYS_rt_sigaction, (long)sig, 0L, &act, 8L) < 0)
            continue;
        if ((uintptr_t)act.handler > 1 && !(act.flags & SA_RESTART))
            return false;
    }
    return true;
}
