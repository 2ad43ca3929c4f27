/* lost.c - what the daemon sent and what came without its descriptors: it is asked for again.
 *
 * Descriptors that find the process's table full are lost on the way (recvmsg drops them). So a few are kept
 * in reserve (fds.c) and given up when a message came without its own, which is then asked for again, every
 * RETRY_NS as long as there is no room.
 *
 * All but the two questions at the end is for who works off what the daemon said, under its lock (news.c).
 */
#include "client/lost.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "client/control.h"
#include "client/family.h"
#include "client/fds.h"

#define RETRY_NS (20 * NS_PER_MS)

struct lost {
    uint16_t type; /* of the question: GET_OUTBOX, GET_SEGMENT */
    uint32_t seq, index, app;
    outbox_handle outbox;
    int64_t since;
    struct lost *next;
};

static struct lost *lost_first; /* under dispatch_lock */
static int64_t lost_at;         /* when to ask again */
static bool lost_in_vain;       /* it was asked for again, and found no room again */

static void lost_ask(const struct lost *l)
{
    struct ctl_outbox msg = {
        .h = {.type = l->type, .len = sizeof msg, .seq = l->seq}, .outbox = l->outbox, .index = l->index};
    (void)control_send(&msg, NULL, 0); /* no daemon: nothing of it will come */
}

static bool lost_is(const struct lost *l, uint16_t type, const void *data)
{
    const struct ctl_outbox_is *is = data;
    const struct ctl_segment_is *seg = data;
    if (type == CTL_SEGMENT_IS)
        return l->type == CTL_GET_SEGMENT && l->outbox == seg->outbox && l->index == seg->index;
    return l->type == CTL_GET_OUTBOX && (l->outbox == is->outbox || (is->h.status && l->seq == is->h.seq));
}

void lost_add(const struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    if (h->type != CTL_PEER && h->type != CTL_OUTBOX_IS && h->type != CTL_SEGMENT_IS)
        return;
    client_fds_release();
    struct lost *l = lost_first;
    while (l && !lost_is(l, h->type, p->data))
        l = l->next;
    if (l) { /* again when it is time */
        store_relaxed(&lost_in_vain, true);
        return;
    }
    if (!(l = memory_get(sizeof *l)))
        return;
    if (h->type == CTL_SEGMENT_IS) {
        const struct ctl_segment_is *seg = (const void *)p->data;
        *l = (struct lost){.type = CTL_GET_SEGMENT, .seq = NONE, .index = seg->index, .outbox = seg->outbox};
    } else {
        const struct ctl_outbox_is *is = (const void *)p->data;
        *l = (struct lost){.type = CTL_GET_OUTBOX,
                           .seq = h->type == CTL_PEER ? control_async_seq() : h->seq,
                           .app = h->type == CTL_PEER ? is->app : 0,
                           .outbox = is->outbox};
        log_info("no descriptor is free for what worker %u sent: trying again", is->worker);
    }
    l->since = clock_now();
    l->next = lost_first;
    lost_first = l;
    store_relaxed(&lost_at, l->since + RETRY_NS);
    lost_ask(l);
}

/* It has come, or the daemon has not got it any more. */
void lost_found(const struct push *p)
{
    const struct ctl_header *h = (const void *)p->data;
    for (struct lost **link = &lost_first; *link;) {
        struct lost *l = *link;
        if (!lost_is(l, h->type, p->data)) {
            link = &l->next;
            continue;
        }
        *link = l->next;
        memory_put(l, sizeof *l);
    }
    store_relaxed(&lost_in_vain, false);
    if (!lost_first)
        store_relaxed(&lost_at, 0);
}

void lost_forget(void)
{
    while (lost_first) {
        struct lost *next = lost_first->next;
        memory_put(lost_first, sizeof *lost_first);
        lost_first = next;
    }
    store_relaxed(&lost_in_vain, false);
    store_relaxed(&lost_at, 0);
}

void lost_forked(void)
{
    lost_first = NULL;
    lost_at = 0;
    lost_in_vain = false;
}

void lost_retry(void (*unreachable)(uint32_t app))
{
    int64_t at = load_relaxed(&lost_at), now;
    if (!at || (now = clock_now()) < at)
        return;
    store_relaxed(&lost_at, now + RETRY_NS);
    fds_expect();
    for (struct lost *l = lost_first; l; l = l->next) {
        lost_ask(l);
        if (l->app && now - l->since > SEGMENT_TIMEOUT_NS) {
            unreachable(l->app);
            l->app = 0;
        }
    }
}

bool control_in_vain(void)
{
    if (!load_relaxed(&lost_in_vain))
        return false;
    if (!fds_room(FDS_FOR_A_MEETING))
        return true;
    store_relaxed(&lost_in_vain, false);
    store_relaxed(&lost_at, clock_now());
    return false;
}

int64_t control_retry_at(void)
{
    return load_relaxed(&lost_at);
}
