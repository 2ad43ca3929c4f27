/* alone.c - programs that cannot be followed are left alone, whole.
 *
 * Theory of operation
 *
 * A program that makes system calls of its own, or has a ring of io_uring, would meet placeholders where its
 * sockets should be. Such a program is told by what is loaded, when it makes its first stream socket, and
 * from then on has the kernel's sockets only. It is told
 *   - by liburing among its libraries;
 *   - by the code of the program and of those of its libraries that do not lie beside libc (a
 *     distribution's, which use libc), see base/codescan.h: calls of its own, or io_uring_setup by syscall().
 *
 * libuv also sets up a ring, does so by syscall() (syscall.c) and makes do without it if there is none: with
 * libuv, and with what is loaded too late to be seen here, setting up a ring fails with ENOSYS, if it comes
 * by way of libc or of liburing's own functions, which are replaced here. As long as there is no socket of
 * berth's yet, the ring is had, and the program alone from then on.
 *
 * What is not seen by any of that meets a placeholder, which answers every call on it with an error.
 */
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/codescan.h"
#include "base/log.h"
#include "base/sys.h"
#include "shim/shim.h"

enum { UNKNOWN, FOLLOWED, ALONE };

static uint8_t verdict;
static long told_by; /* the process that `berth run` became: what that starts may start many */

/* The variable is for this library alone: the program finds what it was given. */
__attribute__((constructor)) static void who_was_run(void)
{
    const char *run = getenv("BERTH_RUN_PID");
    if (!run)
        return;
    told_by = atol(run);
    (void)unsetenv("BERTH_RUN_PID");
}

static void be_alone(const char *why)
{
    if (exchange_sc(&verdict, (uint8_t)ALONE) == ALONE)
        return;
    bool first = told_by == sys_call(SYS_getpid, 0L, 0L, 0L, 0L);
    log_write(first ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "%s %s: its connections stay on the kernel",
              program_invocation_short_name, why);
}

/* ---- what is loaded ------------------------------------------------------------------------------------ */

struct look {
    const void *libc; /* something of its */
    char beside[256]; /* libc's directory */
    size_t beside_len;
    bool liburing, libuv;
    int code;
};

/* Without /usr, which is often the same. */
static const char *canonical(const char *path)
{
    return strncmp(path, "/usr/", 5) == 0 ? path + 4 : path;
}

static bool holds(const struct dl_phdr_info *info, const void *what)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type == PT_LOAD && (uintptr_t)what - (info->dlpi_addr + ph->p_vaddr) < ph->p_memsz)
            return true;
    }
    return false;
}

/* dladdr would look through all names of the C library. */
static int find_beside(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct look *l = arg;
    (void)size;
    if (!holds(info, l->libc))
        return 0;
    const char *path = canonical(info->dlpi_name), *slash = strrchr(path, '/');
    if (slash && (size_t)(slash - path) + 1 < sizeof l->beside) {
        l->beside_len = (size_t)(slash - path) + 1;
        memcpy(l->beside, path, l->beside_len);
    }
    return 1;
}

static const void *segment(const struct dl_phdr_info *info, int i, ElfW(Word) flags, size_t *size)
{
    const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
    *size = ph->p_type == PT_LOAD && (ph->p_flags & flags) == flags ? ph->p_filesz : 0;
    return (const void *)(info->dlpi_addr + ph->p_vaddr);
}

/* libuv may be linked into it, and unknown by name: what it asks the environment is known. */
static bool has_libuv(const struct dl_phdr_info *info)
{
    static const char asked[] = "UV_USE_IO_URING";
    for (int i = 0; i < info->dlpi_phnum; i++) {
        size_t size;
        const void *at = segment(info, i, PF_R, &size);
        if (size && memmem(at, size, asked, sizeof asked))
            return true;
    }
    return false;
}

static void scan(const struct dl_phdr_info *info, struct look *l)
{
    int code = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        size_t size;
        const void *at = segment(info, i, PF_R | PF_X, &size);
        if (size)
            code |= codescan(at, size);
    }
    if (code & CODESCAN_IO_URING && has_libuv(info)) {
        code &= ~CODESCAN_IO_URING;
        l->libuv = true;
    }
    l->code |= code;
}

/* A library of the distribution's, of the loader's, or of berth's. */
static bool uses_libc(const struct dl_phdr_info *info, const struct look *l, const char *path,
                      const char *name)
{
    bool beside =
        name != path && (size_t)(name - path) == l->beside_len && !strncmp(path, l->beside, l->beside_len);
    bool loader =
        name == path || !strncmp(name, "ld-", 3) || !strncmp(name, "ld.", 3); /* or the kernel's page */
    return beside || loader || !strncmp(name, "libberth", 8) || holds(info, &verdict);
}

static int look_at(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct look *l = arg;
    const char *path = canonical(info->dlpi_name), *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    (void)size;
    if (!strncmp(name, "liburing.so", 11))
        l->liburing = true;
    else if (!*path /* the program */ || !uses_libc(info, l, path, name))
        scan(info, l);
    return 0;
}

static void look_around(struct look *l)
{
    if ((l->libc = dlsym(RTLD_NEXT, "getpid")))
        (void)dl_iterate_phdr(find_beside, l);
    (void)dl_iterate_phdr(look_at, l);
}

static __attribute__((noinline, cold)) void judge(void)
{
    struct look l = {.liburing = false};
    uint8_t unknown = UNKNOWN;
    look_around(&l);
    if (l.liburing)
        be_alone("is linked with liburing");
    else if (l.code & CODESCAN_OWN_CALLS)
        be_alone("makes system calls of its own");
    else if (l.code & CODESCAN_IO_URING)
        be_alone("uses io_uring");
    else
        (void)compare_exchange_sc(&verdict, &unknown, (uint8_t)FOLLOWED);
}

bool program_alone(void)
{
    if (unlikely(load_relaxed(&verdict) == UNKNOWN))
        judge();
    return load_relaxed(&verdict) == ALONE;
}

/* ---- rings --------------------------------------------------------------------------------------------- */

bool ring_refused(void)
{
    struct look l = {.liburing = false};
    if (load_relaxed(&verdict) == ALONE)
        return false;
    if (socks_with_berth() || dlsym(RTLD_DEFAULT, "uv_loop_init"))
        return true;
    look_around(&l);
    if (l.libuv)
        return true;
    be_alone("uses io_uring");
    return false;
}

/* A function of liburing's, which may have been loaded for one library alone. */
static void *liburing(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    static const char *const names[] = {"liburing.so.2", "liburing.so.1", "liburing.so"};
    for (size_t i = 0; !f && i < sizeof names / sizeof names[0]; i++) {
        void *lib = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
        f = lib ? dlsym(lib, name) : NULL;
        if (lib)
            (void)dlclose(lib); /* whoever loaded it keeps it */
    }
    return f;
}

#define RING(name, params, args)                                                                             \
    int name params;                                                                                         \
    EXPORT int name params                                                                                   \
    {                                                                                                        \
        __typeof__(&name) next = (__typeof__(&name))liburing(#name);                                         \
        return !next || ring_refused() ? -ENOSYS : next args;                                                \
    }

RING(io_uring_setup, (unsigned entries, void *params), (entries, params))
RING(io_uring_queue_init, (unsigned entries, void *ring, unsigned flags), (entries, ring, flags))
RING(io_uring_queue_init_params, (unsigned entries, void *ring, void *params), (entries, ring, params))
RING(io_uring_queue_init_mem, (unsigned entries, void *ring, void *params, void *buf, size_t size),
     (entries, ring, params, buf, size))
