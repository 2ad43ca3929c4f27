/* order.h - in builds with -Dberth_delays=true: no thread takes a lock that it holds, nor two locks in two
 * orders.
 *
 * Every blocking take adds "B was taken while A was held" to a graph of lock classes that the process keeps
 * (and its forked children inherit); one that would close a circle ends the process with the names of both,
 * whether or not two threads were in each other's way this time. A take that only tries adds nothing to the
 * graph: it waits for nobody.
 */
#ifndef BERTH_BASE_ORDER_H
#define BERTH_BASE_ORDER_H

#ifdef BERTH_DELAYS
#include <stdbool.h>

/* What locks of a kind have in common; NULL: the lock is the only one of its kind. Set once, before there are
 * threads. */
extern const char *(*order_class_name)(const void *lock);
/* Is that lock, which has no class, one that a fork knows of? Another one ends the process: some day a child
 * would find it taken. NULL: no question is asked. */
extern bool (*order_fork_knows)(const void *lock);
void order_take(const void *lock); /* before a take that may wait */
void order_have(const void *lock); /* it was taken, in whatever way */
void order_drop(const void *lock); /* before the release */
#else
#define order_take(lock) ((void)0)
#define order_have(lock) ((void)0)
#define order_drop(lock) ((void)0)
#endif

#endif
