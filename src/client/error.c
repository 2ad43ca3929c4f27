/* error.c - the texts and names of enum berth_error, checked against its range by a unit test. */
#include "berth/error.h"

#include <stddef.h>

#define BERTH_PUBLIC __attribute__((visibility("default")))

static const struct {
    const char *name, *text;
} table[] = {
    [0] = {"BERTH_OK", "success"},
#define ENTRY(code, text) [-(code)] = {#code, text}
    ENTRY(BERTH_E_INVALID, "an argument is out of its range"),
    ENTRY(BERTH_E_NOT_ATTACHED, "this process is not attached to berth"),
    ENTRY(BERTH_E_ALREADY_ATTACHED, "this process is attached to berth already"),
    ENTRY(BERTH_E_NO_DAEMON,
          "no berth daemon answers in the runtime directory; start one with 'berth daemon'"),
    ENTRY(BERTH_E_DAEMON_GONE, "the berth daemon went away"),
    ENTRY(BERTH_E_UNKNOWN_NAMESPACE, "there is no namespace of that name; see 'berth show namespaces'"),
    ENTRY(BERTH_E_WRONG_SECRET, "wrong secret for that namespace"),
    ENTRY(BERTH_E_VERSION, "library and daemon are of different versions; restart the older one"),
    ENTRY(BERTH_E_NO_MEMORY, "out of memory or of descriptors"),
    ENTRY(BERTH_E_LIMIT, "a configured limit is reached"),
    ENTRY(BERTH_E_PERMISSION, "the namespace's owner, group and mode do not admit this user"),
    ENTRY(BERTH_E_URI, "not a URI of the form proto://addr:port"),
    ENTRY(BERTH_E_ADDRESS_IN_USE, "the address is in use"),
    ENTRY(BERTH_E_ADDRESS, "the address cannot be used for this"),
    ENTRY(BERTH_E_NO_ROUTE, "no route: no scope that was asked for leads there"),
    ENTRY(BERTH_E_REFUSED, "connection refused"),
    ENTRY(BERTH_E_RESET, "connection reset by peer"),
    ENTRY(BERTH_E_CLOSED, "the session is closed for writing"),
    ENTRY(BERTH_E_TIMED_OUT, "timed out"),
    ENTRY(BERTH_E_WOULD_BLOCK, "it would block"),
    ENTRY(BERTH_E_BAD_HANDLE, "the handle is stale, foreign or never was valid"),
    ENTRY(BERTH_E_NOT_OWNER, "only the owner may do that"),
    ENTRY(BERTH_E_INTERRUPTED, "interrupted by a signal"),
    ENTRY(BERTH_E_SEGMENT_TIMED_OUT, "a segment that a message named did not arrive in time"),
    ENTRY(BERTH_E_IN_PROGRESS, "the connect goes on"),
    ENTRY(BERTH_E_PROTOCOL, "a message or shared memory did not hold what it must"),
    ENTRY(BERTH_E_BUSY, "it is in use or exists already"),
    ENTRY(BERTH_E_UNSUPPORTED, "this build does not offer that"),
    ENTRY(BERTH_E_SYSTEM, "a system call failed"),
#undef ENTRY
};

_Static_assert(sizeof table / sizeof table[0] == -BERTH_E_LAST + 1, "a code without a text");

BERTH_PUBLIC const char *berth_strerror(int code)
{
    return code <= 0 && code >= BERTH_E_LAST ? table[-code].text : "unknown error";
}

BERTH_PUBLIC const char *berth_error_name(int code)
{
    return code <= 0 && code >= BERTH_E_LAST ? table[-code].name : "BERTH_E_?";
}
