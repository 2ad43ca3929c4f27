/* internal.h - calls between the files of the library. */
#ifndef BERTH_CLIENT_INTERNAL_H
#define BERTH_CLIENT_INTERNAL_H

#include "base/clock.h"
#include "client/state.h"
#include "shm/queue.h"
#include "shm/slot.h"
#include "client/listener.h"
#include "client/ready.h"
#include "client/sleeper.h"
#include "client/spin.h"
#include "client/watch.h"

/* ---- family.c: session and ring records ---- */
int family_create(void);
struct session *session_alloc(void); /* NULL: none left. state QUEUED, generation kept, everything else zero */
void session_free(struct session *s);
uint32_t ring_rec_alloc(void); /* NONE: none left */
void ring_rec_free(uint32_t rec);
uint32_t members_used(void); /* no member has a higher index than this, less one */
struct member_set members_alive(void);
bool member_lives(uint32_t member); /* asks the kernel: word of a death may be on its way */
bool members_others_live(const struct member_set *set);
void *memory_get(size_t size); /* zeroed, of this process */
void memory_put(void *p, size_t size);

static inline void half_lock(struct family_lock *l)
{
    family_lock_acquire(l, C->member);
}

static inline void half_unlock(struct family_lock *l)
{
    family_lock_release(l); /* an xchg: also the full fence that slot.h asks for */
}

/* ---- outbox.c: our own memory ---- */
struct own_box *outbox_create(uint32_t facing_app, int *fd_out); /* fd: segment 0, the caller's to send and close */
struct own_box *outbox_find(uint32_t facing_app);                /* of this process, NULL: none. Under C->lock */
struct own_box *outbox_of(uint32_t facing_app, uint32_t worker); /* the same of a worker that we were forked from */
bool outbox_ring_fetch(struct own_box *box, uint64_t word);      /* maps a segment that another member made */
void outbox_bury(struct own_box *box);                           /* nothing of it is in use any more */
void outbox_unmap(struct own_box *box);
struct outbox_rec *outbox_rec_of(const struct own_box *box);
struct slot *outbox_slot(struct own_box *box, uint32_t index); /* NULL: of another member, and not mapped here */
struct slot_info *outbox_info(struct own_box *box, uint32_t index);
int outbox_slot_alloc(struct own_box *box, uint32_t *index); /* the slot is FREE, zero but for its generation */
void outbox_slot_free(struct own_box *box, uint32_t index);
struct channel *outbox_channel(struct own_box *box, uint32_t channel);
int outbox_channel_alloc(struct own_box *box, uint32_t peer_worker, uint32_t *channel);
void outbox_channel_free(struct own_box *box, uint32_t channel); /* its worker is dead, and nobody here uses it */
/* A ring of at least `size` bytes that this process can write, for session `owner` (index + 1; NONE: for good).
 * Its record in *rec. NO_MEMORY when the outbox is at its limit. */
int outbox_ring_alloc(struct own_box *box, uint64_t size, uint32_t owner, uint32_t *rec);
void outbox_ring_free(struct own_box *box, uint32_t rec);
uint8_t *outbox_ring_at(struct own_box *box, uint64_t word, bool *writable); /* NULL: not mapped here */
struct own_box *outbox_by_index(uint32_t index);
void outbox_shrink(void); /* before a sleep: gives memory back that a burst took */

/* ---- peer.c: what others let us read ---- */
#define GRAVE_NS (3 * NS_PER_SEC) /* memory of the dead stays longer than any thread sleeps on a word in it */
struct peer_box *peer_box_find(outbox_handle handle);
struct peer_box *peer_box_of(outbox_handle handle, uint32_t me);                 /* as that worker faces it */
struct peer_box *peer_box_add(const struct ctl_outbox_is *is, const int fds[3]); /* takes the descriptors */
void peers_collect(bool all); /* forgets what dead workers left, when no session is in it; all: everything */
const struct slot *peer_slot(struct peer_box *box,
                             uint32_t index);              /* NULL: no such slot, or its chunk is not here yet */
bool peer_slot_wait(struct peer_box *box, uint32_t index); /* blocks until its chunk is here, bounded */
const struct slot_info *peer_info(struct peer_box *box, uint32_t index);
/* The memory of a ring word that the peer wrote: checked, with its size. NULL and *err: WOULD_BLOCK (asked for, not here
 * yet) or PROTOCOL. With wait: blocks, SEGMENT_TIMED_OUT. */
const uint8_t *peer_ring(struct peer_box *box, uint64_t word, uint64_t *size, bool wait, int *err);
void peer_segment_arrived(outbox_handle handle, uint32_t index, int fd, int status);
void peer_segment_retired(outbox_handle handle, uint32_t index);
void peer_worker_dead(uint32_t worker);
void peers_look_alive(void); /* when no daemon is there to tell of deaths */

/* ---- fds.c ---- */
int own_fd(int fd); /* moves a descriptor out of the program's way and remembers it as ours */
void own_fd_close(int fd);
void own_fd_set(int fd, bool ours);
#define FDS_FOR_A_MEETING 4u
uint32_t fds_keep(void);   /* the reserve, made up to full if there is room: how many descriptors it has */
bool fds_room(uint32_t n); /* are so many free now? */
void fds_keep_again(void); /* the same, now and then */
void fds_forked(void);
void let_others_open(int fd);  /* of a pipe: whoever is given it */
int own_pipe(int fd);          /* a pipe that came from others: taken; for pipe_put and bell_ring only */
int bell_without_daemon(void); /* ours, that none but our family rings */
long pipe_put(int fd, const void *data,
              size_t n); /* write(2) that never waits and raises no signal; up to a page */
void bell_ring(int fd);
int own_epoll(void); /* out of the reserve if need be */

/* ---- control.c ---- */
void control_fork_lock(void);
void control_fork_unlock(void);
void control_forget(void); /* what the daemon told the parent */
int control_request(void *msg, const int *fds, int nfds, void *reply, size_t reply_size, int *rfds, int *nrfds);
int control_send(void *msg, const int *fds, int nfds); /* no reply is waited for */
void control_poll(void);                               /* takes what the daemon sent, if anything */
uint32_t control_async_seq(void); /* for a question whose answer control_poll takes; no request has it */
int64_t control_retry_at(void);   /* when to ask again for what found no descriptor; 0: nothing has */
bool control_in_vain(void);       /* it was, and found none again; where there is room now it is asked once more */
bool control_pushes(void);        /* something waits to be worked off by control_poll */
int worker_page_create(int *fd);
int welcome(const struct ctl_welcome *w, const int fds[2]); /* directory, bell: taken */
int hello_request(void *msg, const int *fds, int nfds);     /* of a HELLO or CHILD_HELLO */
void client_reset(void);
#define SPIN_GIVEN (1u << 31) /* in options.flags: spin_ns 0 means none */

/* ---- channel.c: events ---- */
void channel_pair(struct peer_box *box); /* makes our side and finds theirs, as far as it can be done now */
void channels_enter(void);               /* those met since take part in polling; under poll_lock */
void channel_event(struct session *s, struct session_cache *c);
bool channel_announce(const struct peer_box *box); /* tells its worker of our outbox, through the daemon */
void events_poll(bool all);                        /* takes events from the channels that are polled, or from all */
bool events_waiting(void);                         /* anything in a polled channel? */
void channel_rearm(void);                          /* sends seldom used channels to sleep */
void channel_scan(struct peer_box *box);           /* looks for slots that answer offers */

/* ---- session.c ---- */
/* After a fork the records of all members are in reach; only what a process holds is its own. */
static inline bool session_held(const struct session *s)
{
    return !berth_family_shared || members_has(&s->holders, C->member);
}

struct session *session_get(
    session_handle h); /* NULL: stale. No lock is held: check the generation again under one */
struct session_cache *session_cache_of(struct session *s); /* made anew where it is stale */
struct session_cache *session_cache_make(struct session *s);
session_handle session_handle_of(const struct session *s);
void session_linked(struct session *s);                            /* connector: the peer's slot is known now */
void session_try_link(struct session *s);                          /* connector: has somebody accepted? */
void session_break(struct session *s, int error, const char *why); /* the peer is dead, or broke the rules */
void session_event(struct peer_box *box, uint32_t peer_slot_index);
void sessions_confirm(void); /* acceptors look whether the connectors know them */
bool session_judge(struct session *s, struct session_cache *c); /* one of them: false, it is open still */
void sessions_settle(void);                                     /* before a sleep: confirm, offer again, reap */
void sessions_of_worker_dead(uint32_t worker);
void sessions_listener_gone(uint32_t listener);
void sessions_unreachable(
    uint32_t app); /* what is offered there: there is no descriptor to meet who has accepted it */
void zombies_reap(int most);
void zombie_put(struct session *s);
void queued_take(const struct session *s); /* off the list of those that found no room in a listener's queue */
bool session_lock_until(struct session *s, int64_t deadline); /* both locks; false: too late, none */
void session_set_state(struct session *s, uint32_t state);
void session_fill_slot(struct session *s, struct own_box *box);
void session_dispose(struct session *s);
int session_accept(struct peer_box *box, const struct token *t, uint32_t listener, session_handle *out);

/* ---- ports.c ---- */
int ports_take(const uint8_t addr[16], const endpoint *to, uint32_t listener, uint16_t *port); /* C->lock is held */
void ports_listener_gone(uint32_t listener); /* the same; what was kept for it can go with its last session */
void ports_release(struct session *s);
void ports_forget(void);

/* ---- connect.c ---- */
void route_waiting(struct session *s, int by); /* our offers that its listener has not accepted */
void route_gone(uint32_t listener);
void routes_forget(void);
bool route_has_box(const struct own_box *box);
void routes_drop_box(const struct own_box *box);
void sessions_offer_again(void); /* what found no room in a listener's queue, or was in a dead worker's hands */
void sessions_reoffer(uint32_t app);
void offer_again(struct session *s); /* one that is QUEUED */

/* ---- stream.c ---- */
void stream_publish_head(struct session *s, struct session_cache *c); /* under rx_lock */
bool stream_cut(struct session *s, struct session_cache *c);          /* the peer's stream was cut off, not ended */
void stream_flush_head(struct session *s, bool try_only);             /* before anybody sleeps */
void stream_release_ring(struct session *s, struct session_cache *c);
void notify_data(struct session *s, struct session_cache *c, uint64_t old_offset, uint64_t new_offset);
void notify_space(struct session *s, struct session_cache *c, uint64_t old_offset, uint64_t new_offset);

/* ---- crowd.c ---- */
bool crowded_lately(int64_t now); /* an event loop had better sleep at once */
bool crowded(int64_t now,
             int64_t since); /* one that spins since then had better stop; asks the kernel now and then */
bool alone_lately(
    int64_t now); /* no more threads want to run than two, or than there are CPUs; asks each millisecond */
void crowd_forget(void);

/* ---- fork.c ---- */
extern struct plock attach_lock; /* who attaches, and who forks */
void fork_install(void);
void shared_link(struct session *s); /* an inherited session whose acceptor another member, or nobody, has met */
void shared_confirm(void);           /* inherited sessions that the connector may not know of */
void shared_kick(const struct session *s); /* wakes every holder that sleeps */
void kicks_watch(int epfd, uint64_t data); /* enters the kicks of our ancestors */
void member_gone(uint32_t id);
void members_look_alive(int64_t pause);
int fork_child_ready(void); /* says hello to the daemon if this is a child that has not; 0 or an error */

#endif
