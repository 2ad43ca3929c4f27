/* state.h - the library's own data: what the processes of a family share, and what each keeps for itself.
 *
 * Family segment (struct family): ordinary shared memory, writable by a worker and all that it forks, never seen by a peer.
 * It holds the truth that is not in the slots: session records, ring and slot allocation, channel cursors. It has no
 * pointers. A forked child finds it at the same address.
 *
 * Process state (struct client): mappings, descriptors, caches, watches. A fork copies it; what must not be copied (port
 * leases, the control socket) the child replaces in fork.c.
 *
 * Locks, in the order in which they may be taken; a lock may be skipped, never taken against the order, and no thread takes
 * one that it holds. Builds with -Dberth_delays=true check both (base/order.h).
 *   attach_lock (attach.c)                      who attaches; who forks, from before the fork until after it
 *   hello_lock (hello.c)                         which thread of a forked child says hello
 *   dispatch_lock (news.c)                      who works off what the daemon said
 *   family.bury_lock (family)                   who lets go of what a dead member held
 *   client.poll_lock (process)                  who takes events off the queues; the lists of channels
 *   client.zombie_lock (process)                lists through session.next
 *   session.rx_lock, session.tx_lock (family)   the state of one half of a session
 *   client.watch_lock (process)                 watches and ready lists of all event sets
 *   client.lock (process)                       tables of peers, outboxes, routes, listeners
 *   client.ctl_lock (process)                   who talks on the control socket
 *   outbox_rec.lock (family)                    rings and slots of one outbox
 *   family.lock (family)                        session and ring records
 *   chan_rec.tx_lock, rx_lock (family)          one event queue
 *   client.cache_lock (process)                 who makes a session's cache
 *   client.boxes_lock (process)                 the lists of other workers' outboxes
 *   client.rolls_lock (process)                 which session is on which roll
 *   client.send_lock (process)                  what is sent to the daemon, in order
 * and those that are local to a file, taken last (fork.c lists them, for no fork may leave one taken). Under watch_lock or client.lock session locks are only tried. What tells a peer
 * something (channel_event) may take client.lock and what comes after it.
 */
#ifndef BERTH_CLIENT_STATE_H
#define BERTH_CLIENT_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/plock.h"
#include "berth/berth.h"
#include "client/client.h"
#include "client/family_lock.h"
#include "client/members.h"
#include "session/directory.h"
#include "session/endpoint.h"
#include "shm/abi.h"
#include "shm/control.h"

#define SESSIONS_MAX (1u << 20)
#define RINGS_MAX (1u << 20)
#define OUTBOXES_MAX 4096u
#define BOX_HASH 1024u /* buckets */
#define OUTBOX_SEGMENTS 1024u
#define OUTBOX_CHANNELS_USED 1024u /* as many as the ABI has */
#define RING_CLASSES 8u            /* 4 KiB, 16 KiB, 64 KiB … 64 MiB: powers of four */
#define NONE 0xffffffffu

#define FIFO_DEFAULT (4u << 20)
#define SPIN_DEFAULT_NS (50 * 1000)
#define ALIVE_NS (100 * 1000 * 1000ll)
#define SEGMENT_TIMEOUT_NS (2ll * 1000000000)

/* ---- family ------------------------------------------------------------------------------------------- */

struct ring_rec {
    uint64_t word;      /* where it is */
    uint64_t left_tail; /* a ring left behind by a swap: free once the consumer's head is here */
    uint32_t next;      /* free list, or the session's list of left rings */
    uint32_t owner;     /* session index + 1; 0: free, NONE: queue or slot chunk, for good */
    uint16_t outbox;
    uint8_t klass;
    uint8_t left;
};

struct seg_rec {
    uint64_t size; /* 0: none, or retired */
    uint64_t bump; /* first byte never handed out */
    uint32_t creator;
    uint32_t live; /* rings handed out, chunks and queues among them */
};

struct chan_rec {
    struct family_lock tx_lock;
    struct family_lock rx_lock;
    uint32_t peer_worker; /* NONE: it has gone, the channel may be another's */
    uint64_t tx_pos;
    uint64_t queue; /* ring word of our queue */
};

struct outbox_rec {
    struct family_lock lock;
    uint32_t used;
    outbox_handle handle;
    uint32_t facing_app;
    uint32_t owner_member;
    uint32_t segments;
    uint32_t channels;
    uint32_t slots;     /* ever handed out */
    uint32_t slot_free; /* stack: index + 1, linked through slot.extra of free slots; 0 empty */
    uint32_t slots_live;
    uint32_t swept_rings; /* rings in use after the last sweep */
    uint32_t rings_live;
    struct member_set mapped; /* who can write its slots */
    uint32_t ring_free[RING_CLASSES];
    uint64_t bytes;
    uint64_t retired; /* bytes of segments given up: a reader may keep them for ever */
    int64_t grown_at;
    struct seg_rec seg[OUTBOX_SEGMENTS];
    struct chan_rec chan[OUTBOX_CHANNELS_USED];
} __attribute__((aligned(PAGE_BYTES))); /* so that the memory of a free one can be given back */

enum session_state {
    SESSION_FREE = 0,
    SESSION_QUEUED,  /* connector: no token sent yet, the listener's queue or backlog is full */
    SESSION_OFFERED, /* connector: token sent, nobody has accepted that we know of */
    SESSION_OPEN,    /* both slots known */
    SESSION_FAILED,  /* connect failed or the session was reset; error tells */
    SESSION_ZOMBIE,  /* closed by the program; the slot waits for the peer to be done with it */
    SESSION_STATES,
};

#define SF_CONNECTOR 0x01u
#define SF_SHUT_WR 0x02u
#define SF_SHUT_RD 0x04u
#define SF_READ_SPAN 0x08u
#define SF_STOPPED 0x10u     /* connector: shut down before it was connected, and again what a fresh socket is */
#define SF_CONFIRMED 0x20u   /* acceptor: the connector knows our slot */
#define SF_RESET 0x40u       /* the peer is gone or broke the rules: nothing more comes, `error` was set */
#define SF_SHARED 0x80u      /* held by more than one member: see fork.c */
#define SF_RESET_TOLD 0x200u /* the program has been told of the reset: see client_tell_reset */
#define SF_DEAD 0x100u       /* the peer worker is gone: what it published can still be read */
#define SF_WRITE_LOST 0x400u /* the program wrote after the peer had closed: see client_write_lost */
#define SF_TENTATIVE                                                                                               \
    0x800u /* acceptor: the offer was made more than once, the connector may have another: see session_judge */
#define SF_ATTENTION 0xf000u /* moves when who sleeps for the session by futex shall look again, see watch.c */
#define SF_ATTENTION_ONE 0x1000u
#define SF_TAG_SHIFT 16 /* above: low bits of the generation it was made with, see session_dead */

struct session {
    /* line 0: sending */
    struct family_lock tx_lock;
    uint32_t generation; /* of the handle; moves when the program closes */
    uint64_t tail;       /* = own slot's */
    uint64_t head_seen;  /* the peer's head when last looked at */
    uint64_t tx_size;    /* bytes of the ring in hand, 0 none */
    uint64_t tx_limit;
    uint32_t tx_rec; /* ring_rec of the ring in hand, NONE */
    uint32_t left_first, left_last;
    uint32_t write_span; /* bytes reserved by client_write_spans, 0: none open */
    uint64_t event_pos;  /* queue position after our last event */
    /* line 1: receiving */
    struct family_lock rx_lock;
    uint32_t flags; /* SF_* */
    uint64_t head;  /* true; the slot's may lag */
    uint64_t tail_seen;
    uint64_t head_published;
    uint64_t rx_size;
    uint32_t streak; /* reads in a row that emptied the fifo and were answered by a write */
    uint32_t state;
    int32_t error;
    uint32_t
        filled; /* writes that found too little room: whoever waits for an edge is to hear when there is some */
    uint32_t one_way; /* looks in a row that found little, without a write of ours */
    uint32_t lowat;   /* SO_RCVLOWAT, where above 1 */
    /* line 2: who */
    uint32_t own_outbox;
    uint32_t own_slot;
    outbox_handle peer_outbox;
    uint32_t peer_slot;
    uint32_t peer_generation;
    struct member_set holders;
    uint32_t listener;
    uint32_t offer_seq;
    /* line 3 */
    endpoint local, remote;
    int64_t looked; /* when, while one_way counts */
    uint32_t next;  /* free list, zombie list, unconfirmed list */
    uint32_t app;
    uint16_t read_spanner, write_spanner; /* member + 1 that has the span open */
    uint8_t port_leased;
    uint8_t doubt;    /* connector: see sessions_reoffer */
    uint8_t nonblock; /* O_NONBLOCK: it belongs to all who hold the session, see client_set_nonblock */
    uint8_t pad;
};
_Static_assert(sizeof(struct session) == 256, "a session record is four cache lines");

#define PID_COMING (-1) /* about to be forked */
#define PID_GOING (-2)  /* dead, somebody may still have to let go of what it held */
#define PID_GONE (-3)   /* and now nobody */

/* Of its two halves the pid says what it is: 0 free, a process, or one of the above. The
 * generation moves before it is free again, so that late word of a death is not taken for the next one's. */
struct member {
    union {
        uint64_t life;
        struct {
            int32_t pid; /* the low half: little-endian */
            uint32_t generation;
        };
    };
    uint32_t worker;
};

static inline uint64_t member_life(int32_t pid, uint32_t generation)
{
    return (uint64_t)generation << 32 | (uint32_t)pid;
}

/* What locks and messages name a member by. */
static inline uint32_t member_id(uint32_t index, uint32_t generation)
{
    return index | generation << MEMBER_BITS;
}

static inline uint32_t member_index(uint32_t id)
{
    return id % MEMBERS_MAX;
}

static inline uint32_t member_generation(uint32_t id)
{
    return id >> MEMBER_BITS;
}

/* Tokens that were taken out of a listener's pipe and wait for what an answer needs, or for accept. See tokens.c. */
#define ASIDES_MAX 4096u
#define ASIDE_TOKENS 126u

struct aside {
    struct family_lock lock;
    uint32_t used;
    uint32_t count;
    uint32_t nonblock; /* the listener's O_NONBLOCK, as a session's */
    struct member_set holders;
    struct token token[ASIDE_TOKENS];
};

struct family {
    struct family_lock lock;
    uint32_t session_free; /* stack through session.next: index + 1 */
    uint32_t sessions;     /* ever used */
    uint32_t ring_free;    /* index + 1 */
    uint32_t rings;
    uint32_t next_outbox; /* count for handles, per family */
    uint32_t members;     /* ever used */
    uint32_t any_arm;     /* WAITER_ANY's */
    struct family_lock bury_lock;
    struct member member[MEMBERS_MAX];
    struct aside aside[ASIDES_MAX];
    struct outbox_rec outbox[OUTBOXES_MAX];
    struct ring_rec ring[RINGS_MAX];
    struct session session[SESSIONS_MAX];
};

/* ---- process ------------------------------------------------------------------------------------------- */

struct watch;
struct peer_box;
struct own_box;

/* What this process knows about a session beside the record; can be thrown away and made again. 64 bytes. */
struct session_cache {
    struct slot *own;
    const struct slot *peer;
    uint8_t *tx_ring;
    const uint8_t *rx_ring;
    uint64_t rx_word;
    struct peer_box *box;
    struct watch *watches;
    uint32_t generation;           /* of the record this was made for */
    uint16_t pollers;              /* threads inside client_poll that wait for it */
    uint8_t vain_read, vain_write; /* how often in a row spinning did not pay, see spin.c */
};
_Static_assert(sizeof(struct session_cache) == CACHE_LINE, "one line per session");

/* Sessions that have something in common, see rolls.h. */
struct roll {
    uint32_t first;                       /* index; 0: nobody */
    uint32_t zombies_first, zombies_last; /* index + 1; list by session.next. Under zombie_lock */
    struct roll *next_turn;
};

struct roll_walk {
    uint32_t at;    /* who is next */
    uint32_t flags; /* SF_* of the last one */
    struct roll_walk *next;
};

/* And what this process knows and seldom needs. */
struct session_more {
    uint32_t next, prev; /* on the roll */
    struct roll *roll;
    uint32_t sleepers;             /* threads that sleep on the peer's words, see wait.c */
    uint64_t told_tail, told_head; /* of which value of the word all of them have been told */
};

struct peer_worker {
    uint32_t id;
    uint32_t app;
    uint32_t refs; /* boxes */
    int32_t pid;
    bool dead;
    int vigil; /* where no daemon tells of its death, see vigil.h; 0: none yet, negative: needs none */
    const struct worker_page *page;
    int kick_fd; /* its bell, see fds.c */
    uint32_t kicked[WAITERS_MAX];
    struct peer_worker *next;
};

struct peer_box { /* an outbox of another worker, facing our app */
    outbox_handle handle;
    struct peer_worker *worker;
    struct own_box *own;  /* our outbox facing its app */
    uint32_t own_channel; /* NONE until made */
    uint32_t their_channel;
    const uint64_t *queue; /* theirs to us; NULL until found */
    uint32_t their_resync;
    uint32_t scan,
        scan_end;          /* of their slots, which are still to be looked at; under poll_lock like all of these */
    bool behind, again;    /* events were lost: it is looked at all that is theirs, and once more */
    bool rescan;           /* more of their slots have come to be seen */
    bool dead_told;        /* its sessions have heard of its worker's death. Under client.lock */
    struct roll_walk walk; /* through the roll, while it is behind */
    struct roll roll;      /* our sessions that have their peer slot in it */
    uint32_t kicked_channel;
    uint32_t sessions; /* how many of ours have their peer slot in it */
    uint32_t idle;     /* rounds without an event */
    uint32_t me;       /* as which worker we face it: ours, or the one that we were forked from */
    bool polled;
    bool announced; /* the daemon was asked to tell its worker of us */
    bool heard;     /* and has told it */
    bool tardy;     /* it named a segment that never came */
    bool starved;   /* there was no channel for it when one was wanted */
    const uint8_t *seg[OUTBOX_SEGMENTS];
    uint64_t seg_size[OUTBOX_SEGMENTS];
    uint8_t seg_asked[OUTBOX_SEGMENTS];
    int64_t buried;        /* when it was taken out of every table */
    struct peer_box *next; /* in client.boxes, or in the graveyard */
    struct peer_box *next_hash;
    struct peer_box *next_polled;
};

struct own_box {
    uint32_t index; /* in family.outbox */
    uint8_t *seg[OUTBOX_SEGMENTS];
    uint64_t seg_size[OUTBOX_SEGMENTS];
    bool writable[OUTBOX_SEGMENTS];
    int64_t buried;
    struct own_box *next;
};

struct route { /* a listener that we were introduced to */
    uint32_t listener;
    uint32_t epoch;
    uint32_t app;
    uint32_t backlog;
    uint32_t waiting; /* our own offers not accepted yet */
    int token_fd;
    struct own_box *box;
    struct route *next;
};

struct listener {
    uint32_t generation; /* odd: in use */
    uint32_t id;         /* the daemon's */
    int pipe_rd;
    int pipe_wr; /* kept so that the pipe never hangs up */
    int wait_ep; /* for client_listener_wait, made at the first blocking accept */
    int wait_ep_kernel;
    uint32_t backlog;
    endpoint at;
    uint32_t
        aside; /* where its tokens lie that were taken out of the pipe: index + 1 in family.aside; 0: nowhere */
    struct watch *watches;
};

#define LISTENERS_MAX 4096u

/* A worker that we were forked from and whose sessions we hold: their peers look at its page and ring its bell. */
struct ancestor {
    uint32_t worker;
    struct worker_page *page;
    int kick_fd;
};
#define ANCESTORS_MAX 16u

struct client {
    bool attached;
    bool daemon_lost;
    bool forked; /* a child that has not said hello yet */
    int ctl;
    uint32_t worker, app, uid;
    uint32_t member;
    uint64_t outbox_limit;
    uint64_t segment_size, rx_limit, tx_limit;
    int64_t spin_ns;
    uint32_t cpus;
    int kick_fd; /* our bell, see fds.c */
    uint32_t seq;
    struct worker_page *page;
    const struct directory *dir;
    struct family *family;
    struct session_cache *cache;
    struct session_more *more;
    struct roll unmet;       /* sessions whose peer is not known */
    struct roll_walk *walks; /* those under way */
    struct listener *listeners;
    struct peer_worker *workers;
    struct peer_box *boxes;
    struct peer_box *polled; /* of them, those with a queue that is looked at each time; under poll_lock */
    struct peer_box *armed;  /* and those whose sender has to kick */
    struct peer_box *paired; /* met since: pushed under lock, taken over to `polled` under poll_lock */
    uint32_t polled_count;
    struct own_box *outboxes;
    struct peer_box *box_hash[BOX_HASH];
    struct own_box *own_by_index[OUTBOXES_MAX];
    struct peer_box *box_graves;
    struct own_box *own_graves;
    uint32_t extra_segments; /* of our own outboxes beyond the first of each */
    uint32_t own_loose;      /* an outbox may have lost its last use: a route or a session went */
    uint32_t dead_boxes;     /* boxes of dead workers, to be buried when no session is in them */
    bool starved;            /* some box has no channel */
    uint32_t queued;         /* sessions whose token found no room; list by session.next */
    int64_t reoffer_at;      /* when to look at the offers that a dead worker may have taken; 0: there are none */
    struct route *routes;
    uint32_t unconfirmed; /* sessions accepted that the connector may not know of; list by session.next */
    uint32_t
        unheard; /* of them, at least those whose connector cannot know of us yet: nobody else tells of their bytes */
    struct roll *turn_first, *turn_last; /* rolls with zombies, in turn; under zombie_lock */
    uint32_t zombies_done;
    uint64_t waiters_used;
    uint32_t spread;
    struct ancestor ancestor[ANCESTORS_MAX];
    uint32_t ancestors;
    uint32_t inherited_unconfirmed;
    uint32_t inherited_unheard;
    bool sharing;   /* there are sessions that another member holds too, or that were inherited */
    uint32_t inner; /* the set of what concerns every sleeper, see vigil.c: descriptor + 1, 0 until first needed */
    uint32_t listening;     /* threads that sleep on everything the process must hear of */
    uint32_t napping;       /* threads that sleep on one session's words alone */
    uint32_t attention;     /* futex: one of them is to take the last listener's place */
    int64_t hello_patience; /* for the daemon's WELCOME, ns */
    uint32_t news_seen;     /* the daemon's word when its socket was last emptied */
    bool
        alone; /* the daemon was lost, and then something has happened that it would have told of: control_poll looks */
    uint32_t
        unwatched; /* without a daemon: how many have no vigil for want of a descriptor. They are looked at now and then */
    struct plock lock, ctl_lock, send_lock, watch_lock, zombie_lock, poll_lock, cache_lock, boxes_lock, rolls_lock;
};

extern struct client berth_client;
#define C (&berth_client)

static inline struct session *session_at(uint32_t index)
{
    return &C->family->session[index];
}

static inline uint32_t session_index(const struct session *s)
{
    return (uint32_t)(s - C->family->session);
}

static inline listener_handle listener_handle_of(const struct listener *l)
{
    return 1ull << 63 | (uint64_t)(l->generation & 0x7fffffffu) << 32 | (uint32_t)(l - C->listeners);
}

/* NULL: none of ours, or no listener's handle. */
static inline struct listener *listener_get(listener_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !handle_is_listener(h) || index >= LISTENERS_MAX)
        return NULL;
    struct listener *l = &C->listeners[index];
    return l->generation & 1 && l->generation == (uint32_t)(h >> 32 & 0x7fffffffu) ? l : NULL;
}

#endif
