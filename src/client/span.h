/* span.h - the end of a span, and who waits for it.
 *
 * While a span of a session's direction is open nobody else reads or writes there. Who waits for its end
 * marks the spanner, under the half's lock, and sleeps by futex on the word that both spanners are in:
 * whoever ends the span moves the word, and wakes if it was marked. A span that was opened anew bears no
 * mark, so nobody falls asleep on an old one. */
#ifndef BERTH_CLIENT_SPAN_H
#define BERTH_CLIENT_SPAN_H

#include <limits.h>

#include "base/sys.h"
#include "client/records.h"

#define SPAN_AWAITED 0x8000u
_Static_assert(MEMBERS_MAX < SPAN_AWAITED, "a mark beside the spanner");

/* member + 1, 0: nobody */
static inline uint32_t span_holder(uint16_t spanner)
{
    return spanner & ~SPAN_AWAITED;
}

static inline void span_over(struct session *s, uint16_t *spanner)
{
    uint16_t was = spanner_is(spanner);
    spanner_set(spanner, 0);
    if (was & SPAN_AWAITED)
        (void)sys_futex_wake(&s->spanners, (long)INT_MAX);
}

/* rx_lock is held. */
static inline void read_span_end(struct session *s)
{
    session_drop_flags(s, SF_READ_SPAN);
    span_over(s, &s->read_spanner);
}

/* tx_lock is held. */
static inline void write_span_end(struct session *s)
{
    s->write_span = 0;
    span_over(s, &s->write_spanner);
}

/* Those that a member has open. Both locks are held. */
static inline void spans_end(struct session *s, uint32_t member)
{
    if (span_holder(s->read_spanner) == member + 1)
        read_span_end(s);
    if (span_holder(s->write_spanner) == member + 1)
        write_span_end(s);
}

#endif
