/* ready.h - the one place that says what a session, a listener or a set is ready for.
 *
 * Readable: the next read does not say WOULD_BLOCK. Writable: the next write does not. A listener is readable
 * when the next accept of a process that is alone with it gives a session. Nothing here waits, takes a
 * session's lock or calls the daemon but to ask. */
#ifndef BERTH_CLIENT_READY_H
#define BERTH_CLIENT_READY_H

#include "client/state.h"
#include "client/watch.h"

/* In what session_ready gives, beside EPOLL*: there are bytes in a segment that is not mapped yet. It has
 * been asked for; fetch_bytes waits for it. */
#define READY_MISSING 0x01000000u

uint32_t session_ready(struct session *s, struct session_cache *c);
bool session_has(struct session *s, struct session_cache *c,
                 uint64_t least);                                 /* so many bytes, or an end to report */
bool stream_readable(struct session *s, struct session_cache *c); /* as many as SO_RCVLOWAT says */
bool stream_writable(struct session *s, struct session_cache *c);
bool bytes_missing(struct session *s,
                   struct session_cache *c); /* the first of them lie in a segment that is not here */
bool fetch_bytes(session_handle h);          /* true: they are here now, or it is over with the session */

/* Arms first, judges after: what came before the mark is seen, what comes later is told. flag: COUNT_FLAG for
 * sleepers by futex. False: it is ready. edge: told of what comes beyond what is there; false then: more has
 * come, look again. least: how many bytes are to be there, 0: as SO_RCVLOWAT says. */
bool stream_arm_read(struct session *s, struct session_cache *c, uint64_t flag, bool edge, uint64_t least);
bool stream_arm_write(struct session *s, struct session_cache *c, uint64_t flag);

#endif
