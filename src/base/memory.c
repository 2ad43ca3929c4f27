/* memory.c - blocks of a power of two, cut from regions and never given back to the kernel; what is larger is
 * a mapping of its own.
 *
 * Those that are larger than a page's part come from regions of their own: what is small and often written lies
 * close together, for each page that is written is one to copy after a fork.
 *
 * A block that was put back is the next of its size to be got. Regions are never unmapped: what the library
 * keeps is little, and comes and goes with the program's sockets. The sanitizers see nothing of that, so
 * builds with them take malloc's.
 */
#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sys.h"

struct plock memory_lock;

#define MOST (1ull << 40) /* whoever asks for more has miscounted */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

void *memory_get(size_t size)
{
    return size && size <= MOST ? calloc(1, size) : NULL;
}

void *memory_get_raw(size_t size)
{
    return size && size <= MOST ? malloc(size) : NULL;
}

void memory_put(void *p, size_t size)
{
    (void)size;
    free(p);
}

#else

#define SMALLEST 64u
#define CLASSES 10u
#define LARGEST ((size_t)SMALLEST << (CLASSES - 1))
#define REGION_BYTES (256u * 1024)
#define PAGE 4096u
#define BIG (PAGE / 2)

struct block {
    struct block *next;
};

static struct block *free_blocks[CLASSES];
static struct region {
    char *next;
    size_t left;
} regions[2]; /* for small ones, for big ones */

static unsigned class_of(size_t size)
{
    unsigned c = 0;
    while ((size_t)SMALLEST << c < size)
        c++;
    return c;
}

static size_t whole_pages(size_t size)
{
    return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static void *map(size_t size)
{
    long p = sys_call6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p < 0 && p > -(long)PAGE
               ? NULL
               : (void *)p; /* NOLINT(performance-no-int-to-ptr): a system call's result */
}

static void put(void *p, unsigned c)
{
    struct block *b = p;
    b->next = free_blocks[c];
    free_blocks[c] = b;
}

/* What is left of the last region becomes blocks. */
static bool new_region(struct region *r)
{
    char *fresh = map(REGION_BYTES);
    for (unsigned c = CLASSES; fresh && c-- > 0;) {
        size_t size = (size_t)SMALLEST << c;
        for (; r->left >= size; r->next += size, r->left -= size)
            put(r->next, c);
    }
    if (fresh)
        *r = (struct region){fresh, REGION_BYTES};
    return fresh != NULL;
}

void *memory_get_raw(size_t size)
{
    if (!size || size > MOST)
        return NULL;
    if (size > LARGEST)
        return map(whole_pages(size));
    unsigned c = class_of(size);
    size_t whole = (size_t)SMALLEST << c;
    plock_take(&memory_lock);
    struct block *b = free_blocks[c];
    struct region *r = &regions[whole >= BIG];
    if (b) {
        free_blocks[c] = b->next;
    } else if (r->left >= whole || new_region(r)) {
        b = (struct block *)r->next;
        r->next += whole;
        r->left -= whole;
    }
    plock_release(&memory_lock);
    return b;
}

void *memory_get(size_t size)
{
    void *p = memory_get_raw(size);
    if (p && size <= LARGEST)
        memset(p, 0, size);
    return p;
}

void memory_put(void *p, size_t size)
{
    if (!p || !size)
        return;
    if (size > LARGEST) {
        (void)sys_call(SYS_munmap, p, (long)whole_pages(size), 0L, 0L);
        return;
    }
    plock_take(&memory_lock);
    put(p, class_of(size));
    plock_release(&memory_lock);
}

#endif
