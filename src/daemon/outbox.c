/* outbox.c - who may map what: outboxes and their segments, taken in, handed out, kept after a death.
 *
 * Theory of operation
 *
 * The daemon keeps descriptors and reads headers; it trusts nothing that a segment holds. An outbox faces one
 * app: only workers of that app, and the owner's family, are given it. What was given to whom is kept
 * (outbox.got, worker.got), for that is who must hear of a death.
 *
 * A worker that died may have left offers that nobody has accepted yet and bytes that nobody has read. Its
 * outboxes are kept while needed() says that somebody of the faced app may want them, at most LEFT_MAX for
 * one app, oldest out first. They are looked at again by a timer that slows down while nothing changes and
 * stops with the last of them.
 *
 * GET_SEGMENT for a segment that is not there yet is parked until it comes or the outbox dies.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/registry.h"
#include "shm/segment.h"

#define LEFT_MAX 1024u
#define OUTBOXES_MAX 4096u /* per owner */
#define PARKED_MAX 1024u   /* per worker */
#define SWEEP_FIRST (250 * NS_PER_MS)
#define SWEEP_SLOWEST (60 * NS_PER_SEC)

struct outbox *outbox_known(struct daemon *d, outbox_handle handle)
{
    return idmap_get(&d->outbox_by_handle, handle);
}

/* ---- segments ---- */

/* Index of the first segment whose index is not less. */
static uint32_t segment_place(const struct outbox *o, uint32_t index)
{
    uint32_t low = 0, high = o->segment_count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (o->segments[mid].index < index)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct segment *outbox_segment(const struct outbox *o, uint32_t index)
{
    uint32_t at = segment_place(o, index);
    return at < o->segment_count && o->segments[at].index == index ? &o->segments[at] : NULL;
}

/* Is what came a segment of that outbox, made by one that may write it? */
static int segment_check(struct daemon *d, const struct worker *w, outbox_handle handle, uint32_t index,
                         uint32_t facing, int fd, uint64_t *size)
{
    const char *why = "its header does not say what its message says";
    int err = segment_verify(fd, index ? 2 * PAGE_BYTES : SEGMENT_MIN, SEGMENT_MAX, false, size, &why);
    if (!err) {
        struct segment_header h;
        /* by read, not through the map: reading a hole through a map would give it memory, at our expense */
        if (pread(fd, &h, sizeof h, 0) != (ssize_t)sizeof h || h.outbox != handle || h.index != index ||
            h.magic != (index ? ABI_MAGIC_RINGS : ABI_MAGIC_OUTBOX) || h.version != ABI_VERSION ||
            h.size != *size || (!index && (h.facing_app != facing || h.owner_worker != w->id)))
            err = BERTH_E_PROTOCOL;
    }
    if (err)
        log_warn("pid %d: segment %u of outbox %llx: %s", (int)w->pid, index, (unsigned long long)handle,
                 why);
    return err;
}

static int segment_insert(struct outbox *o, uint32_t index, int fd, uint64_t size)
{
    if (o->segment_count == o->segment_room) {
        uint32_t room = o->segment_room ? o->segment_room * 2 : 1;
        struct segment *bigger = realloc(o->segments, room * sizeof *bigger);
        if (!bigger)
            return BERTH_E_NO_MEMORY;
        o->segments = bigger;
        o->segment_room = room;
    }
    uint32_t at = segment_place(o, index);
    memmove(o->segments + at + 1, o->segments + at, (o->segment_count - at) * sizeof o->segments[0]);
    o->segments[at] = (struct segment){index, fd, size};
    o->segment_count++;
    o->bytes += size;
    return 0;
}

/* ---- coming ---- */

int outbox_register(struct daemon *d, struct worker *w, outbox_handle handle, struct app *facing, int fd,
                    struct outbox **out)
{
    uint64_t size;
    if (outbox_worker(handle) != w->id || w->page_fd < 0 || outbox_known(d, handle))
        return BERTH_E_PROTOCOL;
    if (w->own_outboxes >= OUTBOXES_MAX)
        return BERTH_E_LIMIT;
    int err = segment_check(d, w, handle, 0, facing->id, fd, &size);
    if (err)
        return err;
    if (size > d->limits.outbox_bytes)
        return BERTH_E_LIMIT;
    struct outbox *o = calloc(1, sizeof *o);
    if (!o)
        return BERTH_E_NO_MEMORY;
    o->handle = handle;
    o->owner = w;
    o->facing = facing;
    list_init(&o->parked);
    err = BERTH_E_NO_MEMORY;
    if (ptrset_add(&o->holders, w))
        goto no_holder;
    if (ptrset_add(&w->held, o))
        goto no_held;
    if (idmap_put(&d->outbox_by_handle, handle, o))
        goto no_map;
    if (segment_insert(o, 0, fd, size))
        goto no_segment;
    w->own_outboxes++;
    list_append(&facing->facing, &o->link);
    *out = o;
    return 0;

no_segment:
    idmap_remove(&d->outbox_by_handle, handle);
no_map:
    (void)ptrset_remove(&w->held, o);
no_held:
    ptrset_free(&o->holders);
no_holder:
    free(o);
    return err;
}

/* ---- going ---- */

void parked_free(struct parked *p)
{
    list_unlink(&p->of_worker);
    list_unlink(&p->of_outbox);
    p->worker->parked_count--;
    free(p);
}

static void send_segment(struct daemon *d, struct worker *w, const struct outbox *o, uint32_t index,
                         uint32_t seq, int status)
{
    const struct segment *s = status ? NULL : outbox_segment(o, index);
    struct ctl_segment_is m = {.h = {.type = CTL_SEGMENT_IS, .len = sizeof m, .seq = seq, .status = status},
                               .outbox = o->handle,
                               .index = index};
    conn_send(d, w->conn, &m, sizeof m, s ? &s->fd : NULL, s ? 1 : 0);
}

/* By name: whoever asked does not wait, and has to know what will not come. */
static int refuse_segment(struct daemon *d, const struct request *r, int status)
{
    struct ctl_segment_is m = {
        .h = {.type = CTL_SEGMENT_IS, .len = sizeof m, .seq = r->seq, .status = status},
        .outbox = r->msg->outbox.outbox,
        .index = r->msg->outbox.index};
    conn_send(d, r->conn, &m, sizeof m, NULL, 0);
    return 0;
}

static void parked_answer_all(struct daemon *d, struct outbox *o, int status)
{
    list_for_each(&o->parked, it, after)
    {
        struct parked *p = container_of(it, struct parked, of_outbox);
        send_segment(d, p->worker, o, p->index, p->seq, status);
        parked_free(p);
    }
}

void outbox_drop(struct daemon *d, struct outbox *o)
{
    parked_answer_all(d, o, BERTH_E_RESET);
    list_unlink(&o->link);
    idmap_remove(&d->outbox_by_handle, o->handle);
    for (uint32_t i = 0; i < o->holders.count; i++)
        (void)ptrset_remove(&((struct worker *)o->holders.item[i])->held, o);
    for (uint32_t i = 0; i < o->got.count; i++)
        (void)ptrset_remove(&((struct worker *)o->got.item[i])->got, o);
    ptrset_free(&o->holders);
    ptrset_free(&o->got);
    for (uint32_t i = 0; i < o->segment_count; i++)
        close(o->segments[i].fd);
    free(o->segments);
    if (o->dead) {
        list_unlink(&o->of_left);
        o->facing->left_count--;
        if (--d->left_count == 0)
            d->sweep_at = 0;
    }
    struct worker *owner = o->owner;
    free(o);
    owner->own_outboxes--;
    worker_release(d, owner);
}

/* Of offers that nobody is seen to have answered it cannot be told whether they lie in a queue, are just
 * being taken, or were taken and closed since. A queue gives in order: once it has been found empty after the
 * death, theirs have been taken. Whoever took them last is given a few looks more, seconds apart, to name
 * them in a slot of his. */
#define UNWANTED_LOOKS 3
#define UNSEEN_LOOKS 8 /* of a queue that we cannot see into; they take a minute */

/* Asks the kernel nothing for which it would take the pipe's lock (pipes.c). */
static bool queues_empty(const struct app *app, struct outbox *o)
{
    bool unseen = false;
    list_for_each(&app->space->listeners, it, after)
    {
        const struct listener *l = container_of(it, struct listener, link);
        struct pollfd p = {.fd = l->pipe_fd, .events = POLLIN};
        if (l->app != app)
            continue;
        if ((fcntl(l->pipe_fd, F_GETFL) & O_ACCMODE) != O_RDWR) /* made by a worker without /proc */
            unseen = true;
        else if (poll(&p, 1, 0) != 0)
            return false;
    }
    return !unseen || ++o->looks >= UNSEEN_LOOKS;
}

static bool needed(struct daemon *d, struct outbox *o)
{
    if (!o->facing->worker_count && !o->facing->moves)
        return false; /* nothing else holds that app (app_leave_nothing) */
    if (moves_want(d, o))
        return true;
    if (!o->facing->worker_count)
        return false;
    enum need need = slots_need(d, o);
    if (need == NEED_NOTHING)
        return false;
    o->drained = o->drained || (need == NEED_ANSWERS && queues_empty(o->facing, o));
    if (need == NEED_SESSIONS || slots_named(o))
        o->unwanted = 0;
    else if (o->drained && ++o->unwanted >= UNWANTED_LOOKS)
        return false;
    return true;
}

void outbox_die(struct daemon *d, struct outbox *o)
{
    struct app *facing = o->facing;
    o->dead = true;
    d->left_count++;
    facing->left_count++;
    list_unlink(&o->link);
    list_append(&facing->left, &o->link);
    list_append(&d->left, &o->of_left);
    parked_answer_all(d, o, BERTH_E_RESET);
    slots_wake(o);
    if (!needed(d, o)) {
        outbox_drop(d, o);
        return;
    }
    while (facing->left_count > LEFT_MAX) {
        log_debug("app %u: %u outboxes of dead workers wait for it; the oldest goes", facing->id,
                  facing->left_count);
        outbox_drop(d, container_of(facing->left.next, struct outbox, link));
    }
    int64_t at = clock_now() + SWEEP_FIRST;
    d->sweep_wait = SWEEP_FIRST;
    if (!d->sweep_at || d->sweep_at > at)
        d->sweep_at = at;
}

/* By the timer, or because ports ran out. Then again later, twice as late if nothing went. Dropping one may
 * free its owner and the owner's app, and living outboxes that face that app, but no other dead one. */
void outbox_sweep(struct daemon *d)
{
    uint32_t before = d->left_count;
    list_for_each(&d->left, it, after)
    {
        struct outbox *o = container_of(it, struct outbox, of_left);
        if (!needed(d, o))
            outbox_drop(d, o);
    }
    d->sweep_wait = d->left_count < before ? SWEEP_FIRST : d->sweep_wait * 2;
    if (d->sweep_wait > SWEEP_SLOWEST)
        d->sweep_wait = SWEEP_SLOWEST;
    d->sweep_at = d->left_count ? clock_now() + d->sweep_wait : 0;
}

/* ---- requests ---- */

int handle_outbox(struct daemon *d, struct request *r)
{
    const struct ctl_outbox *m = &r->msg->outbox;
    struct worker *w = r->conn->worker;
    struct app *facing = app_find(d, m->facing_app);
    struct outbox *o;
    if (!facing && m->facing_app && m->facing_app <= d->last_app)
        return 0; /* it has just gone; the owner will hear of it */
    if (!facing || facing->space != w->app->space || facing->uid != w->uid)
        return BERTH_E_PROTOCOL;
    int err = outbox_register(d, w, m->outbox, facing, r->fds[0], &o);
    if (!err)
        r->fds[0] = -1;
    return err;
}

/* An outbox that the sender may write. *gone: it named one that was its family's and is no more. */
static struct outbox *writable(struct daemon *d, const struct worker *w, outbox_handle handle, bool *gone)
{
    struct outbox *o = outbox_known(d, handle);
    *gone = !o && outbox_worker(handle) && outbox_worker(handle) <= d->last_worker;
    return o && ptrset_has(&o->holders, w) ? o : NULL;
}

int handle_segment(struct daemon *d, struct request *r)
{
    const struct ctl_outbox *m = &r->msg->outbox;
    bool gone;
    uint64_t size;
    struct outbox *o = writable(d, r->conn->worker, m->outbox, &gone);
    if (gone)
        return 0;
    if (!o || !m->index || m->index > SEGMENT_INDEX_MAX || outbox_segment(o, m->index))
        return BERTH_E_PROTOCOL;
    int err = segment_check(d, r->conn->worker, m->outbox, m->index, 0, r->fds[0], &size);
    if (!err && (size > d->limits.outbox_bytes || o->bytes > d->limits.outbox_bytes - size))
        err = BERTH_E_LIMIT;
    if (!err)
        err = segment_insert(o, m->index, r->fds[0], size);
    if (err)
        return err;
    r->fds[0] = -1;
    list_for_each(&o->parked, it, after)
    {
        struct parked *p = container_of(it, struct parked, of_outbox);
        if (p->index != m->index)
            continue;
        send_segment(d, p->worker, o, p->index, p->seq, 0);
        parked_free(p);
    }
    return 0;
}

int handle_retire(struct daemon *d, struct request *r)
{
    const struct ctl_outbox *m = &r->msg->outbox;
    bool gone;
    struct outbox *o = writable(d, r->conn->worker, m->outbox, &gone);
    if (gone)
        return 0;
    const struct segment *s = o ? outbox_segment(o, m->index) : NULL;
    if (!s)
        return BERTH_E_PROTOCOL;
    struct ctl_outbox note = {.h = {.type = CTL_RETIRED, .len = sizeof note},
                              .outbox = o->handle,
                              .facing_app = o->facing->id,
                              .index = m->index};
    for (uint32_t i = 0; i < o->got.count; i++)
        conn_send(d, ((struct worker *)o->got.item[i])->conn, &note, sizeof note, NULL, 0);
    if (!m->index) { /* the whole of it */
        outbox_drop(d, o);
        return 0;
    }
    close(s->fd);
    o->bytes -= s->size;
    uint32_t at = (uint32_t)(s - o->segments);
    memmove(o->segments + at, o->segments + at + 1, (--o->segment_count - at) * sizeof o->segments[0]);
    return 0;
}

static bool may_read(const struct worker *w, const struct outbox *o)
{
    return w->app == o->facing || (w->app_id == o->owner->app_id && w->family == o->owner->family);
}

/* OUTBOX_IS or PEER */
static int give_outbox(struct daemon *d, struct worker *to, struct outbox *o, uint16_t type, uint32_t seq)
{
    const struct worker *owner = o->owner;
    int err = ptrset_add(&to->got, o);
    if (!err && (err = ptrset_add(&o->got, to)))
        (void)ptrset_remove(&to->got, o);
    if (err)
        return err;
    struct ctl_outbox_is m = {.h = {.type = type, .len = sizeof m, .seq = seq},
                              .outbox = o->handle,
                              .worker = owner->id,
                              .app = owner->app_id,
                              .uid = owner->uid,
                              .pid = owner->pid > 0 ? (uint32_t)owner->pid : 0,
                              .dead = o->dead};
    int fds[3] = {o->segments[0].fd, owner->page_fd, owner->bell_fd};
    conn_send(d, to->conn, &m, sizeof m, fds, 3);
    return 0;
}

/* Whoever was forked from the connector's worker holds its sessions too, and may be all that is left of it.
 */
static void announce_to_heirs(struct daemon *d, struct outbox *o, uint32_t connector, struct errand *e)
{
    list_for_each(&o->facing->workers, it, after)
    {
        struct worker *w = container_of(it, struct worker, link);
        for (uint32_t i = 0; w->id != connector && i < w->held.count; i++) {
            const struct outbox *theirs = w->held.item[i];
            if (theirs->owner->id == connector && theirs->facing->id == o->owner->app_id) {
                (void)give_outbox(d, w, o, CTL_PEER, 0);
                conn_last_of(w->conn, e);
                break;
            }
        }
    }
}

void errand_end(struct daemon *d, struct errand *e)
{
    if (--e->packets)
        return;
    const struct worker *from = worker_find(d, e->from);
    struct ctl_outbox m = {
        .h = {.type = CTL_ANNOUNCED, .len = sizeof m}, .outbox = e->outbox, .worker = e->to};
    free(e);
    if (from)
        conn_send(d, from->conn, &m, sizeof m, NULL, 0);
}

/* Who accepts looks at what the connector may have done before it could know whom to tell: after PEER was in
 * its socket. */
int handle_announce(struct daemon *d, struct request *r)
{
    const struct ctl_outbox *m = &r->msg->outbox;
    bool gone;
    struct outbox *o = writable(d, r->conn->worker, m->outbox, &gone);
    struct worker *to = worker_find(d, m->worker);
    if (gone)
        return 0; /* one of the two has just gone: DEAD is on its way */
    bool left = o && !to && m->worker && m->worker <= d->last_worker;
    if (!o || (!left && (!to || to->app != o->facing)))
        return BERTH_E_PROTOCOL;
    struct errand *e = calloc(1, sizeof *e);
    if (!e)
        return BERTH_E_NO_MEMORY;
    *e = (struct errand){1, r->conn->worker->id, m->worker, m->outbox};
    announce_to_heirs(d, o, m->worker, e);
    int err = 0;
    if (to && !(err = give_outbox(d, to, o, CTL_PEER, 0)))
        conn_last_of(to->conn, e);
    errand_end(d, e);
    return err;
}

static void give_all(struct daemon *d, struct worker *to, const struct list *outboxes, uint32_t owner_app)
{
    list_for_each(outboxes, it, after)
    {
        struct outbox *o = container_of(it, struct outbox, link);
        if (o->owner->app_id == owner_app)
            (void)give_outbox(d, to, o, CTL_PEER, 0);
    }
}

/* A forked worker holds offers that its parent made, and does not know what its parent was told of. */
int handle_get_peers(struct daemon *d, struct request *r)
{
    const struct worker *w = r->conn->worker;
    give_all(d, r->conn->worker, &w->app->facing, r->msg->outbox.facing_app);
    give_all(d, r->conn->worker, &w->app->left, r->msg->outbox.facing_app);
    return 0;
}

int handle_get_outbox(struct daemon *d, struct request *r)
{
    struct outbox *o = outbox_known(d, r->msg->outbox.outbox);
    if (!o)
        return BERTH_E_BAD_HANDLE;
    if (!may_read(r->conn->worker, o))
        return BERTH_E_PERMISSION;
    return give_outbox(d, r->conn->worker, o, CTL_OUTBOX_IS, r->seq);
}

int handle_get_segment(struct daemon *d, struct request *r)
{
    const struct ctl_outbox *m = &r->msg->outbox;
    struct worker *w = r->conn->worker;
    struct outbox *o = outbox_known(d, m->outbox);
    if (!o)
        return refuse_segment(d, r, BERTH_E_BAD_HANDLE);
    if (!may_read(w, o))
        return refuse_segment(d, r, BERTH_E_PERMISSION);
    if (m->index > SEGMENT_INDEX_MAX)
        return refuse_segment(d, r, BERTH_E_INVALID);
    if (outbox_segment(o, m->index)) {
        send_segment(d, w, o, m->index, r->seq, 0);
        return 0;
    }
    if (o->dead)
        return refuse_segment(d, r, BERTH_E_RESET);
    struct parked *p = w->parked_count < PARKED_MAX ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return refuse_segment(d, r, w->parked_count < PARKED_MAX ? BERTH_E_NO_MEMORY : BERTH_E_LIMIT);
    p->worker = w;
    p->outbox = o;
    p->seq = r->seq;
    p->index = m->index;
    w->parked_count++;
    list_append(&w->parked, &p->of_worker);
    list_append(&o->parked, &p->of_outbox);
    return 0;
}
