/* page.h - the words of a worker page: where a worker's waiters say whether they sleep. The one home of their
 * memory order.
 *
 * A sleeper arms its word, then looks once more for what may have come, then sleeps. Who tells it something
 * stores that first, then looks at the word: odd, and not the value that was kicked already, means kick. All
 * in the one order of `sc` operations. */
#ifndef BERTH_SHM_PAGE_H
#define BERTH_SHM_PAGE_H

#include "base/atomic.h"
#include "shm/abi.h"

/* One's own. To a new odd value, so that who has kicked the last one kicks again. */
static inline void waiter_arm(struct waiter_line *own)
{
    store_sc(&own->arm, (load_relaxed(&own->arm) + 1) | 1);
}

static inline void waiter_arm_as(struct waiter_line *own, uint32_t odd)
{
    store_sc(&own->arm, odd);
}

static inline void waiter_disarm(struct waiter_line *own)
{
    uint32_t arm = load_relaxed(&own->arm);
    if (arm & 1)
        store_sc(&own->arm, arm + 1);
}

/* Anybody's. */
static inline uint32_t waiter_armed(const struct waiter_line *line)
{
    return load_sc(&line->arm);
}

static inline uint32_t waiter_cpu(const struct waiter_line *line)
{
    return load_relaxed(&line->cpu);
}

static inline void waiter_set_cpu(struct waiter_line *own, uint32_t cpu)
{
    if (load_relaxed(&own->cpu) != cpu)
        store_relaxed(&own->cpu, cpu);
}

/* The worker has forked: acquire pairs with page_set_forked, which comes before the fork. */
static inline bool page_forked(const struct worker_page *page)
{
    return load_acquire(&page->forked);
}

static inline void page_set_forked(struct worker_page *own)
{
    store_release(&own->forked, (uint16_t)1);
}

/* Last of what makes it: who finds the magic finds the version. */
static inline void page_begin(struct worker_page *own)
{
    own->version = ABI_VERSION;
    store_release(&own->magic, ABI_MAGIC_PAGE);
}

#endif
