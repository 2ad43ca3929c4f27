/* bury.c - a member of the family ended.
 *
 * When a holder dies, the others hear MEMBER_DEAD. One of them lets go of what the dead one held, closes what
 * nobody else holds, and all tell their peers again what the dead one may have died before telling.
 */
#include "client/bury.h"
#include "base/memory.h"
#include "client/family.h"
#include "client/life.h"
#include "client/link.h"
#include "client/move.h"
#include "client/outbox.h"
#include "client/peer.h"
#include "client/rolls.h"
#include "client/session.h"
#include "client/share.h"
#include "client/span.h"
#include "client/vigil.h"
#include "shm/slot.h"

#define GENERATION_MASK (0x3fffffffu >> MEMBER_BITS) /* fits a lock's word with the index */

/* The cache that we have of a session which was not ours: its peer may have gone elsewhere since, and only
 * who held it heard of that. */
static struct session_cache *cache_of_another(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    return session_peer_stale(s, c) ? session_cache_make(s) : c;
}

/* Where it is may be in memory that we do not have: it is asked for, and then the peer is told. */
static void peer_find(struct session *s)
{
    const struct session_cache *c = session_cache_of(s);
    if (load_acquire(&c->peer) || !session_peer_outbox(s) || !c->own || session_state(s) == SESSION_FREE)
        return;
    struct ctl_move m = {
        .from = session_peer_place(s), .to = session_peer_place(s), .peer = session_place(s, c)};
    peer_moved(&m);
}

/* What it closed and could not yet give back. */
static void zombie_adopt(struct session *s)
{
    struct own_box *own = outbox_by_index(s->own_outbox);
    struct slot *slot = own ? outbox_slot(own, s->own_slot) : NULL;
    if (!slot) { /* of an outbox of its own, that goes with it */
        session_free(s);
        return;
    }
    struct session_cache *c = cache_of_another(s);
    if (c->box)
        c->box->sessions++;
    roll_enter(s, roll_of(c->box)); /* the cache may be our parent's */
    slot_set_state(slot, SLOT_CLOSED);
    zombie_put(s);
    peer_find(s);
}

/* A session of the dead one's that nobody else holds: ours now, to close it. Its locks are held. */
static void last_holder(struct session *s)
{
    struct session_cache *c = &C->cache[session_index(s)];
    bool counted = c->generation == s->generation;
    const struct peer_box *box = c->box;
    c = cache_of_another(s);
    counted = counted && c->box == box;
    if (c->box && !counted)
        fetch_add_sc(&c->box->sessions, 1);
    roll_enter(s, roll_of(c->box));
    session_add_flags(s, SF_SHARED);
    holders_add(s, C->member);
}

static struct member_set holders_of(const void *session)
{
    return holders_copy(session);
}

static struct member_set mapped_of(const void *outbox)
{
    return members_copy(&((const struct outbox_rec *)outbox)->mapped);
}

/* `alive` is from before: a child that was forked since is not in it, and who forked it may have let go of the
 * session, or ended. So where nobody is found it is looked again. */
static bool held_by_living(const struct session *s, const struct member_set *alive)
{
    return holders_any(s, alive) || members_any_lives(holders_of, s);
}

static bool mapped_by_living(const struct outbox_rec *r, const struct member_set *alive)
{
    return members_any(&r->mapped, alive) || members_any_lives(mapped_of, r);
}

/* What it made, where nobody else has it. */
static void outboxes_release(uint32_t member, const struct member_set *alive)
{
    struct family *f = C->family;
    for (uint32_t i = 0, n = family_outboxes(f); i < n; i++) {
        const struct outbox_rec *r = &f->outbox[i];
        if (family_outbox_used(f, i) && r->owner_member == member && !mapped_by_living(r, alive))
            outbox_record_free(i);
    }
}

static void close_for_it(struct session *s, session_handle h)
{
    (void)session_finish(h, false);
    peer_find(s);
}

/* What becomes of it is decided under its locks, as in finish: another thread of ours may be closing it. */
static void session_let_go(struct session *s, uint32_t member, const struct member_set *alive)
{
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    spans_end(s, member);
    bool dropped = holders_drop(s, member); /* else a relative was faster */
    uint32_t state = session_state_acquire(s);
    session_handle h = session_handle_of(s);
    struct own_box *own = outbox_by_index(s->own_outbox);
    bool reached = own && outbox_slot(own, s->own_slot);
    bool adopt = dropped && state == SESSION_ZOMBIE;
    bool last = dropped && !adopt && state != SESSION_FREE && !held_by_living(s, alive);
    if (last && reached)
        last_holder(s);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (adopt)
        zombie_adopt(s);
    else if (last && reached)
        close_for_it(s, h);
    else if (last)
        session_free(s); /* made by it alone; the daemon tells the peer */
}

/* Of one that has never had a lock: nothing of the session has changed, and it goes on being ours. */
static bool dropped_unused(struct session *s, uint32_t member)
{
    if (!session_held_by(s, C->member) || member_acted(&C->family->member[member]))
        return false;
    (void)holders_drop(s, member);
    return true;
}

/* Each of those who are left lets go of what it can: the slot of a session may be mapped in some of them
 * only. What is mapped in none is a record and nothing more. True: that was all. */
static bool let_go(uint32_t member, const struct member_set *alive)
{
    bool all = true;
    for (struct session *s = NULL; (s = session_after(s));) {
        if (session_state_acquire(s) == SESSION_FREE || !holders_has(s, member) || dropped_unused(s, member))
            continue;
        uint32_t own = session_own_outbox(s);
        if (own < OUTBOXES_MAX && !outbox_by_index(own) && mapped_by_living(&C->family->outbox[own], alive))
            all = false;
        else
            session_let_go(s, member, alive);
    }
    return all;
}

/* Alone again: what others may have moved is looked up once more, then it is an ordinary session. */
static void session_unshare(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    bool locked = !__libc_single_threaded; /* no relative lives */
    if (locked) {
        half_lock(&s->rx_lock);
        half_lock(&s->tx_lock);
    }
    if (c->rx_ring || c->tx_ring) { /* a page that is not written need not be copied */
        c->rx_ring = NULL;
        c->tx_ring = NULL;
    }
    bool met = c->peer || !s->peer_outbox;     /* else it was another who met the peer */
    if (worker_is_us(session_owner(s)) && met) /* else its peer still knows us by another worker */
        session_drop_flags(s, SF_SHARED);
    if (locked) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
    }
}

/* When nothing of it is left its place is free, and the next child's. */
static void member_bury(uint32_t member, uint32_t generation)
{
    struct member *m = &C->family->member[member];
    struct member_set alive = members_alive();
    if (!let_go(member, &alive))
        return;
    member_set_life(m, member_life(PID_GONE, generation));
    outboxes_release(member, &alive);
    for (uint32_t i = 0, n = family_outboxes(C->family); i < n; i++) {
        if (family_outbox_used(C->family, i))
            (void)members_drop(&C->family->outbox[i].mapped, member);
    }
    member_set_life(m, member_life(0, (generation + 1) & GENERATION_MASK));
}

/* One relative at a time: a set of holders does not tell a dead member from the next one in its place. */
static void members_bury(uint32_t id)
{
    uint32_t member = member_index(id), generation = member_generation(id);
    if (member == C->member)
        return;
    family_lock_acquire(&C->family->bury_lock, C->member);
    struct member *m = &C->family->member[member];
    uint64_t life = member_life_now(m);
    int32_t pid = (int32_t)life;
    if ((pid > 0 || pid == PID_COMING) && life >> 32 == generation)
        member_change_life(m, &life, member_life(PID_GOING, generation));
    for (uint32_t i = 0, n = members_used(); i < n;
         i++) { /* others too: who was to see to them may have died instead, even in the midst of it */
        life = member_life_now(&C->family->member[i]);
        if ((int32_t)life == PID_GOING || (int32_t)life == PID_GONE)
            member_bury(i, (uint32_t)(life >> 32));
    }
    family_lock_release(&C->family->bury_lock);
}

/* Who is about to fork shares all of them again: they stay what they are until that child ends. */
void member_gone(uint32_t id)
{
    const struct member *m = &C->family->member[member_index(id)];
    bool acted = member_generation_now(m) != member_generation(id) || member_acted(m);
    members_bury(id);
    struct member_set alive = members_alive();
    bool alone = !members_other(&alive, C->member, &alive) && !C->about_to_fork;
    if (!alone && !acted)
        return;
    for (struct session *s = NULL; (s = session_after(s));) {
        if (!(session_flags(s) & SF_SHARED) || !session_held_by(s, C->member))
            continue;
        struct session_cache *c = session_cache_of(s);
        if (acted && !c->peer && s->state != SESSION_QUEUED)
            (void)shared_link(s);
        if (alone)
            session_unshare(s);
        if (acted && c->peer)
            session_linked(s); /* it may have died between a store and the word of it */
    }
    if (alone && !C->ancestors && !load_relaxed(&C->forked))
        store_relaxed(&C->sharing, false);
}

/* Where no daemon tells of deaths, or not yet. */
void members_look_alive(void)
{
    for (uint32_t i = 0, n = members_used(); i < n; i++) {
        uint64_t life = member_life_now(&C->family->member[i]);
        if ((int32_t)life > 0 && i != C->member && !member_lives(i))
            member_gone(member_id(i, (uint32_t)(life >> 32)));
    }
}

APART static struct {
    int vigil; /* as peer_worker.vigil */
    uint32_t generation;
} watched[MEMBERS_MAX];

/* A child that has just been forked has no pid yet: it, too, is for another look. A vigil that is over stays
 * until the member's place is free: it wakes nobody a second time. */
uint32_t members_watch(void)
{
    uint32_t unwatched = 0;
    for (uint32_t i = 0, n = members_used(); i < n; i++) {
        uint64_t life = member_life_now(&C->family->member[i]);
        uint32_t generation = (uint32_t)(life >> 32);
        int32_t pid = (int32_t)life;
        if (watched[i].vigil && (pid <= 0 || watched[i].generation != generation)) {
            vigil_end(watched[i].vigil);
            watched[i].vigil = 0;
        }
        if (i == C->member || watched[i].vigil || (pid <= 0 && pid != PID_COMING))
            continue;
        int vigil = pid > 0 ? vigil_begin(pid) : BERTH_E_NO_MEMORY;
        watched[i].vigil = vigil == BERTH_E_NO_MEMORY ? 0 : vigil;
        watched[i].generation = generation;
        unwatched += vigil == BERTH_E_NO_MEMORY;
    }
    members_look_alive();
    return unwatched;
}

void members_unwatch(bool forked)
{
    for (uint32_t i = 0, n = C->family ? members_used() : 0; i < n; i++) {
        if (!watched[i].vigil) /* nothing is written: it would be a page to copy */
            continue;
        if (watched[i].vigil > 0 && forked)
            vigil_forked(watched[i].vigil);
        else
            vigil_end(watched[i].vigil);
        watched[i].vigil = 0;
    }
}
