/* endpoint.h - where a session begins or ends: protocol, address, port. IPv4 is kept as ::ffff:a.b.c.d. */
#ifndef BERTH_SESSION_ENDPOINT_H
#define BERTH_SESSION_ENDPOINT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/result.h"
#include "berth/berth.h"

/* The public type is the internal one: 16 bytes of address, port in host order, protocol, family as asked
 * for. */
typedef struct berth_endpoint endpoint;

void endpoint_from_v4(endpoint *out, uint32_t addr_host_order, uint16_t port);
/* From a sockaddr_in or sockaddr_in6 of `len` bytes. 0, BERTH_E_INVALID (too short) or BERTH_E_ADDRESS (other
 * family). An IPv4-mapped sockaddr_in6 keeps family 6 and the mapped address. */
must_use int endpoint_from_sockaddr(endpoint *out, const struct sockaddr *sa, socklen_t len);
/* As a sockaddr of the endpoint's own family; returns its length. */
socklen_t endpoint_to_sockaddr(const endpoint *ep, struct sockaddr_storage *out);
bool endpoint_is_v4(const uint8_t addr[16]);       /* IPv4 or mapped */
bool endpoint_is_wildcard(const uint8_t addr[16]); /* :: or 0.0.0.0 */
bool endpoint_is_loopback(const uint8_t addr[16]); /* 127/8, ::1 */
bool endpoint_is_multicast(const uint8_t addr[16]);
/* "127.0.0.1:80", "[::1]:80"; always terminated; returns the length it needs without the zero. */
must_use int endpoint_format(const endpoint *ep, char *out, size_t size);

#endif
