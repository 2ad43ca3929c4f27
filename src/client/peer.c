/* peer.c - outboxes of other workers, mapped read-only, and what we believe of what is in them.
 *
 * Nothing read here is trusted. A segment is mapped only after segment_open has checked it; an index from the
 * peer is compared with the geometry kept here before it becomes an address. A segment that a word names and
 * that is not here yet is asked for (GET_SEGMENT) and arrives on the control socket; nothing here waits for
 * it. Once the daemon has died, and what it had sent is worked off, no segment comes any more: its owner
 * keeps no descriptor of it. Then it counts as one that the daemon refused.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/fds.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/slots.h"
#include "client/vigil.h"
#include "shm/segment.h"

static struct peer_box **bucket(outbox_handle handle)
{
    return &C->box_hash[(uint32_t)(handle * 0x9e3779b97f4a7c15ull >> 40) % BOX_HASH];
}

static void enter(struct peer_box *b)
{
    b->next = C->boxes;
    store_release(&C->boxes, b);
    b->next_hash = *bucket(b->handle);
    store_release(bucket(b->handle), b);
    if (load_relaxed(&b->worker->dead))
        fetch_add_sc(&C->dead_boxes, 1);
}

/* A forked process faces an outbox twice: in its parent's name, for the sessions that it inherited, and in
 * its own. Both share the mappings. */
static struct peer_box *face(struct peer_box *from, uint32_t me)
{
    struct peer_box *b = memory_get(sizeof *b);
    if (!b)
        return NULL;
    plock_take(&C->boxes_lock);
    for (struct peer_box *other = *bucket(from->handle); other; other = other->next_hash) {
        if (other->handle == from->handle && other->me == me) {
            plock_release(&C->boxes_lock);
            memory_put(b, sizeof *b);
            return other;
        }
    }
    b->handle = from->handle;
    b->worker = from->worker;
    b->me = me;
    b->own_channel = b->their_channel = NONE;
    b->memory = from->memory;
    b->memory->refs++;
    b->worker->refs++;
    enter(b);
    plock_release(&C->boxes_lock);
    return b;
}

static struct peer_box *next_of(struct peer_box *b, outbox_handle handle)
{
    while (b && b->handle != handle)
        b = load_acquire(&b->next_hash);
    return b;
}

struct peer_box *peer_box_first(outbox_handle handle)
{
    return next_of(load_acquire(bucket(handle)), handle);
}

struct peer_box *peer_box_next(const struct peer_box *box)
{
    return next_of(load_acquire(&box->next_hash), box->handle);
}

struct peer_box *peer_box_of(outbox_handle handle, uint32_t me)
{
    struct peer_box *other = NULL;
    for (struct peer_box *b = load_acquire(bucket(handle)); b; b = load_acquire(&b->next_hash)) {
        if (b->handle != handle)
            continue;
        if (b->me == me)
            return b;
        other = b;
    }
    return other ? face(other, me) : NULL;
}

struct peer_box *peer_box_find(outbox_handle handle)
{
    return peer_box_of(handle, load_relaxed(&C->worker));
}

static struct peer_worker *worker_add(const struct ctl_outbox_is *is, int page_fd, int bell)
{
    for (struct peer_worker *w = C->workers; w; w = w->next) {
        if (w->id == is->worker && !load_relaxed(&w->dead)) {
            (void)sys_close(page_fd);
            (void)sys_close(bell);
            return w;
        }
    }
    const void *page;
    uint64_t size;
    const char *why = "";
    int err = segment_open(page_fd, WORKER_PAGE_BYTES, WORKER_PAGE_BYTES, false, &page, &size, &why);
    (void)sys_close(page_fd); /* so that there is one to open the bell with */
    int bell_fd = own_pipe_later(bell);
    struct peer_worker *w = err ? NULL : memory_get(sizeof *w);
    if (!w) {
        log_warn("worker %u: its page is refused: %s", is->worker, why);
        if (!err)
            segment_unmap(page, size);
        own_fd_close(bell_fd);
        return NULL;
    }
    w->id = is->worker;
    w->app = is->app;
    w->pid = (int32_t)is->pid;
    w->dead = is->dead;
    w->page = page;
    w->bell_fd = bell_fd;
    w->next = C->workers;
    C->workers = w;
    if (C->daemon_lost)
        store_release(&C->alone, true);
    return w;
}

/* NULL: there is no room for it. */
static struct peer_box *box_make(outbox_handle handle, const void *map, uint64_t size)
{
    struct peer_box *b = memory_get(sizeof *b);
    struct peer_memory *memory = b ? memory_get(sizeof *memory) : NULL;
    if (!memory) {
        memory_put(b, sizeof *b);
        return NULL;
    }
    *memory = (struct peer_memory){.refs = 1, .first = map, .first_size = size};
    b->handle = handle;
    b->memory = memory;
    b->me = load_relaxed(&C->worker);
    b->own_channel = b->their_channel = NONE;
    return b;
}

static void box_unmake(struct peer_box *b)
{
    if (b)
        memory_put(b->memory, sizeof *b->memory);
    memory_put(b, sizeof *b);
}

struct peer_box *peer_box_add(const struct ctl_outbox_is *is, const int fds[3])
{
    struct peer_box *b = peer_box_find(is->outbox);
    if (b) {
        for (int i = 0; i < 3; i++)
            (void)sys_close(fds[i]);
        return b;
    }
    const void *map = NULL;
    uint64_t size = 0;
    const char *why = "";
    int err = segment_open(fds[0], SEGMENT_MIN, SEGMENT_MAX, false, &map, &size, &why);
    if (!err) {
        const struct segment_header *h = map;
        if (segment_magic(h) != ABI_MAGIC_OUTBOX || h->version != ABI_VERSION || h->outbox != is->outbox ||
            h->lines_per_slot != 2) {
            why = "the header is not that of the outbox it is said to be";
            err = BERTH_E_PROTOCOL;
        } else if (!(b = box_make(is->outbox, map, size))) {
            why = "out of memory";
            err = BERTH_E_NO_MEMORY;
        }
    }
    (void)sys_close(fds[0]);
    struct peer_worker *w = err ? NULL : worker_add(is, fds[1], fds[2]);
    if (err) {
        (void)sys_close(fds[1]);
        (void)sys_close(fds[2]);
    }
    if (!w) {
        log_warn("outbox %llx is refused: %s", (unsigned long long)is->outbox, why);
        if (map)
            segment_unmap(map, size);
        box_unmake(b);
        return NULL;
    }
    b->worker = w;
    plock_take(&C->boxes_lock);
    w->refs++;
    enter(b);
    plock_release(&C->boxes_lock);
    return b;
}

/* Is there another one, in use or in its grave, with the same channel? A worker that had several outboxes in turn
 * has one channel of ours for them all. */
static bool channel_of_another(const struct peer_box *box)
{
    const struct peer_box *lists[] = {load_acquire(&C->boxes), C->box_graves};
    for (size_t i = 0; i < 2; i++) {
        for (const struct peer_box *b = lists[i]; b; b = b->next) {
            if (b != box && b->own == box->own && b->own_channel == box->own_channel)
                return true;
        }
    }
    return false;
}

/* Our outbox may have gone before the box. C->lock is held. */
static bool channel_is_ours(const struct peer_box *box)
{
    const struct own_box *own = C->outboxes;
    while (own && own != box->own)
        own = own->next;
    return own && outbox_current(own) && box->own_channel != NONE &&
           chan_rec_peer_worker(&outbox_rec_of(own)->chan[box->own_channel]) == box->worker->id;
}

static void memory_unmap(struct peer_memory *m)
{
    segment_unmap(m->first, m->first_size);
    for (uint32_t i = 1; m->others && i < OUTBOX_SEGMENTS; i++) {
        if (m->others->at[i])
            segment_unmap(m->others->at[i], m->others->size[i]);
    }
    memory_put(m->others, sizeof *m->others);
    memory_put(m, sizeof *m);
}

void peer_box_unmap(struct peer_box *box, bool all)
{
    struct peer_worker *w = box->worker;
    if (!all && load_relaxed(&w->dead) && channel_is_ours(box) && !channel_of_another(box))
        outbox_channel_free(box->own, box->own_channel);
    plock_take(&C->boxes_lock);
    bool last = --box->memory->refs == 0;
    uint32_t refs = --w->refs;
    plock_release(&C->boxes_lock);
    if (refs == 0 && (all || load_relaxed(&w->dead))) {
        for (struct peer_worker **p = &C->workers; *p; p = &(*p)->next) {
            if (*p == w) {
                *p = w->next;
                break;
            }
        }
        segment_unmap(w->page, WORKER_PAGE_BYTES);
        own_fd_close(w->bell_fd);
        vigil_end(w->vigil);
        memory_put(w, sizeof *w);
    }
    if (last)
        memory_unmap(box->memory);
    memory_put(box, sizeof *box);
}

/* Phase one of forgetting an outbox of a dead worker: out of every table. C->lock and C->poll_lock are held.
 * Its last holders are threads that looked at one of its sessions a moment ago. */
void peer_box_bury(struct peer_box *box)
{
    struct peer_box **p;
    plock_take(&C->boxes_lock);
    for (p = &C->boxes; *p != box; p = &(*p)->next)
        ;
    store_release(p, box->next);
    for (p = bucket(box->handle); *p != box; p = &(*p)->next_hash)
        ;
    store_release(p, box->next_hash);
    plock_release(&C->boxes_lock);
    for (p = &C->polled; box->polled && *p; p = &(*p)->next_polled) {
        if (*p == box) {
            store_release(p, box->next_polled);
            C->polled_count--;
            box->polled = false;
            break;
        }
    }
    for (p = &C->armed; box->polled && *p; p = &(*p)->next_polled) {
        if (*p == box) {
            store_release(p, box->next_polled);
            break;
        }
    }
    walk_end(&box->walk);
    box->behind = false;
    roll_clear(&box->roll);
    box->buried = clock_now();
    box->next = C->box_graves;
    store_relaxed(&C->box_graves, box);
}

/* NULL: there is no room for the table. */
static struct peer_segments *others_of(struct peer_memory *m)
{
    struct peer_segments *others = load_acquire(&m->others);
    if (others)
        return others;
    plock_take(&C->boxes_lock);
    if (!(others = m->others) && (others = memory_get(sizeof *others)))
        store_release(&m->others, others);
    plock_release(&C->boxes_lock);
    return others;
}

static void ask_segment(const struct peer_box *box, struct peer_segments *others, uint32_t index)
{
    if (exchange_sc(&others->asked[index], 1))
        return;
    struct ctl_outbox msg = {.h = {.type = CTL_GET_SEGMENT, .len = sizeof msg, .seq = NONE},
                             .outbox = box->handle,
                             .index = index};
    if (control_send(&msg, NULL, 0) != 0)
        store_relaxed(&others->asked[index], 0);
}

static const uint8_t *segment_base(const struct peer_box *box, uint32_t index, uint64_t *size, int *err)
{
    if (index == 0) {
        *size = box->memory->first_size;
        return box->memory->first;
    }
    struct peer_segments *others = others_of(box->memory);
    const uint8_t *base = others ? load_acquire(&others->at[index]) : NULL;
    if (base) {
        *size = others->size[index];
        return base;
    }
    *err = BERTH_E_WOULD_BLOCK;
    if (!others)
        return NULL; /* the next one who looks tries again */
    if (load_acquire(&others->asked[index]) != 2 && load_acquire(&C->last_heard)) {
        log_warn("segment %u of outbox %llx: the daemon ended before it brought it", index,
                 (unsigned long long)box->handle);
        store_release(&others->asked[index], 2);
    }
    if (load_acquire(&others->asked[index]) == 2)
        *err = BERTH_E_PROTOCOL;
    else
        ask_segment(box, others, index);
    return NULL;
}

/* Its descriptor is the caller's to close. `why`: it is refused. */
static int segment_enter(struct peer_segments *others, outbox_handle handle, uint32_t index, int fd,
                         const char **why)
{
    const void *map;
    uint64_t size;
    int err = segment_open(fd, PAGE_BYTES, SEGMENT_MAX, false, &map, &size, why);
    if (err)
        return err;
    const struct segment_header *h = map;
    if (segment_magic(h) != ABI_MAGIC_RINGS || h->outbox != handle || h->index != index) {
        segment_unmap(map, size);
        *why = "its header names another segment";
        return BERTH_E_PROTOCOL;
    }
    others->size[index] = size;
    store_release(&others->at[index], map);
    return 0;
}

int peer_segment_arrived(outbox_handle handle, uint32_t index, int fd, int status, struct peer_box **out)
{
    struct peer_box *box = *out = peer_box_find(handle);
    struct peer_segments *others =
        box && index > 0 && index < OUTBOX_SEGMENTS ? others_of(box->memory) : NULL;
    const char *why = "the daemon does not have it";
    int err = BERTH_E_BAD_HANDLE;
    if (others && load_acquire(&others->at[index]))
        err = 0;
    else if (others && (status || fd < 0))
        err = status;
    else if (others)
        err = segment_enter(others, handle, index, fd, &why);
    if (fd >= 0)
        (void)sys_close(fd);
    if (err && others) {
        log_warn("segment %u of outbox %llx is refused: %s", index, (unsigned long long)handle, why);
        store_release(&others->asked[index], 2);
    }
    return err;
}

/* Its owner says that every ring in it is drained. Should that be a lie, a thread of ours may be reading
 * there this moment: so zeroes take the segment's place in the address space, which cost nothing, and the
 * memory is given back all the same. */
void peer_segment_retired(outbox_handle handle, uint32_t index)
{
    plock_take(&C->lock);
    const struct peer_box *box = peer_box_find(handle);
    const struct peer_segments *others = box ? box->memory->others : NULL;
    if (others && index > 0 && index < OUTBOX_SEGMENTS && others->at[index])
        (void)mmap((void *)(uintptr_t)others->at[index], others->size[index], PROT_READ,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    plock_release(&C->lock);
}

/* The address of a ring word's memory, which must lie in the segment's pool whole. */
static const uint8_t *located(struct peer_box *box, uint64_t word, uint64_t size, int *err)
{
    uint32_t index = ring_segment(word);
    uint64_t offset = ring_offset(word);
    if (word & 0x3ff || index >= OUTBOX_SEGMENTS) {
        *err = BERTH_E_PROTOCOL;
        return NULL;
    }
    uint64_t whole;
    const uint8_t *base = segment_base(box, index, &whole, err);
    if (!base)
        return NULL;
    uint64_t pool = index == 0 ? OUTBOX_POOL : RINGS_POOL;
    if (offset < pool || offset > whole || size > whole - offset) {
        *err = BERTH_E_PROTOCOL;
        return NULL;
    }
    return base + offset;
}

const uint8_t *peer_ring_find(struct peer_box *box, uint64_t word, uint64_t *size, int *err)
{
    uint32_t log2 = ring_log2(word);
    if (log2 < RING_MIN_LOG2 || log2 > RING_MAX_LOG2) {
        *err = BERTH_E_PROTOCOL;
        return NULL;
    }
    *size = 1ull << log2;
    return located(box, word, *size, err);
}

static inline const uint8_t *chunk_at(struct peer_box *box, uint32_t chunk, int *err)
{
    *err = BERTH_E_PROTOCOL;
    if (chunk == 0)
        return box->memory->first + OUTBOX_CHUNK0;
    if (chunk >= CHUNKS_MAX)
        return NULL;
    uint64_t word = segment_chunk(box->memory->first, chunk);
    return word ? located(box, word, CHUNK_BYTES, err) : NULL;
}

const struct slot *peer_slot(struct peer_box *box, uint32_t index)
{
    int err;
    const uint8_t *chunk = chunk_at(box, index / CHUNK_SLOTS, &err);
    return chunk ? (const struct slot *)(const void *)chunk + index % CHUNK_SLOTS : NULL;
}

const struct slot *peer_slot_find(struct peer_box *box, uint32_t index, int *err)
{
    const uint8_t *chunk = chunk_at(box, index / CHUNK_SLOTS, err);
    return chunk ? (const struct slot *)(const void *)chunk + index % CHUNK_SLOTS : NULL;
}

const struct slot_info *peer_info(struct peer_box *box, uint32_t index)
{
    int err;
    const uint8_t *chunk = chunk_at(box, index / CHUNK_SLOTS, &err);
    return chunk ? (const struct slot_info *)(const void *)(chunk + CHUNK_SLOTS * CACHE_LINE) +
                       index % CHUNK_SLOTS
                 : NULL;
}

void peer_worker_dead(uint32_t worker)
{
    plock_take(&C->lock);
    plock_take(&C->boxes_lock);
    for (struct peer_worker *w = C->workers; w; w = w->next) {
        if (w->id == worker && !load_relaxed(&w->dead)) {
            store_release(&w->dead, true);
            fetch_add_sc(&C->dead_boxes, w->refs);
        }
    }
    plock_release(&C->boxes_lock);
    plock_release(&C->lock);
}

bool peer_takes(uint32_t app, uint32_t own_outbox)
{
    if (app != C->app)
        return peer_app_met(app);
    for (const struct peer_box *b = load_acquire(&C->boxes); b; b = b->next) {
        if (b->worker->app == app && !load_relaxed(&b->worker->dead) && load_acquire(&b->heard) && b->own &&
            b->own->index == own_outbox)
            return true;
    }
    return false;
}

bool peer_app_met(uint32_t app)
{
    for (const struct peer_box *b = load_acquire(&C->boxes); b; b = b->next) {
        if (b->worker->app == app && !load_relaxed(&b->worker->dead))
            return true;
    }
    return false;
}

void peer_heard(uint32_t worker, outbox_handle of_ours)
{
    plock_take(&C->lock);
    for (struct peer_box *b = load_acquire(&C->boxes); b; b = b->next) {
        if (b->worker->id == worker && b->own && b->own->handle == of_ours)
            store_release(&b->heard, true);
    }
    plock_release(&C->lock);
}

bool peer_box_dead(uint32_t worker, struct roll_walk *w)
{
    plock_take(&C->lock);
    struct peer_box *b = load_acquire(&C->boxes);
    while (b && (b->worker->id != worker || b->dead_told))
        b = b->next;
    if (b) {
        b->dead_told = true;
        walk_begin(w, &b->roll);
    }
    plock_release(&C->lock);
    return b;
}

bool peer_box_last_told(struct roll_walk *w)
{
    plock_take(&C->lock);
    struct peer_box *b = load_acquire(&C->boxes);
    while (b && b->last_told)
        b = b->next;
    if (b) {
        b->last_told = true;
        walk_begin(w, &b->roll);
    }
    plock_release(&C->lock);
    return b;
}
