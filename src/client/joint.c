/* joint.c - event sets that relatives have, too.
 *
 * In the kernel a set that came over fork is one set: what the child puts into it is told in the parent. Ours
 * is copied, so what one of them does to a session or listener that others hold as well is written down in
 * the family's memory, and the others do the same to their copies: before they wait for a set or change it,
 * and when such a wait is woken for it. What only one process holds the others could not even look at; it
 * stays with that one.
 *
 * For each registration the last change is kept, under a number that goes up with every change, and a process
 * knows up to which number it has done them. What it changes itself it does first and writes down then: of two
 * that change one registration at once, the later number holds, in both. Where more registrations were changed
 * than there is room for, the oldest change is forgotten that everybody has done who waits for sets; while there
 * is none, the writer waits for them a moment. Who has waited for no set in the meantime may miss one, and is
 * warned.
 *
 * Readers take no lock, so that one who was stopped in it stops nobody: a record is written when it is free (number
 * 0), its number last, and the former record of that registration is freed after that. Who dies in between
 * leaves two, of which the later holds. Writers take turns by sets_lock, for some memory accesses.
 *
 * Nobody is woken who has not waited for a set since he came to share one: he says so before he looks at the
 * number for the last time, a writer looks for those after he has moved it. Both are `sc`, so one of the two
 * sees the other.
 */
#include "client/joint.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/sys.h"
#include "client/aside.h"
#include "client/family.h"
#include "client/session.h"
#include "client/wake.h"

#define LISTENER_NAME (1ull << 63)
#define SET_NAME (1ull << 62)
#define WAITS 100 /* milliseconds, for those who have not done the oldest changes */

/* What the target is called in all processes of the family; 0: it is ours alone. */
static uint64_t name_of(const struct set_change *c)
{
    if (c->inner)
        return SET_NAME | c->inner;
    if (!handle_is_listener(c->handle))
        return client_shared(c->handle) ? c->handle : 0;
    const struct listener *l = listener_get(c->handle);
    uint32_t id = l ? listener_number(l) : 0;
    return id ? LISTENER_NAME | id : 0;
}

/* What it is here. False: not ours. */
static bool found_here(uint64_t name, struct set_change *out)
{
    out->inner = 0;
    out->handle = 0;
    if (name & LISTENER_NAME) {
        for (uint32_t i = 0; i < listeners_used() && !out->handle; i++) {
            const struct listener *l = &C->listeners[i];
            if (l->generation & 1 && listener_number(l) == (uint32_t)name)
                out->handle = listener_handle_of(l);
        }
    } else if (name >> 32 == SET_NAME >> 32) {
        out->inner = (uint32_t)name;
    } else if (session_get(name)) {
        out->handle = name;
    }
    return out->handle || out->inner;
}

uint32_t client_set_number(void)
{
    if (!C->attached)
        return 0;
    store_relaxed(&C->joint, true);
    return family_next_set(C->family);
}

/* Up to which number this process has done them. A child begins where its parent stood. */
static uint64_t done_here(void)
{
    return member_changes_done(&C->family->member[C->member]);
}

static void set_done_here(uint64_t number)
{
    member_set_changes_done(&C->family->member[C->member], number);
}

/* ---- writing -------------------------------------------------------------------------------------------- */

/* Up to which number everybody has done them who waits for sets. */
static uint64_t done_by_waiters(void)
{
    struct member_set alive = members_alive();
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < members_used(); i++) {
        uint64_t done = member_changes_done(&C->family->member[i]);
        if (i != C->member && members_has(&alive, i) && members_has(&C->family->set_waiters, i) &&
            done < least)
            least = done;
    }
    return least;
}

/* Where the next change goes, as it was looked up without the lock. */
struct place {
    uint64_t changes;              /* so many there were */
    struct set_change_rec *rec;    /* free, or the oldest one; NULL: there is none that may be forgotten */
    struct set_change_rec *former; /* the last change of that registration, or NULL */
};

static struct place look_up(struct family *f, const struct set_change *c, uint64_t name, bool any)
{
    struct place p = {.changes = family_set_changes(f)};
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < SET_CHANGES; i++) {
        struct set_change_rec *rec = &f->set_change[i];
        uint64_t number = set_change_number(rec);
        if (number && rec->name == name && rec->change.set == c->set && rec->change.key == c->key)
            p.former = rec;
        else if (number < least) {
            least = number;
            p.rec = rec;
        }
    }
    if (least && !any && least > done_by_waiters())
        p.rec = NULL;
    return p;
}

#define LOCK_NS (100 * NS_PER_MS) /* a relative that has it has been stopped, or the machine is very busy */

static bool holder_is_dead(const struct family_lock *l)
{
    int64_t holder = family_lock_holder(l);
    return holder >= 0 && member_dead(NULL, (uint32_t)holder);
}

static bool lock_soon(struct family_lock *l)
{
    int64_t began = 0, asked = 0;
    while (!family_lock_try_now(l)) {
        int64_t now = clock_now();
        began = began ? began : now;
        asked = asked ? asked : now;
        if (now - asked > NS_PER_MS) {
            asked = now;
            if (holder_is_dead(l)) {
                family_lock_acquire(l, C->member); /* which takes it over */
                return true;
            }
        }
        if (now - began > LOCK_NS)
            return false;
        (void)sys_call(SYS_sched_yield, 0L, 0L, 0L, 0L);
    }
    return true;
}

enum wrote { WROTE, NO_ROOM, NO_LOCK };

static enum wrote write_down(const struct set_change *change, uint64_t name, bool any)
{
    struct family *f = C->family;
    for (;;) {
        struct place p = look_up(f, change, name, any);
        if (!p.rec)
            return NO_ROOM;
        if (!lock_soon(&f->sets_lock))
            return NO_LOCK;
        bool still = family_set_changes(f) == p.changes;
        if (still) {
            uint64_t number = p.changes + 1, forgotten = set_change_number(p.rec);
            if (forgotten) {
                family_set_changes_forgotten(f, forgotten);
                set_change_free(p.rec);
            }
            p.rec->change = *change;
            p.rec->name = name;
            p.rec->member = C->member;
            set_change_is(p.rec, number);
            if (p.former)
                set_change_free(p.former);
            family_put_set_changes(f, number);
            if (done_here() == number - 1)
                set_done_here(number);
        }
        family_lock_release(&f->sets_lock);
        if (still)
            return WROTE;
    }
}

static void wake_waiters(void)
{
    struct member_set alive = members_alive();
    if (members_other(&C->family->set_waiters, C->member, &alive))
        relatives_kick();
}

void client_set_changed(const struct set_change *change)
{
    uint64_t name = load_relaxed(&C->joint) ? name_of(change) : 0;
    struct timespec a_moment = {0, NS_PER_MS};
    enum wrote wrote = NO_ROOM;
    for (int i = 0; name && wrote == NO_ROOM; i++) {
        wrote = write_down(change, name, i == WAITS);
        wake_waiters();
        if (wrote == NO_ROOM)
            (void)sys_call(SYS_nanosleep, &a_moment, NULL, 0L, 0L);
    }
    if (name && wrote == NO_LOCK)
        log_warn_once("a process of this family does not run, and holds up the others: "
                      "they do not hear of a change of an epoll set");
}

/* ---- reading -------------------------------------------------------------------------------------------- */

bool client_sets_joint(void)
{
    return load_relaxed(&C->joint);
}

bool client_set_changes(void)
{
    return load_relaxed(&client_recall_news) ||
           (load_relaxed(&C->joint) && family_set_changes(C->family) != done_here());
}

/* A copy of the one with the least number above `done`. 0: there is none. */
static uint64_t next_change(const struct family *f, uint64_t done, struct set_change_rec *copy)
{
    for (;;) {
        const struct set_change_rec *next = NULL;
        uint64_t number = 0;
        for (uint32_t i = 0; i < SET_CHANGES; i++) {
            uint64_t n = set_change_number(&f->set_change[i]);
            if (n > done && (!number || n < number)) {
                number = n;
                next = &f->set_change[i];
            }
        }
        if (!next || set_change_copy(next, number, copy))
            return number;
    }
}

bool client_set_change_next(struct set_change *out)
{
    const struct family *f = C->family;
    struct set_change_rec copy;
    for (;;) {
        uint64_t done = done_here(), upto = family_set_changes(f); /* before the look */
        if (family_changes_forgotten(f) > done)
            log_warn_once(
                "other processes of this family have changed more than %u registrations in epoll sets "
                "since this one has waited for a set: the oldest changes are lost here",
                SET_CHANGES);
        uint64_t number = next_change(f, done, &copy);
        set_done_here(number ? number : upto > done ? upto : done);
        if (!number)
            return false;
        *out = copy.change;
        if (copy.member != C->member && found_here(copy.name, out))
            return true;
    }
}

bool joint_wait_begins(void)
{
    if (__builtin_expect(!load_relaxed(&C->joint), 1))
        return load_acquire(&client_recall_news);
    if (!members_has(&C->family->set_waiters, C->member))
        members_add(&C->family->set_waiters, C->member);
    return client_set_changes();
}
