/* wake.c - the holders of a shared session wake each other by their bells.
 *
 * Where a session is shared (fork.c) the peer knows one worker and writes that worker's bell, which all
 * holders have and none reads.
 */
#include "client/wake.h"

#include <sys/mman.h>

#include "base/sys.h"
#include "client/family.h"
#include "client/fds.h"
#include "shm/page.h"

void shared_kick(const struct session *s)
{
    uint32_t owner = session_owner(s);
    int fd = C->bell_fd;
    for (uint32_t i = 0; i < load_acquire(&C->ancestors); i++) {
        if (C->ancestor[i].worker == owner)
            fd = C->ancestor[i].bell_fd;
    }
    bell_ring(fd);
}

/* All sleep on their own bell and on those of the processes that they were forked from. */
void relatives_kick(void)
{
    bell_ring(C->bell_fd);
    for (uint32_t i = 0; i < load_acquire(&C->ancestors); i++)
        bell_ring(C->ancestor[i].bell_fd);
}

static bool holds_sessions_of(uint32_t worker)
{
    for (struct session *s = NULL; (s = session_after(s));) {
        if (session_held_by(s, C->member) && session_owner(s) == worker)
            return true;
    }
    return false;
}

void ancestors_keep(void)
{
    uint32_t kept = 0, inner = load_acquire(&C->inner);
    if (!__libc_single_threaded)
        return;
    for (uint32_t a = 0; a < C->ancestors; a++) {
        struct ancestor *one = &C->ancestor[a];
        if (holds_sessions_of(one->worker)) {
            C->ancestor[kept++] = *one;
            continue;
        }
        if (inner)
            (void)sys_epoll_ctl((int)inner - 1, EPOLL_CTL_DEL, one->bell_fd, NULL);
        own_fd_close(one->bell_fd);
        munmap(one->page, WORKER_PAGE_BYTES);
    }
    store_relaxed(&C->ancestors, kept);
}

void bells_watch(int epfd, uint64_t data)
{
    for (uint32_t i = 0; i < load_acquire(&C->ancestors); i++) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = data};
        (void)sys_epoll_ctl(epfd, EPOLL_CTL_ADD, C->ancestor[i].bell_fd, &ev);
    }
}
