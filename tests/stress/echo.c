/* echo.c - see echo.h.
 *
 * Level: a few rounds for each session, then the next one's turn, so that nobody starves. Edge: an edge must
 * be used up.
 */
#include "echo.h"

#include <stdlib.h>

struct echo {
    berth_session s;
    size_t have, done;
    int watching;
    uint8_t buf[65536];
};

volatile sig_atomic_t stopping;

/* 0 when the session is over by its client's choice; else the process fails. */
static int over(ssize_t code, const struct echo_rules *rules, const char *what)
{
    if (code != BERTH_E_RESET && code != BERTH_E_CLOSED && !rules->hostile)
        expect(code, what);
    return 0;
}

/* What it waits for now; 0: over. */
static int echo_step(struct echo *e, const struct echo_rules *rules)
{
    for (int round = 0; rules->edge || round < 8; round++) {
        if (e->done < e->have) {
            ssize_t n = berth_write(e->s, e->buf + e->done, e->have - e->done, 0);
            if (n == BERTH_E_WOULD_BLOCK || (n == BERTH_E_NO_MEMORY && rules->hostile))
                return BERTH_OUT;
            if (n < 0)
                return over(n, rules, "the echo's write");
            e->done += (size_t)n;
            continue;
        }
        ssize_t n = berth_read(e->s, e->buf, sizeof e->buf, 0);
        if (n == BERTH_E_WOULD_BLOCK)
            return BERTH_IN;
        if (n <= 0)
            return over(n, rules, "the echo's read");
        e->have = (size_t)n;
        e->done = 0;
    }
    return e->done < e->have ? BERTH_OUT : BERTH_IN;
}

static void take_some(berth_waitset *set, berth_listener l, const struct echo_rules *rules)
{
    berth_session s;
    for (int i = 0; i < 16; i++) {
        int err = berth_accept(l, 0, &s);
        if (err == BERTH_E_WOULD_BLOCK)
            return;
        expect(err, "the echo's accept");
        struct echo *e = calloc(1, sizeof *e);
        if (!e)
            fail(0, "no memory for an echo");
        e->s = s;
        e->watching = BERTH_IN;
        uint32_t mode = rules->edge ? BERTH_EDGE | BERTH_OUT : 0;
        expect(berth_waitset_add(set, s, BERTH_IN | mode, (uint64_t)(uintptr_t)e), "the echo's add");
    }
}

static void step(berth_waitset *set, struct echo *e, const struct echo_rules *rules)
{
    int want = echo_step(e, rules);
    if (!want) {
        int err = berth_close(e->s);
        if (!rules->hostile)
            expect(err, "the echo's close");
        free(e);
    } else if (!rules->edge && want != e->watching) {
        e->watching = want;
        expect(berth_waitset_modify(set, e->s, (uint32_t)want, (uint64_t)(uintptr_t)e), "the echo's modify");
    }
}

void echo_serve(berth_listener l, const struct echo_rules *rules)
{
    berth_waitset *set = berth_waitset_create();
    if (!set)
        fail(0, "no waitset");
    expect(berth_waitset_add(set, l, BERTH_IN, 0), "the listener's add");
    int64_t wait = rules->wait >= SEC ? longer(rules->wait) : rules->wait;
    while (!stopping) {
        struct berth_event ev[64];
        int n = berth_waitset_wait(set, ev, 64, wait);
        if (n == BERTH_E_INTERRUPTED)
            continue;
        expect(n, "the echo's wait");
        if (n == 0 && wait >= SEC)
            fail(0, "nothing for the echo in %lld s", (long long)(wait / SEC));
        for (int i = 0; i < n; i++) {
            struct echo *e = (struct echo *)(uintptr_t)ev[i].data;
            if (e)
                step(set, e, rules);
            else
                take_some(set, l, rules);
        }
    }
    berth_waitset_destroy(set);
}
