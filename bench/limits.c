/* limits.c - what the machine itself allows: the floor under every latency and the roof over every stream.
 *
 * cacheline: one word that two processes on two CPUs take turns to write; half of the loop is one way.
 * ring: two processes, one single-producer single-consumer ring, one copy in and one copy out in `chunk`
 *       pieces, tail and head on lines of their own: the least any two-copy stream can do.
 *       Nothing else is shared, nobody sleeps, and the counters are published once a chunk.
 * Both sides are pinned, to the first two CPUs this process may use. Reported is the quickest tenth of the
 * time: what the hardware does when nobody else runs there. The median is in it too.
 *
 *     limits cacheline [--ms N]                     {"ns": ..., "median_ns": ...}
 *     limits ring [--ms N] [--size N] [--chunk N]   {"gbit": ..., "median_gbit": ...}
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common.h"

struct shared {
    _Alignas(128) _Atomic uint64_t word;
    _Alignas(128) _Atomic uint64_t tail;
    _Alignas(128) _Atomic uint64_t head;
    _Alignas(128) _Atomic int stop;
    _Alignas(4096) unsigned char ring[];
};

static struct shared *map_shared(size_t ring)
{
    int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE;
    void *p = mmap(NULL, sizeof(struct shared) + ring, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

enum { BATCH = 1000, MAX = 100000 };
static double batch[MAX]; /* what each batch took, or brought */

static void cacheline_peer(struct shared *s)
{
    for (uint64_t seen = 0;;) {
        uint64_t w = atomic_load_explicit(&s->word, memory_order_acquire);
        if (w == seen)
            continue;
        if (w == UINT64_MAX)
            _Exit(0);
        seen = w + 1;
        atomic_store_explicit(&s->word, seen, memory_order_release);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void cacheline(long ms)
{
    struct shared *s = map_shared(0);
    int n = 0;

    pid_t pid = fork_bound();
    if (pid == 0) {
        pin_to(cpu_of(1));
        cacheline_peer(s);
    }
    pin_to(cpu_of(0));
    uint64_t w = 1;
    int64_t end = now_ns() + ms * 1000000, t = now_ns();
    while (t < end && n < MAX) {
        for (int i = 0; i < BATCH; i++) {
            atomic_store_explicit(&s->word, w, memory_order_release);
            while (atomic_load_explicit(&s->word, memory_order_acquire) == w)
                ;
            w += 2;
        }
        int64_t u = now_ns();
        batch[n++] = (double)(u - t) / BATCH;
        t = u;
    }
    atomic_store(&s->word, UINT64_MAX);
    peer_wait(pid);
    qsort(batch, (size_t)n, sizeof(batch[0]), compare);
    printf("{\"ns\": %.1f, \"median_ns\": %.1f}\n", batch[n / 10], batch[n / 2]);
}

/* Takes what there is, `chunk` at most, until told to stop. */
static void ring_consumer(struct shared *s, size_t size, size_t chunk)
{
    char *out = malloc(chunk);
    uint64_t head = 0;

    if (!out)
        die("malloc");
    for (;;) {
        uint64_t n = atomic_load_explicit(&s->tail, memory_order_acquire) - head;
        if (n == 0) {
            if (atomic_load_explicit(&s->stop, memory_order_acquire))
                _Exit(0);
            continue;
        }
        size_t at = head & (size - 1), len = n < chunk ? n : chunk;
        size_t first = len < size - at ? len : size - at;
        memcpy(out, s->ring + at, first);
        memcpy(out + first, s->ring, len - first);
        __asm__ volatile("" : : "r"(out) : "memory");
        head += len;
        atomic_store_explicit(&s->head, head, memory_order_release);
    }
}

static void ring(long ms, size_t size, size_t chunk)
{
    if (size == 0 || size & (size - 1) || chunk > size)
        die_text("--size must be a power of two and no less than --chunk");
    struct shared *s = map_shared(size);
    char *in = malloc(chunk);
    uint64_t tail = 0;

    if (!in)
        die("malloc");
    memset(in, 'x', chunk);
    pid_t pid = fork_bound();
    if (pid == 0) {
        pin_to(cpu_of(1));
        ring_consumer(s, size, chunk);
    }
    pin_to(cpu_of(0));
    int n = 0;
    int64_t begin = now_ns(), end = begin + ms * 1000000, t = begin;
    while (t < end && n < MAX) {
        for (int i = 0; i < 64; i++) {
            while (tail + chunk - atomic_load_explicit(&s->head, memory_order_acquire) > size)
                ;
            size_t at = tail & (size - 1);
            size_t first = chunk < size - at ? chunk : size - at;
            memcpy(s->ring + at, in, first);
            memcpy(s->ring, in + first, chunk - first);
            tail += chunk;
            atomic_store_explicit(&s->tail, tail, memory_order_release);
        }
        int64_t u = now_ns();
        if (u - begin > ms * 100000) /* the first tenth warms up */
            batch[n++] = 64.0 * (double)chunk * 8.0 / (double)(u - t);
        t = u;
    }
    while (atomic_load_explicit(&s->head, memory_order_acquire) != tail)
        ;
    atomic_store(&s->stop, 1);
    peer_wait(pid);
    if (n == 0)
        die_text("not one batch in the time given");
    qsort(batch, (size_t)n, sizeof(batch[0]), compare);
    printf("{\"gbit\": %.2f, \"median_gbit\": %.2f}\n", batch[n - 1 - n / 10], batch[n / 2]);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    long ms = option_number(argc, argv, "--ms", 50);

    watchdog((int)(ms / 1000) + 20);
    if (cpu_of(0) == cpu_of(1))
        die_text("needs two CPUs");
    if (strcmp(what, "cacheline") == 0)
        cacheline(ms);
    else if (strcmp(what, "ring") == 0)
        ring(ms, (size_t)option_number(argc, argv, "--size", 1 << 20),
             (size_t)option_number(argc, argv, "--chunk", 64 << 10));
    else
        die_text("usage: limits cacheline|ring [--ms N] [--size N] [--chunk N]");
    return 0;
}
