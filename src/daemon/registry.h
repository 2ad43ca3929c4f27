/* registry.h - what the daemon knows: connections, apps, workers, outboxes, listeners, port leases,
 * namespaces.
 *
 * Who owns what, and who may still hold it (the two phases of each teardown are unlink, then free):
 *
 *   conn      one per socket. Freed by the loop at the end of a round, never inside a handler; its worker
 *             dies first.
 *
 *   worker    of an app; reached by id. Dead when its connection ended; then it stays as a shadow (no
 *             connection, in no list) while an outbox of its own is kept, and is freed with the last of them.
 *
 *   app       lives while a worker of it lives; freed when its last shadow is gone too, since what faces it
 *             may be needed to tell whether what a shadow left is still wanted.
 *
 *   outbox    faces an app. Held by its owner and by what that forked; dead when no holder lives; kept then
 *             while the app that it faces may still want what lies in it (outbox.c), freed when that is over.
 *
 *   listener  held by the worker that made it and by what that forked; gone with the last.
 *
 *   lease     of ports: held likewise; kept after that while its first holder's shadow is.
 *
 *   space     one per (namespace, network namespace) with an app in it: directory, listeners, port pools.
 *             Freed with its last app.
 *
 *   ns        until deleted; its apps are evicted then, and it is freed with the last of its spaces.
 */
#ifndef BERTH_DAEMON_REGISTRY_H
#define BERTH_DAEMON_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/log.h"
#include "berth/error.h"
#include "daemon/idmap.h"
#include "daemon/list.h"
#include "shm/abi.h"
#include "shm/control.h"
#include "shm/ctlsock.h"

struct daemon;
struct epoll_event;
struct worker;

/* ---- the loop ---- */

struct watch { /* a descriptor in the epoll set */
    int fd;
    void (*ready)(struct daemon *d, struct watch *w, uint32_t events);
};

#define UID_NONE ((uid_t)-1) /* of a connection whose process has become another user than it was */

enum conn_state { CONN_NEW = 1, CONN_CHILD = 2, CONN_ATTACHED = 4 }; /* bits, for the dispatch table */

struct conn {
    struct watch watch;
    struct list link; /* daemon.conns, or daemon.doomed */
    enum conn_state state;
    struct worker *worker;
    pid_t pid; /* 0: of a pid namespace that is not ours */
    uid_t uid;
    gid_t gid;
    struct list out; /* packets that the socket did not take */
    uint32_t out_count;
    uint64_t out_bytes;
    uint32_t events; /* watched for */
    bool due;        /* to be tried again now */
    bool stuck;      /* the kernel has no room for descriptors under way: tried again by a timer */
    bool doomed;
    bool stay; /* of a process whose pid we cannot see */
};

struct errand {       /* an ANNOUNCE: who sent it hears when all that it asked for has left */
    uint32_t packets; /* that still wait in queues, and 1 while it is being run */
    uint32_t from;    /* worker */
    uint32_t to;
    outbox_handle outbox;
};

/* ---- namespaces ---- */

#define SECRET_SALT 16
#define SECRET_HASH 32

struct ns {
    struct list link;
    char id[CTL_NAME_MAX];
    bool has_secret, deleted;
    uint8_t salt[SECRET_SALT], hash[SECRET_HASH];
    uid_t owner;
    gid_t group;
    uint32_t mode;
    uint32_t spaces; /* that name it */
};

struct space {
    struct list link;
    struct ns *ns;
    uint64_t netns; /* SO_NETNS_COOKIE */
    int directory_fd;
    struct directory *directory;
    struct list listeners;
    struct list pools;
    uint32_t pool_count;
    uint32_t apps;
    uint32_t epoch;
};

struct listener {
    struct list link; /* space.listeners */
    uint32_t id;
    struct app *app;
    struct dir_entry entry; /* as it is in the directory */
    uint32_t flags;         /* CTL_LISTEN_* */
    uint64_t cookie;
    uint32_t asked; /* the seq of the LISTEN that made it */
    int pipe_fd;
    struct ptrset holders; /* workers */
    uint64_t socket;       /* SO_COOKIE of the kernel's, or 0 */
    struct list hides;     /* while there are any it is not in the directory */
    bool hidden;           /* for good */
};

struct lease {
    struct list link; /* pool.leases */
    struct pool *pool;
    uint16_t first, count;
    struct ptrset holders; /* living workers */
    struct worker *maker;  /* living or shadow; NULL when gone */
};

struct pool {         /* the ports of one local address */
    struct list link; /* space.pools */
    uint8_t addr[16];
    struct list leases;
    uint8_t taken[65536 / 8];
};

/* ---- apps ---- */

struct app {
    struct list link; /* daemon.apps */
    uint32_t id;
    char name[CTL_NAME_MAX];
    struct space *space;
    uid_t uid;
    uint32_t flags; /* CTL_SCOPE_*, CTL_PROXY */
    uint64_t rx_fifo_size, tx_fifo_size, segment_size;
    struct list workers;
    uint32_t worker_count;
    uint32_t shadows; /* dead workers of which something is kept; and moves */
    uint32_t moves;   /* sessions of it that are on their way */
    uint32_t listener_count;
    int64_t lingers;    /* without workers, until then: see app_linger; 0: not at all */
    struct list facing; /* outboxes that face it, living */
    struct list left;   /* outboxes that face it, dead, oldest first */
    uint32_t left_count;
};

struct worker {
    struct list link; /* app.workers */
    uint32_t id;
    struct app *app;
    struct conn *conn; /* NULL: a shadow */
    uint32_t app_id;
    uid_t uid;
    pid_t pid;
    uint32_t family, member;
    /* -1 before CHILD_HELLO; the bell is for peers: nobody here writes or reads it */
    int page_fd, bell_fd;
    struct ptrset held;        /* outboxes it may write */
    struct ptrset got;         /* outboxes of others that it was given */
    struct ptrset listeners;   /* that it holds */
    struct ptrset leases;      /* that it holds */
    struct ptrset made_leases; /* that name it as maker */
    struct list parked;        /* GET_SEGMENT of its that wait */
    uint32_t parked_count;
    uint32_t own_outboxes; /* that name it as owner */
    uint64_t notice;       /* number of the last death it was told of, so that it is told once */
    uint64_t kin;          /* the same of the last relative's with which it shared an outbox */
};

struct segment {
    uint32_t index;
    int fd;
    uint64_t size;
};

struct outbox {
    struct list link;    /* app.facing or app.left */
    struct list of_left; /* daemon.left, when dead */
    outbox_handle handle;
    struct worker *owner; /* may be a shadow */
    struct app *facing;
    struct segment *segments; /* sorted by index; [0] is index 0 */
    uint32_t segment_count, segment_room;
    uint64_t bytes;
    struct ptrset holders; /* living workers that may write it */
    struct ptrset got;     /* living workers that were given it */
    struct list parked;    /* GET_SEGMENT that wait for a segment of it */
    bool dead;
    bool drained;     /* whoever may want it has been seen to have taken what was offered from it */
    uint8_t looks;    /* at queues that cannot be seen into */
    uint8_t unwanted; /* how often in a row nobody seemed to want it, since then */
};

struct parked {
    struct list of_worker, of_outbox;
    struct worker *worker;
    struct outbox *outbox;
    uint32_t seq, index;
};

/* ---- the daemon ---- */

struct limits {
    uint64_t apps, workers, listeners, outbox_bytes, sessions;
};

struct daemon {
    /* main.c, config.c */
    char dir[RUNTIME_DIR_MAX];
    bool automatic, stopping;
    uint32_t socket_mode;
    gid_t socket_group;
    bool has_socket_group;
    struct limits limits;
    uid_t uid;
    gid_t gid;
    int64_t started;
    int log_fd, lock_fd;

    /* server.c */
    int epfd;
    struct epoll_event *round; /* what epoll_wait gave, while it is worked off */
    int round_count;
    struct watch accept, signals, netlink;
    struct list conns, doomed, stays, claims, moves;
    uint32_t conn_count, stay_count, hides, claim_count, move_count;
    bool relays;        /* this program is `berth`, and can start itself as a relay */
    bool accept_paused; /* for want of descriptors */
    bool paused;        /* `berth pause` */
    int64_t accept_at;  /* when to take connections again */
    int64_t leave_at;   /* automatic: when the grace is over; 0: not alone */
    int64_t sweep_at;   /* when to look at left outboxes again; 0: there is none */
    int64_t sweep_wait;
    struct home_move *homes; /* the last of them, for who is forked just then */
    uint32_t homes_count;
    int64_t moves_at; /* when moves_due is; 0: not at all */
    int64_t stuck_at; /* when to try connections again to which the kernel took nothing; 0: there is none */

    /* registry.c */
    struct list apps;
    struct idmap app_by_id, worker_by_id, outbox_by_handle, listener_by_id;
    uint32_t app_count, worker_count; /* living */
    uint32_t last_app, last_worker, last_listener;
    struct list left; /* dead outboxes kept */
    uint32_t left_count;
    uint64_t notices;

    /* namespace.c, netaddr.c */
    struct list namespaces, spaces;
    uint64_t own_netns;
    uint8_t (*local)[16];
    uint32_t local_count;
};

/* ---- registry.c ---- */
struct app *app_find(struct daemon *d, uint32_t id);
struct app *app_find_joinable(struct daemon *d, const struct space *space, uid_t uid, const char *name);
int app_create(struct daemon *d, const struct ctl_hello *hello, struct space *space, uid_t uid,
               struct app **out);
int worker_create(struct daemon *d, struct app *app, struct conn *conn, struct worker **out);
struct worker *worker_find(struct daemon *d, uint32_t id); /* living ones only */
/* what faces it of the dead goes, where nobody is left to want it; the caller holds the app by a shadow */
void app_leave_nothing(struct daemon *d, struct app *app);
void app_release(struct daemon *d, struct app *app); /* frees an app without workers and shadows */
int worker_inherit(struct worker *child, struct worker *parent);
/* its listeners alone, and a family of its own */
int worker_inherit_listeners(struct worker *child, struct worker *parent);
void worker_die(struct daemon *d, struct worker *w);
void worker_release(struct daemon *d,
                    struct worker *w); /* frees a shadow that owns nothing any more, and its app */

/* ---- conn.c ---- */
int conn_create(struct daemon *d, int fd, struct conn **out); /* fd becomes the connection's on success */
void conn_forget(struct daemon *d, struct conn *c);           /* undoes conn_create; fd stays the caller's */
void conn_send(struct daemon *d, struct conn *c, const void *msg, size_t len, const int *fds, int nfds);
/* tell: a status for a last EVICTED, or 0 for none */
void conn_doom(struct daemon *d, struct conn *c, int tell);
void conn_reap(struct daemon *d);
void conn_flush(struct daemon *d, struct conn *c);
void conn_watch(struct daemon *d, struct conn *c);
void conns_unstick(struct daemon *d);
void conn_last_of(const struct conn *c, struct errand *e); /* it ends when what was sent last has left, too */

/* ---- server.c ---- */
int watch_add(struct daemon *d, struct watch *w, uint32_t events);
void watch_remove(struct daemon *d, struct watch *w);
int conn_adopt(struct daemon *d, int fd, struct conn **out); /* takes fd on success */
int server_open(struct daemon *d);
void daemon_init(struct daemon *d); /* main.c */
int server_run(struct daemon *d);
int server_round(struct daemon *d, int timeout); /* ms; how many descriptors had something */
void server_close(struct daemon *d);

/* ---- handlers: `fds` are the handler's; it sets to -1 what it keeps, the caller closes the rest ---- */
struct request {
    struct conn *conn;
    const union packet *msg;
    uint32_t seq;
    int *fds;
    int nfds;
};

union packet {
    struct ctl_header h;
    struct ctl_hello hello;
    struct ctl_child child;
    struct ctl_child_hello child_hello;
    struct ctl_listen listen;
    struct ctl_listener listener;
    struct ctl_introduce introduce;
    struct ctl_outbox outbox;
    struct ctl_move move;
    struct ctl_replay replay;
    struct ctl_ports ports;
    struct ctl_stay stay;
    struct ctl_memory memory;
    struct ctl_show show;
    struct ctl_ns ns;
    uint8_t bytes[CTL_MAX];
};

/* Each returns 0, having replied if a reply is due, or an error: the dispatcher then sends it in the reply of
 * that type. BERTH_E_PROTOCOL also ends the connection. */
void send_done(struct daemon *d, const struct request *r); /* attach.c */
int handle_hello(struct daemon *d, struct request *r);
int handle_child(struct daemon *d, struct request *r);
int handle_child_hello(struct daemon *d, struct request *r);
int handle_part(struct daemon *d, struct request *r);
int handle_detach(struct daemon *d, struct request *r);
int handle_stay(struct daemon *d, struct request *r);
int handle_status(struct daemon *d, struct request *r);
int handle_memory(struct daemon *d, struct request *r);
int handle_pause(struct daemon *d, struct request *r);
int handle_listen(struct daemon *d, struct request *r);
int handle_unlisten(struct daemon *d, struct request *r);
int handle_shut(struct daemon *d, struct request *r);
void claims_drop(struct daemon *d, const struct worker *w); /* NULL: all */
int handle_hide(struct daemon *d, struct request *r);
int handle_give(struct daemon *d, struct request *r);
int handle_take(struct daemon *d, struct request *r);
int handle_moved(struct daemon *d, struct request *r);
int handle_replay(struct daemon *d, struct request *r);
int handle_backlog(struct daemon *d, struct request *r);
int handle_introduce(struct daemon *d, struct request *r);
int handle_outbox(struct daemon *d, struct request *r);
int handle_announce(struct daemon *d, struct request *r);
int handle_segment(struct daemon *d, struct request *r);
int handle_retire(struct daemon *d, struct request *r);
int handle_leave(struct daemon *d, struct request *r);
int handle_get_outbox(struct daemon *d, struct request *r);
int handle_get_peers(struct daemon *d, struct request *r);
int handle_get_segment(struct daemon *d, struct request *r);
int handle_ports(struct daemon *d, struct request *r);
int handle_return_ports(struct daemon *d, struct request *r);
int handle_show(struct daemon *d, struct request *r);
int handle_ns_add(struct daemon *d, struct request *r);
int handle_ns_del(struct daemon *d, struct request *r);

/* ---- moves.c ---- */
void moves_due(struct daemon *d);
bool move_stands_in(int fd); /* could it be what stands for a session? */
/* of what stands for a session on its way, in that space and of that user; NULL */
struct app *move_app(const struct daemon *d, int fd, const struct space *space, uid_t uid);
bool move_relay(const struct daemon *d, pid_t pid); /* have we started it, and is it expected? */
/* it stays for a moment, also without workers: for what its listener has left to be replayed */
void app_linger(struct daemon *d, struct app *app);
bool moves_want(const struct daemon *d, const struct outbox *o); /* who takes one will look into it */
void moves_inherited(struct daemon *d,
                     struct worker *child);                /* what its parent was told may have been missed */
void moves_drop(struct daemon *d, const struct worker *w); /* of whoever took them; NULL: all */

/* ---- attach.c ---- */
void stays_free(struct daemon *d);

/* ---- pipes.c ---- */
bool pipes_can_be_known(const struct daemon *d); /* is there a /proc? */
bool is_pipe_for_writing(int fd);                /* an anonymous one, not its end for reading; never waits */
int bell_make(int *peers, int *owner);           /* one pipe, a description for each; or an error */
void bell_prepare(void);  /* the next one, while nobody waits for it: it is half of what WELCOME takes */
void close_aside(int fd); /* what a worker has or had too: the close may wait, and does so elsewhere */
void close_soon(int fd);  /* the same, in a moment: nobody waits for it */

/* ---- listener.c ---- */
/* connects go to the kernel, until the process of that pidfd has ended, or for good */
void listener_hide(struct daemon *d, struct listener *l, int *pidfd);
void listener_let_go(struct daemon *d, struct listener *l,
                     struct worker *w); /* one holder less; gone with the last */

/* ---- outbox.c ---- */
int outbox_register(struct daemon *d, struct worker *w, outbox_handle handle, struct app *facing, int fd,
                    struct outbox **out); /* takes fd on success */
struct outbox *outbox_known(struct daemon *d, outbox_handle handle);
void outbox_die(struct daemon *d, struct outbox *o);  /* no holder lives any more */
void outbox_drop(struct daemon *d, struct outbox *o); /* forget it */
void outbox_sweep(struct daemon *d);                  /* looks which of the dead ones are still wanted */
void parked_free(struct parked *p);
void errand_end(struct daemon *d, struct errand *e); /* one packet of it has left, or never will */
const struct segment *outbox_segment(const struct outbox *o, uint32_t index);

/* ---- slots.c: what lies in outboxes, read and checked ---- */
struct slot_pair {
    struct slot slot;
    struct slot_info info;
};

struct chunk_view { /* one chunk of one outbox, copied */
    struct slot slot[CHUNK_SLOTS];
    struct slot_info info[CHUNK_SLOTS];
};

struct peer_view { /* one slot, copied, and where it was; zero to begin with, and only for as long as no
                      handler has run */
    struct slot slot;
    struct slot_info info;
    const struct outbox *outbox;
    uint32_t chunk;
    int fd;
    uint64_t offset;
};

uint32_t slots_chunks(const struct outbox *o); /* how many chunks it says it has, at most CHUNKS_MAX */
bool slots_load(const struct outbox *o, uint32_t chunk, struct chunk_view *view);
/* The slot that faces `mine`, which is slot `index` of `o`. False if there is none that agrees. */
bool slots_peer(struct daemon *d, const struct outbox *o, const struct slot_pair *mine, uint32_t index,
                struct peer_view *view);
enum need { NEED_NOTHING, NEED_ANSWERS, NEED_SESSIONS };
/* May anybody still want what lies in this dead outbox? NEED_ANSWERS: it has offers of which it is not seen
 * who took them. */
enum need slots_need(struct daemon *d, const struct outbox *o);
/* Does a slot of the app that this outbox faces, not yet closed, name one of its? */
bool slots_named(const struct outbox *o);
bool slot_moved(const struct outbox *o, uint32_t index); /* what was there is elsewhere */
void slot_wake(const struct outbox *o, uint32_t index);  /* who sleeps on its words alone */
void slots_wake(const struct outbox *o);                 /* every thread that sleeps on a word of it */

/* ---- ports.c ---- */
void lease_let_go(struct daemon *d, struct lease *lease, struct worker *w);
void lease_maker_gone(struct daemon *d, struct lease *lease);
void pools_free(struct space *space);
int ports_find_free(struct daemon *d, const struct space *space, const uint8_t addr[16], uint16_t *port);

/* ---- namespace.c ---- */
int ns_add(struct daemon *d, const char *id, const char *secret, uid_t owner, gid_t group, uint32_t mode);
struct ns *ns_find(struct daemon *d, const char *id);
bool ns_id_valid(const char *id);
#define NS_DEFAULT "default" /* there always is one of this name */
int ns_admit(struct daemon *d, const struct ns *ns, const struct conn *c, const char *secret);
bool ns_admits_user(struct daemon *d, const struct ns *ns, const struct conn *c);
int space_get(struct daemon *d, struct ns *ns, uint64_t netns, struct space **out); /* counted: space_put */
void space_put(struct daemon *d, struct space *space);
bool space_is_local(const struct space *space, const uint8_t addr[16]);
void namespaces_free(struct daemon *d);

/* ---- netaddr.c ---- */
int netaddr_open(struct daemon *d);
void netaddr_close(struct daemon *d);
uint64_t netns_cookie(int sock, bool *ok);

/* ---- config.c ---- */
int config_load(struct daemon *d, const char *path); /* prints what is wrong, with file and line */
int parse_mode(const char *text, uint32_t *out);
int parse_group(const char *text, gid_t *out);

/* ---- show.c ---- */
bool conn_is_admin(const struct daemon *d, const struct conn *c);

#endif
