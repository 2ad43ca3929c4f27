/* daemon.h - the berth daemon as the berth command runs it. */
#ifndef BERTH_DAEMON_DAEMON_H
#define BERTH_DAEMON_DAEMON_H

/* Runs `berth daemon` with its flags (argv[0] is its name) until it is told to stop, or with --background
 * until it answers. The exit status: 0, 1 for what failed, 2 for flags and config. */
int daemon_main(int argc, char **argv);
int relay_main(int argc, char **argv); /* relay.c */

#endif
