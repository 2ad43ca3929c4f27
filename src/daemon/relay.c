/* relay.c - what the daemon starts where a session was passed on to a program that is not under
 * berth: the daemon's own executable, with the word "relay".
 *
 * The descriptor is the far end of the connection that stands for the session. It takes the session like any
 * program that it could have been passed to, and moves its bytes to that end and back. The same where a
 * connection that nobody has accepted is replayed: then the descriptor is the connection to the kernel's
 * listener, and what is taken is the offer.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "berth/error.h"
#include "client/client.h"
#include "daemon/daemon.h"
#include "relay/pump.h"

int relay_main(int argc, char **argv)
{
    char *end = NULL;
    long fd = argc == 4 && !strcmp(argv[1], "--runtime-dir") ? strtol(argv[3], &end, 10) : -1;
    if (fd < 0 || !end || *end || fcntl((int)fd, F_GETFD) < 0)
        return EXIT_FAILURE;
    if (setenv("BERTH_RUNTIME_DIR", argv[2], 1) < 0)
        return EXIT_FAILURE;
    session_handle h;
    int err = client_take((int)fd, &h);
    if (err) {
        (void)fprintf(stderr, "berth daemon: relay: %s\n", berth_strerror(err));
        return EXIT_FAILURE;
    }
    /* one that is replayed may be under way to its listener */
    struct pollfd p = {.fd = (int)fd, .events = POLLOUT};
    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    int flags = fcntl((int)fd, F_GETFL);
    if (flags < 0 || fcntl((int)fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return EXIT_FAILURE;
    relay_pump(h, (int)fd, RELAY_READS);
}
