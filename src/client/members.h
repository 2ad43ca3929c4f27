/* members.h - a set of members of a family, one bit each, in memory that they share.
 *
 * Each word is atomic by itself, the set is not. That is enough: a member's bit is set while it cannot end (before the fork), and
 * of two that take bits out and then look at the rest in the one order of all `sc` operations, the later one sees the other's gone.
 */
#ifndef BERTH_CLIENT_MEMBERS_H
#define BERTH_CLIENT_MEMBERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"

#define MEMBER_BITS 8
#define MEMBERS_MAX (1u << MEMBER_BITS)
#define MEMBER_WORDS (MEMBERS_MAX / 64)

struct member_set {
    uint64_t word[MEMBER_WORDS];
};

static inline uint64_t member_bit(uint32_t member)
{
    return 1ull << member % 64;
}

static inline bool members_has(const struct member_set *set, uint32_t member)
{
    return load_relaxed(&set->word[member / 64]) & member_bit(member);
}

static inline void members_add(struct member_set *set, uint32_t member)
{
    (void)fetch_or_sc(&set->word[member / 64], member_bit(member));
}

/* True: it was in it, and who else takes it out gets false. */
static inline bool members_drop(struct member_set *set, uint32_t member)
{
    return fetch_and_sc(&set->word[member / 64], ~member_bit(member)) & member_bit(member);
}

/* Its bit first: at no moment is it nobody's. */
static inline void members_only(struct member_set *set, uint32_t member)
{
    store_release(&set->word[member / 64], member_bit(member));
    for (uint32_t i = 0; i < MEMBER_WORDS; i++) {
        if (i != member / 64 && load_relaxed(&set->word[i]))
            store_release(&set->word[i], 0);
    }
}

static inline struct member_set members_copy(const struct member_set *set)
{
    struct member_set copy;
    for (uint32_t i = 0; i < MEMBER_WORDS; i++)
        copy.word[i] = load_sc(&set->word[i]);
    return copy;
}

static inline bool members_any(const struct member_set *set, const struct member_set *alive)
{
    uint64_t both = 0;
    for (uint32_t i = 0; i < MEMBER_WORDS; i++)
        both |= load_sc(&set->word[i]) & alive->word[i];
    return both != 0;
}

/* Of those alive, is any but `member` in it? */
static inline bool members_other(const struct member_set *set, uint32_t member, const struct member_set *alive)
{
    struct member_set others = *alive;
    others.word[member / 64] &= ~member_bit(member);
    return members_any(set, &others);
}

#endif
