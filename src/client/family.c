/* family.c - records of sessions and rings, in memory that a worker shares with what it forks.
 *
 * Both kinds are handed out from a stack of free ones, else from the end of the table; the table is sparse
 * memory, so only what was ever used exists. The most recently freed record is used first: it is in the
 * cache.
 */
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/family.h"
#include "client/optlist.h"
#include "client/rolls.h"

struct client berth_client = {.ctl = -1, .bell_fd = -1};
uint32_t berth_lock_id;
bool berth_family_shared, berth_family_quiet;

struct plock quiet_lock;
static void (*before_first)(void);

static uint32_t parent, parent_closes;

void family_member_parent(void)
{
    parent = C->member;
    parent_closes = member_closes(&C->family->member[parent]);
}

/* What it holds its parent holds, too, as long as that one has closed nothing since. */
bool family_member_ends_quiet(void)
{
    struct member *me = &C->family->member[C->member];
    uint64_t life = member_life_now(me), going = member_life(PID_GOING, (uint32_t)(life >> 32));
    if (!load_acquire(&berth_family_quiet) || !__libc_single_threaded || (int32_t)life <= 0 ||
        !member_change_life(me, &life, going))
        return false;
    if (member_closes(&C->family->member[parent]) == parent_closes && member_lives(parent))
        return true;
    return !member_change_life(me, &going, life); /* else somebody has buried us already */
}

void family_member_quiet(void (*before)(void))
{
    quiet_lock.word = 0;
    before_first = before;
    store_release(&berth_family_quiet, true);
}

void family_member_acts(void)
{
    plock_take(&quiet_lock);
    if (berth_family_quiet) {
        member_set_acted(&C->family->member[C->member], true);
        before_first();
        store_release(&berth_family_quiet, false);
    }
    plock_release(&quiet_lock);
}

bool member_dead(void *unused, uint32_t id)
{
    uint32_t index = member_index(id);
    uint64_t life = member_life_now(&C->family->member[index]);
    int32_t pid = (int32_t)life;
    if (pid == 0 || life >> 32 != member_generation(id))
        return true; /* it ended, and the daemon said so */
    if (pid < 0)
        return pid != PID_COMING;
    if (sys_call(SYS_getppid, 0L, 0L, 0, 0) == pid) /* it has not ended yet, or we had another parent */
        return false;
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
    if (lock == &f->sets_lock)
        return "family.sets_lock";
    if (lock == &f->options_lock)
        return "family.options_lock";
    if (at >= (uintptr_t)f->session)
        return (at - (uintptr_t)f->session) % sizeof f->session[0] == offsetof(struct session, rx_lock)
                   ? "session.rx_lock"
                   : "session.tx_lock";
    at = (at - (uintptr_t)f->outbox) % sizeof f->outbox[0];
    if (at == offsetof(struct outbox_rec, lock))
        return "outbox_rec.lock";
    return (at - offsetof(struct outbox_rec, chan)) % sizeof(struct chan_rec) ==
                   offsetof(struct chan_rec, rx_lock)
               ? "chan_rec.rx_lock"
               : "chan_rec.tx_lock";
}
#endif

/* Large tables, of which a core would have the holes, too. */
static void not_dumped(void *map, size_t size)
{
    (void)madvise(map, size, MADV_DONTDUMP);
}

static void family_begin(struct family *f)
{
    family_first_arm(f);
    f->member[C->member].life = member_life((int32_t)getpid(), member_generation(berth_lock_id));
    member_set_acted(&f->member[C->member], true);
    f->members = C->member + 1;
    f->sessions = 1; /* index 0 is never used, so that no handle is 0 */
}

/* One mapping: each is one more to copy at a fork. */
struct tables {
    struct session_cache cache[SESSIONS_MAX];
    struct session_more more[SESSIONS_MAX];
};

int family_create(void)
{
#ifdef BERTH_DELAYS
    order_class_name = lock_class;
#endif
    void *map = mmap(NULL, sizeof(struct family), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return BERTH_E_NO_MEMORY;
    struct tables *tables = mmap(NULL, sizeof *tables, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (tables == MAP_FAILED) {
        munmap(map, sizeof(struct family));
        return BERTH_E_NO_MEMORY;
    }
    not_dumped(map, sizeof(struct family));
    not_dumped(tables, sizeof *tables);
    C->family = map;
    C->cache = tables->cache;
    C->more = tables->more;
    C->member = 0;
    berth_lock_id = 0; /* a forked child that detached was another's member */
    family_begin(C->family);
    return 0;
}

/* At the same address: a thread that comes by here finds memory at any moment. */
static bool map_over(void *at, size_t size, int shared)
{
    return sys_call6(SYS_mmap, sys_arg(at), (long)size, PROT_READ | PROT_WRITE,
                     shared | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == sys_arg(at);
}

void family_catch_up(void)
{
    family_lock_acquire(&C->family->lock, C->member);
    family_lock_drop(&C->family->lock);
}

bool family_anew(void)
{
    struct family *f = C->family;
    uint32_t sessions = family_sessions(f), sets = family_sets(f), changed = family_files_change(f);
    size_t size = sessions * sizeof(uint32_t);
    uint32_t *generations = memory_get(size);
    for (uint32_t i = 1; generations && i < sessions; i++)
        generations[i] = session_generation(&f->session[i]);
    if (!map_over(f, sizeof *f, generations ? MAP_SHARED : MAP_PRIVATE) || !generations) {
        memory_put(generations, size);
        return false;
    }
    not_dumped(f, sizeof *f);
    family_begin(f);
    family_put_files_change(f, changed + 1); /* what relatives changed until now is looked for once more */
    f->sets = sets;                          /* the program's sets keep their numbers */
    for (uint32_t i = sessions; i-- > 1;) {
        struct session *s = &f->session[i];
        session_set_generation(s, generations[i] + 1 ? generations[i] + 1 : 1);
        s->next = f->session_free;
        f->session_free = i + 1;
    }
    family_set_sessions(f, sessions);
    memory_put(generations, size);
    return true;
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
    holders_first(s, C->member);
    s->tx_limit = C->tx_limit;
    session_store_state(s, SESSION_QUEUED);
    return s;
}

void session_free(struct session *s)
{
    struct family *f = C->family;
    roll_leave(s);
    options_free(s);
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
    struct member_set alive = {{{0}}};
    for (uint32_t i = 0, n = members_used(); i < n; i++) {
        uint64_t life = member_life_now(&C->family->member[i]);
        int32_t pid = (int32_t)life;
        if (!pid || pid <= PID_GOING)
            continue;
        if (pid > 0 && i != C->member && C->daemon_lost &&
            member_dead(NULL, member_id(i, (uint32_t)(life >> 32))))
            continue; /* nobody is there to tell us */
        alive.word[i / 64].bits |= member_bit(i);
    }
    return alive;
}

/* Does anybody of the set live? The set is read, then who lives: a child is given its place first, then its bits.
 * If the set is still the same after that, whoever could have added a bit meanwhile was in it, and did not live. */
bool members_any_lives(struct member_set (*set_of)(const void *), const void *of)
{
    struct member_set set = set_of(of), now = members_alive(), again;
    while (!members_any(&set, &now) && (again = set_of(of), !members_same(&set, &again))) {
        set = again;
        now = members_alive();
    }
    return members_any(&set, &now);
}

bool member_lives(uint32_t member)
{
    uint64_t life = member_life_now(&C->family->member[member]);
    int32_t pid = (int32_t)life;
    if (!pid || pid <= PID_GOING)
        return false;
    return pid < 0 || !member_dead(NULL, member_id(member, (uint32_t)(life >> 32)));
}

/* The first of those whose bits these are that lives, but this one; NONE. */
static uint32_t others_first_alive(uint64_t bits, uint32_t word)
{
    if (word == C->member / 64)
        bits &= ~member_bit(C->member);
    for (; bits; bits &= bits - 1) {
        uint32_t member = 64 * word + (uint32_t)__builtin_ctzll(bits);
        if (member_lives(member))
            return member;
    }
    return NONE;
}

bool members_others_live(const struct member_set *set)
{
    struct member_set in = members_copy(set); /* before it is asked who lives */
    for (uint32_t i = 0; i < MEMBER_WORDS; i++) {
        if (others_first_alive(in.word[i].bits, i) != NONE)
            return true;
    }
    return false;
}

bool session_others_lived(const struct session *s, uint32_t *known)
{
    struct member_set in;
    uint32_t n = holders_words();
    if (*known != NONE && holders_has(s, *known))
        return true;
    for (uint32_t i = 0; i < n; i++)
        in.word[i].bits = word_bits(holders_word(s, i));
    *known = NONE;
    for (uint32_t i = 0; i < n && *known == NONE; i++)
        *known = others_first_alive(in.word[i].bits, i);
    return *known != NONE;
}

bool session_others_live(const struct session *s)
{
    uint32_t known = NONE;
    return session_others_lived(s, &known);
}
