/* give.h - what is written down of a session that goes to another program, and who wants it back. See give.c. */
#ifndef BERTH_CLIENT_GIVE_H
#define BERTH_CLIENT_GIVE_H

#include "base/result.h"
#include "client/state.h"

#define GIVEN_MAGIC 0x4e564947u /* "GIVN" */

struct given {
    uint32_t magic;
    uint32_t flags; /* SF_*: GIVEN_FLAGS of them */
    uint64_t head;
    uint64_t from, tail; /* bytes [from, tail) follow */
    uint64_t tx_limit, rx_limit;
    uint32_t lowat;
    uint32_t offer_seq;
    uint8_t local_addr[16], remote_addr[16];
    uint16_t local_port, remote_port;
    uint8_t local_family, remote_family;
    uint8_t nonblock;
    uint8_t pad;
    uint16_t place, pad2;
};

#define GIVEN_FLAGS (SF_CONNECTOR | SF_SHUT_WR | SF_SHUT_RD | SF_WRITE_LOST | SF_RESET_TOLD)
static inline uint64_t given_bytes(uint64_t unread)
{
    return PAGE_BYTES + (unread + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* What of its stream is to be written down: bytes [from, tail), in that ring of ours. */
struct to_give {
    uint64_t from;
    const uint8_t *ring;
    uint64_t size; /* of the memory that it takes */
};

/* All of these with both locks of the session held. `shared`: also what relatives hold. */
bool may_give(const struct session *s, const struct session_cache *c, bool shared);
must_use int given_look(const struct session *s, const struct session_cache *c, struct to_give *g);
void given_write(const struct session *s, const struct session_cache *c, const struct to_give *from,
                 struct given *g);

/* The daemon wants it back. */
void session_recalled(const struct ctl_place *place);
bool recalls_wait(void); /* for somebody who is in the middle of something */
void recalls_go_on(void);

#endif
