/* holders.h - which members of the family hold a session: a set as in members.h, in two places.
 *
 * The bits of the first 256 members are in the session's record, the others' in a table beside the records. Of that
 * only what was ever written exists, and nobody looks at it before the family had so many: a small family pays nothing
 * for how large one may be.
 */
#ifndef BERTH_CLIENT_HOLDERS_H
#define BERTH_CLIENT_HOLDERS_H

#include "client/state.h"

static inline struct member_word *holders_word(const struct session *s, uint32_t i)
{
    struct family *f = C->family;
    uint32_t index = session_index(s);
    return i < NEAR_HOLDER_WORDS ? &f->session[index].holders[i]
                                 : &f->far_holders[index].word[i - NEAR_HOLDER_WORDS];
}

/* Above them nothing was ever set. */
static inline uint32_t holders_words(void)
{
    uint32_t words = (family_members(C->family) + 63) / 64;
    return words < MEMBER_WORDS ? words : MEMBER_WORDS;
}

static inline bool holders_has(const struct session *s, uint32_t member)
{
    return member_in(holders_word(s, member / 64), member);
}

static inline void holders_add(struct session *s, uint32_t member)
{
    member_into(holders_word(s, member / 64), member);
}

/* As member_out. */
static inline bool holders_drop(struct session *s, uint32_t member)
{
    return member_out(holders_word(s, member / 64), member);
}

/* Its bit first: at no moment is it nobody's. */
static inline void holders_only(struct session *s, uint32_t member)
{
    member_alone(holders_word(s, member / 64), member);
    for (uint32_t i = 0, n = holders_words(); i < n; i++) {
        if (i != member / 64)
            word_empty(holders_word(s, i));
    }
}

/* Of a record that is new, and in which the near ones are cleared. */
static inline void holders_first(struct session *s, uint32_t member)
{
    for (uint32_t i = NEAR_HOLDER_WORDS, n = holders_words(); i < n; i++)
        word_empty(holders_word(s, i));
    member_alone(holders_word(s, member / 64), member);
}

static inline struct member_set holders_copy(const struct session *s)
{
    struct member_set copy = {{{0}}};
    for (uint32_t i = 0, n = holders_words(); i < n; i++)
        copy.word[i].bits = word_bits(holders_word(s, i));
    return copy;
}

static inline bool holders_any(const struct session *s, const struct member_set *alive)
{
    uint64_t both = 0;
    for (uint32_t i = 0, n = holders_words(); i < n; i++)
        both |= word_bits(holders_word(s, i)) & alive->word[i].bits;
    return both != 0;
}

#endif
