/* uri_fuzz.c - uri_parse against any bytes, with inet_pton as the judge of addresses.
 *
 * What must hold: success means that text and endpoint agree when the URI is written again; failure leaves
 * the outputs alone and points inside the text; what the judge refuses is refused.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s does not hold for '%s'\n", #cond, text);                                     \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static void check_success(const char *text, bool for_listen, const endpoint *ep, const char *host)
{
    char again[600], addr[64];
    endpoint second;
    char second_host[256];
    MUST(ep->port != 0 || for_listen);
    MUST(ep->proto == BERTH_PROTO_TCP && (ep->family == 4 || ep->family == 6));
    MUST(ep->family != 4 || endpoint_is_v4(ep->addr));
    MUST(inet_ntop(ep->family == 4 ? AF_INET : AF_INET6, ep->addr + (ep->family == 4 ? 12 : 0), addr,
                   sizeof addr));
    if (host[0])
        snprintf(again, sizeof again, "tcp://[%s]%s/%u", host, addr, ep->port);
    else
        snprintf(again, sizeof again, "tcp://%s/%u", addr, ep->port);
    MUST(uri_parse(again, for_listen, &second, second_host, sizeof second_host, NULL) == 0);
    MUST(!memcmp(&second, ep, sizeof second) && !strcmp(host, second_host));
    MUST(endpoint_format(ep, addr, sizeof addr) < (int)sizeof addr);
    snprintf(again, sizeof again, "tcp://%s", addr);
    MUST(uri_parse(again, for_listen, &second, second_host, sizeof second_host, NULL) == 0);
    MUST(!memcmp(&second, ep, sizeof second));
}

/* tcp://X/80: X is an address for us if and only if inet_pton takes it */
static void compare_with_judge(const char *text)
{
    char uri[128];
    uint8_t judged[16];
    endpoint ep;
    if (strlen(text) > 60 || strpbrk(text, "/[") != NULL)
        return;
    snprintf(uri, sizeof uri, "tcp://%s/80", text);
    bool v4 = inet_pton(AF_INET, text, judged) == 1, v6 = !v4 && inet_pton(AF_INET6, text, judged) == 1;
    bool ours = uri_parse(uri, false, &ep, NULL, 0, NULL) == 0;
    MUST(ours == (v4 || v6));
    MUST(!ours || !memcmp(v4 ? ep.addr + 12 : ep.addr, judged, v4 ? 4 : 16));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1); /* on the heap, so that ASan sees each byte too far */
    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    text[size] = 0;
    for (int for_listen = 0; for_listen < 2; for_listen++) {
        endpoint ep, before;
        char host[256] = "before", message[512];
        struct uri_error err = {.at = SIZE_MAX};
        memset(&ep, 0x5a, sizeof ep);
        before = ep;
        if (uri_parse(text, for_listen, &ep, host, sizeof host, &err) == 0) {
            check_success(text, for_listen, &ep, host);
            continue;
        }
        MUST(err.at <= strlen(text) && err.text[0]);
        MUST(!memcmp(&ep, &before, sizeof ep) && !strcmp(host, "before"));
        uri_error_format(text, &err, message, sizeof message);
        MUST(strlen(message) < 400);
    }
    compare_with_judge(text);
    free(text);
    return 0;
}

#ifndef BERTH_LIBFUZZER
/* The bounded run: seeds, mutations of seeds, and strings over the alphabet that matters. */
static const char *const seeds[] = {
    "tcp://127.0.0.1:80",
    "tcp://[::1]:80",
    "tcp://::1/80",
    "tcp://[www.example.com]2001:db8::1/443",
    "1.2.3.4",
    "::ffff:1.2.3.4",
    "1:2:3:4:5:6:7:8",
    "fe80::1%eth0",
    "tls://[a]::/65535",
    "1::8",
    "::",
    "tcp://0.0.0.0/0",
};
#define SEEDS (sizeof seeds / sizeof seeds[0])

static uint64_t next_random(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static size_t mutate(uint64_t *seed, char *buf, size_t n, size_t room)
{
    static const char alphabet[] = "0123456789abcdefF:./[]-%tcp \x80";
    for (uint64_t edits = 1 + next_random(seed) % 4; edits; edits--) {
        uint64_t r = next_random(seed);
        size_t at = n ? (size_t)(r >> 16) % (n + 1) : 0;
        char c = r & 1024 ? alphabet[(r >> 40) % (sizeof alphabet - 1)] : (char)(r >> 40);
        if (r % 3 == 0 && n < room) { /* insert */
            memmove(buf + at + 1, buf + at, n - at);
            buf[at] = c;
            n++;
        } else if (r % 3 == 1 && at < n) { /* delete */
            memmove(buf + at, buf + at + 1, n - at - 1);
            n--;
        } else if (at < n) {
            buf[at] = c;
        }
    }
    return n;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    long rounds = argc > 2 ? strtol(argv[2], NULL, 0) : 300000;
    printf("seed %llu, %ld rounds\n", (unsigned long long)seed, rounds);
    for (size_t i = 0; i < SEEDS; i++)
        (void)LLVMFuzzerTestOneInput((const uint8_t *)seeds[i], strlen(seeds[i]));
    for (long i = 0; i < rounds; i++) {
        char buf[128];
        const char *from = seeds[next_random(&seed) % SEEDS];
        size_t n = strlen(from);
        memcpy(buf, from, n);
        n = mutate(&seed, buf, n, sizeof buf);
        (void)LLVMFuzzerTestOneInput((const uint8_t *)buf, n);
    }
    return 0;
}
#endif
