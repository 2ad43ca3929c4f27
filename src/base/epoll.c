/* epoll.c - see epoll.h. */
#include "base/epoll.h"

#include <errno.h>
#include <limits.h>

#include "base/atomic.h"
#include "base/sys.h"

static bool coarse;

bool epoll_is_coarse(void)
{
    return load_relaxed(&coarse);
}

void epoll_set_coarse(void)
{
    store_relaxed(&coarse, true);
}

long epoll_ms(const struct timespec *ts)
{
    if (!ts)
        return -1;
    if (ts->tv_sec >= INT_MAX / 1000)
        return INT_MAX;
    return (long)ts->tv_sec * 1000 + (ts->tv_nsec + 999999) / 1000000;
}

long epoll_wait_ns(int ep, struct epoll_event *events, int max, const struct timespec *timeout)
{
    long n = -ENOSYS;
    if (!epoll_is_coarse())
        n = sys_call6(SYS_epoll_pwait2, (long)ep, sys_arg(events), (long)max, sys_arg(timeout), 0, 8);
    if (n != -ENOSYS)
        return n;
    epoll_set_coarse();
    return sys_call6(SYS_epoll_pwait, (long)ep, sys_arg(events), (long)max, epoll_ms(timeout), 0, 8);
}
