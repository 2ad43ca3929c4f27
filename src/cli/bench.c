/* bench.c - `berth bench`: hands over to the bench runner, which lies in the source tree or is installed with berth. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

int cmd_bench(int argc, char **argv)
{
    char dir[PATH_MAX], path[PATH_MAX + 64];
    /* beside a build that was copied, the source tree around a build, the installation */
    static const char *const places[] = {"/bench/run.py", "/../bench/run.py",
                                         "/../" BERTH_LIBDIR_NAME "/berth/bench/run.py"};
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
        return help_print("bench");
    if (own_directory_of_executable(dir, sizeof dir) < 0)
        return failure("bench", "/proc is not there");
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        (void)snprintf(path, sizeof path, "%s%s", dir, places[i]);
        if (access(path, R_OK) == 0) {
            int skip = argc > 1 && !strcmp(argv[1], "--") ? 1 : 0;
            char **args = calloc((size_t)argc + 2, sizeof *args);
            if (!args)
                return failure("bench", "out of memory");
            args[0] = "python3";
            args[1] = path;
            for (int k = 1 + skip; k < argc; k++)
                args[k + 1 - skip] = argv[k];
            (void)setenv("BERTH_BUILD", dir, 1);
            (void)execv("/usr/bin/python3", args);
            free(args);
            return failure("bench", "/usr/bin/python3 cannot be executed: %s", strerror(errno));
        }
    }
    return failure("bench", "the bench programs are neither in this build nor installed");
}
