/* outbox.c - the memory that only we write and that the workers of one other app may read.
 *
 * Theory of operation
 *
 * An outbox is a list of segments. Each has a part that was never handed out (from `bump` to its end); rings, slot chunks
 * and event queues are cut from it. Rings come in powers of four from 4 KiB; a freed one goes onto the stack of its class
 * and is the next to be handed out again, since it is in the cache. Nothing is ever joined: what a stream needs, it will
 * need again.
 *
 * A session keeps its ring when its fifo drains, since it will write again soon; but before a new segment is made, the
 * rings of all drained fifos are swept up (outbox_sweep). So the memory follows the largest number of fifos that
 * held bytes at one time, not the number of sessions. And when that was long ago it goes back to the kernel: the last
 * segment is retired once none of its rings has been in use for a while (outbox_shrink). Its index is not used again, so that
 * a peer that has not heard of it yet can never take a new segment for the old one. A peer that does not unmap what was
 * retired keeps that memory in being, on our account, and nothing can take it away (the seal forbids holes). So an outbox retires no
 * more in its life than it may have at one time: twice the limit is what the worst of peers can make us hold.
 *
 * A segment that was made after a fork can be written by its maker alone (the seal forbids everybody else a writable
 * mapping), so its rings are passed over by the other members.
 */
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"
#include "shm/segment.h"

static const uint8_t class_log2[RING_CLASSES] = {12, 14, 16, 18, 20, 22, 24, 26};

struct outbox_rec *outbox_rec_of(const struct own_box *box)
{
    return &C->family->outbox[box->index];
}

struct own_box *outbox_by_index(uint32_t index)
{
    return index < OUTBOXES_MAX ? load_acquire(&C->own_by_index[index]) : NULL;
}

struct own_box *outbox_of(uint32_t facing_app, uint32_t worker)
{
    for (struct own_box *b = C->outboxes; b; b = b->next) {
        const struct outbox_rec *r = outbox_rec_of(b);
        if (r->facing_app == facing_app && outbox_worker(r->handle) == worker)
            return b;
    }
    return NULL;
}

struct own_box *outbox_find(uint32_t facing_app)
{
    return outbox_of(facing_app, C->worker);
}

static void fill_header(struct own_box *box, uint32_t index, uint64_t size)
{
    struct outbox_rec *r = outbox_rec_of(box);
    struct segment_header *h = (struct segment_header *)(void *)box->seg[index];
    h->version = ABI_VERSION;
    h->lines_per_slot = 2;
    h->outbox = r->handle;
    h->index = index;
    h->facing_app = r->facing_app;
    h->size = size;
    h->owner_worker = C->worker;
    h->chunks = index == 0 ? 1 : 0;
    store_release(&h->magic, index == 0 ? ABI_MAGIC_OUTBOX : ABI_MAGIC_RINGS);
}

/* Makes segment `index`, maps it and enters it into the records. The outbox's lock is held, or nobody knows it yet. */
static int add_segment(struct own_box *box, uint32_t index, uint64_t size, int *fd_out)
{
    struct outbox_rec *r = outbox_rec_of(box);
    void *map;
    int fd;
    int err = segment_create("berth-outbox", size, &fd, &map);
    if (err) { /* for want of a descriptor? */
        client_fds_release();
        err = segment_create("berth-outbox", size, &fd, &map);
    }
    if (err)
        return err;
    box->seg[index] = map;
    box->seg_size[index] = size;
    box->writable[index] = true;
    fill_header(box, index, size);
    r->seg[index] =
        (struct seg_rec){.size = size, .bump = index == 0 ? OUTBOX_POOL : RINGS_POOL, .creator = C->member};
    store_relaxed(&r->segments, index + 1);
    r->bytes += size;
    *fd_out = fd;
    return 0;
}

struct own_box *outbox_create(uint32_t facing_app, int *fd_out)
{
    struct family *f = C->family;
    uint32_t index = NONE;
    family_lock_acquire(&f->lock, C->member);
    for (uint32_t i = 0; i < OUTBOXES_MAX; i++) {
        if (!f->outbox[i].used) {
            memset(&f->outbox[i], 0, sizeof f->outbox[i]);
            f->outbox[i].owner_member = C->member;
            members_only(&f->outbox[i].mapped, C->member);
            store_release(&f->outbox[i].used, 1); /* last: who lets go of the dead one's looks without the lock */
            index = i;
            break;
        }
    }
    uint32_t count = ++f->next_outbox;
    family_lock_drop(&f->lock);
    if (index == NONE)
        return NULL;
    struct outbox_rec *r = &f->outbox[index];
    struct own_box *box = mmap(NULL, sizeof *box, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (box == MAP_FAILED)
        goto fail_map;
    r->handle = outbox_handle_make(C->worker, count);
    r->facing_app = facing_app;
    box->index = index;
    if (add_segment(box, 0, C->segment_size, fd_out) != 0)
        goto fail_segment;
    box->next = C->outboxes;
    store_release(&C->outboxes, box);
    store_release(&C->own_by_index[index], box);
    return box;

fail_segment:
    munmap(box, sizeof *box);
fail_map:
    store_release(&r->used, 0);
    return NULL;
}

/* Out of every table; the memory goes later (outbox_unmap), when no thread can still be looking at it. C->lock is held. */
void outbox_bury(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (struct own_box **p = &C->outboxes; *p; p = &(*p)->next) {
        if (*p == box) {
            *p = box->next;
            break;
        }
    }
    if (outbox_worker(r->handle) == C->worker) {
        struct ctl_outbox msg = {.h = {.type = CTL_RETIRE, .len = sizeof msg}, .outbox = r->handle, .index = 0};
        (void)control_send(&msg, NULL, 0);
        if (r->segments > 1)
            fetch_add_sc(&C->extra_segments, 1u - r->segments);
    }
    box->buried = clock_now();
    box->next = C->own_graves;
    store_relaxed(&C->own_graves, box);
}

/* Records are zero while they are free. One is several pages: they are given back, not cleared. */
static void record_free(struct outbox_rec *r)
{
    if (madvise(r, sizeof *r, MADV_REMOVE) != 0)
        memset(r, 0, sizeof *r);
    store_release(&r->used, 0);
}

void outbox_unmap(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    store_release(&C->own_by_index[box->index], NULL);
    (void)members_drop(&r->mapped, C->member);
    if (outbox_worker(r->handle) == C->worker) {
        for (uint32_t rec = 0, n = load_acquire(&C->family->rings); rec < n; rec++) {
            struct ring_rec *ring = &C->family->ring[rec];
            if (ring->outbox == box->index && ring->word) {
                ring->word = 0;
                ring_rec_free(rec);
            }
        }
        record_free(r);
    }
    for (uint32_t i = 0; i < OUTBOX_SEGMENTS; i++) {
        if (box->seg[i])
            munmap(box->seg[i], box->seg_size[i]);
    }
    munmap(box, sizeof *box);
}

/* A segment that another member made after the fork can be had for reading: the daemon has it. */
bool outbox_ring_fetch(struct own_box *box, uint64_t word)
{
    uint32_t index = ring_segment(word);
    if (index >= OUTBOX_SEGMENTS || box->seg[index])
        return index < OUTBOX_SEGMENTS;
    struct ctl_outbox msg = {
        .h = {.type = CTL_GET_SEGMENT, .len = sizeof msg}, .outbox = outbox_rec_of(box)->handle, .index = index};
    struct ctl_segment_is is;
    const void *map;
    const char *why = "";
    uint64_t size;
    int fd = -1, nfds = 1;
    if (control_request(&msg, NULL, 0, &is, sizeof is, &fd, &nfds) != 0 || nfds != 1)
        return false;
    int err = segment_open(fd, PAGE_BYTES, SEGMENT_MAX, false, &map, &size, &why);
    (void)sys_close(fd);
    if (err) {
        log_warn("segment %u of our own outbox: %s", index, why);
        return false;
    }
    box->seg_size[index] = size;
    store_release(&box->seg[index], (uint8_t *)(uintptr_t)map);
    return true;
}

/* ---- rings ---------------------------------------------------------------------------------------------- */

uint8_t *outbox_ring_at(struct own_box *box, uint64_t word, bool *writable)
{
    uint32_t seg = ring_segment(word);
    if (seg >= OUTBOX_SEGMENTS || !box->seg[seg])
        return NULL;
    if (writable)
        *writable = box->writable[seg];
    return box->seg[seg] + ring_offset(word);
}

static void free_push(struct outbox_rec *r, uint32_t rec)
{
    struct ring_rec *ring = &C->family->ring[rec];
    store_relaxed(&ring->owner, 0u);
    store_relaxed(&ring->left, (uint8_t)0);
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

static uint32_t take_free(struct own_box *box, struct outbox_rec *r, uint32_t klass)
{
    uint32_t *link = &r->ring_free[klass];
    for (int tries = 0; *link && tries < 16; tries++) {
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
        if (seg->size && box->writable[i] && seg->size - seg->bump >= size) {
            uint64_t at = seg->bump;
            seg->bump += size;
            return ring_word(i, at, log2);
        }
        if (seg->size && ++tried >= 3)
            break; /* older ones are full but for crumbs */
    }
    return 0;
}

/* Takes the rings of all drained fifos of the outbox back. Its lock is not held. */
static void outbox_sweep(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (uint32_t rec = 0, n = load_acquire(&C->family->rings); rec < n; rec++) {
        struct ring_rec *ring = &C->family->ring[rec];
        uint32_t owner = load_relaxed(&ring->owner);
        if (!owner || owner == NONE || load_relaxed(&ring->outbox) != box->index || load_relaxed(&ring->left))
            continue;
        struct session *s = session_at(owner - 1);
        if (!members_has(&s->holders, C->member))
            continue; /* another member's, of which we may not even have the slot */
        if (!family_lock_try(&s->tx_lock, berth_lock_id))
            continue;
        if (s->tx_rec == rec && s->state != SESSION_FREE)
            stream_release_ring(s, session_cache_of(s));
        half_unlock(&s->tx_lock);
    }
    family_lock_acquire(&r->lock, C->member);
    r->swept_rings = r->rings_live;
    family_lock_drop(&r->lock);
}

#define GROW_MIN (SEGMENT_MIN / 4)

/* Each segment is as large as all before it, so that their number stays small: all of this process, or a few children would have
 * used up the limit of the parent's outbox. */
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
    int err =
        C->daemon_lost ? BERTH_E_DAEMON_GONE : BERTH_E_LIMIT; /* nobody could get at a segment without the daemon */
    if (!C->daemon_lost && index < OUTBOX_SEGMENTS && r->bytes + want <= C->outbox_limit)
        err = add_segment(box, index, want, &fd);
    if (!err) {
        struct ctl_outbox msg = {
            .h = {.type = CTL_SEGMENT, .len = sizeof msg}, .outbox = r->handle, .index = index};
        err = control_send(&msg, &fd, 1); /* before any slot names it: who meets it can ask for it */
        (void)sys_close(fd);
        store_relaxed(&r->grown_at, clock_now());
        fetch_add_sc(&C->extra_segments, 1);
    }
    family_lock_drop(&r->lock);
    return err;
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
    struct ctl_outbox msg = {.h = {.type = CTL_RETIRE, .len = sizeof msg}, .outbox = r->handle, .index = index};
    (void)control_send(&msg, NULL, 0);
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
        uint32_t index = load_relaxed(&r->segments) - 1;
        if (index == 0 || now - load_relaxed(&r->grown_at) < KEEP_NS || index >= RETIRE_BELOW)
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
        uint32_t rec = take_free(box, r, klass);
        uint64_t word = 0;
        if (rec == NONE && (word = carve(box, r, size, class_log2[klass])) != 0) {
            rec = ring_rec_alloc();
            if (rec != NONE) { /* owner and left are 0 already; sweeps of other threads may be looking */
                C->family->ring[rec].klass = (uint8_t)klass;
                store_relaxed(&C->family->ring[rec].outbox, (uint16_t)box->index);
                store_release(&C->family->ring[rec].word, word);
            }
        }
        if (rec != NONE) {
            store_relaxed(&C->family->ring[rec].owner, owner);
            store_relaxed(&C->family->ring[rec].left, (uint8_t)0);
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

/* ---- slots ---------------------------------------------------------------------------------------------- */

static uint8_t *chunk_at(struct own_box *box, uint32_t chunk)
{
    if (chunk == 0)
        return box->seg[0] + OUTBOX_CHUNK0;
    const uint64_t *table = (const uint64_t *)(const void *)(box->seg[0] + OUTBOX_CHUNK_TABLE);
    return outbox_ring_at(box, load_acquire(&table[chunk]), NULL);
}

struct slot *outbox_slot(struct own_box *box, uint32_t index)
{
    uint8_t *chunk = chunk_at(box, index / CHUNK_SLOTS);
    return chunk ? (struct slot *)(void *)chunk + index % CHUNK_SLOTS : NULL;
}

struct slot_info *outbox_info(struct own_box *box, uint32_t index)
{
    uint8_t *chunk = chunk_at(box, index / CHUNK_SLOTS);
    return (struct slot_info *)(void *)(chunk + CHUNK_SLOTS * CACHE_LINE) + index % CHUNK_SLOTS;
}

static int add_chunk(struct own_box *box, struct outbox_rec *r, uint32_t chunk)
{
    uint32_t rec;
    int err = outbox_ring_alloc(box, CHUNK_BYTES, NONE, &rec);
    if (err)
        return err;
    uint64_t word = C->family->ring[rec].word;
    memset(outbox_ring_at(box, word, NULL), 0, CHUNK_BYTES);
    family_lock_acquire(&r->lock, C->member);
    struct segment_header *h = (struct segment_header *)(void *)box->seg[0];
    if (h->chunks == chunk) { /* nobody was faster */
        uint64_t *table = (uint64_t *)(void *)(box->seg[0] + OUTBOX_CHUNK_TABLE);
        store_release(&table[chunk], word);
        store_release(&h->chunks, chunk + 1);
        rec = NONE;
    }
    family_lock_drop(&r->lock);
    if (rec != NONE)
        outbox_ring_free(box, rec);
    return 0;
}

int outbox_slot_alloc(struct own_box *box, uint32_t *index)
{
    struct outbox_rec *r = outbox_rec_of(box);
    const struct segment_header *h = (const struct segment_header *)(void *)box->seg[0];
    for (;;) {
        family_lock_acquire(&r->lock, C->member);
        uint32_t i = NONE;
        if (r->slot_free) {
            i = r->slot_free - 1;
            r->slot_free = (uint32_t)outbox_slot(box, i)->extra;
        } else if (r->slots < h->chunks * CHUNK_SLOTS) {
            i = r->slots;
            store_relaxed(&r->slots, i + 1); /* read without the lock by session_event */
        }
        if (i != NONE)
            r->slots_live++;
        uint32_t chunk = h->chunks;
        family_lock_drop(&r->lock);
        if (i != NONE) {
            /* never 0: generation and index together make slot.peer, where 0 says "not known yet" */
            struct slot *slot = outbox_slot(box, i);
            if (!load_relaxed(&slot->generation))
                store_release(&slot->generation, 1u);
            *index = i;
            return 0;
        }
        if (chunk >= CHUNKS_MAX)
            return BERTH_E_LIMIT;
        int err = add_chunk(box, r, chunk);
        if (err)
            return err;
    }
}

void outbox_slot_free(struct own_box *box, uint32_t index)
{
    struct outbox_rec *r = outbox_rec_of(box);
    struct slot *slot = outbox_slot(box, index);
    /* the new generation first: whoever still looks must not take the zeroes that follow for the old session */
    store_release(&slot->generation, slot->generation + 1); /* a 0 is passed over when it is handed out */
    store_release(&slot->state, (uint8_t)SLOT_FREE);
    store_relaxed(&slot->tail, 0);
    store_relaxed(&slot->ring, 0);
    store_relaxed(&slot->head, 0);
    store_relaxed(&slot->want, 0);
    slot_disarm_space(slot);
    store_relaxed(&slot->peer, 0);
    store_relaxed(&slot->flags, (uint8_t)0);
    store_relaxed(&slot->waiter, (uint8_t)WAITER_ANY);
    family_lock_acquire(&r->lock, C->member);
    store_relaxed(&slot->extra, r->slot_free);
    r->slot_free = index + 1;
    r->slots_live--;
    family_lock_drop(&r->lock);
}

/* ---- channels -------------------------------------------------------------------------------------------- */

struct channel *outbox_channel(struct own_box *box, uint32_t channel)
{
    return (struct channel *)(void *)(box->seg[0] + OUTBOX_CHANNELS) + channel;
}

/* A channel is the pair of workers', and workers come and go: that of a dead one is the next one's. A late event of the dead one's
 * sessions does no harm in its queue: whoever gets it finds that the slot is not his. */
void outbox_channel_free(struct own_box *box, uint32_t channel)
{
    struct outbox_rec *r = outbox_rec_of(box);
    if (outbox_worker(r->handle) != C->worker || members_others_live(&r->mapped))
        return; /* relatives may face the same worker through it */
    store_release(&outbox_channel(box, channel)->peer_worker, NONE);
    store_release(&r->chan[channel].peer_worker, NONE);
}

static bool channel_reuse(struct own_box *box, uint32_t i, uint32_t peer_worker)
{
    struct chan_rec *chan = &outbox_rec_of(box)->chan[i];
    struct channel *ch = outbox_channel(box, i);
    bool writable = false;
    uint8_t *queue = outbox_ring_at(box, chan->queue, &writable);
    if (!writable)
        return false;
    family_lock_acquire(&chan->rx_lock, C->member);
    family_lock_acquire(&chan->tx_lock, C->member);
    memset(queue, 0, 1u << QUEUE_LOG2);
    chan->tx_pos = 0;
    store_relaxed(&ch->qhead, 0u);
    store_relaxed(&ch->arm, 0u);
    store_relaxed(&ch->resync, 0u);
    family_lock_drop(&chan->tx_lock);
    family_lock_drop(&chan->rx_lock);
    store_release(&ch->peer_worker, peer_worker);
    store_release(&chan->peer_worker, peer_worker);
    return true;
}

static uint32_t channel_of_the_dead(struct own_box *box, uint32_t peer_worker)
{
    struct outbox_rec *r = outbox_rec_of(box);
    uint32_t found = NONE;
    family_lock_acquire(&r->lock, C->member);
    for (uint32_t i = 0; i < r->channels && found == NONE; i++) {
        if (load_relaxed(&r->chan[i].peer_worker) == NONE && channel_reuse(box, i, peer_worker))
            found = i;
    }
    family_lock_drop(&r->lock);
    return found;
}

int outbox_channel_alloc(struct own_box *box, uint32_t peer_worker, uint32_t *channel)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (uint32_t i = 0, n = load_acquire(&r->channels); i < n; i++) { /* made by another member */
        if (load_acquire(&r->chan[i].peer_worker) == peer_worker && outbox_channel(box, i)->queue) {
            *channel = i;
            return 0;
        }
    }
    if ((*channel = channel_of_the_dead(box, peer_worker)) != NONE)
        return 0;
    uint32_t rec;
    int err = outbox_ring_alloc(box, 1u << QUEUE_LOG2, NONE, &rec);
    if (err)
        return err;
    uint64_t word = C->family->ring[rec].word;
    memset(outbox_ring_at(box, word, NULL), 0, 1u << QUEUE_LOG2);
    family_lock_acquire(&r->lock, C->member);
    uint32_t i = r->channels < OUTBOX_CHANNELS_USED ? r->channels++ : NONE;
    family_lock_drop(&r->lock);
    if (i == NONE) {
        outbox_ring_free(box, rec);
        return BERTH_E_LIMIT;
    }
    r->chan[i] = (struct chan_rec){.queue = word};
    struct channel *ch = outbox_channel(box, i);
    ch->peer_worker = peer_worker;
    store_release(&ch->queue, word);
    store_release(&r->chan[i].peer_worker, peer_worker);
    *channel = i;
    return 0;
}
