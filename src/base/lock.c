/* lock.c - the slow path of lock.h. */
#include "base/lock.h"

#include <stddef.h>
#include <time.h>

#include "base/clock.h"
#include "base/sys.h"

#define SPINS 100 /* about 3 microseconds: what is done under these locks takes less */
#define PATIENCE (10 * NS_PER_MS)

static bool spin(struct family_lock *l, uint32_t member)
{
    for (int i = 0; i < SPINS; i++) {
        uint32_t w = load_relaxed(&l->word);
        if (w & LOCK_CONTENDED) /* others sleep already: spinning past them helps nobody */
            return false;
        if (w == 0 && family_lock_swap(l, member))
            return true;
        cpu_relax();
    }
    return false;
}

int family_lock_wait(struct family_lock *l, uint32_t member, const struct family_members *m)
{
    if (spin(l, member))
        return 0;
    /* From here on I may be one of several sleepers and cannot know: I take the lock with the bit set, so
     * that my release wakes the next one. At worst that is one wake for nobody. */
    const uint32_t mine = (member + 1) | LOCK_CONTENDED;
    uint32_t watched = 0; /* the holder that I am timing */
    int64_t since = 0;
    for (;;) {
        uint32_t w = load_relaxed(&l->word);
        if (w == 0) {
            if (compare_exchange_sc(&l->word, &w, mine))
                return 0;
            continue;
        }
        if (!(w & LOCK_CONTENDED)) {
            if (!compare_exchange_sc(&l->word, &w, w | LOCK_CONTENDED))
                continue;
            w |= LOCK_CONTENDED;
        }
        int64_t now = clock_now();
        if (w != watched) {
            watched = w;
            since = now;
        } else if (now - since >= PATIENCE) {
            uint32_t holder = (w & ~LOCK_CONTENDED) - 1;
            if (holder != member && m->dead(m->arg, holder) && compare_exchange_sc(&l->word, &w, mine))
                return LOCK_TAKEN_OVER;
            since = clock_now();
            continue;
        }
        int64_t left = since + PATIENCE - now;
        struct timespec ts = {.tv_nsec = left > 0 ? left : 1};
        (void)sys_futex_wait(&l->word, w, &ts); /* any outcome: look again */
    }
}

void family_lock_wake(struct family_lock *l)
{
    (void)sys_futex_wake(&l->word, 1);
}
