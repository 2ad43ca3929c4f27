/* memory.h - memory of this process for what the library keeps, to be had in signal handlers too.
 *
 * POSIX lets a handler call connect, accept, poll and their like, and it may have interrupted malloc: what
 * these calls keep must come from elsewhere. Any thread may call both; a handler that comes while this thread
 * is in one of them is put off (base/hold.h).
 */
#ifndef BERTH_BASE_MEMORY_H
#define BERTH_BASE_MEMORY_H

#include <stddef.h>

#include "base/plock.h"
#include "base/result.h"

/* Zeroed, aligned to 64 bytes (from half a page on: to a page's part). NULL: there is none, or size is 0 or
 * absurd. */
must_use void *memory_get(size_t size);
must_use void *memory_get_raw(size_t size); /* the same, with whatever is in it */
void memory_put(void *p, size_t size);      /* the size it was got with; NULL: nothing */

/* A large table that is mostly untouched: beside the others of its kind, so that the small words of all files
 * share their few pages. Each page that is written is one to copy at a fork. */
#define APART __attribute__((section(".bss.apart")))

/* Code that a forked child runs before it does anything, as a rule all that it runs of ours: together, since
 * each part of the file that it comes to is a fault. */
#define FORK_CODE __attribute__((section(".text.fork")))

extern struct plock memory_lock; /* for who forks */

#endif
