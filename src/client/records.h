/* records.h - what the processes of a family share, and the functions for its words.
 *
 * Family segment (struct family): ordinary shared memory, writable by a worker and all that it forks, never
 * seen by a peer. It holds the truth that is not in the slots: session records, ring and slot allocation,
 * channel cursors. It has no pointers. A forked child finds it at the same address.
 *
 * A word that is looked at without the lock under which it is written has functions here, the one home of its
 * memory order: all others use them. Where nothing else is said the word is a hint or a fact by itself, and
 * relaxed; who must be sure takes the lock and looks again.
 */
#ifndef BERTH_CLIENT_RECORDS_H
#define BERTH_CLIENT_RECORDS_H

#include <stddef.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "client/client.h"
#include "client/members.h"
#include "client/openrec.h"
#include "client/setrec.h"
#include "session/endpoint.h"
#include "shm/abi.h"

#define SESSIONS_MAX (1u << 20)
#define RINGS_MAX (1u << 20)
#define OUTBOXES_MAX 4096u
#define OUTBOX_SEGMENTS 1024u
#define OUTBOX_CHANNELS_USED 1024u /* as many as the ABI has */
#define RING_CLASSES 8u            /* 4 KiB, 16 KiB, 64 KiB … 64 MiB: powers of four */
#define NONE 0xffffffffu
#define NEAR_HOLDER_WORDS 4u

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
/* connector: shut down before it was connected, and again what a fresh socket is */
#define SF_STOPPED 0x10u
#define SF_CONFIRMED 0x20u   /* acceptor: the connector knows our slot */
#define SF_RESET 0x40u       /* the peer is gone or broke the rules: nothing more comes, `error` was set */
#define SF_SHARED 0x80u      /* held by more than one member: see fork.c */
#define SF_RESET_TOLD 0x200u /* the program has been told of the reset: see client_tell_reset */
#define SF_DEAD 0x100u       /* the peer worker is gone: what it published can still be read */
#define SF_WRITE_LOST 0x400u /* the program wrote after the peer had closed: see client_write_lost */
/* acceptor: the offer was made more than once, the connector may have another: see session_judge */
#define SF_TENTATIVE 0x800u
/* moves when who sleeps for the session by futex shall look again, see watch.c */
#define SF_ATTENTION 0xf000u
#define SF_ATTENTION_ONE 0x1000u
#define SF_TAG_SHIFT 16 /* above: low bits of the generation it was made with, see session_dead */

#define MOVING_PEER 1u /* the other end is on its way to another program: its worker's death says nothing */
#define MOVING_HERE 2u /* taken over from another program; the daemon may want it back */
#define MOVING_HOME                                                                                          \
    8u /* into an outbox of our own, and the peer has not come yet; with GONE: what is left of such a
                          one, and `listener` is its record. See home.c */
#define MOVING_GONE 4u /* given to another program: what is left of it here waits until the peer knows */

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
    uint32_t filled;  /* writes that found too little room: whoever waits for an edge is to hear when there is
                         some */
    uint32_t one_way; /* looks in a row that found little, without a write of ours */
    uint32_t lowat;   /* SO_RCVLOWAT, where above 1 */
    /* line 2: who */
    uint32_t own_outbox;
    uint32_t own_slot;
    outbox_handle peer_outbox;
    uint32_t peer_slot;
    uint32_t peer_generation;
    struct member_word holders[NEAR_HOLDER_WORDS]; /* the first members' bits, see holders.h */
    uint32_t listener;
    uint32_t offer_seq;
    /* line 3 */
    endpoint local, remote;
    int64_t looked; /* when, while one_way counts */
    uint32_t next;  /* free list, zombie list, unconfirmed list */
    uint32_t app;
    union {
        uint32_t spanners; /* a futex, see span.h */
        struct {
            /* member + 1 that has the span open, 0: nobody; SPAN_AWAITED */
            uint16_t read_spanner, write_spanner;
        };
    };
    uint8_t port_leased;
    uint8_t doubt;  /* connector: see sessions_reoffer */
    uint8_t file;   /* FILE_*: what belongs to all who hold the session, as to an open file, see openfile.c */
    uint8_t moving; /* MOVING_*, see move.c */
};
_Static_assert(sizeof(struct session) == 256, "a session record is four cache lines");

#define FILE_NONBLOCK 1u   /* O_NONBLOCK */
#define FILE_CONNECTING 2u /* a connect() whose end no connect() has told yet */
#define FILE_OPTIONS 4u    /* some were set when several held it: family.options_of */
#define FILE_TIMES 8u      /* timeouts, or how to end, among them: asked for before each wait */
/* A family of few processes, as nearly all are, has the bits of who holds a session in its record. The others' lie
 * in memory that is not there before they are: see holders.h. */
struct far_holders {
    struct member_word word[MEMBER_WORDS - NEAR_HOLDER_WORDS];
};

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
    uint32_t acted;        /* not 0: it has had a lock of the family's, so something may have changed */
    uint32_t closes;       /* how often it was about to leave a session to those who hold it, too */
    uint64_t changes_done; /* of event sets, by their number: joint.c */
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

/* Tokens that were taken out of a listener's pipe and wait for what an answer needs, or for accept. See
 * tokens.c. */
#define ASIDES_MAX 4096u
#define ASIDE_TOKENS 126u

struct aside {
    struct family_lock lock;
    uint32_t used;
    uint32_t count;
    uint32_t nonblock; /* the listener's O_NONBLOCK, as a session's */
    uint32_t taking;   /* out of the pipe, ever, counted before and taken back where there is nothing */
    uint32_t taken;    /* the same, counted after */
    uint32_t denied;   /* how often somebody who would accept has found nothing */
    uint32_t later;    /* not 0: one of these could not be answered when it was put here */
    uint32_t
        listener; /* the daemon's number, where it came when relatives may have had the listener already */
    struct member_set holders;
    struct member_set served; /* of these, who has accepted */
    struct token token[ASIDE_TOKENS];
};

struct family {
    struct family_lock lock;
    uint32_t session_free; /* stack through session.next: index + 1 */
    uint32_t sessions;     /* ever used */
    uint32_t ring_free;    /* index + 1 */
    uint32_t rings;
    uint32_t next_outbox; /* count for handles, per family */
    uint32_t outboxes;    /* ever used */
    uint32_t members;     /* ever used */
    uint32_t any_arm;     /* WAITER_ANY's */
    struct family_lock bury_lock;
    struct member member[MEMBERS_MAX];
    struct aside aside[ASIDES_MAX];
    uint32_t sets;                 /* event sets that were ever shared */
    struct member_set set_waiters; /* who is to be woken by changes of them */
    struct family_lock sets_lock;
    uint64_t set_changes; /* the number of the last */
    uint64_t changes_forgotten;
    struct set_change_rec set_change[SET_CHANGES];
    uint32_t files;        /* ever used */
    uint32_t files_change; /* how often somebody has changed a socket of the kernel's that others have, too */
    struct joint_file file[FILES_MAX];
    struct family_lock options_lock;
    uint32_t options;     /* ever used */
    uint32_t option_free; /* index + 1 */
    uint32_t outbox_used
        [OUTBOXES_MAX]; /* not in the records: who looks for a free one would touch a page of each */
    struct outbox_rec outbox[OUTBOXES_MAX];
    struct ring_rec ring[RINGS_MAX];
    struct session session[SESSIONS_MAX];
    struct option_rec option[OPTIONS_MAX];
    uint32_t options_of[SESSIONS_MAX]; /* index + 1 */
    struct far_holders far_holders[SESSIONS_MAX];
};

/* ---- words that are facts by themselves ---------------------------------------------------------------- */

/* rec_field() and rec_set_field() */
#define RECORD_WORD(rec, type, field)                                                                        \
    static inline type rec##_##field(const struct rec *r)                                                    \
    {                                                                                                        \
        return load_relaxed(&r->field);                                                                      \
    }                                                                                                        \
    static inline void rec##_set_##field(struct rec *r, type value)                                          \
    {                                                                                                        \
        store_relaxed(&r->field, value);                                                                     \
    }

/* written under tx_lock */
RECORD_WORD(session, uint64_t, tail)
RECORD_WORD(session, uint64_t, head_seen)
RECORD_WORD(session, uint64_t, tx_size)
RECORD_WORD(session, uint64_t, tx_limit)
RECORD_WORD(session, uint32_t, filled)
RECORD_WORD(session, uint64_t, event_pos) /* under the channel's tx_lock */
/* written under rx_lock; streak by writes too, and one that is lost does no harm */
RECORD_WORD(session, uint64_t, head)
RECORD_WORD(session, uint64_t, tail_seen)
RECORD_WORD(session, uint64_t, head_published)
RECORD_WORD(session, uint32_t, streak)
RECORD_WORD(session, uint32_t, one_way)
RECORD_WORD(session, uint32_t, lowat)
/* written before the state that announces them, or under both halves' locks; read with that state, or checked
 * afterwards */
RECORD_WORD(session, uint32_t, own_outbox)
RECORD_WORD(session, uint32_t, own_slot)
RECORD_WORD(session, outbox_handle, peer_outbox)
RECORD_WORD(session, uint32_t, peer_slot)
RECORD_WORD(session, uint32_t, peer_generation)
RECORD_WORD(session, uint32_t, listener)
RECORD_WORD(session, uint32_t, offer_seq)
RECORD_WORD(session, uint32_t, app)
/* written by whoever has reason to */
RECORD_WORD(session, uint8_t, doubt)
RECORD_WORD(session, uint8_t, moving)
RECORD_WORD(aside, uint32_t, nonblock)
RECORD_WORD(aside, uint32_t, listener)
/* of event sets: the first is the member's own, the second is written under sets_lock */
RECORD_WORD(member, uint64_t, changes_done)
RECORD_WORD(family, uint64_t, changes_forgotten)
/* written under the outbox's lock; sweeps look without it */
RECORD_WORD(ring_rec, uint32_t, owner)
RECORD_WORD(ring_rec, uint16_t, outbox)
RECORD_WORD(ring_rec, uint8_t, left)
RECORD_WORD(outbox_rec, outbox_handle, handle)
RECORD_WORD(outbox_rec, uint32_t, segments)
RECORD_WORD(outbox_rec, uint32_t, slots)
RECORD_WORD(outbox_rec, int64_t, grown_at)

static inline uint32_t outbox_rec_slots_live(const struct outbox_rec *r)
{
    return load_relaxed(&r->slots_live);
}

/* ---- session ------------------------------------------------------------------------------------------- */

/* Flags come and go by operations of the one order: each by itself, whoever else changes another. */
static inline uint32_t session_flags(const struct session *s)
{
    return load_relaxed(&s->flags);
}

/* Of the session that is in the record now: what was read of it before is older. */
static inline uint32_t session_flags_acquire(const struct session *s)
{
    return load_acquire(&s->flags);
}

/* After slot_arm, before a sleep: pairs with sleepers_wake, which moves SF_ATTENTION and then wakes. */
static inline uint32_t session_flags_sc(const struct session *s)
{
    return load_sc(&s->flags);
}

/* What they were. */
static inline uint32_t session_add_flags(struct session *s, uint32_t flags)
{
    return fetch_or_sc(&s->flags, flags);
}

static inline void session_drop_flags(struct session *s, uint32_t flags)
{
    (void)fetch_and_sc(&s->flags, ~flags);
}

/* As compare_exchange_sc. */
static inline bool session_change_flags(struct session *s, uint32_t *is, uint32_t to)
{
    return compare_exchange_sc(&s->flags, is, to);
}

static inline bool session_file(const struct session *s, uint32_t what)
{
    return load_relaxed(&s->file) & what;
}

/* Each by itself, as flags. */
static inline void session_set_file(struct session *s, uint32_t what, bool on)
{
    if (on != session_file(s, what)) /* `what` may be several, to be taken out */
        (void)(on ? fetch_or_sc(&s->file, (uint8_t)what) : fetch_and_sc(&s->file, (uint8_t)~what));
}

/* Of read_spanner, write_spanner: under the half's lock, which orders them. Whoever sleeps reads both at
 * once, below. */
static inline uint16_t spanner_is(const uint16_t *spanner)
{
    return load_relaxed(spanner);
}

static inline void spanner_set(uint16_t *spanner, uint32_t is)
{
    store_release(spanner, (uint16_t)is);
}

/* The futex: pairs with spanner_set. */
static inline uint32_t session_spanners(const struct session *s)
{
    return load_acquire(&s->spanners);
}

static inline uint32_t session_state(const struct session *s)
{
    return load_relaxed(&s->state);
}

/* Pairs with session_store_state: what was written before the state is there. */
static inline uint32_t session_state_acquire(const struct session *s)
{
    return load_acquire(&s->state);
}

static inline void session_store_state(struct session *s, uint32_t state)
{
    store_release(&s->state, state);
}

static inline uint32_t session_generation(const struct session *s)
{
    return load_relaxed(&s->generation);
}

/* Pairs with session_set_generation: of an older session nothing is left. */
static inline uint32_t session_generation_acquire(const struct session *s)
{
    return load_acquire(&s->generation);
}

static inline void session_set_generation(struct session *s, uint32_t generation)
{
    store_release(&s->generation, generation);
}

/* The first error stays until it is taken; of two that take it one gets it. */
static inline void session_set_error(struct session *s, int32_t error)
{
    int32_t none = 0;
    (void)compare_exchange_sc(&s->error, &none, error);
}

static inline int32_t session_take_error(struct session *s)
{
    return exchange_sc(&s->error, 0);
}

/* Each by itself, for who may be looking. Four at a time: the compiler does not do that for atomic stores. */
static inline void words_clear(uint64_t *words, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        store_relaxed(&words[i], 0);
        store_relaxed(&words[i + 1], 0);
        store_relaxed(&words[i + 2], 0);
        store_relaxed(&words[i + 3], 0);
    }
    for (; i < n; i++)
        store_relaxed(&words[i], 0);
}

/* All but its locks: a late look at the old session may still come, and have them. It finds another
 * generation, or nothing. */
static inline void session_begin(struct session *s, uint32_t generation)
{
    uint64_t *words = (uint64_t *)(void *)s;
    const size_t rx = offsetof(struct session, rx_lock) / 8, all = sizeof *s / 8;
    words_clear(words + 1, rx - 1);
    words_clear(words + rx + 1, all - rx - 1);
    store_release(&s->flags, generation << SF_TAG_SHIFT);
    session_set_generation(s, generation);
}

/* Into a list of sessions, whose first link may be the process's: release, for who looks without the lock
 * whether there are any. */
static inline void session_list_set(uint32_t *link, uint32_t to)
{
    store_release(link, to);
}

/* ---- rings, outboxes, channels ------------------------------------------------------------------------- */

/* A ring left behind: left_tail and next were written before. */
static inline void ring_rec_leave(struct ring_rec *r)
{
    store_release(&r->left, (uint8_t)1);
}

/* Klass and outbox were written before. */
static inline void ring_rec_set_word(struct ring_rec *r, uint64_t word)
{
    store_release(&r->word, word);
}

/* Written under the outbox's lock. Acquire pairs with outbox_rec_set_channels: those counted are there. */
static inline uint32_t outbox_rec_channels(const struct outbox_rec *r)
{
    return load_acquire(&r->channels);
}

static inline void outbox_rec_set_channels(struct outbox_rec *r, uint32_t channels)
{
    store_release(&r->channels, channels);
}

/* Acquire pairs with chan_rec_set_peer_worker: the channel is that worker's, with its queue. */
static inline uint32_t chan_rec_peer_worker(const struct chan_rec *chan)
{
    return load_acquire(&chan->peer_worker);
}

static inline void chan_rec_set_peer_worker(struct chan_rec *chan, uint32_t worker)
{
    store_release(&chan->peer_worker, worker);
}

/* ---- members ------------------------------------------------------------------------------------------- */

/* Pid and generation at once. Acquire: what a member left when it ended is there. */
static inline uint64_t member_life_now(const struct member *m)
{
    return load_acquire(&m->life);
}

static inline void member_set_life(struct member *m, uint64_t life)
{
    store_release(&m->life, life);
}

/* As compare_exchange_sc. */
static inline bool member_change_life(struct member *m, uint64_t *is, uint64_t to)
{
    return compare_exchange_sc(&m->life, is, to);
}

static inline int32_t member_pid(const struct member *m)
{
    return load_acquire(&m->pid);
}

/* By the member itself: nobody takes its place while it lives. */
static inline void member_set_pid(struct member *m, int32_t pid)
{
    store_release(&m->pid, pid);
}

static inline uint32_t member_generation_now(const struct member *m)
{
    return load_relaxed(&m->generation);
}

static inline uint32_t member_worker(const struct member *m)
{
    return load_relaxed(&m->worker);
}

/* By itself before its first lock, by its parent before it exists. What follows is ordered by that lock, and
 * by the death. */
static inline bool member_acted(const struct member *m)
{
    return load_acquire(&m->acted) != 0;
}

static inline void member_set_acted(struct member *m, bool acted)
{
    store_release(&m->acted, acted ? 1u : 0u);
}

/* Who is about to leave a session to others counts, then looks whether they live. Who ends without a look at
 * what it holds is no more among the living first, then looks at its parent's count: of two that do so at
 * once one sees the other. */
static inline void member_closing(struct member *m)
{
    (void)fetch_add_sc(&m->closes, 1u);
}

static inline uint32_t member_closes(const struct member *m)
{
    return load_sc(&m->closes);
}

/* Under tx_lock, and after the event was put into the queue: who dies in between leaves one that is found and
 * counted (repair.c). The other way round he would leave a hole, and whoever reads the queue would wait there
 * for ever. */
static inline void chan_rec_sent(struct chan_rec *chan)
{
    store_release(&chan->tx_pos, chan->tx_pos + 1);
}

/* ---- tokens put aside ---------------------------------------------------------------------------------- */

/* Written under its lock, after the token. Relaxed: is it worth to take the lock? */
static inline uint32_t aside_count(const struct aside *a)
{
    return load_relaxed(&a->count);
}

static inline uint32_t aside_count_acquire(const struct aside *a)
{
    return load_acquire(&a->count);
}

static inline void aside_set_count(struct aside *a, uint32_t count)
{
    store_release(&a->count, count);
}

/* Written under its lock. Relaxed: whoever hears that something has come looks, and is told once too often at
 * worst. */
static inline bool aside_later(const struct aside *a)
{
    return load_relaxed(&a->later) != 0;
}

static inline void aside_set_later(struct aside *a, bool later)
{
    store_relaxed(&a->later, later ? 1u : 0u);
}

/* How many have ever come is what was taken and what is in the pipe, which cannot be read at once. So there
 * are two counts. Who asks for news reads the pipe, then `taking`: what has left the pipe is counted, so it
 * is not too few. Who notes what was told reads `taken`, then the pipe: not too many. An edge may be told
 * twice then, and none is lost. */
static inline void aside_takes(struct aside *a)
{
    (void)fetch_add_sc(&a->taking, 1u);
}

static inline void aside_took(struct aside *a, bool something)
{
    (void)fetch_add_sc(something ? &a->taken : &a->taking, something ? 1u : ~0u);
}

/* Who takes a token out of the pipe to look at it puts it here, then looks at this; who finds nothing counts,
 * then looks here once more. So either he finds it, or it is known that he did not. */
static inline void aside_deny(struct aside *a)
{
    (void)fetch_add_sc(&a->denied, 1u);
}

static inline uint32_t aside_denied(const struct aside *a)
{
    return load_sc(&a->denied);
}

static inline uint32_t aside_taking(const struct aside *a)
{
    return load_acquire(&a->taking);
}

static inline uint32_t aside_taken(const struct aside *a)
{
    return load_acquire(&a->taken);
}

/* True: it was free and is the caller's. */
static inline bool aside_claim(struct aside *a)
{
    uint32_t unused = 0;
    return !load_relaxed(&a->used) && compare_exchange_sc(&a->used, &unused, 1u);
}

static inline void aside_free(struct aside *a)
{
    store_release(&a->used, 0);
}

/* ---- how many there are -------------------------------------------------------------------------------- */
/* Written under family.lock, and only up. Acquire and release: who walks them all takes no lock, and finds
 * records, not holes. */

static inline uint32_t family_sessions(const struct family *f)
{
    return load_acquire(&f->sessions);
}

static inline void family_set_sessions(struct family *f, uint32_t n)
{
    store_release(&f->sessions, n);
}

static inline uint32_t family_rings(const struct family *f)
{
    return load_acquire(&f->rings);
}

static inline void family_set_rings(struct family *f, uint32_t n)
{
    store_release(&f->rings, n);
}

/* Acquire pairs with family_set_outbox_used: whose it is, is there. */
static inline bool family_outbox_used(const struct family *f, uint32_t index)
{
    return load_acquire(&f->outbox_used[index]);
}

static inline void family_set_outbox_used(struct family *f, uint32_t index, bool used)
{
    store_release(&f->outbox_used[index], (uint32_t)used);
}

static inline uint32_t family_outboxes(const struct family *f)
{
    return load_acquire(&f->outboxes);
}

static inline void family_set_outboxes(struct family *f, uint32_t n)
{
    store_release(&f->outboxes, n);
}

static inline uint32_t family_members(const struct family *f)
{
    return load_acquire(&f->members);
}

/* Without the lock, before the new one is anybody's. As compare_exchange_sc. */
static inline bool family_change_members(struct family *f, uint32_t *is, uint32_t to)
{
    return compare_exchange_sc(&f->members, is, to);
}

static inline uint32_t family_next_set(struct family *f)
{
    return fetch_add_sc(&f->sets, 1) + 1;
}

static inline uint32_t family_sets(const struct family *f)
{
    return load_relaxed(&f->sets);
}

/* Written under sets_lock. `sc`: see joint.c. */
static inline uint64_t family_set_changes(const struct family *f)
{
    return load_sc(&f->set_changes);
}

static inline void family_put_set_changes(struct family *f, uint64_t n)
{
    store_sc(&f->set_changes, n);
}

/* The record is complete: should the writer die now, it is in the list or not. */
static inline void family_set_options_of(struct family *f, uint32_t session, uint32_t first)
{
    store_release(&f->options_of[session], first);
}

static inline uint32_t family_files(const struct family *f)
{
    return load_acquire(&f->files);
}

/* Under options_lock, and only up. */
static inline void family_set_files(struct family *f, uint32_t n)
{
    store_release(&f->files, n);
}

static inline void family_files_changed(struct family *f)
{
    (void)fetch_add_sc(&f->files_change, 1u);
}

static inline void family_put_files_change(struct family *f, uint32_t n)
{
    store_release(&f->files_change, n);
}

/* Whoever is told by other means that something was changed finds that it was. */
static inline uint32_t family_files_change(const struct family *f)
{
    return load_acquire(&f->files_change);
}

/* WAITER_ANY's word of all the family's pages: the next value, as odd as the last, for one more who falls
 * asleep. */
static inline uint32_t family_next_arm(struct family *f)
{
    return fetch_add_sc(&f->any_arm, 2) + 2;
}

/* Of a family that begins anew: threads that fall asleep may be at it. */
static inline void family_first_arm(struct family *f)
{
    store_relaxed(&f->any_arm, 1u);
}

static inline uint32_t family_arm(const struct family *f)
{
    return load_relaxed(&f->any_arm);
}

#endif
