/* setpipes.c - the token pipes of listeners in what event sets sleep on (wait_ep).
 *
 * A pipe can be in an epoll set once, but several may ask for it there: the listener under each of its
 * numbers, and the sets inside that have it, too. So its mask is the union of what they ask for, made anew
 * whenever one of them comes, changes or goes: from the set itself as the program asked, level or edge; from
 * a set inside by edge, since a set around asks that one for its state. Where one wants the level it is the
 * level, and whoever wants the edge tells by the count of arrivals what is news (listener_arrivals).
 *
 * What the kernel was told is noted, for a change that changes nothing would be an edge.
 */
#include "client/setpipes.h"

#include "base/memory.h"
#include "base/sys.h"
#include "client/ready.h"

struct set_pipe {
    struct set_pipe *next;
    int fd;
    uint32_t mask;
};

#define NOBODY UINT32_MAX

bool set_ours(const struct evset *set)
{
    return set->wait_ep >= 0 && set->pid == set_process();
}

static bool lies_around(const struct evset *inner, const struct evset *set, int depth)
{
    for (const struct watch *o = depth < SETS_DEEP ? inner->outer : NULL; o; o = o->next) {
        if (o->set == set || lies_around(o->set, set, depth + 1))
            return true;
    }
    return false;
}

/* NOBODY: no watch of it reaches the set. EPOLLEXCLUSIVE only where it is alone. */
static uint32_t union_mask(const struct evset *set, const struct listener *l)
{
    uint32_t mask = 0, watches = 0, exclusive = EPOLLEXCLUSIVE, edge = EPOLLET;
    for (const struct watch *w = l->watches; w; w = w->next) {
        if (w->set != set && !lies_around(w->set, set, 0))
            continue;
        watches++;
        uint32_t wants = w->set != set ? READY_IN | EPOLLET : w->spent ? 0 : w->events;
        if (wants & READY_IN) {
            mask |= wants & READY_IN;
            edge &= wants;
        }
        exclusive &= wants;
    }
    if (!watches)
        return NOBODY;
    return mask ? mask | edge | (watches == 1 ? exclusive : 0) : 0;
}

static struct set_pipe **find(struct evset *set, int fd)
{
    struct set_pipe **p = &set->pipes;
    while (*p && (*p)->fd != fd)
        p = &(*p)->next;
    return p;
}

static void drop(struct evset *set, struct set_pipe **p)
{
    struct set_pipe *it = *p;
    if (!it)
        return;
    if (set_ours(set))
        (void)sys_epoll_ctl(set->wait_ep, EPOLL_CTL_DEL, it->fd, NULL);
    store_relaxed(p, it->next);
    memory_put(it, sizeof *it);
}

static void sync_one(struct evset *set, const struct listener *l)
{
    uint32_t mask = union_mask(set, l);
    struct set_pipe **p = find(set, l->pipe_rd);
    if (mask == NOBODY) {
        drop(set, p);
        return;
    }
    if (!set_ours(set) || l->pipe_rd < 0 || (*p && (*p)->mask == mask))
        return;
    if (*p && ((*p)->mask | mask) & EPOLLEXCLUSIVE) /* which cannot be changed */
        drop(set, p);
    int op = *p ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (op == EPOLL_CTL_ADD) {
        struct set_pipe *it = memory_get(sizeof *it);
        if (!it)
            return;
        *it = (struct set_pipe){.fd = l->pipe_rd};
        store_relaxed(p, it);
    }
    struct epoll_event ev = {.events = mask, .data.u64 = TAG_LISTENER0 + (uint64_t)(l - C->listeners)};
    (*p)->mask = sys_epoll_ctl(set->wait_ep, op, l->pipe_rd, &ev) == 0 ? mask : NOBODY;
}

static void sync_up(struct evset *set, const struct listener *l, int depth)
{
    sync_one(set, l);
    for (const struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next)
        sync_up(o->set, l, depth + 1);
}

void set_pipe_sync(struct evset *set, const struct listener *l)
{
    sync_up(set, l, 0);
}

static void sync_inside(struct evset *set, const struct evset *inside, int depth)
{
    for (const struct watch *w = inside->all; w; w = w->set_next) {
        const struct listener *l = w->inner ? NULL : listener_get(w->handle); /* of a session: none */
        if (l)
            sync_up(set, l, 0);
        if (w->inner && depth < SETS_DEEP)
            sync_inside(set, w->inner, depth + 1);
    }
}

void set_pipes_sync(struct evset *set, const struct evset *inside)
{
    sync_inside(set, inside, 0);
}

static void gone_up(struct evset *set, const struct listener *l, int depth)
{
    drop(set, find(set, l->pipe_rd));
    for (const struct watch *o = depth < SETS_DEEP ? set->outer : NULL; o; o = o->next)
        gone_up(o->set, l, depth + 1);
}

void set_pipe_gone(struct evset *set, const struct listener *l)
{
    gone_up(set, l, 0);
}

bool set_has_pipes(const struct evset *set)
{
    return load_relaxed(&set->pipes) != NULL;
}

void set_pipes_forget(struct evset *set)
{
    while (set->pipes) {
        struct set_pipe *it = set->pipes;
        store_relaxed(&set->pipes, it->next);
        memory_put(it, sizeof *it);
    }
}
