/* members.h - a set of members of a family, one bit each, in memory that they share.
 *
 * Each word is atomic by itself, the set is not. That is enough: a member's bit is set while it cannot end
 * (before the fork), and of two that take bits out and then look at the rest in the one order of all `sc`
 * operations, the later one sees the other's gone.
 */
#ifndef BERTH_CLIENT_MEMBERS_H
#define BERTH_CLIENT_MEMBERS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/atomic.h"

#define MEMBER_BITS 11
#define MEMBERS_MAX (1u << MEMBER_BITS)
#define MEMBER_WORDS (MEMBERS_MAX / 64)

struct member_word {
    uint64_t bits;
};

struct member_set {
    struct member_word word[MEMBER_WORDS];
};

static inline uint64_t member_bit(uint32_t member)
{
    return 1ull << member % 64;
}

/* ---- the word that a member's bit is in ---------------------------------------------------------------- */

static inline bool member_in(const struct member_word *w, uint32_t member)
{
    return load_relaxed(&w->bits) & member_bit(member);
}

static inline void member_into(struct member_word *w, uint32_t member)
{
    (void)fetch_or_sc(&w->bits, member_bit(member));
}

/* True: it was in it, and who else takes it out gets false. */
static inline bool member_out(struct member_word *w, uint32_t member)
{
    return fetch_and_sc(&w->bits, ~member_bit(member)) & member_bit(member);
}

static inline void member_alone(struct member_word *w, uint32_t member)
{
    store_release(&w->bits, member_bit(member));
}

static inline void word_empty(struct member_word *w)
{
    if (load_relaxed(&w->bits))
        store_release(&w->bits, 0);
}

static inline uint64_t word_bits(const struct member_word *w)
{
    return load_sc(&w->bits);
}

/* ---- a whole set --------------------------------------------------------------------------------------- */

static inline bool members_has(const struct member_set *set, uint32_t member)
{
    return member_in(&set->word[member / 64], member);
}

static inline void members_add(struct member_set *set, uint32_t member)
{
    member_into(&set->word[member / 64], member);
}

/* As member_out. */
static inline bool members_drop(struct member_set *set, uint32_t member)
{
    return member_out(&set->word[member / 64], member);
}

/* Its bit first: at no moment is it nobody's. */
static inline void members_only(struct member_set *set, uint32_t member)
{
    member_alone(&set->word[member / 64], member);
    for (uint32_t i = 0; i < MEMBER_WORDS; i++) {
        if (i != member / 64)
            word_empty(&set->word[i]);
    }
}

static inline void members_none(struct member_set *set)
{
    for (uint32_t i = 0; i < MEMBER_WORDS; i++)
        word_empty(&set->word[i]);
}

static inline struct member_set members_copy(const struct member_set *set)
{
    struct member_set copy;
    for (uint32_t i = 0; i < MEMBER_WORDS; i++)
        copy.word[i].bits = word_bits(&set->word[i]);
    return copy;
}

static inline bool members_any(const struct member_set *set, const struct member_set *alive)
{
    uint64_t both = 0;
    for (uint32_t i = 0; i < MEMBER_WORDS; i++)
        both |= word_bits(&set->word[i]) & alive->word[i].bits;
    return both != 0;
}

static inline bool members_same(const struct member_set *a, const struct member_set *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* Of those alive, is any but `member` in it? */
static inline bool members_other(const struct member_set *set, uint32_t member,
                                 const struct member_set *alive)
{
    struct member_set others = *alive;
    others.word[member / 64].bits &= ~member_bit(member);
    return members_any(set, &others);
}

#endif
