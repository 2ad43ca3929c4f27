/* leave.c - the end of a process.
 *
 * The kernel closes what a process leaves open before anybody hears that it has ended. A session whose memory
 * is also that of a relative (a forking server's parent that closed its own copy) would stay open until that
 * relative hears of the death, and it may be asleep in wait(2). So such sessions are ended here: in _exit and
 * _Exit, which are replaced, and after all else that exit and quick_exit run. Who is killed cannot do so.
 *
 * A handler of a signal that cannot wait may have interrupted its thread within berth; that one ends as if it
 * were killed.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hold.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/shim.h"

int __cxa_atexit(void (*function)(void *), void *arg, void *library);

static __typeof__(&_exit) real_exit;

static void leave(void)
{
    if (!shim_foreign() && !load_relaxed(&berth_hold.depth)) {
        client_offers_settle();
        client_leave();
    }
}

static void leave_last(void *arg)
{
    (void)arg;
    leave();
}

/* Registered before the program and its libraries register anything, so run after all of that; and for no
 * library, or it would run when the dynamic loader has this one's destructors run. */
__attribute__((constructor)) static void leave_install(void)
{
    real_exit = (__typeof__(real_exit))dlsym(RTLD_NEXT, "_exit");
    (void)__cxa_atexit(leave_last, NULL, NULL);
    (void)at_quick_exit(leave);
}

static FORK_CODE __attribute__((noreturn)) void end(int status)
{
    leave();
    if (real_exit)
        real_exit(status);
    for (;;)
        sys_call(SYS_exit_group, (long)status, 0L, 0L, 0L);
}

EXPORT FORK_CODE __attribute__((noreturn)) void _exit(int status)
{
    end(status);
}

EXPORT FORK_CODE __attribute__((noreturn)) void _Exit(int status)
{
    end(status);
}
