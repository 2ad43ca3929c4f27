/* epoll.c - epoll sets that hold sockets of both worlds.
 *
 * A set is known to the shim from its creation. libberth's event set lies over the program's own epoll
 * descriptor once a session or listener is in it, or in a set that is in it; until then waits go straight to
 * the kernel. But for those of a process with several threads: nothing could wake such a wait when another
 * thread puts a session into the set. Nothing of berth's is ever in the program's kernel set.
 *
 * Where a registration lives depends on what the descriptor is at the moment:
 *   FRESH, BOUND   in the kernel (the placeholder answers EPOLLOUT | EPOLLHUP there, as an unconnected socket
 *                  does)
 *   SESSION        in the event set
 *   LISTENER       in both, with the same events and data
 *   EPOLL          in the kernel, and in the event set when the inner set has one
 * so each is remembered as a `struct reg`, linked to its sock and to its set, and moves when the socket
 * changes. It goes when the last descriptor of either is closed. The kernel side of a placeholder must be
 * taken out by hand: its file is never closed.
 *
 * What is in both worlds with EPOLLONESHOT would fire once in each: see shots.c.
 *
 * A set that came over fork shares its kernel part with the parent. Closing a socket in the child must not
 * disturb what came with it: the reg is then only forgotten. What one process puts into its event set, changes or takes
 * out, those that share the set do to theirs (follow).
 */
#include <string.h>
#include <sys/single_threaded.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/regs.h"
#include "shim/shim.h"

static uint32_t forks; /* a registration of before all of them has 1 */

/* The registrations of which it is the target. */
static struct reg **of_sock(struct sock *s)
{
    return s->kind == SOCK_EPOLL ? &s->outer : &s->regs;
}

static void reg_link(struct reg *r)
{
    struct reg **list = of_sock(r->sock);
    r->next_of_sock = *list;
    r->prev_of_sock = list;
    if (r->next_of_sock)
        r->next_of_sock->prev_of_sock = &r->next_of_sock;
    *list = r;
    r->next_of_set = r->ep->regs;
    r->prev_of_set = &r->ep->regs;
    if (r->next_of_set)
        r->next_of_set->prev_of_set = &r->next_of_set;
    r->ep->regs = r;
}

static void reg_free(struct reg *r)
{
    shot_unlink(r);
    *r->prev_of_sock = r->next_of_sock;
    if (r->next_of_sock)
        r->next_of_sock->prev_of_sock = r->prev_of_sock;
    *r->prev_of_set = r->next_of_set;
    if (r->next_of_set)
        r->next_of_set->prev_of_set = r->prev_of_set;
    memory_put(r, sizeof *r);
}

static int to_set(struct reg *r)
{
    const struct epoll_event *ev = &r->event;
    uint32_t key = (uint32_t)r->fd;
    return r->sock->kind == SOCK_EPOLL
               ? evset_add_set(r->ep->set, r->sock->set, key, ev->events, ev->data.u64)
               : evset_add(r->ep->set, r->sock->handle, key, ev->events, ev->data.u64);
}

static void out_of_set(struct reg *r)
{
    if (r->in_set && r->sock->kind == SOCK_EPOLL)
        (void)evset_remove_set(r->ep->set, r->sock->set, (uint32_t)r->fd); /* gone already is as good */
    else if (r->in_set)
        (void)evset_remove(r->ep->set, r->sock->handle, (uint32_t)r->fd); /* likewise */
    r->in_set = false;
}

static bool need_set(struct sock *ep);

static void set_in(struct reg *r)
{
    r->in_set = need_set(r->ep) && to_set(r) == 0;
    if (!r->in_set)
        log_warn("an epoll registration was lost for want of memory");
}

/* The sets that it is in must hear of its sessions. */
static bool need_set(struct sock *ep)
{
    if (ep->set)
        return true;
    struct evset *set = evset_create(ep->epfd);
    store_release(&ep->set, set);
    for (struct reg *r = set ? ep->outer : NULL; r; r = r->next_of_sock) {
        set_in(r);
        shot_load(r);
    }
    return set != NULL;
}

/* That of a relative is his as well: one he shares, by a socket that he may have, too. */
static void kernel_out(struct reg *r)
{
    /* the number may be another file's here, when a relative has put it in */
    if (r->in_kernel && r->made == forks + 1 && fd_word(r->fd) == sock_word(r->sock))
        sys_epoll_ctl(r->ep->epfd, EPOLL_CTL_DEL, r->fd, 0);
    r->in_kernel = false;
}

static void kernel_in(struct reg *r)
{
    struct epoll_event ev = r->event;
    r->made = forks + 1;
    r->in_kernel = sys_epoll_ctl(r->ep->epfd, EPOLL_CTL_ADD, r->fd, &ev) == 0;
}

/* ---- when the socket changes ---- */

void regs_to_session(struct sock *s)
{
    for (struct reg *r = s->regs; r; r = r->next_of_sock) {
        r->made = forks + 1; /* nobody else has the socket any more */
        kernel_out(r);
        set_in(r);
    }
}

void regs_to_listener(struct sock *s)
{
    for (struct reg *r = s->regs; r; r = r->next_of_sock) {
        set_in(r);
        shot_load(r);
    }
}

void regs_session_gone(struct sock *s)
{
    for (struct reg *r = s->regs; r; r = r->next_of_sock)
        out_of_set(r);
}

void regs_session_to_kernel(struct sock *s)
{
    for (struct reg *r = s->regs; r; r = r->next_of_sock) {
        out_of_set(r);
        kernel_in(r);
    }
}

void regs_out_of_kernel(struct sock *s, int fd)
{
    for (struct reg *r = s->regs; r; r = r->next_of_sock)
        if (r->fd == fd)
            kernel_out(r);
}

void regs_into_kernel(struct sock *s, int fd)
{
    for (struct reg *r = s->regs; r; r = r->next_of_sock)
        if (r->fd == fd)
            kernel_in(r);
}

void regs_drop_sock(struct sock *s, bool kernel)
{
    struct reg **list = of_sock(s);
    while (*list) {
        struct reg *r = *list; /* NOLINTBEGIN(clang-analyzer-unix.Malloc): reg_free unlinks */
        if (kernel)
            kernel_out(r);
        out_of_set(r);
        reg_free(r); /* NOLINTEND(clang-analyzer-unix.Malloc) */
    }
}

static void renumber(int fd, void *arg)
{
    struct sock *ep = arg;
    ep->epfd = fd;
}

void epoll_renumber(struct sock *ep)
{
    sock_each_fd(ep, renumber, ep);
    if (ep->set)
        evset_renumber(ep->set, ep->epfd);
}

void regs_drop_set(struct sock *ep)
{
    regs_drop_sock(ep, false); /* the kernel takes it out of the sets it is in when it is closed */
    while (ep->regs)
        reg_free(ep->regs); /* NOLINT(clang-analyzer-*): unlinks */
}

void regs_before_fork(void)
{
    for (uint32_t i = 1, n = socks_epoll() ? socks_known() : 0; i < n; i++) {
        if (sock_pool[i].kind == SOCK_EPOLL && !sock_pool[i].joint)
            sock_pool[i].joint = client_set_number();
    }
}

/* Every registration known now is the parent's as well. */
void regs_after_fork(void)
{
    forks++;
}

/* ---- epoll_ctl ---- */

static struct reg *reg_find(struct sock *ep, struct sock *s, int fd)
{
    for (struct reg *r = *of_sock(s); r; r = r->next_of_sock)
        if (r->ep == ep && r->fd == fd)
            return r;
    return NULL;
}

/* The sock of that epoll descriptor, made when it is not known yet. NULL with errno. */
static struct sock *set_of(int epfd, int fd)
{
    uint64_t word = fd_word(epfd);
    if (word) {
        if (sock_of(word)->kind == SOCK_EPOLL)
            return sock_of(word);
        errno = EINVAL;
        return NULL;
    }
    /* ENOENT says that it is an epoll set and fd is not in it; anything else is the error to report */
    long ret = sys_epoll_ctl(epfd, EPOLL_CTL_DEL, fd, 0);
    if (ret != -ENOENT) {
        errno = ret < 0 ? (int)-ret : EINVAL;
        return NULL;
    }
    struct sock *ep = epfd < (int)FD_MAX ? sock_alloc(SOCK_EPOLL, 0) : NULL;
    if (!ep) {
        errno = ENOMEM;
        return NULL;
    }
    ep->epfd = epfd;
    fd_bind(epfd, ep);
    return ep;
}

static int stack_error(int berth_error)
{
    switch (berth_error) {
    case BERTH_E_BUSY:
        return EEXIST;
    case BERTH_E_NO_MEMORY:
        return ENOMEM;
    case BERTH_E_BAD_HANDLE:
        return ENOENT;
    default:
        return berth_error < 0 ? error_number(berth_error) : 0;
    }
}

static bool wants_set(const struct sock *s)
{
    return s->kind == SOCK_SESSION || s->kind == SOCK_LISTENER || (s->kind == SOCK_EPOLL && s->set);
}

/* The rules that the kernel has for EPOLLEXCLUSIVE: asked before anything else, and not by it where it does not see the
 * registration. */
static bool exclusive_bad(const struct sock *s, int op, uint32_t events)
{
    const uint32_t may = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
    return events & EPOLLEXCLUSIVE && (op == EPOLL_CTL_MOD || s->kind == SOCK_EPOLL || events & ~may);
}

static int reg_add(struct sock *ep, struct sock *s, int fd, const struct epoll_event *event)
{
    if (reg_find(ep, s, fd))
        return EEXIST;
    struct reg *r = memory_get(sizeof *r);
    if (!r)
        return ENOMEM;
    *r = (struct reg){.sock = s, .ep = ep, .fd = fd, .made = forks + 1, .event = *event};
    int error = 0;
    if (s->kind != SOCK_SESSION) {
        long ret = sys_epoll_ctl(ep->epfd, EPOLL_CTL_ADD, fd, &r->event);
        if (ret == -ELOOP && sets_step_aside())
            ret = sys_epoll_ctl(ep->epfd, EPOLL_CTL_ADD, fd, &r->event);
        error = ret < 0 ? (int)-ret : 0;
        r->in_kernel = !error;
    }
    if (!error && wants_set(s)) {
        error = stack_error(need_set(ep) ? to_set(r) : BERTH_E_NO_MEMORY);
        r->in_set = !error;
        if (error)
            kernel_out(r);
    }
    if (error) {
        memory_put(r, sizeof *r);
        return error;
    }
    reg_link(r);
    shot_load(r);
    return 0;
}

static int modify_in_set(struct reg *r, const struct epoll_event *ev)
{
    uint32_t key = (uint32_t)r->fd;
    if (!r->in_set)
        return 0;
    return r->sock->kind == SOCK_EPOLL
               ? evset_modify_set(r->ep->set, r->sock->set, key, ev->events, ev->data.u64)
               : evset_modify(r->ep->set, r->sock->handle, key, ev->events, ev->data.u64);
}

static int reg_modify(struct reg *r, const struct epoll_event *event)
{
    struct epoll_event ev = *event;
    if (r->sock->kind == SOCK_SESSION && r->event.events & EPOLLEXCLUSIVE)
        return EINVAL;
    if (r->in_kernel) {
        long ret = sys_epoll_ctl(r->ep->epfd, EPOLL_CTL_MOD, r->fd, &ev);
        if (ret < 0)
            return (int)-ret;
    }
    int ret = modify_in_set(r, &ev);
    if (ret < 0)
        return stack_error(ret);
    r->event = ev;
    shot_load(r);
    return 0;
}

static void reg_remove(struct reg *r)
{
    if (r->in_kernel) {
        sys_epoll_ctl(r->ep->epfd, EPOLL_CTL_DEL, r->fd, 0);
        r->in_kernel = false;
    }
    out_of_set(r);
    reg_free(r);
}

/* ---- what relatives do to a set that is theirs as well ---- */

static struct sock *sock_where(enum sock_kind kind, uint64_t handle, uint32_t joint)
{
    for (uint32_t i = 1, n = socks_known(); i < n; i++) {
        struct sock *s = &sock_pool[i];
        if (s->kind == kind && s->handle == handle && (kind != SOCK_EPOLL || s->joint == joint))
            return s;
    }
    return NULL;
}

static void reg_follow(struct sock *ep, struct sock *s, int fd, const struct epoll_event *ev)
{
    struct reg *r = memory_get(sizeof *r);
    if (!r) {
        log_warn("an epoll registration that a relative has made was lost for want of memory");
        return;
    }
    *r = (struct reg){.sock = s, .ep = ep, .fd = fd, .event = *ev, .in_kernel = s->kind != SOCK_SESSION};
    reg_link(r);
    if (wants_set(s))
        set_in(r);
    shot_load(r);
}

/* The kernel's part is one for all, and done. The number is what it was put in by, whatever has that one here. */
static void follow(const struct set_change *c)
{
    struct sock *s =
        c->inner ? sock_where(SOCK_EPOLL, 0, c->inner)
                 : sock_where(handle_is_listener(c->handle) ? SOCK_LISTENER : SOCK_SESSION, c->handle, 0);
    struct sock *ep = sock_where(SOCK_EPOLL, 0, c->set);
    struct reg *r = s && ep ? reg_find(ep, s, (int)c->key) : NULL;
    struct epoll_event ev = {.events = c->events, .data.u64 = c->data};
    if (r && !c->in) {
        out_of_set(r);
        reg_free(r);
    } else if (r) {
        if (modify_in_set(r, &ev) == 0)
            r->event = ev;
        shot_load(r);
    } else if (s && ep && c->in) {
        reg_follow(ep, s, (int)c->key, &ev);
    }
}

static void catch_up(void)
{
    struct set_change done;
    while (client_set_change_next(&done))
        follow(&done);
}

void sets_catch_up(void)
{
    if (likely(!client_set_changes()))
        return;
    if (load_relaxed(&client_recall_news))
        sessions_went_back();
    shim_lock();
    catch_up();
    shim_unlock();
}

/* It is in the kernel's set and nobody has told us: the kernel's answer holds, and from now on we know of it. */
static int change_unknown(struct sock *ep, int op, int fd, struct sock *s, const struct epoll_event *event)
{
    struct epoll_event ev = event ? *event : (struct epoll_event){0};
    long ret = sys_epoll_ctl(ep->epfd, op, fd, &ev);
    if (ret == 0 && op == EPOLL_CTL_MOD)
        reg_follow(ep, s, fd, &ev);
    return ret < 0 ? (int)-ret : 0;
}

static int change(struct sock *ep, int op, int fd, struct sock *s, const struct epoll_event *event)
{
    if (op != EPOLL_CTL_DEL && exclusive_bad(s, op, event->events))
        return EINVAL;
    if (op == EPOLL_CTL_ADD)
        return reg_add(ep, s, fd, event);
    struct reg *r = reg_find(ep, s, fd);
    if (!r)
        return s->kind == SOCK_SESSION ? ENOENT : change_unknown(ep, op, fd, s, event);
    if (op == EPOLL_CTL_MOD)
        return reg_modify(r, event);
    reg_remove(r);
    return 0;
}

static int change_for_all(struct sock *ep, int op, int fd, struct sock *s, const struct epoll_event *event)
{
    struct set_change done = {.handle = s->handle,
                              .inner = s->kind == SOCK_EPOLL ? s->joint : 0,
                              .set = ep->joint,
                              .key = (uint32_t)fd,
                              .in = op != EPOLL_CTL_DEL};
    if (event) {
        done.events = event->events;
        done.data = event->data.u64;
    }
    catch_up();
    int error = change(ep, op, fd, s, event);
    if (!error && (s->handle || done.inner))
        client_set_changed(&done);
    return error;
}

static int sock_epoll_ctl(int epfd, int op, int fd, struct sock *s, struct epoll_event *event)
{
    if (op != EPOLL_CTL_DEL && !event)
        return EFAULT;
    if (op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD && op != EPOLL_CTL_DEL)
        return EINVAL;
    struct sock *ep = set_of(epfd, fd);
    if (!ep)
        return errno;
    return ep->joint ? change_for_all(ep, op, fd, s, event) : change(ep, op, fd, s, event);
}

EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    struct sock *s;
    if (likely(fd_kind(fd, &s) == SOCK_FREE) || (op != EPOLL_CTL_DEL && pointer_wild(event)))
        return real.epoll_ctl(epfd, op, fd, event);
    int saved = errno;
    shim_lock();
    int error = fd_word(fd) == sock_word(s) ? sock_epoll_ctl(epfd, op, fd, s, event) : EBADF;
    shim_unlock();
    errno = error ? error : saved;
    return error ? -1 : 0;
}

/* ---- making one ---- */

/* Known from the start: of two numbers for one set the shim must know both. */
static int made(int epfd)
{
    if (epfd < 0 || epfd >= (int)FD_MAX || shim_foreign())
        return epfd;
    shim_lock();
    struct sock *ep = sock_alloc(SOCK_EPOLL, 0);
    if (ep) {
        ep->epfd = epfd;
        fd_bind(epfd, ep);
    }
    shim_unlock();
    return epfd;
}

EXPORT int epoll_create(int size)
{
    return made(real.epoll_create(size));
}

EXPORT int epoll_create1(int flags)
{
    return made(real.epoll_create1(flags));
}

/* ---- waiting ---- */

struct evset *epoll_stack_set(int epfd, bool sleeps)
{
    struct sock *ep;
    if (fd_kind(epfd, &ep) != SOCK_EPOLL)
        return NULL;
    if (unlikely(load_relaxed(&away_count)))
        away_watched();
    bool joint = client_sets_joint();
    if (unlikely(joint))
        sets_catch_up();
    struct evset *set = load_acquire(&ep->set);
    if (likely(set) || !sleeps || (__libc_single_threaded && !joint) || shim_foreign() || !shim_usable())
        return set;
    shim_lock();
    if (fd_word(epfd) == sock_word(ep) && need_set(ep))
        set = ep->set;
    shim_unlock();
    return set;
}

/* There is no place for what is told: it is waited for, not taken, and refused, as the kernel does it. */
static int wait_nowhere(struct evset *set, int64_t timeout, const sigset_t *mask)
{
    struct client_poll_item item = {.set = set, .events = EPOLLIN};
    int n = poll_stack(&item, 1, NULL, 0, timeout, mask, NULL);
    if (n > 0)
        errno = EFAULT;
    return n > 0 ? -1 : n < 0 ? fail(n) : 0;
}

static int set_wait(struct evset *set, struct epoll_event *out, int max, int64_t timeout,
                    const sigset_t *mask)
{
    sleep_testcancel();
    if (max <= 0 || max > INT32_MAX / (int)sizeof *out) {
        errno = EINVAL;
        return -1;
    }
    if (unlikely(pointer_wild(out))) {
        if (!pointer_refused(out))
            return wait_nowhere(set, timeout, mask);
        errno = EFAULT;
        return -1;
    }
    struct sleep_mark mark = sleep_mark_now();
    int64_t deadline = timeout == 0 ? 0 : clock_deadline(timeout);
    for (;;) {
        uint64_t since = shots_now();
        int n = evset_wait(set, out, max, deadline, mask, &mark);
        /* also when it has something to tell: another thread may sleep on, and this one never come again */
        sets_catch_up();
        if (unlikely(n == BERTH_E_BUSY))
            continue;
        if (likely(n <= 0))
            return n < 0 ? fail(n) : n;
        if ((n = shots_take(set, since, out, n)) != 0)
            return n;
    }
}

static int64_t ms_to_ns(int timeout)
{
    return timeout < 0 ? -1 : timeout * NS_PER_MS;
}

EXPORT int epoll_wait(int epfd, struct epoll_event *out, int max, int timeout)
{
    struct evset *set = epoll_stack_set(epfd, timeout != 0);
    return set ? set_wait(set, out, max, ms_to_ns(timeout), NULL) : real.epoll_wait(epfd, out, max, timeout);
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *out, int max, int timeout, const sigset_t *mask)
{
    struct evset *set = epoll_stack_set(epfd, timeout != 0);
    if (set)
        return set_wait(set, out, max, ms_to_ns(timeout), mask);
    sleep_mask_begin(pointer_wild(mask) ? NULL : mask);
    int ret = real.epoll_pwait(epfd, out, max, timeout, mask);
    sleep_mask_end();
    return ret;
}

EXPORT int epoll_pwait2(int epfd, struct epoll_event *out, int max, const struct timespec *ts,
                        const sigset_t *mask)
{
    struct evset *set = epoll_stack_set(epfd, true);
    if (set && ts && (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= NS_PER_SEC)) {
        errno = EINVAL;
        return -1;
    }
    int64_t ns = !ts || ts->tv_sec > INT64_MAX / NS_PER_SEC - 1 ? -1 : ts->tv_sec * NS_PER_SEC + ts->tv_nsec;
    if (set)
        return set_wait(set, out, max, ns, mask);
    sleep_mask_begin(pointer_wild(mask) ? NULL : mask);
    int ret = real.epoll_pwait2(epfd, out, max, ts, mask);
    sleep_mask_end();
    return ret;
}
