/* start.c - the daemon's executable; `berth daemon` executes it, and it itself for a relay. */
#include <string.h>

#include "daemon/daemon.h"

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "relay"))
        return relay_main(argc - 1, argv + 1);
    return daemon_main(argc, argv);
}
