/* state.h - what a process keeps for itself; what it shares with its family is records.h.
 *
 * Process state (struct client): mappings, descriptors, caches, watches. A fork copies it; what must not be
 * copied (port leases, the control socket) the child replaces in fork.c.
 *
 * Locks, in the order in which they may be taken; a lock may be skipped, never taken against the order, and
 * no thread takes one that it holds. Builds with -Dberth_delays=true check both (base/order.h).
 *   family.sets_lock (family)                   who changes an event set that relatives have, too
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
 *   family.options_lock (family)                options of shared sessions; sockets that relatives have, too
 *   chan_rec.tx_lock, rx_lock (family)          one event queue
 *   quiet_lock (family.c)                       a forked child's first lock of the above
 *   client.cache_lock (process)                 who makes a session's cache
 *   client.boxes_lock (process)                 the lists of other workers' outboxes
 *   client.rolls_lock (process)                 which session is on which roll
 *   client.send_lock (process)                  what is sent to the daemon, in order
 * and those that are local to a file, taken last (fork.c lists them, for no fork may leave one taken). Under
 * watch_lock or client.lock session locks are only tried. What tells a peer something (channel_event) may
 * take client.lock and what comes after it.
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
#include "client/records.h"
#include "session/directory.h"
#include "session/endpoint.h"
#include "shm/abi.h"
#include "shm/control.h"

#define BOX_HASH 1024u /* buckets */

#define FIFO_DEFAULT (4u << 20)
#define SPIN_DEFAULT_NS (50 * 1000)
#define ALIVE_NS (100 * 1000 * 1000ll)
#define SEGMENT_TIMEOUT_NS (2ll * 1000000000)

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
    int bell_fd; /* its bell, see fds.c */
    uint32_t kicked[WAITERS_MAX];
    struct peer_worker *next;
};

/* The segments of an outbox of another worker that were asked for, of those beyond the first. */
struct peer_segments {
    const uint8_t *at[OUTBOX_SEGMENTS];
    uint64_t size[OUTBOX_SEGMENTS];
    uint8_t asked[OUTBOX_SEGMENTS]; /* 1: the answer is to come, 2: it does not come */
};

/* What all faces of an outbox have in common. Most have one segment. */
struct peer_memory {
    uint32_t refs; /* boxes. Under boxes_lock */
    const uint8_t *first;
    uint64_t first_size;
    struct peer_segments *others; /* NULL: none was asked for yet */
};

struct peer_box { /* an outbox of another worker, facing our app */
    outbox_handle handle;
    struct peer_worker *worker;
    struct own_box *own;    /* our outbox facing its app */
    uint32_t own_channel;   /* NONE until made */
    uint32_t their_channel; /* NONE until found */
    const uint64_t *queue;  /* theirs to us; NULL until it is here: see channel_hears */
    uint32_t their_resync;
    uint32_t scan,
        scan_end; /* of their slots, which are still to be looked at; under poll_lock like all of these */
    bool behind, again;    /* events were lost: it is looked at all that is theirs, and once more */
    bool rescan;           /* more of their slots have come to be seen */
    bool last_told;        /* its sessions have heard that no segment comes any more. Under client.lock */
    bool dead_told;        /* its sessions have heard of its worker's death. Under client.lock */
    struct roll_walk walk; /* through the roll, while it is behind */
    struct roll roll;      /* our sessions that have their peer slot in it */
    uint32_t kicked_channel;
    uint32_t sessions; /* how many of ours have their peer slot in it */
    uint32_t idle;     /* rounds without an event */
    uint32_t me;       /* as which worker we face it: ours, or the one that we were forked from */
    bool polled;
    bool announced;             /* the daemon was asked to tell its worker of us */
    bool heard;                 /* and has told it */
    bool tardy;                 /* it named a segment that never came */
    bool starved;               /* there was no channel for it when one was wanted */
    struct peer_memory *memory; /* another face of the same outbox has the same */
    int64_t buried;             /* when it was taken out of every table */
    struct peer_box *next;      /* in client.boxes, or in the graveyard */
    struct peer_box *next_hash;
    struct peer_box *next_polled;
};

struct own_box {
    uint32_t index;       /* in family.outbox */
    outbox_handle handle; /* who made it gives its record back when it is done with it, see outbox_current */
    uint8_t *seg[OUTBOX_SEGMENTS];
    uint64_t seg_size[OUTBOX_SEGMENTS];
    bool writable[OUTBOX_SEGMENTS];
    bool left; /* a parent's, and none of its sessions is ours any more */
    int64_t buried;
    struct own_box *next;
};

struct route { /* a listener that we were introduced to */
    uint32_t listener;
    uint32_t epoch;
    uint32_t app;
    uint32_t backlog;
    uint32_t waiting; /* our own offers not accepted yet */
    bool kernel;      /* a kernel's socket listens there, too */
    bool denied;      /* the daemon replays nothing of ours to it */
    bool common;      /* programs outside berth may have its kernel's socket: see replay.c */
    int token_fd;
    struct own_box *box;
    struct route *next;
};

struct listener {
    uint32_t generation; /* odd: in use */
    uint32_t id;         /* the daemon's; 0: it has not said it yet */
    uint32_t asked;      /* number of the question that it owes the answer to; 0: none */
    uint32_t away;       /* connects go to the kernel until that member has ended: its id + 1; 0: nobody's */
    int pipe_rd;
    int pipe_wr;        /* kept so that the pipe never hangs up */
    int wait_ep;        /* for client_listener_wait, made at the first blocking accept */
    int wait_ep_kernel; /* NO_WAIT_EP: it is to be made anew */
    uint32_t backlog;
    endpoint at;
    uint8_t vain;   /* how often in a row spinning for it did not pay */
    uint32_t aside; /* where its tokens lie that were taken out of the pipe: index + 1 in family.aside; 0:
                       nowhere */
    struct watch *watches;
};

#define NO_WAIT_EP (-2)
#define LISTENERS_MAX 4096u

/* A worker that we were forked from and whose sessions we hold: their peers look at its page and ring its
 * bell. */
struct ancestor {
    uint32_t worker;
    struct worker_page *page;
    int bell_fd;
};
#define ANCESTORS_MAX 256u

struct client {
    /* first, so that what every fork changes lies in few pages, beside other variables */
    struct peer_box *box_hash[BOX_HASH];
    struct own_box *own_by_index[OUTBOXES_MAX];
    struct ancestor ancestor[ANCESTORS_MAX];
    bool attached;
    bool daemon_lost;
    bool forked; /* a child that has not said hello yet */
    bool nobody; /* it has become another user: the daemon does nothing for it as who it is now */
    int ctl;
    uint32_t worker, app, uid;
    uint32_t member;
    uint64_t outbox_limit;
    uint64_t segment_size, rx_limit, tx_limit;
    int64_t spin_ns;
    uint32_t cpus;
    int bell_fd; /* our bell, see fds.c */
    uint32_t seq;
    struct worker_page *page;
    const struct directory *dir;
    struct family *family;
    struct session_cache *cache;
    struct session_more *more;
    struct roll unmet;       /* sessions whose peer is not known */
    struct roll_walk *walks; /* those under way */
    struct listener *listeners;
    uint32_t listeners_used; /* ever, from the first on; under lock, and only up */
    struct peer_worker *workers;
    struct peer_box *boxes;
    struct peer_box *polled; /* of them, those with a queue that is looked at each time; under poll_lock */
    struct peer_box *armed;  /* and those whose sender has to kick */
    struct peer_box *paired; /* met since: pushed under lock, taken over to `polled` under poll_lock */
    uint32_t polled_count;
    struct own_box *outboxes;
    struct peer_box *box_graves;
    struct own_box *own_graves;
    uint32_t extra_segments; /* of our own outboxes beyond the first of each */
    uint32_t own_loose;      /* an outbox may have lost its last use: a route or a session went */
    uint32_t dead_boxes;     /* boxes of dead workers, to be buried when no session is in them */
    bool starved;            /* some box has no channel */
    uint32_t queued;         /* sessions whose token found no room; list by session.next */
    /* when to look at the offers that a dead worker may have taken; 0: there are none */
    int64_t reoffer_at;
    struct route *routes;
    uint32_t unconfirmed; /* sessions accepted that the connector may not know of; list by session.next */
    uint32_t unheard; /* of them, at least those whose connector cannot know of us yet: nobody else tells of
                         their bytes */
    struct roll *turn_first, *turn_last; /* rolls with zombies, in turn; under zombie_lock */
    uint32_t zombies_done;
    uint64_t waiters_used;
    uint32_t spread;
    uint32_t ancestors;
    uint32_t inherited_unconfirmed;
    uint32_t inherited_unheard;
    uint32_t inherited_tentative; /* whoever sleeps looks at them again: their bytes may be here */
    bool sharing; /* there are sessions that another member holds too, or that were inherited */
    bool about_to_fork;
    uint32_t arriving; /* sessions that were taken, and whose peer still looks at where they were: arrive.c */
    bool unpaired;     /* there may be a peer with sessions whose channel for us is yet to be found */
    uint32_t homeward; /* sessions whose peer still looks at where they were, see home.c */
    bool joint;        /* there are event sets that another member has, too */
    bool nested;       /* a set has been put into another one */
    /* the set of what concerns every sleeper, see vigil.c: descriptor + 1, 0 until first needed */
    uint32_t inner;
    uint32_t listening;     /* threads that sleep on everything the process must hear of */
    uint32_t napping;       /* threads that sleep on one session's words alone */
    uint32_t attention;     /* futex: one of them is to take the last listener's place */
    int64_t hello_patience; /* for the daemon's WELCOME, ns */
    uint32_t news_seen;     /* the daemon's word when its socket was last emptied */
    bool alone;      /* the daemon was lost, and then something has happened that it would have told of:
                        control_poll looks */
    bool last_heard; /* the daemon was lost, and all that it had said is worked off: what is not here will not
                        come */
    uint32_t unwatched; /* without a daemon: how many have no vigil for want of a descriptor. They are looked
                           at now and then */
    struct plock lock, ctl_lock, send_lock, watch_lock, zombie_lock, poll_lock, cache_lock, boxes_lock,
        rolls_lock;
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

/* Those beyond have never been touched. Acquire: who walks them all takes no lock. */
static inline uint32_t listeners_used(void)
{
    return load_acquire(&C->listeners_used);
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
