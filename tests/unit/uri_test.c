/* uri_test.c - the grammar of docs/uri.md, each error with its place. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "session/uri.h"

struct good {
    const char *uri, *formatted, *host;
    uint8_t family;
};

static void good_uris(void **state)
{
    static const struct good rows[] = {
        {"tcp://127.0.0.1:80", "127.0.0.1:80", "", 4},
        {"tcp://127.0.0.1/80", "127.0.0.1:80", "", 4},
        {"tcp://0.0.0.0/1", "0.0.0.0:1", "", 4},
        {"tcp://255.255.255.255:65535", "255.255.255.255:65535", "", 4},
        {"tcp://[::1]:80", "[::1]:80", "", 6},
        {"tcp://::1/80", "[::1]:80", "", 6},
        {"tcp://::/80", "[::]:80", "", 6},
        {"tcp://[::]:9", "[::]:9", "", 6},
        {"tcp://2001:db8::a:0:1/443", "[2001:db8::a:0:1]:443", "", 6},
        {"tcp://[2001:DB8:0:0:0:0:0:1]:443", "[2001:db8::1]:443", "", 6},
        {"tcp://1:2:3:4:5:6:7:8/5", "[1:2:3:4:5:6:7:8]:5", "", 6},
        {"tcp://1:2:3:4:5:6:7::/5", "[1:2:3:4:5:6:7:0]:5", "", 6},
        {"tcp://[::ffff:1.2.3.4]:5", "[::ffff:1.2.3.4]:5", "", 6},
        {"tcp://1:2:3:4:5:6:1.2.3.4/5", "[1:2:3:4:5:6:102:304]:5", "", 6},
        {"tcp://[www.example.com]10.0.0.1/443", "10.0.0.1:443", "www.example.com", 4},
        {"tcp://[www.example.com]2001:db8::1/443", "[2001:db8::1]:443", "www.example.com", 6},
        {"tcp://[localhost]::1/443", "[::1]:443", "localhost", 6},
        {"tcp://[a-b.C9]1.2.3.4/1", "1.2.3.4:1", "a-b.C9", 4},
        {"tcp://[10.0.0.1]1.2.3.4/1", "1.2.3.4:1", "10.0.0.1", 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        endpoint ep;
        struct uri_error err = {0};
        char host[256], text[80];
        int rc = uri_parse(rows[i].uri, false, &ep, host, sizeof host, &err);
        check(rc == 0, "%s was refused at %zu: %s", rows[i].uri, err.at, err.text);
        check(endpoint_format(&ep, text, sizeof text) == (int)strlen(rows[i].formatted), "%s: length",
              rows[i].uri);
        check(!strcmp(text, rows[i].formatted), "%s gave %s", rows[i].uri, text);
        check(!strcmp(host, rows[i].host), "%s gave the host '%s'", rows[i].uri, host);
        check(ep.family == rows[i].family && ep.proto == BERTH_PROTO_TCP, "%s: family or protocol",
              rows[i].uri);
    }
}

struct bad {
    const char *uri;
    size_t at;
    const char *part; /* of the message */
};

static void bad_uris(void **state)
{
    static const struct bad rows[] = {
        {"", 0, "empty"},
        {"tcp", 3, "'://' must follow"},
        {"tcp:", 4, "'://' must follow"},
        {"tcp:/", 5, "'://' must follow"},
        {"tcp:/1.2.3.4:80", 5, "'://' must follow"},
        {"://1.2.3.4:80", 0, "unknown protocol"},
        {"1.2.3.4:80", 0, "a protocol"},
        {" tcp://1.2.3.4:80", 0, "a protocol"},
        {"TCP://1.2.3.4:80", 0, "lower case"},
        {"tCP://1.2.3.4:80", 1, "lower case"},
        {"tcp6://[::1]:80", 3, "'://' must follow"},
        {"http://1.2.3.4:80", 0, "unknown protocol"},
        {"tc://1.2.3.4:80", 0, "unknown protocol"},
        {"tcpp://1.2.3.4:80", 0, "unknown protocol"},
        {"udp://1.2.3.4:80", 0, "not offered yet"},
        {"tls://[www.example.com]1.2.3.4/80", 0, "not offered yet"},
        {"quic://1.2.3.4:80", 0, "not offered yet"},
        {"tcp://", 6, "an address is missing"},
        {"tcp://:80", 6, "an address is missing"},
        {"tcp:///80", 6, "an address is missing"},
        {"tcp://1.2.3.4", 13, "the port is missing"},
        {"tcp://1.2.3.4:", 14, "the port is missing"},
        {"tcp://1.2.3.4/", 14, "the port is missing"},
        {"tcp://1.2.3.4:0", 14, "port 0"},
        {"tcp://1.2.3.4:080", 14, "leading zero"},
        {"tcp://1.2.3.4:00", 14, "leading zero"},
        {"tcp://1.2.3.4:65536", 14, "at most 65535"},
        {"tcp://1.2.3.4:99999999999999999999", 14, "at most 65535"},
        {"tcp://1.2.3.4:4294967376", 14, "at most 65535"},
        {"tcp://1.2.3.4:-1", 14, "a port from 1"},
        {"tcp://1.2.3.4:+1", 14, "a port from 1"},
        {"tcp://1.2.3.4: 1", 14, "a port from 1"},
        {"tcp://1.2.3.4:0x50", 15, "nothing may follow"},
        {"tcp://1.2.3.4:80 ", 16, "nothing may follow"},
        {"tcp://1.2.3.4:80\n", 16, "nothing may follow"},
        {"tcp://1.2.3.4:http", 14, "a port from 1"},
        {"tcp://1.2.3.4/80/", 16, "nothing may follow"},
        {"tcp://1.2.3.4:80/index.html", 13, "ends after four"},
        {"tcp://1.2.3.4/80?x", 16, "nothing may follow"},
        {"tcp://1.2.3:80", 11, "four numbers"},
        {"tcp://1.2.3.:80", 12, "0 to 255"},
        {"tcp://1.2.3.4.5:80", 13, "ends after four"},
        {"tcp://1.2.3.256:80", 12, "at most 255"},
        {"tcp://1.2.3.1000:80", 12, "at most 255"},
        {"tcp://1.2.3.04:80", 12, "leading zero"},
        {"tcp://0177.0.0.1:80", 6, "leading zero"},
        {"tcp://0x7f.0.0.1:80", 7, "four numbers"},
        {"tcp://2130706433:80", 6, "at most 255"},
        {"tcp://127.1:80", 11, "four numbers"},
        {"tcp://1..2.3:80", 8, "0 to 255"},
        {"tcp:// 1.2.3.4:80", 6, "0 to 255"},
        {"tcp://1.2.3.4 :80", 13, "ends after four"},
        {"tcp://localhost:80", 6, "names are not looked up"},
        {"tcp://www.example.com/80", 6, "names are not looked up"},
        {"tcp://::1:80", 6, "takes brackets"},
        {"tcp://2001:db8::1", 6, "takes brackets"},
        {"tcp://[::1]", 11, "':' and a port"},
        {"tcp://[::1]/80", 11, "':' and a port"},
        {"tcp://[::1]80", 11, "':' and a port"},
        {"tcp://[::1]:", 12, "the port is missing"},
        {"tcp://[::1:80", 6, "no ']'"},
        {"tcp://[]:80", 7, "brackets are empty"},
        {"tcp://[]1.2.3.4/80", 7, "brackets are empty"},
        {"tcp://[fe80::1%eth0]:80", 14, "scope ids"},
        {"tcp://fe80::1%2/80", 13, "scope ids"},
        {"tcp://[::%lo]:80", 9, "scope ids"},
        {"tcp://[:::]:80", 9, "cannot be in an IPv6"},
        {"tcp://[:1]:80", 7, "cannot be in an IPv6"},
        {"tcp://[1:2:3:4:5:6:7:8:9]:80", 23, "eight groups at most"},
        {"tcp://[1:2:3:4:5:6:7]:80", 20, "has eight groups"},
        {"tcp://[1::2::3]:80", 12, "'::' once"},
        {"tcp://[1:]:80", 9, "ends too early"},
        {"tcp://[12345::]:80", 11, "four hex digits"},
        {"tcp://[::g]:80", 9, "cannot be in an IPv6"},
        {"tcp://[::1.2.3]:80", 14, "four numbers"},
        {"tcp://[::1.2.3.4:1]:80", 16, "ends after four"},
        {"tcp://[1:2:3:4:5:6:7:1.2.3.4]:80", 22, "cannot be in an IPv6"},
        {"tcp://1::2:3:4:5:6:7:8/80", 22, "nothing left for '::'"},
        {"tcp://[www.example.com]:80", 23, "followed by ADDRESS/PORT"},
        {"tcp://[www.example.com]", 23, "followed by ADDRESS/PORT"},
        {"tcp://[www.example.com]/80", 23, "followed by ADDRESS/PORT"},
        {"tcp://[1.2.3.4]:80", 15, "followed by ADDRESS/PORT"},
        {"tcp://[a]1.2.3.4:80", 16, "'/' and a port"},
        {"tcp://[a]www/80", 9, "names are not looked up"},
        {"tcp://[a b]1.2.3.4/80", 8, "letters, digits"},
        {"tcp://[a_b]1.2.3.4/80", 8, "letters, digits"},
        {"tcp://[a..b]1.2.3.4/80", 9, "is empty"},
        {"tcp://[.a]1.2.3.4/80", 7, "is empty"},
        {"tcp://[a.]1.2.3.4/80", 9, "is empty"},
        {"tcp://[-a]1.2.3.4/80", 7, "begins or ends"},
        {"tcp://[a-.b]1.2.3.4/80", 8, "begins or ends"},
        {"tcp://[\xc3\xa4]1.2.3.4/80", 7, "letters, digits"},
        {"tcp://[[::1]]:80", 7, "cannot be in an IPv6"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct uri_error err = {.at = 9999};
        endpoint ep, before;
        char host[8] = "before";
        memset(&ep, 0x5a, sizeof ep);
        before = ep;
        int rc = uri_parse(rows[i].uri, false, &ep, host, sizeof host, &err);
        int want = strstr(rows[i].part, "not offered yet") ? BERTH_E_UNSUPPORTED : BERTH_E_URI;
        check(rc == want, "'%s' gave %d", rows[i].uri, rc);
        check(err.at == rows[i].at, "'%s': error at %zu, not %zu: %s", rows[i].uri, err.at, rows[i].at,
              err.text);
        check(strstr(err.text, rows[i].part), "'%s' says: %s", rows[i].uri, err.text);
        check(!memcmp(&ep, &before, sizeof ep) && !strcmp(host, "before"), "'%s' touched an output",
              rows[i].uri);
    }
}

static void port_zero_is_for_listeners(void **state)
{
    endpoint ep;
    struct uri_error err;
    assert_int_equal(uri_parse("tcp://127.0.0.1:0", true, &ep, NULL, 0, &err), 0);
    assert_int_equal(ep.port, 0);
    assert_int_equal(uri_parse("tcp://::/0", true, &ep, NULL, 0, &err), 0);
    assert_int_equal(uri_parse("tcp://127.0.0.1:00", true, &ep, NULL, 0, &err), BERTH_E_URI);
    assert_int_equal(uri_parse("tcp://127.0.0.1:0", false, &ep, NULL, 0, &err), BERTH_E_URI);
}

static void arguments(void **state)
{
    endpoint ep;
    struct uri_error err;
    char host[4];
    assert_int_equal(uri_parse(NULL, false, &ep, NULL, 0, &err), BERTH_E_INVALID);
    assert_int_equal(uri_parse("tcp://1.2.3.4:5", false, NULL, NULL, 0, &err), BERTH_E_INVALID);
    assert_int_equal(uri_parse("x", false, &ep, NULL, 0, NULL), BERTH_E_URI);
    assert_int_equal(uri_parse("tcp://[abc]1.2.3.4/5", false, &ep, host, sizeof host, &err), 0);
    assert_string_equal(host, "abc");
    assert_int_equal(uri_parse("tcp://[abcd]1.2.3.4/5", false, &ep, host, sizeof host, &err), BERTH_E_URI);
    assert_int_equal(err.at, 7);
    assert_int_equal(uri_parse("tcp://[abcd]1.2.3.4/5", false, &ep, NULL, 0, &err), 0);
}

static void long_names(void **state)
{
    char uri[600], host[300];
    endpoint ep;
    struct uri_error err;
    (void)snprintf(uri, sizeof uri, "tcp://[%063d]1.2.3.4/5", 1);
    assert_int_equal(uri_parse(uri, false, &ep, host, sizeof host, &err), 0);
    (void)snprintf(uri, sizeof uri, "tcp://[%064d]1.2.3.4/5", 1);
    assert_int_equal(uri_parse(uri, false, &ep, host, sizeof host, &err), BERTH_E_URI);
    assert_int_equal(err.at, 7 + 63);
    (void)snprintf(uri, sizeof uri, "tcp://[%063d.%063d.%063d.%061d]1.2.3.4/5", 1, 1, 1, 1);
    assert_int_equal(uri_parse(uri, false, &ep, host, sizeof host, &err), 0);
    assert_int_equal(strlen(host), 253);
    (void)snprintf(uri, sizeof uri, "tcp://[%063d.%063d.%063d.%062d]1.2.3.4/5", 1, 1, 1, 1);
    assert_int_equal(uri_parse(uri, false, &ep, host, sizeof host, &err), BERTH_E_URI);
    assert_int_equal(err.at, 7 + 253);
}

static void no_state_between_calls(void **state)
{
    endpoint a, b;
    char host[16] = "x";
    assert_int_equal(uri_parse("tcp://[name]1.2.3.4/5", false, &a, host, sizeof host, NULL), 0);
    assert_int_equal(uri_parse("tcp://9.9.9.9:9", false, &b, host, sizeof host, NULL), 0);
    assert_string_equal(host, "");
    assert_int_equal(a.port, 5);
    assert_int_equal(b.port, 9);
}

static void caret_is_under_the_place(void **state)
{
    static const char *const uris[] = {"tcp://1.2.3.4:99999", "", "x", "tcp://\x1b[31m\xff:80",
                                       "tcp://1.2.3.4:80\n"};
    char out[512], uri[1000];
    for (size_t i = 0; i < 5; i++) {
        endpoint ep;
        struct uri_error err;
        assert_int_equal(uri_parse(uris[i], false, &ep, NULL, 0, &err), BERTH_E_URI);
        uri_error_format(uris[i], &err, out, sizeof out);
        const char *caret_line = strrchr(out, '\n') + 1;
        check(strlen(caret_line) == 2 + err.at + 1, "caret in: %s", out);
        for (const char *c = out; *c; c++)
            check((*c >= ' ' && *c <= '~') || *c == '\n', "a raw byte %02x got out", (unsigned char)*c);
    }
    /* a long one is shown around the place */
    memset(uri, 'a', sizeof uri - 1);
    uri[sizeof uri - 1] = 0;
    memcpy(uri, "tcp://[", 7);
    uri[900] = ']';
    endpoint ep;
    struct uri_error err;
    assert_int_equal(uri_parse(uri, false, &ep, NULL, 0, &err), BERTH_E_URI);
    uri_error_format(uri, &err, out, sizeof out);
    assert_true(strlen(out) < 400);
    uri_error_format(uri, &err, out, 10);
    assert_int_equal(strlen(out), 9);
    out[0] = 'q';
    uri_error_format(uri, &err, out, 0);
    assert_int_equal(out[0], 'q');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_uris),
        cmocka_unit_test(bad_uris),
        cmocka_unit_test(port_zero_is_for_listeners),
        cmocka_unit_test(arguments),
        cmocka_unit_test(long_names),
        cmocka_unit_test(no_state_between_calls),
        cmocka_unit_test(caret_is_under_the_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
