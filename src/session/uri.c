/* uri.c - the strict URI parser; the grammar is docs/uri.md.
 *
 * Theory of operation
 *
 * One pass over the text with a cursor, no allocation, no state kept, no name looked up. Each rule either
 * moves the cursor behind what it took or fills the error with the offset of the first character that cannot
 * be right; the first error wins. Which form a URI has is decided by what stands at the front and by the one
 * separator that is there: `[` opens an IPv6 address if the brackets hold a colon, else a server name; a `/`
 * anywhere means that the address ends there; else a single `:` ends it.
 *
 * Addresses are parsed here and not by inet_pton, which cannot say where it stopped. A test compares the two.
 */
#include "session/uri.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct parser {
    const char *text;
    size_t at;
    int code; /* of the failure */
    struct uri_error err;
};

__attribute__((format(printf, 3, 4), cold)) static bool fail(struct parser *p, size_t at, const char *fmt,
                                                             ...)
{
    va_list ap;
    p->err.at = at;
    va_start(ap, fmt);
    (void)vsnprintf(p->err.text, sizeof p->err.text, fmt, ap);
    va_end(ap);
    return false;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_host_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.';
}

/* ---- protocol ------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    uint8_t proto; /* 0: known, not offered */
} protocols[] = {{"tcp", BERTH_PROTO_TCP}, {"udp", 0}, {"tls", 0}, {"quic", 0}};

static bool parse_protocol(struct parser *p, uint8_t *proto)
{
    size_t n = 0;
    while (p->text[n] >= 'a' && p->text[n] <= 'z')
        n++;
    if (n == 0 && p->text[0] == 0)
        return fail(p, 0, "the URI is empty; write tcp://ADDRESS:PORT");
    if (p->text[n] >= 'A' && p->text[n] <= 'Z')
        return fail(p, n, "the protocol is written in lower case");
    if (strncmp(p->text + n, "://", 3) != 0) {
        size_t same = 0;
        while (p->text[n + same] && p->text[n + same] == "://"[same])
            same++;
        return fail(p, n + same,
                    n ? "'://' must follow the protocol" : "a protocol such as tcp:// must come first");
    }
    for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++) {
        if (strlen(protocols[i].name) != n || memcmp(protocols[i].name, p->text, n) != 0)
            continue;
        p->code = BERTH_E_UNSUPPORTED;
        if (!protocols[i].proto)
            return fail(p, 0, "the protocol '%s' is not offered yet; only tcp is", protocols[i].name);
        p->code = BERTH_E_URI;
        *proto = protocols[i].proto;
        p->at = n + 3;
        return true;
    }
    return fail(p, 0, "unknown protocol; only tcp is offered");
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

/* Four decimal numbers of 0-255 without leading zeros, filling [p->at, end). */
static bool parse_v4(struct parser *p, size_t end, uint8_t out[4])
{
    for (int i = 0; i < 4; i++) {
        if (i > 0) {
            if (p->at >= end || p->text[p->at] != '.')
                return fail(p, p->at, "an IPv4 address is four numbers with dots between them");
            p->at++;
        }
        size_t start = p->at;
        unsigned value = 0;
        while (p->at < end && is_digit(p->text[p->at]) && p->at - start < 4)
            value = value * 10 + (unsigned)(p->text[p->at++] - '0');
        if (p->at == start)
            return fail(p, start, "a number from 0 to 255 is expected here");
        if (p->text[start] == '0' && p->at - start > 1)
            return fail(p, start, "a number of an IPv4 address has no leading zero");
        if (value > 255)
            return fail(p, start, "a number of an IPv4 address is at most 255");
        out[i] = (uint8_t)value;
    }
    if (p->at != end)
        return fail(p, p->at, "an IPv4 address ends after four numbers");
    return true;
}

static bool parse_group(struct parser *p, size_t end, uint8_t out[2])
{
    unsigned value = 0;
    size_t start = p->at;
    while (p->at < end && hex_value(p->text[p->at]) >= 0) {
        if (p->at - start == 4)
            return fail(p, p->at, "a group of an IPv6 address has at most four hex digits");
        value = value << 4 | (unsigned)hex_value(p->text[p->at++]);
    }
    if (p->at == start) {
        if (p->at < end && p->text[p->at] == '%')
            return fail(p, p->at, "scope ids are not supported");
        return fail(p, p->at,
                    p->at < end ? "this cannot be in an IPv6 address" : "the IPv6 address ends too early");
    }
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return true;
}

static bool group_is_v4(const struct parser *p, size_t end)
{
    size_t i = p->at;
    while (i < end && is_digit(p->text[i]))
        i++;
    return i > p->at && i < end && p->text[i] == '.';
}

/* RFC 4291 2.2: eight groups, `::` once for one or more of them, the last two perhaps as dotted quad. */
static bool parse_v6(struct parser *p, size_t end, uint8_t out[16])
{
    uint8_t raw[16];
    int n = 0, gap = -1;
    if (p->at + 1 < end && p->text[p->at] == ':' && p->text[p->at + 1] == ':') {
        gap = 0;
        p->at += 2;
    }
    while (p->at < end || gap != n) {
        if (n == 16)
            return fail(p, p->at, "an IPv6 address has eight groups at most");
        if (n <= 12 && group_is_v4(p, end)) {
            if (!parse_v4(p, end, raw + n))
                return false;
            n += 4;
            break;
        }
        if (!parse_group(p, end, raw + n))
            return false;
        n += 2;
        if (p->at >= end)
            break;
        if (p->text[p->at] != ':')
            return fail(p, p->at,
                        p->text[p->at] == '%' ? "scope ids are not supported"
                                              : "this cannot be in an IPv6 address");
        if (++p->at < end && p->text[p->at] == ':') {
            if (gap >= 0)
                return fail(p, p->at, "an IPv6 address has '::' once at most");
            gap = n;
            p->at++;
        }
    }
    if (gap < 0 && n != 16)
        return fail(p, p->at, "an IPv6 address without '::' has eight groups");
    if (gap >= 0 && n == 16)
        return fail(p, p->at, "with eight groups there is nothing left for '::' to stand for");
    memset(out, 0, 16);
    int head = gap < 0 ? n : gap;
    memcpy(out, raw, (size_t)head);
    memcpy(out + 16 - (n - head), raw + head, (size_t)(n - head));
    return true;
}

/* The address in [p->at, end), of either version; IPv6 where a colon comes before the first dot. */
static bool parse_address(struct parser *p, size_t end, endpoint *out)
{
    size_t i = p->at;
    if (i == end)
        return fail(p, i, "an address is missing");
    while (i < end && p->text[i] != ':' && p->text[i] != '.')
        i++;
    if (i < end && p->text[i] == ':') {
        out->family = 6;
        return parse_v6(p, end, out->addr);
    }
    uint8_t quad[4] = {0};
    if (!is_digit(p->text[p->at]) && is_host_char(p->text[p->at]))
        return fail(p, p->at, "an address in digits is needed, names are not looked up");
    if (!parse_v4(p, end, quad))
        return false;
    endpoint_from_v4(out,
                     (uint32_t)quad[0] << 24 | (uint32_t)quad[1] << 16 | (uint32_t)quad[2] << 8 | quad[3], 0);
    return true;
}

/* ---- server name, port --------------------------------------------------------------------------------- */

/* RFC 1123 2.1: labels of letters, digits and inner hyphens, 63 at most; 253 in all. */
static bool check_host(struct parser *p, size_t start, size_t end)
{
    if (start == end)
        return fail(p, start, "the brackets are empty");
    if (end - start > 253)
        return fail(p, start + 253, "a server name has at most 253 characters");
    for (size_t label = start, i = start; i <= end; i++) {
        if (i < end && !is_host_char(p->text[i]))
            return fail(p, i, "a server name has letters, digits, dots and hyphens only");
        if (i < end && p->text[i] != '.')
            continue;
        if (i == label)
            return fail(p, i, "a part of the server name is empty");
        if (i - label > 63)
            return fail(p, label + 63, "a part of a server name has at most 63 characters");
        if (p->text[label] == '-' || p->text[i - 1] == '-')
            return fail(p, p->text[label] == '-' ? label : i - 1,
                        "a part of a server name begins or ends with '-'");
        label = i + 1;
    }
    return true;
}

static bool parse_port(struct parser *p, bool for_listen, uint16_t *out)
{
    size_t start = p->at;
    unsigned value = 0;
    while (is_digit(p->text[p->at]) && p->at - start < 6)
        value = value * 10 + (unsigned)(p->text[p->at++] - '0');
    if (p->at == start)
        return fail(p, start,
                    p->text[start] ? "a port from 1 to 65535 is expected here" : "the port is missing");
    if (p->text[start] == '0' && p->at - start > 1)
        return fail(p, start, "a port has no leading zero");
    if (value > 65535)
        return fail(p, start, "a port is at most 65535");
    if (p->text[p->at])
        return fail(p, p->at, "nothing may follow the port");
    if (value == 0 && !for_listen)
        return fail(p, start, "port 0 can only be listened at, meaning any free one");
    *out = (uint16_t)value;
    return true;
}

/* ---- the forms ----------------------------------------------------------------------------------------- */

static size_t find(const struct parser *p, char c)
{
    const char *s = strchr(p->text + p->at, c);
    return s ? (size_t)(s - p->text) : p->at + strlen(p->text + p->at);
}

/* addr "/" port */
static bool parse_slash_form(struct parser *p, endpoint *out)
{
    size_t end = find(p, '/');
    size_t colon = find(p, ':');
    if (!p->text[end])
        return fail(p, p->text[colon] && p->text[colon + 1] != ':' ? colon : end,
                    "'/' and a port must follow the address");
    if (!parse_address(p, end, out))
        return false;
    p->at = end + 1;
    return true;
}

/* addr ":" port */
static bool parse_colon_form(struct parser *p, endpoint *out)
{
    size_t end = find(p, ':');
    if (p->text[end] && strchr(p->text + end + 1, ':'))
        return fail(p, p->at, "an IPv6 address takes brackets before ':port', or write ADDRESS/PORT");
    if (!parse_address(p, end, out))
        return false;
    if (!p->text[end])
        return fail(p, end, "the port is missing");
    p->at = end + 1;
    return true;
}

/* "[" addr6 "]:" port  or  "[" host "]" addr "/" port */
static bool parse_bracket_form(struct parser *p, endpoint *out, size_t *host_at, size_t *host_len)
{
    size_t start = ++p->at, end = find(p, ']');
    if (!p->text[end])
        return fail(p, start - 1, "there is no ']' for this '['");
    if (memchr(p->text + start, ':', end - start)) {
        out->family = 6;
        if (!parse_v6(p, end, out->addr))
            return false;
        if (p->text[end + 1] != ':')
            return fail(p, end + 1, "':' and a port must follow an address in brackets");
        p->at = end + 2;
        return true;
    }
    if (!check_host(p, start, end))
        return false;
    *host_at = start;
    *host_len = end - start;
    p->at = end + 1;
    if (!p->text[p->at] || p->text[p->at] == '/' || (p->text[p->at] == ':' && p->text[p->at + 1] != ':'))
        return fail(p, p->at, "a server name in brackets is followed by ADDRESS/PORT");
    return parse_slash_form(p, out);
}

static bool parse(struct parser *p, bool for_listen, endpoint *out, size_t *host_at, size_t *host_len)
{
    if (!parse_protocol(p, &out->proto))
        return false;
    uint8_t proto = out->proto;
    bool ok = p->text[p->at] == '['                  ? parse_bracket_form(p, out, host_at, host_len)
              : strchr(p->text + p->at, '/') != NULL ? parse_slash_form(p, out)
                                                     : parse_colon_form(p, out);
    out->proto = proto;
    return ok && parse_port(p, for_listen, &out->port);
}

int uri_parse(const char *text, bool for_listen, endpoint *out, char *host, size_t host_size,
              struct uri_error *err)
{
    if (!text || !out)
        return BERTH_E_INVALID;
    struct parser p = {.text = text, .code = BERTH_E_URI};
    endpoint parsed = {0};
    size_t host_at = 0, host_len = 0;
    bool ok = parse(&p, for_listen, &parsed, &host_at, &host_len);
    if (ok && host_len && host && host_size <= host_len)
        ok = fail(&p, host_at, "the server name is longer than the %zu bytes there is room for", host_size);
    if (!ok) {
        if (err)
            *err = p.err;
        return p.code;
    }
    *out = parsed;
    if (host && host_size) {
        memcpy(host, text + host_at, host_len);
        host[host_len] = 0;
    }
    return 0;
}

/* A URI may be long and may hold anything: show at most SHOWN bytes around the place, printable ones only. */
#define SHOWN 100
#define BEFORE 70

void uri_error_format(const char *text, const struct uri_error *err, char *out, size_t size)
{
    char line[SHOWN + 1];
    size_t len = strlen(text), at = err->at < len ? err->at : len, from = at > BEFORE ? at - BEFORE : 0,
           n = 0;
    if (size == 0)
        return;
    for (; n < SHOWN && from + n < len; n++) {
        char c = text[from + n];
        line[n] = c;
        if (c < ' ' || c > '~')
            line[n] = '?';
    }
    line[n] = 0;
    (void)snprintf(out, size, "%s\n  %s\n  %*s^", err->text, line, (int)(at - from), "");
}
