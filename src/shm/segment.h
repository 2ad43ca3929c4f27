/* segment.h - memfds: how to make one that only its owner writes, and what to check of one that a stranger
 * sent. */
#ifndef BERTH_SHM_SEGMENT_H
#define BERTH_SHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/result.h"
#include "shm/abi.h"

/* May this process make files that large (RLIMIT_FSIZE, `ulimit -f`)? Where not, the kernel does not only say
 * EFBIG, it ends the program by SIGXFSZ. */
bool segment_allowed(uint64_t size);
/* Has this process a limit of address space (ulimit -v)? */
bool segment_space_limited(void);

/* Makes a memfd of `size` bytes (a multiple of the page size), maps it writable and shared, then seals it
 * with SHRINK, GROW and FUTURE_WRITE, so that nobody, the owner included, can map it writable again. The
 * descriptor is CLOEXEC. 0, or BERTH_E_NO_MEMORY with errno set. Caller owns both: munmap and close. */
must_use int segment_create(const char *name, uint64_t size, int *fd_out, void **map_out);

/* A filter forbids memfd_create (seccomp says EPERM, ENOSYS or the like), or the limit above a segment: the daemon, which
 * is under neither, makes one and lends it (CTL_MEMORY). The next segment_create of that size takes it. */
bool segment_forbidden(void);
void segment_lend(int fd);

/* Checks a descriptor from another process: tmpfs, the three seals, size a page multiple within [min, max];
 * with `populated`, that every block is there (a hole would be charged to the reader). Maps it read-only. 0,
 * BERTH_E_PROTOCOL (with a reason for the log in *why, a constant string) or BERTH_E_NO_MEMORY. The
 * descriptor stays the caller's. */
must_use int segment_open(int fd, uint64_t min, uint64_t max, bool populated, const void **map_out,
                          uint64_t *size_out, const char **why);

/* The same without a map; `why` is not NULL. */
must_use int segment_verify(int fd, uint64_t min, uint64_t max, bool populated, uint64_t *size_out,
                            const char **why);

void segment_unmap(const void *map, uint64_t size);

/* ---- the words of a segment of an outbox --------------------------------------------------------------- */

/* Acquire pairs with segment_begin: with the magic the whole header is there. */
static inline uint32_t segment_magic(const struct segment_header *peer)
{
    return load_acquire(&peer->magic);
}

static inline void segment_begin(struct segment_header *own, uint32_t magic)
{
    store_release(&own->magic, magic);
}

/* Acquire pairs with segment_add_chunk: the words of so many chunks are there. A peer's may be any number. */
static inline uint32_t segment_chunks(const struct segment_header *peer)
{
    return load_acquire(&peer->chunks);
}

/* Where a chunk lies, of the outbox whose segment 0 this is. Acquire pairs with segment_add_chunk: its slots
 * are zero. */
static inline uint64_t segment_chunk(const void *segment, uint32_t chunk)
{
    const uint64_t *table = (const uint64_t *)(const void *)((const uint8_t *)segment + OUTBOX_CHUNK_TABLE);
    return load_acquire(&table[chunk]);
}

/* The word, then their number. */
static inline void segment_add_chunk(void *segment, uint32_t chunk, uint64_t word)
{
    uint64_t *table = (uint64_t *)(void *)((uint8_t *)segment + OUTBOX_CHUNK_TABLE);
    store_release(&table[chunk], word);
    store_release(&((struct segment_header *)segment)->chunks, chunk + 1);
}

#endif
