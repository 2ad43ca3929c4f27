/* accept.c - taking what connectors offer.
 *
 * Theory of operation
 *
 * A token comes out of the listener's pipe; it names a slot of the connector's outbox. If that is not known yet, the token
 * is set aside (`pending`) while the daemon is asked for it. Then the offer is checked against the slot itself, and a slot of our
 * own outbox answers it. What cannot be answered for want of something, a descriptor say, is set aside too: to the connector it is as
 * a connection in the backlog of a program that does not accept.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"
#include "shm/ctlsock.h"

#define PENDING_MAX 1024u

/* ---- the offer ------------------------------------------------------------------------------------------------- */

/* Ours that faces the connector's app: it is made, and the daemon told, at the first offer from there. */
static struct own_box *answering_outbox(struct peer_box *box, int *err)
{
    int fd = -1;
    plock_take(&C->lock);
    *err = 0;
    struct own_box *own = box->own ? box->own : outbox_find(box->worker->app);
    if (!own) {
        if ((own = outbox_create(box->worker->app, &fd))) {
            struct ctl_outbox msg = {.h = {.type = CTL_OUTBOX, .len = sizeof msg},
                                     .outbox = outbox_rec_of(own)->handle,
                                     .facing_app = box->worker->app};
            *err = control_send(&msg, &fd, 1);
            (void)sys_close(fd);
        } else {
            *err = BERTH_E_NO_MEMORY;
        }
    }
    if (*err && own) {
        outbox_bury(own); /* nobody knows it */
        own = NULL;
    }
    if (own && box->own != own)
        store_release(&box->own, own);
    plock_release(&C->lock);
    return own;
}

/* Takes the offer that `t` announces. 0; BERTH_E_REFUSED: it is stale, take the next; or a reason not to go on, and then it
 * still stands. */
static int accept_offer(struct peer_box *box, const struct token *t, uint32_t listener, session_handle *out)
{
    const struct slot *p = peer_slot_wait(box, t->slot) ? peer_slot(box, t->slot) : NULL;
    const struct slot_info *info = p ? peer_info(box, t->slot) : NULL;
    if (!info)
        return BERTH_E_REFUSED;
    uint8_t state = slot_state(p);
    if ((state != SLOT_OFFERED && state != SLOT_CLOSED) || load_relaxed(&p->generation) != t->generation ||
        load_acquire(&p->peer) != 0 || load_relaxed(&info->offer_seq) != t->offer_seq ||
        load_relaxed(&info->listener) != listener)
        return BERTH_E_REFUSED;
    int err;
    struct own_box *own = answering_outbox(box, &err);
    if (!own)
        return err;
    struct session *s = session_alloc();
    if (!s)
        return BERTH_E_LIMIT;
    uint32_t own_slot;
    if ((err = outbox_slot_alloc(own, &own_slot)) != 0) {
        session_free(s);
        return err;
    }
    memcpy(s->local.addr, info->remote_addr, 16);
    memcpy(s->remote.addr, info->local_addr, 16);
    s->local.port = load_relaxed(&info->remote_port);
    s->remote.port = load_relaxed(&info->local_port);
    s->local.proto = s->remote.proto = PROTO_TCP;
    s->local.family = s->remote.family = load_relaxed(&info->addr_kind) == 6 ? 6 : 4;
    uint64_t limit = load_relaxed(&info->rx_limit);
    if (limit >= 4096 && limit < load_relaxed(&s->tx_limit))
        store_relaxed(&s->tx_limit, limit);
    store_relaxed(&s->listener, listener);
    store_relaxed(&s->app, box->worker->app);
    store_relaxed(&s->offer_seq, t->offer_seq);
    store_relaxed(&s->own_outbox, own->index);
    store_relaxed(&s->own_slot, own_slot);
    store_relaxed(&s->peer_outbox, box->handle);
    store_relaxed(&s->peer_slot, t->slot);
    s->peer_generation = t->generation;
    session_fill_slot(s, own);
    struct session_cache *c = session_cache_make(s);
    store_release(&c->own->peer, (uint64_t)t->generation << 32 | t->slot);
    session_set_state(s, SESSION_OPEN);
    slot_set_state(c->own, SLOT_ACCEPTED);
    channel_pair(box);
    if (load_sc(
            &box->worker
                 ->dead)) { /* looked at when others can find the session: sessions_of_worker_dead may be at it */
        fetch_or_sc(&s->flags, SF_DEAD);
    } else {
        channel_event(s, c);
        if (!load_relaxed(&box->announced) &&
            channel_announce(box)) /* by two at once: the daemon minds it no more than we do */
            store_relaxed(&box->announced, true);
    }
    /* All that tells the connector of us is on its way: if its number has not moved yet, it will hear of us before it asks anybody
     * else (slot_set_state is the fence between). Otherwise it may have chosen another. */
    if (t->offer_seq > 1 || load_sc(&info->offer_seq) != t->offer_seq)
        fetch_or_sc(&s->flags, SF_TENTATIVE);
    plock_take(&C->zombie_lock);
    s->next = C->unconfirmed;
    store_release(&C->unconfirmed, session_index(s) + 1);
    plock_release(&C->zombie_lock);
    *out = session_handle_of(s);
    return 0;
}

int session_accept(struct peer_box *box, const struct token *t, uint32_t listener, session_handle *out)
{
    plock_take(&C->lock); /* from here on it counts as used: peers_collect leaves it alone */
    bool gone = box->buried != 0;
    if (!gone)
        fetch_add_sc(&box->sessions, 1);
    plock_release(&C->lock);
    if (gone)
        return BERTH_E_IN_PROGRESS;
    int err = accept_offer(box, t, listener, out);
    if (err)
        fetch_add_sc(&box->sessions, ~0u);
    return err;
}

/* ---- the listener's tokens --------------------------------------------------------------------------------------- */

static uint32_t ask_outbox(outbox_handle handle)
{
    uint32_t ask = control_async_seq();
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg, .seq = ask}, .outbox = handle};
    (void)control_send(&msg, NULL, 0);
    return ask;
}

/* Where other processes accept from the same queue, nobody may sit on a token, or take a second one while he does: they
 * would serve it at once. So it is waited for, which is a round trip to the daemon, once for each connector. */
static struct peer_box *fetch_outbox(outbox_handle handle, int *err)
{
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg}, .outbox = handle};
    struct ctl_outbox_is is;
    int fds[3] = {-1, -1, -1}, nfds = 3;
    if ((*err = control_request(&msg, NULL, 0, &is, sizeof is, fds, &nfds)) != 0)
        return NULL;
    if (nfds != 3 || is.outbox != handle) {
        for (int i = 0; i < nfds; i++)
            (void)sys_close(fds[i]);
        return NULL;
    }
    plock_take(&C->lock);
    struct peer_box *box = peer_box_add(&is, fds);
    plock_release(&C->lock);
    return box;
}

static void set_aside(struct listener *l, const struct token *t, bool ask)
{
    uint32_t number = 0;
    plock_take(&C->lock);
    struct pending_token **p = &l->pending;
    for (; *p; p = &(*p)->next) {
        if ((*p)->token.outbox == t->outbox)
            number = (*p)->ask;
    }
    struct pending_token *new = memory_get(sizeof *new);
    if (new) {
        store_relaxed(&l->pending_count, l->pending_count + 1);
        new->token = *t;
        new->ask = number || !ask ? number : ask_outbox(t->outbox);
        store_release(p, new);
    }
    plock_release(&C->lock);
    if (!new)
        log_warn("listener %u: an offer is dropped: out of memory", l->id);
}

/* Of an outbox that is not to be had nobody waits for the session any more. */
void listener_answered(int status, uint32_t ask)
{
    plock_take(&C->lock);
    for (uint32_t i = 0; i < LISTENERS_MAX && status; i++) {
        struct listener *l = &C->listeners[i];
        for (struct pending_token **p = &l->pending; l->generation & 1 && *p;) {
            struct pending_token *this = *p;
            if (this->ask != ask) {
                p = &this->next;
                continue;
            }
            store_relaxed(p, this->next);
            store_relaxed(&l->pending_count, l->pending_count - 1);
            memory_put(this, sizeof *this);
        }
    }
    plock_release(&C->lock);
    listener_retry_pending();
}

/* Does a token that was set aside name that outbox? C->lock is held. */
bool listeners_want(outbox_handle handle)
{
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        const struct listener *l = &C->listeners[i];
        for (const struct pending_token *p = l->generation & 1 ? l->pending : NULL; p; p = p->next) {
            if (p->token.outbox == handle)
                return true;
        }
    }
    return false;
}

/* The oldest token set aside whose outbox has come. */
static bool take_pending(struct listener *l, struct token *t)
{
    if (!load_acquire(&l->pending))
        return false;
    bool found = false;
    plock_take(&C->lock);
    for (struct pending_token **p = &l->pending; *p; p = &(*p)->next) {
        struct pending_token *this = *p;
        if (peer_box_find(this->token.outbox)) {
            *t = this->token;
            store_relaxed(p, this->next);
            store_relaxed(&l->pending_count, l->pending_count - 1);
            memory_put(this, sizeof *this);
            found = true;
            break;
        }
    }
    plock_release(&C->lock);
    return found;
}

/* For want of something that the program may have soon: the offer stands, as a connection does that accept cannot take. */
static int put_back(struct listener *l, const struct token *t, int err)
{
    set_aside(l, t, false);
    listener_ready(l);
    return err;
}

static int accept_held(listener_handle h, bool (*may)(void *arg), void *arg, session_handle *out)
{
    struct listener *l = listener_get(h);
    if (!l)
        return BERTH_E_BAD_HANDLE;
    int err = fork_child_ready();
    if (err)
        return err;
    zombies_reap(4);
    for (;;) {
        struct token t = {0};
        if (!take_pending(l, &t)) {
            long n = -EAGAIN;
            if (load_relaxed(&l->pending_count) < PENDING_MAX) /* else they are as well off in the pipe */
                n = sys_read(l->pipe_rd, &t, (long)sizeof t);
            if (n != (long)sizeof t) {
                if (n > 0)
                    log_warn("listener %u: %ld stray bytes in its queue", l->id, n);
                if (load_relaxed(&l->pending))
                    control_poll();
                if (take_pending(l, &t))
                    goto have;
                if (n == -EINTR)
                    return BERTH_E_INTERRUPTED;
                return load_relaxed(&l->pending) && control_in_vain() ? BERTH_E_NO_MEMORY : BERTH_E_WOULD_BLOCK;
            }
            if (t.magic != TOKEN_MAGIC || t.listener != l->id)
                continue;
        }
    have:;
        struct peer_box *box = peer_box_find(t.outbox);
        err = 0;
        if (!box && berth_family_shared && !(box = fetch_outbox(t.outbox, &err)) && err != BERTH_E_NO_MEMORY)
            continue; /* its owner is gone, and nobody waits for it any more */
        if (!box) {
            set_aside(l, &t, true);
            continue;
        }
        if (may && !may(arg))
            return put_back(l, &t, BERTH_E_LIMIT);
        err = session_accept(box, &t, l->id, out);
        if (err == BERTH_E_IN_PROGRESS) /* its outbox was given up at this very moment: ask for it once more */
            set_aside(l, &t, true);
        else if (err == 0)
            return 0;
        else if (err == BERTH_E_DAEMON_GONE) /* nobody else could tell the connector who has accepted */
            log_warn("listener %u: an offer is dropped, the daemon is gone", l->id);
        else if (err != BERTH_E_REFUSED)
            return put_back(l, &t, err);
    }
}

int client_accept_if(listener_handle h, bool (*may)(void *arg), void *arg, session_handle *out)
{
    hold_begin();
    int err = accept_held(h, may, arg, out);
    hold_end();
    return err;
}

int client_accept(listener_handle h, session_handle *out)
{
    return client_accept_if(h, NULL, NULL, out);
}
