/* ports.c - ephemeral ports, leased in blocks (RFC 6056).
 *
 * Theory of operation
 *
 * A worker leases a block of consecutive ports of one local address at a random place (RFC 6056 3.3.1, by
 * blocks: the worker itself picks at random inside its block), and numbers its connects without asking again.
 * All of 127/8 counts as one address, so that no two leases can meet whichever of them a session uses. Ports
 * that the kernel itself gives to connects (net.ipv4.ip_local_port_range) and ports with a listener are left
 * out.
 *
 * A lease is held by who asked and by what that forked. When the last holder is dead, sessions of it may
 * still be visible at their peers; the lease stays until the shadow of its first holder goes, which is when
 * nothing of its outboxes is wanted any more.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/registry.h"
#include "session/endpoint.h"

#define PORT_FIRST 10240u
#define PORTS 65536u
#define POOLS_MAX 512u   /* per space */
#define LEASES_MAX 1024u /* per worker */
#define LEASE_LONGEST 1024u

static bool bit(const uint8_t *map, uint32_t i)
{
    return map[i / 8] >> i % 8 & 1;
}

static void bits_set(uint8_t *map, uint32_t first, uint32_t count, bool on)
{
    for (uint32_t i = first; i < first + count; i++)
        map[i / 8] = (uint8_t)(on ? map[i / 8] | 1u << i % 8 : map[i / 8] & ~(1u << i % 8));
}

static void pool_address(const uint8_t addr[16], uint8_t out[16])
{
    memcpy(out, addr, 16);
    if (endpoint_is_v4(addr) && endpoint_is_loopback(addr))
        memcpy(out + 12, "\x7f\0\0\1", 4);
}

static struct pool *pool_find(const struct space *space, const uint8_t addr[16])
{
    uint8_t key[16];
    pool_address(addr, key);
    list_for_each(&space->pools, it, after)
    {
        struct pool *pool = container_of(it, struct pool, link);
        if (!memcmp(pool->addr, key, 16))
            return pool;
    }
    return NULL;
}

static int pool_get(struct space *space, const uint8_t addr[16], struct pool **out)
{
    struct pool *pool = pool_find(space, addr);
    if (!pool) {
        if (space->pool_count >= POOLS_MAX)
            return BERTH_E_LIMIT;
        pool = calloc(1, sizeof *pool);
        if (!pool)
            return BERTH_E_NO_MEMORY;
        pool_address(addr, pool->addr);
        list_init(&pool->leases);
        list_append(&space->pools, &pool->link);
        space->pool_count++;
    }
    *out = pool;
    return 0;
}

/* What cannot be given: below the first, the kernel's own, what is leased, what is listened at. */
static void unavailable(const struct space *space, const struct pool *pool, uint8_t *map)
{
    unsigned low = 32768, high = 60999;
    FILE *f = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    if (f) {
        if (fscanf(f, "%u %u", &low, &high) != 2 || low > high || high >= PORTS)
            low = 32768, high = 60999;
        fclose(f);
    }
    if (pool)
        memcpy(map, pool->taken, sizeof pool->taken);
    else
        memset(map, 0, PORTS / 8);
    memset(map, 0xff, PORT_FIRST / 8);
    bits_set(map, low, high - low + 1, true);
    list_for_each(&space->listeners, it, after)
        bits_set(map, container_of(it, struct listener, link)->entry.port, 1, true);
}

static uint32_t random_below(uint32_t limit)
{
    uint32_t r;
    if (getrandom(&r, sizeof r, GRND_NONBLOCK) != (ssize_t)sizeof r)
        r = (uint32_t)random();
    return (uint32_t)((uint64_t)r * limit >> 32);
}

/* A random one of the free ports: one of all ports would make the first after the kernel's own range a
 * favourite.
 */
static uint32_t random_free(const uint8_t *map)
{
    uint32_t unset = 0;
    for (uint32_t p = PORT_FIRST; p < PORTS; p++)
        unset += !bit(map, p);
    uint32_t nth = random_below(unset);
    for (uint32_t p = PORT_FIRST; p < PORTS; p++) {
        if (!bit(map, p) && !nth--)
            return p;
    }
    return PORT_FIRST;
}

/* The first run of `count` free ports at or after a random place, then from the beginning. 0: none. */
static uint32_t find_run(const uint8_t *map, uint32_t count)
{
    uint32_t start = random_free(map);
    for (int pass = 0; pass < 2; pass++) {
        uint32_t run = 0, end = pass ? start + count : PORTS;
        if (end > PORTS)
            end = PORTS;
        for (uint32_t p = pass ? PORT_FIRST : start; p < end; p++) {
            run = bit(map, p) ? 0 : run + 1;
            if (run == count)
                return p + 1 - count;
        }
    }
    return 0;
}

int ports_find_free(struct daemon *d, const struct space *space, const uint8_t addr[16], uint16_t *port)
{
    uint8_t map[PORTS / 8], *leased;
    unavailable(space, NULL, map);
    /* no address' leases are stepped on, since the listener may be a wildcard */
    list_for_each(&space->pools, it, after)
    {
        leased = container_of(it, struct pool, link)->taken;
        for (uint32_t i = 0; i < PORTS / 8; i++)
            map[i] |= leased[i];
    }
    uint32_t found = find_run(map, 1);
    if (!found)
        return BERTH_E_LIMIT;
    *port = (uint16_t)found;
    return 0;
}

/* ---- leases ---- */

static void lease_free(struct lease *lease)
{
    bits_set(lease->pool->taken, lease->first, lease->count, false);
    list_unlink(&lease->link);
    if (lease->maker)
        (void)ptrset_remove(&lease->maker->made_leases, lease);
    ptrset_free(&lease->holders);
    free(lease);
}

void lease_let_go(struct daemon *d, struct lease *lease, struct worker *w)
{
    (void)ptrset_remove(&lease->holders, w);
    if (!lease->holders.count && !lease->maker)
        lease_free(lease);
}

void lease_maker_gone(struct daemon *d, struct lease *lease)
{
    lease->maker = NULL;
    if (!lease->holders.count)
        lease_free(lease);
}

void pools_free(struct space *space)
{
    list_for_each(&space->pools, it, after)
    {
        struct pool *pool = container_of(it, struct pool, link);
        while (!list_empty(&pool->leases)) {
            struct lease *first = container_of(pool->leases.next, struct lease, link);
            lease_free(first); /* NOLINT(clang-analyzer-*): unlinks */
        }
        list_unlink(&pool->link);
        free(pool);
    }
}

static int lease_create(struct pool *pool, struct worker *w, uint32_t first, uint32_t count)
{
    struct lease *lease = calloc(1, sizeof *lease);
    if (!lease)
        return BERTH_E_NO_MEMORY;
    lease->pool = pool;
    lease->first = (uint16_t)first;
    lease->count = (uint16_t)count;
    if (ptrset_add(&lease->holders, w))
        goto no_holder;
    if (ptrset_add(&w->leases, lease))
        goto no_lease;
    if (ptrset_add(&w->made_leases, lease))
        goto no_made;
    lease->maker = w;
    list_append(&pool->leases, &lease->link);
    bits_set(pool->taken, first, count, true);
    return 0;

no_made:
    (void)ptrset_remove(&w->leases, lease);
no_lease:
    ptrset_free(&lease->holders);
no_holder:
    free(lease);
    return BERTH_E_NO_MEMORY;
}

int handle_ports(struct daemon *d, struct request *r)
{
    const struct ctl_ports *m = &r->msg->ports;
    struct worker *w = r->conn->worker;
    struct space *space = w->app->space;
    struct pool *pool;
    uint8_t map[PORTS / 8];
    if (!m->count || m->count > LEASE_LONGEST)
        return BERTH_E_INVALID;
    if (!space_is_local(space, m->addr))
        return BERTH_E_ADDRESS;
    if (w->leases.count >= LEASES_MAX)
        return BERTH_E_LIMIT;
    int err = pool_get(space, m->addr, &pool);
    if (err)
        return err;
    unavailable(space, pool, map);
    uint32_t first = find_run(map, m->count);
    if (!first) { /* shadows may hold ports that nobody needs any more */
        outbox_sweep(d);
        unavailable(space, pool, map);
        first = find_run(map, m->count);
    }
    err = first ? lease_create(pool, w, first, m->count) : BERTH_E_LIMIT;
    if (err)
        return err;
    struct ctl_ports reply = {.h = {.type = CTL_PORTS_ARE, .len = sizeof reply, .seq = r->seq},
                              .first = (uint16_t)first,
                              .count = m->count};
    memcpy(reply.addr, m->addr, 16);
    conn_send(d, r->conn, &reply, sizeof reply, NULL, 0);
    return 0;
}

int handle_return_ports(struct daemon *d, struct request *r)
{
    const struct ctl_ports *m = &r->msg->ports;
    struct worker *w = r->conn->worker;
    const struct pool *pool = pool_find(w->app->space, m->addr);
    for (uint32_t i = 0; pool && i < w->leases.count; i++) {
        struct lease *lease = w->leases.item[i];
        if (lease->pool != pool || lease->first != m->first || lease->count != m->count)
            continue;
        (void)ptrset_remove(&w->leases, lease);
        (void)ptrset_remove(&lease->holders, w);
        if (!lease->holders.count &&
            (!lease->maker || lease->maker->conn)) /* a shadow may have sessions there still */
            lease_free(lease);
        return 0;
    }
    log_debug("pid %d gives back ports that it does not hold", (int)r->conn->pid);
    return 0;
}
