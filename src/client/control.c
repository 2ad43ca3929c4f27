/* control.c - the worker's connection to the daemon.
 *
 * Requests are sent and answered under ctl_lock, one at a time. What the daemon sends of its own accord in between is put on
 * a list (`pushes`) and worked off by control_poll, outside all locks; whoever leaves something on the list kicks the
 * process's own waiters. A daemon that went away costs what needs it (new peers, new segments) and nothing else.
 *
 * Descriptors that find the process's table full are lost on the way (recvmsg drops them). So a few are kept in reserve and
 * given up when some are due: before a request that brings any, and when a push came without its own, which is then asked
 * for again, every RETRY_NS as long as there is no room. Nobody connects to a new peer without a reserve (introduce), so
 * that a full table is told by an error of connect rather than by silence after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"
#include "shm/ctlsock.h"
#include "shm/segment.h"

struct client berth_client = {.ctl = -1, .kick_fd = -1};

struct push {
    struct push *next;
    bool lost; /* its descriptors found no room in the process's table */
    int nfds;
    int fds[CTL_FDS_MAX];
    int len;
    uint8_t data[CTL_MAX] __attribute__((aligned(8))); /* read as any message */
};

#define RETRY_NS (20 * NS_PER_MS)

static struct push *pushes_first, **pushes_last = &pushes_first;
static struct plock pushes_lock, dispatch_lock;

/* ---- what came without its descriptors ----------------------------------------------------------------------------- */

struct lost {
    uint16_t type; /* of the question: GET_OUTBOX, GET_SEGMENT */
    uint32_t seq, index, app;
    outbox_handle outbox;
    int64_t since;
    struct lost *next;
};

static struct lost *lost_first; /* under dispatch_lock */
static int64_t lost_at;         /* when to ask again */
static bool lost_in_vain;       /* it was asked for again, and found no room again */

uint32_t control_async_seq(void)
{
    static uint32_t n;
    return 0x80000000u | fetch_add_sc(&n, 1u) % 0x7ffffffeu;
}

static void lost_ask(const struct lost *l)
{
    struct ctl_outbox msg = {
        .h = {.type = l->type, .len = sizeof msg, .seq = l->seq}, .outbox = l->outbox, .index = l->index};
    (void)control_send(&msg, NULL, 0);
}

static bool lost_is(const struct lost *l, uint16_t type, const void *data)
{
    const struct ctl_outbox_is *is = data;
    const struct ctl_segment_is *seg = data;
    if (type == CTL_SEGMENT_IS)
        return l->type == CTL_GET_SEGMENT && l->outbox == seg->outbox && l->index == seg->index;
    return l->type == CTL_GET_OUTBOX && (l->outbox == is->outbox || (is->h.status && l->seq == is->h.seq));
}

static void lost_add(const struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    if (h->type != CTL_PEER && h->type != CTL_OUTBOX_IS && h->type != CTL_SEGMENT_IS)
        return;
    client_fds_release();
    struct lost *l = lost_first;
    while (l && !lost_is(l, h->type, p->data))
        l = l->next;
    if (l) { /* again when it is time */
        store_relaxed(&lost_in_vain, true);
        return;
    }
    if (!(l = memory_get(sizeof *l)))
        return;
    if (h->type == CTL_SEGMENT_IS) {
        const struct ctl_segment_is *seg = (const void *)p->data;
        *l = (struct lost){.type = CTL_GET_SEGMENT, .seq = NONE, .index = seg->index, .outbox = seg->outbox};
    } else {
        const struct ctl_outbox_is *is = (const void *)p->data;
        *l = (struct lost){.type = CTL_GET_OUTBOX,
                           .seq = h->type == CTL_PEER ? control_async_seq() : h->seq,
                           .app = h->type == CTL_PEER ? is->app : 0,
                           .outbox = is->outbox};
        log_info("no descriptor is free for what worker %u sent: trying again", is->worker);
    }
    l->since = clock_now();
    l->next = lost_first;
    lost_first = l;
    store_relaxed(&lost_at, l->since + RETRY_NS);
    lost_ask(l);
}

/* It has come, or the daemon has not got it any more. */
static void lost_found(const struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    for (struct lost **link = &lost_first; *link;) {
        struct lost *l = *link;
        if (!lost_is(l, h->type, p->data)) {
            link = &l->next;
            continue;
        }
        *link = l->next;
        memory_put(l, sizeof *l);
    }
    store_relaxed(&lost_in_vain, false);
    if (!lost_first)
        store_relaxed(&lost_at, 0);
}

static void lost_forget(void)
{
    while (lost_first) {
        struct lost *next = lost_first->next;
        memory_put(lost_first, sizeof *lost_first);
        lost_first = next;
    }
    store_relaxed(&lost_in_vain, false);
    store_relaxed(&lost_at, 0);
}

static void lost_retry(void)
{
    int64_t at = load_relaxed(&lost_at), now;
    if (!at || (now = clock_now()) < at)
        return;
    store_relaxed(&lost_at, now + RETRY_NS);
    store_relaxed(&lost_in_vain, false);
    client_fds_release();
    for (struct lost *l = lost_first; l; l = l->next) {
        lost_ask(l);
        if (l->app && now - l->since > SEGMENT_TIMEOUT_NS) {
            sessions_unreachable(l->app);
            l->app = 0;
        }
    }
}

bool control_in_vain(void)
{
    if (!load_relaxed(&lost_in_vain))
        return false;
    if (!fds_room(FDS_FOR_A_MEETING))
        return true;
    store_relaxed(&lost_in_vain, false);
    store_relaxed(&lost_at, clock_now());
    return false;
}

int64_t control_retry_at(void)
{
    return load_relaxed(&lost_at);
}

/* ---- what the daemon says of its own accord ------------------------------------------------------------------- */

static void on_peer(const struct push *p)
{
    const struct ctl_outbox_is *is = (const void *)p->data;
    if (p->len < (int)sizeof *is || is->h.status != 0 || p->nfds != 3) {
        for (int i = 0; i < p->nfds; i++)
            (void)sys_close(p->fds[i]);
        return;
    }
    plock_take(&C->lock);
    struct peer_box *box = peer_box_add(is, p->fds);
    plock_release(&C->lock);
    if (!box)
        return;
    if (is->dead)
        peer_worker_dead(is->worker);
    channel_pair(box);
    events_poll(true);
    listener_retry_pending();
    sessions_confirm();
    watches_wake_all();
}

static void on_push(struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    const struct ctl_segment_is *seg = (const void *)p->data;
    const struct ctl_dead *dead = (const void *)p->data;
    const struct ctl_listener *gone = (const void *)p->data;
    int used = 0;
    if (p->lost) {
        lost_add(p);
        return;
    }
    if (load_relaxed(&lost_at) && (h->type == CTL_PEER || h->type == CTL_OUTBOX_IS || h->type == CTL_SEGMENT_IS))
        lost_found(p);
    switch (h->type) {
    case CTL_PEER:
    case CTL_OUTBOX_IS:
        on_peer(p);
        if (h->type == CTL_OUTBOX_IS)
            listener_answered(h->status, h->seq);
        used = p->nfds;
        break;
    case CTL_SEGMENT_IS:
        if (p->len >= (int)sizeof *seg) {
            peer_segment_arrived(seg->outbox, seg->index, p->nfds > 0 ? p->fds[0] : -1, h->status);
            used = p->nfds > 0;
        }
        break;
    case CTL_DEAD:
        if (p->len >= (int)sizeof *dead) {
            events_poll(true);
            sessions_of_worker_dead(dead->worker);
            sessions_reoffer(dead->member);
            peers_collect(false);
            listener_retry_pending();
        }
        break;
    case CTL_MEMBER_DEAD:
        if (p->len >= (int)sizeof *dead)
            member_gone(dead->member);
        break;
    case CTL_LISTENER_GONE:
        if (p->len >= (int)sizeof *gone) {
            events_poll(true);
            sessions_listener_gone(gone->listener);
        }
        break;
    case CTL_RETIRED:
        if (p->len >= (int)sizeof(struct ctl_outbox)) {
            const struct ctl_outbox *retired = (const void *)p->data;
            peer_segment_retired(retired->outbox, retired->index);
        }
        break;
    case CTL_EVICTED:
        log_warn("the daemon has put this process out: %s", berth_strerror(h->status));
        break;
    default:
        break;
    }
    for (int i = used; i < p->nfds; i++)
        (void)sys_close(p->fds[i]);
}

static void push_add(struct push *p)
{
    p->next = NULL;
    plock_take(&pushes_lock);
    store_release(pushes_last, p);
    pushes_last = &p->next;
    plock_release(&pushes_lock);
}

bool control_pushes(void)
{
    int64_t at = load_relaxed(&lost_at);
    return load_relaxed(&pushes_first) != NULL || (at && clock_now() >= at);
}

static struct push *push_take(void)
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

void control_fork_lock(void)
{
    plock_take(&dispatch_lock);
}

void control_fork_unlock(void)
{
    plock_release(&dispatch_lock);
}

/* Of a daemon that this process has done with. */
static void pushes_forget(void)
{
    struct push *p;
    while ((p = push_take())) {
        for (int i = 0; i < p->nfds; i++)
            (void)sys_close(p->fds[i]);
        memory_put(p, sizeof *p);
    }
}

void control_forget(void)
{
    pushes_lock.word = 0; /* a thread of the parent may have had it */
    fds_forked();
    lost_first = NULL;
    lost_at = 0;
    lost_in_vain = false;
    pushes_first = NULL;
    pushes_last = &pushes_first;
}

static void dispatch_pushes(void)
{
    if (!control_pushes() || !plock_try(&dispatch_lock))
        return;
    struct push *p;
    while ((p = push_take())) {
        on_push(p);
        memory_put(p, sizeof *p);
    }
    lost_retry();
    plock_release(&dispatch_lock);
}

/* One packet into a push. Positive: it is there. ctl_lock is held. */
static int receive(struct push *p, int flags)
{
    p->nfds = CTL_FDS_MAX;
    uint32_t news = C->dir ? load_acquire(directory_news(C->dir, C->worker)) : 0;
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

static void daemon_lost(void)
{
    if (C->ctl < 0 || C->daemon_lost)
        return;
    C->daemon_lost = true;
    log_warn("the berth daemon went away: open sessions go on, new peers go to the kernel");
    /* the descriptor stays, so that its number stays ours; out of every epoll set it must go, or it would be readable for ever */
    int null = (int)sys_call(SYS_eventfd2, 0L, (long)O_CLOEXEC, 0, 0);
    if (null >= 0) {
        (void)sys_call(SYS_dup3, (long)null, (long)C->ctl, (long)O_CLOEXEC, 0);
        (void)sys_close(null);
    }
}

void control_poll(void)
{
    if (!C->attached)
        return;
    hold_begin(); /* memory is taken and given back */
    if (C->daemon_lost) {
        peers_look_alive();
        if (berth_family_shared && plock_try(&dispatch_lock)) { /* not while another thread forks */
            members_look_alive(100 * NS_PER_MS);
            plock_release(&dispatch_lock);
        }
    }
    fds_keep_again();
    while (!C->daemon_lost && plock_try(&C->ctl_lock)) {
        struct push *p = memory_get(sizeof *p);
        int n = p ? receive(p, MSG_DONTWAIT) : BERTH_E_NO_MEMORY;
        if (n > 0)
            push_add(p);
        else if (n == 0 || n == BERTH_E_DAEMON_GONE)
            daemon_lost();
        plock_release(&C->ctl_lock);
        if (n <= 0) {
            memory_put(p, sizeof *p);
            break;
        }
    }
    dispatch_pushes();
    hold_end();
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

int control_send(void *msg, const int *fds, int nfds)
{
    if (C->ctl < 0 || C->daemon_lost)
        return BERTH_E_DAEMON_GONE;
    return ctl_send(C->ctl, msg, ((struct ctl_header *)msg)->len, fds, nfds, 0);
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
    case CTL_GET_OUTBOX:
        return CTL_OUTBOX_IS;
    case CTL_GET_SEGMENT:
        return CTL_SEGMENT_IS;
    case CTL_PORTS:
        return CTL_PORTS_ARE;
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

static int wait_reply(uint32_t seq, uint16_t type, void *reply, size_t reply_size, int *rfds, int *nrfds)
{
    int64_t deadline = clock_deadline(CONTROL_TIMEOUT_NS);
    for (;;) {
        struct push *p = memory_get(sizeof *p);
        if (!p)
            return BERTH_E_NO_MEMORY;
        int n = receive(p, MSG_DONTWAIT);
        const struct ctl_header *h = (const void *)p->data;
        if (n > 0 && h->seq == seq) {
            int status = reply_status(h, n, type, reply_size);
            if (!status && p->lost)
                status = BERTH_E_NO_MEMORY;
            int want = rfds && !status ? *nrfds : 0; /* with an error nobody looks for descriptors */
            memset(reply, 0, reply_size);
            memcpy(reply, p->data, (size_t)n < reply_size ? (size_t)n : reply_size);
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
        if (n > 0) {
            push_add(p);
            continue;
        }
        memory_put(p, sizeof *p);
        if (n == BERTH_E_WOULD_BLOCK || n == BERTH_E_INTERRUPTED) {
            int64_t left = deadline - clock_now();
            if (left <= 0)
                return BERTH_E_TIMED_OUT;
            struct pollfd pfd = {.fd = C->ctl, .events = POLLIN};
            struct timespec ts;
            (void)sys_ppoll(&pfd, 1, timespec_of(left, &ts), NULL);
            continue;
        }
        if (n == 0 || n == BERTH_E_DAEMON_GONE) {
            daemon_lost();
            return BERTH_E_DAEMON_GONE;
        }
        return n;
    }
}

int control_request(void *msg, const int *fds, int nfds, void *reply, size_t reply_size, int *rfds, int *nrfds)
{
    struct ctl_header *h = msg;
    struct ctl_header done;
    if (rfds)
        client_fds_release();
    plock_take(&C->ctl_lock);
    if (++C->seq >= 0x80000000u) /* the others are control_async_seq's */
        C->seq = 1;
    h->seq = C->seq;
    int err = control_send(msg, fds, nfds);
    if (!err)
        err = wait_reply(h->seq, reply_type(h->type), reply ? reply : &done, reply ? reply_size : sizeof done, rfds,
                         nrfds);
    plock_release(&C->ctl_lock);
    if (rfds)
        (void)fds_keep();
    if (control_pushes())
        own_kick(); /* somebody must work them off; the socket will not say so again */
    return err;
}

/* ---- attach ------------------------------------------------------------------------------------------------------ */

int worker_page_create(int *fd)
{
    void *map;
    int err = segment_create("berth-page", WORKER_PAGE_BYTES, fd, &map);
    if (err)
        return err;
    C->page = map;
    C->page->version = ABI_VERSION;
    store_release(&C->page->magic, ABI_MAGIC_PAGE);
    C->page->waiter[WAITER_ANY].arm = C->family ? load_relaxed(&C->family->any_arm) : 1;
    return 0;
}

int welcome(const struct ctl_welcome *w, const int fds[2])
{
    const void *map;
    uint64_t size;
    const char *why = "";
    int err = segment_open(fds[0], DIRECTORY_BYTES, DIRECTORY_BYTES, false, &map, &size, &why);
    (void)sys_close(fds[0]);
    if (err) {
        log_error("the daemon's listener directory is refused: %s", why);
        (void)sys_close(fds[1]);
        return err;
    }
    const struct directory *dir = map;
    if (!w->worker || dir->magic != ABI_MAGIC_DIR || dir->version != ABI_VERSION) {
        log_error("the daemon's welcome or listener directory is not of this version");
        segment_unmap(map, size);
        (void)sys_close(fds[1]);
        return BERTH_E_PROTOCOL;
    }
    C->dir = map;
    C->kick_fd = own_fd(fds[1]); /* our bell, under a description that nobody else has */
    C->worker = w->worker;
    C->app = w->app;
    C->uid = w->uid;
    C->outbox_limit = w->outbox_limit ? w->outbox_limit : 1ull << 30;
    C->page->worker = w->worker;
    C->family->member[C->member].worker = w->worker;
    return 0;
}

static int check_options(const struct berth_attach_options *o)
{
    if ((o->name && (!o->name[0] || strlen(o->name) >= CTL_NAME_MAX)) || (o->ns && strlen(o->ns) >= CTL_NAME_MAX) ||
        (o->secret && strlen(o->secret) >= CTL_SECRET_MAX))
        return BERTH_E_INVALID;
    if (o->flags &
        ~(BERTH_ATTACH_LOCAL | BERTH_ATTACH_GLOBAL | BERTH_ATTACH_PROXY | BERTH_ATTACH_JOIN | SPIN_GIVEN))
        return BERTH_E_INVALID;
    if ((o->rx_fifo_size && (o->rx_fifo_size < 4096 || o->rx_fifo_size > 64u << 20)) ||
        (o->tx_fifo_size && (o->tx_fifo_size < 4096 || o->tx_fifo_size > 64u << 20)))
        return BERTH_E_INVALID;
    if ((o->segment_size && (o->segment_size < SEGMENT_MIN || o->segment_size > 1u << 30)) || o->spin_ns > 1000000)
        return BERTH_E_INVALID;
    return 0;
}

static int64_t spin_option(const struct berth_attach_options *o)
{
    const char *env = getenv("BERTH_SPIN_US");
    if (o->spin_ns > 0 || (o->spin_ns == 0 && o->flags & SPIN_GIVEN))
        return o->spin_ns;
    if (env && *env) {
        char *end;
        long us = strtol(env, &end, 10);
        if (*end == 0 && us >= 0 && us <= 1000)
            return us * NS_PER_US;
        log_warn("BERTH_SPIN_US=%s is not a number from 0 to 1000; using 50", env);
    }
    return SPIN_DEFAULT_NS;
}

/* The request of a HELLO or CHILD_HELLO, and what its WELCOME brings. */
int hello_request(void *msg, const int *fds, int nfds)
{
    struct ctl_welcome is;
    int got[2] = {-1, -1}, n = 2;
    int err = control_request(msg, fds, nfds, &is, sizeof is, got, &n);
    if (err)
        return err;
    if (n == 2 && is.version == CTL_VERSION)
        return welcome(&is, got);
    while (n > 0)
        (void)sys_close(got[--n]);
    return is.version == CTL_VERSION ? BERTH_E_PROTOCOL : BERTH_E_VERSION;
}

static int hello(const struct berth_attach_options *o)
{
    int page_fd = -1;
    long net = sys_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int err = worker_page_create(&page_fd);
    if (err || net < 0) {
        err = BERTH_E_NO_MEMORY;
        goto out;
    }
    struct ctl_hello msg = {.h = {.type = CTL_HELLO, .len = sizeof msg},
                            .magic = CTL_MAGIC,
                            .version = CTL_VERSION,
                            .flags = o->flags & CTL_FLAGS_ALL ? o->flags & CTL_FLAGS_ALL : CTL_SCOPE_LOCAL,
                            .rx_fifo_size = C->rx_limit,
                            .tx_fifo_size = C->tx_limit,
                            .segment_size = C->segment_size};
    snprintf(msg.name, sizeof msg.name, "%s", o->name ? o->name : program_invocation_short_name);
    snprintf(msg.ns, sizeof msg.ns, "%s", o->ns ? o->ns : "default");
    snprintf(msg.secret, sizeof msg.secret, "%s", o->secret ? o->secret : "");
    int fds[2] = {(int)net, page_fd};
    err = hello_request(&msg, fds, 2);
    explicit_bzero(msg.secret, sizeof msg.secret);
out:
    if (net >= 0)
        (void)sys_close(net);
    if (page_fd >= 0)
        (void)sys_close(page_fd);
    return err;
}

struct plock attach_lock;

int client_attach(const struct berth_attach_options *options)
{
    static const struct berth_attach_options defaults = {.spin_ns = -1};
    const struct berth_attach_options *o = options ? options : &defaults;
    int err = client_stranded() ? BERTH_E_LIMIT : check_options(o);
    if (err)
        return err;
    fork_install();
    plock_take(&attach_lock);
    if (C->attached) {
        plock_release(&attach_lock);
        return BERTH_E_ALREADY_ATTACHED;
    }
    char dir[RUNTIME_DIR_MAX];
    err = runtime_dir_resolve(o->runtime_dir, dir, sizeof dir);
    int ctl = err ? err : ctl_connect(dir);
    if (ctl < 0) {
        plock_release(&attach_lock);
        return ctl;
    }
    C->rx_limit = o->rx_fifo_size ? o->rx_fifo_size : FIFO_DEFAULT;
    C->tx_limit = o->tx_fifo_size ? o->tx_fifo_size : FIFO_DEFAULT;
    C->segment_size = o->segment_size ? (o->segment_size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES : SEGMENT_MIN;
    C->spin_ns = spin_option(o);
    C->cpus = (uint32_t)get_nprocs(); /* of the machine, see spin.c */
    C->daemon_lost = false;
    C->ctl = own_fd(ctl);
    err = family_create();
    if (!err)
        err = listeners_create();
    if (!err)
        err = hello(o);
    if (err) {
        client_reset();
        plock_release(&attach_lock);
        return err;
    }
    (void)fds_keep();
    store_release(&C->attached, true);
    plock_release(&attach_lock);
    return 0;
}

/* Forgets everything: the mappings go, the descriptors are closed. */
void client_reset(void)
{
    if (C->family)
        peers_collect(true);
    pushes_forget();
    lost_forget();
    client_fds_release();
    eps_close();
    own_fd_close(C->ctl);
    own_fd_close(C->kick_fd);
    crowd_forget();
    if (C->page)
        munmap(C->page, WORKER_PAGE_BYTES);
    if (C->dir)
        segment_unmap(C->dir, DIRECTORY_BYTES);
    if (C->family)
        munmap(C->family, sizeof(struct family));
    if (C->cache)
        munmap(C->cache, SESSIONS_MAX * sizeof(struct session_cache));
    memory_put(C->listeners, LISTENERS_MAX * sizeof(struct listener));
    ports_forget();
    uint32_t seq = C->seq;
    memset(C, 0, sizeof *C);
    C->seq = seq;
    C->ctl = C->kick_fd = -1;
}

int client_detach(void)
{
    if (!C->attached)
        return BERTH_E_NOT_ATTACHED;
    listeners_close();
    for (uint32_t i = 1, n = C->family->sessions; i < n; i++) {
        struct session *s = session_at(i);
        if (s->state != SESSION_FREE && s->state != SESSION_ZOMBIE && members_has(&s->holders, C->member))
            (void)client_close(session_handle_of(s));
    }
    struct ctl_header msg = {.type = CTL_DETACH, .len = sizeof msg};
    (void)control_request(&msg, NULL, 0, NULL, 0, NULL, NULL);
    store_release(&C->attached, false);
    routes_forget();
    client_reset();
    return 0;
}

bool client_attached(void)
{
    return load_acquire(&C->attached);
}

bool client_attach_auto(void)
{
    static int64_t failed_at;
    if (load_acquire(&C->attached))
        return fork_child_ready() == 0 && !C->daemon_lost;
    int64_t now = clock_now();
    int64_t last = load_relaxed(&failed_at);
    if (client_stranded())
        return false; /* its parent has said so */
    if (last && now - last < NS_PER_SEC)
        return false;
    char secret[CTL_SECRET_MAX] = "";
    struct berth_attach_options o = {.ns = getenv("BERTH_NAMESPACE"), .spin_ns = -1};
    const char *file = getenv("BERTH_SECRET_FILE");
    if (file && *file) {
        long fd = sys_call(SYS_openat, (long)AT_FDCWD, file, (long)(O_RDONLY | O_CLOEXEC), 0);
        long n = fd < 0 ? fd : sys_read(fd, secret, (long)sizeof secret - 1);
        if (fd >= 0)
            (void)sys_close(fd);
        if (n < 0)
            log_warn("cannot read BERTH_SECRET_FILE %s: %s", file, strerror((int)-n));
        secret[n < 0 ? 0 : n] = 0;
        secret[strcspn(secret, "\r\n")] = 0;
        o.secret = secret;
    }
    if (o.ns && !*o.ns)
        o.ns = NULL;
    int err = client_attach(&o);
    explicit_bzero(secret, sizeof secret);
    if (err && err != BERTH_E_ALREADY_ATTACHED) {
        store_relaxed(&failed_at, now);
        if (err != BERTH_E_NO_DAEMON)
            log_warn("this process stays on the kernel: %s", berth_strerror(err));
        return false;
    }
    return true;
}
