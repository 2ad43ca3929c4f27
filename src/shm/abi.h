/* abi.h - everything two processes agree on in shared memory. Nothing else defines a shared layout.
 *
 * Theory of operation
 *
 * A process that attached is an app worker. It writes only memory of its own, which others map read-only
 * (memfd, sealed with SHRINK | GROW | FUTURE_WRITE):
 *
 *   worker page   one per worker: where its waiters say whether they sleep.
 *   outbox        one per app that the worker talks to: segment 0 holds the header, the channel table, the
 *                 table of slot chunks and the first chunk; the rest of segment 0 and all further segments
 *                 are cut into rings, slot chunks and event queues.
 *   slot          one cache line per session and side; beside it, in the same chunk, one line of slot_info.
 *   ring          the bytes of one direction, a power of two from 4 KiB to 64 MiB, named by a location word.
 *   channel       one per pair of workers: an event queue and what the reader says about the reverse queue.
 *
 * A session is a pair of slots in two outboxes that face each other. `tail` and the bytes are written by
 * the producer, `head` by the consumer; both count bytes since the session began and never shrink.
 *
 * Counter words hold the offset shifted left by one, with a flag in bit 0, so that the flag is stored by the
 * same store, and so that the low 32 bits change with it: a blocked reader sleeps by futex on the low half of
 * the producer's tail (a blocked writer on the consumer's head), which needs nothing but a read-only map.
 *
 *   field              writer           reader              order
 *   slot.tail          producer         consumer            release, then fence before `want` is read
 *   slot.ring          producer         consumer            release; read after tail, every time
 *   slot.head          consumer         producer            release, then fence before `want_space` is read
 *   slot.want          consumer         producer            sc, then tail is read again
 *   slot.want_space    producer         consumer            sc, then head is read again
 *   slot.state         owner            peer, daemon        release
 *   slot.flags         owner            peer                sc, before the FIN in the tail
 *   slot.waiter        owner            peer                relaxed, before `want` or `want_space` is armed
 *   slot.cpu           owner            peer                relaxed, a hint
 *   slot.generation    owner            peer, daemon        release, before the words of the old session are
 *                                                           cleared
 *   slot.peer          owner            peer, daemon        release, after slot_info.peer_outbox
 *   slot.extra         owner            owner, peer         relaxed; release and acquire of the peer's place
 *   slot_info.*        owner            peer, daemon        before the state that makes them valid
 *   slot_info.offer_seq  connector      acceptor            sc: it moves when the offer is made again
 *   slot_info.rx_limit   owner          peer                relaxed, advice
 *   slot_info.taken    consumer         producer            relaxed; read when the consumer is dead
 *   segment_header.magic   owner        peers, daemon       release, after the rest of the header
 *   segment_header.chunks  owner        peers, daemon       release, after the chunk's word
 *   chunk table        owner            peers, daemon       release, after the chunk was cleared
 *   queue entries      producer         consumer            release (the sequence number is in the entry)
 *   channel.queue      producer         consumer            release, last
 *   channel.peer_worker  producer       consumer            release; the channel of a dead worker becomes
 *                                                           another's
 *   channel.resync     producer         consumer            sc
 *   channel.qhead      consumer         producer            sc
 *   channel.arm        consumer         producer            sc
 *   worker_page.magic  the worker       its peers, daemon   release, after the version
 *   worker_page.forked the worker       its peers, daemon   release, before the fork
 *   waiter_line.arm    the worker       its peers           sc
 *   waiter_line.cpu    the worker       its peers           relaxed, a hint
 *   directory.seq      daemon           workers             release; odd before, even after what changes
 *   directory.entry, local_addr, counts  daemon  workers    release, between two stores of seq
 *   directory.life     daemon, kernel   workers             its own: a robust futex, see below
 *   directory.news     daemon           workers             sc, after the message was sent; its futex is
 *                                                           woken
 *
 * The functions for these words, which say whom each pairs with, are in slot.h, queue.h, page.h, segment.h
 * and session/directory.h; nobody else chooses an order (scripts/sharedwords.py). Every reader loads a word
 * once, checks it against geometry of its own, and uses the copy.
 */
#ifndef BERTH_SHM_ABI_H
#define BERTH_SHM_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ABI_VERSION 1u
#define ABI_MAGIC_OUTBOX 0x424f4f54u /* segment 0 of an outbox */
#define ABI_MAGIC_RINGS 0x474e4952u  /* a further segment */
#define ABI_MAGIC_PAGE 0x45474150u   /* worker page */
#define ABI_MAGIC_DIR 0x59524944u    /* listener directory */

#define CACHE_LINE 64u
#define PAGE_BYTES 4096u

/* ---- names ------------------------------------------------------------------------------------------- */

/* An outbox is named by worker id (high half, unique while a daemon lives) and a count of that worker. */
typedef uint64_t outbox_handle;

static inline outbox_handle outbox_handle_make(uint32_t worker, uint32_t n)
{
    return (uint64_t)worker << 32 | n;
}

static inline uint32_t outbox_worker(outbox_handle h)
{
    return (uint32_t)(h >> 32);
}

/* ---- counter words ----------------------------------------------------------------------------------- */

/* tail: FIN. head: reset or closed for reading. want, want_space: asleep by futex */
#define COUNT_FLAG 1ull

static inline uint64_t count_offset(uint64_t word)
{
    return word >> 1;
}

static inline uint64_t count_word(uint64_t offset, uint64_t flag)
{
    return offset << 1 | flag;
}

#define WANT_NOTHING (~0ull >> 2) /* an offset that no stream reaches */

/* ---- ring location word ------------------------------------------------------------------------------ */
/* bits 63..44 segment index, 43..16 offset in 4 KiB units, 15..10 log2 of the size, 9..0 zero. 0: no ring. */

#define RING_MIN_LOG2 12u
#define RING_MAX_LOG2 26u
#define SEGMENT_INDEX_MAX 4095u /* segments per outbox; the word has room for 2^20 */

static inline uint64_t ring_word(uint32_t segment, uint64_t offset, uint32_t log2)
{
    return (uint64_t)segment << 44 | (offset / PAGE_BYTES) << 16 | (uint64_t)log2 << 10;
}

static inline uint32_t ring_segment(uint64_t w)
{
    return (uint32_t)(w >> 44);
}

static inline uint64_t ring_offset(uint64_t w)
{
    return (w >> 16 & 0xfffffffull) * PAGE_BYTES;
}

static inline uint32_t ring_log2(uint64_t w)
{
    return (uint32_t)(w >> 10 & 63);
}

/* ---- slot --------------------------------------------------------------------------------------------- */

enum slot_state {
    SLOT_FREE = 0,
    SLOT_OFFERED = 1,  /* connector: the token is or will be in the listener's queue */
    SLOT_ACCEPTED = 2, /* acceptor: slot_info names the offer that this answers */
    SLOT_OPEN = 3,     /* connector: knows the acceptor's slot */
    SLOT_CLOSED = 4,   /* the owner reads and writes no more; unread bytes stay readable */
    SLOT_MOVED = 5,    /* the session went to another program: the daemon tells the peer where */
    SLOT_STATES
};

/* slot.flags */
#define SLOT_RESET 1u /* with FIN in tail: the stream was cut off, not ended */
/* the FIN came by a shutdown: a cut that follows is one of the other direction alone */
#define SLOT_ENDED 2u

struct slot {
    uint64_t tail;
    uint64_t ring;
    uint64_t head;
    uint64_t want;
    uint64_t want_space;
    uint8_t state;
    uint8_t flags;
    uint8_t waiter; /* index into the worker page; WAITER_ANY: whoever sleeps */
    uint8_t cpu;    /* where the owner last ran, plus one; 0 unknown */
    uint32_t generation;
    uint64_t peer; /* slot index | generation << 32 in slot_info.peer_outbox; 0 while unknown */
    uint64_t extra;
};

/* The owner's ordinary identity of the session: written once, before the state that announces it. */
struct slot_info {
    uint8_t local_addr[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t remote_addr[16];
    uint16_t local_port; /* host order */
    uint16_t remote_port;
    uint8_t proto;     /* PROTO_TCP */
    uint8_t addr_kind; /* 4 or 6: the family the owner asked with */
    uint16_t peer_channel;
    uint32_t listener;
    uint32_t offer_seq;
    outbox_handle peer_outbox;
    uint32_t rx_limit; /* advice: how much the peer may send ahead */
    uint32_t taken; /* low half of the offset read up to, where `head` does not say so yet; looked at after a
                       death */
};

#define PROTO_TCP 6u

#define CHUNK_SLOTS 512u
#define CHUNKS_MAX 2048u
#define SLOTS_MAX (CHUNK_SLOTS * CHUNKS_MAX)
/* A chunk is CHUNK_SLOTS slots, then as many slot_info, then (where lines_per_slot is 3: the daemon's) as
 * many restart records. */
#define CHUNK_BYTES (CHUNK_SLOTS * 2 * CACHE_LINE)

/* ---- outbox ------------------------------------------------------------------------------------------- */

struct segment_header {
    uint32_t magic;
    uint16_t version;
    uint16_t lines_per_slot;
    outbox_handle outbox;
    uint32_t index; /* within the outbox */
    uint32_t facing_app;
    uint64_t size; /* bytes, as fstat has it */
    uint32_t owner_worker;
    uint32_t chunks; /* chunk words in use, only grows; release after the word */
    uint8_t pad[24];
};

/* One line written by the producer of the queue, one by the consumer of the queue that runs the other way. */
struct channel {
    uint64_t queue;       /* ring word of the event queue; 0: none yet. release, last */
    uint32_t peer_worker; /* whom this channel is for */
    uint32_t resync;      /* bumped instead of an entry when the queue is full */
    uint8_t pad0[48];
    uint32_t qhead; /* how far this side has popped the peer's queue */
    uint32_t arm;   /* odd: this side does not poll the peer's queue and must be kicked */
    uint8_t pad1[56];
};

#define CHANNELS_MAX 1024u

/* Event: bits 63..32 position + 1, bits 31..0 index of the sender's slot. */
#define QUEUE_LOG2 12u
#define QUEUE_ENTRIES ((1u << QUEUE_LOG2) / 8u)

#define OUTBOX_CHUNK_TABLE PAGE_BYTES
#define OUTBOX_CHANNELS (OUTBOX_CHUNK_TABLE + CHUNKS_MAX * 8u)
#define OUTBOX_CHUNK0 (OUTBOX_CHANNELS + CHANNELS_MAX * 128u)
#define OUTBOX_POOL (OUTBOX_CHUNK0 + CHUNK_BYTES)
#define RINGS_POOL PAGE_BYTES /* where rings begin in a further segment */
#define SEGMENT_MIN (1u << 20)
#define SEGMENT_MAX (1ull << 33)

/* ---- worker page --------------------------------------------------------------------------------------- */

#define WAITERS_MAX 64u
#define WAITER_ANY 0u

struct waiter_line {
    uint32_t arm; /* odd: asleep. WAITER_ANY's is always odd and moves on each time somebody falls asleep */
    uint32_t cpu;
    uint8_t pad[56];
};

struct worker_page {
    uint32_t magic;
    uint16_t version;
    uint16_t forked; /* others hold its sessions too: its process's end is not theirs */
    uint32_t worker;
    uint8_t pad1[52];
    struct waiter_line waiter[WAITERS_MAX];
};

#define WORKER_PAGE_BYTES 8192u

/* ---- listener directory -------------------------------------------------------------------------------- */
/* Written by the daemon alone, one per (namespace, network namespace). Readers take `seq` before and after.
 */

#define DIR_ENTRIES 4096u /* open addressing, linear probing, at most three quarters full */
#define DIR_LOCAL_ADDRS 256u
#define DIR_NEWS 1024u

#define DIR_V6ONLY 1u
#define DIR_WILDCARD 2u
#define DIR_COMMON 4u /* programs outside berth may have the kernel's socket, too */
#define DIR_KERNEL 8u /* a kernel socket listens there, too */

struct dir_entry {
    uint8_t addr[16]; /* IPv4 as mapped; wildcards all zero (v6) or ::ffff:0.0.0.0 (v4) */
    uint16_t port;
    uint8_t proto;
    uint8_t flags;
    uint32_t listener; /* 0: empty; ~0: deleted */
    uint32_t app;
    uint32_t uid;
    uint32_t backlog;
    uint32_t epoch; /* moves when listener or policy changes: grants of an older one are void */
    uint8_t pad[24];
};

struct directory {
    uint32_t magic;
    uint16_t version;
    uint16_t pad0;
    uint32_t seq; /* odd while the daemon writes */
    uint32_t local_count;
    uint32_t listeners;
    uint32_t epoch;  /* of the whole directory */
    uint32_t paused; /* not 0: new connections go to the kernel */
    uint8_t pad1[36];
    uint8_t local_addr[DIR_LOCAL_ADDRS][16]; /* of this network namespace, beside 127/8 and ::1 */
    struct dir_entry entry[DIR_ENTRIES];
    /* A robust mutex that the daemon locks and never releases: when it ends, however it ends, the kernel
     * changes the first word and wakes one who sleeps on it, who wakes the others. */
    uint32_t life;
    uint8_t life_rest[60];
    /* Moves when the daemon has sent something to a worker whose id modulo DIR_NEWS this is: so a worker sees
     * without a system call that there is nothing on its socket, and a blocked thread sleeps on the word. */
    uint32_t news[DIR_NEWS];
};

#define DIRECTORY_BYTES ((sizeof(struct directory) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES)

/* ---- token: what a connector puts into the listener's kernel queue ------------------------------------- */

#define TOKEN_MAGIC 0x544b4e31u

struct token {
    uint32_t magic;
    uint32_t listener;
    outbox_handle outbox;
    uint32_t slot;
    uint32_t generation;
    uint32_t offer_seq;
    uint32_t epoch;
    uint8_t pad[32];
};

/* ---- sizes and offsets are part of the ABI ------------------------------------------------------------- */

#define ABI_ASSERT(cond) _Static_assert(cond, "shared-memory ABI changed: " #cond)
ABI_ASSERT(sizeof(struct slot) == CACHE_LINE);
ABI_ASSERT(offsetof(struct slot, tail) == 0);
ABI_ASSERT(offsetof(struct slot, ring) == 8);
ABI_ASSERT(offsetof(struct slot, head) == 16);
ABI_ASSERT(offsetof(struct slot, want) == 24);
ABI_ASSERT(offsetof(struct slot, want_space) == 32);
ABI_ASSERT(offsetof(struct slot, state) == 40);
ABI_ASSERT(offsetof(struct slot, flags) == 41);
ABI_ASSERT(offsetof(struct slot, waiter) == 42);
ABI_ASSERT(offsetof(struct slot, cpu) == 43);
ABI_ASSERT(offsetof(struct slot, generation) == 44);
ABI_ASSERT(offsetof(struct slot, peer) == 48);
ABI_ASSERT(offsetof(struct slot, extra) == 56);
ABI_ASSERT(SLOT_STATES <= UINT8_MAX);
ABI_ASSERT(WAITERS_MAX <= UINT8_MAX);
ABI_ASSERT(sizeof(struct slot_info) == CACHE_LINE);
ABI_ASSERT(offsetof(struct slot_info, local_addr) == 0);
ABI_ASSERT(offsetof(struct slot_info, remote_addr) == 16);
ABI_ASSERT(offsetof(struct slot_info, local_port) == 32);
ABI_ASSERT(offsetof(struct slot_info, remote_port) == 34);
ABI_ASSERT(offsetof(struct slot_info, proto) == 36);
ABI_ASSERT(offsetof(struct slot_info, addr_kind) == 37);
ABI_ASSERT(offsetof(struct slot_info, peer_channel) == 38);
ABI_ASSERT(offsetof(struct slot_info, listener) == 40);
ABI_ASSERT(offsetof(struct slot_info, offer_seq) == 44);
ABI_ASSERT(offsetof(struct slot_info, peer_outbox) == 48);
ABI_ASSERT(offsetof(struct slot_info, rx_limit) == 56);
ABI_ASSERT(offsetof(struct slot_info, taken) == 60);
ABI_ASSERT(sizeof(struct segment_header) == CACHE_LINE);
ABI_ASSERT(offsetof(struct segment_header, magic) == 0);
ABI_ASSERT(offsetof(struct segment_header, version) == 4);
ABI_ASSERT(offsetof(struct segment_header, lines_per_slot) == 6);
ABI_ASSERT(offsetof(struct segment_header, outbox) == 8);
ABI_ASSERT(offsetof(struct segment_header, index) == 16);
ABI_ASSERT(offsetof(struct segment_header, facing_app) == 20);
ABI_ASSERT(offsetof(struct segment_header, size) == 24);
ABI_ASSERT(offsetof(struct segment_header, owner_worker) == 32);
ABI_ASSERT(offsetof(struct segment_header, chunks) == 36);
ABI_ASSERT(sizeof(struct channel) == 2 * CACHE_LINE);
ABI_ASSERT(offsetof(struct channel, queue) == 0);
ABI_ASSERT(offsetof(struct channel, peer_worker) == 8);
ABI_ASSERT(offsetof(struct channel, resync) == 12);
ABI_ASSERT(offsetof(struct channel, qhead) == CACHE_LINE);
ABI_ASSERT(offsetof(struct channel, arm) == CACHE_LINE + 4);
ABI_ASSERT(sizeof(struct waiter_line) == CACHE_LINE);
ABI_ASSERT(offsetof(struct waiter_line, arm) == 0);
ABI_ASSERT(offsetof(struct waiter_line, cpu) == 4);
ABI_ASSERT(sizeof(struct worker_page) == (1 + WAITERS_MAX) * CACHE_LINE);
ABI_ASSERT(sizeof(struct worker_page) <= WORKER_PAGE_BYTES);
ABI_ASSERT(offsetof(struct worker_page, magic) == 0);
ABI_ASSERT(offsetof(struct worker_page, version) == 4);
ABI_ASSERT(offsetof(struct worker_page, forked) == 6);
ABI_ASSERT(offsetof(struct worker_page, worker) == 8);
ABI_ASSERT(offsetof(struct worker_page, waiter) == CACHE_LINE);
ABI_ASSERT(sizeof(struct dir_entry) == CACHE_LINE);
ABI_ASSERT(offsetof(struct dir_entry, addr) == 0);
ABI_ASSERT(offsetof(struct dir_entry, port) == 16);
ABI_ASSERT(offsetof(struct dir_entry, proto) == 18);
ABI_ASSERT(offsetof(struct dir_entry, flags) == 19);
ABI_ASSERT(offsetof(struct dir_entry, listener) == 20);
ABI_ASSERT(offsetof(struct dir_entry, app) == 24);
ABI_ASSERT(offsetof(struct dir_entry, uid) == 28);
ABI_ASSERT(offsetof(struct dir_entry, backlog) == 32);
ABI_ASSERT(offsetof(struct dir_entry, epoch) == 36);
ABI_ASSERT(offsetof(struct directory, magic) == 0);
ABI_ASSERT(offsetof(struct directory, version) == 4);
ABI_ASSERT(offsetof(struct directory, seq) == 8);
ABI_ASSERT(offsetof(struct directory, local_count) == 12);
ABI_ASSERT(offsetof(struct directory, listeners) == 16);
ABI_ASSERT(offsetof(struct directory, epoch) == 20);
ABI_ASSERT(offsetof(struct directory, paused) == 24);
ABI_ASSERT(offsetof(struct directory, local_addr) == CACHE_LINE);
ABI_ASSERT(offsetof(struct directory, entry) == CACHE_LINE + DIR_LOCAL_ADDRS * 16);
ABI_ASSERT(offsetof(struct directory, life) == offsetof(struct directory, entry) + DIR_ENTRIES * CACHE_LINE);
ABI_ASSERT(offsetof(struct directory, news) == offsetof(struct directory, life) + CACHE_LINE);
ABI_ASSERT(sizeof(struct directory) == offsetof(struct directory, news) + DIR_NEWS * 4);
ABI_ASSERT(offsetof(struct directory, life) % CACHE_LINE == 0);
ABI_ASSERT(sizeof(struct token) == CACHE_LINE);
ABI_ASSERT(offsetof(struct token, magic) == 0);
ABI_ASSERT(offsetof(struct token, listener) == 4);
ABI_ASSERT(offsetof(struct token, outbox) == 8);
ABI_ASSERT(offsetof(struct token, slot) == 16);
ABI_ASSERT(offsetof(struct token, generation) == 20);
ABI_ASSERT(offsetof(struct token, offer_seq) == 24);
ABI_ASSERT(offsetof(struct token, epoch) == 28);
ABI_ASSERT(OUTBOX_POOL % PAGE_BYTES == 0);
ABI_ASSERT(OUTBOX_POOL < SEGMENT_MIN);

#endif
