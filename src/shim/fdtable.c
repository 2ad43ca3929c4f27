/* fdtable.c - descriptor words, socks, placeholders, and what fork does to them. See shim.h.
 *
 * Internal descriptors (the unconnected sockets that placeholders are dups of, scratch sockets on which
 * option values are tried, and untouched ones that say what an option is by default) are opened on demand,
 * kept just below 1,024 or the limit, close-on-exec, and made again when the program has put something else in
 * their place.
 *
 * What placeholders are dups of is one socket for all of them, so nothing may ever become of it: whoever
 * reaches it by a system call of his own (io_uring, inline assembly) would connect them all. It is a TCP
 * socket of the other family, IPv6 for the program's IPv4 sockets and the reverse: that says ENOTCONN, EPIPE
 * and POLLHUP as any unconnected one, and refuses each address that the program would give it to bind or
 * connect (EINVAL or EAFNOSUPPORT). It is bound to a device that there is not, so that nobody could reach it
 * and it could reach nobody whatever is done to it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/hold.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/shim.h"

#define SOCKS_MAX FD_MAX
#define INTERNAL_MAX 8
#define INTERNAL_NOTHING 6
#define INTERNAL_AWAY 7
#define NO_DEVICE INT32_MAX

APART uint64_t fd_words[FD_MAX];
int fds_bound;
struct sock *sock_pool;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool locked_for_fork __attribute__((tls_model("initial-exec")));
static uint32_t socks_used = 1; /* index 0 is never used: a word of 0 means none */
static uint32_t free_head;
static uint32_t undecided, epolls;
static int own_pid;
/* for v4 and v6 each: what placeholders are dups of, scratch, defaults; then what reads as no descriptor, and away.c's.
 * Descriptor + 1; 0: none */
static int internal[INTERNAL_MAX];

static __thread bool locked __attribute__((tls_model("initial-exec")));

void shim_lock(void)
{
    hold_begin();
    pthread_mutex_lock(&lock);
    locked = true;
}

bool shim_locked(void)
{
    return locked;
}

void shim_unlock(void)
{
    locked = false;
    pthread_mutex_unlock(&lock);
    hold_end();
}

/* ---- fork ---- */

/* Registered twice: at load, and once more after libberth registered its own handlers, because prepare
 * handlers run last-registered first and shim_lock is taken before libberth's locks. The second run of each
 * does nothing. */
static void fork_prepare(void)
{
    if (!locked_for_fork) {
        user_look();
        away_settle();
        relay_before_fork();
        shim_lock();
        undecided_before_fork();
        regs_before_fork();
        locked_for_fork = true;
    }
}

static FORK_CODE void fork_parent(void)
{
    if (locked_for_fork) {
        locked_for_fork = false;
        shim_unlock();
    }
}

/* In an epoll set that both have, a number of ours and the same one of the parent's are to be of two files. */
static void placeholders_after_fork(void)
{
    for (int i = 0; i < 2; i++) {
        if (internal[i])
            sys_close(internal[i] - 1);
        internal[i] = 0;
    }
}

static FORK_CODE void fork_child(void)
{
    if (locked_for_fork) {
        own_pid = (int)sys_call(SYS_getpid, 0L, 0L, 0L, 0L);
        regs_after_fork();
        placeholders_after_fork();
        signals_after_fork();
    }
    fork_parent();
    if (unlikely(client_stranded())) /* told by the second run: libberth's handler stands between the two */
        sessions_lost();
}

static void register_fork(void)
{
    pthread_atfork(fork_prepare, fork_parent, fork_child);
}

void shim_atfork_late(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
}

static bool off; /* BERTH_OFF: this program, and what it starts, stays on the kernel */

__attribute__((constructor)) static void shim_init(void)
{
    real_resolve();
    log_share(); /* before the program forks */
    own_pid = (int)sys_call(SYS_getpid, 0L, 0L, 0L, 0L);
    register_fork();
    user_look();
    const char *says = getenv("BERTH_OFF");
    off = says && *says && strcmp(says, "0") != 0;
    if (!off)
        listeners_came();
}

bool shim_foreign(void)
{
    return own_pid && (int)sys_call(SYS_getpid, 0L, 0L, 0L, 0L) != own_pid;
}

bool shim_off(void)
{
    return off;
}

static bool usable(bool unanswered)
{
    if (off || program_alone())
        return false;
    user_look();
    if (!client_attach_auto() && !(unanswered && client_unanswered()))
        return false;
    shim_atfork_late();
    return true;
}

bool shim_usable(void)
{
    return usable(false);
}

bool shim_listens(void)
{
    return usable(true);
}

/* ---- socks ---- */

static bool pool_map(void)
{
    if (sock_pool)
        return true;
    void *p = mmap(NULL, (size_t)SOCKS_MAX * sizeof(struct sock), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    madvise(p, (size_t)SOCKS_MAX * sizeof(struct sock), MADV_NOHUGEPAGE);
    madvise(p, (size_t)SOCKS_MAX * sizeof(struct sock), MADV_DONTDUMP); /* a core would have the holes, too */
    store_release(&sock_pool, (struct sock *)p);
    return true;
}

static uint32_t is_undecided(uint32_t kind)
{
    return kind == SOCK_FRESH || kind == SOCK_BOUND;
}

void sock_become(struct sock *s, enum sock_kind kind)
{
    undecided += is_undecided(kind) - is_undecided(s->kind);
    epolls += (uint32_t)(kind == SOCK_EPOLL) - (uint32_t)(s->kind == SOCK_EPOLL);
    store_release(&s->kind, (uint8_t)kind);
}

uint32_t socks_undecided(void)
{
    return undecided;
}

uint32_t socks_epoll(void)
{
    return epolls;
}

struct sock *sock_alloc(enum sock_kind kind, int family)
{
    if (!pool_map())
        return NULL;
    struct sock *s;
    if (free_head) {
        s = &sock_pool[free_head];
        free_head = s->next_free;
    } else if (socks_used < SOCKS_MAX) {
        s = &sock_pool[socks_used++];
        s->generation = 1;
    } else {
        return NULL;
    }
    s->common = s->comes = s->stand_in = s->unsettled = 0;
    s->nonblock = s->real = s->abort = s->stack_turn = 0;
    s->rcv_timeout = s->snd_timeout = 0;
    s->refs = s->rcv_lowat = s->joint = s->file = s->options_seen = 0;
    s->options = NULL;
    s->regs = s->outer = NULL;
    s->set = NULL;
    s->epfd = -1;
    s->family = (uint8_t)family;
    store_release(&s->handle, 0);
    sock_become(s, kind);
    return s;
}

bool socks_with_berth(void)
{
    for (uint32_t i = 1; i < socks_used; i++) {
        uint8_t kind = load_relaxed(&sock_pool[i].kind);
        if (kind == SOCK_FRESH || kind == SOCK_SESSION || kind == SOCK_LISTENER)
            return true;
    }
    return false;
}

uint32_t socks_known(void)
{
    return socks_used;
}

uint64_t sock_word(const struct sock *s)
{
    return (uint64_t)s->generation << 32 | (uint32_t)(s - sock_pool);
}

/* The generation moves before kind and handle are used again: see fd_view. */
static void sock_free(struct sock *s)
{
    options_release(s->options);
    s->options = NULL;
    client_file_leave(s->file);
    s->file = 0;
    store_sc(&s->generation, s->generation + 1 ? s->generation + 1 : 1);
    sock_become(s, SOCK_FREE);
    s->next_free = free_head;
    free_head = (uint32_t)(s - sock_pool);
}

static void bound_reaches(int fd)
{
    int is = load_relaxed(&fds_bound);
    while (is <= fd && !compare_exchange_sc(&fds_bound, &is, fd + 1))
        ;
}

void fd_bind(int fd, struct sock *s)
{
    s->refs++;
    bound_reaches(fd);
    store_release(&fd_words[fd], sock_word(s));
}

struct sock *fd_take(int fd)
{
    uint64_t word = fd_word(fd);
    if (!word)
        return NULL;
    store_release(&fd_words[fd], 0);
    return sock_of(word);
}

void sock_put(struct sock *s, int fd)
{
    if (--s->refs) {
        /* the placeholder is never closed for good, so the kernel does not take this number out of its sets
         */
        if (s->kind == SOCK_FRESH)
            regs_out_of_kernel(s, fd);
        if (s->kind == SOCK_EPOLL && s->epfd == fd)
            epoll_renumber(s);
        return;
    }
    uint64_t h = s->handle;
    switch (s->kind) {
    case SOCK_FRESH:
        regs_drop_sock(s, true);
        break;
    case SOCK_SESSION:
        regs_drop_sock(s, false);
        (void)(session_aborts(s) ? client_abort(h) : client_close(h));
        break;
    case SOCK_AWAY:
        regs_drop_sock(s, false);
        away_closed(s);
        break;
    case SOCK_LISTENER:
        regs_drop_sock(s, false);
        (void)client_unlisten(h);
        break;
    case SOCK_EPOLL:
        regs_drop_set(s);
        if (s->set)
            evset_destroy(s->set);
        break;
    default:
        regs_drop_sock(s, false);
        break;
    }
    sock_free(s);
}

void sock_each_fd(struct sock *s, void (*visit)(int fd, void *arg), void *arg)
{
    uint64_t word = sock_word(s);
    uint32_t left = s->refs;
    for (int fd = 0; left && fd < fds_used(); fd++) {
        if (load_relaxed(&fd_words[fd]) == word) {
            visit(fd, arg);
            left--;
        }
    }
}

static void clear_word(int fd, void *arg)
{
    (void)arg;
    store_release(&fd_words[fd], 0);
}

void sock_forget(struct sock *s)
{
    sock_each_fd(s, clear_word, NULL);
    s->refs = s->rcv_lowat = 0;
    regs_drop_sock(s, false);
    sock_free(s);
}

/* ---- internal descriptors ---- */

static int internal_index(int fd)
{
    for (int i = 0; i < INTERNAL_MAX; i++)
        if (fd >= 0 && load_relaxed(&internal[i]) == fd + 1)
            return i;
    return -1;
}

bool fd_internal(int fd)
{
    return unlikely(internal_index(fd) >= 0) || client_owns_fd(fd);
}

void fd_internal_lost(int fd)
{
    int i = internal_index(fd);
    if (i >= 0)
        store_relaxed(&internal[i], 0);
}

void internals_close(void)
{
    for (int i = 0; i < INTERNAL_AWAY; i++) {
        int is = exchange_sc(&internal[i], 0);
        if (is)
            sys_close(is - 1);
    }
}

/* Takes `low` up to where the program does not look for its own; negative: there is no room. */
static long taken_up(long low)
{
    struct rlimit limit = {1024, 1024};
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    long floor = limit.rlim_cur < 1024 ? (long)limit.rlim_cur : 1024;
    long high = floor > 64 ? sys_fcntl(low, F_DUPFD_CLOEXEC, floor - 40) : -1;
    if (high >= 0)
        sys_close(low);
    return high;
}

static int internal_is(int i, int fd)
{
    bound_reaches(fd);
    store_relaxed(&internal[i], fd + 1);
    return fd;
}

static int internal_keep(int i, long low)
{
    long high = taken_up(low);
    return internal_is(i, (int)(high >= 0 ? high : low));
}

static int internal_open(int i, int family)
{
    int fd = load_relaxed(&internal[i]) - 1;
    if (likely(fd >= 0))
        return fd;
    long low = sys_socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return low < 0 ? (int)low : internal_keep(i, low);
}

void away_control_set(int fd)
{
    int was = exchange_sc(&internal[INTERNAL_AWAY], 0);
    if (was)
        sys_close(was - 1);
    if (fd >= 0)
        (void)internal_keep(INTERNAL_AWAY, fd);
}

int away_control(void)
{
    return load_relaxed(&internal[INTERNAL_AWAY]) - 1;
}

/* A file that was not opened: whoever reads, writes or polls it gets EBADF, as if it were not there. One of no
 * directory (of /dev/null where memfd_create or /proc is denied): it leads nowhere. Made with the first socket:
 * later, a descriptor may be the program's last one. */
static void nothing_open(void)
{
    if (load_relaxed(&internal[INTERNAL_NOTHING]))
        return;
    char path[sizeof "/proc/self/fd/" + 11] = "/dev/null";
    long file = sys_call(SYS_memfd_create, "", (long)MFD_CLOEXEC, 0L, 0L);
    if (file >= 0)
        (void)snprintf(path, sizeof path, "/proc/self/fd/%ld", file);
    long low = sys_call(SYS_openat, (long)AT_FDCWD, path, (long)(O_PATH | O_CLOEXEC), 0L);
    if (file >= 0)
        sys_close((int)file);
    long high = low < 0 ? low : taken_up(low);
    if (high >= 0)
        (void)internal_is(INTERNAL_NOTHING, (int)high);
    else if (low >= 0)
        sys_close(low);
}

int placeholder_base(int family)
{
    int i = family == AF_INET6, device = NO_DEVICE;
    int fd = load_relaxed(&internal[i]) - 1;
    if (likely(fd >= 0))
        return fd;
    long low = sys_socket(i ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (low == -EAFNOSUPPORT) /* a kernel without IPv6: this one refuses addresses, too */
        low = sys_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (low < 0)
        return (int)low;
    (void)sys_call6(SYS_setsockopt, low, SOL_SOCKET, SO_BINDTOIFINDEX, sys_arg(&device), sizeof device, 0);
    fd = internal_keep(i, low);
    nothing_open();
    return fd;
}

int scratch_socket(int family)
{
    return internal_open(2 + (family == AF_INET6), family);
}

int defaults_socket(int family)
{
    return internal_open(4 + (family == AF_INET6), family);
}

/* The lowest number that is free, for a copy of that. */
static int dup_low(int of, bool cloexec)
{
    long fd = sys_fcntl(of, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, 0L);
    if (fd == -EBADF) /* closed behind our back */
        fd_internal_lost(of);
    if (fd >= (long)FD_MAX) {
        sys_close(fd);
        fd = -EMFILE;
    }
    return (int)fd;
}

int placeholder_open(int family, bool cloexec)
{
    int base = placeholder_base(family), fd = base < 0 ? base : dup_low(base, cloexec);
    if (fd != -EBADF)
        return fd;
    base = placeholder_base(family);
    return base < 0 ? base : dup_low(base, cloexec);
}

int placeholder_reserve(int family, bool cloexec)
{
    int nothing = load_relaxed(&internal[INTERNAL_NOTHING]) - 1, base = placeholder_base(family);
    if (base < 0) /* there would be nothing to put there */
        return base;
    int fd = nothing < 0 ? nothing : dup_low(nothing, cloexec);
    return fd >= 0 ? fd : placeholder_open(family, cloexec);
}

int placeholder_recheck(int family, int fd, bool cloexec)
{
    int base = placeholder_base(family);
    if (base >= 0 && !load_relaxed(&internal[INTERNAL_NOTHING]))
        return fd;
    long flags = sys_fcntl(fd, F_GETFL, 0L);
    if (flags < 0 || !(flags & O_PATH))
        return placeholder_open(family, cloexec);
    if (base >= 0)
        return fd;
    sys_close(fd);
    return base;
}

void placeholder_put(int family, int fd, bool cloexec)
{
    int base = placeholder_base(family);
    if (base >= 0)
        (void)sys_call(SYS_dup3, (long)base, (long)fd, cloexec ? (long)O_CLOEXEC : 0L, 0L);
}
