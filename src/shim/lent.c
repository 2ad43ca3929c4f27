/* lent.c - sessions that a program was executed with while other processes go on with them.
 *
 * It has a socket of the kernel's for each, with a relay behind it that takes nothing out of the session
 * before the program has used the socket (relay.c). The relay sees what is written. It cannot see that somebody
 * waits to read, so a program under berth says so: such a socket is marked (as a stand-in is, see passed.c) and
 * has the relay as its owner (F_SETOWN), and the first call on it that is about more than the number sends
 * the owner a signal. From then on it is a plain socket of the kernel's.
 *
 * The signal is SIGURG, which does nothing to a process that does not ask for it: the mark may be anybody's.
 */
#include <fcntl.h>
#include <signal.h>

#include "base/sys.h"
#include "shim/shim.h"

#define LENT_MARK 61

bool lent_mark(int fd)
{
    return !sys_fcntl(fd, F_GETOWN, 0L) && !sys_fcntl(fd, F_GETSIG, 0L) &&
           !sys_fcntl(fd, F_SETSIG, (long)LENT_MARK);
}

void lent_came(int fd)
{
    if (!came_marked(fd, LENT_MARK))
        return;
    shim_lock();
    struct sock *s = sock_alloc(SOCK_LENT, socket_option(fd, SOL_SOCKET, SO_DOMAIN));
    if (s)
        fd_bind(fd, s);
    shim_unlock();
}

enum sock_kind lent_used(int fd)
{
    if (shim_foreign())
        return SOCK_FREE;
    int saved = errno;
    shim_lock();
    uint64_t word = fd_word(fd);
    if (word && sock_of(word)->kind == SOCK_LENT) {
        if (sys_fcntl(fd, F_GETSIG, 0L) == LENT_MARK) { /* else somebody who has it, too, has done this */
            long owner = sys_fcntl(fd, F_GETOWN, 0L);
            if (owner > 0)
                (void)sys_call(SYS_kill, owner, (long)SIGURG, 0L, 0L);
            sys_fcntl(fd, F_SETSIG, 0L);
            sys_fcntl(fd, F_SETOWN, 0L);
        }
        sock_forget(sock_of(word));
    }
    shim_unlock();
    errno = saved;
    return SOCK_FREE;
}
