/* attach.c - the way in and out: options, the first hello, and forgetting everything. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/attach.h"
#include "client/bury.h"
#include "client/control.h"
#include "client/crowd.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/fork.h"
#include "client/graves.h"
#include "client/hello.h"
#include "client/listener.h"
#include "client/lost.h"
#include "client/move.h"
#include "client/ports.h"
#include "client/routes.h"
#include "client/session.h"
#include "client/sleeper.h"
#include "shm/ctlsock.h"
#include "shm/segment.h"

struct plock attach_lock;

static int check_options(const struct berth_attach_options *o)
{
    if ((o->name && (!o->name[0] || strlen(o->name) >= CTL_NAME_MAX)) ||
        (o->ns && strlen(o->ns) >= CTL_NAME_MAX) || (o->secret && strlen(o->secret) >= CTL_SECRET_MAX))
        return BERTH_E_INVALID;
    if (o->flags &
        ~(BERTH_ATTACH_LOCAL | BERTH_ATTACH_GLOBAL | BERTH_ATTACH_PROXY | BERTH_ATTACH_JOIN | SPIN_GIVEN))
        return BERTH_E_INVALID;
    if ((o->rx_fifo_size && (o->rx_fifo_size < 4096 || o->rx_fifo_size > 64u << 20)) ||
        (o->tx_fifo_size && (o->tx_fifo_size < 4096 || o->tx_fifo_size > 64u << 20)))
        return BERTH_E_INVALID;
    if ((o->segment_size && (o->segment_size < SEGMENT_MIN || o->segment_size > 1u << 30)) ||
        o->spin_ns > 1000000)
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
        log_warn_once("BERTH_SPIN_US=%s is not a number from 0 to 1000; using 50", env);
    }
    return SPIN_DEFAULT_NS;
}

/* See spin.c. Who may use several need not read how many there are. */
static uint32_t cpus_of_machine(void)
{
    cpu_set_t may;
    if (sys_call(SYS_sched_getaffinity, 0L, (long)sizeof may, &may, 0) > 0 && CPU_COUNT(&may) > 1)
        return (uint32_t)CPU_COUNT(&may);
    return (uint32_t)get_nprocs();
}

/* The stand-in of a session that somebody has given: its app is joined. Under auto_lock. */
static int heir_of = -1;

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
    int fds[3] = {(int)net, page_fd, heir_of};
    err = hello_request(&msg, fds, heir_of < 0 ? 2 : 3);
    explicit_bzero(msg.secret, sizeof msg.secret);
out:
    if (net >= 0)
        (void)sys_close(net);
    if (page_fd >= 0)
        (void)sys_close(page_fd);
    return err;
}

/* How long the first word to the daemon may take: a program that asked to attach has nothing else; one that
 * did not, the kernel. */
#define PATIENCE_ASKED_NS (5 * NS_PER_SEC)
#define PATIENCE_AUTO_NS (300 * NS_PER_MS)
#define PATIENCE_CHILD_NS NS_PER_SEC
static int64_t patience = PATIENCE_ASKED_NS;

int client_attach(const struct berth_attach_options *options)
{
    static const struct berth_attach_options defaults = {.spin_ns = -1};
    const struct berth_attach_options *o = options ? options : &defaults;
    int err = client_stranded() ? BERTH_E_LIMIT : check_options(o);
    if (err)
        return err;
    fork_install();
    (void)log_get_level(); /* says what is wrong with BERTH_LOG, also where there is nothing else to say */
    plock_take(&attach_lock);
    if (C->attached) {
        plock_release(&attach_lock);
        return BERTH_E_ALREADY_ATTACHED;
    }
    if (!segment_allowed(SEGMENT_MIN)) {
        plock_release(&attach_lock);
        return BERTH_E_NO_MEMORY;
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
    C->segment_size =
        o->segment_size ? (o->segment_size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES : SEGMENT_MIN;
    C->spin_ns = spin_option(o);
    C->cpus = cpus_of_machine();
    C->daemon_lost = C->last_heard = false;
    C->ctl = own_fd(ctl);
    C->hello_patience = load_relaxed(&patience);
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
    C->hello_patience = PATIENCE_CHILD_NS;
    store_release(&C->attached, true);
    plock_release(&attach_lock);
    return 0;
}

/* Forgets everything: the mappings go, the descriptors are closed. */
void client_reset(void)
{
    if (C->family)
        peers_collect(true);
    control_pushes_forget();
    lost_forget();
    moves_forget();
    client_fds_release();
    members_unwatch(false);
    eps_close();
    own_fd_close(C->ctl);
    own_fd_close(C->bell_fd);
    crowd_forget();
    (void)hello_reset();
    if (C->page)
        munmap(C->page, WORKER_PAGE_BYTES);
    if (C->dir)
        segment_unmap(C->dir, DIRECTORY_BYTES);
    if (C->family)
        munmap(C->family, sizeof(struct family));
    if (C->cache)
        munmap(C->cache, SESSIONS_MAX * sizeof(struct session_cache));
    if (C->more)
        munmap(C->more, SESSIONS_MAX * sizeof(struct session_more));
    memory_put(C->listeners, LISTENERS_MAX * sizeof(struct listener));
    ports_forget();
    uint32_t seq = C->seq;
    memset(C, 0, sizeof *C);
    C->seq = seq;
    C->ctl = C->bell_fd = -1;
}

int client_detach(void)
{
    if (!C->attached)
        return BERTH_E_NOT_ATTACHED;
    listeners_close();
    for (struct session *s = NULL; (s = session_after(s));) {
        if (s->state != SESSION_FREE && s->state != SESSION_ZOMBIE && holders_has(s, C->member))
            (void)client_close(session_handle_of(s)); /* it was held a line above */
    }
    struct ctl_header msg = {.type = CTL_DETACH, .len = sizeof msg};
    /* a courtesy: the end of the socket says the same */
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

/* Each try with a daemon that does not answer costs the program a moment: so they become rare. */
#define FAST_NS (50 * NS_PER_MS)
#define PAUSE_LONGEST_NS (60 * NS_PER_SEC)

static int64_t not_before, pause_ns = NS_PER_SEC;
struct plock auto_lock;

static bool too_early(void)
{
    int64_t at = load_relaxed(&not_before);
    return at && clock_now() < at;
}

/* For a moment: it is tried again, and what the program opens now fails as it would without us. */
static bool table_is_full(void)
{
    long fd = sys_eventfd(O_CLOEXEC);
    if (fd >= 0)
        (void)sys_close((int)fd);
    return fd == -EMFILE;
}

static void say_why_not(const char *ns, bool secret, int err)
{
    if (err == BERTH_E_WRONG_SECRET && !secret)
        log_warn_once(
            "this process stays on the kernel: namespace '%s' has a secret, and none was given; name "
            "its file with 'berth run --secret-file FILE' or BERTH_SECRET_FILE",
            ns);
    else if (err == BERTH_E_UNKNOWN_NAMESPACE || err == BERTH_E_WRONG_SECRET || err == BERTH_E_PERMISSION)
        log_warn_once("this process stays on the kernel: namespace '%s': %s", ns, berth_strerror(err));
    else if (err == BERTH_E_TIMED_OUT)
        log_warn_once("this process stays on the kernel: the berth daemon does not answer");
    else if (!segment_allowed(SEGMENT_MIN))
        log_warn_once("this process stays on the kernel: ulimit -f allows files of less than %u bytes, and "
                      "berth's memory comes in files of that size",
                      SEGMENT_MIN);
    else if (err == BERTH_E_NO_MEMORY && table_is_full())
        log_info("not under berth yet: no descriptor is free");
    else if (err == BERTH_E_NO_MEMORY && segment_space_limited())
        log_warn_once("this process stays on the kernel: the limit of address space (ulimit -v) is too low "
                      "for berth's memory");
    else
        log_warn_once("this process stays on the kernel: %s", berth_strerror(err));
}

static bool attach_auto(void)
{
    char secret[CTL_SECRET_MAX] = "";
    struct berth_attach_options o = {.ns = getenv("BERTH_NAMESPACE"), .spin_ns = -1};
    const char *file = getenv("BERTH_SECRET_FILE");
    if (file && *file) {
        long fd = sys_call(SYS_openat, (long)AT_FDCWD, file, (long)(O_RDONLY | O_CLOEXEC), 0);
        long n = fd < 0 ? fd : sys_read(fd, secret, (long)sizeof secret - 1);
        if (fd >= 0)
            (void)sys_close(fd);
        if (n < 0)
            log_warn_once("cannot read BERTH_SECRET_FILE %s: %s", file, strerror((int)-n));
        secret[n < 0 ? 0 : n] = 0;
        secret[strcspn(secret, "\r\n")] = 0;
        o.secret = secret;
    }
    if (o.ns && !*o.ns)
        o.ns = NULL;
    int64_t began = clock_now();
    store_relaxed(&patience, PATIENCE_AUTO_NS);
    int err = client_attach(&o);
    store_relaxed(&patience, PATIENCE_ASKED_NS);
    bool has_secret = *secret;
    explicit_bzero(secret, sizeof secret);
    if (err && err != BERTH_E_ALREADY_ATTACHED) {
        bool slow = err == BERTH_E_TIMED_OUT || (err == BERTH_E_NO_DAEMON && clock_now() - began > FAST_NS);
        pause_ns = !slow ? NS_PER_SEC : pause_ns < PAUSE_LONGEST_NS ? pause_ns * 2 : pause_ns;
        store_relaxed(&not_before, clock_now() + pause_ns);
        if (err != BERTH_E_NO_DAEMON)
            say_why_not(o.ns ? o.ns : "default", has_secret, err);
        return false;
    }
    return true;
}

bool client_attach_as_heir(int fd)
{
    plock_take(&auto_lock);
    heir_of = fd;
    bool done = load_acquire(&C->attached) || (!client_stranded() && !too_early() && attach_auto());
    heir_of = -1;
    plock_release(&auto_lock);
    return done && fork_child_ready() == 0 && !C->daemon_lost;
}

bool client_unanswered(void)
{
    return load_acquire(&C->attached) && load_acquire(&C->forked) && !C->daemon_lost;
}

bool client_attach_auto(void)
{
    if (load_acquire(&C->attached))
        return fork_child_ready() == 0 && !C->daemon_lost;
    if (client_stranded())
        return false; /* its parent has said so */
    if (too_early())
        return false;
    plock_take(&auto_lock); /* who comes meanwhile has the same answer */
    bool done = load_acquire(&C->attached) || (!too_early() && attach_auto());
    plock_release(&auto_lock);
    return done;
}
