/* outbox.c - the memory that only we write and that the workers of one other app may read.
 *
 * Theory of operation
 *
 * An outbox is a list of segments. The first holds the tables by which a peer finds all else: of chunks of
 * slots, of channels. What is in them is cut off, handed out and taken back in rings.c and slots.c.
 *
 * A segment that was made after a fork can be written by its maker alone (the seal forbids everybody else a
 * writable mapping), so its rings are passed over by the other members.
 */
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/family.h"
#include "client/outbox.h"
#include "shm/segment.h"

struct own_box *outbox_of(uint32_t facing_app, uint32_t worker)
{
    for (struct own_box *b = C->outboxes; b; b = b->next) {
        if (outbox_worker(b->handle) == worker && outbox_current(b) &&
            outbox_rec_of(b)->facing_app == facing_app)
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
    segment_begin(h, index == 0 ? ABI_MAGIC_OUTBOX : ABI_MAGIC_RINGS);
}

/* Makes segment `index`, maps it and enters it into the records. The outbox's lock is held, or nobody knows
 * it yet. */
int outbox_segment_add(struct own_box *box, uint32_t index, uint64_t size, int *fd_out)
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
    outbox_rec_set_segments(r, index + 1);
    r->bytes += size;
    *fd_out = fd;
    return 0;
}

/* With those of its rings. Records are zero while they are free. One is several pages: they are given back, not
 * cleared. `used` goes last, and by a store of its own: from then on the record may be another process's. */
void outbox_record_free(uint32_t index)
{
    struct outbox_rec *r = &C->family->outbox[index];
    for (uint32_t rec = 0, n = family_rings(C->family); rec < n; rec++) {
        struct ring_rec *ring = &C->family->ring[rec];
        if (ring_rec_outbox(ring) == index && ring->word) {
            ring->word = 0;
            ring_rec_free(rec);
        }
    }
    uint8_t *rest = (uint8_t *)r + PAGE_BYTES;
    if (madvise(rest, sizeof *r - PAGE_BYTES, MADV_REMOVE) != 0)
        memset(rest, 0, sizeof *r - PAGE_BYTES);
    memset((uint8_t *)r + offsetof(struct outbox_rec, handle), 0,
           PAGE_BYTES - offsetof(struct outbox_rec, handle));
    family_set_outbox_used(C->family, index, false);
}

struct own_box *outbox_create(uint32_t facing_app, int *fd_out)
{
    struct family *f = C->family;
    uint32_t index = NONE;
    family_lock_acquire(&f->lock, C->member);
    for (uint32_t i = 0; i < OUTBOXES_MAX; i++) {
        if (!family_outbox_used(f, i) && !load_relaxed(&C->own_by_index[i])) {
            memset(&f->outbox[i], 0, offsetof(struct outbox_rec, seg)); /* the rest is zero: it was freed */
            f->outbox[i].owner_member = C->member;
            if (i >= f->outboxes)
                family_set_outboxes(f, i + 1);
            members_only(&f->outbox[i].mapped, C->member);
            /* last: who lets go of the dead one's looks without the lock */
            family_set_outbox_used(f, i, true);
            if (i >= f->outboxes)
                family_set_outboxes(f, i + 1);
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
    box->index = index;
    box->handle = outbox_handle_make(C->worker, count);
    outbox_rec_set_handle(r, box->handle);
    r->facing_app = facing_app;
    if (outbox_segment_add(box, 0, C->segment_size, fd_out) != 0)
        goto fail_segment;
    box->next = C->outboxes;
    store_release(&C->outboxes, box);
    store_release(&C->own_by_index[index], box);
    return box;

fail_segment:
    munmap(box, sizeof *box);
fail_map:
    outbox_record_free(index);
    return NULL;
}

/* Out of every table; the memory goes later (outbox_unmap), when no thread can still be looking at it.
 * C->lock is held. */
void outbox_bury(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    for (struct own_box **p = &C->outboxes; *p; p = &(*p)->next) {
        if (*p == box) {
            *p = box->next;
            break;
        }
    }
    if (outbox_worker(box->handle) == C->worker) {
        struct ctl_outbox msg = {
            .h = {.type = CTL_RETIRE, .len = sizeof msg}, .outbox = box->handle, .index = 0};
        (void)control_send(&msg, NULL, 0); /* a daemon that has ended has let go of it */
        if (r->segments > 1)
            fetch_add_sc(&C->extra_segments, 1u - r->segments);
    }
    box->buried = clock_now();
    box->next = C->own_graves;
    store_relaxed(&C->own_graves, box);
}

void outbox_unmap(struct own_box *box)
{
    struct outbox_rec *r = outbox_rec_of(box);
    bool current = outbox_current(box);
    store_release(&C->own_by_index[box->index], NULL);
    if (current)
        (void)members_drop(&r->mapped, C->member);
    if (current && outbox_worker(box->handle) == C->worker)
        outbox_record_free(box->index);
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
        .h = {.type = CTL_GET_SEGMENT, .len = sizeof msg}, .outbox = box->handle, .index = index};
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

/* Ours that faces the connector's app: it is made, and the daemon told, at the first offer from there. */
struct own_box *answering_outbox(struct peer_box *box, int *err)
{
    int fd = -1;
    plock_take(&C->lock);
    *err = 0;
    struct own_box *own = box->own ? box->own : outbox_find(box->worker->app);
    if (!own) {
        if ((own = outbox_create(box->worker->app, &fd))) {
            struct ctl_outbox msg = {.h = {.type = CTL_OUTBOX, .len = sizeof msg},
                                     .outbox = own->handle,
                                     .facing_app = box->worker->app};
            *err = control_send(&msg, &fd, 1);
            (void)sys_close(fd);
        } else {
            *err = BERTH_E_NO_MEMORY;
        }
    }
    if (*err && own) {
        outbox_bury(own); /* nobody knows it */
        own = NULL;
    }
    if (own && box->own != own)
        store_release(&box->own, own);
    plock_release(&C->lock);
    return own;
}

/* ---- rings --------------------------------------------------------------------------------------------- */

uint8_t *outbox_ring_at(struct own_box *box, uint64_t word, bool *writable)
{
    uint32_t seg = ring_segment(word);
    if (seg >= OUTBOX_SEGMENTS || !box->seg[seg])
        return NULL;
    if (writable)
        *writable = box->writable[seg];
    return box->seg[seg] + ring_offset(word);
}

/* ---- slots --------------------------------------------------------------------------------------------- */

uint8_t *outbox_chunk_added(struct own_box *box, uint32_t chunk)
{
    return outbox_ring_at(box, segment_chunk(box->seg[0], chunk), NULL);
}

struct slot_info *outbox_info(struct own_box *box, uint32_t index)
{
    uint8_t *chunk = outbox_chunk(box, index / CHUNK_SLOTS);
    return (struct slot_info *)(void *)(chunk + CHUNK_SLOTS * CACHE_LINE) + index % CHUNK_SLOTS;
}

struct channel *outbox_channel(struct own_box *box, uint32_t channel)
{
    return (struct channel *)(void *)(box->seg[0] + OUTBOX_CHANNELS) + channel;
}
