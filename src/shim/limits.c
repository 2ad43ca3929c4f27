/* limits.c - the program lowers its limit of descriptors.
 *
 * The descriptors that berth keeps in reserve (client/fds.c) lie high, out of the program's way. Where the limit falls below them
 * they are of no use: what is closed there makes no room. So they are taken anew, below it, before the program can fill its table.
 */
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/sys.h"
#include "shim/shim.h"

static int set_limit(pid_t pid, int resource, const struct rlimit64 *new, struct rlimit64 *old)
{
    int ret = real.prlimit64(pid, resource, new, old);
    if (ret == 0 && new &&resource == RLIMIT_NOFILE && (pid == 0 || pid == (pid_t)sys_call(SYS_getpid, 0, 0, 0, 0)))
        client_fds_limited();
    return ret;
}

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *new)
{
    return set_limit(0, (int)resource, (const struct rlimit64 *)new, NULL);
}

EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *new)
{
    return set_limit(0, (int)resource, new, NULL);
}

EXPORT int prlimit(__pid_t pid, enum __rlimit_resource resource, const struct rlimit *new, struct rlimit *old)
{
    return set_limit(pid, (int)resource, (const struct rlimit64 *)new, (struct rlimit64 *)old);
}

EXPORT int prlimit64(__pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *new, struct rlimit64 *old)
{
    return set_limit(pid, (int)resource, new, old);
}
_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "one call for both, as in the kernel");
