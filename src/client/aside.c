/* aside.c - the tokens of a listener that were taken out of its pipe, in the family's store, and what was
 * asked for them.
 *
 * Why and when they are put here: tokens.c. What is here is only kept: whoever hears that an outbox has come,
 * or that it is not to be had, tells those who watch the listener.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/control.h"
#include "client/family.h"
#include "client/watch.h"

/* ---- questions for outboxes ---------------------------------------------------------------------------- */

struct question {
    outbox_handle outbox;
    uint32_t number;
    struct question *next;
};

static struct question *questions; /* under C->lock */

void aside_ask(outbox_handle handle)
{
    struct question *q = NULL;
    plock_take(&C->lock);
    for (q = questions; q && q->outbox != handle; q = q->next)
        ;
    if (!q && (q = memory_get(sizeof *q))) {
        *q = (struct question){.outbox = handle, .number = control_async_seq(), .next = questions};
        questions = q;
        struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg, .seq = q->number},
                                 .outbox = handle};
        if (control_send(&msg, NULL, 0) != 0) {
            questions = q->next;
            memory_put(q, sizeof *q);
        }
    }
    plock_release(&C->lock);
}

/* Of the last ones that were not to be had: nobody asks for them again. */
#define REFUSED_MAX 16
static outbox_handle refused[REFUSED_MAX]; /* written under C->lock */
static uint32_t refused_count;

bool aside_refused(outbox_handle handle)
{
    bool is = false;
    for (uint32_t i = 0; i < REFUSED_MAX; i++)
        is |= load_relaxed(&refused[i]) == handle;
    return is;
}

/* C->lock is held. Of which outbox it was; 0: none of ours. */
static outbox_handle question_end(uint32_t number, outbox_handle handle)
{
    for (struct question **p = &questions; *p; p = &(*p)->next) {
        struct question *q = *p;
        if (q->number != number && q->outbox != handle)
            continue;
        handle = q->outbox;
        *p = q->next;
        memory_put(q, sizeof *q);
        return handle;
    }
    return 0;
}

void asides_forked(void)
{
    while (questions) { /* the parent's */
        struct question *next = questions->next;
        memory_put(questions, sizeof *questions);
        questions = next;
    }
}

/* ---- the store ----------------------------------------------------------------------------------------- */

struct aside *aside_of(const struct listener *l)
{
    uint32_t index = load_acquire(&l->aside);
    return index ? &C->family->aside[index - 1] : NULL;
}

bool aside_shared(const struct aside *a)
{
    return berth_family_shared && members_others_live(&a->holders);
}

int tokens_create(struct listener *l)
{
    for (uint32_t i = 0; i < ASIDES_MAX; i++) {
        struct aside *a = &C->family->aside[i];
        if (aside_claim(a)) {
            aside_set_count(a, 0);
            aside_set_nonblock(a, 0);
            aside_set_later(a, false);
            aside_set_listener(a, 0);
            members_only(&a->holders, C->member);
            members_none(&a->served);
            store_release(&l->aside, i + 1);
            return 0;
        }
    }
    return BERTH_E_LIMIT;
}

void tokens_free(struct listener *l)
{
    struct aside *a = aside_of(l);
    store_release(&l->aside, 0);
    if (a && !aside_shared(a))
        aside_free(a);
    else if (a)
        (void)members_drop(&a->holders, C->member);
}

bool token_same(const struct token *a, const struct token *b)
{
    return a->outbox == b->outbox && a->slot == b->slot && a->generation == b->generation &&
           a->offer_seq == b->offer_seq;
}

bool aside_put(struct listener *l, const struct token *t, bool later)
{
    struct aside *a = aside_of(l);
    bool put = false;
    if (!a)
        return false;
    family_lock_acquire(&a->lock, C->member);
    if (a->count < ASIDE_TOKENS) {
        a->token[a->count] = *t;
        aside_set_count(a, a->count + 1);
        if (later)
            aside_set_later(a, true);
        put = true;
    }
    family_lock_drop(&a->lock);
    return put;
}

/* False: somebody else was faster. */
bool aside_take(struct aside *a, const struct token *t)
{
    bool took = false;
    family_lock_acquire(&a->lock, C->member);
    uint32_t n = a->count <= ASIDE_TOKENS ? a->count : ASIDE_TOKENS;
    for (uint32_t i = 0; i < n && !took; i++) {
        if (!token_same(&a->token[i], t))
            continue;
        memmove(&a->token[i], &a->token[i + 1], (n - i - 1) * sizeof a->token[0]);
        aside_set_count(a, n - 1);
        if (n == 1)
            aside_set_later(a, false);
        took = true;
    }
    family_lock_drop(&a->lock);
    return took;
}

uint32_t aside_copy(struct aside *a, struct token out[ASIDE_TOKENS])
{
    family_lock_acquire(&a->lock, C->member);
    uint32_t n = a->count <= ASIDE_TOKENS ? a->count : ASIDE_TOKENS;
    memcpy(out, a->token, n * sizeof out[0]);
    family_lock_drop(&a->lock);
    return n;
}

/* ---- how many have come ---------------------------------------------------------------------------------- */

static uint32_t in_pipe(const struct listener *l)
{
    int bytes = 0;
    (void)sys_call(SYS_ioctl, (long)l->pipe_rd, (long)FIONREAD, &bytes, 0);
    return (uint32_t)bytes / sizeof(struct token);
}

uint32_t listener_arrivals(const struct listener *l)
{
    const struct aside *a = aside_of(l);
    uint32_t taken = a ? aside_taken(a) : 0; /* first */
    return taken + in_pipe(l);
}

uint32_t listener_count(const struct listener *l)
{
    return load_relaxed(&C->nested) ? listener_arrivals(l) : 0;
}

bool listener_news(const struct listener *l, const struct watch *w)
{
    const struct aside *a = aside_of(l);
    uint32_t queued = in_pipe(l); /* first */
    return (int32_t)((a ? aside_taking(a) : 0) + queued - w->seen_arrivals) > 0;
}

/* ---- what has come ------------------------------------------------------------------------------------- */

void listener_retry_pending(void)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        if (l->generation & 1 && l->aside && aside_count(aside_of(l)) && aside_later(aside_of(l)))
            listener_ready(l, listener_count(l));
    }
}

uint32_t listener_number(const struct listener *l)
{
    uint32_t id = load_relaxed(&l->id);
    const struct aside *a = id ? NULL : aside_of(l);
    return a ? aside_listener(a) : id;
}

/* Whoever closes it in this moment takes the question back: one of the two has it. */
bool listener_named(uint32_t asked, uint32_t id)
{
    for (uint32_t i = 0; asked && i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        uint32_t owed = asked;
        if (!(load_acquire(&l->generation) & 1) || load_acquire(&l->asked) != asked)
            continue;
        store_relaxed(&l->id, id);
        struct aside *a = aside_of(l);
        if (a)
            aside_set_listener(a, id);
        struct ctl_listener msg = {.h = {.type = CTL_BACKLOG, .len = sizeof msg},
                                   .listener = id,
                                   .backlog = load_relaxed(&l->backlog)};
        if (!compare_exchange_sc(&l->asked, &owed, 0u))
            return false;
        (void)control_send(&msg, NULL, 0); /* it may have changed meanwhile */
        return true;
    }
    return false;
}

/* Of an outbox that is not to be had nobody waits for the session any more. */
static void drop(outbox_handle handle)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        struct aside *a = l->generation & 1 ? aside_of(l) : NULL;
        struct token copy[ASIDE_TOKENS];
        for (uint32_t n = a && aside_count(a) ? aside_copy(a, copy) : 0; n-- > 0;) {
            if (copy[n].outbox == handle)
                (void)aside_take(a, &copy[n]);
        }
    }
}

void listener_answered(int status, uint32_t number)
{
    plock_take(&C->lock);
    outbox_handle handle = question_end(number, 0);
    if (handle && (status == BERTH_E_BAD_HANDLE || status == BERTH_E_PERMISSION))
        store_relaxed(&refused[refused_count++ % REFUSED_MAX], handle);
    plock_release(&C->lock);
    if (handle && status)
        drop(handle);
    listener_retry_pending();
}

/* C->lock may be held. */
bool listeners_want(outbox_handle handle)
{
    for (uint32_t i = 0; i < listeners_used(); i++) {
        struct listener *l = &C->listeners[i];
        struct aside *a = l->generation & 1 ? aside_of(l) : NULL;
        for (uint32_t n = a ? aside_count(a) : 0; n-- > 0;) {
            if (n < ASIDE_TOKENS && a->token[n].outbox == handle)
                return true;
        }
    }
    return false;
}
