/* tasks.c - which threads there are, and what they are at. Without malloc: any of them may be in the midst of it.
 */
#include "base/tasks.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sys.h"

struct dirent_of_kernel {
    uint64_t ino;
    int64_t off;
    uint16_t len;
    uint8_t type;
    char name[];
};

bool tasks_all(bool (*visit)(int dir, const char *tid, const void *arg), const void *arg)
{
    char buf[4096] __attribute__((aligned(8))) = {0};
    long self = sys_call(SYS_gettid, 0L, 0L, 0L, 0L), n;
    long dir = sys_call(SYS_openat, (long)AT_FDCWD, "/proc/self/task",
                        (long)(O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0L);
    bool all = true;
    while (dir >= 0 && all && (n = sys_call(SYS_getdents64, dir, buf, (long)sizeof buf, 0L)) > 0) {
        for (long at = 0; at < n && all;) {
            const struct dirent_of_kernel *d = (const void *)(buf + at);
            at += d->len;
            if (d->name[0] >= '0' && d->name[0] <= '9' && strtol(d->name, NULL, 10) != self)
                all = visit((int)dir, d->name, arg);
        }
    }
    if (dir >= 0)
        (void)sys_close((int)dir);
    return all;
}

long task_read(int dir, const char *tid, const char *name, char *text, size_t size)
{
    char path[64];
    (void)snprintf(path, sizeof path, "%s/%s", tid, name);
    long fd = sys_call(SYS_openat, (long)dir, path, (long)(O_RDONLY | O_CLOEXEC), 0L);
    if (fd < 0)
        return fd;
    long n = sys_read((int)fd, text, (long)size - 1);
    (void)sys_close((int)fd);
    text[n > 0 ? n : 0] = '\0';
    return n;
}
