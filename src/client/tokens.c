/* tokens.c - the tokens of a listener: looking at them, taking them, setting them aside.
 *
 * Theory of operation
 *
 * A connector puts a token into the listener's pipe; it names a slot of the connector's outbox. To answer it
 * one needs that outbox, which the daemon gives (a round trip, once for each connector), perhaps a further
 * segment of it, and an offer that still stands.
 *
 * A listener is ready when the token at the head of its queue can be answered. To know that one has to see
 * it:
 *   - Who is alone with the listener takes it out and keeps it in the family's store (`aside`), from where
 *     accept takes it. Nobody else could have had it; who is forked later finds it there.
 *   - Where other processes accept from the same queue nobody may sit on a token: they would serve it at
 *     once. So it is looked at where it lies (tee(2) copies what is in a pipe and leaves it there).
 * What the token needs is fetched in either case, and waited for a moment.
 *
 * A token whose connector's memory does not come, for the daemon is slow, must not hold up those behind it:
 * it is set aside as well, and a token that names nobody (a *poke*) goes into the pipe, so that the kernel
 * wakes somebody who looks there, too. Each process that sees it asks the daemon for itself; whoever has the
 * memory first answers.
 *
 * The store holds ASIDE_TOKENS of them. While it is full tokens are as well off in the pipe.
 *
 * A connector can put tokens that are good for nothing into the pipe as fast as they are taken out. So a look
 * has a budget: of tokens, and of time for what it fetches. Who has used it up puts a poke behind what is
 * left: then the pipe tells all who wait for it once more.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/fds.h"
#include "client/listener.h"
#include "client/lost.h"
#include "client/peer.h"
#include "client/sleeper.h"
#include "client/watch.h"
#include "shm/slot.h"

/* of one look: as many as fill two pages of the pipe, so that there is room for a poke then */
#define TOKENS_MAX 128
#define FETCHES_NS (10 * NS_PER_MS) /* after so long nothing more is waited for in one look */
#define TOKEN_POKE 0x504f4b45u      /* the magic of one that only says "look at what was set aside" */

/* ---- one token ----------------------------------------------------------------------------------------- */

int offer_check(struct peer_box *box, const struct token *t)
{
    const struct slot *p = peer_slot(box, t->slot);
    const struct slot_info *info = p ? peer_info(box, t->slot) : NULL;
    if (!info)
        return load_relaxed(&box->worker->dead) ? BERTH_E_REFUSED : BERTH_E_IN_PROGRESS;
    uint8_t state = slot_state(p);
    if ((state != SLOT_OFFERED && state != SLOT_CLOSED) || slot_generation_known(p) != t->generation ||
        slot_peer(p) != 0 || info_offer_seq(info) != t->offer_seq || info_listener(info) != t->listener)
        return BERTH_E_REFUSED;
    return 0;
}

/* Who has put it into our pipe has the pipe from the daemon, and may know our number before we do. */
static bool is_ours(const struct listener *l, const struct token *t)
{
    uint32_t id = load_relaxed(&l->id);
    return t->magic == TOKEN_MAGIC && (!id || t->listener == id);
}

enum answer { ANSWER_STALE, ANSWER_LATER, ANSWER_NOW };

/* Can it be answered? What it needs is asked for, if `ask`. */
static enum answer examine(const struct listener *l, const struct token *t, struct peer_box **box, bool ask)
{
    struct peer_box *b = NULL;
    if (!is_ours(l, t))
        return ANSWER_STALE;
    if (!(b = peer_box_find(t->outbox))) {
        if (C->daemon_lost || aside_refused(t->outbox))
            return ANSWER_STALE; /* nobody is left who could bring it; the connector has heard the same */
        if (ask)
            aside_ask(t->outbox);
        return ANSWER_LATER;
    }
    int err = offer_check(b, t);
    if (box)
        *box = b;
    return err == 0 ? ANSWER_NOW : err == BERTH_E_IN_PROGRESS ? ANSWER_LATER : ANSWER_STALE;
}

/* Of those set aside: one that can be answered now; stale ones go. `take`: it is the caller's. `ask`: for
 * what the others need. */
static bool from_aside(struct listener *l, struct token *t, struct peer_box **box, bool take, bool ask)
{
    struct aside *a = aside_of(l);
    struct token copy[ASIDE_TOKENS];
    if (!a || !aside_count_acquire(a))
        return false;
    for (uint32_t i = 0, n = aside_copy(a, copy); i < n; i++) {
        enum answer is = examine(l, &copy[i], box, ask);
        if (is == ANSWER_STALE)
            (void)aside_take(a, &copy[i]);
        if (is != ANSWER_NOW || (take && !aside_take(a, &copy[i])))
            continue;
        *t = copy[i];
        return true;
    }
    return false;
}

struct examined {
    const struct listener *l;
    const struct token *t;
    struct peer_box **box;
    enum answer is;
};

static bool is_here(void *arg)
{
    struct examined *e = arg;
    e->is = examine(e->l, e->t, e->box, true);
    return e->is != ANSWER_LATER;
}

/* What one look at the queue may still do. */
struct budget {
    int tokens;
    int64_t until; /* 0: nothing was fetched yet */
};

static enum answer examine_well(const struct listener *l, const struct token *t, struct peer_box **box,
                                struct budget *b)
{
    struct examined e = {l, t, box, ANSWER_LATER};
    if (is_here(&e))
        return e.is;
    int64_t at = clock_now();
    if (!b->until)
        b->until = at + FETCHES_NS;
    if (at < b->until)
        (void)fetch_wait(is_here, &e);
    return e.is;
}

/* ---- the pipe ------------------------------------------------------------------------------------------ */

/* 1: a token; 0: a poke, or nothing of ours; or -errno. */
static int pipe_take(struct listener *l, struct token *t)
{
    struct aside *a = aside_of(l);
    if (a && aside_count(a) >= ASIDE_TOKENS)
        return -EAGAIN;
    if (a)
        aside_takes(a);
    long n = sys_read(l->pipe_rd, t, (long)sizeof *t);
    if (a)
        aside_took(a, n > 0);
    if (n < 0)
        return (int)n;
    if (n != (long)sizeof *t) {
        if (n > 0)
            log_warn("listener %u: %ld stray bytes in its queue", l->id, n);
        return n ? 0 : -EAGAIN;
    }
    return is_ours(l, t);
}

/* Somebody who sleeps on the pipe shall look at what was set aside. */
static void poke(const struct listener *l)
{
    struct token t = {.magic = TOKEN_POKE};
    if (berth_family_shared)
        (void)pipe_put(l->pipe_wr, &t, sizeof t); /* full: then there is enough to wake it */
}

void listener_more(const struct listener *l)
{
    struct token t = {.magic = TOKEN_POKE};
    /* no room: somebody has filled it meanwhile, which tells as well */
    (void)pipe_put(l->pipe_wr, &t, sizeof t);
}

static int scratch[2]; /* descriptor + 1, 0: not made yet */
struct plock scratch_lock;

void tokens_forked(void)
{
    for (int i = 0; i < 2; i++) { /* shared with the parent: what one looks at the other would read */
        if (scratch[i])
            own_fd_close(scratch[i] - 1);
        scratch[i] = 0;
    }
}

/* scratch_lock is held. */
static void scratch_make(void)
{
    int fds[2] = {-1, -1};
    long err = sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC);
    if (err == -EMFILE) {
        client_fds_release();
        err = sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC);
    }
    if (err < 0)
        return;
    scratch[0] = own_fd(fds[0]) + 1;
    scratch[1] = own_fd(fds[1]) + 1;
}

/* A copy of the token at the head. 1, -EAGAIN: there is none, or another error: it cannot be seen. */
static int pipe_peek(const struct listener *l, struct token *t)
{
    int ret = -EMFILE;
    plock_take(&scratch_lock);
    if (!scratch[0])
        scratch_make();
    if (scratch[0]) {
        long n = sys_call(SYS_tee, (long)l->pipe_rd, (long)(scratch[1] - 1), (long)sizeof *t,
                          (long)SPLICE_F_NONBLOCK);
        ret = n < 0 ? (int)n : n == 0 ? -EAGAIN : 1;
        if (n > 0 && sys_read(scratch[0] - 1, t, n) != (long)sizeof *t)
            memset(t, 0, sizeof *t);
    }
    plock_release(&scratch_lock);
    return ret;
}

void listener_last_edges(const struct listener *l)
{
    bool asked = false;
    uint32_t arrivals = 0;
    for (struct watch *w = l->watches; w; w = w->next) {
        if (!w->set->outer || !(w->events & READY_IN))
            continue;
        if (!asked)
            arrivals = listener_count(l);
        asked = true;
        if ((int32_t)(arrivals - w->heard_arrivals) > 0)
            watch_counts(w, arrivals);
    }
}

static uint32_t denied(const struct listener *l)
{
    const struct aside *a = aside_of(l);
    return a ? aside_denied(a) : 0;
}

/* `before`: how many had been denied before the token left the pipe. Who was since then has not seen it, and
 * may have been told of it. */
static void set_aside(struct listener *l, const struct token *t, bool later, uint32_t before)
{
    if (aside_put(l, t, later))
        poke(l);
    else
        log_warn("listener %u: an offer is dropped: too many wait for their connectors' memory", l->id);
    fence_sc(); /* it lies there before we ask: who is denied looks the other way round */
    if (denied(l) != before)
        listener_ready(l, listener_count(l));
    else if (load_acquire(&l->watches)) /* who watches it does not see it in the pipe any more */
        listener_moved(l, listener_count(l), listener_news);
}

/* ---- readiness ----------------------------------------------------------------------------------------- */

static bool maybe(struct listener *l, bool ask)
{
    struct token t;
    struct peer_box *box;
    if (load_acquire(&C->forked))
        return false; /* fork_child_goes_on: it can take none yet */
    return from_aside(l, &t, &box, false, ask) || (l->aside && aside_count(aside_of(l)) && control_in_vain());
}

bool listener_maybe(struct listener *l)
{
    return maybe(l, false);
}

/* What a sleep for a token that can be answered looks at; -1: none can yet (fork_child_goes_on). */
int listener_queue(const struct listener *l)
{
    return load_acquire(&C->forked) ? -1 : l->pipe_rd;
}

bool listener_waiting(struct listener *l)
{
    struct pollfd p = {.fd = listener_queue(l), .events = POLLIN};
    struct timespec zero = {0};
    return listener_maybe(l) || sys_ppoll(&p, 1, &zero, NULL) > 0;
}

/* Not all was looked at: the pipe tells again, where nothing is to be told now. */
static bool budget_over(struct listener *l)
{
    bool ready = maybe(l, true);
    if (!ready)
        listener_more(l);
    return ready;
}

/* The head of a queue that others take from. */
static bool head_ready(struct listener *l)
{
    for (struct budget b = {.tokens = TOKENS_MAX}; b.tokens; b.tokens--) {
        struct token head, took;
        uint32_t before = denied(l);
        int is = pipe_peek(l, &head);
        if (is == -EAGAIN)
            return maybe(l, true);
        if (is < 0)
            return listener_waiting(l); /* no descriptor to see it with: accept will find out */
        enum answer can = examine_well(l, &head, NULL, &b);
        if (can == ANSWER_NOW)
            return true;
        if ((is = pipe_take(l, &took)) < 0)
            return maybe(l, true);
        /* stale, a poke, or late; or somebody has taken it meanwhile and this is the next */
        if (is && (can != ANSWER_STALE || !token_same(&head, &took)))
            set_aside(l, &took, can != ANSWER_NOW, before);
    }
    return budget_over(l);
}

/* The same where nobody else does. */
static bool own_head_ready(struct listener *l)
{
    for (struct budget b = {.tokens = TOKENS_MAX}; b.tokens; b.tokens--) {
        struct token t;
        uint32_t before = denied(l);
        int is = pipe_take(l, &t);
        if (is < 0)
            return maybe(l, true);
        enum answer can = is ? examine_well(l, &t, NULL, &b) : ANSWER_STALE;
        if (can == ANSWER_STALE)
            continue;
        set_aside(l, &t, can == ANSWER_LATER, before);
        if (can == ANSWER_NOW)
            return true;
    }
    return budget_over(l);
}

bool client_listener_ready(listener_handle h)
{
    struct listener *l = listener_get(h);
    if (!l)
        return true; /* a call will tell */
    if (load_acquire(&C->forked))
        return false;
    return maybe(l, true) || (berth_family_shared ? head_ready(l) : own_head_ready(l));
}

/* ---- taking -------------------------------------------------------------------------------------------- */

int token_take(struct listener *l, struct token *t, struct peer_box **box)
{
    sleeper_glance();
    if (load_relaxed(&C->nested) && load_acquire(&l->watches)) {
        plock_take(&C->watch_lock);
        listener_last_edges(l);
        plock_release(&C->watch_lock);
    }
    if (from_aside(l, t, box, true, true))
        return 0;
    struct budget b = {.tokens = TOKENS_MAX};
    for (; b.tokens; b.tokens--) {
        uint32_t before = denied(l);
        int is = pipe_take(l, t);
        if (is == -EINTR)
            return BERTH_E_INTERRUPTED;
        if (is < 0)
            break;
        enum answer can = is ? examine_well(l, t, box, &b) : ANSWER_STALE;
        if (can == ANSWER_NOW)
            return 0;
        if (can == ANSWER_LATER)
            set_aside(l, t, true, before);
    }
    struct aside *a = aside_of(l);
    if (a)
        aside_deny(a);                     /* then the look: see set_aside */
    if (from_aside(l, t, box, true, true)) /* poked, or it has come meanwhile */
        return 0;
    if (!b.tokens)
        listener_more(l);
    return a && aside_count(a) && control_in_vain() ? BERTH_E_NO_MEMORY : BERTH_E_WOULD_BLOCK;
}

void token_put_back(struct listener *l, const struct token *t)
{
    set_aside(l, t, false, denied(l));
    listener_ready(l, listener_count(l));
}
