/* netaddr.c - the addresses of the daemon's own network namespace, kept current by rtnetlink.
 *
 * A change is a message on the netlink socket; what it says is not parsed, it only makes us read all
 * addresses again.
 */
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/registry.h"
#include "session/directory.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

uint64_t netns_cookie(int sock, bool *ok)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    *ok = getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) == 0;
    return cookie;
}

static bool known(const uint8_t (*list)[16], uint32_t count, const uint8_t addr[16])
{
    for (uint32_t i = 0; i < count; i++) {
        if (!memcmp(list[i], addr, 16))
            return true;
    }
    return false;
}

static void read_addresses(struct daemon *d)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) < 0) {
        log_warn("cannot read this host's addresses: %s", strerror(errno));
        return;
    }
    d->local_count = 0;
    for (struct ifaddrs *it = all; it && d->local_count < DIR_LOCAL_ADDRS; it = it->ifa_next) {
        endpoint ep;
        if (!it->ifa_addr)
            continue;
        socklen_t len = it->ifa_addr->sa_family == AF_INET    ? sizeof(struct sockaddr_in)
                        : it->ifa_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                              : 0;
        if (!len || endpoint_from_sockaddr(&ep, it->ifa_addr, len) || endpoint_is_loopback(ep.addr))
            continue;
        if (!known((const uint8_t(*)[16])d->local, d->local_count, ep.addr))
            memcpy(d->local[d->local_count++], ep.addr, 16);
    }
    freeifaddrs(all);
    list_for_each(&d->spaces, it2, after)
    {
        struct space *space = container_of(it2, struct space, link);
        if (space->netns == d->own_netns) /* it cannot fail: local_count is within DIR_LOCAL_ADDRS */
            (void)directory_set_local(space->directory, (const uint8_t(*)[16])d->local, d->local_count);
    }
}

static void netlink_ready(struct daemon *d, struct watch *w, uint32_t events)
{
    char buf[8192];
    /* an overrun (ENOBUFS) is one more reason to read all again */
    for (int i = 0; i < 64 && (recv(w->fd, buf, sizeof buf, MSG_DONTWAIT) > 0 || errno == ENOBUFS); i++)
        ;
    read_addresses(d);
}

int netaddr_open(struct daemon *d)
{
    bool ok;
    d->local = calloc(DIR_LOCAL_ADDRS, sizeof *d->local);
    if (!d->local)
        return BERTH_E_NO_MEMORY;
    d->netlink.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    d->netlink.ready = netlink_ready;
    if (d->netlink.fd >= 0) {
        struct sockaddr_nl sa = {.nl_family = AF_NETLINK,
                                 .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
        d->own_netns = netns_cookie(d->netlink.fd, &ok);
        if (bind(d->netlink.fd, (struct sockaddr *)&sa, sizeof sa) < 0 || watch_add(d, &d->netlink, EPOLLIN))
            log_warn("changes of this host's addresses will not be seen: %s", strerror(errno));
    } else {
        log_warn("no netlink socket: changes of this host's addresses will not be seen: %s", strerror(errno));
    }
    read_addresses(d);
    return 0;
}

void netaddr_close(struct daemon *d)
{
    if (d->netlink.fd >= 0) {
        watch_remove(d, &d->netlink);
        close(d->netlink.fd);
    }
    free(d->local);
    d->local = NULL;
}
