/* order.c - see order.h. Empty but in builds with -Dberth_delays=true. */
#include "base/order.h"

#ifdef BERTH_DELAYS
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLASSES_MAX 64u
#define HELD_MAX 32u

const char *(*order_class_name)(const void *lock);
bool (*order_fork_knows)(const void *lock);

static const void *class_of[CLASSES_MAX]; /* a name of order_class_name's, or the lock itself */
static uint64_t taken_under[CLASSES_MAX]; /* bit b of a: b was taken while a was held */
static __thread struct {
    pid_t pid;
    uint32_t count;
    const void *lock[HELD_MAX];
} held;

static uint32_t class_index(const void *lock)
{
    const char *name = order_class_name ? order_class_name(lock) : NULL;
    const void *key = name ? (const void *)name : lock;
    for (uint32_t i = 0; i < CLASSES_MAX; i++) {
        const void *empty = NULL;
        if (__atomic_load_n(&class_of[i], __ATOMIC_ACQUIRE) == key ||
            __atomic_compare_exchange_n(&class_of[i], &empty, key, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_ACQUIRE) ||
            empty == key)
            return i;
    }
    return CLASSES_MAX - 1;
}

static const char *name_of(const void *lock, char *buf, size_t size)
{
    const char *name = order_class_name ? order_class_name(lock) : NULL;
    (void)(name ? snprintf(buf, size, "%s", name) : snprintf(buf, size, "the lock at %p", lock));
    return buf;
}

static __attribute__((noreturn)) void broken(const char *what, const void *lock, const void *under)
{
    char a[64], b[64];
    fprintf(stderr, "berth: lock order: %s: %s (%p), while holding", what, name_of(lock, a, sizeof a), lock);
    for (uint32_t i = 0; i < held.count; i++)
        fprintf(stderr, "%s %s%s", i ? "," : "", name_of(held.lock[i], b, sizeof b),
                held.lock[i] == under ? " (the one)" : "");
    fprintf(stderr, "\n");
    abort();
}

static bool leads_to(uint32_t from, uint32_t to, uint64_t *seen)
{
    if (from == to)
        return true;
    *seen |= 1ull << from;
    uint64_t next = __atomic_load_n(&taken_under[from], __ATOMIC_RELAXED) & ~*seen;
    for (uint32_t i = 0; i < CLASSES_MAX; i++) {
        if (next >> i & 1 && !(*seen >> i & 1) && leads_to(i, to, seen))
            return true;
    }
    return false;
}

/* What a thread held when it forked, its copy in the child gives back under other words: it begins with
 * nothing. */
static void same_process(void)
{
    pid_t pid = getpid();
    if (held.pid != pid) {
        held.pid = pid;
        held.count = 0;
    }
}

void order_take(const void *lock)
{
    same_process();
    uint32_t to = class_index(lock);
    for (uint32_t i = 0; i < held.count; i++) {
        if (held.lock[i] == lock)
            broken("taken twice", lock, lock);
        uint32_t from = class_index(held.lock[i]);
        if (__atomic_load_n(&taken_under[from], __ATOMIC_RELAXED) >> to & 1)
            continue;
        uint64_t seen = 0;
        if (leads_to(to, from, &seen))
            broken("taken against it", lock, held.lock[i]);
        __atomic_fetch_or(&taken_under[from], 1ull << to, __ATOMIC_RELAXED);
    }
}

void order_have(const void *lock)
{
    same_process();
    if (order_fork_knows && !(order_class_name && order_class_name(lock)) && !order_fork_knows(lock))
        broken("no fork knows of it", lock, lock);
    if (held.count < HELD_MAX)
        held.lock[held.count++] = lock;
}

void order_drop(const void *lock)
{
    same_process();
    for (uint32_t i = held.count; i-- > 0;) {
        if (held.lock[i] == lock) {
            held.lock[i] = held.lock[--held.count];
            return;
        }
    }
}
#endif
