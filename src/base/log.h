/* log.h - one line per message to stderr, or to where log_to() says. Levels by BERTH_LOG or log_set_level().
 */
#ifndef BERTH_BASE_LOG_H
#define BERTH_BASE_LOG_H

#include "base/result.h"

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARN = 1, LOG_LEVEL_INFO = 2, LOG_LEVEL_DEBUG = 3 };

/* The process's level. Libraries start at WARN (BERTH_LOG=error|warn|info|debug overrides; any other value is
 * said to be none, by who asks for the level), the daemon at INFO. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
must_use int log_parse_level(const char *text, enum log_level *out); /* 0 or BERTH_E_INVALID */
void log_to(int fd); /* default 2; the descriptor stays the caller's */

/* Writes by one raw write(2), keeps errno, allocates nothing, so that the preload library may use it
 * anywhere. */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3), cold));

/* The same, but each line once for a program: neither again when it is tried again, nor by each of its
 * processes. */
void log_warn_once(const char *fmt, ...) __attribute__((format(printf, 1, 2), cold));
/* Before that program forks: until then each process remembers for itself and its later children alone. */
void log_share(void);
void log_unshare(void); /* from now on it remembers for itself, and what it forks */

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                                       \
    do {                                                                                                     \
        if (log_get_level() >= LOG_LEVEL_DEBUG)                                                              \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                                         \
    } while (0)

#endif
