/* family.c - records of sessions and rings, in memory that a worker shares with what it forks.
 *
 * Both kinds are handed out from a stack of free ones, else from the end of the table; the table is sparse memory, so
 * only what was ever used exists. The most recently freed record is used first: it is in the cache.
 */
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "client/family.h"
#include "client/rolls.h"

struct client berth_client = {.ctl = -1, .bell_fd = -1};
uint32_t berth_lock_id;
bool berth_family_shared;

bool member_dead(void *unused, uint32_t id)
{
    uint32_t index = member_index(id);
    uint64_t life = member_life_now(&C->family->member[index]);
    int32_t pid = (int32_t)life;
    if (pid == 0 || life >> 32 != member_generation(id))
        return true; /* it ended, and the daemon said so */
    if (pid < 0)
        return pid != PID_COMING;
    long fd = sys_call(SYS_pidfd_open, (long)pid, 0L, 0, 0);
    if (fd < 0)
        return fd == -ESRCH;
    struct pollfd p = {.fd = (int)fd,
                       .events = POLLIN}; /* readable for a zombie too, of which kill(pid, 0) says 0 */
    struct timespec ts = {0};
    long n = sys_ppoll(&p, 1, &ts, NULL);
    (void)sys_close(fd);
    return n > 0;
}

#ifdef BERTH_DELAYS
/* For order.h: locks of one kind have one place in the order. */
static const char *lock_class(const void *lock)
{
    const struct family *f = C->family;
    uintptr_t at = (uintptr_t)lock;
    if (lock == &C->lock)
        return "client.lock";
    if (lock == &C->ctl_lock)
        return "client.ctl_lock";
    if (lock == &C->watch_lock)
        return "client.watch_lock";
    if (lock == &C->zombie_lock)
        return "client.zombie_lock";
    if (lock == &C->poll_lock)
        return "client.poll_lock";
    if (!f || at < (uintptr_t)f || at >= (uintptr_t)(f + 1))
        return NULL;
    if (lock == &f->lock)
        return "family.lock";
    if (lock == &f->bury_lock)
        return "family.bury_lock";
    if (at >= (uintptr_t)f->session)
        return (at - (uintptr_t)f->session) % sizeof f->session[0] == offsetof(struct session, rx_lock)
                   ? "session.rx_lock"
                   : "session.tx_lock";
    at = (at - (uintptr_t)f->outbox) % sizeof f->outbox[0];
    if (at == offsetof(struct outbox_rec, lock))
        return "outbox_rec.lock";
    return (at - offsetof(struct outbox_rec, chan)) % sizeof(struct chan_rec) == offsetof(struct chan_rec, rx_lock)
               ? "chan_rec.rx_lock"
               : "chan_rec.tx_lock";
}
#endif

int family_create(void)
{
#ifdef BERTH_DELAYS
    order_class_name = lock_class;
#endif
    void *map = mmap(NULL, sizeof(struct family), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return BERTH_E_NO_MEMORY;
    void *cache = mmap(NULL, SESSIONS_MAX * sizeof(struct session_cache), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *more = mmap(NULL, SESSIONS_MAX * sizeof(struct session_more), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache == MAP_FAILED || more == MAP_FAILED) {
        munmap(map, sizeof(struct family));
        if (cache != MAP_FAILED)
            munmap(cache, SESSIONS_MAX * sizeof(struct session_cache));
        if (more != MAP_FAILED)
            munmap(more, SESSIONS_MAX * sizeof(struct session_more));
        return BERTH_E_NO_MEMORY;
    }
    C->family = map;
    C->cache = cache;
    C->more = more;
    C->member = 0;
    berth_lock_id = 0; /* a forked child that detached was another's member */
    C->family->any_arm = 1;
    C->family->member[0].pid = (int32_t)getpid();
    C->family->members = 1;
    C->family->sessions = 1; /* index 0 is never used, so that no handle is 0 */
    return 0;
}

struct session *session_alloc(void)
{
    struct family *f = C->family;
    struct session *s = NULL;
    family_lock_acquire(&f->lock, C->member);
    if (f->session_free) {
        s = session_at(f->session_free - 1);
        f->session_free = s->next;
    } else if (f->sessions < SESSIONS_MAX) {
        s = session_at(f->sessions);
        family_set_sessions(f, f->sessions + 1); /* read without the lock by who looks at all of them */
    }
    family_lock_drop(&f->lock);
    if (!s)
        return NULL;
    uint32_t generation = s->generation;
    if (++generation == 0)
        generation = 1;
    session_begin(s, generation);
    s->tx_rec = s->left_first = s->left_last = NONE;
    session_set_own_outbox(s, NONE);
    session_set_own_slot(s, NONE);
    members_only(&s->holders, C->member);
    s->tx_limit = C->tx_limit;
    session_store_state(s, SESSION_QUEUED);
    return s;
}

void session_free(struct session *s)
{
    struct family *f = C->family;
    roll_leave(s);
    session_store_state(s, SESSION_FREE);
    store_release(&C->cache[session_index(s)].generation, 0u);
    family_lock_acquire(&f->lock, C->member);
    s->next = f->session_free;
    f->session_free = session_index(s) + 1;
    family_lock_drop(&f->lock);
}

uint32_t ring_rec_alloc(void)
{
    struct family *f = C->family;
    uint32_t rec = NONE;
    family_lock_acquire(&f->lock, C->member);
    if (f->ring_free) {
        rec = f->ring_free - 1;
        f->ring_free = f->ring[rec].next;
    } else if (f->rings < RINGS_MAX) {
        rec = f->rings;
        family_set_rings(f, rec + 1); /* who sweeps looks without the lock */
    }
    family_lock_drop(&f->lock);
    return rec;
}

void ring_rec_free(uint32_t rec)
{
    struct family *f = C->family;
    family_lock_acquire(&f->lock, C->member);
    f->ring[rec].next = f->ring_free;
    f->ring_free = rec + 1;
    family_lock_drop(&f->lock);
}

uint32_t members_used(void)
{
    uint32_t n = family_members(C->family);
    return n < MEMBERS_MAX ? n : MEMBERS_MAX;
}

struct member_set members_alive(void)
{
    struct member_set alive = {{0}};
    for (uint32_t i = 0, n = members_used(); i < n; i++) {
        uint64_t life = member_life_now(&C->family->member[i]);
        int32_t pid = (int32_t)life;
        if (!pid || pid <= PID_GOING)
            continue;
        if (pid > 0 && i != C->member && C->daemon_lost && member_dead(NULL, member_id(i, (uint32_t)(life >> 32))))
            continue; /* nobody is there to tell us */
        alive.word[i / 64] |= member_bit(i);
    }
    return alive;
}

bool member_lives(uint32_t member)
{
    uint64_t life = member_life_now(&C->family->member[member]);
    int32_t pid = (int32_t)life;
    if (!pid || pid <= PID_GOING)
        return false;
    return pid < 0 || !member_dead(NULL, member_id(member, (uint32_t)(life >> 32)));
}

bool members_others_live(const struct member_set *set)
{
    struct member_set in = members_copy(set);
    in.word[C->member / 64] &= ~member_bit(C->member);
    for (uint32_t i = 0; i < MEMBER_WORDS; i++) {
        for (uint64_t left = in.word[i]; left; left &= left - 1) {
            if (member_lives(64 * i + (uint32_t)__builtin_ctzll(left)))
                return true;
        }
    }
    return false;
}
