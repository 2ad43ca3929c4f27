/* link.h - connector and acceptor come to know each other's slots. */
#ifndef BERTH_CLIENT_LINK_H
#define BERTH_CLIENT_LINK_H

#include "client/state.h"

/* Before the next, of an acceptor's: its connector may have chosen us, and died before we saw it. No lock is taken. */
void session_last_words(struct session *s);
/* the peer worker of the session that had these flags is */
void session_dead(struct session *s, uint32_t flags);
void session_linked(struct session *s); /* connector: the peer's slot is known now */
void session_event(struct peer_box *box, uint32_t peer_slot_index);
bool session_judge(struct session *s, struct session_cache *c); /* one of them: false, it is open still */
void sessions_confirm(void); /* acceptors look whether the connectors know them */
/* acceptor: the connector may do something and have nobody to tell */
bool session_unheard(const struct session_cache *c);
void sessions_heard(void); /* a connector has been told of us: what has it done before? */

#endif
