/* share.h - what a holder of shared sessions must look after himself. */
#ifndef BERTH_CLIENT_SHARE_H
#define BERTH_CLIENT_SHARE_H

#include "client/state.h"

/* An inherited session whose acceptor another member, or nobody, has met. True: the daemon was asked for him.
 */
bool shared_link(struct session *s);
void shared_confirm(void); /* inherited sessions that the connector may not know of */
void share_forget(void);   /* in a forked child */
/* A connector's session whose acceptor is not known, or whose offer found no room: looks again, without the
 * daemon's news. True: they may help. */
bool session_seek(struct session *s);

#endif
