/* directory.c - the listener directory: a hash table that one process writes and many read without asking.
 *
 * Theory of operation
 *
 * The daemon maps the directory writable, its apps map it read-only. `seq` is odd while the daemon changes
 * something. A reader takes seq, copies what it wants, and takes seq again: two equal even numbers prove the
 * copy.
 *
 * Order. Every word between the two looks is loaded with acquire and stored with release. A reader that saw
 * one word of a change therefore sees the odd seq stored before it (or a later one), and its second look
 * differs. That is free on x86, needs no fence, and is a protocol that ThreadSanitizer understands.
 *
 * Table. Open addressing with linear probing over DIR_ENTRIES lines of 64 bytes, at most three quarters full.
 * A removal moves later entries of the run back into the hole (readers retry), so there are no tombstones and
 * a long-lived daemon's table does not silt up. Several listeners on one endpoint are several entries of one
 * key.
 *
 * Limits. The hash has no key: apps read the table, so a key would be no secret from those who choose the
 * endpoints. What a hostile app can do by choosing colliding endpoints is bounded by the size of the table:
 * no lookup looks at more than DIR_ENTRIES lines three times, some 50 microseconds. A writer that died, or
 * was stopped, in the middle of a change leaves seq odd: readers give up after a bounded number of looks (the
 * last of them yield the processor, for the writer may just be waiting for it). Nothing in the table can lead
 * a reader outside it: indices are masked, counts are clamped.
 */
#include "session/directory.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>

#include "base/atomic.h"
#include "base/sys.h"

#define MASK (DIR_ENTRIES - 1)
#define FULL (DIR_ENTRIES / 4 * 3)
#define WORDS (sizeof(struct dir_entry) / sizeof(uint64_t))
#define SPINS 2000
#define YIELDS 64
#define DELETED UINT32_MAX /* reserved; no writer makes one */

_Static_assert((DIR_ENTRIES & MASK) == 0, "the table is masked");
_Static_assert(offsetof(struct dir_entry, port) == 16 && offsetof(struct dir_entry, listener) == 20,
               "the third word of an entry holds port, proto, flags and listener");

/* The key of an entry: its address as two words, and the port. */
struct key {
    uint64_t high, low;
    uint16_t port;
};

static struct key key_of(const uint8_t addr[16], uint16_t port)
{
    struct key k = {.port = port};
    memcpy(&k.high, addr, 8);
    memcpy(&k.low, addr + 8, 8);
    return k;
}

static uint32_t key_hash(const struct key *k)
{
    uint64_t h = k->high * 0x9e3779b97f4a7c15ull ^ (k->low + k->port) * 0xc2b2ae3d27d4eb4full;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9ull;
    return (uint32_t)(h >> 40) & MASK;
}

static const uint64_t *words_of(const struct dir_entry *e)
{
    return (const uint64_t *)(const void *)e;
}

static void entry_copy_out(const struct dir_entry *shared, struct dir_entry *out)
{
    uint64_t copy[WORDS];
    for (size_t i = 0; i < WORDS; i++)
        copy[i] = load_acquire(words_of(shared) + i);
    memcpy(out, copy, sizeof copy);
}

static void entry_copy_in(struct dir_entry *shared, const struct dir_entry *from)
{
    uint64_t copy[WORDS];
    memcpy(copy, from, sizeof copy);
    uint64_t *to = (uint64_t *)(void *)shared;
    for (size_t i = 0; i < WORDS; i++)
        store_release(to + i, copy[i]);
}

static bool entry_is(const struct dir_entry *e, const struct key *k)
{
    return e->listener != 0 && e->listener != DELETED && e->port == k->port &&
           !memcmp(e->addr, &k->high, 8) && !memcmp(e->addr + 8, &k->low, 8);
}

/* ---- reader -------------------------------------------------------------------------------------------- */

/* Walks the run of `k`. Calls are few and the walk is short, so one function serves all: with `listener` not
 * 0 it finds that one, else it counts those that match and copies out number `nth`. Entries whose flags hold
 * one of `without` do not match. Returns how many match. */
static uint32_t walk(const struct directory *dir, const struct key *k, uint32_t listener, uint8_t without,
                     uint32_t nth, struct dir_entry *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0, at = key_hash(k); i < DIR_ENTRIES; i++, at = (at + 1) & MASK) {
        const uint64_t *w = words_of(&dir->entry[at]);
        struct dir_entry e;
        uint64_t third = load_acquire(w + 2);
        memcpy((uint8_t *)&e + 16, &third, 8);
        if (e.listener == 0)
            break;
        if (e.port != k->port || load_acquire(w) != k->high || load_acquire(w + 1) != k->low)
            continue;
        if (e.listener == DELETED || (e.flags & without) || (listener && e.listener != listener))
            continue;
        if (n++ == nth)
            entry_copy_out(&dir->entry[at], out);
    }
    return n;
}

static bool choose(const struct directory *dir, const struct key *k, uint8_t without, uint32_t spread,
                   struct dir_entry *out)
{
    uint32_t n = walk(dir, k, 0, without, 0, out);
    if (n > 1 && spread % n)
        (void)walk(dir, k, 0, without, spread % n, out);
    return n > 0;
}

static bool is_local_inside(const struct directory *dir, const struct key *k)
{
    uint32_t count = load_acquire(&dir->local_count);
    if (count > DIR_LOCAL_ADDRS)
        count = DIR_LOCAL_ADDRS;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t *w = (const uint64_t *)(const void *)dir->local_addr[i];
        if (load_acquire(w) == k->high && load_acquire(w + 1) == k->low)
            return true;
    }
    return false;
}

static const uint8_t any_v6[16];
static const uint8_t any_v4[16] = {[10] = 0xff, [11] = 0xff};
static const uint8_t loopback_v6[16] = {[15] = 1};
static const uint8_t loopback_v4[16] = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1};

static bool lookup_inside(const struct directory *dir, const uint8_t addr[16], uint16_t port, uint32_t spread,
                          struct dir_entry *out)
{
    bool v4 = endpoint_is_v4(addr);
    struct key exact = key_of(addr, port);
    if (choose(dir, &exact, 0, spread, out))
        return true;
    if (!endpoint_is_loopback(addr) && !is_local_inside(dir, &exact))
        return false;
    struct key wild = key_of(v4 ? any_v4 : any_v6, port);
    if (choose(dir, &wild, 0, spread, out))
        return true;
    if (!v4)
        return false;
    wild = key_of(any_v6, port);
    return choose(dir, &wild, DIR_V6ONLY, spread, out);
}

/* Is it worth (another) look? Waits a moment while the writer is at work; false when the patience is used up.
 */
static bool read_begin(const struct directory *dir, uint32_t *looks, uint32_t *seq)
{
    for (; *looks < SPINS + YIELDS; ++*looks) {
        *seq = load_acquire(&dir->seq);
        if (!(*seq & 1)) {
            ++*looks;
            return true;
        }
        if (*looks < SPINS)
            cpu_relax();
        else
            (void)sys_call(SYS_sched_yield, 0, 0, 0, 0);
    }
    return false;
}

static bool read_proved(const struct directory *dir, uint32_t seq)
{
    return load_acquire(&dir->seq) == seq; /* not before the loads above it: they are acquires */
}

bool directory_lookup(const struct directory *dir, const endpoint *dst, uint32_t spread,
                      struct dir_entry *out)
{
    const uint8_t *addr = dst->addr;
    if (dst->proto != PROTO_TCP || dst->port == 0 || directory_paused(dir))
        return false;
    if (endpoint_is_wildcard(addr)) /* as Linux has it: a connect to "any" goes to loopback */
        addr = endpoint_is_v4(addr) ? loopback_v4 : loopback_v6;
    struct dir_entry copy;
    uint32_t looks = 0, seq;
    while (read_begin(dir, &looks, &seq)) {
        bool found = lookup_inside(dir, addr, dst->port, spread, &copy);
        if (!read_proved(dir, seq))
            continue;
        if (found)
            *out = copy;
        return found;
    }
    return false;
}

bool directory_find(const struct directory *dir, const uint8_t addr[16], uint16_t port, uint32_t listener,
                    struct dir_entry *out)
{
    if (listener == 0)
        return false;
    struct key k = key_of(addr, port);
    struct dir_entry copy;
    uint32_t looks = 0, seq;
    while (read_begin(dir, &looks, &seq)) {
        bool found = walk(dir, &k, listener, 0, 0, &copy) > 0;
        if (!read_proved(dir, seq))
            continue;
        if (found)
            *out = copy;
        return found;
    }
    return false;
}

bool directory_is_local(const struct directory *dir, const uint8_t addr[16])
{
    if (endpoint_is_loopback(addr))
        return true;
    struct key k = key_of(addr, 0);
    uint32_t looks = 0, seq;
    while (read_begin(dir, &looks, &seq)) {
        bool found = is_local_inside(dir, &k);
        if (read_proved(dir, seq))
            return found;
    }
    return false;
}

/* ---- writer -------------------------------------------------------------------------------------------- */

static void write_begin(struct directory *dir)
{
    /* every store that follows is a release, so none is seen before it */
    store_release(&dir->seq, dir->seq + 1);
}

static void write_end(struct directory *dir)
{
    store_release(&dir->epoch, dir->epoch + 1);
    store_release(&dir->seq, dir->seq + 1);
}

static struct dir_entry *locate(struct directory *dir, const struct dir_entry *entry)
{
    struct key k = key_of(entry->addr, entry->port);
    for (uint32_t i = 0, at = key_hash(&k); i < DIR_ENTRIES; i++, at = (at + 1) & MASK) {
        struct dir_entry *e = &dir->entry[at];
        if (e->listener == 0)
            return NULL;
        if (entry_is(e, &k) && e->listener == entry->listener)
            return e;
    }
    return NULL;
}

static struct dir_entry normal(const struct dir_entry *entry)
{
    struct dir_entry e = *entry;
    e.flags = (uint8_t)((e.flags & ~DIR_WILDCARD) | (endpoint_is_wildcard(e.addr) ? DIR_WILDCARD : 0));
    return e;
}

void directory_init(struct directory *dir)
{
    memset(dir, 0, sizeof *dir);
    dir->magic = ABI_MAGIC_DIR;
    dir->version = ABI_VERSION;
}

void directory_pause(struct directory *dir, bool pause)
{
    store_release(&dir->paused, pause ? 1u : 0u);
}

int directory_add(struct directory *dir, const struct dir_entry *entry)
{
    if (entry->listener == 0 || entry->listener == DELETED || entry->port == 0)
        return BERTH_E_INVALID;
    if (locate(dir, entry))
        return BERTH_E_BUSY;
    if (dir->listeners >= FULL)
        return BERTH_E_LIMIT;
    struct dir_entry e = normal(entry);
    struct key k = key_of(e.addr, e.port);
    uint32_t at = key_hash(&k);
    while (dir->entry[at].listener != 0)
        at = (at + 1) & MASK;
    write_begin(dir);
    entry_copy_in(&dir->entry[at], &e);
    store_release(&dir->listeners, dir->listeners + 1);
    write_end(dir);
    return 0;
}

/* May the entry at `at`, whose home is `home`, move back to `hole`? Yes unless home lies behind the hole. */
static bool may_fill(uint32_t hole, uint32_t home, uint32_t at)
{
    return ((at - home) & MASK) >= ((at - hole) & MASK);
}

int directory_remove(struct directory *dir, const struct dir_entry *entry)
{
    struct dir_entry *e = locate(dir, entry);
    if (!e)
        return BERTH_E_BAD_HANDLE;
    static const struct dir_entry empty;
    uint32_t hole = (uint32_t)(e - dir->entry);
    write_begin(dir);
    for (uint32_t at = (hole + 1) & MASK; dir->entry[at].listener != 0; at = (at + 1) & MASK) {
        struct dir_entry moved = dir->entry[at];
        struct key k = key_of(moved.addr, moved.port);
        if (!may_fill(hole, key_hash(&k), at))
            continue;
        entry_copy_in(&dir->entry[hole], &moved);
        hole = at;
    }
    entry_copy_in(&dir->entry[hole], &empty);
    store_release(&dir->listeners, dir->listeners - 1);
    write_end(dir);
    return 0;
}

int directory_update(struct directory *dir, const struct dir_entry *entry)
{
    struct dir_entry *e = locate(dir, entry);
    if (!e)
        return BERTH_E_BAD_HANDLE;
    struct dir_entry changed = normal(entry);
    write_begin(dir);
    entry_copy_in(e, &changed);
    write_end(dir);
    return 0;
}

int directory_set_local(struct directory *dir, const uint8_t (*addrs)[16], uint32_t count)
{
    if (count > DIR_LOCAL_ADDRS)
        return BERTH_E_LIMIT;
    write_begin(dir);
    for (uint32_t i = 0; i < count; i++) {
        struct key k = key_of(addrs[i], 0);
        uint64_t *w = (uint64_t *)(void *)dir->local_addr[i];
        store_release(w, k.high);
        store_release(w + 1, k.low);
    }
    store_release(&dir->local_count, count);
    write_end(dir);
    return 0;
}

/* ---- news, and the daemon's end ------------------------------------------------------------------------ */

/* The kernel walks a dying thread's list of robust mutexes, and of each that it holds it sets the owner-died
 * bit and wakes one sleeper, if the waiters bit says that there are any (get_robust_list(2)). glibc keeps the
 * list; the word is the first of its mutex. */
_Static_assert(sizeof(pthread_mutex_t) <= sizeof(uint32_t) + sizeof((struct directory *)0)->life_rest,
               "the mutex lies in the directory's line");

static pthread_mutex_t *life_of(struct directory *dir)
{
    return (pthread_mutex_t *)(void *)&dir->life;
}

int directory_live(struct directory *dir)
{
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    int err = pthread_mutex_init(life_of(dir), &how);
    pthread_mutexattr_destroy(&how);
    if (err || pthread_mutex_lock(life_of(dir)) != 0)
        return BERTH_E_SYSTEM;
    /* sleepers cannot say that they are there: they may only read */
    (void)fetch_or_sc(&dir->life, FUTEX_WAITERS);
    return 0;
}

void directory_leave(struct directory *dir)
{
    if (load_relaxed(&dir->life))
        (void)pthread_mutex_unlock(life_of(dir));
}

bool directory_lives(const struct directory *dir)
{
    uint32_t word = load_acquire(&dir->life);
    return word && !(word & FUTEX_OWNER_DIED);
}

const uint32_t *directory_life(const struct directory *dir)
{
    return &dir->life;
}

const uint32_t *directory_news(const struct directory *dir, uint32_t worker)
{
    return &dir->news[worker % DIR_NEWS];
}

void directory_tell(struct directory *dir, uint32_t worker)
{
    uint32_t *word = &dir->news[worker % DIR_NEWS];
    (void)fetch_add_sc(word, 1u); /* after the message was sent: who sees the new value finds it */
    (void)sys_futex_wake(word, (long)INT_MAX);
}
