/* endpoint.c - addresses as the session layer keeps them.
 *
 * Theory of operation
 *
 * An address is always 16 bytes, IPv4 in its IPv6-mapped form, so that one comparison and one hash serve
 * both. What the mapped form cannot tell is how the program asked: a program that uses AF_INET must get
 * AF_INET sockaddrs back, one that put a mapped address into an AF_INET6 socket must get that. `family`
 * remembers it and decides nothing else.
 */
#include "session/endpoint.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};
static const uint8_t zeroes[16];

void endpoint_from_v4(endpoint *out, uint32_t addr_host_order, uint16_t port)
{
    *out = (endpoint){.port = port, .proto = BERTH_PROTO_TCP, .family = 4};
    uint32_t net = htonl(addr_host_order);
    memcpy(out->addr, mapped_prefix, sizeof mapped_prefix);
    memcpy(out->addr + 12, &net, sizeof net);
}

int endpoint_from_sockaddr(endpoint *out, const struct sockaddr *sa, socklen_t len)
{
    sa_family_t family;
    if (!sa || len < (socklen_t)sizeof family)
        return BERTH_E_INVALID;
    memcpy(&family, sa, sizeof family);
    if (family == AF_INET) {
        struct sockaddr_in in;
        if (len < (socklen_t)sizeof in)
            return BERTH_E_INVALID;
        memcpy(&in, sa, sizeof in);
        endpoint_from_v4(out, ntohl(in.sin_addr.s_addr), ntohs(in.sin_port));
        return 0;
    }
    if (family == AF_INET6) {
        struct sockaddr_in6 in6;
        /* Linux takes one without sin6_scope_id (RFC 2133), 24 bytes */
        if (len < (socklen_t)offsetof(struct sockaddr_in6, sin6_scope_id))
            return BERTH_E_INVALID;
        memset(&in6, 0, sizeof in6);
        memcpy(&in6, sa, (size_t)len < sizeof in6 ? (size_t)len : sizeof in6);
        *out = (endpoint){.port = ntohs(in6.sin6_port), .proto = BERTH_PROTO_TCP, .family = 6};
        memcpy(out->addr, &in6.sin6_addr, 16);
        return 0;
    }
    return BERTH_E_ADDRESS;
}

socklen_t endpoint_to_sockaddr(const endpoint *ep, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (ep->family == 4) {
        struct sockaddr_in *in = (struct sockaddr_in *)out;
        in->sin_family = AF_INET;
        in->sin_port = htons(ep->port);
        memcpy(&in->sin_addr, ep->addr + 12, 4);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(ep->port);
    memcpy(&in6->sin6_addr, ep->addr, 16);
    return sizeof *in6;
}

bool endpoint_is_v4(const uint8_t addr[16])
{
    return !memcmp(addr, mapped_prefix, sizeof mapped_prefix);
}

bool endpoint_is_wildcard(const uint8_t addr[16])
{
    if (endpoint_is_v4(addr))
        return !memcmp(addr + 12, zeroes, 4);
    return !memcmp(addr, zeroes, 16);
}

bool endpoint_is_loopback(const uint8_t addr[16])
{
    if (endpoint_is_v4(addr))
        return addr[12] == 127;
    return !memcmp(addr, zeroes, 15) && addr[15] == 1;
}

bool endpoint_is_multicast(const uint8_t addr[16])
{
    if (endpoint_is_v4(addr))
        return (addr[12] & 0xf0) == 0xe0;
    return addr[0] == 0xff;
}

int endpoint_format(const endpoint *ep, char *out, size_t size)
{
    char text[INET6_ADDRSTRLEN];
    bool plain = ep->family == 4 && endpoint_is_v4(ep->addr);
    if (!inet_ntop(plain ? AF_INET : AF_INET6, plain ? ep->addr + 12 : ep->addr, text, sizeof text))
        text[0] = 0; /* cannot be: the buffer holds the longest */
    return snprintf(out, size, plain ? "%s:%u" : "[%s]:%u", text, (unsigned)ep->port);
}
