/* move.h - the peer of a session goes to another program: what is done at this end of it. See move.c. */
#ifndef BERTH_CLIENT_MOVE_H
#define BERTH_CLIENT_MOVE_H

#include "client/state.h"

/* The session whose slot of ours that is. NULL: it has gone, or is another member's. */
struct session *session_at_place(const struct ctl_place *mine);
/* Where it is, and its other end. Under its locks. */
struct ctl_place session_place(const struct session *s, const struct session_cache *c);
struct ctl_place session_peer_place(const struct session *s);
bool session_is_known(const struct session *s,
                      const struct session_cache *c); /* by the peer, where it is now */
/* To the daemon: what was there is nowhere, or nobody's business any more. */
void session_is_nowhere(const struct ctl_place *place);

void peer_moves(const struct ctl_move *m); /* it is on its way: its worker's end is not its own */
void peer_moved(const struct ctl_move *m); /* it is there, or (nowhere) it has ended */
void moves_go_on(void);                    /* those that waited for memory of where it is now */
void moves_unmet(uint32_t asked);          /* there is no such outbox as was asked for */
bool moves_wait(void);
void moves_lost(void); /* the daemon, who alone could tell where they are, has ended */
void moves_forget(void);

#endif
