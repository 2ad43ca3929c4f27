/* daemon_link.c - `berth daemon` is the daemon itself, linked into this executable. */
#include "cli/cli.h"

#ifdef BERTH_WITH_DAEMON
int daemon_main(int argc, char **argv);

int cmd_daemon(int argc, char **argv)
{
    argv[0] = "berth daemon"; /* for getopt's own messages */
    opterr = 1;
    return daemon_main(argc, argv);
}
#else
int cmd_daemon(int argc, char **argv)
{
    (void)argc;
    return failure(argv[0], "this build has no daemon");
}
#endif
