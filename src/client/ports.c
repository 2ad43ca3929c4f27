/* ports.c - ephemeral ports for what we connect: leased from the daemon in blocks, handed out at random (RFC
 * 6056), each once towards every destination. The daemon gives no port to two processes while one of them, or
 * a session of its, lives. */
#include <string.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/family.h"
#include "client/ports.h"

/* Leased ports are this process's alone, so that each of them may be in use once towards every destination,
 * as on the kernel: what must be unique is the pair of endpoints. */

#define PORTS_FIRST_LEASE 16u
#define PORTS_LONGEST_LEASE 1024u
#define LEASES_PER_SOURCE 256u

struct source { /* what is leased for one local address, all of 127/8 being one */
    uint8_t addr[16];
    uint32_t leases, ports;
    struct {
        uint16_t first, count;
    } lease[LEASES_PER_SOURCE];
    struct source *next;
};

struct free_ports { /* towards one destination */
    struct source *source;
    endpoint to;
    uint32_t listener; /* who is there, as far as we were introduced; 0: gone */
    uint32_t leases;   /* how many of the source's leases are counted in */
    uint32_t used;     /* ports that sessions have */
    uint32_t count;
    struct free_ports *next;
    uint16_t port[65536];
};

static struct source *sources;
static struct free_ports *free_lists;

/* At the end, and in a forked child, since they are the parent's. */
void ports_forget(void)
{
    while (free_lists) {
        struct free_ports *next = free_lists->next;
        memory_put(free_lists, sizeof *free_lists);
        free_lists = next;
    }
    while (sources) {
        struct source *next = sources->next;
        memory_put(sources, sizeof *sources);
        sources = next;
    }
}

static struct source *source_for(const uint8_t addr[16])
{
    uint8_t key[16] = {0};
    memcpy(key, addr, 16);
    if (endpoint_is_v4(addr) && endpoint_is_loopback(addr))
        memcpy(key + 12, "\x7f\0\0\1", 4);
    for (struct source *s = sources; s; s = s->next) {
        if (!memcmp(s->addr, key, 16))
            return s;
    }
    struct source *s = memory_get(sizeof *s);
    if (s) {
        memcpy(s->addr, key, 16);
        s->next = sources;
        sources = s;
    }
    return s;
}

static struct free_ports *free_ports_for(const uint8_t addr[16], const endpoint *to)
{
    struct source *source = source_for(addr);
    if (!source)
        return NULL;
    for (struct free_ports **link = &free_lists, *f; (f = *link); link = &f->next) {
        if (f->source == source && f->to.port == to->port && !memcmp(f->to.addr, to->addr, 16)) {
            *link = f->next; /* to the front */
            f->next = free_lists;
            free_lists = f;
            return f;
        }
    }
    struct free_ports *f = memory_get(sizeof *f);
    if (f) {
        f->source = source;
        f->to = *to;
        f->next = free_lists;
        free_lists = f;
    }
    return f;
}

static bool is_lease(const struct ctl_ports *is, uint32_t asked)
{
    return is->first && is->count && is->count <= asked && is->first + is->count <= 65536;
}

static void lease_enter(const uint8_t addr[16], struct ctl_ports *is)
{
    plock_take(&C->lock);
    struct source *s = source_for(addr);
    if (s && s->leases < LEASES_PER_SOURCE) {
        s->lease[s->leases].first = is->first;
        s->lease[s->leases++].count = is->count;
        s->ports += is->count;
    } else { /* others were many, and faster */
        is->h = (struct ctl_header){.type = CTL_RETURN_PORTS, .len = sizeof *is};
        (void)control_send(is, NULL, 0); /* a daemon that has ended has nothing to take back */
    }
    plock_release(&C->lock);
}

/* Leases as many again as there are, so that neither a client with one session takes many nor one with many
 * asks often. Nobody waits for this but the caller: others who need one, too, lease for themselves. */
int ports_lease(const uint8_t addr[16])
{
    plock_take(&C->lock);
    struct source *s = source_for(addr);
    uint32_t count = !s || s->ports < PORTS_FIRST_LEASE ? PORTS_FIRST_LEASE : s->ports;
    int err = !s ? BERTH_E_NO_MEMORY : s->leases == LEASES_PER_SOURCE ? BERTH_E_LIMIT : 0;
    uint8_t key[16] = {0};
    if (s)
        memcpy(key, s->addr, 16);
    plock_release(&C->lock);
    if (err)
        return err;
    if (count > PORTS_LONGEST_LEASE)
        count = PORTS_LONGEST_LEASE;
    struct ctl_ports is;
    do { /* a long run may not be free any more where a short one is */
        struct ctl_ports msg = {.h = {.type = CTL_PORTS, .len = sizeof msg}, .count = (uint16_t)count};
        memcpy(msg.addr, key, 16);
        err = control_request(&msg, NULL, 0, &is, sizeof is, NULL, NULL);
        if (!err && !is_lease(&is, count))
            err = BERTH_E_PROTOCOL;
        count /= 2;
    } while (err == BERTH_E_LIMIT && count >= PORTS_FIRST_LEASE);
    if (!err)
        lease_enter(key, &is);
    return err;
}

bool ports_lease_begin(const uint8_t addr[16], struct ports_ask *a)
{
    struct ctl_ports msg = {.h = {.type = CTL_PORTS, .len = sizeof msg}, .count = PORTS_FIRST_LEASE};
    plock_take(&C->lock);
    struct source *s = source_for(addr);
    bool wanted = s && !s->leases;
    if (wanted) {
        memcpy(a->addr, s->addr, 16);
        memcpy(msg.addr, s->addr, 16);
    }
    plock_release(&C->lock);
    return wanted && control_ask(&a->ask, &msg, NULL, 0) == 0;
}

void ports_lease_end(struct ports_ask *a)
{
    struct ctl_ports is;
    if (control_answer(&a->ask, &is, sizeof is, NULL, NULL) == 0 && is_lease(&is, PORTS_FIRST_LEASE))
        lease_enter(a->addr, &is);
}

/* C->lock is held. */
int ports_take(const uint8_t addr[16], const endpoint *to, uint32_t listener, uint16_t *port)
{
    static uint64_t random; /* xorshift64: which of our own ports is next must be hard to guess, not secret */
    struct free_ports *f = free_ports_for(addr, to);
    if (!f)
        return BERTH_E_NO_MEMORY;
    f->listener = listener;
    if (!random) {
        (void)sys_call(SYS_getrandom, &random, (long)sizeof random, 0L, 0);
        random |= 1;
    }
    if (f->count == 0) {
        if (f->leases == f->source->leases)
            return BERTH_E_WOULD_BLOCK;
        uint32_t first = f->source->lease[f->leases].first, count = f->source->lease[f->leases].count;
        f->leases++;
        for (uint32_t i = 0; i < count && f->count < 65536; i++)
            f->port[f->count++] = (uint16_t)(first + i);
    }
    if (f->count == 0)
        return BERTH_E_LIMIT;
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    uint32_t i = (uint32_t)(random >> 32) % f->count;
    *port = f->port[i];
    f->port[i] = f->port[--f->count];
    f->used++;
    return 0;
}

/* A list is told again from the leases when it is needed, unless a session has a port out of it. */
void ports_listener_gone(uint32_t listener)
{
    for (struct free_ports **link = &free_lists; *link;) {
        struct free_ports *f = *link;
        if (f->listener == listener)
            f->listener = 0;
        if (f->listener || f->used) {
            link = &f->next;
            continue;
        }
        *link = f->next;
        memory_put(f, sizeof *f);
    }
}

/* Else it is a session's that our parent made, and its port one of the parent's. */
static bool is_ours(const struct source *s, uint16_t port)
{
    for (uint32_t i = 0; i < s->leases; i++) {
        if (port >= s->lease[i].first && port - s->lease[i].first < s->lease[i].count)
            return true;
    }
    return false;
}

void ports_release(struct session *s)
{
    if (!s->port_leased)
        return;
    s->port_leased = 0;
    plock_take(&C->lock);
    const struct source *source = source_for(s->local.addr);
    bool ours = source && is_ours(source, s->local.port);
    struct free_ports *f = ours ? free_ports_for(s->local.addr, &s->remote) : NULL;
    if (f && f->used && f->count < 65536) {
        f->port[f->count++] = s->local.port;
        if (--f->used == 0 && !f->listener)
            ports_listener_gone(0);
    }
    plock_release(&C->lock);
}
