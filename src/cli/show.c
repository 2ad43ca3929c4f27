/* show.c - `berth show`: asks the daemon for a list, prints it as a table or as the JSON it came in. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "berth/error.h"
#include "cli/cli.h"

#define SHOWN_MAX (1u << 30) /* of JSON: more is a mistake of the daemon */

static const char *const things[] = {
    [CTL_SHOW_APPS] = "apps",         [CTL_SHOW_WORKERS] = "workers",   [CTL_SHOW_LISTENERS] = "listeners",
    [CTL_SHOW_SESSIONS] = "sessions", [CTL_SHOW_SEGMENTS] = "segments", [CTL_SHOW_NAMESPACES] = "namespaces",
};
_Static_assert(sizeof things / sizeof things[0] == CTL_SHOW_LAST + 1, "something to show without a name");

static int thing_number(const char *word)
{
    for (int i = CTL_SHOW_APPS; i <= CTL_SHOW_LAST; i++) {
        if (!strcmp(word, things[i]))
            return i;
    }
    return 0;
}

/* The whole memfd, zero-terminated; NULL when it is not what was announced. */
static char *slurp(int fd, uint64_t bytes)
{
    struct stat st;
    if (fd < 0 || bytes > SHOWN_MAX || fstat(fd, &st) < 0 || (uint64_t)st.st_size < bytes)
        return NULL;
    char *text = malloc(bytes + 1);
    uint64_t have = 0;
    while (text && have < bytes) {
        ssize_t n = pread(fd, text + have, bytes - have, (off_t)have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(text);
            return NULL;
        }
        have += (uint64_t)n;
    }
    if (text)
        text[bytes] = '\0';
    return text;
}

static int show(const char *dir, int what, bool json)
{
    struct ctl_show ask = {.h = {.type = CTL_SHOW, .len = sizeof ask}, .what = (uint32_t)what};
    struct ctl_shown shown;
    int fd = -1, sock, status = daemon_open("show", dir, &sock);
    if (status)
        return status;
    int err = ctl_ask(sock, LIST_PATIENCE_MS, &ask, CTL_SHOWN, &shown, sizeof shown, &fd);
    (void)close(sock);
    if (err)
        return failure("show", "the daemon of %s does not tell: %s", dir, berth_strerror(err));
    char *text = slurp(fd, shown.bytes);
    if (fd >= 0)
        (void)close(fd);
    if (!text)
        return failure("show", "the daemon of %s sent something else than it announced", dir);
    if (json) {
        (void)fwrite(text, 1, shown.bytes, stdout);
        if (!shown.bytes || text[shown.bytes - 1] != '\n')
            (void)putchar('\n');
    } else if (table_print(things[what], text, shown.bytes) < 0) {
        status = failure("show", "the daemon of %s sent no list", dir);
    }
    free(text);
    return status;
}

int cmd_show(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"runtime-dir", required_argument, NULL, 'd'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *given = NULL;
    char dir[RUNTIME_DIR_MAX];
    bool json = false;
    int c;
    while ((c = option_next(argc, argv, ":jd:h", options)) != -1) {
        if (c == 'j')
            json = true;
        else if (c == 'd')
            given = optarg;
        else if (c == 'h')
            return help_print("show");
        else
            return option_error("show", c, argv);
    }
    if (optind >= argc)
        return usage_error("show", "what? One of apps, workers, listeners, sessions, segments, namespaces");
    int what = thing_number(argv[optind]);
    if (!what)
        return usage_error(
            "show", "'%s' cannot be shown, only apps, workers, listeners, sessions, segments, namespaces",
            argv[optind]);
    if (optind + 1 < argc)
        return usage_error("show", "one thing at a time: '%s' is one too many", argv[optind + 1]);
    int err = resolve_dir("show", given, dir);
    return err ? err : show(dir, what, json);
}
