/* directory.h - the listener directory of one (namespace, network namespace): built by the daemon, read by
 * all its apps.
 *
 * The daemon is the one writer; readers use the sequence lock and take copies. A reader that sees a writer at
 * work for more than a few thousand looks gives up and says "miss": the connect then goes to the kernel, as
 * it would without berth.
 */
#ifndef BERTH_SESSION_DIRECTORY_H
#define BERTH_SESSION_DIRECTORY_H

#include "base/atomic.h"
#include "base/result.h"
#include "session/endpoint.h"
#include "shm/abi.h"

/* Reader. Finds who listens for a connect to `dst`: exact address first, then the wildcard of the same IP
 * version, then a `::` listener that is not v6-only; wildcards match only loopback and the published local
 * addresses, and the wildcard address itself as destination means loopback. Where several listeners share an
 * endpoint, `spread` (any number) chooses among them. Returns true and a copy of the entry, or false. Any
 * thread, never blocks. */
bool directory_lookup(const struct directory *dir, const endpoint *dst, uint32_t spread,
                      struct dir_entry *out);
/* Has the daemon said that new connections are to go to the kernel? Then directory_lookup finds nobody. */
static inline bool directory_paused(const struct directory *dir)
{
    return load_acquire(&dir->paused) != 0;
}
/* The entry of that listener, by endpoint and id; false when it is gone. */
bool directory_find(const struct directory *dir, const uint8_t addr[16], uint16_t port, uint32_t listener,
                    struct dir_entry *out);
/* True where `addr` is an address of this host in the directory's network namespace. */
bool directory_is_local(const struct directory *dir, const uint8_t addr[16]);

/* The word that moves whenever the daemon has sent something to that worker: to look at, and to sleep on by
 * futex. It is shared with other workers: at worst somebody looks in vain. */
const uint32_t *directory_news(const struct directory *dir, uint32_t worker);
/* What it holds. Acquire pairs with directory_tell: what was sent is on the socket. */
static inline uint32_t directory_news_now(const struct directory *dir, uint32_t worker)
{
    return load_acquire(&dir->news[worker % DIR_NEWS]);
}

/* True while the daemon lives that made it. The word is for a futex: it changes, and one sleeper is woken,
 * when the daemon ends; who is woken wakes the others (FUTEX_WAKE on a read-only map works). */
bool directory_lives(const struct directory *dir);
const uint32_t *directory_life(const struct directory *dir);
/* What it holds, to sleep on. Acquire: what the daemon did before is there. */
static inline uint32_t directory_life_now(const struct directory *dir)
{
    return load_acquire(&dir->life);
}

/* Writer: one thread of the daemon, on its writable mapping. */
void directory_init(struct directory *dir);
/* BERTH_E_LIMIT when full */
must_use int directory_add(struct directory *dir, const struct dir_entry *entry);
must_use int directory_remove(struct directory *dir, const struct dir_entry *entry);
must_use int directory_update(struct directory *dir,
                              const struct dir_entry *entry); /* same key and listener, other words */
void directory_pause(struct directory *dir, bool pause);
/* From now on the calling thread's end is told by directory_life. Once, and undone before the memory goes. */
must_use int directory_live(struct directory *dir);
void directory_leave(struct directory *dir);
/* Something was sent to that worker: see directory_news. */
void directory_tell(struct directory *dir, uint32_t worker);
must_use int directory_set_local(struct directory *dir, const uint8_t (*addrs)[16], uint32_t count);

#endif
