/* shim.h - what the files of the preload library share: the descriptor table and its sockets.
 *
 * Theory of operation
 *
 * fd_words[] has one word per descriptor number: 0 for everything that is the kernel's business alone, else the
 * index of a `struct sock` (low half) and its generation (high half). A call on a kernel descriptor costs that one
 * load. Socks are never unmapped, so a reader without a lock can look at one that is being closed: it reads kind
 * and handle first and the generation last, and takes no notice of a sock whose generation is not the word's.
 *
 *   FRESH     socket() was called and nothing has been decided. The descriptor is a placeholder, a dup of one
 *             unconnected TCP socket that is never bound or connected, which gives the kernel's own answers to
 *             calls on such a socket (ENOTCONN, POLLHUP, default options). Options set are recorded.
 *   BOUND     a real kernel socket after bind(); remembered so that a connect may still be cut through.
 *   SESSION   a berth session; the descriptor is a placeholder, or the bound kernel socket that holds its port.
 *   LISTENER  a kernel listening socket that listens under berth as well. Always O_NONBLOCK in the kernel, the
 *             program's own flag is in the sock.
 *   EPOLL     an epoll descriptor; berth's event set lies over it once a session or listener is in it, or in a set in it.
 *
 *   FRESH -> SESSION | BOUND | LISTENER | (forgotten: a plain kernel socket)
 *   BOUND -> SESSION | LISTENER | (forgotten);  LISTENER -> (forgotten)
 *
 * Moves of that state, references, option records and epoll registrations are made under shim_lock. Reading and
 * writing take no lock. Handles carry a generation of their own: I/O on a session that another thread closes ends in
 * BAD_HANDLE, which is EBADF.
 *
 * A child of vfork shares this memory but not the descriptors: there, calls on descriptors leave the table alone
 * (shim_foreign). A child of fork has its own copy.
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
#include "shim/real.h"

#define EXPORT __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define FD_MAX (1u << 20)

enum sock_kind { SOCK_FREE = 0, SOCK_FRESH, SOCK_BOUND, SOCK_SESSION, SOCK_LISTENER, SOCK_EPOLL, SOCK_INTERNAL };

struct reg;
struct option_set;

struct sock {
    uint64_t handle; /* SESSION, LISTENER; else 0 */
    uint32_t generation;
    uint8_t kind;
    uint8_t nonblock;    /* the program's O_NONBLOCK; kernel's own for BOUND. With a handle: see sock_nonblock */
    uint8_t family;      /* AF_INET, AF_INET6 */
    uint8_t connecting;  /* a non-blocking connect whose end connect() has not yet reported */
    int64_t rcv_timeout; /* ns; 0: none */
    int64_t snd_timeout;
    uint32_t refs; /* descriptors of this process */
    uint32_t next_free;
    uint32_t rcv_lowat;         /* SO_RCVLOWAT where above 1, else 0 */
    int32_t epfd;               /* EPOLL: the number it was first known by */
    struct option_set *options; /* NULL: none was set */
    struct reg *regs;           /* epoll registrations: of this sock, or in this set */
    struct reg *outer;          /* EPOLL: registrations of this set in others */
    union {
        struct evset *set;   /* EPOLL; NULL until it is needed */
        int64_t kernel_look; /* LISTENER: when the kernel's queue was last looked at */
    };
    uint8_t inherited;  /* EPOLL: came over fork, the kernel's part is the parent's too */
    uint8_t abort;      /* SO_LINGER with time 0 */
    uint8_t stack_turn; /* LISTENER: the kernel's queue gave the last one */
    uint8_t pad;
} __attribute__((aligned(64)));

extern uint64_t fd_words[FD_MAX];
extern struct sock *sock_pool;

/* ---- fdtable.c ---- */
void shim_lock(void);
void shim_unlock(void);
void shim_atfork_late(void); /* once the client library has registered its own fork handlers */
bool shim_foreign(void);     /* a child of vfork, or of a clone nobody told us of */
bool shim_usable(void);      /* attached, or can be */

static inline struct sock *sock_of(uint64_t word)
{
    return &sock_pool[(uint32_t)word];
}

static inline uint64_t fd_word(int fd)
{
    return likely((uint32_t)fd < FD_MAX) ? load_acquire(&fd_words[fd]) : 0;
}

/* The sock and a consistent copy of kind and handle, or SOCK_FREE. */
static inline enum sock_kind fd_view(int fd, struct sock **sock, uint64_t *handle)
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
struct sock *sock_alloc(enum sock_kind kind, int family); /* NULL: no memory. No reference yet */
uint64_t sock_word(const struct sock *s);
uint32_t socks_known(void);            /* of the pool, how many were ever in use, and one */
void fd_bind(int fd, struct sock *s);  /* one more reference */
struct sock *fd_take(int fd);          /* clears the word; the reference is the caller's */
void sock_put(struct sock *s, int fd); /* drops one; the last closes it. fd: the number it had */
void sock_forget(struct sock *s);      /* from now on a plain kernel socket under every number it has */
/* Calls `visit` for each descriptor of s. */
void sock_each_fd(struct sock *s, void (*visit)(int fd, void *arg), void *arg);

int placeholder_open(int family, bool cloexec); /* a new descriptor or -errno */
int placeholder_base(int family);               /* for asking defaults; -1 */
int scratch_socket(int family);                 /* for asking what an option becomes; -1 */
bool fd_internal(int fd);                       /* the shim's own or libberth's */
void fd_internal_lost(int fd);                  /* the program put something else there */

/* ---- errors.c ---- */
int error_number(int berth_error); /* the errno for it */
int fail(int berth_error);         /* sets errno, -1 */

/* One blocking call of the program. */
struct waiting {
    int64_t timeout;  /* by SO_RCVTIMEO or SO_SNDTIMEO, 0: none */
    int64_t deadline; /* 0: it has not waited yet */
    struct sleep_mark mark;
};

static inline struct waiting waiting_since_now(int64_t timeout)
{
    return (struct waiting){.timeout = timeout, .mark = sleep_mark_now()};
}

int64_t waiting_deadline(struct waiting *w);
int waited(struct waiting *w, int berth_error); /* 0: look again; else the errno to give up with */
int wait_session(struct waiting *w, uint64_t h, uint32_t events); /* until `events` may hold; as waited() */
/* After BUSY: until the other's span is closed, which no call that waits keeps open. A call that does not block waits as well, as it does
 * for a socket's lock in the kernel: EAGAIN would have the program wait for an event that does not come. */
int wait_span(struct waiting *w, uint64_t h, uint32_t events, bool block);

/* ---- socket.c ---- */
/* Make it a kernel socket under the same number. keep: stay BOUND instead of forgotten. 0 or -errno. Locks. */
int sock_to_kernel(int fd, struct sock *s, bool keep);
socklen_t sock_fill_addr(int family, const endpoint *ep, struct sockaddr *addr, socklen_t room);

/* ---- io.c ---- */
ssize_t session_recv(struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags);
ssize_t session_send(struct sock *s, uint64_t h, const struct iovec *iov, int count, int flags);
bool recv_told(uint64_t h,
               ssize_t r); /* a read failed by a reset that was told, or came after the end: it is the end */
int send_error(uint64_t h, int berth_error); /* the errno of a write that failed at its first byte */
void broken_pipe(void);                      /* SIGPIPE, to this thread */

#define IO_MAX ((size_t)INT32_MAX & ~4095ul) /* the kernel moves no more at once (MAX_RW_COUNT) */

/* An address that no program has anything at: a small number, or one that the kernel refuses without a look. Others are told from
 * good ones only by trying, and a program may wait for the signal that this brings. */
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
void sessions_lost(void);  /* they were the parent's, and could not be had here: their descriptors find the end */
void fd_to_kernel(int fd); /* whatever it is becomes a plain socket of the kernel's, if it can */

/* ---- exec.c ---- */
extern unsigned char shim_vfork_is_fork; /* there has been a session */
void rights_to_kernel(const struct msghdr *m);

/* ---- signals.c ---- */
void signals_after_fork(void);

/* ---- options.c ---- */
void options_replay(const struct option_set *set, int fd); /* by real setsockopt, all of them */
struct option_set *options_share(struct option_set *set);
void options_release(struct option_set *set);
void options_apply_session(struct sock *s, uint64_t handle); /* buffer sizes, once there is a session */
bool options_value(const struct option_set *set, int level, int name, void *value, socklen_t *len);

/* ---- epoll.c ---- */
/* The event set over that epoll descriptor, or NULL: the kernel alone has it. For who is about to sleep where other threads may put
 * a session into it meanwhile: made now. */
struct evset *epoll_stack_set(int epfd, bool sleeps);
/* under shim_lock: */
void regs_to_session(struct sock *s);
void regs_to_listener(struct sock *s);
void regs_session_to_kernel(struct sock *s);     /* the kernel's socket is under the number already */
void regs_out_of_kernel(struct sock *s, int fd); /* before another file takes the number */
void regs_into_kernel(struct sock *s, int fd);   /* after it; and they stay known only while s is */
void regs_drop_sock(struct sock *s, bool kernel);
void regs_drop_set(struct sock *ep);
void epoll_renumber(struct sock *ep); /* the number it was known by is no more */
void regs_after_fork(void);

#endif
