/* graves.c - what the dead leave behind, and outboxes that nobody faces any more: forgotten in two steps.
 *
 * First out of every table, then, when no thread can still be looking at it, out of memory.
 */
#include "client/graves.h"
#include "base/clock.h"
#include "client/aside.h"
#include "client/channel.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/routes.h"

#define COLLECT_NS (10 * NS_PER_MS)

static bool app_has_box(uint32_t app)
{
    for (struct peer_box *b = load_acquire(&C->boxes); b; b = b->next) {
        if (b->worker->app == app &&
            (!load_relaxed(&b->worker->dead) || load_relaxed(&b->sessions) || listeners_want(b->handle)))
            return true;
    }
    return false;
}

/* Outboxes of ours towards apps that never answered, or that went before our last session with them did. */
static void bury_loose(void)
{
    store_relaxed(&C->own_loose, 0);
    for (struct own_box *b = C->outboxes, *next; b; b = next) {
        const struct outbox_rec *r = outbox_rec_of(b);
        next = b->next;
        if (outbox_worker(b->handle) != C->worker || route_has_box(b) || app_has_box(r->facing_app))
            continue;
        if (outbox_rec_slots_live(r))
            store_relaxed(&C->own_loose, 1);
        else
            outbox_bury(b);
    }
}

void peers_collect(bool all)
{
    if (!all && !load_relaxed(&C->dead_boxes) && !load_relaxed(&C->box_graves) &&
        !load_relaxed(&C->own_graves) && !load_relaxed(&C->own_loose))
        return;
    static int64_t
        looked; /* it goes through all of them, and is asked at every accept: not more often than it pays */
    int64_t now = clock_now();
    if (!all && now - load_relaxed(&looked) < COLLECT_NS)
        return;
    store_relaxed(&looked, now);
    if (!all && !plock_try(&C->poll_lock))
        return; /* perhaps this very thread has it, and was told of a death while it looked at events */
    if (all)
        plock_take(&C->poll_lock);
    plock_take(&C->lock);
    channels_enter(); /* none is on its way to the lists while both locks are held */
    for (struct peer_box *b = load_acquire(&C->boxes), *next; b; b = next) {
        next = b->next;
        if (!all &&
            (!load_relaxed(&b->worker->dead) || load_relaxed(&b->sessions) || listeners_want(b->handle)))
            continue;
        if (!all && load_relaxed(&b->roll.zombies_first))
            continue;
        if (!all && b->polled && channel_has_news(b)) /* it may have accepted, and said so before it died */
            continue;
        struct own_box *own = b->own;
        uint32_t app = b->worker->app;
        if (load_relaxed(&b->worker->dead))
            fetch_add_sc(&C->dead_boxes, ~0u);
        peer_box_bury(b);
        if (own && !app_has_box(app) && outbox_rec_slots_live(outbox_rec_of(own)) == 0 && own->buried == 0) {
            routes_drop_box(own);
            outbox_bury(own);
        } else if (own) {
            store_relaxed(&C->own_loose, 1);
        }
    }
    if (!all && load_relaxed(&C->own_loose))
        bury_loose();
    for (struct peer_box **p = &C->box_graves; *p;) {
        struct peer_box *b = *p;
        if (!all && now - b->buried < GRAVE_NS) {
            p = &b->next;
            continue;
        }
        store_relaxed(p, b->next);
        peer_box_unmap(b, all);
    }
    while (all && C->outboxes)
        outbox_bury(C->outboxes);
    for (struct own_box **p = &C->own_graves; *p;) {
        struct own_box *b = *p;
        if (!all && now - b->buried < GRAVE_NS) {
            p = &b->next;
            continue;
        }
        store_relaxed(p, b->next);
        outbox_unmap(b);
    }
    plock_release(&C->lock);
    plock_release(&C->poll_lock);
    if (!all && load_relaxed(&C->starved)) { /* perhaps there is a channel now */
        store_relaxed(&C->starved, false);
        for (struct peer_box *b = load_acquire(&C->boxes); b; b = load_acquire(&b->next)) {
            if (load_relaxed(&b->starved))
                channel_pair(b);
        }
    }
}
