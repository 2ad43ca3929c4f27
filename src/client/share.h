/* share.h - what a holder of shared sessions must look after himself. */
#ifndef BERTH_CLIENT_SHARE_H
#define BERTH_CLIENT_SHARE_H

#include "client/state.h"

/* An inherited session whose acceptor another member, or nobody, has met. True: the daemon was asked for him.
 */
bool shared_link(struct session *s);
void shared_confirm(void); /* inherited sessions that the connector may not know of */
void shared_look(void);    /* the same, where bytes may be here that nobody tells of */
void share_forget(void);   /* in a forked child */
/* A connector's session whose acceptor is not known, or whose offer found no room: looks again, without the
 * daemon's news. True: they may help. */
bool session_seek(struct session *s);
void shared_outbox_answered(int status); /* by the daemon, to who asked for the outbox of a peer */
/* Of a shared session whose peer another member has met: its memory is not here, and will not come (no lock is
 * held or needed) / may come. */
bool peer_unreachable(const struct session *s, const struct session_cache *c);
bool peer_awaited(const struct session *s, const struct session_cache *c);

#endif
