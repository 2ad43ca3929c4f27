/* segment.h - memfds: how to make one that only its owner writes, and what to check of one that a stranger sent. */
#ifndef BERTH_SHM_SEGMENT_H
#define BERTH_SHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Makes a memfd of `size` bytes (a multiple of the page size), maps it writable and shared, then seals it with SHRINK, GROW
 * and FUTURE_WRITE, so that nobody, the owner included, can map it writable again. The descriptor is CLOEXEC.
 * 0, or BERTH_E_NO_MEMORY with errno set. Caller owns both: munmap and close. */
int segment_create(const char *name, uint64_t size, int *fd_out, void **map_out);

/* Checks a descriptor from another process: tmpfs, the three seals, size a page multiple within [min, max]; with
 * `populated`, that every block is there (a hole would be charged to the reader). Maps it read-only.
 * 0, BERTH_E_PROTOCOL (with a reason for the log in *why, a constant string) or BERTH_E_NO_MEMORY.
 * The descriptor stays the caller's. */
int segment_open(int fd, uint64_t min, uint64_t max, bool populated, const void **map_out, uint64_t *size_out,
                 const char **why);

void segment_unmap(const void *map, uint64_t size);

#endif
