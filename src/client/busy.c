/* busy.c - waiting until somebody else's span of a session is closed.
 *
 * On the kernel, who comes second waits for the socket's lock. This is the same wait, but that signals and
 * deadlines end it. The end of the span wakes (span.h). A holder may die in it, or have let go of the session
 * since: so whoever waits looks now and then whether it lives, and ends what nobody will end.
 */
#include <errno.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "client/client.h"
#include "client/family.h"
#include "client/session.h"
#include "client/sleeper.h"
#include "client/span.h"

/* Between two looks at the holder. */
#define LOOK_NS (4 * NS_PER_MS)
#define LOOK_MOST_NS (64 * NS_PER_MS)

struct other {
    struct session *s;
    session_handle h;
    bool in;
    uint32_t holder; /* member + 1 */
};

static uint16_t *spanner_of(const struct other *o)
{
    return o->in ? &o->s->read_spanner : &o->s->write_spanner;
}

/* Is one open? It is marked then, `*is` the word to sleep by. `dead`: the holder of before will not end it.
 */
static bool still_open(struct other *o, bool dead, uint32_t *is)
{
    struct family_lock *lock = o->in ? &o->s->rx_lock : &o->s->tx_lock;
    uint16_t *spanner = spanner_of(o);
    half_lock(lock);
    bool same = session_generation(o->s) == (uint32_t)(o->h >> 32);
    uint32_t holder = same ? span_holder(spanner_is(spanner)) : 0;
    if (holder && dead && holder == o->holder) {
        if (o->in)
            read_span_end(o->s);
        else
            write_span_end(o->s);
        holder = 0;
    }
    if (holder) {
        spanner_set(spanner, holder | SPAN_AWAITED);
        *is = session_spanners(o->s);
    }
    half_unlock(lock);
    o->holder = holder;
    return holder != 0;
}

int client_wait_span(session_handle h, uint32_t events, int64_t deadline, const struct sleep_mark *mark)
{
    struct sleeper sl = {.mark = *mark, .deadline = deadline};
    struct other o = {.s = session_get(h), .h = h, .in = events & EPOLLIN};
    bool dead = false;
    for (int64_t look = LOOK_NS;; look = look < LOOK_MOST_NS ? look * 2 : look) {
        uint32_t is = 0;
        if (!o.s || session_get(h) != o.s)
            return BERTH_E_BAD_HANDLE;
        if (!still_open(&o, dead, &is))
            return 0;
        if (sleep_signalled(&sl.mark))
            return BERTH_E_INTERRUPTED;
        if (sleeper_over(&sl))
            return BERTH_E_TIMED_OUT;
        if (sleeper_doze(&sl, &o.s->spanners, is, look) == -EINTR)
            return BERTH_E_INTERRUPTED;
        sleeper_glance();
        dead = o.holder != C->member + 1 && !member_lives(o.holder - 1);
    }
}
