/* memory.h - memory of this process for what the library keeps, to be had in signal handlers too.
 *
 * POSIX lets a handler call connect, accept, poll and their like, and it may have interrupted malloc: what these calls keep must come
 * from elsewhere. Any thread may call both; a handler that comes while this thread is in one of them is put off (base/hold.h).
 */
#ifndef BERTH_BASE_MEMORY_H
#define BERTH_BASE_MEMORY_H

#include <stddef.h>

#include "base/plock.h"
#include "base/result.h"

/* Zeroed, aligned to 64 bytes (from half a page on: to a page's part). NULL: there is none, or size is 0 or absurd. */
must_use void *memory_get(size_t size);
void memory_put(void *p, size_t size); /* the size it was got with; NULL: nothing */

extern struct plock memory_lock; /* for who forks */

#endif
