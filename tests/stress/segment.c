/* segment.c - a peer whose words name a segment that never comes.
 *
 * Who blocks in a read waits for it, bounded, and is told so by an error of its own; who does not block is
 * not kept; and other sessions, of the same two processes even, go on.
 */
#include <stdio.h>
#include <string.h>

#include "client/channel.h"
#include "client/session.h"
#include "client/state.h"
#include "party.h"
#include "shm/slot.h"

#define NOWHERE 900u /* an index that no segment of the peer ever has */

static void promise(berth_session h)
{
    struct session *s = session_get(h);
    struct session_cache *c = session_cache_of(s);
    uint64_t old = s->tail;
    store_release(&c->own->ring, ring_word(NOWHERE, 0, 12));
    s->tail += 100;
    slot_set_tail(c->own, count_word(s->tail, 0));
    notify_data(s, c, old, s->tail);
}

static void liar(berth_listener l)
{
    berth_session lying = take(l), honest = take(l);
    char byte;
    for (int i = 0;; i++) {
        if (i == 1) {
            get_all(lying, &byte, 1);
            promise(lying);
        }
        get_all(honest, &byte, 1);
        put_all(honest, &byte, 1);
    }
}

static void still_answers(berth_session honest)
{
    char byte = 'h';
    int64_t begin = now();
    put_all(honest, &byte, 1);
    get_all(honest, &byte, 1);
    if (now() - begin > longer(SEC))
        fail(0, "the other session took %lld ms", (long long)((now() - begin) / MS));
}

int main(void)
{
    char buf[200];
    role = "segment";
    far_side(liar);
    attach("near");
    berth_session lying = dial(), honest = dial();
    still_answers(honest); /* both are accepted, then */
    put_all(lying, "x", 1);
    int64_t begin = now(), cpu = time_of(CLOCK_PROCESS_CPUTIME_ID);
    ssize_t n = berth_read(lying, buf, sizeof buf, 3 * SEC);
    int64_t took = now() - begin;
    if (n != BERTH_E_TIMED_OUT)
        fail(n, "a blocking read gave %zd", n);
    if (took < 3 * SEC || took > 3 * SEC + longer(3 * SEC))
        fail(0, "it was told after %lld ms", (long long)(took / MS));
    if (time_of(CLOCK_PROCESS_CPUTIME_ID) - cpu > SEC)
        fail(0, "it used %lld ms of a CPU to wait",
             (long long)((time_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / MS));
    begin = now();
    n = berth_read(lying, buf, sizeof buf, 0);
    if (n != BERTH_E_WOULD_BLOCK)
        fail(n, "a read that does not block gave %zd", n);
    if (now() - begin > longer(SEC))
        fail(0, "it blocked for %lld ms", (long long)((now() - begin) / MS));
    still_answers(honest);
    expect(berth_close(lying), "close");
    still_answers(honest);
    printf("segment: passed\n");
    return 0;
}
