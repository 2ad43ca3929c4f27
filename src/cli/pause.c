/* pause.c - `berth pause` and `berth resume`: from now on, new connections go to the kernel; and back. */
#include <unistd.h>

#include "berth/error.h"
#include "cli/cli.h"

static int ask_for(const char *command, uint16_t type, const char *given)
{
    struct ctl_header ask = {.type = type, .len = sizeof ask}, done;
    char dir[RUNTIME_DIR_MAX];
    int sock, status = resolve_dir(command, given, dir);
    if (!status)
        status = daemon_open(command, dir, &sock);
    if (status)
        return status;
    int err = ctl_ask(sock, ANSWER_PATIENCE_MS, &ask, CTL_DONE, &done, sizeof done, NULL);
    (void)close(sock);
    if (err == BERTH_E_PERMISSION)
        return failure(command, "only root and the user of the daemon of %s may do that", dir);
    if (err == BERTH_E_PROTOCOL || err == BERTH_E_DAEMON_GONE)
        return failure(command, "the daemon of %s does not know how; is it of another version?", dir);
    return err ? failure(command, "the daemon of %s did not: %s", dir, berth_strerror(err)) : 0;
}

static int run(int argc, char **argv, uint16_t type)
{
    static const struct option options[] = {
        {"runtime-dir", required_argument, NULL, 'd'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    const char *command = argv[0], *given = NULL;
    int c;
    while ((c = option_next(argc, argv, ":d:h", options)) != -1) {
        if (c == 'd')
            given = optarg;
        else if (c == 'h')
            return help_print(command);
        else
            return option_error(command, c, argv);
    }
    if (optind < argc)
        return usage_error(command, "'%s' is not expected here", argv[optind]);
    return ask_for(command, type, given);
}

int cmd_pause(int argc, char **argv)
{
    return run(argc, argv, CTL_PAUSE);
}

int cmd_resume(int argc, char **argv)
{
    return run(argc, argv, CTL_RESUME);
}
