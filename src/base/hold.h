/* hold.h - moments in which no signal handler of the program may run in this thread.
 *
 * Theory of operation
 *
 * POSIX lets a signal handler call read, write, close, poll, fork and much else that the preload library
 * replaces, and programs do: PostgreSQL's postmaster forks and closes sockets in handlers that interrupt its
 * select. A handler that comes while its own thread holds one of our locks would wait for that lock for ever.
 * So each thread counts what it holds, and a handler that comes while the count is not 0 is put off
 * (shim/signals.c, which stands before the program's handlers): it runs when the count gets to 0. Whoever
 * sleeps opens the hold for that time (hold_open), so that handlers run then, as they would in the kernel's
 * own call.
 *
 * Only the preload library stands before handlers, and only from the program's first handler on is anything
 * counted: until then it costs a look at one word. A thread that holds a lock at that very moment ends a hold
 * that it did not begin.
 */
#ifndef BERTH_BASE_HOLD_H
#define BERTH_BASE_HOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"

struct hold {
    uint32_t depth;
    uint32_t waiting; /* a handler was put off, and all signals are blocked since */
};

extern __thread struct hold berth_hold __attribute__((tls_model("initial-exec"), visibility("hidden")));
/* Lets what waits run; set by who puts handlers off. NULL: nobody does. */
extern void (*berth_hold_deliver)(void) __attribute__((visibility("hidden")));

static inline void hold_begin(void)
{
    if (!load_relaxed(&berth_hold_deliver))
        return;
    store_relaxed(&berth_hold.depth, berth_hold.depth + 1);
    fence_compiler();
}

static inline void hold_end(void)
{
    if (!load_relaxed(&berth_hold_deliver))
        return;
    fence_compiler();
    uint32_t depth = load_relaxed(&berth_hold.depth);
    depth -= depth > 0;
    store_relaxed(&berth_hold.depth, depth);
    fence_compiler();
    if (__builtin_expect(load_relaxed(&berth_hold.waiting) && !depth, 0))
        berth_hold_deliver();
}

/* Before a sleep: handlers may run. True: one has been waiting and has run, so that there is no sleeping now.
 */
static inline bool hold_open(uint32_t *depth)
{
    *depth = berth_hold.depth;
    store_relaxed(&berth_hold.depth, 0u);
    fence_compiler();
    if (__builtin_expect(!load_relaxed(&berth_hold.waiting), 1))
        return false;
    berth_hold_deliver();
    return true;
}

static inline void hold_close(uint32_t depth)
{
    store_relaxed(&berth_hold.depth, depth);
    fence_compiler();
}

#endif
