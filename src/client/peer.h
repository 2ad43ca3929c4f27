/* peer.h - what others let us read: found, or said not to be here yet. Nothing here waits. */
#ifndef BERTH_CLIENT_PEER_H
#define BERTH_CLIENT_PEER_H

#include "base/clock.h"
#include "base/result.h"
#include "client/state.h"

/* memory of the dead stays longer than any thread sleeps on a word in it */
#define GRAVE_NS (3 * NS_PER_SEC)
/* of all that face that outbox, and the next of them */
struct peer_box *peer_box_first(outbox_handle handle);
struct peer_box *peer_box_next(const struct peer_box *box);
struct peer_box *peer_box_find(outbox_handle handle);
struct peer_box *peer_box_of(outbox_handle handle, uint32_t me);                 /* as that worker faces it */
struct peer_box *peer_box_add(const struct ctl_outbox_is *is, const int fds[3]); /* takes the descriptors */
void peer_box_bury(struct peer_box *box); /* out of every table. C->lock and C->poll_lock are held */
void peer_box_unmap(struct peer_box *box, bool all);
const struct slot *peer_slot(struct peer_box *box,
                             uint32_t index); /* NULL: no such slot, or its chunk is not here yet */
const struct slot_info *peer_info(struct peer_box *box, uint32_t index);
/* The same, with the reason: WOULD_BLOCK (asked for, not here yet) or PROTOCOL. */
const struct slot *peer_slot_find(struct peer_box *box, uint32_t index, int *err);
/* The memory of a ring word that the peer wrote: checked, with its size. */
const uint8_t *peer_ring_find(struct peer_box *box, uint64_t word, uint64_t *size, int *err);
/* 0: it is here, for every one who faces that outbox. BAD_HANDLE: nobody does, *out is NULL. */
must_use int peer_segment_arrived(outbox_handle handle, uint32_t index, int fd, int status,
                                  struct peer_box **out);
void peer_segment_retired(outbox_handle handle, uint32_t index);
void peer_worker_dead(uint32_t worker);
bool peer_app_met(uint32_t app); /* we know one of its workers, who lives. C->lock is held */
/* The same, of a worker that can take what we offer from that outbox of ours when no daemon introduces us. Of our own
 * app we know those whom our parent has met: one of them must have heard of that very outbox. */
bool peer_takes(uint32_t app, uint32_t own_outbox);
void peer_heard(uint32_t worker, outbox_handle of_ours); /* it has been told of that outbox of ours */
/* a walk through one of its boxes; false: all are done */
bool peer_box_dead(uint32_t worker, struct roll_walk *w);
/* the same through one that has not been told of the daemon's end */
bool peer_box_last_told(struct roll_walk *w);

#endif
