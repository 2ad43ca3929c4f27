/* undecided.c - sockets of which nothing has become when the process forks: neither bound to a session nor listening.
 *
 * Parent and child then have one open file, and whatever one of them does to it holds for the other. As long as that
 * is options, flags and a name, the kernel's own socket says it all, so a fresh socket gets one before the fork.
 *
 * What one of them connects is connected for both. A session is in the memory of the process that makes it, where the
 * other could not come to have it any more. So while both live and have the socket its connection is the kernel's, and
 * everything about it is. Who alone is left may make a session of it, or a listener (listen.c).
 *
 * A non-blocking connect that waits for room with its listener is offered again by who has begun it, and by nobody else.
 * So it is begun anew before a fork, as the kernel's.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "base/sys.h"
#include "shim/shim.h"

#define STATE_CLOSE 7 /* TCP_CLOSE, of tcpi_state */

void undecided_before_fork(void)
{
    bool queued = client_queued();
    if (!queued && !socks_undecided())
        return;
    for (int fd = 0; fd < fds_used(); fd++) {
        uint64_t word = fd_words[fd];
        struct sock *s = sock_of(word);
        if (word && queued && s->kind == SOCK_SESSION)
            queued_to_kernel(fd, s);
        if (!fd_words[fd] || (s->kind != SOCK_FRESH && s->kind != SOCK_BOUND))
            continue;
        if (s->kind == SOCK_FRESH && fresh_to_bound(fd, s) < 0)
            continue; /* no descriptor for it: parent and child each have one of their own */
        if (s->file || s->comes || s->common)
            continue;
        s->file = client_file_new();
        if (!s->file)
            sock_forget(s);
    }
}

static bool fresh_in_kernel(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info.tcpi_state;
    long err = sys_call6(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, sys_arg(&info), sys_arg(&len), 0);
    return err == 0 && info.tcpi_state == STATE_CLOSE && !(sys_fcntl(fd, F_GETFL, 0L) & O_ASYNC);
}

bool undecided_joint(int fd, struct sock *s)
{
    return s->common || (s->file && client_file_joint(s->file)) || socket_common(fd) || !fresh_in_kernel(fd);
}
