/* show.c - SHOW: what the daemon knows, as JSON in a memfd.
 *
 * Theory of operation
 *
 * The answer is an array of flat objects, one per line, written row by row, so that a hundred thousand
 * sessions cost no more memory than one. The daemon's owner and root see everything; anybody else sees what
 * belongs to their own apps, and the namespaces that admit them. Secrets are never shown.
 *
 * A session is shown once: from the connector's slot where there is one, else (connector gone) from the
 * acceptor's.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/registry.h"
#include "session/endpoint.h"

#define NAMES 64u

struct sheet { /* the answer as it is written */
    struct daemon *d;
    const struct conn *viewer;
    bool all;
    FILE *file;
    bool started;
    struct quoted_name {
        uint32_t app; /* 0: none */
        char json[CTL_NAME_MAX * 6 + 3];
    } names[NAMES];
};

bool conn_is_admin(const struct daemon *d, const struct conn *c)
{
    return c->uid == 0 || c->uid == d->uid;
}

static bool visible(const struct sheet *sheet, uid_t uid)
{
    return sheet->all || sheet->viewer->uid == uid;
}

/* Takes the row. */
static void add_row(struct sheet *sheet, json_t *row)
{
    if (!row)
        return;
    fputs(sheet->started ? ",\n" : "[\n", sheet->file);
    sheet->started = true;
    (void)json_dumpf(row, sheet->file, JSON_COMPACT);
    json_decref(row);
}

/* A string from an app: bytes that are not UTF-8 are shown as '?'. */
static json_t *text(const char *s)
{
    json_t *json = json_string(s);
    if (json)
        return json;
    char clean[CTL_NAME_MAX + 64];
    size_t n = 0;
    for (; s[n] && n + 1 < sizeof clean; n++)
        clean[n] = (unsigned char)s[n] < 0x80 ? s[n] : '?';
    clean[n] = '\0';
    return json_string(clean);
}

static void endpoint_write(const uint8_t addr[16], uint16_t port, uint8_t kind, char out[96])
{
    endpoint ep = {
        .port = port, .proto = PROTO_TCP, .family = kind == 4 || (!kind && endpoint_is_v4(addr)) ? 4 : 6};
    memcpy(ep.addr, addr, 16);
    (void)endpoint_format(&ep, out, 96);
}

static json_t *endpoint_text(const uint8_t addr[16], uint16_t port)
{
    char buf[96];
    endpoint_write(addr, port, 0, buf);
    return json_string(buf);
}

static json_t *comm_of(pid_t pid)
{
    char path[64], comm[64] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    if (f) {
        if (!fgets(comm, sizeof comm, f))
            comm[0] = '\0';
        fclose(f);
    }
    comm[strcspn(comm, "\n")] = '\0';
    return text(comm);
}

/* ---- apps, workers, listeners, segments, namespaces ---- */

static json_t *app_flags(uint32_t flags)
{
    json_t *list = json_array();
    if (flags & CTL_SCOPE_LOCAL)
        json_array_append_new(list, json_string("local"));
    if (flags & CTL_SCOPE_GLOBAL)
        json_array_append_new(list, json_string("global"));
    if (flags & CTL_PROXY)
        json_array_append_new(list, json_string("proxy"));
    return list;
}

static void show_apps(struct sheet *sheet)
{
    list_for_each(&sheet->d->apps, it, after)
    {
        const struct app *app = container_of(it, struct app, link);
        if (app->worker_count && visible(sheet, app->uid))
            add_row(sheet,
                    json_pack("{s:I,s:o,s:s,s:I,s:I,s:I,s:I,s:o,s:I,s:I,s:I}", "app", (json_int_t)app->id,
                              "name", text(app->name), "namespace", app->space->ns->id, "netns",
                              (json_int_t)app->space->netns, "uid", (json_int_t)app->uid, "workers",
                              (json_int_t)app->worker_count, "listeners", (json_int_t)app->listener_count,
                              "scope", app_flags(app->flags), "rx_fifo_size", (json_int_t)app->rx_fifo_size,
                              "tx_fifo_size", (json_int_t)app->tx_fifo_size, "segment_size",
                              (json_int_t)app->segment_size));
    }
}

static void show_worker(struct sheet *sheet, const struct worker *w)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < w->held.count; i++) {
        const struct outbox *o = w->held.item[i];
        bytes += o->owner == w ? o->bytes : 0;
    }
    add_row(sheet,
            json_pack("{s:I,s:I,s:I,s:o,s:o,s:I,s:s,s:I,s:I,s:I,s:I}", "worker", (json_int_t)w->id, "pid",
                      (json_int_t)w->pid, "app", (json_int_t)w->app_id, "app_name", text(w->app->name),
                      "comm", comm_of(w->pid), "uid", (json_int_t)w->uid, "namespace", w->app->space->ns->id,
                      "family", (json_int_t)w->family, "member", (json_int_t)w->member, "outboxes",
                      (json_int_t)w->own_outboxes, "bytes", (json_int_t)bytes));
}

static void show_workers(struct sheet *sheet)
{
    list_for_each(&sheet->d->apps, it, after)
    {
        struct app *app = container_of(it, struct app, link);
        if (!visible(sheet, app->uid))
            continue;
        list_for_each(&app->workers, w, next) show_worker(sheet, container_of(w, struct worker, link));
    }
}

static void show_listeners(struct sheet *sheet)
{
    list_for_each(&sheet->d->spaces, it, after)
    {
        struct space *space = container_of(it, struct space, link);
        list_for_each(&space->listeners, l_it, next)
        {
            const struct listener *l = container_of(l_it, struct listener, link);
            if (!visible(sheet, l->app->uid))
                continue;
            add_row(sheet,
                    json_pack("{s:I,s:s,s:o,s:I,s:o,s:I,s:I,s:s,s:I,s:b,s:I}", "listener", (json_int_t)l->id,
                              "proto", "tcp", "endpoint", endpoint_text(l->entry.addr, l->entry.port), "app",
                              (json_int_t)l->app->id, "app_name", text(l->app->name), "backlog",
                              (json_int_t)l->entry.backlog, "uid", (json_int_t)l->app->uid, "namespace",
                              space->ns->id, "netns", (json_int_t)space->netns, "v6only",
                              (l->entry.flags & DIR_V6ONLY) != 0, "workers", (json_int_t)l->holders.count));
        }
    }
}

static void show_segments(struct sheet *sheet)
{
    uint32_t at = 0;
    for (struct outbox *o; (o = idmap_next(&sheet->d->outbox_by_handle, &at));) {
        char handle[32];
        if (!visible(sheet, o->owner->uid))
            continue;
        (void)snprintf(handle, sizeof handle, "%u.%u", outbox_worker(o->handle), (unsigned)o->handle);
        for (uint32_t i = 0; i < o->segment_count; i++)
            add_row(sheet, json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:b}", "outbox", handle, "segment",
                                     (json_int_t)o->segments[i].index, "bytes",
                                     (json_int_t)o->segments[i].size, "worker", (json_int_t)o->owner->id,
                                     "pid", (json_int_t)o->owner->pid, "app", (json_int_t)o->owner->app_id,
                                     "facing_app", (json_int_t)o->facing->id, "dead", o->dead));
    }
}

static void show_namespaces(struct sheet *sheet)
{
    struct daemon *d = sheet->d;
    list_for_each(&d->namespaces, it, after)
    {
        const struct ns *ns = container_of(it, struct ns, link);
        char mode[8];
        uint32_t apps = 0;
        if (!sheet->all && !ns_admits_user(d, ns, sheet->viewer))
            continue;
        list_for_each(&d->apps, a, next) apps += container_of(a, struct app, link)->space->ns == ns &&
                                                 container_of(a, struct app, link)->worker_count;
        (void)snprintf(mode, sizeof mode, "%04o", ns->mode & 0777);
        add_row(sheet, json_pack("{s:s,s:b,s:I,s:I,s:s,s:I}", "namespace", ns->id, "secret", ns->has_secret,
                                 "owner", (json_int_t)ns->owner, "group", (json_int_t)ns->group, "mode", mode,
                                 "apps", (json_int_t)apps));
    }
}

/* ---- sessions ---- */

static const char *state_name(uint8_t state)
{
    static const char *const names[] = {"free", "offered", "accepted", "open", "closed", "moved"};
    _Static_assert(sizeof names / sizeof names[0] == SLOT_STATES, "a state without a name");
    return state < SLOT_STATES ? names[state] : "bad";
}

/* What this slot sends and how much of it is unread; a counter that makes no sense shows as 0. */
static void direction(const struct slot *from, const struct slot *to, json_int_t *sent, json_int_t *fill,
                      json_int_t *size)
{
    uint64_t tail = count_offset(from->tail), head = to ? count_offset(to->head) : tail;
    uint32_t log2 = ring_log2(from->ring);
    *sent = (json_int_t)tail;
    *fill = tail >= head && tail - head <= 1ull << RING_MAX_LOG2 ? (json_int_t)(tail - head) : 0;
    *size = from->ring && log2 >= RING_MIN_LOG2 && log2 <= RING_MAX_LOG2 ? (json_int_t)1 << log2 : 0;
}

/* A name as JSON, quotes and all; the last few are kept, since neighbouring rows have the same. */
static const char *quoted(struct sheet *sheet, uint32_t app_id)
{
    struct quoted_name *q = &sheet->names[app_id % NAMES];
    if (q->app != app_id) {
        const struct app *app = app_find(sheet->d, app_id);
        json_t *name = text(app ? app->name : "");
        char *json = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
        (void)snprintf(q->json, sizeof q->json, "%s", json ? json : "\"\"");
        free(json);
        json_decref(name);
        q->app = app_id;
    }
    return q->json;
}

/* By printf, unlike the other rows: there may be a hundred thousand, and the loop waits. Nothing in it needs
 * quoting but names. */
static void show_session(struct sheet *sheet, const struct outbox *o, const struct slot_pair *mine,
                         const struct slot *peer, const struct outbox *peer_outbox)
{
    static const struct slot none;
    json_int_t out, out_fill, out_size, in, in_fill, in_size;
    char local[96], remote[96];
    direction(&mine->slot, peer, &out, &out_fill, &out_size);
    direction(peer ? peer : &none, peer ? &mine->slot : NULL, &in, &in_fill, &in_size);
    endpoint_write(mine->info.local_addr, mine->info.local_port, mine->info.addr_kind, local);
    endpoint_write(mine->info.remote_addr, mine->info.remote_port, mine->info.addr_kind, remote);
    fprintf(sheet->file,
            "%s{\"proto\":\"tcp\",\"local\":\"%s\",\"remote\":\"%s\",\"local_app\":%u,\"local_app_name\":%s,"
            "\"local_"
            "pid\":%d,"
            "\"local_state\":\"%s\",\"remote_app\":%u,\"remote_app_name\":%s,\"remote_pid\":%d,\"remote_"
            "state\":\"%s\","
            "\"tx_bytes\":%lld,\"rx_bytes\":%lld,\"tx_fill\":%lld,\"rx_fill\":%lld,\"tx_ring\":%lld,\"rx_"
            "ring\":%lld}",
            sheet->started ? ",\n" : "[\n", local, remote, o->owner->app_id, quoted(sheet, o->owner->app_id),
            (int)o->owner->pid, o->dead ? "dead" : state_name(mine->slot.state), o->facing->id,
            quoted(sheet, o->facing->id), peer_outbox ? (int)peer_outbox->owner->pid : 0,
            !peer                              ? "none"
            : peer_outbox && peer_outbox->dead ? "dead"
                                               : state_name(peer->state),
            (long long)out, (long long)in, (long long)out_fill, (long long)in_fill, (long long)out_size,
            (long long)in_size);
    sheet->started = true;
}

/* Of two slots that name each other, is it mine by which the session is shown? The connector's, as far as the
 * states tell. */
static bool shows_pair(const struct slot_pair *mine, const struct outbox *o, const struct slot *peer,
                       const struct outbox *other)
{
    bool mine_accepts = mine->slot.state == SLOT_ACCEPTED, peer_accepts = peer->state == SLOT_ACCEPTED;
    if (mine_accepts != peer_accepts)
        return peer_accepts;
    bool mine_offers = mine->slot.state == SLOT_OPEN || mine->slot.state == SLOT_OFFERED;
    bool peer_offers = peer->state == SLOT_OPEN || peer->state == SLOT_OFFERED;
    if (mine_offers != peer_offers)
        return mine_offers;
    if (o->handle != other->handle)
        return o->handle < other->handle;
    /* an app that talks to itself: either, but one */
    return (uint32_t)mine->slot.peer > (uint32_t)(peer->peer);
}

/* Connectors' slots that were shown by the acceptor's, because they do not name it yet. */
struct shown {
    struct place {
        outbox_handle outbox;
        uint32_t index;
    } * place;
    uint32_t count, room;
};

static void shown_add(struct shown *shown, outbox_handle outbox, uint32_t index)
{
    if (shown->count == shown->room) {
        uint32_t room = shown->room ? shown->room * 2 : 64;
        struct place *bigger = realloc(shown->place, room * sizeof *bigger);
        if (!bigger)
            return; /* that one is shown twice */
        shown->place = bigger;
        shown->room = room;
    }
    shown->place[shown->count++] = (struct place){outbox, index};
}

static int place_order(const void *va, const void *vb)
{
    const struct place *a = va, *b = vb;
    if (a->outbox != b->outbox)
        return a->outbox < b->outbox ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

struct walk { /* over all slots of all outboxes, twice */
    struct sheet *sheet;
    struct shown shown;
    struct chunk_view *view;
    struct peer_view peer;
};

/* First time: sessions of which both slots are found. */
static void show_paired(struct walk *walk, const struct outbox *o, const struct slot_pair *mine,
                        uint32_t index)
{
    if (!mine->slot.peer)
        return;
    bool found = slots_peer(walk->sheet->d, o, mine, index, &walk->peer);
    const struct outbox *other = walk->peer.outbox;
    const struct slot *peer = &walk->peer.slot;
    if (!found) { /* the other side is gone: over, unless this side has yet to notice */
        if (!o->dead && mine->slot.state != SLOT_CLOSED)
            show_session(walk->sheet, o, mine, NULL, NULL);
    } else if (!peer->peer) { /* only an acceptor names one that does not name it */
        struct slot_pair offer = {walk->peer.slot, walk->peer.info};
        show_session(walk->sheet, other, &offer, &mine->slot, o);
        shown_add(&walk->shown, other->handle, (uint32_t)mine->slot.peer);
    } else if (shows_pair(mine, o, peer, other)) {
        show_session(walk->sheet, o, mine, peer, other);
    }
}

/* Second time: offers that nobody has answered. */
static void show_alone(struct walk *walk, const struct outbox *o, const struct slot_pair *mine,
                       uint32_t index)
{
    struct place place = {o->handle, index};
    if (!mine->slot.peer && !(walk->shown.count && bsearch(&place, walk->shown.place, walk->shown.count,
                                                           sizeof place, place_order)))
        show_session(walk->sheet, o, mine, NULL, NULL);
}

static void walk_outbox(struct walk *walk, const struct outbox *o,
                        void (*each)(struct walk *, const struct outbox *, const struct slot_pair *,
                                     uint32_t))
{
    uint32_t chunks = slots_chunks(o);
    for (uint32_t c = 0; c < chunks; c++) {
        if (!slots_load(o, c, walk->view))
            continue;
        for (uint32_t i = 0; i < CHUNK_SLOTS; i++) {
            struct slot_pair mine = {walk->view->slot[i], walk->view->info[i]};
            if (mine.slot.state != SLOT_FREE && mine.slot.state <= SLOT_MOVED)
                each(walk, o, &mine, c * CHUNK_SLOTS + i);
        }
    }
}

static void show_sessions(struct sheet *sheet)
{
    struct walk walk = {.sheet = sheet, .view = malloc(sizeof *walk.view)};
    for (int pass = 0; walk.view && pass < 2; pass++) {
        uint32_t at = 0;
        for (struct outbox *o; (o = idmap_next(&sheet->d->outbox_by_handle, &at));) {
            if (visible(sheet, o->owner->uid))
                walk_outbox(&walk, o, pass ? show_alone : show_paired);
        }
        if (walk.shown.count)
            qsort(walk.shown.place, walk.shown.count, sizeof walk.shown.place[0], place_order);
    }
    free(walk.shown.place);
    free(walk.view);
}

/* ---- request ---- */

static void (*const shows[])(struct sheet *) = {
    [CTL_SHOW_APPS] = show_apps,           [CTL_SHOW_WORKERS] = show_workers,
    [CTL_SHOW_LISTENERS] = show_listeners, [CTL_SHOW_SESSIONS] = show_sessions,
    [CTL_SHOW_SEGMENTS] = show_segments,   [CTL_SHOW_NAMESPACES] = show_namespaces,
};

_Static_assert(sizeof shows / sizeof shows[0] == CTL_SHOW_LAST + 1, "something to show without a function");

int handle_show(struct daemon *d, struct request *r)
{
    uint32_t what = r->msg->show.what;
    if (!what || what > CTL_SHOW_LAST)
        return BERTH_E_INVALID;
    int fd = memfd_create("berth-show", MFD_CLOEXEC);
    int write_fd = fd < 0 ? -1 : dup(fd);
    struct sheet sheet = {.d = d,
                          .viewer = r->conn,
                          .all = conn_is_admin(d, r->conn),
                          .file = write_fd < 0 ? NULL : fdopen(write_fd, "w")};
    int err = BERTH_E_NO_MEMORY;
    if (!sheet.file) {
        if (write_fd >= 0)
            close(write_fd);
        goto out;
    }
    shows[what](&sheet);
    fputs(sheet.started ? "\n]\n" : "[]\n", sheet.file);
    struct ctl_shown reply = {.h = {.type = CTL_SHOWN, .len = sizeof reply, .seq = r->seq}};
    bool failed = ferror(sheet.file) != 0;
    failed |= fclose(sheet.file) != 0;
    off_t size = lseek(fd, 0, SEEK_END);
    if (failed || size < 0 || lseek(fd, 0, SEEK_SET) < 0)
        goto out;
    reply.bytes = (uint64_t)size;
    conn_send(d, r->conn, &reply, sizeof reply, &fd, 1);
    err = 0;
out:
    if (fd >= 0)
        close(fd);
    return err;
}
