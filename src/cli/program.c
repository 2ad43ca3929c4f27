/* program.c - what would be executed, and whether a preload library can come along.
 *
 * Theory of operation
 *
 * The search is execvp(3)'s. The dynamic loader ignores or refuses LD_PRELOAD in programs without an
 * interpreter (static ones), of another word size or machine, and in those that gain privileges (set-id bits,
 * file capabilities). A script is judged by its interpreter, and the dynamic loader that is called by name by
 * the program that it is given. This is for a warning only: what cannot be read is assumed to be fine.
 *
 * Programs that make system calls of their own, or use io_uring, take the library and are told by it
 * (shim/alone.c), when they make a socket.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cli/cli.h"

#define SCRIPT_DEPTH 4 /* as many as the kernel follows */

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#else
#define OUR_MACHINE EM_AARCH64
#endif

static int probe(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
    if (!S_ISREG(st.st_mode) || faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0)
        return EXIT_NOT_EXECUTABLE;
    return 0;
}

int program_find(const char *name, char *path, size_t size)
{
    int n, worst = EXIT_NOT_FOUND;
    if (!*name)
        return EXIT_NOT_FOUND;
    if (strchr(name, '/')) {
        n = snprintf(path, size, "%s", name);
        return n < (int)size ? probe(path) : EXIT_NOT_FOUND;
    }
    const char *search = getenv("PATH");
    if (!search)
        search = "/bin:/usr/bin";
    for (;;) {
        size_t len = strcspn(search, ":");
        n = snprintf(path, size, "%.*s%s%s", (int)len, search, len ? "/" : "./", name);
        if (n < (int)size) {
            int found = probe(path);
            if (!found)
                return 0;
            if (found == EXIT_NOT_EXECUTABLE)
                worst = found;
        }
        if (!search[len])
            return worst;
        search += len + 1;
    }
}

static const char *judge_loader(int fd, const Elf64_Phdr *ph)
{
    char path[256] = "";
    size_t n = ph->p_filesz < sizeof path - 1 ? (size_t)ph->p_filesz : sizeof path - 1;
    if (pread(fd, path, n, (off_t)ph->p_offset) != (ssize_t)n)
        return NULL;
    const char *slash = strrchr(path, '/');
    return !strncmp(slash ? slash + 1 : path, "ld-musl", 7) ? "is linked with musl, not with glibc" : NULL;
}

static const char *judge_elf(int fd, const Elf64_Ehdr *eh)
{
    if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != OUR_MACHINE)
        return "is built for another kind of machine than berth";
    if (eh->e_phentsize != sizeof(Elf64_Phdr))
        return NULL;
    for (unsigned i = 0; i < eh->e_phnum; i++) {
        Elf64_Phdr ph;
        if (pread(fd, &ph, sizeof ph, (off_t)(eh->e_phoff + i * sizeof ph)) != (ssize_t)sizeof ph)
            return NULL;
        if (ph.p_type == PT_INTERP)
            return judge_loader(fd, &ph);
    }
    return "is statically linked";
}

static const char *judge_privileges(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return NULL;
    if ((st.st_mode & S_ISUID) && st.st_uid != geteuid())
        return "is set-user-id";
    if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getegid())
        return "is set-group-id";
    if (geteuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
        return "gets capabilities from its file";
    return NULL;
}

/* "#!  /path/of/interpreter argument"; into `path`. False where there is none. */
static bool script_interpreter(const char *head, size_t len, char *path, size_t size)
{
    if (len < 3 || head[0] != '#' || head[1] != '!')
        return false;
    const char *p = head + 2, *end = memchr(head, '\n', len);
    if (!end)
        end = head + len;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    const char *q = p;
    while (q < end && *q != ' ' && *q != '\t')
        q++;
    if (q == p || (size_t)(q - p) >= size)
        return false;
    memmove(path, p, (size_t)(q - p));
    path[q - p] = '\0';
    return true;
}

/* Of the loader's own arguments, the program that it is to start; NULL: none, or that is not the loader. */
static const char *started_by_loader(const char *path, char *const argv[])
{
    static const char *const with_value[] = {"--library-path",     "--inhibit-rpath",        "--audit",
                                             "--preload",          "--glibc-hwcaps-prepend", "--argv0",
                                             "--glibc-hwcaps-mask"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (strncmp(name, "ld-linux", 8) != 0 && strcmp(name, "ld.so") != 0)
        return NULL;
    char *const *arg = argv + 1;
    while (*arg && !strncmp(*arg, "--", 2)) {
        bool value = false;
        for (size_t i = 0; i < sizeof with_value / sizeof with_value[0]; i++)
            value = value || !strcmp(*arg, with_value[i]);
        arg += value && arg[1] ? 2 : 1;
    }
    return *arg;
}

const char *program_why_not_preloadable(const char *program, char *const argv[])
{
    char path[4096];
    const char *started = started_by_loader(program, argv);
    if (started)
        program = started;
    if (snprintf(path, sizeof path, "%s", program) >= (int)sizeof path)
        return NULL;
    for (int depth = 0; depth < SCRIPT_DEPTH; depth++) {
        union {
            Elf64_Ehdr eh;
            char bytes[256];
        } head = {.bytes = {0}};
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
            return NULL;
        ssize_t n = pread(fd, head.bytes, sizeof head, 0);
        const char *why = NULL;
        bool elf = n >= (ssize_t)sizeof head.eh && !memcmp(head.eh.e_ident, ELFMAG, SELFMAG);
        if (elf) {
            why = judge_privileges(fd);
            if (!why)
                why = judge_elf(fd, &head.eh);
        }
        (void)close(fd);
        if (elf || n < 0 || !script_interpreter(head.bytes, (size_t)n, path, sizeof path))
            return why;
    }
    return NULL;
}
