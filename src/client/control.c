/* control.c - the worker's connection to the daemon.
 *
 * Who asks something enters his question in a list, sends it, and waits for the answer under ctl_lock, with
 * no other lock: others who wait find theirs in the list when they have it. What the daemon sends of its own
 * accord in between is put on a list (`pushes`) and worked off elsewhere (news.c), outside all locks; whoever
 * leaves something on the list kicks the process's own waiters. A daemon that went away costs what needs it
 * (new peers, new segments) and nothing else.
 *
 * Nobody blocks in sending. What the socket does not take, for it is full or this user has too many
 * descriptors under way, is kept in order and sent when anybody sends more, waits for an answer, or sleeps
 * (wait_cap).
 *
 * A daemon that does not answer in time is *slow*: nobody waits for it any more until it has said something.
 * What it answers later belongs to nobody: it is a push, and what it brought is given back (news.c); but for what
 * somebody goes on waiting for (control_await).
 *
 * Descriptors that find the process's table full are lost on the way (recvmsg drops them). So those in
 * reserve (fds.c) are given up before a request that brings any; a push that came without its own says so
 * (lost.c). Nobody connects to a new peer without a reserve (introduce), so that a full table is told by an
 * error of connect rather than by silence after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/watch.h"
#include "session/directory.h"
#include "shm/ctlsock.h"

#define ANSWER_PATIENCE_NS (150 * NS_PER_MS) /* an answer takes a twentieth of a millisecond */

static struct push *pushes_first, **pushes_last = &pushes_first;
static struct control_ask *asks; /* those who wait for an answer */
static int farewell;             /* why the daemon ends the connection, if it has said so. Under ctl_lock */
struct plock pushes_lock;

uint32_t control_async_seq(void)
{
    static uint32_t n;
    return 0x80000000u | fetch_add_sc(&n, 1u) % 0x7ffffffeu;
}

/* ---- what could not be sent yet ------------------------------------------------------------------------ */

#define UNSENT_MAX 4096u
#define UNSENT_NS (5 * NS_PER_MS) /* until it is tried again by who waits for the answer */
#define UNSENT_BYTES 512u         /* no message of a worker is longer */

struct unsent {
    struct unsent *next;
    uint16_t len;
    int nfds;
    int fds[CTL_FDS_MAX];
    uint8_t data[UNSENT_BYTES] __attribute__((aligned(8)));
};

static struct unsent *unsent_first, **unsent_last = &unsent_first; /* under send_lock */
static uint32_t unsent_count;

static void unsent_free(struct unsent *u)
{
    for (int i = 0; i < u->nfds; i++)
        own_fd_close(u->fds[i]);
    memory_put(u, sizeof *u);
}

static struct unsent *unsent_take(void)
{
    struct unsent *u = unsent_first;
    if (u) {
        store_relaxed(&unsent_first, u->next);
        if (!unsent_first)
            unsent_last = &unsent_first;
        unsent_count--;
    }
    return u;
}

static void unsent_forget(void)
{
    struct unsent *u;
    while ((u = unsent_take()))
        unsent_free(u);
}

static int unsent_put(const struct ctl_header *msg, const int *fds, int nfds)
{
    if (unsent_count >= UNSENT_MAX || msg->len > UNSENT_BYTES)
        return BERTH_E_NO_MEMORY;
    struct unsent *u = memory_get(sizeof *u);
    if (!u)
        return BERTH_E_NO_MEMORY;
    *u = (struct unsent){.len = msg->len};
    memcpy(u->data, msg, msg->len);
    for (int i = 0; i < nfds; i++) {
        long fd = sys_fcntl(fds[i], F_DUPFD_CLOEXEC, 0L);
        if (fd == -EMFILE) {
            client_fds_release();
            fd = sys_fcntl(fds[i], F_DUPFD_CLOEXEC, 0L);
        }
        if (fd < 0) {
            unsent_free(u);
            return BERTH_E_NO_MEMORY;
        }
        u->fds[u->nfds++] = own_fd((int)fd);
    }
    store_relaxed(unsent_last, u);
    unsent_last = &u->next;
    unsent_count++;
    return 0;
}

static bool later(int err)
{
    return err == BERTH_E_WOULD_BLOCK || err == BERTH_E_NO_MEMORY;
}

/* send_lock is held. */
static void flush(void)
{
    while (unsent_first && !C->daemon_lost &&
           !later(ctl_send(C->ctl, unsent_first->data, unsent_first->len, unsent_first->fds,
                           unsent_first->nfds, MSG_DONTWAIT)))
        unsent_free(unsent_take());
}

bool control_unsent(void)
{
    return load_relaxed(&unsent_first) != NULL;
}

void control_flush(void)
{
    if (!control_unsent())
        return;
    plock_take(&C->send_lock);
    flush();
    if (C->daemon_lost)
        unsent_forget();
    plock_release(&C->send_lock);
}

/* ---- what the daemon says of its own accord ------------------------------------------------------------ */

static void push_add(struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    if (h->type == CTL_EVICTED)
        farewell = h->status;
    p->next = NULL;
    plock_take(&pushes_lock);
    struct control_ask *a = h->seq ? asks : NULL;
    while (a && (a->seq != h->seq || a->reply))
        a = a->next;
    if (a) {
        store_release(&a->reply, p);
    } else {
        store_release(pushes_last, p);
        pushes_last = &p->next;
    }
    plock_release(&pushes_lock);
}

bool control_pushed(void)
{
    return load_relaxed(&pushes_first) != NULL;
}

struct push *control_push_take(void)
{
    plock_take(&pushes_lock);
    struct push *p = pushes_first;
    if (p) {
        store_relaxed(&pushes_first, p->next);
        if (!pushes_first)
            pushes_last = &pushes_first;
    }
    plock_release(&pushes_lock);
    return p;
}

/* Of a daemon that this process has done with. */
FORK_CODE void control_pushes_forget(void)
{
    unsent_forget();
    farewell = 0;
    struct push *p;
    while ((p = control_push_take())) {
        for (int i = 0; i < p->nfds; i++)
            (void)sys_close(p->fds[i]);
        memory_put(p, sizeof *p);
    }
}

/* The number stays ours, so nothing else has to know of it. */
FORK_CODE void control_take_over(int fd)
{
    if (fd >= 0 && C->ctl >= 0 && sys_call(SYS_dup3, (long)fd, (long)C->ctl, (long)O_CLOEXEC, 0) >= 0) {
        (void)sys_close(fd);
        return;
    }
    own_fd_close(C->ctl);
    C->ctl = own_fd(fd);
}

bool control_asking(void)
{
    return load_acquire(&asks) != NULL;
}

FORK_CODE void control_forget(void)
{
    asks = NULL;
    control_pushes_forget();
}

bool control_news(void)
{
    return C->dir && !load_acquire(&C->daemon_lost) && /* of which nothing is taken any more */
           directory_news_now(C->dir, load_relaxed(&C->worker)) != load_relaxed(&C->news_seen);
}

/* One packet into a push. Positive: it is there. ctl_lock is held. */
static int receive(struct push *p, int flags)
{
    *(struct ctl_header *)(void *)p->data = (struct ctl_header){0};
    p->lost = false;
    p->nfds = CTL_FDS_MAX;
    uint32_t news = C->dir ? directory_news_now(C->dir, load_relaxed(&C->worker)) : 0;
    p->len = ctl_recv(C->ctl, p->data, sizeof p->data, p->fds, &p->nfds, flags);
    const struct ctl_header *h = (const void *)p->data;
    if (p->len == BERTH_E_NO_MEMORY && h->len >= sizeof *h && h->len <= sizeof p->data) {
        p->lost = true; /* the message is there, its descriptors are not */
        p->len = h->len;
    }
    if (p->len > 0 && p->len < (int)sizeof(struct ctl_header)) {
        for (int i = 0; i < p->nfds; i++)
            (void)sys_close(p->fds[i]);
        return BERTH_E_PROTOCOL;
    }
    if (p->len == BERTH_E_WOULD_BLOCK)
        store_relaxed(&C->news_seen, news); /* what had been sent when the word was read has been taken */
    return p->len;
}

static void say_lost(void)
{
    if (!farewell)
        log_warn_once("the berth daemon went away: open sessions go on, new peers go to the kernel");
    else
        log_warn_once("the berth daemon has put this process out: %s; open sessions go on, new connections "
                      "go to the kernel",
                      farewell == BERTH_E_UNKNOWN_NAMESPACE ? "its namespace was removed"
                                                            : berth_strerror(farewell));
}

static void daemon_lost(void)
{
    if (C->ctl < 0 || C->daemon_lost)
        return;
    store_release(&C->daemon_lost, true);
    store_release(&C->alone, true);
    say_lost();
    /* the descriptor stays, so that its number stays ours; out of every epoll set it must go, or it would be
     * readable for ever */
    int null = (int)sys_call(SYS_eventfd2, 0L, (long)O_CLOEXEC, 0, 0);
    if (null >= 0) {
        (void)sys_call(SYS_dup3, (long)null, (long)C->ctl, (long)O_CLOEXEC, 0);
        (void)sys_close(null);
    }
}

/* ctl_lock is held. */
static void came(struct push *p)
{
    push_add(p);
    if (farewell) /* its last word; that it closes comes later */
        daemon_lost();
}

void control_receive(void)
{
    static struct push *kept; /* that nothing came into: mostly nothing does. Under ctl_lock */
    int n = 1;
    while (n > 0 && !C->daemon_lost && plock_try(&C->ctl_lock)) {
        struct push *p = kept ? kept : memory_get_raw(sizeof *p);
        n = p ? receive(p, MSG_DONTWAIT) : BERTH_E_NO_MEMORY;
        kept = n > 0 ? NULL : p;
        if (n > 0)
            came(p);
        else if (n == 0 || n == BERTH_E_DAEMON_GONE)
            daemon_lost();
        plock_release(&C->ctl_lock);
    }
}

/* ---- requests ------------------------------------------------------------------------------------------ */

int control_send(void *msg, const int *fds, int nfds)
{
    if (C->ctl < 0 || C->daemon_lost)
        return BERTH_E_DAEMON_GONE;
    plock_take(&C->send_lock);
    flush();
    bool first = !unsent_first;
    int err = BERTH_E_WOULD_BLOCK;
    if (first)
        err = ctl_send(C->ctl, msg, ((struct ctl_header *)msg)->len, fds, nfds, MSG_DONTWAIT);
    if (later(err))
        err = unsent_put(msg, fds, nfds);
    first &= unsent_first != NULL;
    plock_release(&C->send_lock);
    if (first) /* we may not call again: who sleeps now must know, to try again (wait_cap) */
        own_kick();
    return err;
}

static uint16_t reply_type(uint16_t request)
{
    switch (request) {
    case CTL_HELLO:
    case CTL_CHILD_HELLO:
        return CTL_WELCOME;
    case CTL_LISTEN:
        return CTL_LISTENED;
    case CTL_INTRODUCE:
        return CTL_INTRODUCED;
    case CTL_TAKE:
        return CTL_TAKEN;
    case CTL_GET_OUTBOX:
        return CTL_OUTBOX_IS;
    case CTL_GET_SEGMENT:
        return CTL_SEGMENT_IS;
    case CTL_PORTS:
        return CTL_PORTS_ARE;
    case CTL_STATUS:
        return CTL_STATUS_IS;
    case CTL_MEMORY:
        return CTL_MEMORY_IS;
    default:
        return CTL_DONE;
    }
}

/* What the reply says: 0, or an error code and nothing else. A reply that says neither counts as PROTOCOL. */
static int reply_status(const struct ctl_header *h, int len, uint16_t type, size_t size)
{
    if (h->len != len || h->type != type)
        return BERTH_E_PROTOCOL;
    if (h->status == 0)
        return (size_t)len == size ? 0 : BERTH_E_PROTOCOL;
    return h->status < 0 && h->status >= BERTH_E_LAST ? h->status : BERTH_E_PROTOCOL;
}

/* ---- a slow daemon ---- */

static uint32_t slow_news; /* its word when it was late */
static uint8_t slow;       /* 1: with something that should take no time; 2: with an answer */

static bool slower_than(uint8_t level)
{
    return load_relaxed(&slow) > level && C->dir &&
           directory_news_now(C->dir, load_relaxed(&C->worker)) == load_relaxed(&slow_news);
}

bool daemon_is_slow(void)
{
    return slower_than(0);
}

static void was_late(uint8_t how)
{
    if (!C->dir)
        return;
    if (slower_than(how - 1))
        return;
    store_relaxed(&slow_news, directory_news_now(C->dir, load_relaxed(&C->worker)));
    store_release(&slow, how);
}

void daemon_has_answered(void)
{
    store_release(&slow, 0);
}

void daemon_was_slow(void)
{
    was_late(1);
}

/* ---- asking ---- */

static void ask_enter(struct control_ask *a)
{
    plock_take(&pushes_lock);
    if (++C->seq >= 0x80000000u) /* the others are control_async_seq's */
        C->seq = 1;
    a->seq = C->seq;
    a->next = asks;
    asks = a;
    plock_release(&pushes_lock);
}

static void ask_leave(struct control_ask *a)
{
    plock_take(&pushes_lock);
    for (struct control_ask **p = &asks; *p; p = &(*p)->next) {
        if (*p == a) {
            *p = a->next;
            break;
        }
    }
    plock_release(&pushes_lock);
}

void control_unask(struct control_ask *a)
{
    ask_leave(a);
    for (int i = 0; a->reply && i < a->reply->nfds; i++)
        (void)sys_close(a->reply->fds[i]);
    if (a->reply)
        memory_put(a->reply, sizeof *a->reply);
}

int control_ask(struct control_ask *a, void *msg, const int *fds, int nfds)
{
    struct ctl_header *h = msg;
    bool first = h->type == CTL_HELLO || h->type == CTL_CHILD_HELLO;
    *a = (struct control_ask){.type = reply_type(h->type),
                              .deadline = clock_deadline(first ? C->hello_patience : ANSWER_PATIENCE_NS)};
    if (!first && slower_than(1))
        return BERTH_E_TIMED_OUT;
    ask_enter(a);
    h->seq = a->seq;
    int err = control_send(msg, fds, nfds);
    if (err)
        ask_leave(a);
    return err;
}

/* ctl_lock is held. */
static int wait_reply(const struct control_ask *a)
{
    while (!load_acquire(&a->reply)) {
        control_flush();
        struct push *p = memory_get_raw(sizeof *p);
        if (!p)
            return BERTH_E_NO_MEMORY;
        int n = receive(p, MSG_DONTWAIT);
        if (n > 0) {
            came(p);
            if (C->daemon_lost && !load_acquire(&a->reply))
                return BERTH_E_DAEMON_GONE;
            continue;
        }
        memory_put(p, sizeof *p);
        if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_INTERRUPTED) {
            int64_t left = a->deadline - clock_now();
            if (left <= 0)
                return BERTH_E_TIMED_OUT;
            struct pollfd pfd = {.fd = C->ctl, .events = POLLIN};
            if (control_unsent() && left > UNSENT_NS)
                left = UNSENT_NS;
            struct timespec ts = clock_timespec(left);
            (void)sys_ppoll(&pfd, 1, &ts, NULL);
            continue;
        }
        if (n == 0 || n == BERTH_E_DAEMON_GONE) {
            daemon_lost();
            return BERTH_E_DAEMON_GONE;
        }
        return n;
    }
    return 0;
}

/* What came, to who asked. */
static int reply_give(const struct control_ask *a, struct push *p, void *reply, size_t reply_size, int *rfds,
                      int *nrfds)
{
    const struct ctl_header *h = (const void *)p->data;
    int status = reply_status(h, p->len, a->type, reply_size);
    if (!status && p->lost)
        status = BERTH_E_NO_MEMORY;
    int want = rfds && !status ? *nrfds : 0; /* with an error nobody looks for descriptors */
    memset(reply, 0, reply_size);
    memcpy(reply, p->data, (size_t)p->len < reply_size ? (size_t)p->len : reply_size);
    for (int i = 0; i < p->nfds; i++) {
        if (i < want)
            rfds[i] = p->fds[i];
        else
            (void)sys_close(p->fds[i]);
    }
    if (nrfds)
        *nrfds = p->nfds < want ? p->nfds : want;
    memory_put(p, sizeof *p);
    return status;
}

int control_await(struct control_ask *a)
{
    plock_take(&C->ctl_lock);
    int err = C->daemon_lost && !load_acquire(&a->reply) ? BERTH_E_DAEMON_GONE : wait_reply(a);
    plock_release(&C->ctl_lock);
    if (err == BERTH_E_TIMED_OUT)
        was_late(2);
    return err;
}

int control_answer(struct control_ask *a, void *reply, size_t reply_size, int *rfds, int *nrfds)
{
    struct ctl_header done;
    int err = control_await(a);
    ask_leave(a); /* from here on it is nobody's */
    if (a->reply)
        err = reply_give(a, a->reply, reply ? reply : &done, reply ? reply_size : sizeof done, rfds, nrfds);
    if (control_pushed() || err == BERTH_E_DAEMON_GONE)
        own_kick(); /* somebody must work them off; the socket will not say so again */
    return err;
}

int control_request(void *msg, const int *fds, int nfds, void *reply, size_t reply_size, int *rfds,
                    int *nrfds)
{
    struct control_ask a;
    if (rfds)
        fds_expect();
    int err = control_ask(&a, msg, fds, nfds);
    if (!err)
        err = control_answer(&a, reply, reply_size, rfds, nrfds);
    if (rfds)
        (void)fds_keep();
    return err;
}
