/* cli.h - what the parts of the berth command share. */
#ifndef BERTH_CLI_CLI_H
#define BERTH_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/option.h"
#include "shm/control.h"
#include "shm/ctlsock.h"

/* a daemon that has less to do than to count answers in a thousandth of that */
#define ANSWER_PATIENCE_MS 2000
#define LIST_PATIENCE_MS 10000 /* for the longest of lists */

#define EXIT_USAGE 2
#define EXIT_NOT_EXECUTABLE 126 /* as sh has it */
#define EXIT_NOT_FOUND 127

/* Each command gets its own name as argv[0] and returns the exit status. */
int cmd_run(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_ns(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_daemon(int argc, char **argv);

/* ---- ns.c ---- */
/* Can a namespace have that id? 0, or the exit status after a message. */
int namespace_check(const char *command, const char *id);

/* ---- help.c ---- */
const char *help_text(const char *command); /* NULL: no such command. "" is the overview */
int help_print(const char *command);        /* to stdout; 0 */

/* ---- main.c ---- */
/* "berth COMMAND: TEXT" and where to read on, to stderr. Returns EXIT_USAGE. */
int usage_error(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "berth COMMAND: TEXT" to stderr. Returns 1. */
int failure(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* option_next's '?' and ':' as a message that names the option. Returns EXIT_USAGE. */
int option_error(const char *command, int answer, char **argv);
/* The runtime directory by the common rule. 0, or the exit status after a message. */
int resolve_dir(const char *command, const char *given, char out[RUNTIME_DIR_MAX]);
/* May this user not even look into `dir`? */
bool dir_unreachable(const char *dir);
/* Why the daemon of `dir` cannot be reached, as a message. Returns 1. */
int connect_failure(const char *command, const char *dir, int err);
/* Sends a request and waits for the reply of type `want`, `patience_ms` at most, or ten times that while the
 * daemon can be seen to be at work or to want a CPU. `request` is a whole message
 * whose header needs type and len. `reply` has room for `size` bytes and receives a whole message of at least
 * `size`; `fd` (may be NULL) its descriptor, or -1. 0, the reply's own status, or BERTH_E_DAEMON_GONE,
 * BERTH_E_TIMED_OUT, BERTH_E_PROTOCOL. */
int ctl_ask(int sock, int patience_ms, void *request, uint16_t want, void *reply, size_t size, int *fd);
/* What to say of a daemon that has not answered in time, with its process and what to do. */
void daemon_silent(const char *dir, int sock, char *out, size_t size);
/* How the daemon is, which any answers at once. 0, or the exit status after a message. */
int daemon_status(const char *command, const char *dir, int sock, struct ctl_status_is *out);
/* A connection to a daemon that answers: what is asked of it then may take its time. 0, or the exit status
 * after a message. */
int daemon_open(const char *command, const char *dir, int *sock);
/* The directory of the running executable, without a slash at its end. 0 or -1. */
int own_directory_of_executable(char *out, size_t size);

/* ---- program.c ---- */
/* Finds what execvp(3) would run. 0, EXIT_NOT_FOUND or EXIT_NOT_EXECUTABLE. */
int program_find(const char *name, char *path, size_t size);
/* Why LD_PRELOAD of a 64-bit library would have no effect on that program, or NULL. */
const char *program_why_not_preloadable(const char *program, char *const argv[]);

/* ---- table.c ---- */
/* Prints a JSON array of flat objects as a table for people. `what` is the plural for an empty one. 0 or -1:
 * not an array of objects. */
int table_print(const char *what, const char *json, size_t len);

#endif
