#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sys.h"
#include "berth/error.h"

static int log_fd = 2;
static int log_level = -1; /* not yet asked */

static const char *const level_names[] = {"error", "warn", "info", "debug"};

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
        (void)log_parse_level(getenv("BERTH_LOG"), &level);
        log_level = (int)level;
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
