/* shots.c - EPOLLONESHOT for what is in both worlds: listeners, and sets in sets.
 *
 * Theory of operation
 *
 * Such a registration would fire once in each world, and the program is to hear of it once. Whoever returns
 * from a wait with its event takes the shot: both worlds are disarmed, and if both had fired, one event more
 * is owed: it is on its way, in this call's events or in another thread's, and is dropped where it comes. The
 * program may arm it again before that: then it is dropped only from what a wait has brought that began
 * earlier.
 *
 * An event does not say whose it is. It has the data that the program gave, and the program may have given
 * the same to other descriptors, of which we may not even know. So who has fired is asked of the worlds: our
 * set remembers it, and what the kernel has disarmed stands in /proc/thread-self/fdinfo. Where that is not to
 * be had an event that our set did not fire is taken for another's: better told twice than never.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/atomic.h"
#include "base/sys.h"
#include "shim/regs.h"

static struct reg *one_shots;
static uint64_t armings;

uint64_t shots_now(void)
{
    return load_acquire(&armings);
}

void shot_unlink(struct reg *r)
{
    if (!r->prev_shot)
        return;
    store_release(r->prev_shot, r->next_shot);
    if (r->next_shot)
        r->next_shot->prev_shot = r->prev_shot;
    r->prev_shot = NULL;
}

void shot_load(struct reg *r)
{
    bool wanted = r->in_kernel && r->in_set && r->event.events & EPOLLONESHOT;
    r->shot = false;
    r->owed = wanted ? r->owed : 0;
    r->armed_at = armings + 1;
    store_release(&armings, r->armed_at);
    if (!wanted) {
        shot_unlink(r);
    } else if (!r->prev_shot) {
        r->next_shot = one_shots;
        r->prev_shot = &one_shots;
        if (one_shots)
            one_shots->prev_shot = &r->next_shot;
        store_release(&one_shots, r);
    }
}

/* ---- has it fired? ------------------------------------------------------------------------------------- */

enum fired { FIRED_NOT, FIRED, FIRED_UNKNOWN };

/* What the kernel says of a registration. */
struct seen {
    enum fired fired;
    bool others; /* other descriptors have the same data, or it cannot be known */
};

#define LINE_MAX_BYTES 256
/* What the kernel leaves of the events of a one shot that has fired. */
#define STAYS (EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE)

static void see_line(const struct reg *r, const char *line, struct seen *seen)
{
    int fd = -1;
    unsigned events = 0;
    unsigned long long data = 0;
    if (sscanf(line, "tfd: %d events: %x data: %llx", &fd, &events, &data) != 3 || data != r->event.data.u64)
        return;
    if (fd == r->fd)
        seen->fired = events & ~(unsigned)STAYS ? FIRED_NOT : FIRED;
    else
        seen->others = true;
}

static struct seen look_in_kernel(const struct reg *r)
{
    char name[40], text[4096 + LINE_MAX_BYTES];
    struct seen seen = {FIRED_UNKNOWN, false};
    (void)snprintf(name, sizeof name, "/proc/thread-self/fdinfo/%d", r->ep->epfd);
    long fd = sys_call(SYS_openat, (long)AT_FDCWD, name, (long)(O_RDONLY | O_CLOEXEC), 0L);
    size_t have = 0;
    while (fd >= 0) {
        long n = sys_call(SYS_read, fd, text + have, (long)(sizeof text - 1 - have), 0L);
        if (n <= 0)
            break;
        have += (size_t)n;
        text[have] = 0;
        char *line = text, *end;
        for (; (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            see_line(r, line, &seen);
        }
        have -= (size_t)(line - text);
        if (have > LINE_MAX_BYTES)
            break; /* no line is that long */
        memmove(text, line, have);
    }
    if (fd >= 0)
        (void)sys_close((int)fd);
    seen.others |= seen.fired == FIRED_UNKNOWN;
    for (const struct reg *o = r->ep->regs; o; o = o->next_of_set)
        seen.others |= o != r && o->event.data.u64 == r->event.data.u64;
    return seen;
}

static bool fired_in_set(const struct reg *r, bool disarm)
{
    bool inner = r->sock->kind == SOCK_EPOLL;
    return evset_spent(r->ep->set, inner ? 0 : r->sock->handle, inner ? r->sock->set : NULL, (uint32_t)r->fd,
                       disarm);
}

/* ---- taking the shot ----------------------------------------------------------------------------------- */

/* False: it has not fired. */
static bool shot_take(struct reg *r)
{
    enum fired kernel = look_in_kernel(r).fired;
    bool set = fired_in_set(r, false);
    if (!set && kernel != FIRED)
        return false;
    struct epoll_event none = {.events = 0, .data = r->event.data};
    set = fired_in_set(r, true);
    (void)sys_epoll_ctl(r->ep->epfd, EPOLL_CTL_MOD, r->fd, &none);
    r->shot = true;
    r->owed += set && kernel == FIRED;
    r->armed_at = UINT64_MAX;
    return true;
}

static bool may_be_of(const struct reg *r, const struct evset *set, const struct epoll_event *event)
{
    return r->ep->set == set && r->event.data.u64 == event->data.u64;
}

/* False: the event is to be dropped. */
static bool event_counts(const struct evset *set, uint64_t since, const struct epoll_event *event)
{
    for (struct reg *r = one_shots; r; r = r->next_shot) {
        if (may_be_of(r, set, event) && r->owed && since < r->armed_at) {
            r->owed--;
            return false;
        }
    }
    for (struct reg *r = one_shots; r; r = r->next_shot) {
        if (may_be_of(r, set, event) && !r->shot && shot_take(r))
            return true;
    }
    /* It has not fired, or was told already. An event of a wait that began before that may have been fired
     * between the look and the disarming; else it is another's. */
    for (struct reg *r = one_shots; r; r = r->next_shot) {
        if (may_be_of(r, set, event) && since < r->armed_at)
            return look_in_kernel(r).others;
    }
    return true;
}

int shots_take(const struct evset *set, uint64_t since, struct epoll_event *out, int n)
{
    if (likely(!load_acquire(&one_shots)))
        return n;
    int stay = 0;
    shim_lock();
    for (int i = 0; i < n; i++) {
        if (event_counts(set, since, &out[i]))
            out[stay++] = out[i];
    }
    shim_unlock();
    return stay;
}
