/* control.h - messages between an app worker (or the berth command) and the daemon, on its SEQPACKET socket.
 *
 * One message per packet: struct ctl_header, then the body of its type, then (for CTL_TEXT types) text.
 * Descriptors ride along by SCM_RIGHTS, as many as the table below says. `len` is the whole packet. A request
 * carries a `seq` chosen by the sender, not 0; its reply repeats it. What the daemon sends of its own accord
 * has seq 0. A message that breaks these rules is answered with BERTH_E_PROTOCOL and the connection is
 * closed.
 *
 *   request            descriptors                      reply (status first)        descriptors
 *   HELLO              netns socket, page, a stand-in   WELCOME                     directory, own bell
 *                      if its session is to be had
 *   CHILD              child's end of a socketpair      none
 *   CHILD_HELLO        page                             WELCOME                     directory, own bell
 *   PART                                                none: the sender has become another user
 *   DETACH                                              DONE
 *   LISTEN             token pipe, write end            LISTENED
 *   UNLISTEN                                            none
 *   SHUT                                                none: UNLISTEN for all that hold it
 *   HIDE               a pidfd: until it has ended      DONE: connects go to the kernel, whose listener others have, too
 *   BACKLOG                                             none
 *   GIVE               record, the stand-in, its far    DONE: the session is the daemon's to keep; its peer got
 *                      end, if the daemon has it not    MOVING. After RECALL: the record alone
 *   TAKE               the stand-in                     TAKEN                       record
 *   MOVED                                               none; the session's peer gets MOVED
 *   REPLAY             a connection of the kernel's,   none: a relay answers the offer, and goes on there
 *                      to the same listener
 *   INTRODUCE          outbox segment 0, if new         INTRODUCED                  token pipe
 *   OUTBOX             segment 0                        none (bad: connection closed)
 *   ANNOUNCE                                            none; target gets PEER, and when that has left
 *                                                       ANNOUNCED comes
 *   SEGMENT            the segment                      none (bad: connection closed)
 *   RETIRE                                              none; peers get RETIRED
 *   LEAVE                                               none: of an outbox of a parent's, in which the sender
 *                                                       has no session any more
 *   GET_OUTBOX                                          OUTBOX_IS                   segment 0, page, bell
 *   GET_SEGMENT                                         SEGMENT_IS                  the segment
 *   GET_PEERS                                           none; PEER for each living or left outbox of that app
 *   PORTS                                               PORTS_ARE
 *   RETURN_PORTS                                        none
 *   STAY                                                DONE
 *   SHOW                                                SHOWN                       memfd with JSON
 *   NS_ADD, NS_DEL                                      DONE
 *   STATUS                                              STATUS_IS
 *   PAUSE, RESUME                                       DONE
 *   MEMORY                                              MEMORY_IS                   a memfd of that size, empty
 *
 *   A bell is a pipe of the daemon's making: WELCOME has a description for the owner alone, the others one
 *   that peers share. A token pipe goes out as it came. Whoever receives what others share opens it anew or
 *   never writes it by its flags.
 *
 *   of the daemon's own accord: PEER (segment 0, page, bell), ANNOUNCED, DEAD, MEMBER_DEAD, RETIRED,
 *   LISTENER_GONE, EVICTED, MOVING, MOVED, RECALL
 */
#ifndef BERTH_SHM_CONTROL_H
#define BERTH_SHM_CONTROL_H

#include <stdint.h>

#include "shm/abi.h"

#define CTL_VERSION 7u
#define CTL_MAGIC 0x48545242u /* "BRTH" */
#define CTL_MAX 4096u         /* the longest packet */
#define CTL_FDS_MAX 4u
#define CTL_SOCKET_NAME "control.sock" /* in the runtime directory */

enum ctl_type {
    CTL_HELLO = 1,
    CTL_WELCOME,
    CTL_CHILD,
    CTL_CHILD_HELLO,
    CTL_DETACH,
    CTL_DONE,
    CTL_LISTEN,
    CTL_LISTENED,
    CTL_UNLISTEN,
    CTL_BACKLOG,
    CTL_INTRODUCE,
    CTL_INTRODUCED,
    CTL_OUTBOX,
    CTL_ANNOUNCE,
    CTL_SEGMENT,
    CTL_RETIRE,
    CTL_GET_OUTBOX,
    CTL_OUTBOX_IS,
    CTL_GET_SEGMENT,
    CTL_SEGMENT_IS,
    CTL_PORTS,
    CTL_PORTS_ARE,
    CTL_RETURN_PORTS,
    CTL_STAY,
    CTL_SHOW,
    CTL_SHOWN,
    CTL_NS_ADD,
    CTL_NS_DEL,
    CTL_STATUS,
    CTL_STATUS_IS,
    CTL_PEER,
    CTL_DEAD,
    CTL_MEMBER_DEAD,
    CTL_RETIRED,
    CTL_LISTENER_GONE,
    CTL_EVICTED,
    CTL_GET_PEERS,
    CTL_ANNOUNCED,
    CTL_PAUSE,
    CTL_RESUME,
    CTL_SHUT,
    CTL_HIDE,
    CTL_GIVE,
    CTL_TAKE,
    CTL_TAKEN,
    CTL_MOVING,
    CTL_MOVED,
    CTL_RECALL,
    CTL_MEMORY,
    CTL_MEMORY_IS,
    CTL_PART,
    CTL_REPLAY,
    CTL_REPLAYED,
    CTL_LEAVE,
    CTL_TYPES
};

struct ctl_header {
    uint16_t type;
    uint16_t len;
    uint32_t seq;
    int32_t status; /* replies: 0 or enum berth_error */
    uint32_t pad;
};

#define CTL_NAME_MAX 64u /* with the terminating zero */
#define CTL_SECRET_MAX 128u

/* HELLO flags: the options of an app that the daemon must know */
#define CTL_SCOPE_LOCAL 1u  /* may use the local table */
#define CTL_SCOPE_GLOBAL 2u /* may use the global table and transports */
#define CTL_PROXY 4u        /* may be the target of redirects */
#define CTL_JOIN 8u /* be one more worker of the app of that name, namespace and user, if there is one */
#define CTL_FLAGS_ALL 15u

struct ctl_hello {
    struct ctl_header h;
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t pad;
    char name[CTL_NAME_MAX];
    char ns[CTL_NAME_MAX]; /* empty: "default" */
    char secret[CTL_SECRET_MAX];
    uint64_t rx_fifo_size;
    uint64_t tx_fifo_size;
    uint64_t segment_size;
};

struct ctl_welcome {
    struct ctl_header h;
    uint32_t version;
    uint32_t worker; /* its id, never 0 */
    uint32_t app;
    uint32_t uid;          /* the daemon's view of the caller */
    uint64_t outbox_limit; /* bytes per outbox */
    uint32_t sessions_limit;
    uint32_t daemon_pid;
    char name[CTL_NAME_MAX];
    char ns[CTL_NAME_MAX];
};

/* sent by the parent before it forks; the child is a worker of the same app and holds what the parent holds
 */
struct ctl_child {
    struct ctl_header h;
    uint32_t member; /* the family's own name for it, given back in MEMBER_DEAD */
    uint32_t flags;  /* CTL_CHILD_* */
    uint32_t news;   /* CTL_CHILD_KNOWS */
    uint32_t pad;
};

/* It is the sender itself, about to become another user: it begins a family, holds its listeners and nothing
 * else, and is not trusted as its app's user any more. */
#define CTL_CHILD_APART 1u
/* What the daemon had sent to the parent when its word of news was `news` is worked off: the child knows it. */
#define CTL_CHILD_KNOWS 2u

struct ctl_child_hello {
    struct ctl_header h;
    uint32_t version;
    uint32_t pid;
};

#define CTL_LISTEN_V6ONLY 1u
#define CTL_LISTEN_REUSEPORT 2u /* several listeners on one endpoint, all with this flag and of one user */
#define CTL_LISTEN_COMMON 8u    /* the kernel's socket came from another program, which may have it still */
#define CTL_LISTEN_KERNEL 4u /* a kernel socket holds the port, so the kernel has decided about conflicts */

struct ctl_listen {
    struct ctl_header h;
    uint8_t addr[16]; /* IPv4 as mapped */
    uint16_t port;    /* host order; 0: any free one */
    uint8_t proto;
    uint8_t flags;
    uint32_t backlog;
    uint64_t cookie; /* the program's own number of the listener, echoed in LISTENER_GONE */
    uint64_t
        socket; /* SO_COOKIE of the kernel socket that holds the port: of one socket in several apps; 0: none */
};

struct ctl_listened {
    struct ctl_header h;
    uint32_t listener;
    uint32_t epoch;
    uint16_t port;
    uint16_t pad[3];
};

struct ctl_listener { /* UNLISTEN, SHUT, HIDE, BACKLOG, LISTENER_GONE */
    struct ctl_header h;
    uint32_t listener; /* UNLISTEN, SHUT, HIDE: 0, where the sender has not heard its number yet */
    union {
        uint32_t backlog;
        uint32_t asked; /* then: the seq of its LISTEN, the sender's or that of whom he was forked from */
    };
};

struct ctl_introduce {
    struct ctl_header h;
    uint32_t listener;
    uint32_t epoch;       /* as the directory had it */
    outbox_handle outbox; /* mine, facing that listener's app; its segment 0 rides along the first time */
};

struct ctl_introduced {
    struct ctl_header h;
    uint32_t listener;
    uint32_t epoch;
    uint32_t app;
    uint32_t backlog;
};

/* OUTBOX, ANNOUNCE, ANNOUNCED, GET_OUTBOX, GET_PEERS, RETIRE, LEAVE, GET_SEGMENT, SEGMENT, RETIRED */
struct ctl_outbox {
    struct ctl_header h;
    outbox_handle outbox;
    uint32_t facing_app; /* OUTBOX; GET_PEERS: whose outboxes facing us */
    uint32_t worker;     /* ANNOUNCE: who is to be told; ANNOUNCED: who has been told */
    uint32_t index;      /* segment */
    uint32_t pad;
};

struct ctl_outbox_is { /* OUTBOX_IS, PEER */
    struct ctl_header h;
    outbox_handle outbox;
    uint32_t worker; /* its owner */
    uint32_t app;    /* the owner's app */
    uint32_t uid;
    uint32_t pid;
    uint32_t dead; /* the owner is gone: what it left can be read, nothing more will come */
    uint32_t pad;
};

/* A session on its way from one program to another: GIVE, TAKE, TAKEN, MOVING, MOVED, RECALL. */
struct ctl_place {
    outbox_handle outbox; /* 0: nowhere, it has ended */
    uint32_t slot;
    uint32_t generation;
};

static inline int ctl_place_same(const struct ctl_place *a, const struct ctl_place *b)
{
    return a->outbox == b->outbox && a->slot == b->slot && a->generation == b->generation;
}

struct ctl_move {
    struct ctl_header h;
    struct ctl_place from; /* its slot where it was */
    struct ctl_place to;   /* MOVED: where it is now; TAKEN: not nowhere if its other end is under way, too */
    struct ctl_place peer; /* the slot at its other end */
};

/* REPLAY: a connection that nobody has accepted in time. REPLAYED, its answer: with status 0 a relay will answer the offer;
 * else it is the connector's to offer again. */
struct ctl_replay {
    struct ctl_header h;
    struct ctl_place at; /* the connector's slot; what it says of the offer is the one that counts */
    uint32_t listener;
    uint32_t pad;
};

struct ctl_segment_is {
    struct ctl_header h;
    outbox_handle outbox;
    uint32_t index;
    uint32_t pad;
};

struct ctl_ports { /* PORTS: `count` wanted. PORTS_ARE: ports [first, first + count). RETURN_PORTS: back */
    struct ctl_header h;
    uint8_t addr[16];
    uint16_t first;
    uint16_t count;
    uint32_t pad;
};

/* DEAD: every session with a slot of that worker ends. MEMBER_DEAD: of my own family, to those that share an outbox
 * with it, or to one of the family. */
struct ctl_dead {
    struct ctl_header h;
    uint32_t worker;
    uint32_t member; /* DEAD: its app's id */
};

struct ctl_memory { /* MEMORY */
    struct ctl_header h;
    uint64_t size;
};

struct ctl_stay { /* keeps an auto-started daemon until process `pid`, which must be the sender's, is gone */
    struct ctl_header h;
    uint32_t pid;
    uint32_t pad;
};

enum ctl_show_what {
    CTL_SHOW_APPS = 1,
    CTL_SHOW_WORKERS,
    CTL_SHOW_LISTENERS,
    CTL_SHOW_SESSIONS,
    CTL_SHOW_SEGMENTS,
    CTL_SHOW_NAMESPACES,
    CTL_SHOW_LAST = CTL_SHOW_NAMESPACES
};

struct ctl_show {
    struct ctl_header h;
    uint32_t what;
    uint32_t pad;
};

struct ctl_shown {
    struct ctl_header h;
    uint64_t bytes; /* of JSON in the memfd */
};

struct ctl_ns { /* NS_ADD, NS_DEL */
    struct ctl_header h;
    char id[CTL_NAME_MAX];
    char secret[CTL_SECRET_MAX]; /* empty: none is asked */
    char group[CTL_NAME_MAX];    /* empty: the daemon's own */
    uint32_t mode;               /* 0: as the daemon's socket; else 0600, 0660 or 0666 */
    uint32_t pad;
};

struct ctl_status_is {
    struct ctl_header h;
    uint32_t version;
    uint32_t pid;
    uint32_t apps;
    uint32_t workers;
    uint32_t paused; /* not 0: new connections go to the kernel */
    uint32_t pad;
    uint64_t uptime_ns;
    char release[CTL_NAME_MAX];
};

#define CTL_ASSERT(cond) _Static_assert(cond, "control ABI changed: " #cond)
CTL_ASSERT(sizeof(struct ctl_header) == 16);
CTL_ASSERT(sizeof(struct ctl_hello) == 312);
CTL_ASSERT(sizeof(struct ctl_welcome) == 176);
CTL_ASSERT(sizeof(struct ctl_child) == 32);
CTL_ASSERT(sizeof(struct ctl_child_hello) == 24);
CTL_ASSERT(sizeof(struct ctl_listen) == 56);
CTL_ASSERT(sizeof(struct ctl_listened) == 32);
CTL_ASSERT(sizeof(struct ctl_listener) == 24);
CTL_ASSERT(sizeof(struct ctl_introduce) == 32);
CTL_ASSERT(sizeof(struct ctl_introduced) == 32);
CTL_ASSERT(sizeof(struct ctl_outbox) == 40);
CTL_ASSERT(sizeof(struct ctl_outbox_is) == 48);
CTL_ASSERT(sizeof(struct ctl_move) == 64);
CTL_ASSERT(sizeof(struct ctl_replay) == 40);
CTL_ASSERT(sizeof(struct ctl_segment_is) == 32);
CTL_ASSERT(sizeof(struct ctl_ports) == 40);
CTL_ASSERT(sizeof(struct ctl_dead) == 24);
CTL_ASSERT(sizeof(struct ctl_stay) == 24);
CTL_ASSERT(sizeof(struct ctl_memory) == 24);
CTL_ASSERT(sizeof(struct ctl_show) == 24);
CTL_ASSERT(sizeof(struct ctl_shown) == 24);
CTL_ASSERT(sizeof(struct ctl_ns) == 280);
CTL_ASSERT(sizeof(struct ctl_status_is) == 112);

#endif
