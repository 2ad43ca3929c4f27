/* slots.c - reading what lies in outboxes: for `berth show`, and when a worker has died.
 *
 * Theory of operation
 *
 * Everything here was written by an app and may change while it is read. Chunks are therefore copied out with
 * pread(2): a copy cannot change under the checks, a hole reads as zeros without being given memory, and
 * nothing faults. Every index is checked against what the daemon itself knows (which segments there are, and
 * how long). What does not agree is taken as not there.
 *
 * A session is a pair of slots: each names the other by outbox, index and generation. The acceptor's names
 * the connector's from the first; the connector's names the acceptor's once it has seen the answer.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "daemon/registry.h"

static uint64_t chunk_word(const struct outbox *o, uint32_t chunk)
{
    uint64_t word = 0;
    if (pread(o->segments[0].fd, &word, sizeof word, (off_t)(OUTBOX_CHUNK_TABLE + chunk * 8u)) !=
        (ssize_t)sizeof word)
        return 0;
    return word;
}

/* Where a chunk lies; false when it names no place in a segment that we have. */
static bool chunk_place(const struct outbox *o, uint32_t chunk, int *fd, uint64_t *offset)
{
    if (chunk == 0) {
        *fd = o->segments[0].fd;
        *offset = OUTBOX_CHUNK0;
        return true;
    }
    uint64_t word = chunk_word(o, chunk);
    if (!word)
        return false;
    const struct segment *s = outbox_segment(o, ring_segment(word));
    if (!s || ring_offset(word) + CHUNK_BYTES > s->size)
        return false;
    *fd = s->fd;
    *offset = ring_offset(word);
    return true;
}

uint32_t slots_chunks(const struct outbox *o)
{
    struct segment_header h;
    if (pread(o->segments[0].fd, &h, sizeof h, 0) != (ssize_t)sizeof h)
        return 0;
    return h.chunks > CHUNKS_MAX ? CHUNKS_MAX : h.chunks < 1 ? 1 : h.chunks;
}

bool slots_load(const struct outbox *o, uint32_t chunk, struct chunk_view *view)
{
    int fd;
    uint64_t offset;
    if (chunk >= CHUNKS_MAX || !chunk_place(o, chunk, &fd, &offset))
        return false;
    return pread(fd, view->slot, sizeof view->slot, (off_t)offset) == (ssize_t)sizeof view->slot &&
           pread(fd, view->info, sizeof view->info, (off_t)(offset + sizeof view->slot)) ==
               (ssize_t)sizeof view->info;
}

/* One slot and its info. Where a session's other side lies is anybody's choice: to copy its whole chunk each
 * time would cost more than reading two lines. */
static bool read_one(const struct outbox *o, uint32_t index, struct peer_view *view)
{
    if (view->outbox != o || view->chunk != index / CHUNK_SLOTS) {
        view->outbox = NULL;
        if (!chunk_place(o, index / CHUNK_SLOTS, &view->fd, &view->offset))
            return false;
        view->outbox = o;
        view->chunk = index / CHUNK_SLOTS;
    }
    off_t at = (off_t)(view->offset + (uint64_t)(index % CHUNK_SLOTS) * CACHE_LINE);
    return pread(view->fd, &view->slot, sizeof view->slot, at) == (ssize_t)sizeof view->slot &&
           pread(view->fd, &view->info, sizeof view->info, at + (off_t)(CHUNK_SLOTS * CACHE_LINE)) ==
               (ssize_t)sizeof view->info;
}

bool slots_peer(struct daemon *d, const struct outbox *o, const struct slot_pair *mine, uint32_t index,
                struct peer_view *view)
{
    uint64_t peer = mine->slot.peer;
    uint32_t at = (uint32_t)peer, generation = (uint32_t)(peer >> 32);
    if (!peer || at >= SLOTS_MAX)
        return false;
    const struct outbox *other = view->outbox && view->outbox->handle == mine->info.peer_outbox
                                     ? view->outbox
                                     : outbox_known(d, mine->info.peer_outbox);
    if (!other || other->facing->id != o->owner->app_id || other->owner->app_id != o->facing->id)
        return false;
    if (!read_one(other, at, view))
        return false;
    const struct slot *slot = &view->slot;
    if (slot->generation != generation || slot->state == SLOT_FREE)
        return false;
    /* it must not name another one than me; but one that I had before I was here, it will leave (slot_place) */
    if ((int16_t)((uint16_t)(mine->slot.extra >> 32) - (uint16_t)(slot->extra >> 48)) > 0)
        return true;
    return !slot->peer || (slot->peer == ((uint64_t)mine->slot.generation << 32 | index) &&
                           view->info.peer_outbox == o->handle);
}

/* One slot of a dead worker. An offer may yet be accepted; of a session the other side may still have bytes
 * to fetch. */
static enum need slot_need(struct daemon *d, const struct outbox *o, const struct slot_pair *mine,
                           uint32_t index, struct peer_view *view)
{
    if (mine->slot.state == SLOT_FREE)
        return NEED_NOTHING;
    if (!mine->slot.peer)
        return mine->slot.state == SLOT_OFFERED || mine->slot.state == SLOT_CLOSED ? NEED_ANSWERS
                                                                                   : NEED_NOTHING;
    bool found = slots_peer(d, o, mine, index, view);
    return found && !view->outbox->dead && view->slot.state != SLOT_CLOSED ? NEED_SESSIONS : NEED_NOTHING;
}

enum need slots_need(struct daemon *d, const struct outbox *o)
{
    /* 64 KiB: too much for a stack that is shared with handlers, and not worth a pool */
    struct chunk_view *view = malloc(sizeof *view);
    struct peer_view peer = {0};
    if (!view)
        return NEED_SESSIONS;
    enum need most = NEED_NOTHING;
    uint32_t chunks = slots_chunks(o);
    for (uint32_t c = 0; most < NEED_SESSIONS && c < chunks; c++) {
        if (!slots_load(o, c, view))
            continue;
        for (uint32_t i = 0; most < NEED_SESSIONS && i < CHUNK_SLOTS; i++) {
            struct slot_pair mine = {view->slot[i], view->info[i]};
            enum need need = slot_need(d, o, &mine, c * CHUNK_SLOTS + i, &peer);
            most = need > most ? need : most;
        }
    }
    free(view);
    return most;
}

static bool names(const struct outbox *from, const struct outbox *o, struct chunk_view *view)
{
    uint32_t chunks = slots_chunks(from);
    for (uint32_t c = 0; c < chunks; c++) {
        if (!slots_load(from, c, view))
            continue;
        for (uint32_t i = 0; i < CHUNK_SLOTS; i++) {
            if (view->info[i].peer_outbox == o->handle && view->slot[i].state != SLOT_FREE &&
                view->slot[i].state != SLOT_CLOSED)
                return true;
        }
    }
    return false;
}

bool slots_named(const struct outbox *o)
{
    struct chunk_view *view = malloc(sizeof *view);
    bool found = !view;
    list_for_each(&o->owner->app->facing, it, after)
    {
        const struct outbox *from = container_of(it, struct outbox, link);
        if (!found && from->owner->app_id == o->facing->id)
            found = names(from, o, view);
    }
    free(view);
    return found;
}

bool slot_moved(const struct outbox *o, uint32_t index)
{
    struct peer_view view = {0};
    return o->segment_count && index < SLOTS_MAX && read_one(o, index, &view) &&
           view.slot.state == SLOT_MOVED;
}

static void wake_word(const void *word)
{
    (void)sys_futex_wake(word, INT32_MAX);
}

void slot_wake(const struct outbox *o, uint32_t index)
{
    int fd;
    uint64_t offset;
    if (index >= SLOTS_MAX || !chunk_place(o, index / CHUNK_SLOTS, &fd, &offset))
        return;
    uint64_t at = offset + (uint64_t)(index % CHUNK_SLOTS) * CACHE_LINE, page = at / PAGE_BYTES * PAGE_BYTES;
    uint8_t *map = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, (off_t)page);
    if (map == MAP_FAILED)
        return;
    const struct slot *slot = (const struct slot *)(void *)(map + (at - page));
    wake_word(&slot->tail);
    wake_word(&slot->head);
    munmap(map, PAGE_BYTES);
}

void slots_wake(const struct outbox *o)
{
    struct chunk_view *view = malloc(sizeof *view);
    uint32_t chunks = slots_chunks(o);
    for (uint32_t c = 0; view && c < chunks; c++) {
        int fd;
        uint64_t offset;
        if (!slots_load(o, c, view) || !chunk_place(o, c, &fd, &offset))
            continue;
        const struct slot *slots = mmap(NULL, sizeof view->slot, PROT_READ, MAP_SHARED, fd, (off_t)offset);
        if (slots == MAP_FAILED)
            continue;
        for (uint32_t i = 0; i < CHUNK_SLOTS; i++) {
            if (view->slot[i].state == SLOT_FREE)
                continue;
            wake_word(&slots[i].tail); /* little-endian: the low half is first */
            wake_word(&slots[i].head);
        }
        munmap((void *)(uintptr_t)slots, sizeof view->slot);
    }
    free(view);
}
