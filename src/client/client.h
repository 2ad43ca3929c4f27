/* client.h - what libberth offers to the two things built on it: the public API (api.c) and the preload
 * library.
 *
 * Everything here is non-blocking unless its name or comment says otherwise; results are 0 or a count, or a
 * negative enum berth_error. The process is one worker; its state is global to the library (a fork makes the
 * child another worker of the same app, see fork.c). All functions may be called from any thread. None
 * touches errno, none calls a libc function that the preload library replaces.
 *
 * What blocks ends with INTERRUPTED when a handler of the program has run: since `mark` (base/sleep.h), where
 * it is asked for, else since the call began. Whether to go on is the caller's decision. pthread_cancel ends
 * it, too, and leaves nothing undone.
 */
#ifndef BERTH_CLIENT_CLIENT_H
#define BERTH_CLIENT_CLIENT_H

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "base/result.h"
#include "base/sleep.h"
#include "berth/berth.h"
#include "session/endpoint.h"

typedef uint64_t session_handle;  /* generation << 32 | index; 0 never valid */
typedef uint64_t listener_handle; /* the same, of the listener table, with bit 63 set */

static inline bool handle_is_listener(uint64_t h)
{
    return h >> 63;
}

/* ---- attach ---- */
must_use int client_attach(const struct berth_attach_options *options); /* blocks for a round trip */
int client_detach(void);
bool client_attached(void);
/* For the preload library: attach with defaults if not yet tried in this process; false where there is no
 * daemon (remembered for a second, so that a program without a daemon does not pay for each connect). Blocks
 * for a round trip once. */
bool client_attach_auto(void);
/* A forked child that the daemon has not answered yet (hello.c): it can do what needs no answer. */
bool client_unanswered(void);
/* The same in the app of a session that was given away; fd: what stands for it (client_give). Who is attached
 * stays what it is. */
bool client_attach_as_heir(int fd);
/* A child that found no place in its family: it has nothing of its parent's and cannot attach, since the
 * program may still have handles of before, which must never come to name anything else. */
bool client_stranded(void);
/* This process becomes another user, and leaves its family: all that others may write is no longer mapped,
 * and what it has is its own. Its listeners it keeps. Sessions are closed before, or end now, where the
 * family has others in it. */
void client_part(void);
bool client_related(void); /* are there others in its family? */

/* ---- listeners ---- */
#define LISTEN_V6ONLY 1u
#define LISTEN_REUSEPORT 2u
#define LISTEN_KERNEL 4u /* a kernel socket holds the port */
#define LISTEN_COMMON 8u /* which programs outside berth may have, too */
/* socket: SO_COOKIE of the kernel socket that holds the port, 0: none. A round trip. */
must_use int client_listen(const endpoint *ep, uint32_t flags, uint32_t backlog, uint64_t socket,
                           listener_handle *out);
must_use int client_listener_backlog(listener_handle l, uint32_t backlog); /* listen() called again */
must_use int client_listener_endpoint(listener_handle l, endpoint *out);
must_use int client_accept(listener_handle l, session_handle *out); /* WOULD_BLOCK when none waits */
/* Asks `may` (perhaps more than once) before it takes one; where not, the session goes on waiting: LIMIT. */
must_use int client_accept_if(listener_handle l, bool (*may)(void *arg), void *arg, session_handle *out);
/* Blocks until a session waits at l, or `kernel_fd` (-1: none) is readable; one of several sleepers in
 * several processes is woken. 0, TIMED_OUT, INTERRUPTED, BAD_HANDLE. */
must_use int client_listener_wait(listener_handle l, int kernel_fd, int64_t deadline_ns,
                                  const struct sleep_mark *mark);
bool client_listener_ready(listener_handle l); /* would client_accept find one? (a system call) */
bool client_listener_late(listener_handle l);  /* does one wait there whose memory has not come yet? */
int client_unlisten(listener_handle l);
/* From now on connects to it go to the kernel's listener, which others than its holders have, too: until the process
 * of `pidfd` has ended, or (-1) for good. Whoever was offered before still waits at l. A round trip. */
int client_listener_hide(listener_handle l, int pidfd);
/* Has another of the family accepted there who lives and has it still, or (`by_us`) this process? */
bool client_listener_served(listener_handle l, bool by_us);
int client_listener_shut(listener_handle l); /* the same for every process that holds it */

/* ---- connect ---- */
/* Is there a listener for that destination under berth? No system call. A miss: the kernel's business. */
bool client_has_route(const endpoint *dst);
/* src: NULL, or an address and port that the caller holds in the kernel. 0; IN_PROGRESS (handle valid: the
 * listener's queue is full); or REFUSED, NO_ROUTE (not under berth, or not admitted), LIMIT, NO_MEMORY … */
must_use int client_connect(const endpoint *dst, const endpoint *src, session_handle *out);
/* The same in two steps: a session that nobody but the caller knows of, and its offer to the listener. */
must_use int client_connect_begin(const endpoint *dst, const endpoint *src, session_handle *out);
must_use int client_connect_offer(session_handle s); /* 0, IN_PROGRESS; else it is the caller's to close */
bool client_connect_queued(session_handle s);        /* tries again: does it still wait for room? */
bool client_queued(void);                            /* perhaps one of them does */
void client_connect_undo(
    session_handle s); /* begun, and shall never be offered; also by a child forked meanwhile */
/* ends one in progress with RESET; false: it is through */
bool client_connect_stop(session_handle s);
/* Before a fork and before the end: connections that a listener leaves unaccepted, whose kernel socket others may
 * have, go there now, and not later. Waits for that, half a second at most. */
void client_offers_settle(void);
/* One that this process has begun, and that nobody has accepted yet, is withdrawn and replayed to the kernel's listener:
 * who has it next cannot go on offering it. Nothing where that cannot be: the listener has no kernel socket, the daemon
 * is slow or gone, this process has become another user. client_offers_settle waits for it. */
void client_offer_to_kernel(session_handle s);
/* Blocks; for IN_PROGRESS. 0 or why it failed. */
must_use int client_connect_wait(session_handle s, int64_t deadline_ns, const struct sleep_mark *mark);

/* ---- stream ---- */
#define STREAM_PEEK 1u
must_use ssize_t client_read(session_handle s, void *buf, size_t len, uint32_t flags); /* 0: end of stream */
must_use ssize_t client_readv(session_handle s, const struct iovec *iov, int count, uint32_t flags);
must_use ssize_t client_write(session_handle s, const void *buf,
                              size_t len); /* may be short; WOULD_BLOCK when no byte went */
must_use ssize_t client_writev(session_handle s, const struct iovec *iov, int count);
must_use int client_read_spans(session_handle s, struct iovec spans[2]);
must_use int client_read_consume(session_handle s, size_t len);
must_use int client_write_spans(session_handle s, size_t want, struct iovec spans[2]);
must_use int client_write_commit(session_handle s, size_t len);
/* Blocks (spin, then sleep) until one of `events` (EPOLLIN, EPOLLOUT) holds or the session fails. 0,
 * TIMED_OUT, INTERRUPTED, BAD_HANDLE. 0 also when there is an error or an end of stream to report. */
must_use int client_wait(session_handle s, uint32_t events, int64_t deadline_ns,
                         const struct sleep_mark *mark);
/* The same until so many bytes can be read, or as many as the peer can put there before it waits for us. 0:
 * as SO_RCVLOWAT says. */
must_use int client_wait_for(session_handle s, uint32_t events, uint64_t least, int64_t deadline_ns,
                             const struct sleep_mark *mark);
/* After BUSY: until the span that somebody else has open in that direction (EPOLLIN, EPOLLOUT) is closed, or
 * its holder is dead. */
must_use int client_wait_span(session_handle s, uint32_t events, int64_t deadline_ns,
                              const struct sleep_mark *mark);
must_use int client_set_lowat(session_handle s, uint32_t bytes); /* SO_RCVLOWAT: readable from so many on */

/* EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR as they hold now; EPOLLERR | EPOLLHUP for a bad
 * handle */
uint32_t client_readiness(session_handle s);
size_t client_readable(session_handle s);         /* FIONREAD */
size_t client_unread(session_handle s);           /* SIOCOUTQ */
must_use int client_take_error(session_handle s); /* SO_ERROR: pending enum berth_error, cleared */
bool client_tell_reset(session_handle s); /* true once: a socket tells of a reset one time, then of the end */
/* True once: what a socket first writes after the peer's end is taken, and lost; the peer answers it with a
 * reset (CLOSED). */
bool client_write_lost(session_handle s);
bool client_stopped(session_handle s); /* client_connect_stop has ended it: it is connected to nobody */
bool client_over(session_handle s);    /* cut off, or both have ended */
/* the other end is known; what is forked before that cannot learn of it */
bool client_accepted(session_handle s);
bool client_shared(session_handle s);    /* another process of the family holds it too */
bool client_connected(session_handle s); /* the connect is through */
must_use int client_shutdown(session_handle s,
                             int how);  /* BERTH_SHUT_RD | BERTH_SHUT_WR; CLOSED if both are over already */
uint32_t client_shut(session_handle s); /* BERTH_SHUT_...: the halves that this side has shut down */
int client_close(session_handle s);
/* Last of all before this process ends: peers of what it alone holds see the end now. Takes no memory and
 * gives none back. */
void client_leave(void);
int client_abort(session_handle s); /* SO_LINGER 0: reset */
/* ---- from program to program ---- */
/* The session is another program's from now on, whichever takes it first: `theirs` stands for it, one end of
 * a connection of the kernel's that goes wherever it goes; `ours` is the other end (-1: it was taken
 * by that descriptor, and goes on by it). Both stay the caller's to close. A round trip. 0: the handle is nobody's any more. Else nothing has happened: BUSY (held by others,
 * ended, in the middle of something), NO_MEMORY, DAEMON_GONE … */
must_use int client_give(session_handle s, int theirs, int ours);
/* Its other end is on its way to another program: until that has come this one is BUSY. */
bool client_peer_moves(session_handle s);
/* Takes what was given with that descriptor. Attaches; blocks for some round trips. NO_ROUTE: nothing was;
 * BUSY: another program has it, or the kernel's way is gone with it (somebody outside berth uses it). */
must_use int client_take(int fd, session_handle *out);
/* Not 0: a session that was taken here has gone back, for others use what stands for it, too. Whose handle is
 * nobody's any more goes on by that descriptor. Cleared by who looks after them. */
extern uint8_t client_recall_news;
bool client_lives(session_handle s);

must_use int client_local(session_handle s, endpoint *out);
must_use int client_remote(session_handle s, endpoint *out);
/* bytes; 0 leaves one as it is */
must_use int client_set_fifo_limit(session_handle s, uint64_t rx, uint64_t tx);

/* ---- what belongs to the open file: to all who came to hold it over fork ---- */
/* O_NONBLOCK of a session or listener. `otherwise`: of a handle that is nobody's any more. */
void client_set_nonblock(uint64_t handle, bool on);
bool client_nonblock(uint64_t handle, bool otherwise);
/* A connect whose end no connect() has told yet. */
void client_set_connecting(session_handle s, bool on);
bool client_connecting(session_handle s);
uint32_t client_lowat(session_handle s); /* as client_set_lowat; any number of a handle that is nobody's */

#define OPTION_VALUE_MAX 16
struct client_option {
    int32_t level, name;
    uint8_t given_len, seen_len;
    uint8_t given[OPTION_VALUE_MAX]; /* by the program */
    uint8_t seen[OPTION_VALUE_MAX];  /* as it is reported */
};
/* Kept for all holders. False: there is no other (or no room), the caller keeps it. */
bool client_option_put(session_handle s, const struct client_option *option);
bool client_options_there(session_handle s); /* is any kept? */
bool client_option_find(session_handle s, int level, int name, struct client_option *out);
bool client_option_at(session_handle s, uint32_t i, struct client_option *out); /* all of them, i from 0 on */

/* A socket of the kernel's of which neither a session nor a listener has become. It is made known before a fork;
 * 0: no room. */
uint32_t client_file_new(void);
/* Somebody else may have it, or has made a connection of the kernel's of it. Asks the kernel who lives. */
bool client_file_joint(uint32_t file);
void client_file_decide(uint32_t file); /* it is the kernel's for good */
void client_file_leave(uint32_t file);  /* this process has it no more */
/* Options of sockets of the kernel's: how often somebody has changed one that others may have, too. */
void client_files_changed(void);
uint32_t client_files_change(void);

/* ---- event sets ---- */
/* An event set waits over sessions, listeners and other sets, and over the kernel epoll set `epfd` if it has
 * one: the preload library hands in the program's own, which stays the program's: berth puts nothing into it
 * and never closes it. -1: none. */
struct evset;
must_use struct evset *evset_create(int epfd);
void evset_destroy(struct evset *set);
/* handle: session or listener; events: EPOLL* with EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE (listeners). `key`
 * tells several registrations of one session in one set apart (the preload library's is the descriptor).
 * BUSY: is in it */
must_use int evset_add(struct evset *set, uint64_t handle, uint32_t key, uint32_t events, uint64_t data);
must_use int evset_modify(struct evset *set, uint64_t handle, uint32_t key, uint32_t events, uint64_t data);
must_use int evset_remove(struct evset *set, uint64_t handle, uint32_t key);
/* The same for a set in a set. The kernel's has been put into the kernel's before, which finds circles. */
must_use int evset_add_set(struct evset *set, struct evset *inner, uint32_t key, uint32_t events,
                           uint64_t data);
must_use int evset_modify_set(struct evset *set, struct evset *inner, uint32_t key, uint32_t events,
                              uint64_t data);
must_use int evset_remove_set(struct evset *set, struct evset *inner, uint32_t key);
/* Has that registration of a session or listener, or of an inner set, fired its one shot? `spend`: from now
 * on it has. */
bool evset_spent(struct evset *set, uint64_t handle, struct evset *inner, uint32_t key, bool spend);
/* Blocks (spin, then sleep) until the deadline; 0: not at all. Stack events and the kernel's own are mixed.
 * Count, or INTERRUPTED, INVALID; BAD_HANDLE: it was destroyed; BUSY: there are changes by others
 * (client_set_changes) to be done first. mark: NULL for now. */
must_use int evset_wait(struct evset *set, struct epoll_event *out, int max, int64_t deadline,
                        const sigset_t *mask, const struct sleep_mark *mark);
/* The kernel has said ELOOP: sets that a thread sleeps on are in one of the stack's own, which counts. They are taken out
 * of those, and slept on beside them. False: there was none. */
bool sets_step_aside(void);
void evset_renumber(struct evset *set, int epfd); /* its kernel set goes by another number now */
/* of one without a kernel set: becomes readable when evset_wait has something; -1 */
must_use int evset_fd(struct evset *set);

/* A set that came over fork is one for parent and child in the kernel. Each has a copy of ours, and what one
 * does to a session or listener that others hold, too, they do to theirs. */
struct set_change {
    uint64_t handle; /* session or listener, as this process knows it */
    uint64_t data;
    uint32_t set; /* its number */
    uint32_t key;
    uint32_t inner; /* or another such set, by its number */
    uint32_t events;
    bool in; /* false: it is taken out */
};
/* before a fork, for a set that will be shared; 0: not attached, it need not be known */
uint32_t client_set_number(void);
bool client_sets_joint(void);  /* does a relative have one of our sets, too? */
bool client_set_changes(void); /* by others, and nobody here is at them yet */
/* The two below by one thread at a time. */
must_use bool client_set_change_next(struct set_change *out); /* the next that is to be done here */
/* It is done here: the others are told. May wait a moment for those who are far behind. */
void client_set_changed(const struct set_change *change);

/* ---- poll over sessions and kernel descriptors, for poll() and select() ---- */
#define CLIENT_POLL_MET (1u << 25) /* who accepted it is known; as events of one of our own */
struct client_poll_item {
    uint64_t handle;   /* session or listener */
    struct evset *set; /* or a set, for EPOLLIN; NULL */
    uint64_t least;    /* session: bytes that are to be there for EPOLLIN; 0: as SO_RCVLOWAT says */
    uint32_t events;   /* EPOLLIN | EPOLLOUT | EPOLLRDHUP | CLIENT_POLL_MET */
    uint32_t revents;  /* out; EPOLLERR and EPOLLHUP also unasked */
};
/* Memory that a call stands on, and that is given back when its thread may never return to it. */
struct client_room {
    void *at; /* from memory_get, or NULL */
    size_t size;
    struct client_room *outer;
};
void client_room_give(struct client_room *room); /* not the outer ones */
/* Blocks. kfds: plain kernel descriptors (the kernel side of a listener among them). Returns how many items
 * and kfds have revents, 0 when the time is over, or INTERRUPTED; then `rooms` may be gone, with all that is
 * in them. BUSY: as evset_wait. Else kfds' revents are written. */
must_use int client_poll(struct client_poll_item *items, int n, struct pollfd *kfds, int nk,
                         int64_t timeout_ns, const sigset_t *mask, struct client_room *rooms);
/* The same for a wait that began before. */
must_use int client_poll_since(const struct sleep_mark *mark, struct client_poll_item *items, int n,
                               struct pollfd *kfds, int nk, int64_t timeout_ns, const sigset_t *mask,
                               struct client_room *rooms);

/* ---- descriptors of berth's own ---- */
/* True for a descriptor that libberth uses inside this process: close, dup2 and close_range must leave it
 * alone. */
bool client_owns_fd(int fd);
uint32_t client_fds_bound(void); /* no number of ours is higher than this, less one */
/* Gives up the descriptors that are kept in reserve: somebody needs one, and the table is full. They are made
 * again later. */
void client_fds_release(void);
/* The program's limit of descriptors has changed: those in reserve are taken anew, below it. */
void client_fds_limited(void);

#endif
