/* endpoint_test.c - addresses to and from sockaddrs and text. */
#include "check.h"

#include <arpa/inet.h>
#include <string.h>

#include "session/endpoint.h"

static struct sockaddr_in v4(const char *addr, uint16_t port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET, addr, &in.sin_addr), 1);
    return in;
}

static struct sockaddr_in6 v6(const char *addr, uint16_t port)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET6, addr, &in6.sin6_addr), 1);
    return in6;
}

static void v4_goes_there_and_back(void **state)
{
    struct sockaddr_in in = v4("10.1.2.3", 65535);
    endpoint ep;
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(ep.family, 4);
    assert_int_equal(ep.port, 65535);
    assert_int_equal(ep.proto, BERTH_PROTO_TCP);
    assert_true(endpoint_is_v4(ep.addr));
    struct sockaddr_storage back;
    assert_int_equal(endpoint_to_sockaddr(&ep, &back), sizeof in);
    assert_memory_equal(&back, &in, sizeof in);

    endpoint direct;
    endpoint_from_v4(&direct, 0x0a010203, 65535);
    assert_memory_equal(&direct, &ep, sizeof ep);
}

static void v6_goes_there_and_back(void **state)
{
    static const char *const addrs[] = {"::1", "2001:db8::1", "::", "::ffff:1.2.3.4"};
    for (size_t i = 0; i < 4; i++) {
        struct sockaddr_in6 in6 = v6(addrs[i], 80);
        endpoint ep;
        assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in6, sizeof in6), 0);
        assert_int_equal(ep.family, 6);
        struct sockaddr_storage back;
        assert_int_equal(endpoint_to_sockaddr(&ep, &back), sizeof in6);
        assert_memory_equal(&back, &in6, sizeof in6);
    }
}

static void mapped_keeps_the_family_it_came_with(void **state)
{
    struct sockaddr_in6 in6 = v6("::ffff:127.0.0.1", 80);
    struct sockaddr_in in = v4("127.0.0.1", 80);
    endpoint six, four;
    assert_int_equal(endpoint_from_sockaddr(&six, (struct sockaddr *)&in6, sizeof in6), 0);
    assert_int_equal(endpoint_from_sockaddr(&four, (struct sockaddr *)&in, sizeof in), 0);
    assert_memory_equal(six.addr, four.addr, 16);
    assert_int_equal(six.family, 6);
    assert_int_equal(four.family, 4);
}

static void short_and_foreign_sockaddrs_are_refused(void **state)
{
    struct sockaddr_in in = v4("1.2.3.4", 5);
    struct sockaddr_in6 in6 = v6("::1", 5);
    struct sockaddr un = {.sa_family = AF_UNIX};
    endpoint ep, before;
    memset(&ep, 0x5a, sizeof ep);
    before = ep;
    assert_int_equal(endpoint_from_sockaddr(&ep, NULL, 16), BERTH_E_INVALID);
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in, 0), BERTH_E_INVALID);
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in, 1), BERTH_E_INVALID);
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in, sizeof in - 1), BERTH_E_INVALID);
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in6, 23), BERTH_E_INVALID);
    assert_int_equal(endpoint_from_sockaddr(&ep, &un, sizeof un), BERTH_E_ADDRESS);
    assert_memory_equal(&ep, &before, sizeof ep);
    /* without scope id: RFC 2133 */
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in6, 24), 0);
}

static void classes(void **state)
{
    static const struct {
        const char *addr;
        bool v4, wildcard, loopback, multicast;
    } rows[] = {
        {"::", false, true, false, false},
        {"::1", false, false, true, false},
        {"::2", false, false, false, false},
        {"::ffff:0.0.0.0", true, true, false, false},
        {"::ffff:127.0.0.1", true, false, true, false},
        {"::ffff:127.255.255.255", true, false, true, false},
        {"::ffff:126.255.255.255", true, false, false, false},
        {"::ffff:128.0.0.0", true, false, false, false},
        {"::ffff:224.0.0.1", true, false, false, true},
        {"::ffff:239.255.255.255", true, false, false, true},
        {"::ffff:240.0.0.1", true, false, false, false},
        {"::ffff:255.255.255.255", true, false, false, false},
        {"ff02::1", false, false, false, true},
        {"fe80::1", false, false, false, false},
        {"::fffe:127.0.0.1", false, false, false, false},
        {"::127.0.0.1", false, false, false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sockaddr_in6 in6 = v6(rows[i].addr, 0);
        const uint8_t *a = in6.sin6_addr.s6_addr;
        check(endpoint_is_v4(a) == rows[i].v4, "%s: IPv4", rows[i].addr);
        check(endpoint_is_wildcard(a) == rows[i].wildcard, "%s: wildcard", rows[i].addr);
        check(endpoint_is_loopback(a) == rows[i].loopback, "%s: loopback", rows[i].addr);
        check(endpoint_is_multicast(a) == rows[i].multicast, "%s: multicast", rows[i].addr);
    }
}

static void format(void **state)
{
    char text[64];
    endpoint ep;
    endpoint_from_v4(&ep, 0x7f000001, 80);
    assert_int_equal(endpoint_format(&ep, text, sizeof text), 12);
    assert_string_equal(text, "127.0.0.1:80");
    struct sockaddr_in6 in6 = v6("::1", 65535);
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in6, sizeof in6), 0);
    assert_int_equal(endpoint_format(&ep, text, sizeof text), 11);
    assert_string_equal(text, "[::1]:65535");
    in6 = v6("::ffff:1.2.3.4", 1);
    assert_int_equal(endpoint_from_sockaddr(&ep, (struct sockaddr *)&in6, sizeof in6), 0);
    assert_int_equal(endpoint_format(&ep, text, sizeof text), 18);
    assert_string_equal(text, "[::ffff:1.2.3.4]:1");

    memset(text, 'x', sizeof text);
    assert_int_equal(endpoint_format(&ep, text, 5), 18);
    assert_string_equal(text, "[::f");
    assert_int_equal(endpoint_format(&ep, NULL, 0), 18);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(v4_goes_there_and_back),
        cmocka_unit_test(v6_goes_there_and_back),
        cmocka_unit_test(mapped_keeps_the_family_it_came_with),
        cmocka_unit_test(short_and_foreign_sockaddrs_are_refused),
        cmocka_unit_test(classes),
        cmocka_unit_test(format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
