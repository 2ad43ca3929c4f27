/* vigil.c - the set that every sleeper of the process has in its own, and what is in it when the daemon has
 * died.
 *
 * The inner set has the control socket and the bells of those we were forked from. It is edge-watched and
 * never reaped, so that no sleeper steals what another must see.
 *
 * While the daemon lives it tells of deaths. When it has died each peer and each relative is watched by a
 * pidfd in the inner set: so a death wakes who sleeps, and nobody needs to look now and then. Who is woken
 * asks all of them who it was. They are not in a set of their own inside the inner one: the kernel allows a
 * descriptor hundreds of sets that have it at second hand, but few at third hand.
 */
#include "client/vigil.h"
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>

#include "base/sys.h"
#include "client/fds.h"
#include "client/wake.h"

struct plock inner_lock;

int inner_set(void)
{
    uint32_t is = load_acquire(&C->inner);
    if (is)
        return (int)is - 1;
    plock_take(&inner_lock);
    int ep = (int)load_relaxed(&C->inner) - 1;
    if (ep < 0 && (ep = own_epoll()) >= 0) {
        struct epoll_event ev = {.events = EPOLLIN};
        (void)sys_epoll_ctl(ep, EPOLL_CTL_ADD, C->ctl, &ev);
        bells_watch(ep, 0);
        store_release(&C->inner, (uint32_t)ep + 1);
    }
    plock_release(&inner_lock);
    return ep;
}

void vigil_bells(void)
{
    plock_take(&inner_lock);
    if (load_relaxed(&C->inner))
        bells_watch((int)load_relaxed(&C->inner) - 1, 0); /* those that are there already stay */
    plock_release(&inner_lock);
}

static bool none_free(long err)
{
    return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOSPC;
}

int vigil_begin(int32_t pid)
{
    struct epoll_event ev = {.events = EPOLLIN};
    long fd = sys_call(SYS_pidfd_open, (long)pid, 0L, 0, 0);
    if (fd == -EMFILE) {
        client_fds_release();
        fd = sys_call(SYS_pidfd_open, (long)pid, 0L, 0, 0);
    }
    if (fd == -ESRCH || (none_free(fd) && sys_call(SYS_kill, (long)pid, 0L, 0, 0) == -ESRCH))
        return 0;
    if (fd < 0)
        return none_free(fd) ? BERTH_E_NO_MEMORY : BERTH_E_UNSUPPORTED;
    fd = own_fd((int)fd);
    int inner = inner_set();
    if (inner >= 0 && sys_epoll_ctl(inner, EPOLL_CTL_ADD, fd, &ev) == 0)
        return (int)fd + 1;
    own_fd_close((int)fd);
    return BERTH_E_NO_MEMORY;
}

/* Closed it would stay in the set as long as a child that was forked meanwhile has it open. */
void vigil_end(int vigil)
{
    uint32_t inner = load_acquire(&C->inner);
    if (vigil <= 0)
        return;
    if (inner)
        (void)sys_epoll_ctl((int)inner - 1, EPOLL_CTL_DEL, vigil - 1, NULL);
    own_fd_close(vigil - 1);
}

/* The set is the parent's, too, and goes on to have it. */
void vigil_forked(int vigil)
{
    own_fd_close(vigil - 1);
}

uint64_t vigils_over(const int *vigils, uint32_t n)
{
    struct pollfd p[VIGILS_AT_ONCE];
    struct timespec zero = {0};
    uint64_t over = 0;
    for (uint32_t i = 0; i < n; i++)
        p[i] = (struct pollfd){.fd = vigils[i] - 1, .events = POLLIN};
    if (n == 0 || sys_ppoll(p, n, &zero, NULL) <= 0)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        over |= p[i].revents ? 1ull << i : 0;
    return over;
}

void inner_close(void)
{
    uint32_t inner = exchange_sc(&C->inner, 0u);
    if (inner)
        own_fd_close((int)inner - 1);
}
