/* limits.c - the program lowers its limit of descriptors.
 *
 * The descriptors that berth keeps in reserve (client/fds.c) lie high, out of the program's way. Where the
 * limit falls below them they are of no use: what is closed there makes no room. So they are taken anew,
 * below it, before the program can fill its table.
 */
#include <errno.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "shim/shim.h"

/* A system call of its own, and not instrumented: sanitizers set limits before they can stand any other code.
 */
#define PLAIN __attribute__((no_sanitize("address", "thread")))

PLAIN static int set_limit(long pid, long resource, const void *limit, void *was)
{
    long ret = sys_call(SYS_prlimit64, pid, resource, limit, was);
    if (ret < 0) {
        errno = (int)-ret;
        return -1;
    }
    if (limit && resource == RLIMIT_NOFILE && (pid == 0 || pid == sys_call(SYS_getpid, 0, 0, 0, 0)))
        client_fds_limited();
    return 0;
}

PLAIN EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    return set_limit(0, (long)resource, limit, NULL);
}

PLAIN EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
    return set_limit(0, (long)resource, limit, NULL);
}

PLAIN EXPORT int prlimit(__pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit,
                         struct rlimit *was)
{
    return set_limit(pid, (long)resource, limit, was);
}

PLAIN EXPORT int prlimit64(__pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *limit,
                           struct rlimit64 *was)
{
    return set_limit(pid, (long)resource, limit, was);
}
_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "one call for both, as in the kernel");
