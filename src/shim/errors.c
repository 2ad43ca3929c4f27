/* errors.c - one table from libberth's errors to errno, and what a wait has come to: the rules of signal(7).
 */

#include "base/clock.h"
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

/* ---- waiting ---- */

/* signal(7): a call with a timeout set by SO_RCVTIMEO or SO_SNDTIMEO is never restarted, nor one that has moved bytes. */
int waited(struct waiting *w, int berth_error)
{
    if (berth_error == BERTH_E_INTERRUPTED) {
        bool restarts = sleep_restarts(&w->mark);
        return w->timeout || w->moved || !restarts ? EINTR : 0;
    }
    if (berth_error == BERTH_E_TIMED_OUT)
        return EAGAIN;
    return berth_error < 0 ? error_number(berth_error) : 0;
}

int64_t waiting_deadline(struct waiting *w)
{
    if (!w->deadline)
        w->deadline = clock_deadline(w->timeout ? w->timeout : -1);
    return w->deadline;
}

int wait_session(struct waiting *w, uint64_t h, uint32_t events)
{
    return waited(w, client_wait(h, events, waiting_deadline(w), &w->mark));
}

int wait_span(struct waiting *w, uint64_t h, uint32_t events, bool block)
{
    if (block)
        return waited(w, client_wait_span(h, events, waiting_deadline(w), &w->mark));
    int err;
    do {
        struct sleep_mark mark = sleep_mark_now();
        err = client_wait_span(h, events, DEADLINE_NEVER, &mark);
    } while (err == BERTH_E_INTERRUPTED);
    return err < 0 ? error_number(err) : 0;
}
