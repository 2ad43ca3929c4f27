/* setrec.h - records of what was done to event sets that several have, in the family's memory (see
 * records.h, joint.c). */
#ifndef BERTH_CLIENT_SETREC_H
#define BERTH_CLIENT_SETREC_H

#include "base/atomic.h"
#include "client/client.h"

/* What one process has done to its copy of an event set that others have, too: joint.c. */
struct set_change_rec {
    struct set_change change; /* handle and inner are the writer's: `name` says it for all */
    uint64_t name;
    uint64_t number; /* 0: free */
    uint32_t member;
};
#define SET_CHANGES 512u

/* Each by itself, from where somebody may be writing: whoever copies finds out whether it is of one piece. */
static inline void words_copy(uint64_t *to, const uint64_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = load_relaxed(&from[i]);
}

/* Written under sets_lock, when the record is free; the number last. Release and acquire: who reads it finds
 * the rest. */
static inline void set_change_is(struct set_change_rec *rec, uint64_t number)
{
    store_release(&rec->number, number);
}

static inline void set_change_free(struct set_change_rec *rec)
{
    store_sc(&rec->number, 0ull);
    fence_sc(); /* before it is written again */
}

static inline uint64_t set_change_number(const struct set_change_rec *rec)
{
    return load_acquire(&rec->number);
}

/* Without a lock. False: it has become another one meanwhile. */
static inline bool set_change_copy(const struct set_change_rec *rec, uint64_t number,
                                   struct set_change_rec *copy)
{
    words_copy((uint64_t *)(void *)copy, (const uint64_t *)(const void *)rec, sizeof *rec / 8);
    fence_sc();
    return load_relaxed(&rec->number) == number;
}

#endif
