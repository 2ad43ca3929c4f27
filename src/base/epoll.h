/* epoll.h - waiting for an epoll set by nanoseconds, also where the kernel counts in milliseconds. */
#ifndef BERTH_BASE_EPOLL_H
#define BERTH_BASE_EPOLL_H

#include <stdbool.h>
#include <sys/epoll.h>
#include <time.h>

/* epoll_pwait2 is of Linux 5.11, and who stands in for the kernel may be older: valgrind does not know it. */
bool epoll_is_coarse(void);
void epoll_set_coarse(void);              /* it has said ENOSYS */
long epoll_ms(const struct timespec *ts); /* for epoll_pwait: not before that time; NULL: for ever */

/* timeout NULL: for ever. No signal mask. */
long epoll_wait_ns(int ep, struct epoll_event *events, int max, const struct timespec *timeout);

#endif
