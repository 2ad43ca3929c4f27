/* config.c - the YAML file: docs/config.md says what may be in it.
 *
 * Theory of operation
 *
 * A mapping is read by a table of its keys; what is not in the table, of the wrong kind or out of its range
 * is an error with file and line, and then the daemon does not start. Socket, limits and log level are read
 * before the namespaces, wherever they stand in the file, since a namespace takes its mode from the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <openssl/crypto.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "daemon/registry.h"

struct config {
    struct daemon *d;
    const char *path;
    yaml_document_t doc;
    int pass;
};

struct key {
    const char *name;
    int pass; /* in which it is read */
    int (*read)(struct config *c, yaml_node_t *value, void *into);
    size_t offset; /* of `into` within what the table fills */
};

static int complain(const struct config *c, const yaml_node_t *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int complain(const struct config *c, const yaml_node_t *at, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "berth daemon: %s:%zu: ", c->path, at->start_mark.line + 1);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return BERTH_E_INVALID;
}

/* ---- values ---- */

static int text_of(struct config *c, yaml_node_t *node, const char **out)
{
    if (node->type != YAML_SCALAR_NODE)
        return complain(c, node, "a single value must stand here");
    if (strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
        return complain(c, node, "a value must not contain a zero byte");
    *out = (const char *)node->data.scalar.value;
    return 0;
}

int parse_mode(const char *text, uint32_t *out)
{
    char *end;
    unsigned long mode = strtoul(text, &end, 8);
    if (!*text || *end || (mode != 0600 && mode != 0660 && mode != 0666))
        return BERTH_E_INVALID;
    *out = (uint32_t)mode;
    return 0;
}

int parse_group(const char *text, gid_t *out)
{
    char *end;
    errno = 0;
    unsigned long id = strtoul(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && !errno && id < UINT32_MAX) {
        *out = (gid_t)id;
        return 0;
    }
    const struct group *group = getgrnam(text);
    if (!group)
        return BERTH_E_INVALID;
    *out = group->gr_gid;
    return 0;
}

static int read_mode(struct config *c, yaml_node_t *value, void *into)
{
    const char *text = "";
    int err = text_of(c, value, &text);
    if (err)
        return err;
    return parse_mode(text, into) ? complain(c, value, "mode '%s': it must be 0600, 0660 or 0666", text) : 0;
}

struct maybe_group {
    bool given;
    gid_t gid;
};

static int read_group(struct config *c, yaml_node_t *value, void *into)
{
    struct maybe_group *group = into;
    const char *text = "";
    int err = text_of(c, value, &text);
    if (err)
        return err;
    if (parse_group(text, &group->gid))
        return complain(c, value, "there is no group '%s'", text);
    group->given = true;
    return 0;
}

/* A count, or bytes with K, M or G behind. 1 to 2^40. */
static int read_number(struct config *c, yaml_node_t *value, void *into)
{
    const char *text = "";
    int err = text_of(c, value, &text);
    if (err)
        return err;
    char *end;
    errno = 0;
    unsigned long long n =
        *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : (end = (char *)"?", 0ull);
    uint32_t shift = !strcmp(end, "K") ? 10 : !strcmp(end, "M") ? 20 : !strcmp(end, "G") ? 30 : 0;
    if (errno || (*end && !shift) || !n || n > 1ull << 40 >> shift)
        return complain(c, value, "'%s': it must be a number from 1 on, with K, M or G behind if you like",
                        text);
    *(uint64_t *)into = n << shift;
    return 0;
}

static int read_text(struct config *c, yaml_node_t *value, void *into)
{
    return text_of(c, value, (const char **)into);
}

static int read_level(struct config *c, yaml_node_t *value, void *into)
{
    enum log_level level;
    const char *text = "";
    int err = text_of(c, value, &text);
    if (err)
        return err;
    if (log_parse_level(text, &level))
        return complain(c, value, "log level '%s': it must be error, warn, info or debug", text);
    log_set_level(level);
    return 0;
}

/* ---- mappings ---- */

static int read_mapping(struct config *c, yaml_node_t *node, const struct key *keys, void *into)
{
    if (node->type != YAML_MAPPING_NODE)
        return complain(c, node, "a mapping (key: value) must stand here");
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        yaml_node_t *name = yaml_document_get_node(&c->doc, pair->key);
        const struct key *key = keys;
        const char *text = "";
        int err = text_of(c, name, &text);
        if (err)
            return err;
        while (key->name && strcmp(key->name, text))
            key++;
        if (!key->name)
            return complain(c, name, "unknown key '%s'", text);
        for (yaml_node_pair_t *other = node->data.mapping.pairs.start; other < pair; other++) {
            const yaml_node_t *before = yaml_document_get_node(&c->doc, other->key);
            if (!strcmp((const char *)before->data.scalar.value, text))
                return complain(c, name, "'%s' stands here for the second time", text);
        }
        if (key->pass == c->pass)
            err = key->read(c, yaml_document_get_node(&c->doc, pair->value), (char *)into + key->offset);
        if (err)
            return err;
    }
    return 0;
}

static int read_limits(struct config *c, yaml_node_t *value, void *into)
{
    static const struct key keys[] = {{"apps", 0, read_number, offsetof(struct limits, apps)},
                                      {"workers", 0, read_number, offsetof(struct limits, workers)},
                                      {"listeners", 0, read_number, offsetof(struct limits, listeners)},
                                      {"outbox-bytes", 0, read_number, offsetof(struct limits, outbox_bytes)},
                                      {"sessions", 0, read_number, offsetof(struct limits, sessions)},
                                      {0}};
    struct limits limits = c->d->limits;
    int err = read_mapping(c, value, keys, &limits);
    if (err)
        return err;
    if (limits.sessions > SLOTS_MAX)
        return complain(c, value, "sessions: at most %u", SLOTS_MAX);
    if (limits.outbox_bytes < SEGMENT_MIN)
        return complain(c, value, "outbox-bytes: at least %u", SEGMENT_MIN);
    c->d->limits = limits;
    return 0;
}

static int read_socket(struct config *c, yaml_node_t *value, void *into)
{
    struct socket_config {
        uint32_t mode;
        struct maybe_group group;
    } s = {.mode = c->d->socket_mode};
    static const struct key keys[] = {{"mode", 0, read_mode, offsetof(struct socket_config, mode)},
                                      {"group", 0, read_group, offsetof(struct socket_config, group)},
                                      {0}};
    int err = read_mapping(c, value, keys, &s);
    if (err)
        return err;
    c->d->socket_mode = s.mode;
    c->d->has_socket_group = s.group.given;
    c->d->socket_group = s.group.gid;
    return 0;
}

/* ---- namespaces ---- */

struct ns_config {
    const char *id, *secret, *secret_file, *owner;
    struct maybe_group group;
    uint32_t mode;
};

/* The first line of a file that nobody else can read. */
static int secret_from(struct config *c, const yaml_node_t *at, const char *path, char out[CTL_SECRET_MAX])
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int err = complain(c, at, "secret-file %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return err;
    }
    ssize_t n = S_ISREG(st.st_mode) && !(st.st_mode & 0077) ? read(fd, out, CTL_SECRET_MAX) : -1;
    close(fd);
    if (n < 0)
        return complain(c, at, "secret-file %s: it must be a file that only its owner can read (chmod 600)",
                        path);
    char *end = memchr(out, '\n', (size_t)n);
    size_t len = end ? (size_t)(end - out) : (size_t)n;
    if (!len || len >= CTL_SECRET_MAX || memchr(out, 0, len))
        return complain(c, at, "secret-file %s: its first line must have 1 to %u bytes", path,
                        CTL_SECRET_MAX - 1);
    out[len] = '\0';
    return 0;
}

static int find_owner(struct config *c, const yaml_node_t *at, const char *name, uid_t *out)
{
    char *end;
    unsigned long id = strtoul(name, &end, 10);
    if (*name >= '0' && *name <= '9' && !*end && id < UINT32_MAX) {
        *out = (uid_t)id;
        return 0;
    }
    const struct passwd *user = getpwnam(name);
    if (!user)
        return complain(c, at, "there is no user '%s'", name);
    *out = user->pw_uid;
    return 0;
}

static int add_namespace(struct config *c, const yaml_node_t *at, const struct ns_config *n,
                         const char *secret)
{
    struct daemon *d = c->d;
    uid_t owner = d->uid;
    if (n->owner && find_owner(c, at, n->owner, &owner))
        return BERTH_E_INVALID;
    gid_t group = n->group.given ? n->group.gid : d->has_socket_group ? d->socket_group : d->gid;
    int err = ns_add(d, n->id, secret, owner, group, n->mode);
    if (err == BERTH_E_INVALID)
        return complain(c, at, "id '%s': 1 to %u letters, digits, dots, hyphens and underscores", n->id,
                        CTL_NAME_MAX - 1);
    if (err == BERTH_E_BUSY)
        return complain(c, at, "there are two namespaces '%s'", n->id);
    return err ? complain(c, at, "namespace '%s': %s", n->id, berth_strerror(err)) : 0;
}

static int read_namespace(struct config *c, yaml_node_t *node)
{
    static const struct key keys[] = {{"id", 1, read_text, offsetof(struct ns_config, id)},
                                      {"secret", 1, read_text, offsetof(struct ns_config, secret)},
                                      {"secret-file", 1, read_text, offsetof(struct ns_config, secret_file)},
                                      {"owner", 1, read_text, offsetof(struct ns_config, owner)},
                                      {"group", 1, read_group, offsetof(struct ns_config, group)},
                                      {"mode", 1, read_mode, offsetof(struct ns_config, mode)},
                                      {0}};
    struct ns_config n = {0};
    char secret[CTL_SECRET_MAX] = "";
    int err = read_mapping(c, node, keys, &n);
    if (err)
        return err;
    if (!n.id)
        return complain(c, node, "a namespace needs an id");
    if (n.secret && n.secret_file)
        return complain(c, node, "secret or secret-file, not both");
    if (n.secret && (!*n.secret || strlen(n.secret) >= sizeof secret))
        return complain(c, node, "a secret must have 1 to %u bytes", CTL_SECRET_MAX - 1);
    if (n.secret)
        memcpy(secret, n.secret, strlen(n.secret) + 1);
    else if (n.secret_file)
        err = secret_from(c, node, n.secret_file, secret);
    if (!err)
        err = add_namespace(c, node, &n, secret);
    OPENSSL_cleanse(secret, sizeof secret);
    return err;
}

static int read_namespaces(struct config *c, yaml_node_t *value, void *into)
{
    if (value->type != YAML_SEQUENCE_NODE)
        return complain(c, value, "a list of namespaces (- id: ...) must stand here");
    for (yaml_node_item_t *item = value->data.sequence.items.start; item < value->data.sequence.items.top;
         item++) {
        int err = read_namespace(c, yaml_document_get_node(&c->doc, *item));
        if (err)
            return err;
    }
    return 0;
}

/* ---- the file ---- */

static int read_document(struct config *c)
{
    static const struct key keys[] = {{"log-level", 0, read_level, 0},
                                      {"socket", 0, read_socket, 0},
                                      {"limits", 0, read_limits, 0},
                                      {"namespaces", 1, read_namespaces, 0},
                                      {0}};
    yaml_node_t *root = yaml_document_get_root_node(&c->doc);
    int err = 0;
    for (c->pass = 0; root && !err && c->pass < 2; c->pass++)
        err = read_mapping(c, root, keys, c->d);
    return err;
}

static FILE *open_config(const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "re");
    if (!f) {
        fprintf(stderr, "berth daemon: %s: %s\n", path, strerror(errno));
    } else if (fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode)) {
        fprintf(stderr, "berth daemon: %s is a directory\n", path);
        fclose(f);
        f = NULL;
    }
    return f;
}

int config_load(struct daemon *d, const char *path)
{
    struct config c = {.d = d, .path = path};
    yaml_parser_t parser;
    FILE *f = open_config(path);
    if (!f)
        return BERTH_E_SYSTEM;
    int err = BERTH_E_NO_MEMORY;
    if (!yaml_parser_initialize(&parser)) {
        fprintf(stderr, "berth daemon: %s: out of memory\n", path);
        goto no_parser;
    }
    yaml_parser_set_input_file(&parser, f);
    if (yaml_parser_load(&parser, &c.doc)) {
        err = read_document(&c);
        yaml_document_delete(&c.doc);
    } else {
        fprintf(stderr, "berth daemon: %s:%zu: %s\n", path, parser.problem_mark.line + 1,
                parser.problem ? parser.problem : "cannot be read");
        err = BERTH_E_INVALID;
    }
    yaml_parser_delete(&parser);
no_parser:
    fclose(f);
    return err;
}
