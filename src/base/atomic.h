/* atomic.h - the few memory orders berth uses, by name.
 *
 * All shared words go through these, so that an order is visible at the call and can be searched for.
 * `sc` operations take part in the single total order that the notification protocol (shm/slot.h) needs:
 * on x86 a store_sc is an xchg, which is cheaper than a plain store and a fence.
 */
#ifndef BERTH_BASE_ATOMIC_H
#define BERTH_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#ifdef BERTH_DELAYS
#include "base/delay.h"
#else
#define delay_point(is_store) ((void)0)
#endif

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) (delay_point(0), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define load_sc(p) (delay_point(0), __atomic_load_n((p), __ATOMIC_SEQ_CST))
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) (delay_point(1), __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#define store_sc(p, v) (delay_point(1), (void)__atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST))
#define fetch_add_sc(p, v) (delay_point(1), __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST))
#define fetch_or_sc(p, v) (delay_point(1), __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST))
#define fetch_and_sc(p, v) (delay_point(1), __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST))
#define exchange_sc(p, v) (delay_point(1), __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST))
/* true when *p was *expected and is now v; else *expected holds what was found */
#define compare_exchange_sc(p, expected, v)                                                                  \
    __atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)
#if defined(__SANITIZE_THREAD__)
/* ThreadSanitizer knows no fences; a locked instruction is one, and what it orders is atomic on both sides
 * anyway. */
#define fence_sc()                                                                                           \
    do {                                                                                                     \
        uint32_t fence_word = 0;                                                                             \
        (void)__atomic_exchange_n(&fence_word, 1u, __ATOMIC_SEQ_CST);                                        \
    } while (0)
#else
#define fence_sc() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
#define fence_compiler() __atomic_signal_fence(__ATOMIC_SEQ_CST)

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

#endif
