/* option.h - the flags of each command, and of the daemon, are read and refused alike. */
#ifndef BERTH_CLI_OPTION_H
#define BERTH_CLI_OPTION_H

#include <getopt.h>
#include <stddef.h>

/* getopt_long(3) for a `brief` with a colon first, to which a value that is "--" is none: ':' then. */
int option_next(int argc, char **argv, const char *brief, const struct option *options);
/* Its '?' and ':' as a text that names the option. */
void option_wrong(int answer, char **argv, char *out, size_t size);

#endif
