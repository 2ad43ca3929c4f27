/* berth/berth.h - libberth: sessions over shared memory between the apps of one host.
 *
 * A process attaches once and is then an app worker. All functions may be called from any thread, and, after
 * fork(), from the child too, which is a worker of the same app. None of them raises SIGPIPE or touches errno
 * unless it returns BERTH_E_SYSTEM.
 *
 * Time: timeouts are in nanoseconds; 0 never blocks, negative waits for ever.
 * Handles carry a generation: one that was closed, or that is another's, gives BERTH_E_BAD_HANDLE everywhere.
 * Waiting: a blocked call spins for the spin budget (50 microseconds unless set otherwise; not at all when
 * the peer last ran on the caller's own CPU, or when the process has one CPU) and then sleeps in the kernel.
 */
#ifndef BERTH_BERTH_H
#define BERTH_BERTH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "berth/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BERTH_PROTO_TCP 6

/* A place to listen at or to connect to. IPv4 addresses are kept as ::ffff:a.b.c.d in `addr`. */
struct berth_endpoint {
    uint8_t addr[16];
    uint16_t port;  /* host byte order; 1-65535, 0 only to listen on any free one */
    uint8_t proto;  /* BERTH_PROTO_TCP */
    uint8_t family; /* 4 or 6 */
};

typedef uint64_t berth_session;  /* 0 is never valid */
typedef uint64_t berth_listener; /* 0 is never valid */

/* ---- attach -------------------------------------------------------------------------------------------- */

#define BERTH_ATTACH_LOCAL 1u  /* sessions with apps on this host */
#define BERTH_ATTACH_GLOBAL 2u /* sessions with other hosts: no transport carries them yet */
#define BERTH_ATTACH_PROXY 4u  /* may be the target of redirects */
#define BERTH_ATTACH_JOIN 8u   /* become a further worker of the app of that name, if this user has one */

struct berth_attach_options {
    const char *name;   /* of the app, 1-63 bytes; NULL: the program's own name */
    const char *ns;     /* namespace id, 1-63 bytes; NULL: "default" */
    const char *secret; /* the namespace's secret, up to 127 bytes; NULL: none */
    /* NULL: BERTH_RUNTIME_DIR, else /run/berth as root, else $XDG_RUNTIME_DIR/berth where that is a directory
     * of the user's own, else /tmp/berth-UID */
    const char *runtime_dir;
    uint32_t flags;        /* BERTH_ATTACH_*; 0 means LOCAL */
    uint64_t rx_fifo_size; /* the most a fifo towards this app may hold, bytes, 4 KiB-64 MiB; 0: 4 MiB */
    uint64_t tx_fifo_size; /* the same for what it sends */
    uint64_t segment_size; /* first segment of each outbox, bytes, 1 MiB-1 GiB; 0: 1 MiB */
    int64_t spin_ns;       /* spin budget, 0-1,000,000 ns; negative: BERTH_SPIN_US, else 50 microseconds */
};

/* berth_attach - make this process an app worker.
 * options: NULL takes every default. Strings are copied.
 * Blocks for a round trip to the daemon, 5 seconds at most. Any thread; a second attach is refused.
 * Returns 0, or ALREADY_ATTACHED, NO_DAEMON, UNKNOWN_NAMESPACE, WRONG_SECRET, PERMISSION, VERSION,
 * NO_MEMORY, LIMIT, INVALID (an option is out of range), DAEMON_GONE. */
int berth_attach(const struct berth_attach_options *options);

/* berth_detach - close every listener and session of this worker and leave. Peers see what a close shows
 * them. Handles are invalid afterwards; no other thread may be inside libberth. Blocks for a round trip to the
 * daemon. Returns 0 or NOT_ATTACHED. */
int berth_detach(void);

/* ---- endpoints and URIs -------------------------------------------------------------------------------- */

/* berth_endpoint_parse - turn tcp://127.0.0.1:80, tcp://127.0.0.1/80, tcp://[::1]:80 or tcp://::1/80 into an
 * endpoint.
 * for_listen: not 0 admits port 0.
 * message, of message_size bytes (may be NULL, 0): receives, on BERTH_E_URI and UNSUPPORTED, a text that
 * points at the offending place.
 * Returns 0, INVALID, URI or UNSUPPORTED. Does not block; any thread. */
int berth_endpoint_parse(const char *uri, int for_listen, struct berth_endpoint *out, char *message,
                         size_t message_size);

/* berth_endpoint_format - "127.0.0.1:80" or "[::1]:80" into out, always terminated.
 * Returns the length needed without the zero. */
int berth_endpoint_format(const struct berth_endpoint *ep, char *out, size_t size);

/* ---- listeners ----------------------------------------------------------------------------------------- */

struct berth_listen_options {
    uint32_t backlog;   /* sessions not yet accepted that one app may have, 1-65535; 0: 128 */
    uint32_t v6only;    /* not 0: a listener on :: takes no IPv4 */
    uint32_t reuseport; /* not 0: share the endpoint with other listeners of this user that say so too */
};

/* berth_listen, berth_listen_uri - take sessions at an endpoint of the local table.
 * options: NULL for defaults. *out is valid until berth_unlisten, and in children forked later.
 * Blocks for a round trip to the daemon. Returns 0, NOT_ATTACHED, ADDRESS_IN_USE, ADDRESS, URI, NO_ROUTE
 * (the scopes asked for at attach have no such table), PERMISSION, LIMIT, NO_MEMORY, INVALID, DAEMON_GONE. */
int berth_listen(const struct berth_endpoint *ep, const struct berth_listen_options *options,
                 berth_listener *out);
int berth_listen_uri(const char *uri, const struct berth_listen_options *options, berth_listener *out);

/* berth_listener_endpoint - where it listens, with the port that was chosen for 0. */
int berth_listener_endpoint(berth_listener listener, struct berth_endpoint *out);

/* berth_accept - take the oldest waiting session.
 * Any worker that holds the listener may accept; one is woken. Returns 0, WOULD_BLOCK (timeout 0),
 * TIMED_OUT, INTERRUPTED, BAD_HANDLE, NO_MEMORY, LIMIT. */
int berth_accept(berth_listener listener, int64_t timeout_ns, berth_session *out);

/* berth_unlisten - this worker listens there no longer. When the last worker has done so, what waits is
 * reset and connects are refused. Returns 0, BAD_HANDLE or NOT_OWNER. */
int berth_unlisten(berth_listener listener);

/* ---- sessions ------------------------------------------------------------------------------------------ */

/* berth_connect, berth_connect_uri - open a session with whoever listens there.
 * Completes without the acceptor running. The first connect to an app costs a round trip to the daemon.
 * With timeout 0 and a full backlog: IN_PROGRESS and a handle that becomes writable when the connect is
 * through (berth_error then says how it went). Returns 0, IN_PROGRESS, REFUSED (an address of this host, where
 * nobody listens under berth), NO_ROUTE (an address elsewhere, or new connections are paused), TIMED_OUT,
 * NOT_ATTACHED, ADDRESS, URI, LIMIT, NO_MEMORY, PERMISSION, INTERRUPTED, DAEMON_GONE. */
int berth_connect(const struct berth_endpoint *ep, int64_t timeout_ns, berth_session *out);
int berth_connect_uri(const char *uri, int64_t timeout_ns, berth_session *out);

/* berth_read - up to len bytes, as soon as there is one.
 * Returns the count, 0 at the end of the stream (or for len 0), or WOULD_BLOCK, TIMED_OUT, INTERRUPTED,
 * RESET, BAD_HANDLE, SEGMENT_TIMED_OUT, PROTOCOL. Several threads may read one session; each byte goes to
 * one of them. */
ssize_t berth_read(berth_session session, void *buf, size_t len, int64_t timeout_ns);
ssize_t berth_readv(berth_session session, const struct iovec *iov, int count, int64_t timeout_ns);

/* berth_write - put bytes into the fifo: all of them, waiting for space within the timeout.
 * Returns the count written (less than len when the time ran out after some went), or, when nothing was
 * written, WOULD_BLOCK, TIMED_OUT, INTERRUPTED, RESET, CLOSED, BAD_HANDLE, NO_MEMORY. */
ssize_t berth_write(berth_session session, const void *buf, size_t len, int64_t timeout_ns);
ssize_t berth_writev(berth_session session, const struct iovec *iov, int count, int64_t timeout_ns);

/* Zero-copy. A span lies in shared memory: the peer may still change what is read, so copy what you validate.
 *
 * berth_read_spans - what can be read now, in one or two pieces, without taking it.
 * Waits as berth_read. Returns the number of spans filled (1 or 2), 0 at the end of the stream, or an
 * error. Until berth_read_consume no other read of this session is possible (BUSY). */
int berth_read_spans(berth_session session, struct iovec spans[2], int64_t timeout_ns);
/* berth_read_consume - take len bytes (0: none) off the front and give the spans back. */
int berth_read_consume(berth_session session, size_t len);
/* berth_write_spans - room for at least 1 and, where it can be had, for `want` bytes, in one or two pieces.
 * Until berth_write_commit no other write of this session is possible (BUSY). */
int berth_write_spans(berth_session session, size_t want, struct iovec spans[2], int64_t timeout_ns);
/* berth_write_commit - send the first len bytes (0: none) of the spans. */
int berth_write_commit(berth_session session, size_t len);

#define BERTH_SHUT_RD 1
#define BERTH_SHUT_WR 2

/* berth_shutdown - end one half or both (BERTH_SHUT_RD | BERTH_SHUT_WR); shutdown(2), RFC 9293 3.6.
 * After SHUT_WR the peer reads what was sent, then the end of the stream. Returns 0 or BAD_HANDLE. */
int berth_shutdown(berth_session session, int how);

/* berth_close - give the session up. What was written is still delivered; when unread bytes are left the
 * peer sees a reset, as RFC 9293 and Linux have it. The handle is invalid at once. Returns 0, BAD_HANDLE,
 * or NOT_OWNER for a session of another process of this app: only who holds it may end it. */
int berth_close(berth_session session);

/* berth_reset - give the session up and tell the peer so: its unread bytes are lost, its calls give RESET. */
int berth_reset(berth_session session);

int berth_local_endpoint(berth_session session, struct berth_endpoint *out);
int berth_remote_endpoint(berth_session session, struct berth_endpoint *out);

/* berth_error - the session's pending error, 0 when there is none; reading it clears it (as SO_ERROR). */
int berth_error(berth_session session);

enum berth_option {
    BERTH_OPT_RX_FIFO_SIZE =
        1, /* bytes, 4,096-67,108,864: the most this side lets the peer send ahead (advice to it) */
    BERTH_OPT_TX_FIFO_SIZE = 2, /* bytes, 4,096-67,108,864 */
    BERTH_OPT_READABLE = 3,     /* get only: bytes that can be read now */
    BERTH_OPT_UNREAD = 4,       /* get only: bytes written that the peer has not read yet */
};

int berth_option_set(berth_session session, enum berth_option option, uint64_t value);
int berth_option_get(berth_session session, enum berth_option option, uint64_t *value);

/* ---- event wait ---------------------------------------------------------------------------------------- */

#define BERTH_IN 0x001u          /* readable, or a session to accept, or the end of the stream */
#define BERTH_OUT 0x004u         /* writable, or a connect that is through */
#define BERTH_ERROR 0x008u       /* reported always */
#define BERTH_HUP 0x010u         /* both halves are over; reported always */
#define BERTH_RDHUP 0x2000u      /* the peer has ended its half */
#define BERTH_EDGE (1u << 31)    /* report changes, not states */
#define BERTH_ONESHOT (1u << 30) /* once, until modified */

struct berth_event {
    uint32_t events;
    uint32_t pad;
    uint64_t data;
};

typedef struct berth_waitset berth_waitset;

/* berth_waitset_create - a set of sessions and listeners to wait for. Owned by the caller:
 * berth_waitset_destroy.
 * NULL with errno when memory or descriptors run out. */
berth_waitset *berth_waitset_create(void);
void berth_waitset_destroy(berth_waitset *set);
/* handle: of a session or a listener. events: BERTH_*. data is given back with each event. Closing removes.
 * Returns 0, BAD_HANDLE, BUSY (is in it already), NO_MEMORY; modify and remove: BAD_HANDLE when it is not
 * in it. */
int berth_waitset_add(berth_waitset *set, uint64_t handle, uint32_t events, uint64_t data);
int berth_waitset_modify(berth_waitset *set, uint64_t handle, uint32_t events, uint64_t data);
int berth_waitset_remove(berth_waitset *set, uint64_t handle);
/* berth_waitset_wait - up to max events. Returns the count, 0 when the time is over, or INTERRUPTED,
 * INVALID. */
int berth_waitset_wait(berth_waitset *set, struct berth_event *events, int max, int64_t timeout_ns);
/* berth_waitset_fd - a descriptor for poll, epoll or any event loop: it becomes readable when
 * berth_waitset_wait has something to say, provided that the last call with timeout 0 returned 0. It
 * belongs to the set. */
int berth_waitset_fd(berth_waitset *set);

#ifdef __cplusplus
}
#endif

#endif
