/* bench.c - `berth bench`: hands over to the bench runner, which lies in the source tree or is installed with
 * berth. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define PYTHON "/usr/bin/python3"

static int hand_over(const char *runner, const char *dir, bool in_tree, int argc, char **argv)
{
    int skip = argc > 1 && !strcmp(argv[1], "--") ? 1 : 0, n = 0;
    char **args = calloc((size_t)argc + 5, sizeof *args);
    if (!args)
        return failure("bench", "out of memory");
    (void)setenv("BERTH_BUILD", dir, 1); /* bench/harness.py: the berth that lies there, not one of PATH */
    args[n++] = "python3";
    args[n++] = (char *)(uintptr_t)runner;
    if (in_tree) {
        args[n++] = "--build";
        args[n++] = (char *)(uintptr_t)dir;
    }
    for (int k = 1 + skip; k < argc; k++)
        args[n++] = argv[k];
    (void)execv(PYTHON, args);
    free((void *)args);
    return failure("bench", PYTHON " cannot be executed: %s", strerror(errno));
}

int cmd_bench(int argc, char **argv)
{
    /* the source tree around a build directory; an installation */
    static const char *const places[] = {"/../bench/run.py", "/../" BERTH_LIBDIR_NAME "/berth/bench/run.py"};
    char dir[PATH_MAX], path[PATH_MAX + 64];
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
        return help_print("bench");
    if (own_directory_of_executable(dir, sizeof dir) < 0)
        return failure("bench", "/proc is not there");
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        (void)snprintf(path, sizeof path, "%s%s", dir, places[i]);
        if (access(path, R_OK) == 0)
            return hand_over(path, dir, i == 0, argc, argv);
    }
    return failure("bench", "the bench programs are neither beside this build nor installed");
}
