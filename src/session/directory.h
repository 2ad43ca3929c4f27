/* directory.h - the listener directory of one (namespace, network namespace): built by the daemon, read by all its apps.
 *
 * The daemon is the one writer; readers use the sequence lock and take copies. A reader that sees a writer at work
 * for more than a few thousand looks gives up and says "miss": the connect then goes to the kernel, as it would
 * without berth.
 */
#ifndef BERTH_SESSION_DIRECTORY_H
#define BERTH_SESSION_DIRECTORY_H

#include "session/endpoint.h"
#include "shm/abi.h"

/* Reader. Finds who listens for a connect to `dst`: exact address first, then the wildcard of the same IP version, then
 * a `::` listener that is not v6-only; wildcards match only loopback and the published local addresses, and the
 * wildcard address itself as destination means loopback. Where several listeners share an endpoint, `spread` (any
 * number) chooses among them. Returns true and a copy of the entry, or false. Any thread, never blocks. */
bool directory_lookup(const struct directory *dir, const endpoint *dst, uint32_t spread, struct dir_entry *out);
/* The entry of that listener, by endpoint and id; false when it is gone. */
bool directory_find(const struct directory *dir, const uint8_t addr[16], uint16_t port, uint32_t listener,
                    struct dir_entry *out);
/* True where `addr` is an address of this host in the directory's network namespace. */
bool directory_is_local(const struct directory *dir, const uint8_t addr[16]);

/* Writer: one thread of the daemon, on its writable mapping. */
void directory_init(struct directory *dir);
int directory_add(struct directory *dir, const struct dir_entry *entry); /* BERTH_E_LIMIT when full */
int directory_remove(struct directory *dir, const struct dir_entry *entry);
int directory_update(struct directory *dir, const struct dir_entry *entry); /* same key and listener, other words */
int directory_set_local(struct directory *dir, const uint8_t (*addrs)[16], uint32_t count);

#endif
