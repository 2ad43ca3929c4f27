/* berth/error.h - what can go wrong, by number and by text.
 *
 * Every function of libberth that can fail returns 0 or a count when it worked and one of these negative
 * codes when it did not. The codes are part of the ABI: they are never renumbered.
 */
#ifndef BERTH_ERROR_H
#define BERTH_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

enum berth_error {
    BERTH_OK = 0,
    BERTH_E_INVALID = -1,           /* an argument is out of its range */
    BERTH_E_NOT_ATTACHED = -2,      /* attach first */
    BERTH_E_ALREADY_ATTACHED = -3,  /* this worker is attached */
    BERTH_E_NO_DAEMON = -4,         /* nobody answers in the runtime directory */
    BERTH_E_DAEMON_GONE = -5,       /* the daemon went away while it was asked */
    BERTH_E_UNKNOWN_NAMESPACE = -6, /* no namespace of that id */
    BERTH_E_WRONG_SECRET = -7,      /* the namespace's secret is another one */
    BERTH_E_VERSION = -8,           /* the two sides speak different versions */
    BERTH_E_NO_MEMORY = -9,         /* memory, descriptors or address space ran out */
    BERTH_E_LIMIT = -10,            /* a configured limit is reached */
    BERTH_E_PERMISSION = -11,       /* owner, group or mode do not admit the caller */
    BERTH_E_URI = -12,              /* not a URI of the form proto://addr:port */
    BERTH_E_ADDRESS_IN_USE = -13,   /* somebody else listens there */
    BERTH_E_ADDRESS = -14,          /* the address cannot be used for this */
    BERTH_E_NO_ROUTE = -15,         /* no scope that was asked for leads there */
    BERTH_E_REFUSED = -16,          /* nobody listens there, or the listener is closing */
    BERTH_E_RESET = -17,            /* the peer reset the session or died with data unread */
    /* written to a session that the peer or the caller has closed for that */
    BERTH_E_CLOSED = -18,
    BERTH_E_TIMED_OUT = -19,         /* the time given is over */
    BERTH_E_WOULD_BLOCK = -20,       /* nothing can be done now without waiting */
    BERTH_E_BAD_HANDLE = -21,        /* stale, foreign or never valid */
    BERTH_E_NOT_OWNER = -22,         /* only the owner may do that */
    BERTH_E_INTERRUPTED = -23,       /* a signal handler ran while waiting, or a debugger stopped the wait */
    BERTH_E_SEGMENT_TIMED_OUT = -24, /* the segment that a message names did not arrive in time */
    BERTH_E_IN_PROGRESS = -25,       /* a non-blocking connect goes on; wait until it is writable */
    BERTH_E_PROTOCOL = -26,          /* a message or shared memory did not hold what it must */
    BERTH_E_BUSY = -27,              /* the thing is in use: an open span, an existing name */
    BERTH_E_UNSUPPORTED = -28,       /* known, but not offered by this build */
    BERTH_E_SYSTEM = -29,            /* a system call failed: see errno */
    BERTH_E_LAST = -29
};

/* berth_strerror - a sentence that tells a person what a code means.
 * code: 0 or one of the above; any other gives "unknown error".
 * Returns a constant string, never NULL. Does not block; any thread. */
const char *berth_strerror(int code);

/* berth_error_name - the code's own name, for logs: "BERTH_E_WRONG_SECRET".
 * Returns a constant string, "BERTH_E_?" for an unknown code. Does not block; any thread. */
const char *berth_error_name(int code);

#ifdef __cplusplus
}
#endif

#endif
