/* hello.h - how a process becomes a worker. */
#ifndef BERTH_CLIENT_HELLO_H
#define BERTH_CLIENT_HELLO_H

#include "base/result.h"
#include "client/state.h"

extern struct plock hello_lock; /* one thread says hello */
must_use int worker_page_create(int *fd);
must_use int welcome(const struct ctl_welcome *w, const int fds[2]); /* directory, bell: taken */
must_use int hello_request(void *msg, const int *fds, int nfds);     /* of a HELLO or CHILD_HELLO */
must_use int fork_child_ready(
    void); /* says hello if this is a child that has not; 0 or an error. For entries of the API */

#endif
