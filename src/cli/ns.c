/* ns.c - `berth ns add` and `berth ns del`. A secret never appears on a command line, where others could read
 * it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "berth/error.h"
#include "cli/cli.h"

struct ns_options {
    const char *dir, *secret_file, *group, *mode;
    bool secret_stdin;
};

/* The first line of `in` into `out`. 0 or the exit status after a message. */
static int read_secret(FILE *in, const char *where, char out[CTL_SECRET_MAX])
{
    char line[CTL_SECRET_MAX + 2];
    int status = 0;
    size_t n = 0;
    if (!fgets(line, sizeof line, in)) {
        status = usage_error(
            "ns", ferror(in) ? "the secret cannot be read from %s" : "there is no secret in %s", where);
    } else {
        n = strcspn(line, "\r\n");
        if (n == 0)
            status = usage_error("ns", "the first line of %s is empty, and must be the secret", where);
        else if (n >= CTL_SECRET_MAX)
            status =
                usage_error("ns", "the secret in %s is longer than %u characters", where, CTL_SECRET_MAX - 1);
        else
            memcpy(out, line, n);
    }
    explicit_bzero(line, sizeof line);
    return status;
}

static int secret_from_file(const char *path, char out[CTL_SECRET_MAX])
{
    struct stat st;
    FILE *in = fopen(path, "re");
    if (!in || fstat(fileno(in), &st) < 0) {
        int status = usage_error("ns", "the secret file '%s' cannot be read: %s", path, strerror(errno));
        if (in)
            (void)fclose(in);
        return status;
    }
    if (S_ISREG(st.st_mode) &&
        st.st_mode & 0077) { /* the same is demanded of one that the configuration names */
        (void)fclose(in);
        return usage_error("ns", "the secret file '%s' can be read by others than its owner: chmod 600 '%s'",
                           path, path);
    }
    (void)setvbuf(in, NULL, _IONBF, 0); /* leaves no copy behind */
    int status = read_secret(in, path, out);
    (void)fclose(in);
    return status;
}

static int secret_from_stdin(char out[CTL_SECRET_MAX])
{
    struct termios old, silent;
    bool terminal = tcgetattr(0, &old) == 0;
    if (terminal) {
        (void)fputs("Secret: ", stderr);
        silent = old;
        silent.c_lflag &= ~(tcflag_t)ECHO;
        (void)tcsetattr(0, TCSAFLUSH, &silent);
    }
    (void)setvbuf(stdin, NULL, _IONBF, 0);
    int status = read_secret(stdin, "standard input", out);
    if (terminal) {
        (void)tcsetattr(0, TCSAFLUSH, &old);
        (void)fputc('\n', stderr);
    }
    return status;
}

static int parse_mode(const char *text, uint32_t *out)
{
    static const struct {
        const char *text;
        uint32_t mode;
    } modes[] = {{"0600", 0600}, {"600", 0600}, {"0660", 0660}, {"660", 0660}, {"0666", 0666}, {"666", 0666}};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (!strcmp(text, modes[i].text)) {
            *out = modes[i].mode;
            return 0;
        }
    }
    return usage_error("ns", "mode '%s' is none of 0600, 0660, 0666", text);
}

static int fill_group(const char *text, char out[CTL_NAME_MAX])
{
    size_t len = strlen(text);
    if (len == 0 || len >= CTL_NAME_MAX)
        return usage_error("ns", "the group '%s' has %zu characters; 1 to %u are possible", text, len,
                           CTL_NAME_MAX - 1);
    memcpy(out, text, len);
    return 0;
}

/* What the daemon demands of the id of a new one (ns_id_valid). */
int namespace_check(const char *command, const char *id)
{
    static const char possible[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(id);
    if (len == 0 || len >= CTL_NAME_MAX)
        return usage_error(command, "the namespace '%s' has %zu characters; 1 to %u are possible", id, len,
                           CTL_NAME_MAX - 1);
    if (id[strspn(id, possible)])
        return usage_error(
            command, "no namespace is named '%s': a name has letters, digits, dots, hyphens and underscores",
            id);
    return 0;
}

static int fill(const struct ns_options *o, struct ctl_ns *ask)
{
    int err = 0;
    if (o->secret_file && o->secret_stdin)
        return usage_error("ns", "--secret-file and --secret-stdin exclude each other");
    if (o->group)
        err = fill_group(o->group, ask->group);
    if (!err && o->mode)
        err = parse_mode(o->mode, &ask->mode);
    if (!err && o->secret_file)
        err = secret_from_file(o->secret_file, ask->secret);
    if (!err && o->secret_stdin)
        err = secret_from_stdin(ask->secret);
    return err;
}

static int explain(bool add, const char *id, const char *group, const char *dir, int err)
{
    if (err == BERTH_E_BUSY && add)
        return failure("ns", "there is a namespace '%s' already", id);
    if (err == BERTH_E_UNKNOWN_NAMESPACE)
        return failure("ns", "there is no namespace '%s'; see 'berth show namespaces'", id);
    if (err == BERTH_E_PERMISSION)
        return failure("ns", "only root and the user of the daemon of %s may do that", dir);
    if (err == BERTH_E_TIMED_OUT)
        return failure("ns",
                       "the daemon of %s has not answered and may still %s '%s'; see 'berth show namespaces'",
                       dir, add ? "make" : "remove", id);
    if (err == BERTH_E_INVALID && !add)
        return failure("ns", "namespace '%s' cannot be removed: it is the one of programs that name none",
                       id);
    if (err == BERTH_E_INVALID && group)
        return failure("ns", "the daemon of %s knows no group '%s'; give the name or the number of one", dir,
                       group);
    return failure("ns", "namespace '%s' cannot be %s: %s", id, add ? "made" : "removed",
                   berth_strerror(err));
}

static int ns_do(bool add, const char *id, const struct ns_options *o)
{
    struct ctl_ns ask = {.h = {.type = add ? CTL_NS_ADD : CTL_NS_DEL, .len = sizeof ask}};
    struct ctl_header done;
    char dir[RUNTIME_DIR_MAX];
    int status = namespace_check("ns", id);
    if (!status) {
        memcpy(ask.id, id, strlen(id) + 1);
        status = resolve_dir("ns", o->dir, dir);
    }
    if (!status)
        status = fill(o, &ask);
    int sock;
    if (!status)
        status = daemon_open("ns", dir, &sock); /* so that one that is stopped is asked for nothing */
    if (!status) {
        int err = ctl_ask(sock, ANSWER_PATIENCE_MS, &ask, CTL_DONE, &done, sizeof done, NULL);
        (void)close(sock);
        if (err)
            status = explain(add, id, o->group, dir, err);
    }
    explicit_bzero(&ask, sizeof ask);
    return status;
}

int cmd_ns(int argc, char **argv)
{
    static const struct option options[] = {{"secret-file", required_argument, NULL, 's'},
                                            {"secret-stdin", no_argument, NULL, 'S'},
                                            {"group", required_argument, NULL, 'g'},
                                            {"mode", required_argument, NULL, 'm'},
                                            {"runtime-dir", required_argument, NULL, 'd'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct ns_options o = {0};
    int c;
    while ((c = option_next(argc, argv, ":s:Sg:m:d:h", options)) != -1) {
        switch (c) {
        case 's':
            o.secret_file = optarg;
            break;
        case 'S':
            o.secret_stdin = true;
            break;
        case 'g':
            o.group = optarg;
            break;
        case 'm':
            o.mode = optarg;
            break;
        case 'd':
            o.dir = optarg;
            break;
        case 'h':
            return help_print("ns");
        default:
            return option_error("ns", c, argv);
        }
    }
    const char *verb = optind < argc ? argv[optind] : NULL;
    if (!verb)
        return usage_error("ns", "add or del?");
    bool add = !strcmp(verb, "add");
    if (!add && strcmp(verb, "del") != 0)
        return usage_error("ns", "'%s' is neither add nor del", verb);
    if (argc - optind != 2)
        return usage_error("ns", argc - optind < 2 ? "%s what? Name the namespace" : "%s takes one namespace",
                           verb);
    if (!add && (o.secret_file || o.secret_stdin || o.group || o.mode))
        return usage_error("ns", "del takes no flag but --runtime-dir");
    return ns_do(add, argv[optind + 1], &o);
}
