/* shim.h - what the files of the preload library share: the descriptor table and its sockets.
 *
 * Theory of operation
 *
 * fd_words[] has one word per descriptor number: 0 for everything that is the kernel's business alone, else
 * the index of a `struct sock` (low half) and its generation (high half). A call on a kernel descriptor costs
 * that one load. Socks are never unmapped, so a reader without a lock can look at one that is being closed:
 * it reads kind and handle first and the generation last, and takes no notice of a sock whose generation is
 * not the word's.
 *
 *   FRESH     socket() was called and nothing has been decided. The descriptor is a placeholder, a dup of one
 *             unconnected TCP socket that cannot be bound or connected, which gives the kernel's own answers
 *             to reads, writes and waits (ENOTCONN, POLLHUP). What depends on the family (names, options) is
 *             asked of another. Options set are recorded.
 *   BOUND     a real kernel socket, after bind() as a rule; remembered so that a connect may still be cut through.
 *   SESSION   a berth session; the descriptor is a placeholder, or the bound kernel socket that holds its
 *             port.
 *   LISTENER  a kernel listening socket that listens under berth as well. Always O_NONBLOCK in the kernel,
 *             the program's own flag is in the sock.
 *   EPOLL     an epoll descriptor; berth's event set lies over it once a session or listener is in it, or in
 *             a set in it.
 *   AWAY      was a session when the process became another user. The first call on it brings a socket of the
 *             kernel's (away.c); the descriptor is a placeholder.
 *
 * What is FRESH when the process forks becomes BOUND, so that parent and child have one socket (undecided.c).
 *
 *   FRESH -> SESSION | BOUND | LISTENER | (forgotten: a plain kernel socket)
 *   BOUND -> SESSION | LISTENER | (forgotten);  LISTENER -> (forgotten)
 *   SESSION -> AWAY -> (forgotten)
 *
 * Moves of that state, references, option records and epoll registrations are made under shim_lock. Reading
 * and writing take no lock. Handles carry a generation of their own: I/O on a session that another thread
 * closes ends in BAD_HANDLE, which is EBADF.
 *
 * A child of vfork shares this memory but not the descriptors: there, calls on descriptors leave the table
 * alone (shim_foreign). A child of fork has its own copy.
 */
#ifndef BERTH_SHIM_SHIM_H
#define BERTH_SHIM_SHIM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/atomic.h"
#include "base/sleep.h"
#include "client/client.h"
#include "relay/pump.h"
#include "shim/real.h"

#define EXPORT __attribute__((visibility("default")))
/* libc's own of that name; needs <dlfcn.h> */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define FD_MAX (1u << 20)

enum sock_kind {
    SOCK_FREE = 0,
    SOCK_FRESH,
    SOCK_BOUND,
    SOCK_SESSION,
    SOCK_LISTENER,
    SOCK_EPOLL,
    SOCK_AWAY,
    SOCK_LENT,
    SOCK_INTERNAL
};

struct reg;
struct option_set;

struct sock {
    uint64_t handle; /* SESSION, LISTENER; else 0 */
    uint32_t generation;
    uint8_t kind;
    /* the program's O_NONBLOCK; kernel's own for BOUND. With a handle: see sock_nonblock */
    uint8_t nonblock;
    uint8_t family;      /* AF_INET, AF_INET6 */
    uint8_t real;        /* not FRESH: under the number is a kernel socket of its own */
    int64_t rcv_timeout; /* ns; 0: none */
    int64_t snd_timeout;
    uint32_t refs; /* descriptors of this process */
    uint32_t next_free;
    uint32_t rcv_lowat; /* SO_RCVLOWAT where above 1, else 0. Of a SESSION: client_lowat */
    int32_t epfd;       /* EPOLL: the number it was first known by */
    /* EPOLL: its number among the family, once it was there at a fork; 0: it is ours alone */
    uint32_t joint;
    uint32_t
        file; /* BOUND: its number among the family (client_file_new), once it was there at a fork; or 0 */
    uint32_t options_seen; /* BOUND, LISTENER: client_files_change when its options were last asked for */
    uint64_t cookie;       /* SESSION with a stand-in: what that is known by */
    struct option_set *options; /* NULL: none was set */
    struct reg *regs;           /* epoll registrations: of this sock, or in this set */
    struct reg *outer;          /* EPOLL: registrations of this set in others */
    union {
        struct evset *set;   /* EPOLL; NULL until it is needed */
        int64_t kernel_look; /* LISTENER: when the kernel's queue was last looked at; BOUND: see `comes` */
    };
    uint8_t stand_in;   /* SESSION: the descriptor is what stands for it, see passed.c */
    uint8_t abort;      /* SO_LINGER with time 0 */
    uint8_t shared;     /* AWAY: relatives have it, too */
    uint8_t unsettled;  /* SESSION: it was waited for in vain that somebody accepts it */
    uint8_t stack_turn; /* LISTENER: the kernel's queue gave the last one */
    uint8_t common;     /* BOUND, LISTENER: strangers have it, too, see handover.c */
    uint8_t comes; /* BOUND: it listens in the kernel, and under berth once it alone accepts; from kernel_look
                      on */
} __attribute__((aligned(64)));

extern uint64_t fd_words[FD_MAX];
extern int fds_bound; /* the highest number that ever had a word or was the shim's own, and one; only up */
extern struct sock *sock_pool;

/* ---- fdtable.c ---- */
void shim_lock(void);
void shim_unlock(void);
bool shim_locked(void);      /* by this thread */
void shim_atfork_late(void); /* once the client library has registered its own fork handlers */
bool shim_foreign(void);     /* a child of vfork, or of a clone nobody told us of */
bool shim_usable(void);      /* attached, or can be */
bool shim_listens(void);     /* that, or will be when the daemon has answered this child */
bool shim_off(void);         /* the user wants none of it */

static inline struct sock *sock_of(uint64_t word)
{
    return &sock_pool[(uint32_t)word];
}

static inline uint64_t fd_word(int fd)
{
    return likely((uint32_t)fd < FD_MAX) ? load_acquire(&fd_words[fd]) : 0;
}

/* Who looks at all of them: a page of the table that is looked at is one that exists, and that each fork copies. */
static inline int fds_used(void)
{
    return load_acquire(&fds_bound);
}

/* The sock and a consistent copy of kind and handle, or SOCK_FREE. For who only looks what there is. */
static inline enum sock_kind fd_look(int fd, struct sock **sock, uint64_t *handle)
{
    uint64_t word = fd_word(fd);
    if (likely(!word))
        return SOCK_FREE;
    struct sock *s = sock_of(word);
    enum sock_kind kind = (enum sock_kind)load_acquire(&s->kind);
    *handle = load_acquire(&s->handle);
    *sock = s;
    return load_acquire(&s->generation) == (uint32_t)(word >> 32) ? kind : SOCK_FREE;
}

void sessions_went_back(void);    /* passed.c: those that were recalled become the kernel's */
enum sock_kind away_used(int fd); /* away.c: it becomes the kernel's, SOCK_FREE */
enum sock_kind lent_used(int fd); /* lent.c: likewise */

/* The same for who does something with it. */
static inline enum sock_kind fd_view(int fd, struct sock **sock, uint64_t *handle)
{
    enum sock_kind kind = fd_look(fd, sock, handle);
    if (likely(kind == SOCK_SESSION && !load_relaxed(&client_recall_news)))
        return kind;
    if (unlikely(kind == SOCK_AWAY))
        return away_used(fd);
    if (unlikely(kind == SOCK_LENT))
        return lent_used(fd);
    if (likely(kind != SOCK_SESSION))
        return kind;
    sessions_went_back();
    return fd_look(fd, sock, handle);
}

/* O_NONBLOCK. Of a session or listener relatives have it too, so libberth keeps it where all find it. */
static inline bool sock_nonblock(struct sock *s)
{
    uint64_t h = load_acquire(&s->handle);
    return h ? client_nonblock(h, s->nonblock) : s->nonblock;
}

static inline void sock_set_nonblock(struct sock *s, bool on)
{
    uint64_t h = load_acquire(&s->handle);
    s->nonblock = on;
    if (h)
        client_set_nonblock(h, on);
}

static inline bool fd_session(int fd, struct sock **sock, uint64_t *handle)
{
    return unlikely(fd_view(fd, sock, handle) == SOCK_SESSION);
}

static inline enum sock_kind fd_kind(int fd, struct sock **sock)
{
    uint64_t handle;
    return fd_view(fd, sock, &handle);
}

/* All under shim_lock. */
void sock_become(struct sock *s, enum sock_kind kind);
uint32_t socks_undecided(void);                           /* how many are FRESH or BOUND */
uint32_t socks_epoll(void);                               /* how many are epoll sets */
struct sock *sock_alloc(enum sock_kind kind, int family); /* NULL: no memory. No reference yet */
uint64_t sock_word(const struct sock *s);
uint32_t socks_known(void);            /* of the pool, how many were ever in use, and one */
bool socks_with_berth(void);           /* is any more than a plain socket of the kernel's? */
void fd_bind(int fd, struct sock *s);  /* one more reference */
struct sock *fd_take(int fd);          /* clears the word; the reference is the caller's */
void sock_put(struct sock *s, int fd); /* drops one; the last closes it. fd: the number it had */
void sock_forget(struct sock *s);      /* from now on a plain kernel socket under every number it has */
/* Calls `visit` for each descriptor of s. */
void sock_each_fd(struct sock *s, void (*visit)(int fd, void *arg), void *arg);

int placeholder_open(int family, bool cloexec); /* a new descriptor or -errno */
/* The same for one that nobody shall find before it is bound: until it is put there, its number answers EBADF. */
int placeholder_reserve(int family, bool cloexec);
/* That number; another, where somebody has closed it meanwhile; or -errno, and it is closed. */
int placeholder_recheck(int family, int fd, bool cloexec);
void placeholder_put(int family, int fd, bool cloexec);
int placeholder_base(int family); /* what placeholders are dups of; negative: none */
int defaults_socket(int family);  /* for asking what was never set; negative: none */
int scratch_socket(int family);   /* for asking what an option becomes; likewise */
bool fd_internal(int fd);         /* the shim's own or libberth's */
void internals_close(void);       /* relatives have them, too: they are made anew */
int away_control(void);           /* away.c's, or -1 */
void away_control_set(int fd);
void fd_internal_lost(int fd); /* the program put something else there */

/* ---- errors.c ---- */
int error_number(int berth_error); /* the errno for it */
int fail(int berth_error);         /* sets errno, -1 */

/* One blocking call of the program. */
struct waiting {
    int64_t timeout;  /* by SO_RCVTIMEO or SO_SNDTIMEO, 0: none */
    int64_t deadline; /* 0: it has not waited yet */
    bool moved;       /* bytes: a handler ends it with those, whatever SA_RESTART says */
    struct sleep_mark mark;
};

#define CALL_MOVED 0x10000000 /* a flag beside MSG_...: the program's call has moved bytes before */

static inline struct waiting waiting_since_now(int64_t timeout)
{
    return (struct waiting){.timeout = timeout, .mark = sleep_mark_now()};
}

int64_t waiting_deadline(struct waiting *w);
int waited(struct waiting *w, int berth_error); /* 0: look again; else the errno to give up with */
int wait_session(struct waiting *w, uint64_t h, uint32_t events); /* until `events` may hold; as waited() */
/* After BUSY: until the other's span is closed, which no call that waits keeps open. A call that does not
 * block waits as well, as it does for a socket's lock in the kernel: EAGAIN would have the program wait for
 * an event that does not come. */
int wait_span(struct waiting *w, uint64_t h, uint32_t events, bool block);

/* ---- poll.c ---- */
/* client_poll, with whatever relatives do to sets meanwhile done here as well. */
int poll_stack(struct client_poll_item *items, int n, struct pollfd *kfds, int nk, int64_t timeout,
               const sigset_t *mask, struct client_room *rooms);

/* ---- socket.c ---- */
/* Make it a kernel socket under the same number. keep: stay BOUND instead of forgotten. 0 or -errno. Locks.
 */
int sock_to_kernel(int fd, struct sock *s, bool keep);
socklen_t sock_fill_addr(int family, const endpoint *ep, struct sockaddr *addr, socklen_t room);

/* The next two under shim_lock. */
int fresh_to_bound(int fd, struct sock *s); /* 0 or -errno */
/* Before a fork: a non-blocking connect that waits for room with its listener. A child could not go on with it. */
void queued_to_kernel(int fd, struct sock *s);

/* ---- undecided.c ---- */
void undecided_before_fork(void); /* under shim_lock */
/* BOUND: others have it as well, or it is the kernel's already in a way that a session could not go on with. */
bool undecided_joint(int fd, struct sock *s);

/* ---- io.c ---- */
ssize_t session_recv(int fd, struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags);
ssize_t session_send(int fd, struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags);
bool recv_told(uint64_t h,
               ssize_t r); /* a read failed by a reset that was told, or came after the end: it is the end */
int send_error(uint64_t h, int berth_error); /* the errno of a write that failed at its first byte */
void broken_pipe(void);                      /* SIGPIPE, to this thread */

#define IO_MAX ((size_t)INT32_MAX & ~4095ul) /* the kernel moves no more at once (MAX_RW_COUNT) */

/* An address that no program has anything at: a small number, or one that the kernel refuses without a look.
 * Others are told from good ones only by trying, and a program may wait for the signal that this brings. */
static inline bool pointer_refused(const void *p)
{
#if defined(__aarch64__) /* the upper byte may be a tag of the program's */
    return false;
#else
    return (intptr_t)p < 0;
#endif
}

static inline bool pointer_wild(const void *p)
{
    return (uintptr_t)p < 4096 || pointer_refused(p);
}

/* So long that no program's memory holds it (of 2^47 bytes, whatever a machine can have beyond). */
static inline bool range_refused(const void *p, size_t len)
{
    return len >= 1ul << 47 || ((uintptr_t)p << 8 >> 8) + len >= 1ul << 47;
}

/* ---- relay.c ---- */
extern uint8_t relay_unaccepted; /* a session was connected since it was last known that all were accepted */
void relay_before_fork(void);
void relay_before_exec(void);
void relay_exec_failed(void);
/* they were the parent's, and could not be had here: their descriptors find the end */
void sessions_lost(void);
/* the same of a session that other processes hold, too, for a program that may not know that it has it: lent.c */
bool fd_lent(int fd);
void fd_to_kernel(int fd); /* whatever it is becomes a plain socket of the kernel's, if it can */

/* A kernel connection from that address (or near it) to that one, which the session goes on by. 0 or -errno.
 */
int relay_to(int family, const endpoint *from, const endpoint *to, session_handle h, int64_t patience);

/* Waits for somebody to accept it, once and for about a second; where that is slow the kernel's listener gets it.
 * False: nobody has, or it is not connected. */
bool session_settle(struct sock *s, uint64_t h);
/* The kernel's socket `theirs` (-1: what is there) has its numbers and registrations from now on; the handle is
 * the caller's. False: it is another's meanwhile. */
bool session_replaced(int fd, struct sock *s, int theirs);
/* A connection of the kernel's that looks like that session: 0 or -errno. */
int session_pair(struct sock *s, uint64_t h, int *theirs, int *ours);

/* ---- passed.c ---- */
/* Does no relative hold it any more? Whoever forked us, or was forked, may be just closing his copy. */
bool session_alone(uint64_t h, int64_t end);
extern const int64_t session_shared_ns; /* how long that is worth to be waited for */
/* Has that session gone back meanwhile? Then the descriptor is the kernel's. */
bool session_went_back(const struct sock *s, uint64_t h);
uint32_t sessions_gone_back(void);   /* how many, ever */
bool session_passes(int fd);         /* to another program; false: it does not, or not as a session */
void session_came(int fd);           /* if it is one */
bool came_marked(int fd, long mark); /* a TCP socket of that mark, of which nothing is known here yet */
void exec_begins(void);
bool exec_passes(int fd); /* as session_passes */
bool exec_lends(int fd);  /* as fd_lent */
void exec_failed(void);   /* and what was passed is taken back */

/* Forks off a process, nobody's child, that runs that and does not return. It has nothing of this one but the
 * descriptor `keep`, which may have another number there, and that session or (0) all. Its pid, 0: there could be none. */
pid_t relay_fork(session_handle h, void (*run)(void *arg, int fd), void *arg, int keep);
/* a kernel socket with a relay behind it, or -errno */
int relay_make(struct sock *s, session_handle h, enum relay_reads reads);
void sock_put_over(struct sock *s, int with); /* under every number it has. Under shim_lock */

/* ---- lent.c ---- */
bool lent_mark(int fd); /* false: the program has signals of it, which stay */
void lent_came(int fd); /* if it is one */

/* ---- away.c ---- */
extern uint32_t away_count;
void sessions_go_away(void);      /* before this process becomes another user */
void away_closed(struct sock *s); /* its last descriptor is. Under shim_lock */
void away_watched(void);          /* those in epoll sets are used now */
void away_settle(void);           /* all are */

/* ---- handover.c ---- */
int socket_option(int fd, int level, int name); /* the kernel's; -1: it has none */
bool socket_common(int fd);                     /* strangers have it, too */
uint64_t socket_cookie(int fd);
int socket_backlog(int fd);              /* of a listener; -1: not known */
void listener_plain(int fd);             /* O_NONBLOCK in the kernel is as the program has it, from now on */
void listener_leaves(int fd, int until); /* others get it: until that process has ended, or (0) for good */
void listener_came(int fd);              /* if it is one */
void listeners_came(void);               /* over exec */

/* ---- exec.c ---- */
extern unsigned char shim_vfork_is_fork;   /* there has been a session */
void rights_leave(const struct msghdr *m); /* before they are sent */
void rights_came(const struct msghdr *m);

/* ---- alone.c ---- */
bool program_alone(void); /* it cannot be followed: the kernel's sockets only */
bool ring_refused(void);  /* by a ring of io_uring sockets could be reached; else it is alone from now on */

/* ---- user.c ---- */
void user_look(void); /* has this process become another user? */
long user_by_call(long (*call)(long, ...), long n, uid_t a, uid_t b, uid_t c);

/* ---- signals.c ---- */
void signals_after_fork(void);

/* ---- options.c ---- */
void options_replay(struct sock *s, int fd); /* by real setsockopt, all of them */
/* BOUND, LISTENER: what others have set on it is known from now on. */
void options_follow(struct sock *s, int fd);
/* SO_RCVTIMEO, SO_SNDTIMEO of a session; SO_LINGER with time 0. Whoever of its holders has set it. */
int64_t session_rcv_timeout(const struct sock *s, uint64_t h);
int64_t session_snd_timeout(const struct sock *s, uint64_t h);
bool session_aborts(const struct sock *s);
/* F_SETOWN and its kind, O_ASYNC (as F_SETFL): what a session says of them. */
int session_set_owner(struct sock *s, int cmd, void *arg);
int session_owner_is(struct sock *s, int cmd, void *arg);
struct option_set *options_share(struct option_set *set);
void options_release(struct option_set *set);
void options_apply_session(struct sock *s, uint64_t handle); /* buffer sizes, once there is a session */
bool options_value(const struct sock *s, int level, int name, void *value, socklen_t *len);
/* Of a FRESH or SESSION: what to ask of its family and its defaults, since the placeholder is of the other. */
int fd_answering(int fd, struct sock *s, enum sock_kind kind);

/* ---- epoll.c ---- */
/* The event set over that epoll descriptor, or NULL: the kernel alone has it. For who is about to sleep where
 * other threads may put a session into it meanwhile: made now. */
struct evset *epoll_stack_set(int epfd, bool sleeps);
/* under shim_lock: */
void regs_to_session(struct sock *s);
void regs_to_listener(struct sock *s);
void regs_session_gone(struct sock *s);          /* they wait until it is a kernel's socket */
void regs_session_to_kernel(struct sock *s);     /* the kernel's socket is under the number already */
void regs_out_of_kernel(struct sock *s, int fd); /* before another file takes the number */
void regs_into_kernel(struct sock *s, int fd);   /* after it; and they stay known only while s is */
void regs_drop_sock(struct sock *s, bool kernel);
void regs_drop_set(struct sock *ep);
void epoll_renumber(struct sock *ep); /* the number it was known by is no more */
void regs_before_fork(void);
void regs_after_fork(void);
/* What relatives have done to the sets that are theirs as well is done here. Locks, if there is anything;
 * then before a wait as well. */
void sets_catch_up(void);

#endif
