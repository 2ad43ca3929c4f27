/* registry.c - apps and workers: making, finding, and the order in which a death is worked off.
 *
 * Theory of operation
 *
 * A worker dies when its connection has ended and all that it had sent is worked off. worker_die() then takes
 * it out of every lookup, tells who must know, and lets go of what it held; nothing is told twice to the same
 * worker (worker.notice). Peers are told DEAD only about outboxes that nobody can write any more: as long as
 * a forked child holds an outbox, the sessions in it go on, and only the family hears of the death.
 *
 * Ids of apps, workers and listeners count up and are never used again while the daemon lives.
 */
#include "daemon/registry.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t next_id(uint32_t *last, const struct idmap *map)
{
    do {
        ++*last;
    } while (*last == 0 || *last == UINT32_MAX || idmap_get(map, *last));
    return *last;
}

/* ---- apps ---- */

struct app *app_find(struct daemon *d, uint32_t id)
{
    return idmap_get(&d->app_by_id, id);
}

struct app *app_find_joinable(struct daemon *d, const struct space *space, uid_t uid, const char *name)
{
    list_for_each(&d->apps, it, after)
    {
        struct app *app = container_of(it, struct app, link);
        if (app->worker_count && app->space == space && app->uid == uid && !strcmp(app->name, name))
            return app;
    }
    return NULL;
}

int app_create(struct daemon *d, const struct ctl_hello *hello, struct space *space, uid_t uid,
               struct app **out)
{
    if (d->app_count >= d->limits.apps)
        return BERTH_E_LIMIT;
    struct app *app = calloc(1, sizeof *app);
    if (!app)
        return BERTH_E_NO_MEMORY;
    app->id = next_id(&d->last_app, &d->app_by_id);
    if (idmap_put(&d->app_by_id, app->id, app)) {
        free(app);
        return BERTH_E_NO_MEMORY;
    }
    memcpy(app->name, hello->name, sizeof app->name);
    app->space = space;
    app->uid = uid;
    app->flags = hello->flags;
    app->rx_fifo_size = hello->rx_fifo_size;
    app->tx_fifo_size = hello->tx_fifo_size;
    app->segment_size = hello->segment_size;
    list_init(&app->workers);
    list_init(&app->facing);
    list_init(&app->left);
    list_append(&d->apps, &app->link);
    space->apps++;
    *out = app;
    return 0;
}

void app_leave_nothing(struct daemon *d, struct app *app)
{
    while (!app->worker_count && !app->moves && !list_empty(&app->left))
        outbox_drop(d, container_of(app->left.next, struct outbox, link));
}

void app_release(struct daemon *d, struct app *app)
{
    if (app->worker_count || app->shadows)
        return;
    /* nobody can ask for what faces it any more */
    while (!list_empty(&app->facing))
        outbox_drop(d, container_of(app->facing.next, struct outbox, link));
    list_unlink(&app->link);
    idmap_remove(&d->app_by_id, app->id);
    app->space->apps--;
    space_put(d, app->space);
    free(app);
}

/* ---- workers ---- */

int worker_create(struct daemon *d, struct app *app, struct conn *conn, struct worker **out)
{
    if (d->worker_count >= d->limits.workers)
        return BERTH_E_LIMIT;
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return BERTH_E_NO_MEMORY;
    w->id = next_id(&d->last_worker, &d->worker_by_id);
    if (idmap_put(&d->worker_by_id, w->id, w)) {
        free(w);
        return BERTH_E_NO_MEMORY;
    }
    w->app = app;
    w->app_id = app->id;
    w->uid = app->uid;
    w->pid = conn->pid;
    w->family = w->id;
    w->page_fd = w->bell_fd = -1;
    w->conn = conn;
    conn->worker = w;
    list_init(&w->parked);
    list_append(&app->workers, &w->link);
    d->app_count += !app->worker_count++;
    d->worker_count++;
    *out = w;
    return 0;
}

struct worker *worker_find(struct daemon *d, uint32_t id)
{
    return idmap_get(&d->worker_by_id, id);
}

int worker_inherit_listeners(struct worker *child, struct worker *parent)
{
    int err = 0;
    for (uint32_t i = 0; !err && i < parent->listeners.count; i++) {
        struct listener *l = parent->listeners.item[i];
        err = ptrset_add(&l->holders, child);
        if (!err && (err = ptrset_add(&child->listeners, l)))
            (void)ptrset_remove(&l->holders, child);
    }
    return err;
}

/* What the parent holds at the moment of the fork, the child holds too. On failure the child must die: half
 * is undone then. */
int worker_inherit(struct worker *child, struct worker *parent)
{
    child->family = parent->family;
    int err = 0;
    for (uint32_t i = 0; !err && i < parent->held.count; i++) {
        struct outbox *o = parent->held.item[i];
        err = ptrset_add(&o->holders, child);
        if (!err && (err = ptrset_add(&child->held, o)))
            (void)ptrset_remove(&o->holders, child);
    }
    for (uint32_t i = 0; !err && i < parent->got.count; i++) {
        struct outbox *o = parent->got.item[i];
        err = ptrset_add(&o->got, child);
        if (!err && (err = ptrset_add(&child->got, o)))
            (void)ptrset_remove(&o->got, child);
    }
    if (!err)
        err = worker_inherit_listeners(child, parent);
    for (uint32_t i = 0; !err && i < parent->leases.count; i++) {
        struct lease *lease = parent->leases.item[i];
        err = ptrset_add(&lease->holders, child);
        if (!err && (err = ptrset_add(&child->leases, lease)))
            (void)ptrset_remove(&lease->holders, child);
    }
    return err;
}

/* ---- death ---- */

static void tell_dead(struct daemon *d, struct worker *to, const struct worker *dead, uint16_t type)
{
    if (!to->conn || to->notice == d->notices)
        return;
    to->notice = d->notices;
    struct ctl_dead msg = {.h = {.type = type, .len = sizeof msg},
                           .worker = dead->id,
                           .member = type == CTL_DEAD ? dead->app_id : dead->member};
    conn_send(d, to->conn, &msg, sizeof msg, NULL, 0);
}

/* Everybody who was given this outbox: of whom it is, is dead. */
static void tell_readers(struct daemon *d, const struct outbox *o)
{
    for (uint32_t i = 0; i < o->got.count; i++)
        tell_dead(d, o->got.item[i], o->owner, CTL_DEAD);
}

static bool shares_with_living(const struct worker *w, uint32_t facing_app)
{
    for (uint32_t i = 0; i < w->held.count; i++) {
        const struct outbox *o = w->held.item[i];
        if (o->facing->id == facing_app && o->holders.count > 1)
            return true;
    }
    return false;
}

static bool shares_anything(const struct worker *w)
{
    for (uint32_t i = 0; i < w->held.count; i++) {
        if (((const struct outbox *)w->held.item[i])->holders.count > 1)
            return true;
    }
    return false;
}

static void tell_writers(struct daemon *d, const struct worker *w)
{
    bool shares = shares_anything(w);
    for (uint32_t i = 0; i < w->got.count; i++) {
        const struct outbox *o = w->got.item[i];
        if (shares && shares_with_living(w, o->owner->app_id))
            continue;
        for (uint32_t k = 0; k < o->holders.count; k++)
            tell_dead(d, o->holders.item[k], w, CTL_DEAD);
    }
}

/* It may have died with tokens of theirs in its hands: whoever has offers out for the app is to look. */
static void tell_offerers(struct daemon *d, const struct worker *w)
{
    list_for_each(&w->app->facing, it, after)
    {
        const struct outbox *o = container_of(it, struct outbox, link);
        for (uint32_t i = 0; i < o->holders.count; i++)
            tell_dead(d, o->holders.item[i], w, CTL_DEAD);
    }
}

/* Readers of an outbox of w's own are told once for all of them; an outbox of a parent's that died before w is
 * told of in the parent's name. */
static void holder_goes(struct daemon *d, struct outbox *o, struct worker *w)
{
    (void)ptrset_remove(&o->holders, w);
    if (o->holders.count)
        return;
    if (o->owner != w)
        d->notices++;
    tell_readers(d, o);
    if (o->owner != w)
        d->notices++;
    outbox_die(d, o);
}

static void let_go_outboxes(struct daemon *d, struct worker *w)
{
    while (w->held.count) {
        struct outbox *o = w->held.item[--w->held.count];
        holder_goes(d, o, w);
    }
    ptrset_free(&w->held);
}

/* What becomes of the sessions in it is not told to this worker any more, nor to the children that it forks. */
int handle_leave(struct daemon *d, struct request *r)
{
    struct worker *w = r->conn->worker;
    struct outbox *o = outbox_known(d, r->msg->outbox.outbox);
    if (!o || o->owner == w || !ptrset_has(&o->holders, w))
        return 0; /* it has gone meanwhile */
    (void)ptrset_remove(&w->held, o);
    holder_goes(d, o, w);
    return 0;
}

/* Before it lets go of them. */
static uint64_t mark_kin(struct daemon *d, const struct worker *w)
{
    uint64_t mark = ++d->notices;
    for (uint32_t i = 0; i < w->held.count; i++) {
        const struct outbox *o = w->held.item[i];
        for (uint32_t k = 0; k < o->holders.count; k++)
            ((struct worker *)o->holders.item[k])->kin = mark;
    }
    return mark;
}

/* Relatives that share an outbox with it may hold sessions of its. Where there are none, one of the others is to
 * clear its place away, the eldest if that lives: hundreds that hear of each other's ends do nothing else. */
static void tell_family(struct daemon *d, const struct worker *w, const struct app *app, uint64_t mark)
{
    struct worker *eldest = NULL;
    bool told = false;
    d->notices++;
    list_for_each(&app->workers, it, after)
    {
        struct worker *other = container_of(it, struct worker, link);
        if (other->family != w->family || !other->conn)
            continue;
        if (!eldest || other->id == w->family)
            eldest = other;
        told |= other->kin == mark;
        if (other->kin == mark)
            tell_dead(d, other, w, CTL_MEMBER_DEAD);
    }
    if (!told && eldest)
        tell_dead(d, eldest, w, CTL_MEMBER_DEAD);
}

void worker_die(struct daemon *d, struct worker *w)
{
    struct app *app = w->app;
    bool accepted = w->listeners.count != 0;
    idmap_remove(&d->worker_by_id, w->id);
    list_unlink(&w->link);
    d->app_count -= !--app->worker_count;
    app->shadows++; /* so that the app stays until w is worked off; the same for w below */
    w->own_outboxes++;
    d->worker_count--;
    w->conn->worker = NULL;
    w->conn = NULL;
    while (!list_empty(&w->parked))
        parked_free(container_of(w->parked.next, struct parked, of_worker));
    while (w->listeners.count) {
        struct listener *l = w->listeners.item[w->listeners.count - 1];
        w->listeners.count--;
        listener_let_go(d, l, w);
    }
    ptrset_free(&w->listeners);
    claims_drop(d, w);
    moves_drop(d, w);
    uint64_t kin = mark_kin(d, w);
    d->notices++;
    tell_writers(d, w);
    if (accepted && app->worker_count && !shares_anything(w))
        tell_offerers(d, w);
    for (uint32_t i = 0; i < w->got.count; i++)
        (void)ptrset_remove(&((struct outbox *)w->got.item[i])->got, w);
    ptrset_free(&w->got);
    let_go_outboxes(d, w);
    tell_family(d, w, app, kin);
    while (w->leases.count) {
        struct lease *lease = w->leases.item[w->leases.count - 1];
        w->leases.count--;
        lease_let_go(d, lease, w);
    }
    ptrset_free(&w->leases);
    app_leave_nothing(d, app);
    w->own_outboxes--;
    worker_release(d, w);
}

void worker_release(struct daemon *d, struct worker *w)
{
    if (w->conn || w->own_outboxes)
        return;
    while (w->made_leases.count) {
        struct lease *lease = w->made_leases.item[w->made_leases.count - 1];
        w->made_leases.count--;
        lease_maker_gone(d, lease);
    }
    ptrset_free(&w->made_leases);
    if (w->page_fd >= 0)
        close(w->page_fd);
    close_aside(w->bell_fd);
    struct app *app = w->app;
    free(w); /* before its app: its leases named pools of the app's space */
    app->shadows--;
    app_release(d, app);
}
