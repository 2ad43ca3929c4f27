/* listener.c - listening and accepting.
 *
 * The accept queue is a pipe of 64-byte tokens, made here and inherited by fork: so the kernel decides who gets a token, wakes one
 * sleeper, and keeps tokens when a worker dies. That its end for writing goes to others is why fds.c opens pipes anew.
 *
 * A token whose outbox is not known yet is set aside (`pending`) while the daemon is asked for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"
#include "shm/ctlsock.h"

#define PENDING_MAX 1024u

static inline listener_handle handle_of(const struct listener *l)
{
    return 1ull << 63 | (uint64_t)(l->generation & 0x7fffffffu) << 32 | (uint32_t)(l - C->listeners);
}

int listeners_create(void)
{
    C->listeners = memory_get(LISTENERS_MAX * sizeof(struct listener));
    return C->listeners ? 0 : BERTH_E_NO_MEMORY;
}

struct listener *listener_get(listener_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !handle_is_listener(h) || index >= LISTENERS_MAX)
        return NULL;
    struct listener *l = &C->listeners[index];
    return l->generation & 1 && l->generation == (uint32_t)(h >> 32 & 0x7fffffffu) ? l : NULL;
}

static struct listener *take_free(void)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *l = &C->listeners[i];
        if (!(l->generation & 1)) {
            uint32_t generation = (l->generation + 1) & 0x7fffffffu;
            memset(l, 0, sizeof *l);
            l->wait_ep = l->wait_ep_kernel = l->pipe_rd = l->pipe_wr = -1;
            l->generation = generation;
            return l;
        }
    }
    return NULL;
}

static int make_pipe(struct listener *l)
{
    int fds[2] = {-1, -1};
    if (sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
        return BERTH_E_NO_MEMORY;
    l->pipe_rd = own_fd(fds[0]);
    let_others_open(fds[1]);
    l->pipe_wr = own_pipe(fds[1]); /* for reading too, if it can be */
    return 0;
}

int client_listen(const endpoint *ep, uint32_t flags, uint32_t backlog, listener_handle *out)
{
    if (!C->attached)
        return BERTH_E_NOT_ATTACHED;
    int err = fork_child_ready();
    if (err)
        return err;
    plock_take(&C->lock);
    struct listener *l = take_free();
    plock_release(&C->lock);
    if (!l)
        return BERTH_E_LIMIT;
    err = make_pipe(l);
    if (!err) {
        struct ctl_listen msg = {.h = {.type = CTL_LISTEN, .len = sizeof msg},
                                 .port = ep->port,
                                 .proto = PROTO_TCP,
                                 .flags = (uint8_t)(flags & 7),
                                 .backlog = backlog,
                                 .cookie = handle_of(l)};
        memcpy(msg.addr, ep->addr, 16);
        struct ctl_listened is = {0};
        err = control_request(&msg, &l->pipe_wr, 1, &is, sizeof is, NULL, NULL);
        if (!err && (!is.listener || !is.port))
            err = BERTH_E_PROTOCOL;
        l->id = is.listener;
        l->at = *ep;
        if (!err)
            l->at.port = is.port;
        l->backlog = backlog;
    }
    if (err) {
        own_fd_close(l->pipe_rd);
        own_fd_close(l->pipe_wr);
        l->pipe_rd = l->pipe_wr = -1;
        store_release(&l->generation, l->generation + 1);
        return err;
    }
    *out = handle_of(l);
    return 0;
}

int client_listener_backlog(listener_handle h, uint32_t backlog)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    l->backlog = backlog;
    struct ctl_listener msg = {
        .h = {.type = CTL_BACKLOG, .len = sizeof msg}, .listener = l->id, .backlog = backlog};
    return control_send(&msg, NULL, 0);
}

int client_listener_endpoint(listener_handle h, endpoint *out)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    *out = l->at;
    return 0;
}

/* ---- accept ---------------------------------------------------------------------------------------------------- */

static uint32_t ask_outbox(outbox_handle handle)
{
    uint32_t ask = control_async_seq();
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg, .seq = ask}, .outbox = handle};
    (void)control_send(&msg, NULL, 0);
    return ask;
}

/* Where other processes accept from the same queue, nobody may sit on a token, or take a second one while he does: they
 * would serve it at once. So it is waited for, which is a round trip to the daemon, once for each connector. */
static struct peer_box *fetch_outbox(outbox_handle handle, int *err)
{
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg}, .outbox = handle};
    struct ctl_outbox_is is;
    int fds[3] = {-1, -1, -1}, nfds = 3;
    if ((*err = control_request(&msg, NULL, 0, &is, sizeof is, fds, &nfds)) != 0)
        return NULL;
    if (nfds != 3 || is.outbox != handle) {
        for (int i = 0; i < nfds; i++)
            (void)sys_close(fds[i]);
        return NULL;
    }
    plock_take(&C->lock);
    struct peer_box *box = peer_box_add(&is, fds);
    plock_release(&C->lock);
    return box;
}

static void set_aside(struct listener *l, const struct token *t, bool ask)
{
    uint32_t number = 0;
    plock_take(&C->lock);
    struct pending_token **p = &l->pending;
    for (; *p; p = &(*p)->next) {
        if ((*p)->token.outbox == t->outbox)
            number = (*p)->ask;
    }
    struct pending_token *new = memory_get(sizeof *new);
    if (new) {
        l->pending_count++;
        new->token = *t;
        new->ask = number || !ask ? number : ask_outbox(t->outbox);
        store_release(p, new);
    }
    plock_release(&C->lock);
    if (!new)
        log_warn("listener %u: an offer is dropped: out of memory", l->id);
}

/* Of an outbox that is not to be had nobody waits for the session any more. */
void listener_answered(int status, uint32_t ask)
{
    plock_take(&C->lock);
    for (uint32_t i = 0; i < LISTENERS_MAX && status; i++) {
        struct listener *l = &C->listeners[i];
        for (struct pending_token **p = &l->pending; l->generation & 1 && *p;) {
            struct pending_token *this = *p;
            if (this->ask != ask) {
                p = &this->next;
                continue;
            }
            store_relaxed(p, this->next);
            l->pending_count--;
            memory_put(this, sizeof *this);
        }
    }
    plock_release(&C->lock);
    listener_retry_pending();
}

/* Does a token that was set aside name that outbox? C->lock is held. */
bool listeners_want(outbox_handle handle)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        const struct listener *l = &C->listeners[i];
        for (const struct pending_token *p = l->generation & 1 ? l->pending : NULL; p; p = p->next) {
            if (p->token.outbox == handle)
                return true;
        }
    }
    return false;
}

/* The oldest token set aside whose outbox has come. */
static bool take_pending(struct listener *l, struct token *t)
{
    if (!load_acquire(&l->pending))
        return false;
    bool found = false;
    plock_take(&C->lock);
    for (struct pending_token **p = &l->pending; *p; p = &(*p)->next) {
        struct pending_token *this = *p;
        if (peer_box_find(this->token.outbox)) {
            *t = this->token;
            store_relaxed(p, this->next);
            l->pending_count--;
            memory_put(this, sizeof *this);
            found = true;
            break;
        }
    }
    plock_release(&C->lock);
    return found;
}

/* For want of something that the program may have soon: the offer stands, as a connection does that accept cannot take. */
static int put_back(struct listener *l, const struct token *t, int err)
{
    set_aside(l, t, false);
    listener_ready(l);
    return err;
}

static int accept_held(listener_handle h, bool (*may)(void *arg), void *arg, session_handle *out)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    int err = fork_child_ready();
    if (err)
        return err;
    zombies_reap(4);
    for (;;) {
        struct token t = {0};
        if (!take_pending(l, &t)) {
            long n = -EAGAIN;
            if (load_relaxed(&l->pending_count) < PENDING_MAX) /* else they are as well off in the pipe */
                n = sys_read(l->pipe_rd, &t, (long)sizeof t);
            if (n != (long)sizeof t) {
                if (n > 0)
                    log_warn("listener %u: %ld stray bytes in its queue", l->id, n);
                if (load_relaxed(&l->pending))
                    control_poll();
                if (take_pending(l, &t))
                    goto have;
                if (n == -EINTR)
                    return BERTH_E_INTERRUPTED;
                return load_relaxed(&l->pending) && control_in_vain() ? BERTH_E_NO_MEMORY : BERTH_E_WOULD_BLOCK;
            }
            if (t.magic != TOKEN_MAGIC || t.listener != l->id)
                continue;
        }
    have:;
        struct peer_box *box = peer_box_find(t.outbox);
        err = 0;
        if (!box && berth_family_shared && !(box = fetch_outbox(t.outbox, &err)) && err != BERTH_E_NO_MEMORY)
            continue; /* its owner is gone, and nobody waits for it any more */
        if (!box) {
            set_aside(l, &t, true);
            continue;
        }
        if (may && !may(arg))
            return put_back(l, &t, BERTH_E_LIMIT);
        err = session_accept(box, &t, l->id, out);
        if (err == BERTH_E_IN_PROGRESS) /* its outbox was given up at this very moment: ask for it once more */
            set_aside(l, &t, true);
        else if (err == 0)
            return 0;
        else if (err == BERTH_E_DAEMON_GONE) /* nobody else could tell the connector who has accepted */
            log_warn("listener %u: an offer is dropped, the daemon is gone", l->id);
        else if (err != BERTH_E_REFUSED)
            return put_back(l, &t, err);
    }
}

int client_accept_if(listener_handle h, bool (*may)(void *arg), void *arg, session_handle *out)
{
    hold_begin();
    int err = accept_held(h, may, arg, out);
    hold_end();
    return err;
}

int client_accept(listener_handle h, session_handle *out)
{
    return client_accept_if(h, NULL, NULL, out);
}

bool client_listener_ready(listener_handle h)
{
    struct listener *l = listener_get(h);
    if (!l)
        return true; /* a call will tell */
    plock_take(&C->lock);
    bool ready = false;
    for (struct pending_token *p = l->pending; p && !ready; p = p->next)
        ready = peer_box_find(p->token.outbox) != NULL || control_in_vain(); /* accept will say so */
    plock_release(&C->lock);
    if (ready)
        return true;
    struct pollfd pfd = {.fd = l->pipe_rd, .events = POLLIN};
    struct timespec zero = {0};
    return sys_ppoll(&pfd, 1, &zero, NULL) > 0;
}

void listener_retry_pending(void)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *l = &C->listeners[i];
        if (l->generation & 1 && load_relaxed(&l->pending))
            listener_ready(l);
    }
}

/* One of several sleepers is to be woken, so they sleep on an epoll descriptor with EPOLLEXCLUSIVE. */
static int wait_ep(struct listener *l, int kernel_fd)
{
    plock_take(&C->lock);
    if (l->wait_ep < 0 || l->wait_ep_kernel != kernel_fd) {
        own_fd_close(l->wait_ep);
        l->wait_ep = own_epoll();
        l->wait_ep_kernel = kernel_fd;
        struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE};
        (void)sys_epoll_ctl(l->wait_ep, EPOLL_CTL_ADD, l->pipe_rd, &ev);
        if (kernel_fd >= 0)
            (void)sys_epoll_ctl(l->wait_ep, EPOLL_CTL_ADD, kernel_fd, &ev);
        ev.events = EPOLLIN | EPOLLET;
        (void)sys_epoll_ctl(l->wait_ep, EPOLL_CTL_ADD, C->kick_fd, &ev);
        kicks_watch(l->wait_ep, 0);
        ev.events = EPOLLIN;
        (void)sys_epoll_ctl(l->wait_ep, EPOLL_CTL_ADD, C->ctl, &ev);
    }
    int ep = l->wait_ep;
    plock_release(&C->lock);
    return ep;
}

static int wait_held(listener_handle h, int kernel_fd, int64_t deadline)
{
    for (;;) {
        struct listener *l = listener_get(h);
        if (!l)
            return BERTH_E_BAD_HANDLE;
        int ep = wait_ep(l, kernel_fd);
        if (ep < 0)
            return BERTH_E_NO_MEMORY;
        if (client_listener_ready(h))
            return 0;
        sessions_settle();
        events_poll(true);
        int64_t left = wait_cap(deadline);
        if (left < 0 || left > 10 * NS_PER_SEC)
            left = 10 * NS_PER_SEC;
        struct timespec ts;
        struct epoll_event ev;
        waiter_any_asleep();
        uint32_t depth;
        long n = hold_open(&depth) ? -EINTR : sys_epoll_pwait2(ep, &ev, 1, timespec_of(left, &ts), NULL);
        hold_close(depth);
        if (n == -EINTR)
            return BERTH_E_INTERRUPTED;
        control_poll();
        if (n > 0 && kernel_fd >= 0) {
            struct pollfd pfd = {.fd = kernel_fd, .events = POLLIN};
            struct timespec zero = {0};
            if (sys_ppoll(&pfd, 1, &zero, NULL) > 0)
                return 0;
        }
        if (client_listener_ready(h))
            return 0;
        if (deadline != DEADLINE_NEVER && clock_now() >= deadline)
            return BERTH_E_TIMED_OUT;
    }
}

int client_listener_wait(listener_handle h, int kernel_fd, int64_t deadline)
{
    hold_begin();
    int err = wait_held(h, kernel_fd, deadline);
    hold_end();
    return err;
}

static void listener_free(struct listener *l)
{
    watches_drop(handle_of(l), &l->watches);
    plock_take(&C->lock);
    store_release(&l->generation, (l->generation + 1) & 0x7fffffffu);
    while (l->pending) {
        struct pending_token *p = l->pending;
        store_relaxed(&l->pending, p->next);
        memory_put(p, sizeof *p);
    }
    own_fd_close(l->pipe_rd);
    own_fd_close(l->pipe_wr);
    own_fd_close(l->wait_ep);
    l->pipe_rd = l->pipe_wr = l->wait_ep = -1;
    plock_release(&C->lock);
}

int client_unlisten(listener_handle h)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    struct ctl_listener msg = {.h = {.type = CTL_UNLISTEN, .len = sizeof msg}, .listener = l->id};
    (void)control_send(&msg, NULL, 0);
    listener_free(l);
    if (!C->forked) { /* a connect that follows finds nobody: the daemon answers in order, so it has read the above */
        struct ctl_header ask = {.type = CTL_STATUS, .len = sizeof ask};
        struct ctl_status_is is;
        (void)control_request(&ask, NULL, 0, &is, sizeof is, NULL, NULL);
    }
    return 0;
}

void listeners_close(void)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        if (C->listeners[i].generation & 1)
            (void)client_unlisten(handle_of(&C->listeners[i]));
    }
}
