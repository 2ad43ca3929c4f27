/* wake.c - the holders of a shared session wake each other by their bells.
 *
 * Where a session is shared (fork.c) the peer knows one worker and writes that worker's bell, which all
 * holders have and none reads.
 */
#include "client/wake.h"
#include "base/sys.h"
#include "client/family.h"
#include "client/fds.h"

void shared_kick(const struct session *s)
{
    uint32_t owner = session_owner(s);
    int fd = C->bell_fd;
    for (uint32_t i = 0; i < load_relaxed(&C->ancestors); i++) {
        if (C->ancestor[i].worker == owner)
            fd = C->ancestor[i].bell_fd;
    }
    bell_ring(fd);
}

/* All sleep on their own bell and on those of the processes that they were forked from. */
void relatives_kick(void)
{
    bell_ring(C->bell_fd);
    for (uint32_t i = 0; i < load_relaxed(&C->ancestors); i++)
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
    for (uint32_t a = 0; a < C->ancestors; a++) {
        if (holds_sessions_of(C->ancestor[a].worker))
            C->ancestor[kept++] = C->ancestor[a];
        else if (inner)
            (void)sys_epoll_ctl((int)inner - 1, EPOLL_CTL_DEL, C->ancestor[a].bell_fd, NULL);
    }
    store_relaxed(&C->ancestors, kept);
}

void bells_watch(int epfd, uint64_t data)
{
    for (uint32_t i = 0; i < load_relaxed(&C->ancestors); i++) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = data};
        (void)sys_epoll_ctl(epfd, EPOLL_CTL_ADD, C->ancestor[i].bell_fd, &ev);
    }
}
