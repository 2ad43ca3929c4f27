/* poll.c - poll, ppoll, select and pselect over both worlds.
 *
 * A call that names no session and no listener goes to the kernel as it is. Else the descriptors are split:
 * sessions and listeners become items of libberth, everything else, the kernel side of each listener
 * included, stays a pollfd. select is poll with other clothes; its sets may be larger than FD_SETSIZE, as
 * long as the program made them so.
 */
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/shim.h"

#define FEW 32

extern void __chk_fail(void) __attribute__((noreturn));
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                size_t room);

struct split {
    struct client_poll_item *items;
    struct pollfd *kfds;
    int *item_of; /* per pollfd of the program: its item, or -1 */
    int *kfd_of;
    int ni, nk;
};

static inline bool of_stack(int fd, bool sleeps)
{
    struct sock *s;
    if (likely(!fd_word(fd)))
        return false;
    enum sock_kind kind = fd_kind(fd, &s);
    return kind == SOCK_SESSION || kind == SOCK_LISTENER ||
           (kind == SOCK_EPOLL && epoll_stack_set(fd, sleeps));
}

/* The kernel refuses what it refuses: a list that is nowhere, or longer than the process may have
 * descriptors. */
static bool list_refused(const struct pollfd *fds, nfds_t n)
{
    struct rlimit lim = {0};
    if (n <= FEW)
        return n && pointer_wild(fds);
    return pointer_wild(fds) ||
           (sys_call(SYS_prlimit64, 0L, (long)RLIMIT_NOFILE, 0L, &lim) == 0 && n > lim.rlim_cur);
}

static bool given_and_wild(const void *p)
{
    return p && pointer_wild(p);
}

static bool any_stack(const struct pollfd *fds, nfds_t n, bool sleeps)
{
    if (list_refused(fds, n))
        return false;
    bool any = false;
    for (nfds_t i = 0; i < n; i++) /* all of them: sets are made ready for a sleep */
        any |= of_stack(fds[i].fd, sleeps);
    return any;
}

static uint32_t asked(short events)
{
    uint32_t e = (uint32_t)events & (POLLIN | POLLOUT | POLLRDHUP);
    if (events & POLLRDNORM)
        e |= EPOLLIN;
    if (events & POLLWRNORM)
        e |= EPOLLOUT;
    return e;
}

static short answered(uint32_t ready, short events)
{
    short r = (short)(ready & (POLLERR | POLLHUP));
    if (ready & EPOLLIN)
        r |= events & (POLLIN | POLLRDNORM);
    if (ready & EPOLLOUT)
        r |= events & (POLLOUT | POLLWRNORM);
    if (ready & EPOLLRDHUP)
        r |= events & POLLRDHUP;
    return r;
}

static void split(const struct pollfd *fds, nfds_t n, struct split *sp)
{
    sp->ni = sp->nk = 0;
    for (nfds_t i = 0; i < n; i++) {
        struct sock *s;
        uint64_t h;
        enum sock_kind kind = fd_view(fds[i].fd, &s, &h);
        sp->item_of[i] = sp->kfd_of[i] = -1;
        if (kind == SOCK_SESSION || kind == SOCK_LISTENER) {
            sp->item_of[i] = sp->ni;
            sp->items[sp->ni++] = (struct client_poll_item){.handle = h, .events = asked(fds[i].events)};
        }
        struct evset *set = kind == SOCK_EPOLL ? epoll_stack_set(fds[i].fd, false) : NULL;
        if (set) {
            sp->item_of[i] = sp->ni;
            sp->items[sp->ni++] = (struct client_poll_item){.set = set, .events = asked(fds[i].events)};
        }
        if (kind != SOCK_SESSION) {
            sp->kfd_of[i] = sp->nk;
            sp->kfds[sp->nk++] = fds[i];
        }
    }
}

static int merge(struct pollfd *fds, nfds_t n, const struct split *sp)
{
    int count = 0;
    for (nfds_t i = 0; i < n; i++) {
        short r = sp->kfd_of[i] >= 0 ? sp->kfds[sp->kfd_of[i]].revents : 0;
        if (sp->item_of[i] >= 0 && !(r & POLLHUP)) /* a listener that was shut down is as the kernel says */
            r |= answered(sp->items[sp->item_of[i]].revents & (sp->kfd_of[i] >= 0 ? EPOLLIN : ~0u),
                          fds[i].events);
        fds[i].revents = r;
        count += r != 0;
    }
    return count;
}

int poll_stack(struct client_poll_item *items, int n, struct pollfd *kfds, int nk, int64_t timeout,
               const sigset_t *mask, struct client_room *rooms)
{
    struct sleep_mark mark = sleep_mark_now();
    int64_t deadline = timeout > 0 ? clock_deadline(timeout) : 0;
    int r = client_poll(items, n, kfds, nk, timeout, mask, rooms);
    for (;;) {
        sets_catch_up();
        if (likely(r != BERTH_E_BUSY))
            return r;
        int64_t left = timeout > 0 ? deadline - clock_now() : timeout;
        r = client_poll_since(&mark, items, n, kfds, nk, timeout > 0 && left < 0 ? 0 : left, mask, rooms);
    }
}

static int poll_one(struct pollfd *p, uint64_t h, int64_t timeout, const sigset_t *mask)
{
    struct client_poll_item item = {.handle = h, .events = asked(p->events)};
    int r = client_poll(&item, 1, NULL, 0, timeout, mask, NULL);
    if (r < 0)
        return fail(r);
    p->revents = answered(item.revents, p->events);
    return p->revents != 0;
}

/* `outer`: memory of the caller's. */
static int poll_once(struct pollfd *fds, nfds_t n, int64_t timeout, const sigset_t *mask,
                     struct client_room *outer)
{
    struct sock *s;
    uint64_t h;
    if (n == 1 && fd_session(fds->fd, &s, &h))
        return poll_one(fds, h, timeout, mask);
    struct client_poll_item few_items[FEW];
    struct pollfd few_kfds[FEW];
    int few_maps[2 * FEW];
    struct split sp = {few_items, few_kfds, few_maps, few_maps + FEW, 0, 0};
    struct client_room room = {NULL, n * (sizeof *sp.items + sizeof *sp.kfds + 2 * sizeof(int)), outer};
    if (n > FEW) {
        if (!(room.at = memory_get(room.size))) {
            errno = ENOMEM;
            return -1;
        }
        sp.items = room.at;
        sp.kfds = (struct pollfd *)(sp.items + n);
        sp.item_of = (int *)(sp.kfds + n);
        sp.kfd_of = sp.item_of + n;
    }
    split(fds, n, &sp);
    int r = poll_stack(sp.items, sp.ni, sp.kfds, sp.nk, timeout, mask, &room);
    if (r >= 0)
        r = merge(fds, n, &sp);
    else
        r = fail(r);
    client_room_give(&room);
    return r;
}

/* A session that has gone back meanwhile is the kernel's: the list is looked at anew. */
static int poll_both(struct pollfd *fds, nfds_t n, int64_t timeout, const sigset_t *mask,
                     struct client_room *outer)
{
    int64_t deadline = timeout > 0 ? clock_deadline(timeout) : 0;
    for (;;) {
        uint32_t before = sessions_gone_back();
        int r = poll_once(fds, n, timeout, mask, outer);
        if (unlikely(load_relaxed(&client_recall_news)))
            sessions_went_back();
        if (likely(sessions_gone_back() == before))
            return r;
        if (timeout > 0 && (timeout = deadline - clock_now()) < 0)
            timeout = 0;
    }
}

static bool timespec_ns(const struct timespec *ts, int64_t *out)
{
    *out = -1;
    if (!ts)
        return true;
    if (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= NS_PER_SEC)
        return false;
    *out = ts->tv_sec > INT64_MAX / NS_PER_SEC - 1 ? -1 : ts->tv_sec * NS_PER_SEC + ts->tv_nsec;
    return true;
}

EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    if (!any_stack(fds, n, timeout != 0))
        return real.poll(fds, n, timeout);
    sleep_testcancel();
    return poll_both(fds, n, timeout < 0 ? -1 : timeout * NS_PER_MS, NULL, NULL);
}

EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room)
{
    if (room / sizeof *fds < n)
        __chk_fail();
    return poll(fds, n, timeout);
}

static int ppoll_kernel(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    sleep_mask_begin(pointer_wild(mask) ? NULL : mask);
    int ret = real.ppoll(fds, n, timeout, mask);
    sleep_mask_end();
    return ret;
}

EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    if (given_and_wild(timeout) || given_and_wild(mask) || !any_stack(fds, n, true))
        return ppoll_kernel(fds, n, timeout, mask);
    int64_t ns;
    if (!timespec_ns(timeout, &ns)) {
        errno = EINVAL;
        return -1;
    }
    sleep_testcancel();
    return poll_both(fds, n, ns, mask, NULL);
}

EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                       size_t room)
{
    if (room / sizeof *fds < n)
        __chk_fail();
    return ppoll(fds, n, timeout, mask);
}

/* ---- select ---- */

#define WORD_BITS (8 * sizeof(unsigned long))
#define IN_EVENTS (POLLIN | POLLRDNORM | POLLRDBAND)
#define OUT_EVENTS (POLLOUT | POLLWRNORM | POLLWRBAND)

static unsigned long *words(fd_set *set)
{
    return (unsigned long *)set;
}

static bool in_set(fd_set *set, int fd)
{
    return set && words(set)[(size_t)fd / WORD_BITS] >> ((size_t)fd % WORD_BITS) & 1;
}

static void put(fd_set *set, int fd)
{
    words(set)[(size_t)fd / WORD_BITS] |= 1ul << ((size_t)fd % WORD_BITS);
}

static void clear(fd_set *set, int n)
{
    if (set)
        memset(set, 0, ((size_t)n + WORD_BITS - 1) / WORD_BITS * sizeof(unsigned long));
}

static short select_events(fd_set *r, fd_set *w, fd_set *e, int fd)
{
    return (short)((in_set(r, fd) ? IN_EVENTS : 0) | (in_set(w, fd) ? OUT_EVENTS : 0) |
                   (in_set(e, fd) ? POLLPRI : 0));
}

/* The pollfds for what is in the sets. Returns their number; with fds NULL only counts. stack: is one of them
 * a session or a listener? */
static int select_list(int n, fd_set *r, fd_set *w, fd_set *e, struct pollfd *fds, bool *stack)
{
    int count = 0;
    size_t last = ((size_t)n + WORD_BITS - 1) / WORD_BITS;
    for (size_t i = 0; i < last; i++) {
        unsigned long any = (r ? words(r)[i] : 0) | (w ? words(w)[i] : 0) | (e ? words(e)[i] : 0);
        for (; any; any &= any - 1) {
            int fd = (int)(i * WORD_BITS) + __builtin_ctzl(any);
            if (fd >= n)
                break;
            if (fds)
                fds[count] = (struct pollfd){.fd = fd, .events = select_events(r, w, e, fd)};
            count++;
            *stack |= of_stack(fd, true);
        }
    }
    return count;
}

static int select_result(int n, const struct pollfd *fds, int count, fd_set *r, fd_set *w, fd_set *e)
{
    int bits = 0;
    for (int i = 0; i < count; i++) {
        if (fds[i].revents & POLLNVAL) {
            errno = EBADF;
            return -1;
        }
    }
    clear(r, n);
    clear(w, n);
    clear(e, n);
    for (int i = 0; i < count; i++) {
        short got = fds[i].revents, want = fds[i].events;
        if (want & IN_EVENTS && got & (IN_EVENTS | POLLHUP | POLLERR)) {
            put(r, fds[i].fd);
            bits++;
        }
        if (want & OUT_EVENTS && got & (OUT_EVENTS | POLLERR)) {
            put(w, fds[i].fd);
            bits++;
        }
        if (want & POLLPRI && got & POLLPRI) {
            put(e, fds[i].fd);
            bits++;
        }
    }
    return bits;
}

static int select_both(int n, fd_set *r, fd_set *w, fd_set *e, int count, int64_t timeout,
                       const sigset_t *mask)
{
    struct pollfd few[FEW], *fds = few;
    bool stack = false;
    struct client_room room = {NULL, (size_t)count * sizeof *fds, NULL};
    sleep_testcancel();
    if (count > FEW && !(fds = room.at = memory_get(room.size))) {
        errno = ENOMEM;
        return -1;
    }
    count = select_list(n, r, w, e, fds, &stack);
    int ret = poll_both(fds, (nfds_t)count, timeout, mask, &room);
    if (ret >= 0)
        ret = select_result(n, fds, count, r, w, e);
    client_room_give(&room);
    return ret;
}

EXPORT int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *tv)
{
    bool stack = false;
    bool wild = given_and_wild(r) || given_and_wild(w) || given_and_wild(e) || given_and_wild(tv);
    int count = n > 0 && n <= (int)FD_MAX && !wild ? select_list(n, r, w, e, NULL, &stack) : 0;
    if (!stack)
        return real.select(n, r, w, e, tv);
    int64_t timeout = -1;
    if (tv && (tv->tv_sec < 0 || tv->tv_usec < 0)) {
        errno = EINVAL;
        return -1;
    }
    if (tv && tv->tv_sec < INT64_MAX / NS_PER_SEC - tv->tv_usec / 1000000 - 1)
        timeout = tv->tv_sec * NS_PER_SEC + tv->tv_usec * NS_PER_US;
    int64_t start = tv ? clock_now() : 0;
    int ret = select_both(n, r, w, e, count, timeout, NULL);
    if (tv && timeout >= 0) { /* Linux tells how much is left */
        int64_t left = timeout - (clock_now() - start);
        left = left < 0 ? 0 : left;
        tv->tv_sec = left / NS_PER_SEC;
        tv->tv_usec = left % NS_PER_SEC / NS_PER_US;
    }
    return ret;
}

static int pselect_kernel(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *ts,
                          const sigset_t *mask)
{
    sleep_mask_begin(pointer_wild(mask) ? NULL : mask);
    int ret = real.pselect(n, r, w, e, ts, mask);
    sleep_mask_end();
    return ret;
}

EXPORT int pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *ts, const sigset_t *mask)
{
    bool stack = false;
    bool wild = given_and_wild(r) || given_and_wild(w) || given_and_wild(e) || given_and_wild(ts) ||
                given_and_wild(mask);
    int count = n > 0 && n <= (int)FD_MAX && !wild ? select_list(n, r, w, e, NULL, &stack) : 0;
    int64_t timeout;
    if (!stack || !timespec_ns(ts, &timeout))
        return pselect_kernel(n, r, w, e, ts, mask);
    return select_both(n, r, w, e, count, timeout, mask);
}
