/* daemon_link.c - `berth daemon` becomes the daemon, an executable of its own.
 *
 * It is linked with more than all else takes together (libcrypto alone is 2 ms of the loader's), which
 * `berth run` would pay for with each program that it starts.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define DAEMON_NAME "berth-daemon"

int cmd_daemon(int argc, char **argv)
{
    char dir[PATH_MAX], path[PATH_MAX + 64];
    (void)argc;
    if (own_directory_of_executable(dir, sizeof dir) < 0)
        return failure("daemon", "/proc is not there");
    /* the build tree; as installed; an installation that was moved as a whole */
    static const char *const below[] = {"/" DAEMON_NAME, NULL,
                                        "/../" BERTH_LIBDIR_NAME "/berth/" DAEMON_NAME};
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
        (void)snprintf(path, sizeof path, "%s%s", below[i] ? dir : "",
                       below[i] ? below[i] : BERTH_LIBDIR "/berth/" DAEMON_NAME);
        if (access(path, X_OK) != 0)
            continue;
        char *name = argv[0];
        argv[0] = (char *)(uintptr_t) "berth daemon";
        (void)execv(path, argv);
        argv[0] = name;
        return failure("daemon", "%s cannot be executed: %s", path, strerror(errno));
    }
    return failure("daemon", DAEMON_NAME " is neither beside this command nor in " BERTH_LIBDIR "/berth");
}
