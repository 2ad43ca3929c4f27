/* option.c - see option.h. */
#include <stdio.h>
#include <string.h>

#include "cli/option.h"

int option_next(int argc, char **argv, const char *brief, const struct option *options)
{
    int c = getopt_long(argc, argv, brief, options, NULL);
    if (c == '?' || !optarg || strcmp(optarg, "--") != 0)
        return c;
    if (optarg == argv[optind - 1])
        optind--; /* so that the option is the last word that was read, as where the value is missing */
    return ':';
}

void option_wrong(int answer, char **argv, char *out, size_t size)
{
    const char *word = argv[optind - 1];
    int name = !strncmp(word, "--", 2) ? (int)strcspn(word, "=") : (int)strlen(word);
    if (answer == ':')
        (void)snprintf(out, size, "option '%.*s' needs a value", name, word);
    else if (optopt && !strncmp(word, "--", 2))
        (void)snprintf(out, size, "option '%.*s' takes no value", name, word);
    else if (optopt)
        (void)snprintf(out, size, "unknown option '-%c'", optopt);
    else
        (void)snprintf(out, size, "unknown or ambiguous option '%s'", word);
}
