/* log.c - lines to standard error.
 *
 * What is said once for a program is remembered by a hash of its text in a page that is shared with all later
 * children, for the same is found out by each of them, and again at each try. Should two texts share a hash,
 * or the page be full, a line is missing or comes again; nothing else hangs on it.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/sys.h"
#include "berth/error.h"

static int log_fd = 2;
static int log_level = -1; /* not yet asked */

static const char *const level_names[] = {"error", "warn", "info", "debug"};
_Static_assert(sizeof level_names / sizeof level_names[0] == LOG_LEVEL_DEBUG + 1, "a level without a name");

int log_parse_level(const char *text, enum log_level *out)
{
    for (int i = 0; text && i <= LOG_LEVEL_DEBUG; i++) {
        if (!strcmp(text, level_names[i])) {
            *out = (enum log_level)i;
            return 0;
        }
    }
    return BERTH_E_INVALID;
}

enum log_level log_get_level(void)
{
    if (log_level < 0) {
        enum log_level level = LOG_LEVEL_WARN;
        const char *asked = getenv("BERTH_LOG");
        int err = asked && *asked ? log_parse_level(asked, &level) : 0;
        log_level = (int)level;
        if (err)
            log_warn_once("BERTH_LOG=%s is none of error, warn, info, debug; taken as warn", asked);
    }
    return (enum log_level)log_level;
}

void log_set_level(enum log_level level)
{
    log_level = (int)level;
}

void log_to(int fd)
{
    log_fd = fd;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    if (level > log_get_level())
        return;
    int saved = errno;
    char line[1024];
    int n = snprintf(line, sizeof line, "berth[%d] %s: ", (int)getpid(), level_names[level]);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (m < 0)
        m = 0;
    n += m;
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    line[n++] = '\n';
    (void)sys_write(log_fd, line, (long)n);
    errno = saved;
}

/* ---- once for a program ---- */

#define SAID_MAX 64u

static uint64_t said_alone[SAID_MAX], *said = said_alone; /* hashes of lines, 0 for none yet */

void log_share(void)
{
    int saved = errno;
    if (load_relaxed(&said) == said_alone) {
        void *page = mmap(NULL, sizeof said_alone, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (page != MAP_FAILED) {
            memcpy(page, said_alone, sizeof said_alone);
            store_relaxed(&said, page);
        }
    }
    errno = saved;
}

void log_unshare(void)
{
    uint64_t *page = load_relaxed(&said), copy[SAID_MAX];
    if (page == said_alone)
        return;
    memcpy(copy, page, sizeof copy);
    if (mmap(page, sizeof copy, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
        MAP_FAILED)
        memcpy(page, copy, sizeof copy);
}

static uint64_t hash(const char *text) /* FNV-1a; never 0 */
{
    uint64_t h = 14695981039346656037u;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h ? h : 1;
}

static bool said_before(const char *text)
{
    uint64_t h = hash(text), *list = load_relaxed(&said);
    for (uint32_t i = 0; i < SAID_MAX; i++) {
        uint64_t found = load_relaxed(&list[i]);
        if (!found && compare_exchange_sc(&list[i], &found, h))
            return false;
        if (found == h)
            return true;
    }
    return false;
}

void log_warn_once(const char *fmt, ...)
{
    if (LOG_LEVEL_WARN > log_get_level())
        return;
    int saved = errno;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!said_before(text))
        log_write(LOG_LEVEL_WARN, "%s", text);
    errno = saved;
}
