/* stream.c - bytes: the fifo with a movable ring, seen from the side that writes and from the side that
 * reads.
 *
 * Theory of operation
 *
 * Sending holds tx_lock, receiving rx_lock; releasing either is the full fence between the counter's store
 * and the look at what the peer wants to hear of (slot.h).
 *
 * Publishing `head` costs the peer a cache miss, so it is done when a quarter of the ring has been read, or
 * when the fifo is empty; and not even then in the middle of a run of question and answer, where our own next
 * write, to the same cache line, carries it along (`streak`). Before anybody sleeps it is published
 * (stream_flush_head). Should we die in between, the peer must still be able to tell read from unread:
 * `taken`, in a line that nobody watches, says so.
 *
 * The ring starts small (4 KiB holds most requests, and stays in the cache) and is multiplied by four
 * whenever it is found full, up to STEADY, which a second-level cache holds: a larger one would only let the
 * two sides drift so far apart that every byte goes by way of memory. Beyond that, to the limit of the
 * session, it grows for a reader that does not read: when it is full and head does not move for PATIENCE_NS.
 * So a write is told to wait only when the limit is reached.
 */
#include <string.h>

#include "base/clock.h"
#include "client/channel.h"
#include "client/family.h"
#include "client/fifo.h"
#include "client/link.h"
#include "client/news.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/ready.h"
#include "client/rings.h"
#include "client/session.h"
#include "client/share.h"
#include "client/span.h"
#include "client/stream.h"
#include "client/upkeep.h"
#include "client/watch.h"
#include "shm/slot.h"

#define RR_STREAK 16u /* answers in a row before `head` waits for the next answer */

/* A reader that looks for every message of a one-way stream of small ones steals the line from the writer
 * each time, and both then run at the pace of the cache line. After ONE_WAY looks that found little, with no
 * write of ours in between, it lets at least PACE_NS go by between two looks: a batch comes along in one. */
#define ONE_WAY 64u
#define ONE_WAY_BYTES 1024u
#define PACE_NS 300

#define STEADY (1u << 20)
#define PATIENCE_NS (200 * NS_PER_US) /* before a full ring grows beyond STEADY */
#define THROTTLE_NS (20 * NS_PER_US)  /* before a write goes into the part beyond STEADY */

/* Held by us or not. */
static inline struct session *enter_any(session_handle h)
{
    uint32_t index = (uint32_t)h;
    if (!C->attached || !index || index >= SESSIONS_MAX || !(h >> 32))
        return NULL;
    struct session *s = session_at(index);
    return session_generation(s) == (uint32_t)(h >> 32) ? s : NULL;
}

static inline struct session *enter(session_handle h)
{
    struct session *s = enter_any(h);
    return s && session_held(s) ? s : NULL;
}

static inline bool stale(const struct session *s, session_handle h)
{
    return session_generation(s) != (uint32_t)(h >> 32) || !session_held(s);
}

/* The session was closed by another thread while we had a span open, and relatives go on with it: they shall
 * not wait for us. The half's lock is held. */
static int span_abandon(struct session *s, session_handle h, uint16_t spanner, void (*end)(struct session *s))
{
    if (session_generation(s) == (uint32_t)(h >> 32) && span_holder(spanner) == C->member + 1)
        end(s);
    return BERTH_E_BAD_HANDLE;
}

/* ---- receiving ----------------------------------------------------------------------------------------- */

void stream_flush_head(struct session *s, bool try_only)
{
    if (session_head_published(s) == session_head(s))
        return;
    struct session_cache *c = session_cache_of(s);
    if (!try_only)
        half_lock(&s->rx_lock);
    else if (!family_lock_try_now(&s->rx_lock))
        return; /* somebody is reading, and publishes */
    uint64_t old = s->head_published, new = s->head;
    stream_publish_head(s, c);
    session_set_streak(s, 0);
    half_unlock(&s->rx_lock);
    notify_space(s, c, old, new);
}

static int reset_error(const struct session *s)
{
    return s->error ? s->error : BERTH_E_RESET;
}

/* What nothing-to-read means now. rx_lock is held. */
static ssize_t nothing_to_read(struct session *s, struct session_cache *c, uint64_t tail_word)
{
    uint32_t flags = session_flags(s);
    if (flags & SF_RESET)
        return reset_error(s);
    if (tail_word & COUNT_FLAG)
        return stream_cut(s, c) == BERTH_E_RESET ? BERTH_E_RESET : 0;
    if (flags & SF_SHUT_RD)
        return 0;
    if (flags & SF_DEAD)
        return stream_cut(s, c);
    uint64_t old = s->head_published;
    if (old != s->head) {
        stream_publish_head(s, c);
        session_set_streak(s, 0);
        fence_sc();
        notify_space(s, c, old, s->head); /* it may have begun to wait for room since we read */
    }
    return BERTH_E_WOULD_BLOCK;
}

/* Where the peer is not known here, or its words may be about another acceptor's bytes. What session_has tells
 * as readable has an answer here other than WOULD_BLOCK. */
static __attribute__((noinline)) ssize_t not_met(const struct session *s, struct session_cache *c)
{
    uint32_t flags = session_flags(s), state = session_state(s);
    if (flags & SF_RESET)
        return reset_error(s);
    if (flags & SF_SHUT_RD)
        return 0;
    if (peer_awaited(s, c))
        return BERTH_E_WOULD_BLOCK;
    if (flags & SF_DEAD || peer_unreachable(s, c))
        return BERTH_E_RESET; /* what it sent cannot be had */
    return flags & (SF_TENTATIVE | SF_SHARED) || state == SESSION_QUEUED || state == SESSION_OFFERED
               ? BERTH_E_WOULD_BLOCK
               : BERTH_E_BAD_HANDLE;
}

static __attribute__((noinline)) void pace(struct session *s)
{
    int64_t now = clock_now();
    if (now - s->looked < 100 * PACE_NS) { /* else it is not a stream any more */
        while (now - s->looked < PACE_NS) {
            cpu_relax();
            now = clock_now();
        }
    } else {
        session_set_one_way(s, 0);
    }
    s->looked = now;
}

/* What a look brings besides bytes. */
struct seen {
    uint64_t tail;   /* the peer's word */
    bool more_there; /* perhaps: behind the bytes, in a segment that is not here, or where the peer is now */
};

/* There are bytes, but fewer than are asked for: has more come since? What was seen stays readable in any
 * case. rx_lock is held. */
static __attribute__((noinline)) ssize_t look_further(struct session *s, struct session_cache *c,
                                                      struct seen *seen)
{
    uint64_t there = s->tail_seen - s->head, size = s->rx_size;
    const struct slot *peer = load_acquire(&c->peer);
    uint64_t tail = peer ? count_offset(slot_tail(peer)) : 0, ring = peer ? slot_ring(peer) : 0;
    if (tail <= s->tail_seen || tail - s->head > 1ull << RING_MAX_LOG2)
        return (ssize_t)there; /* if it makes no sense, the next look will say so */
    if (ring != c->rx_word) {
        int err;
        const uint8_t *at = peer_ring_find(c->box, ring, &size, &err);
        seen->more_there = !at && err != BERTH_E_PROTOCOL;
        if (!at || tail - s->head > size)
            return (ssize_t)there;
        store_relaxed(&c->rx_ring, at);
        store_relaxed(&c->rx_word, ring);
        s->rx_size = size;
    }
    if (tail - s->head > size)
        return (ssize_t)there;
    session_set_tail_seen(s, tail); /* ready.c reads it without the lock */
    return (ssize_t)(tail - s->head);
}

/* Bytes that can be read now: s->tail_seen - s->head of them, at c->rx_ring with size s->rx_size. Positive,
 * or what to return. rx_lock is held. */
static inline ssize_t receive_look(struct session *s, struct session_cache *c, size_t want, struct seen *seen)
{
    uint32_t flags = session_flags(s);
    bool shared = flags & SF_SHARED; /* then another process may have looked last, at another ring */
    if (__builtin_expect(shared, 0))
        session_peer_anew(s, c);
    if (s->tail_seen > s->head && c->rx_ring && !(flags & (SF_SHARED | SF_TENTATIVE)))
        return s->tail_seen - s->head >= want ? (ssize_t)(s->tail_seen - s->head) : look_further(s, c, seen);
    if (__builtin_expect(flags & SF_TENTATIVE, 0) || !load_acquire(&c->peer))
        return not_met(s, c);
    if (__builtin_expect(session_one_way(s) > ONE_WAY, 0))
        pace(s);
    uint64_t word = slot_tail(c->peer);
    uint64_t tail = count_offset(word);
    seen->tail = word;
    if (tail == s->head)
        return nothing_to_read(s, c, word);
    session_set_one_way(s, tail - s->head < ONE_WAY_BYTES ? session_one_way(s) + 1 : 0);
    if (tail - s->head > 1ull << RING_MAX_LOG2) { /* also when tail < head */
        session_break(s, BERTH_E_PROTOCOL, "its tail makes no sense");
        return BERTH_E_RESET;
    }
    uint64_t ring = slot_ring(c->peer);
    if (__builtin_expect(ring != c->rx_word || !c->rx_ring || shared, 0)) {
        int err = BERTH_E_PROTOCOL;
        uint64_t size = 0;
        store_relaxed(&c->rx_ring, NULL);
        const uint8_t *at = peer_ring_find(c->box, ring, &size, &err);
        if (!at) {
            if (err != BERTH_E_PROTOCOL) /* one that is over waits for nothing more */
                return flags & SF_RESET ? reset_error(s) : flags & SF_SHUT_RD ? 0 : err;
            session_break(s, err, "its ring is not where it says");
            return BERTH_E_RESET;
        }
        store_relaxed(&c->rx_ring, at);
        store_relaxed(&c->rx_word, ring);
        s->rx_size = size;
    }
    if (tail - s->head > s->rx_size) {
        session_break(s, BERTH_E_PROTOCOL, "it holds more than its ring");
        return BERTH_E_RESET;
    }
    session_set_tail_seen(s, tail); /* ready.c reads it without the lock */
    return (ssize_t)(tail - s->head);
}

/* Bytes below tail_seen stay readable in the ring they were found in, even if the peer has swapped rings
 * since: it reuses the old one only when our head has passed them. */
static inline void copy_out(const struct session_cache *c, uint64_t size, uint64_t at, uint8_t *dst, size_t n)
{
    size_t pos = (size_t)(at & (size - 1));
    size_t first = size - pos < n ? (size_t)(size - pos) : n;
    memcpy(dst, c->rx_ring + pos, first); /* NOLINT(clang-analyzer-*): receive_look has set rx_ring */
    if (__builtin_expect(first < n, 0))
        memcpy(dst + first, c->rx_ring, n - first);
}

/* After n bytes were taken: publish head if it is time. True: look whether the peer waits for space, from
 * *old. */
static inline bool advance_head(struct session *s, struct session_cache *c, size_t n, uint64_t *old)
{
    session_set_head(s, s->head + n);
    *old = s->head_published;
    /* else the writer may be waiting for just that */
    bool little = s->head - s->head_published < s->rx_size / 4;
    if (s->head == s->tail_seen) {
        if (little && session_streak(s) >= RR_STREAK) {
            slot_set_taken(c->own, s->head);
            return false;
        }
    } else if (little && s->tail_seen - s->head_published < s->rx_size / 2) {
        return false; /* a writer that could soon be short of space is told at once */
    }
    stream_publish_head(s, c);
    return true;
}

/* Who does nothing but ask again must hear, too, that the peer has died. */
static __attribute__((noinline)) void asked_in_vain(void)
{
    static __thread uint32_t times;
    static __thread int64_t last;
    if (++times % 16)
        return;
    int64_t now = clock_now();
    if (now - last < NS_PER_MS)
        return;
    last = now;
    control_poll();
}

/* After a look that found nothing, whoever looked and for what: what may have come that it could not see is
 * asked for. No lock is held. `word`: the peer's tail as it was seen. */
static inline void ask_around(struct session *s, struct session_cache *c, uint64_t word)
{
    if (__builtin_expect(session_flags(s) & SF_TENTATIVE, 0)) {
        sessions_confirm();
        shared_confirm();
    } else if (__builtin_expect(load_acquire(&c->peer) && count_offset(word) <= session_head(s) &&
                                    !(session_moving(s) & MOVING_PEER),
                                1)) {
        asked_in_vain();
    } else {
        control_poll(); /* the same with the acceptor, or with the segment */
        if (!load_acquire(&c->peer))
            session_meet(s);
    }
}

/* After that: bytes that lie in a segment which is not here are fetched, and waited for a moment. True: they
 * are here, or have come between the two looks. */
static bool found_after_all(session_handle h)
{
    struct session *s = session_get(h);
    if (!s || (bytes_missing(s, session_cache_of(s)) && !fetch_bytes(h)))
        return false;
    return session_has(s, session_cache_of(s), 1);
}

/* What one read leaves to the next, which is a part of it: its bytes lie behind those of the first, or it takes none. */
struct rest {
    bool there;
    bool goes_on; /* this is the next */
    uint64_t at;
};

static ssize_t receive(session_handle h, const struct iovec *iov, int count, uint32_t flags,
                       struct rest *rest)
{
    struct session *s = enter(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    ssize_t result = BERTH_E_BAD_HANDLE;
    bool tell = false;
    uint64_t old = 0;
    struct seen seen = {0};
    if (__builtin_expect(stale(s, h), 0))
        goto out;
    if (__builtin_expect(session_flags(s) & SF_READ_SPAN || (rest->goes_on && s->head != rest->at), 0)) {
        result = BERTH_E_BUSY;
        goto out;
    }
    size_t want = iov[0].iov_len;
    for (int i = 1; i < count; i++)
        want += iov[i].iov_len;
    result = receive_look(s, c, want, &seen);
    if (result <= 0)
        goto out;
    rest->there = seen.more_there || ((size_t)result < want && session_moving(s) & MOVING_PEER);
    size_t avail = (size_t)result, done = 0;
    for (int i = 0; i < count && done < avail; i++) {
        size_t n = avail - done < iov[i].iov_len ? avail - done : iov[i].iov_len;
        copy_out(c, s->rx_size, s->head + done, iov[i].iov_base, n);
        done += n;
    }
    result = (ssize_t)done;
    if (!(flags & STREAM_PEEK) && done)
        tell = advance_head(s, c, done, &old);
    rest->at = s->head;
out:
    half_unlock(&s->rx_lock);
    if (tell)
        notify_space(s, c, old, session_head_published(s));
    if (result == BERTH_E_WOULD_BLOCK)
        ask_around(s, c, seen.tail);
    return result;
}

/* What lies behind `got` bytes goes into the rest of the buffers: a short read says that there is no more (epoll(7)). */
static __attribute__((noinline)) ssize_t receive_rest(session_handle h, const struct iovec *iov, int count,
                                                      uint32_t flags, ssize_t got, struct rest *rest)
{
    control_poll();
    if (!fetch_bytes(h))
        return got;
    rest->goes_on = true;
    if (flags & STREAM_PEEK) {
        ssize_t all = receive(h, iov, count, flags, rest);
        return all > got ? all : got;
    }
    size_t skip = (size_t)got;
    for (int i = 0; i < count; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        struct iovec part = {(uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip};
        ssize_t n = receive(h, &part, 1, flags, rest);
        got += n > 0 ? n : 0;
        if (n < (ssize_t)part.iov_len)
            break;
        skip = 0;
    }
    return got;
}

static inline ssize_t receive_fetched(session_handle h, const struct iovec *iov, int count, uint32_t flags)
{
    struct rest rest = {0};
    ssize_t got = receive(h, iov, count, flags, &rest);
    if (__builtin_expect(got == BERTH_E_WOULD_BLOCK, 0) && found_after_all(h))
        got = receive(h, iov, count, flags, &rest);
    if (__builtin_expect(rest.there, 0) && got > 0)
        got = receive_rest(h, iov, count, flags, got, &rest);
    return got;
}

ssize_t client_read(session_handle h, void *buf, size_t len, uint32_t flags)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    return len ? receive_fetched(h, &iov, 1, flags) : enter(h) ? 0 : BERTH_E_BAD_HANDLE;
}

ssize_t client_readv(session_handle h, const struct iovec *iov, int count, uint32_t flags)
{
    return receive_fetched(h, iov, count, flags);
}

static int read_spans(session_handle h, struct iovec spans[2])
{
    struct session *s = enter(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    struct seen seen = {0};
    int result = stale(s, h) ? BERTH_E_BAD_HANDLE : session_flags(s) & SF_READ_SPAN ? BERTH_E_BUSY : 0;
    if (result == 0) {
        ssize_t avail = receive_look(s, c, 1, &seen);
        result = (int)avail;
        if (avail > 0) {
            size_t pos = (size_t)(s->head & (s->rx_size - 1));
            size_t first = s->rx_size - pos < (size_t)avail ? (size_t)(s->rx_size - pos) : (size_t)avail;
            spans[0] = (struct iovec){.iov_base = (void *)(uintptr_t)(c->rx_ring + pos), .iov_len = first};
            spans[1] =
                (struct iovec){.iov_base = (void *)(uintptr_t)c->rx_ring, .iov_len = (size_t)avail - first};
            spanner_set(&s->read_spanner, C->member + 1);
            session_add_flags(s, SF_READ_SPAN);
            result = first < (size_t)avail ? 2 : 1;
        }
    }
    half_unlock(&s->rx_lock);
    if (result == BERTH_E_WOULD_BLOCK)
        ask_around(s, c, seen.tail);
    return result;
}

int client_read_spans(session_handle h, struct iovec spans[2])
{
    int n = read_spans(h, spans);
    return n == BERTH_E_WOULD_BLOCK && found_after_all(h) ? read_spans(h, spans) : n;
}

int client_read_consume(session_handle h, size_t len)
{
    struct session *s = enter_any(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    struct session_cache *c = NULL;
    half_lock(&s->rx_lock);
    int result = BERTH_E_INVALID;
    bool tell = false;
    uint64_t old = 0;
    if (stale(s, h)) {
        result = span_abandon(s, h, s->read_spanner, read_span_end);
        goto out;
    }
    c = session_cache_of(s);
    if (!(session_flags(s) & SF_READ_SPAN) || len > s->tail_seen - s->head)
        goto out;
    read_span_end(s);
    if (len)
        tell = advance_head(s, c, len, &old);
    result = 0;
out:
    half_unlock(&s->rx_lock);
    if (tell)
        notify_space(s, c, old, session_head_published(s));
    return result;
}

/* ---- sending ------------------------------------------------------------------------------------------- */

/* Gives a reader that is far behind a moment to move on. True if it did, and head_seen is new. */
static bool reader_moves(struct session *s, struct session_cache *c, int64_t patience)
{
    int64_t end = load_acquire(&c->peer) ? clock_now() + patience : 0;
    while (clock_now() < end) {
        uint64_t head = count_offset(slot_head(c->peer));
        if (head != s->head_seen && head <= s->tail && head > s->head_seen) {
            session_set_head_seen(s, head);
            return true;
        }
        cpu_relax();
    }
    return false;
}

static int cut_or_closed(struct session *s, struct session_cache *c)
{
    int cut = stream_cut(s, c);
    return cut ? cut : BERTH_E_CLOSED;
}

/* Room for bytes, growing the ring for up to `want`. The number, or why there is none. tx_lock is held. */
static ssize_t send_room(struct session *s, struct session_cache *c, size_t want)
{
    int err;
    uint32_t flags = session_flags(s);
    if (__builtin_expect(flags & SF_SHARED, 0))
        session_peer_anew(s, c);
    if (__builtin_expect(flags & (SF_SHUT_WR | SF_RESET | SF_DEAD | SF_TENTATIVE), 0)) {
        if (flags & SF_SHUT_WR)
            return BERTH_E_CLOSED;
        if (flags & SF_RESET)
            return reset_error(s);
        if (flags & SF_TENTATIVE && !(flags & SF_DEAD))
            return BERTH_E_WOULD_BLOCK;
        return cut_or_closed(s, c);
    }
    if (load_acquire(&c->peer)) {
        uint64_t word = slot_head(c->peer), head = count_offset(word);
        if (__builtin_expect(word & COUNT_FLAG, 0))
            return cut_or_closed(s, c);
        if (__builtin_expect(head > s->tail || head < s->head_seen, 0)) {
            session_break(s, BERTH_E_PROTOCOL, "its head makes no sense");
            return BERTH_E_RESET;
        }
        session_set_head_seen(s, head);
    } else if (session_state(s) == SESSION_QUEUED) {
        return BERTH_E_WOULD_BLOCK;
    } else if (peer_unreachable(s, c)) {
        return BERTH_E_RESET;
    }
    if (__builtin_expect(flags & SF_SHARED, 0))
        c->tx_ring = NULL; /* another process may have swapped it */
    uint64_t unread = s->tail - s->head_seen;
    uint64_t room = s->tx_size - unread;
    if (__builtin_expect(s->left_first != NONE, 0))
        rings_reclaim(s);
    if (__builtin_expect(room >= want && c->tx_ring, 1)) {
        if (unread < STEADY)
            return (ssize_t)room;
        /* a ring that has grown is for those who do not read, not for a race */
        (void)reader_moves(s, c, THROTTLE_NS);
        return (ssize_t)(s->tx_size - (s->tail - s->head_seen));
    }
    if (s->tx_rec != NONE && !c->tx_ring) { /* a forked process that meets the ring for the first time */
        bool writable = false;
        uint8_t *at =
            outbox_ring_at(outbox_by_index(s->own_outbox), C->family->ring[s->tx_rec].word, &writable);
        if (at && writable)
            c->tx_ring = at;
        else if ((err = fifo_swap(s, c, s->tx_size)) != 0)
            return err;
        room = s->tx_size - unread;
        if (room >= want)
            return (ssize_t)room;
    }
    uint64_t limit = session_tx_limit(s);
    if (s->tx_size < limit && (s->tx_size < STEADY || (!room && !reader_moves(s, c, PATIENCE_NS)))) {
        uint64_t size = s->tx_size ? s->tx_size * 4 : 1u << RING_MIN_LOG2;
        while (size < unread + want && size < limit && size < STEADY)
            size *= 4;
        while (size > limit && size > 1u << RING_MIN_LOG2)
            size /= 4;
        while (size > s->tx_size && (err = fifo_swap(s, c, size)) != 0 && !s->tx_size) {
            if (size == 1u << RING_MIN_LOG2)
                return BERTH_E_NO_MEMORY;
            size /= 4; /* little memory is left: then a small one */
        }
        if (size > s->tx_size && err == BERTH_E_NO_MEMORY)
            session_set_tx_limit(s,
                                 s->tx_size); /* it is full when this is full, and nobody is told of room */
    }
    room = s->tx_size - (s->tail - s->head_seen);
    return room ? (ssize_t)room : BERTH_E_WOULD_BLOCK;
}

static inline void copy_in(const struct session_cache *c, uint64_t size, uint64_t at, const uint8_t *src,
                           size_t n)
{
    size_t pos = (size_t)(at & (size - 1));
    size_t first = size - pos < n ? (size_t)(size - pos) : n;
    memcpy(c->tx_ring + pos, src, first);
    if (__builtin_expect(first < n, 0))
        memcpy(c->tx_ring, src + first, n - first);
}

/* Our write carries what we have read along: same line, same miss. No lock: head_published is a hint here,
 * the store goes through rx_lock's holder otherwise. */
static inline void carry_head(struct session *s, struct session_cache *c, bool *tell, uint64_t *old)
{
    if (session_head(s) == session_head_published(s)) {
        if (session_streak(s) < RR_STREAK && s->head_seen == s->tail)
            session_set_streak(s, session_streak(s) + 1);
        return;
    }
    if (!family_lock_try_now(&s->rx_lock))
        return;
    *old = s->head_published;
    if (*old != s->head) {
        stream_publish_head(s, c);
        *tell = true;
    }
    family_lock_release(&s->rx_lock);
}

/* An edge-triggered watch is judged again only when something happens. */
static __attribute__((noinline)) void found_full(struct session *s, struct session_cache *c)
{
    if (!load_acquire(&c->watches))
        return;
    session_set_filled(s, session_filled(s) + 1);
    if (!stream_arm_write(s, c, 0))
        watches_ready(c);
}

/* Has the peer been told at a place that it has left? Word of where it went may be here: whoever follows it
 * tells it there. */
static inline void look_where_it_is(const struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    if (__builtin_expect(peer && slot_state(peer) == SLOT_MOVED, 0))
        control_poll();
}

/* Where the acceptor is not known it is looked for, after the store: whoever accepts looks at our tail after
 * it has said so (link.c). When it is found it is told of all. */
static inline void told_data(struct session *s, struct session_cache *c, uint64_t old_offset,
                             uint64_t new_offset)
{
    if (__builtin_expect(!load_acquire(&c->peer), 0))
        session_look(s);
    else if (notify_data(s, c, old_offset, new_offset))
        look_where_it_is(c);
}

static ssize_t transmit(session_handle h, const struct iovec *iov, int count, size_t total)
{
    struct session *s = enter(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    struct session_cache *c = session_cache_of(s);
    if (__builtin_expect(!load_acquire(&c->peer), 0))
        session_meet_now(s);
    half_lock(&s->tx_lock);
    ssize_t result = BERTH_E_BAD_HANDLE;
    bool tell_space = false;
    uint64_t old_tail = 0, old_head = 0;
    if (__builtin_expect(stale(s, h), 0))
        goto out;
    if (__builtin_expect(s->write_span, 0)) {
        result = BERTH_E_BUSY;
        goto out;
    }
    result = send_room(s, c, total);
    if (result <= 0)
        goto out;
    size_t room = (size_t)result, done = 0;
    for (int i = 0; i < count && done < room; i++) {
        size_t n = room - done < iov[i].iov_len ? room - done : iov[i].iov_len;
        copy_in(c, s->tx_size, s->tail + done, iov[i].iov_base, n);
        done += n;
    }
    session_set_one_way(s, 0);
    carry_head(s, c, &tell_space, &old_head);
    old_tail = s->tail;
    session_set_tail(s, old_tail + done);
    slot_set_tail(c->own, count_word(old_tail + done, 0));
    result = (ssize_t)done;
out:
    half_unlock(&s->tx_lock);
    if (result > 0)
        told_data(s, c, old_tail, old_tail + (size_t)result);
    if (tell_space)
        notify_space(s, c, old_head, session_head_published(s));
    if (__builtin_expect(result == BERTH_E_WOULD_BLOCK || (result > 0 && (size_t)result < total), 0))
        found_full(s, c);
    return result;
}

ssize_t client_write(session_handle h, const void *buf, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    return transmit(h, &iov, 1, len);
}

ssize_t client_writev(session_handle h, const struct iovec *iov, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += iov[i].iov_len;
    return transmit(h, iov, count, total);
}

int client_write_spans(session_handle h, size_t want, struct iovec spans[2])
{
    struct session *s = enter(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    struct session_cache *c = session_cache_of(s);
    if (__builtin_expect(!load_acquire(&c->peer), 0))
        session_try_link(s);
    half_lock(&s->tx_lock);
    int result = stale(s, h) ? BERTH_E_BAD_HANDLE : s->write_span ? BERTH_E_BUSY : 0;
    if (result == 0) {
        ssize_t room = send_room(s, c, want ? want : 1);
        result = (int)(room < 0 ? room : 0);
        if (room > 0) {
            if (want && (size_t)room > want)
                room = (ssize_t)want;
            size_t pos = (size_t)(s->tail & (s->tx_size - 1));
            size_t first = s->tx_size - pos < (size_t)room ? (size_t)(s->tx_size - pos) : (size_t)room;
            spans[0] = (struct iovec){.iov_base = c->tx_ring + pos, .iov_len = first};
            spans[1] = (struct iovec){.iov_base = c->tx_ring, .iov_len = (size_t)room - first};
            spanner_set(&s->write_spanner, C->member + 1);
            s->write_span = (uint32_t)room;
            result = first < (size_t)room ? 2 : 1;
        }
    }
    half_unlock(&s->tx_lock);
    if (__builtin_expect(result == BERTH_E_WOULD_BLOCK, 0))
        found_full(s, c);
    return result;
}

int client_write_commit(session_handle h, size_t len)
{
    struct session *s = enter_any(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    struct session_cache *c = NULL;
    half_lock(&s->tx_lock);
    uint64_t old = s->tail;
    int result = stale(s, h) ? span_abandon(s, h, s->write_spanner, write_span_end)
                 : !s->write_span || len > s->write_span ? BERTH_E_INVALID
                                                         : 0;
    if (result == 0) {
        c = session_cache_of(s);
        write_span_end(s);
        if (session_flags(s) & SF_SHUT_WR)
            len = 0;
        session_set_tail(s, old + len);
        if (len)
            slot_set_tail(c->own, count_word(old + len, 0));
    }
    half_unlock(&s->tx_lock);
    if (result == 0 && len)
        told_data(s, c, old, old + len);
    return result;
}
