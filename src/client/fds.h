/* fds.h - descriptors of berth's own inside a program. */
#ifndef BERTH_CLIENT_FDS_H
#define BERTH_CLIENT_FDS_H

#include "base/result.h"
#include "client/state.h"

extern struct plock spare_lock; /* of the reserve */
/* What `fd` is comes under that number, which is ours and stays so: other threads may be at it. `fd` is closed.
 * False: there it is what it was. */
bool own_fd_is(int number, int fd);
must_use int own_fd(int fd); /* moves a descriptor out of the program's way and remembers it as ours */
void own_fd_close(int fd);
void own_fd_set(int fd, bool ours);
#define FDS_FOR_A_MEETING 4u
/* the reserve, made up to full if there is room: how many descriptors it has */
uint32_t fds_keep(void);
/* Some are about to come: the reserve is given up for them, unless there is room for more than them. */
void fds_expect(void);
bool fds_room(uint32_t n);     /* are so many free now? */
void fds_keep_again(void);     /* the same, now and then */
void let_others_open(int fd);  /* of a pipe: whoever is given it */
must_use int own_pipe(int fd); /* a pipe that came from others: taken; for pipe_put and bell_ring only */
must_use int own_pipe_later(int fd); /* the same, at less cost for one that may not be written often */
/* ours, that relatives have too: under a description of its own, where there is a /proc */
void pipe_anew(int fd, int access);
must_use int bell_without_daemon(void); /* ours, that none but our family rings */
must_use long pipe_put(int fd, const void *data,
                       size_t n); /* write(2) that never waits and raises no signal; up to a page */
/* A bell is the pipe that tells a worker to look; to ring it is to kick the worker. */
void bell_ring(int fd);
must_use int own_epoll(void); /* out of the reserve if need be */

#endif
