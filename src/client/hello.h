/* hello.h - how a process becomes a worker. */
#ifndef BERTH_CLIENT_HELLO_H
#define BERTH_CLIENT_HELLO_H

#include "base/result.h"
#include "client/state.h"

extern struct plock hello_lock; /* one thread says hello */
/* Where this process may not make memfds: has one been lent by the daemon for the next segment? A round trip. No lock
 * is held that is taken while an answer is waited for. */
bool memory_borrow(uint64_t size);
must_use int worker_page_create(int *fd);
must_use int welcome(const struct ctl_welcome *w, const int fds[2]); /* directory, bell: taken */
must_use int hello_request(void *msg, const int *fds, int nfds);     /* of a HELLO or CHILD_HELLO */
/* Says hello if this is a child that has not; 0 or an error. For entries of the API. TIMED_OUT: the daemon has been
 * asked, and has not answered yet: after the first time, at once. */
must_use int fork_child_ready(void);
/* The same for what can do without the daemon: while it has not answered it is 0, and C->forked. Nobody kicks such a
 * process, so it looks now and then, and comes here again before each sleep. */
must_use int fork_child_goes_on(void);
void hello_forked(void);        /* in a forked child: it has asked nothing */
bool hello_reset(void);         /* no answer is waited for any more. True: one was */
must_use int hello_apart(void); /* as a child that has nothing of its parent's. hello_lock is held */

#endif
