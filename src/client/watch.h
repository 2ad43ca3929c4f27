/* watch.h - who waits for a session, a listener or a set: event sets, polls, blocked threads; and how they
 * are told.
 *
 * A low floor: it knows nothing of what a session is ready for. "Ready" here is "look at it again". */
#ifndef BERTH_CLIENT_WATCH_H
#define BERTH_CLIENT_WATCH_H

#include <sys/epoll.h>

#include "client/state.h"

/* Linux tells both names of each. */
#define READY_IN (EPOLLIN | EPOLLRDNORM)
#define READY_OUT (EPOLLOUT | EPOLLWRNORM)
/* By edge, bytes are an event for who asks for one of these (the kernel's sock_def_readable). */
#define HEARS_IN (READY_IN | EPOLLPRI | EPOLLRDBAND)

/* Ties a session, a listener or another set to a set. */
struct watch {
    struct evset *set;   /* that is to be told */
    uint64_t handle;     /* session or listener; 0: a set */
    struct evset *inner; /* that set */
    uint32_t key;        /* the caller's: tells watches of one session in one set apart */
    uint32_t events;
    struct watch **list; /* head of the session's, listener's or inner set's list */
    struct watch *next;  /* in it */
    struct watch *set_next, *set_prev;
    struct watch *ready_next, *ready_prev;
    uint64_t data;
    uint64_t seen_tail;              /* the peer's word when it was last judged */
    uint64_t heard_tail, heard_head; /* what the peer's slot said when sets around its set last heard of it */
    /* the same of a shared session when it was last looked at, see judge.c */
    uint64_t looked_tail, looked_head;
    uint32_t seen_flags, looked_flags;
    uint32_t seen_filled;
    uint32_t seen_arrivals; /* edge: the listener's, when it was last told */
    uint32_t
        heard_arrivals; /* the listener's, when sets around last heard of it; 0 while no set lies in another */
    bool seen_cut;
    bool fresh; /* nothing has been told since it was added or changed */
    bool ready;
    bool more; /* what it watches has moved while it was judged, or a set in it has such a one: it is to be
                   judged again */
    bool heard_reset;
    /* it is on its set's list since the sets around heard of it: nobody has seen yet that it has nothing to tell */
    bool heard;
    bool spent; /* one shot, fired */
    bool told;  /* edge: an event has come since the last report */
    bool sure;  /* listener: the token at the head of its queue can be answered */
};

struct evset {
    int epfd; /* the program's own kernel set, -1: none. Nothing of berth's is ever in it */
    /* what a wait sleeps on: that set, our bell, the inner set, listeners' pipes; -1 until first needed */
    int wait_ep;
    int32_t pid; /* whose wait_ep it is */
    uint32_t waiter;
    bool wired;
    bool beside;      /* the program's set may lie in no further one: it is slept on beside wait_ep */
    bool anybody;     /* it is waited for through another set or a poll: sessions name WAITER_ANY */
    bool kernel_hot;  /* the last events were the kernel's: it is asked before going to sleep */
    bool kernel_full; /* the last wait was filled by the kernel's alone: sessions come first */
    uint32_t count, listeners, inner;
    uint32_t pollers;  /* threads in client_poll that wait for it */
    uint32_t sleeping; /* of those in evset_wait */
    uint32_t rounds, looks, full;
    int64_t kernel_looked;
    struct watch *all;
    struct watch *ready_first, *ready_last;
    struct watch *outer;    /* watches of other sets on this one */
    struct set_pipe *pipes; /* in wait_ep: setpipes.c */
    uint64_t last;          /* session handle of the last event, for the spin budget */
    uint8_t vain;           /* how often in a row spinning did not pay */
    /* how often it was woken soon and for few events since it was not; how often in a row coalescing gathered no more: see
     * evset.c */
    uint8_t woken_for_few, vain_coalesced;
    bool wakes_in_time; /* a thread of it that sleeps by the clock, as of slack_asked */
    int64_t slack_asked;
    uint64_t life; /* see sets.c. The memory outlives the set */
    struct evset *next_free, *next_made;
};

#define SETS_DEEP 5 /* how deep sets may lie in sets, as the kernel has it */

/* All under watch_lock. */
void watch_enter(struct watch *w); /* onto the set's list and the list that w->list names */
void watch_leave(struct watch *w); /* off all lists */
void watch_ready(struct watch *w); /* to be judged; sets around its set as well */
/* To be judged once more; for sets around its set it is news only if the peer's words have moved. */
void watch_again(struct watch *w, const struct slot *peer);
void watch_stays(struct watch *w); /* as watch_ready, but it is no news to the sets around its own */
void watch_again_by_level(
    struct watch *w); /* the same, but sets around that watch by level look at it again */
/* The same of a listener to which so many have come: an edge for the sets around if they have not heard of so many. */
void watch_counts(struct watch *w, uint32_t arrivals);
void watch_heard(struct watch *w,
                 const struct slot *peer); /* the sets around know what the peer's slot says */
/* It is about to go, or to ask for something else: what the peer has done so far is an edge for the sets around still. */
void watch_last_edge(struct watch *w, const struct slot *peer);
void watch_unready(struct watch *w);
bool set_asleep(const struct evset *set); /* somebody sleeps who waits for it, or for one around it */
struct watch *watch_find(struct evset *set, struct watch *list, uint32_t key);

/* Takes watch_lock. Somebody should look at the session again: its event sets, polls and blocked threads. */
void watches_ready(struct session_cache *c);
/* The same of what has happened to its peer: it is an edge for sets around its event sets where that is news to them. */
void watches_look(struct session_cache *c, const struct slot *peer);
/* The same where nothing has happened, as far as we know. `quietly`, true: the caller is to ring (own_kick). */
void watches_again(struct session_cache *c);
bool watches_again_quietly(struct session_cache *c);
/* Who watches it, by edge too, is told once more of what is there; `bytes`: only who watches it for bytes. */
void watches_renew(struct session_cache *c, bool bytes);
void listener_ready(struct listener *l, uint32_t arrivals); /* the same of a listener */
/* A token of it has left the pipe and waits on: who watches it by edge is told only if that is news. */
void listener_moved(struct listener *l, uint32_t arrivals,
                    bool (*news)(const struct listener *l, const struct watch *w));
bool watches_ready_quietly(struct session_cache *c); /* true: the caller is to ring (own_kick) */
/* What they watch is gone; `peer`: of a session that had one, else NULL. */
void watches_drop(struct watch **list, const struct slot *peer);

/* Threads that sleep on the peer's words by futex: they look again, and sleep by other means if they must. */
void sleepers_wake(struct session *s);
void futex_sleepers_wake(struct session *s, struct session_cache *c);
void own_kick(void); /* wakes every waiter of this process that does not sleep for one word */

#endif
