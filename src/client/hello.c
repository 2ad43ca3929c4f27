/* hello.c - how a process becomes a worker: its page, its bell, and the daemon's word.
 *
 * A process says hello when it attaches, a forked child at its first use of berth, by the control socket that
 * its parent has announced (fork.c). A child that finds no daemon goes on with what it inherited, unknown to
 * anybody.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/control.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/hello.h"
#include "client/ports.h"
#include "client/routes.h"
#include "client/vigil.h"
#include "client/wake.h"
#include "client/watch.h"
#include "shm/page.h"
#include "shm/segment.h"

struct plock hello_lock;

bool memory_borrow(uint64_t size)
{
    struct ctl_memory ask = {.h = {.type = CTL_MEMORY, .len = sizeof ask}, .size = size};
    struct ctl_header is;
    int fd = -1, n = 1;
    if (!segment_forbidden() || C->daemon_lost ||
        control_request(&ask, NULL, 0, &is, sizeof is, &fd, &n) != 0 || n != 1)
        return false;
    segment_lend(fd);
    return true;
}

/* Under hello_lock: what takes the place of what is there does so at its address, under its number. Other
 * threads may be at it. */
static bool in_place;

int worker_page_create(int *fd)
{
    void *map, *at = NULL;
    int err = segment_create("berth-page", WORKER_PAGE_BYTES, fd, &map);
    if (err) { /* for want of a descriptor, or of leave to make one? */
        client_fds_release();
        (void)memory_borrow(WORKER_PAGE_BYTES);
        err = segment_create("berth-page", WORKER_PAGE_BYTES, fd, &map);
    }
    if (err)
        return err;
    page_begin(map);
    ((struct worker_page *)map)->waiter[WAITER_ANY].arm = C->family ? family_arm(C->family) : 1;
    if (in_place)
        at = mremap(map, WORKER_PAGE_BYTES, WORKER_PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, C->page);
    if (at == MAP_FAILED) {
        (void)sys_close(*fd);
        *fd = -1;
        return BERTH_E_NO_MEMORY;
    }
    if (!at)
        C->page = map;
    return 0;
}

static void bell_is(int fd)
{
    if (in_place)
        (void)own_fd_is(C->bell_fd, fd);
    else
        C->bell_fd = own_fd(fd);
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
    if (in_place)
        segment_unmap(map, size); /* it is the app's, which we have */
    else
        C->dir = map;
    bell_is(fds[1]); /* our bell, under a description that nobody else has */
    store_relaxed(&C->worker, w->worker);
    /* Until now another word was looked at, if any; by chance this one may stand where that stood. */
    store_relaxed(&C->news_seen, directory_news_now(C->dir, C->worker) - 1);
    daemon_has_answered();
    if (!in_place) {
        C->app = w->app;
        C->uid = w->uid;
        C->outbox_limit = w->outbox_limit ? w->outbox_limit : 1ull << 30;
    }
    C->page->worker = w->worker;
    C->family->member[C->member].worker = w->worker;
    return 0;
}

/* What was answered to HELLO or CHILD_HELLO, with n descriptors. */
static int welcomed(const struct ctl_welcome *is, int *got, int n)
{
    if (n == 2 && is->version == CTL_VERSION)
        return welcome(is, got);
    while (n > 0)
        (void)sys_close(got[--n]);
    return is->version == CTL_VERSION ? BERTH_E_PROTOCOL : BERTH_E_VERSION;
}

int hello_request(void *msg, const int *fds, int nfds)
{
    struct ctl_welcome is;
    int got[2] = {-1, -1}, n = 2;
    int err = control_request(msg, fds, nfds, &is, sizeof is, got, &n);
    return err ? err : welcomed(&is, got, n);
}

static struct ctl_child_hello child_hello(void)
{
    return (struct ctl_child_hello){.h = {.type = CTL_CHILD_HELLO, .len = sizeof(struct ctl_child_hello)},
                                    .version = CTL_VERSION,
                                    .pid = (uint32_t)getpid()};
}

static int go_on_alone(void)
{
    int bell = bell_without_daemon();
    if (bell < 0)
        return bell;
    log_warn_once("a forked child goes on without the daemon, with the sessions that it has");
    bell_is(bell);
    store_relaxed(&C->worker, 0u);
    return 0;
}

/* Ports and routes that the parent had: until now nobody has asked for one. */
static void parents_forget(void)
{
    plock_take(&C->lock);
    ports_forget();
    routes_forget();
    plock_release(&C->lock);
}

/* ---- a child's first word ------------------------------------------------------------------------------ */

/* The daemon may be slow, or stopped. Who has asked it once asks no second time: the answer is waited for by
 * whoever comes next, who does not wait long. Until it is there the child is who its parent was (C->forked), and
 * reads and writes what that left it; it sleeps on nothing but the clock. */
static struct {
    bool asked;
    struct control_ask ask;
    struct ancestor parent;
} hello;

bool hello_reset(void)
{
    if (!hello.asked)
        return false;
    control_unask(&hello.ask);
    munmap(hello.parent.page, WORKER_PAGE_BYTES);
    hello.asked = false;
    return true;
}

int hello_apart(void)
{
    int page_fd = -1;
    in_place = true;
    int err = worker_page_create(&page_fd);
    if (!err) {
        struct ctl_child_hello msg = child_hello();
        err = C->daemon_lost ? BERTH_E_DAEMON_GONE : hello_request(&msg, &page_fd, 1);
    }
    if (err == BERTH_E_DAEMON_GONE)
        err = go_on_alone();
    in_place = false;
    if (page_fd >= 0)
        (void)sys_close(page_fd);
    return err;
}

/* The child of one that nobody has answered has the same parent as that. */
FORK_CODE void hello_forked(void)
{
    if (hello.asked) {
        munmap(C->page, WORKER_PAGE_BYTES);
        C->page = hello.parent.page;
    }
    hello.asked = false;
}

static int ask(void)
{
    hello.parent = (struct ancestor){.worker = C->worker, .page = C->page, .bell_fd = C->bell_fd};
    struct ctl_child_hello msg = child_hello();
    int page_fd = -1;
    if (load_acquire(&berth_family_quiet))
        family_member_acts();
    parents_forget();
    int err = worker_page_create(&page_fd);
    if (!err && !C->daemon_lost) {
        err = control_ask(&hello.ask, &msg, &page_fd, 1);
        hello.asked = err == 0;
    }
    if (page_fd >= 0)
        (void)sys_close(page_fd);
    return err == BERTH_E_DAEMON_GONE ? 0 : err;
}

/* Before we are another worker than it: who tells a session of the parent's finds one of the two at any time. Other
 * threads may be looking at the list, and have made the inner set, if they have waited before the daemon answered. */
static void parent_is_ancestor(void)
{
    uint32_t n = C->ancestors;
    if (n && C->ancestor[n - 1].page == hello.parent.page)
        return;
    if (n == ANCESTORS_MAX) {
        log_warn_once("forked too often in a row: the oldest sessions may be slow to wake");
    } else {
        C->ancestor[n] = hello.parent;
        store_release(&C->ancestors, n + 1);
    }
    vigil_bells();
}

static int hear(void)
{
    struct ctl_welcome is = {0};
    int got[2] = {-1, -1}, n = 2;
    int err = hello.asked ? control_await(&hello.ask) : BERTH_E_DAEMON_GONE;
    if (err && err != BERTH_E_DAEMON_GONE)
        return err; /* it is still asked */
    if (hello.asked)
        err = control_answer(&hello.ask, &is, sizeof is, got, &n);
    hello.asked = false;
    if (!err || err == BERTH_E_DAEMON_GONE)
        parent_is_ancestor();
    return err ? err : welcomed(&is, got, n);
}

/* What lies aside is told by nobody again, and nobody could take it until now. */
static void listeners_tell(void)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        struct aside *a = l->generation & 1 ? aside_of(l) : NULL;
        if (a && aside_count(a))
            listener_ready(l, listener_count(l));
    }
}

/* The descriptors in reserve are given up for the answer's, and taken back when that is there. */
static int speak(void)
{
    bool again = hello.asked;
    if (!again)
        fds_expect();
    int err = again ? 0 : ask();
    if (!err) {
        err = hear();
        if (err == BERTH_E_DAEMON_GONE)
            err = go_on_alone();
    }
    if (err && hello.asked) { /* whatever kept us from hearing it: it may still come */
        log_warn_once(
            "the daemon does not answer a forked child: it goes on with what its parent has left it");
        return BERTH_E_TIMED_OUT;
    }
    (void)fds_keep();
    if (err) {
        C->page = hello.parent.page;
        log_warn_once("a forked child could not say hello to the daemon: %s", berth_strerror(err));
        return err;
    }
    ancestors_keep(); /* the parent may not be needed */
    store_release(&C->forked, false);
    if (again)
        listeners_tell();
    return 0;
}

int fork_child_ready(void)
{
    if (__builtin_expect(!load_acquire(&C->forked), 1))
        return 0;
    plock_take(&hello_lock);
    int err = C->forked ? speak() : 0;
    plock_release(&hello_lock);
    return err;
}

int fork_child_goes_on(void)
{
    int err = fork_child_ready();
    return err == BERTH_E_TIMED_OUT ? 0 : err;
}
