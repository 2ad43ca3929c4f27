/* start.c - the daemon's executable; `berth daemon` executes it, and it itself for a relay. */
#include <getopt.h>
#include <string.h>

#include "daemon/daemon.h"

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "relay"))
        return relay_main(argc - 1, argv + 1);
    static char name[] = "berth daemon"; /* for getopt's own messages */
    if (argc > 0)
        argv[0] = name;
    opterr = 1;
    return daemon_main(argc, argv);
}
