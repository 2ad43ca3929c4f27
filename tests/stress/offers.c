/* offers.c - a connection that is offered twice, because a worker died that may have had it, is served once.
 *
 * This process connects, and is told of a death by hand. The far side accepts and reads when it is told to,
 * so that either can be caught while the other has done nothing since.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/offers.h"
#include "client/session.h"
#include "party.h"

static int orders[2], answers[2];

/* ---- the far side ---- */

static void obey(berth_listener l)
{
    berth_session s = 0;
    char what, byte = 'e';
    while (read(orders[0], &what, 1) == 1) {
        long result = 0;
        if (what == 'a')
            result = berth_accept(l, PATIENCE, &s);
        else if (what == 'n')
            result = berth_accept(l, 100 * MS, &s);
        else if (what == 'r')
            result = berth_read(s, &byte, 1, 0);
        else if (what == 'w')
            result = berth_read(s, &byte, 1, PATIENCE);
        else if (what == 'e')
            result = berth_write(s, &byte, 1, PATIENCE);
        if (write(answers[1], &result, sizeof result) != (ssize_t)sizeof result)
            break;
    }
}

static void order(char what, long wanted, const char *sentence)
{
    long result;
    if (write(orders[1], &what, 1) != 1 || read(answers[0], &result, sizeof result) != (ssize_t)sizeof result)
        fail(0, "the far side has ended");
    if (result != wanted)
        fail(result, "%s: %ld, not %ld", sentence, result, wanted);
}

/* ---- this side ---- */

static struct session *call(berth_session *s)
{
    *s = dial();
    put_all(*s, "x", 1);
    return session_get(*s);
}

static void somebody_died(const struct session *record)
{
    sessions_reoffer(record->app);
}

/* Long enough for all that follows from it. */
static void go_on(berth_session s)
{
    char byte;
    int64_t end = now() + 500 * MS;
    while (now() < end) {
        long n = berth_read(s, &byte, 1, 10 * MS);
        if (n != BERTH_E_TIMED_OUT)
            fail(n, "nothing was to be read");
    }
}

static void offered(const struct session *record, uint32_t times)
{
    if (record->offer_seq != times)
        fail(0, "it was offered %u times, not %u", record->offer_seq, times);
}

static void answered(berth_session s)
{
    char byte;
    order('w', 1, "the far side reads");
    order('e', 1, "the far side writes");
    get_all(s, &byte, 1);
    order('n', BERTH_E_TIMED_OUT, "nobody else is there to be accepted");
    expect(berth_close(s), "close");
}

static void taken_before(void)
{
    berth_session s;
    struct session *record = call(&s);
    order('a', 0, "the far side accepts");
    somebody_died(record);
    go_on(s);
    offered(record, 1); /* who has it was heard in time */
    answered(s);
}

static void taken_by_the_second(void)
{
    berth_session s, young;
    struct session *record = call(&s);
    somebody_died(record);
    const struct session *other = call(&young);
    go_on(s);
    offered(record, 2);
    offered(other, 1); /* no dead worker can have that one */
    order('a', 0, "the far side accepts the younger one");
    order('w', 1, "and reads from it");
    order('a', 0, "the far side accepts");
    order('r', BERTH_E_WOULD_BLOCK, "it reads before it is known");
    pause_ms(200);
    order('r', BERTH_E_WOULD_BLOCK, "it reads before it is known");
    go_on(s);
    answered(s);
    expect(berth_close(young), "close");
}

static void taken_by_another(void)
{
    berth_session s;
    struct session *record = call(&s);
    somebody_died(record);
    go_on(s);
    offered(record, 2);
    order('a', 0, "the far side accepts");
    store_release(&session_cache_of(record)->own->peer, 5ull << 32 | 5); /* as if another had been faster */
    order('w', BERTH_E_RESET, "it reads what is another's");
}

int main(void)
{
    role = "offers";
    if (pipe(orders) != 0 || pipe(answers) != 0)
        fail(0, "pipe");
    far_side(obey);
    attach("near");
    taken_before();
    taken_by_the_second();
    taken_by_another();
    printf("offers: passed\n");
    return 0;
}
