/* rings.c - pieces of an outbox, cut off, handed out again, taken back from drained fifos.
 *
 * Each segment has a part that was never handed out (from `bump` to its end); rings, slot chunks and event
 * queues are cut from it. Rings come in powers of four from 4 KiB; a freed one goes onto the stack of its
 * class and is the next to be handed out again, since it is in the cache. Nothing is ever joined: what a
 * stream needs, it will need again.
 *
 * A session keeps its ring when its fifo drains, since it will write again soon; but before a new segment is
 * made, the rings of all drained fifos are swept up (outbox_sweep). So the memory follows the largest number
 * of fifos that held bytes at one time, not the number of sessions. And when that was long ago it goes back
 * to the kernel: the last segment is retired once none of its rings has been in use for a while
 * (outbox_shrink). Its index is not used again, so that a peer that has not heard of it yet can never take a
 * new segment for the old one. A peer that does not unmap what was retired keeps that memory in being, on our
 * account, and nothing can take it away (the seal forbids holes). So an outbox retires no more in its life
 * than it may have at one time: twice the limit is what the worst of peers can make us hold.
 */
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/family.h"
#include "client/outbox.h"
#include "client/rings.h"
#include "shm/slot.h"

#define FREE_TRIES 16u

static const uint8_t class_log2[RING_CLASSES] = {12, 14, 16, 18, 20, 22, 24, 26};

static void free_push(struct outbox_rec *r, uint32_t rec)
{
    struct ring_rec *ring = &C->family->ring[rec];
    ring_rec_set_owner(ring, 0);
    ring_rec_set_left(ring, 0);
    r->seg[ring_segment(ring->word)].live--;
    ring->next = r->ring_free[ring->klass];
    r->ring_free[ring->klass] = rec + 1;
    r->rings_live--;
}

void outbox_ring_free(struct own_box *box, uint32_t rec)
{
    struct outbox_rec *r = outbox_rec_of(box);
    family_lock_acquire(&r->lock, C->member);
    free_push(r, rec);
    family_lock_drop(&r->lock);
}

void rings_reclaim(struct session *s)
{
    while (s->left_first != NONE) {
        uint32_t rec = s->left_first;
        struct ring_rec *ring = &C->family->ring[rec];
        if (ring->left_tail > s->head_seen)
            return;
        s->left_first = ring->next;
        outbox_ring_free(outbox_by_index(s->own_outbox), rec);
    }
}

/* Gives the ring of a drained fifo back. tx_lock is held. */
void stream_release_ring(struct session *s, struct session_cache *c)
{
    if (s->tx_rec == NONE || s->write_span)
        return;
    const struct slot *peer = load_acquire(&c->peer);
    if (peer)
        session_set_head_seen(s, count_offset(slot_head(peer)));
    if (s->head_seen != s->tail)
        return;
    rings_reclaim(s);
    uint32_t rec = s->tx_rec;
    s->tx_rec = NONE;
    session_set_tx_size(s, 0);
    c->tx_ring = NULL;
    slot_set_ring(c->own, 0);
    outbox_ring_free(outbox_by_index(s->own_outbox), rec);
}

/* The first that we can write. Relatives free theirs onto the same stack: at most so many are passed over. */
static uint32_t take_free(struct own_box *box, struct outbox_rec *r, uint32_t klass, uint32_t tries)
{
    uint32_t *link = &r->ring_free[klass];
    for (; *link && tries > 0; tries--) {
        uint32_t rec = *link - 1;
        struct ring_rec *ring = &C->family->ring[rec];
        if (box->writable[ring_segment(ring->word)]) {
            *link = ring->next;
            return rec;
        }
        link = &ring->next;
    }
    return NONE;
}

static uint64_t carve(struct own_box *box, struct outbox_rec *r, uint64_t size, uint32_t log2)
{
    uint32_t tried = 0;
    for (uint32_t i = r->segments; i-- > 0;) {
        struct seg_rec *seg = &r->seg[i];
        if (!seg->size || !box->writable[i])
            continue; /* retired, or a relative's */
        if (seg->size - seg->bump >= size) {
            uint64_t at = seg->bump;
            seg->bump += size;
            return ring_word(i, at, log2);
        }
        if (++tried >= 3)
            break; /* older ones are full but for crumbs */
    }
    return 0;
}

/* Takes the rings of all drained fifos of the outbox back. Its lock is not held. */
static void outbox_sweep(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (uint32_t rec = 0, n = family_rings(C->family); rec < n; rec++) {
        struct ring_rec *ring = &C->family->ring[rec];
        uint32_t owner = ring_rec_owner(ring);
        if (!owner || owner == NONE || ring_rec_outbox(ring) != box->index || ring_rec_left(ring))
            continue;
        struct session *s = session_at(owner - 1);
        if (!holders_has(s, C->member))
            continue; /* another member's, of which we may not even have the slot */
        if (!family_lock_try_now(&s->tx_lock))
            continue;
        struct session_cache *c = &C->cache[owner - 1];
        if (s->tx_rec == rec && s->state != SESSION_FREE && load_acquire(&c->generation) == s->generation &&
            c->own)
            stream_release_ring(s, c);
        half_unlock(&s->tx_lock);
    }
    family_lock_acquire(&r->lock, C->member);
    r->swept_rings = r->rings_live;
    family_lock_drop(&r->lock);
}

#define GROW_MIN (SEGMENT_MIN / 4)

/* Each segment is as large as all before it, so that their number stays small: all of this process, or a few
 * children would have used up the limit of the parent's outbox. */
static uint64_t own_bytes(const struct own_box *box, const struct outbox_rec *r)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < r->segments; i++) {
        if (box->writable[i] && r->seg[i].creator == C->member)
            bytes += r->seg[i].size;
    }
    return bytes;
}

static int grow(struct own_box *box, uint64_t size)
{
    struct outbox_rec *r = outbox_rec_of(box);
    int fd = -1;
    family_lock_acquire(&r->lock, C->member);
    uint32_t index = r->segments;
    uint64_t want = own_bytes(box, r);
    if (want < GROW_MIN)
        want = GROW_MIN;
    if (want > 256u << 20)
        want = 256u << 20;
    if (want < 2 * size + PAGE_BYTES)
        want = size >= (16u << 20) ? size + PAGE_BYTES : 2 * size + PAGE_BYTES;
    int err = C->daemon_lost ? BERTH_E_DAEMON_GONE
                             : BERTH_E_LIMIT; /* nobody could get at a segment without the daemon */
    if (!C->daemon_lost && index < OUTBOX_SEGMENTS && r->bytes + want <= C->outbox_limit)
        err = outbox_segment_add(box, index, want, &fd);
    if (!err) {
        struct ctl_outbox msg = {
            .h = {.type = CTL_SEGMENT, .len = sizeof msg}, .outbox = r->handle, .index = index};
        err = control_send(&msg, &fd, 1); /* before any slot names it: who meets it can ask for it */
        (void)sys_close(fd);
        outbox_rec_set_grown_at(r, clock_now());
        fetch_add_sc(&C->extra_segments, 1);
    }
    family_lock_drop(&r->lock);
    return err;
}

#define RESERVE (128u << 10)

/* A child writes what was there when it was forked, and else what it makes itself: hundreds of them that each
 * make a segment for a few bytes would use up the numbers of segments. */
bool outboxes_reserve(void)
{
    bool enough = true;
    for (struct own_box *box = C->outboxes; box; box = box->next) {
        struct outbox_rec *r = outbox_rec_of(box);
        uint32_t last = outbox_rec_segments(r);
        if (box->left || !outbox_current(box))
            continue;
        while (last-- > 0 && !box->writable[last])
            ;
        if (last != NONE && r->seg[last].size - r->seg[last].bump < RESERVE)
            enough &= grow(box, RESERVE) == 0;
        enough &= r->bytes < C->outbox_limit / 4 * 3 && outbox_rec_segments(r) < OUTBOX_SEGMENTS / 4 * 3;
    }
    return enough;
}

#define KEEP_NS (5 * NS_PER_SEC) /* an outbox that grew is left alone for so long */
#define RETIRE_BELOW (OUTBOX_SEGMENTS * 3 / 4)

/* The last segment, if nothing of it is in use. The outbox's lock is held. */
static void retire_last(struct own_box *box, struct outbox_rec *r, uint32_t index)
{
    for (uint32_t klass = 0; klass < RING_CLASSES; klass++) {
        for (uint32_t *link = &r->ring_free[klass]; *link;) {
            struct ring_rec *ring = &C->family->ring[*link - 1];
            if (ring_segment(ring->word) != index) {
                link = &ring->next;
                continue;
            }
            uint32_t rec = *link - 1;
            *link = ring->next;
            ring->word = 0;
            ring_rec_free(rec);
        }
    }
    struct ctl_outbox msg = {
        .h = {.type = CTL_RETIRE, .len = sizeof msg}, .outbox = r->handle, .index = index};
    (void)control_send(&msg, NULL, 0); /* a daemon that has ended has let go of it */
    r->bytes -= r->seg[index].size;
    r->retired += r->seg[index].size;
    r->seg[index].size = 0;
    munmap(box->seg[index], box->seg_size[index]);
    store_release(&box->seg[index], NULL);
    fetch_add_sc(&C->extra_segments, ~0u);
}

void outbox_shrink(void)
{
    static int64_t last;
    int64_t now = clock_now();
    if (!load_relaxed(&C->extra_segments) || now - load_relaxed(&last) < NS_PER_SEC || berth_family_shared ||
        C->daemon_lost || !plock_try(&C->lock))
        return;
    store_relaxed(&last, now);
    for (struct own_box *box = C->outboxes; box; box = box->next) {
        struct outbox_rec *r = outbox_rec_of(box);
        uint32_t index = outbox_rec_segments(r) - 1;
        if (!outbox_current(box) || index == 0 || now - outbox_rec_grown_at(r) < KEEP_NS ||
            index >= RETIRE_BELOW)
            continue;
        outbox_sweep(box);
        family_lock_acquire(&r->lock, C->member);
        while (index > 0 && (r->seg[index].size == 0 || r->seg[index].live == 0) &&
               r->retired + r->seg[index].size <= C->outbox_limit) {
            if (r->seg[index].size)
                retire_last(box, r, index);
            index--;
        }
        family_lock_drop(&r->lock);
    }
    plock_release(&C->lock);
}

int outbox_ring_alloc(struct own_box *box, uint64_t size, uint32_t owner, uint32_t *out)
{
    struct outbox_rec *r = outbox_rec_of(box);
    uint32_t klass = 0;
    while (klass < RING_CLASSES - 1 && (1ull << class_log2[klass]) < size)
        klass++;
    size = 1ull << class_log2[klass];
    for (int round = 0; round < 3; round++) {
        family_lock_acquire(&r->lock, C->member);
        uint32_t rec = take_free(box, r, klass, FREE_TRIES);
        uint64_t word = 0;
        if (rec == NONE && (word = carve(box, r, size, class_log2[klass])) != 0) {
            rec = ring_rec_alloc();
            if (rec != NONE) { /* owner and left are 0 already; sweeps of other threads may be looking */
                C->family->ring[rec].klass = (uint8_t)klass;
                ring_rec_set_outbox(&C->family->ring[rec], (uint16_t)box->index);
                ring_rec_set_word(&C->family->ring[rec], word);
            }
        }
        if (rec == NONE && word == 0) /* rather than more memory */
            rec = take_free(box, r, klass, RINGS_MAX);
        if (rec != NONE) {
            ring_rec_set_owner(&C->family->ring[rec], owner);
            ring_rec_set_left(&C->family->ring[rec], 0);
            r->rings_live++;
            r->seg[ring_segment(C->family->ring[rec].word)].live++;
            family_lock_drop(&r->lock);
            *out = rec;
            return 0;
        }
        bool sweep = round == 0 && r->rings_live > r->swept_rings + r->swept_rings / 4;
        family_lock_drop(&r->lock);
        if (sweep)
            outbox_sweep(box);
        else if (grow(box, size) != 0)
            return BERTH_E_NO_MEMORY;
    }
    return BERTH_E_NO_MEMORY;
}
