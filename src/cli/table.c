/* table.c - a JSON array of flat objects as a table for people.
 *
 * Theory of operation
 *
 * Columns are the keys of the objects in the order in which they first appear, so that the daemon decides
 * what is shown and this file only how: a table of known keys gives titles and units; others get their name
 * in capitals. Bytes and times are rounded to three digits with a unit, numbers stand to the right. Names
 * come from programs that nobody vouches for: what could steer a terminal is shown as '?'.
 */
#include <grp.h>
#include <jansson.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum unit { UNIT_PLAIN, UNIT_BYTES, UNIT_NS, UNIT_USER, UNIT_GROUP };

static const struct known {
    const char *key, *title; /* NULL: in the JSON only, so that the line fits a screen */
    enum unit unit;
} known_keys[] = {
    {"id", "ID", UNIT_PLAIN},
    {"uid", "USER", UNIT_USER},
    {"owner", "OWNER", UNIT_USER},
    {"group", "GROUP", UNIT_GROUP},
    {"app_name", "NAME", UNIT_PLAIN},
    {"v6only", "V6 ONLY", UNIT_PLAIN},
    {"local_app", NULL, UNIT_PLAIN},
    {"local_app_name", "APP", UNIT_PLAIN},
    {"local_pid", NULL, UNIT_PLAIN},
    {"local_state", "STATE", UNIT_PLAIN},
    {"remote_app", NULL, UNIT_PLAIN},
    {"remote_app_name", "PEER", UNIT_PLAIN},
    {"remote_pid", NULL, UNIT_PLAIN},
    {"remote_state", "PEER STATE", UNIT_PLAIN},
    {"pid", "PID", UNIT_PLAIN},
    {"ns", "NAMESPACE", UNIT_PLAIN},
    {"netns", "NET NS", UNIT_PLAIN},
    {"rx_bytes", "RECEIVED", UNIT_BYTES},
    {"tx_bytes", "SENT", UNIT_BYTES},
    {"bytes", "BYTES", UNIT_BYTES},
    {"size", "SIZE", UNIT_BYTES},
    {"memory", "MEMORY", UNIT_BYTES},
    {"rx_fill", "RX FILL", UNIT_BYTES},
    {"tx_fill", "TX FILL", UNIT_BYTES},
    {"rx_ring", NULL, UNIT_BYTES},
    {"tx_ring", NULL, UNIT_BYTES},
    {"rx_fifo_size", "RX FIFO", UNIT_BYTES},
    {"tx_fifo_size", "TX FIFO", UNIT_BYTES},
    {"segment_size", "SEGMENT SIZE", UNIT_BYTES},
};

struct column {
    const char *key;
    char title[64];
    enum unit unit;
    bool right;
    size_t width;
};

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a > b && !strcmp(text + a - b, end);
}

static const struct known *known(const char *key)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof known_keys[0]; i++) {
        if (!strcmp(key, known_keys[i].key))
            return &known_keys[i];
    }
    return NULL;
}

static void describe(struct column *c, const char *key)
{
    const struct known *k = known(key);
    c->key = key;
    c->unit = ends_with(key, "_bytes") ? UNIT_BYTES : ends_with(key, "_ns") ? UNIT_NS : UNIT_PLAIN;
    if (k) {
        c->unit = k->unit;
        (void)snprintf(c->title, sizeof c->title, "%s", k->title);
        return;
    }
    size_t len = strlen(key) - (c->unit == UNIT_BYTES ? 6 : c->unit == UNIT_NS ? 3 : 0);
    if (len >= sizeof c->title)
        len = sizeof c->title - 1;
    for (size_t i = 0; i < len; i++) {
        char ch = key[i];
        c->title[i] = (char)(ch == '_' ? ' ' : ch >= 'a' && ch <= 'z' ? ch - 'a' + 'A' : ch);
    }
    c->title[len] = '\0';
}

static void format_scaled(double value, double step, const char *const *units, int count, char *out,
                          size_t size)
{
    int u = 0;
    while (value >= step - 0.5 && u + 1 < count) {
        value /= step;
        u++;
    }
    if (u == 0 || value >= 99.95)
        (void)snprintf(out, size, "%.0f %s", value, units[u]);
    else
        (void)snprintf(out, size, value >= 9.995 ? "%.1f %s" : "%.2f %s", value, units[u]);
}

static void format_number(const json_t *v, enum unit unit, char *out, size_t size)
{
    static const char *const bytes[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    static const char *const times[] = {"ns", "us", "ms"};
    double value = json_number_value(v);
    if (unit == UNIT_BYTES && value >= 0)
        format_scaled(value, 1024, bytes, 6, out, size);
    else if (unit == UNIT_NS && value >= 1e9)
        (void)snprintf(out, size, value < 60e9 ? "%.1f s" : "%.0f s", value / 1e9);
    else if (unit == UNIT_NS && value >= 0)
        format_scaled(value, 1000, times, 3, out, size);
    else if (unit == UNIT_USER && getpwuid((uid_t)value))
        (void)snprintf(out, size, "%s", getpwuid((uid_t)value)->pw_name);
    else if (unit == UNIT_GROUP && getgrgid((gid_t)value))
        (void)snprintf(out, size, "%s", getgrgid((gid_t)value)->gr_name);
    else if (json_is_integer(v))
        (void)snprintf(out, size, "%lld", (long long)json_integer_value(v));
    else
        (void)snprintf(out, size, "%.3g", value);
}

/* Shows what a terminal would obey as '?': control characters of ASCII, and C1 in UTF-8 (0xc2 0x80 to 0x9f).
 */
static void tame(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
}

/* an array of words: "local, global" */
static char *format_list(const json_t *v)
{
    size_t i, len = 1;
    json_t *item;
    char *text;
    json_array_foreach(v, i, item)
    {
        if (!json_is_string(item))
            return json_dumps(v, JSON_COMPACT);
        len += json_string_length(item) + 2;
    }
    text = calloc(1, len);
    json_array_foreach(v, i, item)
    {
        if (text)
            (void)snprintf(text + strlen(text), len - strlen(text), "%s%s", i ? ", " : "",
                           json_string_value(item));
    }
    return text;
}

static char *format_value(const json_t *v, enum unit unit)
{
    char number[64], *text;
    if (!v || json_is_null(v))
        text = strdup("-");
    else if (json_is_boolean(v))
        text = strdup(json_is_true(v) ? "yes" : "no");
    else if (json_is_string(v))
        text = strdup(*json_string_value(v) ? json_string_value(v) : "-");
    else if (json_is_number(v)) {
        format_number(v, unit, number, sizeof number);
        text = strdup(number);
    } else if (json_array_size(v)) {
        text = format_list(v);
    } else {
        text = json_is_array(v) ? strdup("-") : json_dumps(v, JSON_COMPACT);
    }
    if (text)
        tame(text);
    return text;
}

static size_t columns_of(
    const char *text) /* characters, where bytes of UTF-8 that continue one do not count */
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_cell(const char *text, const struct column *c, bool last)
{
    int pad = (int)(c->width - columns_of(text));
    if (c->right)
        printf("%*s%s", pad, "", text);
    else if (last)
        printf("%s", text);
    else
        printf("%s%*s", text, pad, "");
    if (!last)
        printf("  ");
}

/* The keys in the order in which they appear. Number of columns, or -1. */
static int find_columns(const json_t *rows, struct column **out)
{
    struct column *list = NULL;
    int count = 0;
    size_t i;
    json_t *row, *value;
    const char *key;
    json_array_foreach(rows, i, row)
    {
        if (!json_is_object(row))
            goto fail;
        json_object_foreach(row, key, value)
        {
            int k = 0;
            if (known(key) && !known(key)->title)
                continue;
            while (k < count && strcmp(list[k].key, key) != 0)
                k++;
            if (k == count) {
                struct column *more = reallocarray(list, (size_t)count + 1, sizeof *list);
                if (!more)
                    goto fail;
                list = more;
                memset(&list[count], 0, sizeof list[count]);
                describe(&list[count], key);
                list[count].width = columns_of(list[count].title);
                list[count++].right = true;
            }
            bool number = json_is_number(value) && list[k].unit != UNIT_USER && list[k].unit != UNIT_GROUP;
            if (!number && !json_is_null(value))
                list[k].right = false;
        }
    }
    *out = list;
    return count;
fail:
    free(list);
    return -1;
}

static int print_rows(const json_t *rows, struct column *columns, int count)
{
    size_t n = json_array_size(rows);
    char **cells = calloc(n * (size_t)count, sizeof *cells);
    int err = cells ? 0 : -1;
    for (size_t r = 0; !err && r < n; r++) {
        for (int k = 0; k < count; k++) {
            char *text =
                format_value(json_object_get(json_array_get(rows, r), columns[k].key), columns[k].unit);
            cells[r * (size_t)count + (size_t)k] = text;
            if (!text)
                err = -1;
            else if (columns_of(text) > columns[k].width)
                columns[k].width = columns_of(text);
        }
    }
    for (int k = 0; !err && k < count; k++)
        print_cell(columns[k].title, &columns[k], k + 1 == count);
    if (!err)
        (void)putchar('\n');
    for (size_t i = 0; !err && i < n * (size_t)count; i++) {
        bool last = i % (size_t)count + 1 == (size_t)count;
        print_cell(cells[i], &columns[i % (size_t)count], last);
        if (last)
            (void)putchar('\n');
    }
    for (size_t i = 0; cells && i < n * (size_t)count; i++)
        free(cells[i]);
    free((void *)cells);
    return err;
}

int table_print(const char *what, const char *json, size_t len)
{
    struct column *columns = NULL;
    json_t *rows = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
    int err = -1;
    if (json_is_array(rows)) {
        int count = find_columns(rows, &columns);
        if (count == 0) {
            printf("no %s\n", what);
            err = 0;
        } else if (count > 0) {
            err = print_rows(rows, columns, count);
        }
    }
    free(columns);
    json_decref(rows);
    return err;
}
