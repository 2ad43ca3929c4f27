/* segment.c - see segment.h. The kernel facts relied upon are proved by tests/unit/platform_test.c. */
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/sys.h"
#include "berth/error.h"
#include "shm/abi.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

bool segment_allowed(uint64_t size)
{
    struct rlimit64 limit = {.rlim_cur = RLIM64_INFINITY};
    (void)sys_call(SYS_prlimit64, 0L, (long)RLIMIT_FSIZE, 0L, &limit);
    return size <= limit.rlim_cur;
}

bool segment_space_limited(void)
{
    struct rlimit64 limit = {.rlim_cur = RLIM64_INFINITY};
    (void)sys_call(SYS_prlimit64, 0L, (long)RLIMIT_AS, 0L, &limit);
    return limit.rlim_cur != RLIM64_INFINITY;
}

/* A core has what is the program's. On the kernel what is under way lies in the kernel, too; and each hole of
 * shared memory that is dumped becomes memory. */
static void not_dumped(void *map, uint64_t size)
{
    (void)madvise(map, size, MADV_DONTDUMP);
}

static int lent; /* descriptor + 1, 0: none */
static bool forbidden;

bool segment_forbidden(void)
{
    return load_relaxed(&forbidden);
}

void segment_lend(int fd)
{
    int before = exchange_sc(&lent, fd + 1);
    if (before)
        (void)sys_close(before - 1);
}

/* Made here, or the one that was lent if it is of that size. -1 and errno. */
static int memfd(const char *name, uint64_t size)
{
    int fd = -1;
    errno = EFBIG;
    if (segment_allowed(size) && (fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)) >= 0 &&
        ftruncate(fd, (off_t)size) == 0)
        return fd;
    int why = errno;
    if (fd < 0 && why != EMFILE && why != ENFILE && why != ENOMEM) {
        store_relaxed(&forbidden, true);
        fd = exchange_sc(&lent, 0) - 1;
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == size)
            return fd;
    }
    if (fd >= 0)
        (void)sys_close(fd);
    errno = why;
    return -1;
}

int segment_create(const char *name, uint64_t size, int *fd_out, void **map_out)
{
    int fd = memfd(name, size);
    if (fd < 0)
        return BERTH_E_NO_MEMORY;
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED || sys_fcntl(fd, F_ADD_SEALS, (long)SEALS) < 0) {
        int saved = errno;
        if (map != MAP_FAILED)
            munmap(map, size);
        (void)sys_close(fd);
        errno = saved;
        return BERTH_E_NO_MEMORY;
    }
    not_dumped(map, size);
    *fd_out = fd;
    *map_out = map;
    return 0;
}

int segment_verify(int fd, uint64_t min, uint64_t max, bool populated, uint64_t *size_out, const char **why)
{
    long seals = sys_fcntl(fd, F_GET_SEALS, 0L);
    if (seals < 0 || (seals & SEALS) != SEALS) {
        *why = "the descriptor is not a memfd sealed with SHRINK, GROW and FUTURE_WRITE";
        return BERTH_E_PROTOCOL;
    }
    struct statfs fs;
    struct stat st;
    if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC || fstat(fd, &st) < 0) {
        *why = "the segment is not on tmpfs";
        return BERTH_E_PROTOCOL;
    }
    uint64_t size = (uint64_t)st.st_size;
    if (size < min || size > max || size % PAGE_BYTES) {
        *why = "the segment's size is out of range";
        return BERTH_E_PROTOCOL;
    }
    if (populated && (uint64_t)st.st_blocks * 512 < size) {
        *why = "the segment has holes";
        return BERTH_E_PROTOCOL;
    }
    *size_out = size;
    return 0;
}

int segment_open(int fd, uint64_t min, uint64_t max, bool populated, const void **map_out, uint64_t *size_out,
                 const char **why)
{
    const char *unused;
    uint64_t size;
    int err = segment_verify(fd, min, max, populated, &size, why ? why : &unused);
    if (err)
        return err;
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED) {
        if (why)
            *why = "the segment cannot be mapped";
        return BERTH_E_NO_MEMORY;
    }
    not_dumped(map, size);
    *map_out = map;
    *size_out = size;
    return 0;
}

void segment_unmap(const void *map, uint64_t size)
{
    munmap((void *)(uintptr_t)map, size);
}
