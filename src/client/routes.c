/* routes.c - the listeners that we were introduced to. */
#include "client/routes.h"

#include <sys/ioctl.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/ports.h"

struct route *route_find(uint32_t listener)
{
    for (struct route *r = C->routes; r; r = r->next) {
        if (r->listener == listener)
            return r;
    }
    return NULL;
}

void route_waiting(struct session *s, int by)
{
    plock_take(&C->lock);
    struct route *r = route_find(s->listener);
    if (r)
        r->waiting += (uint32_t)by;
    plock_release(&C->lock);
}

bool route_full_of_ours(uint32_t listener)
{
    int bytes = 0;
    plock_take(&C->lock);
    const struct route *r = route_find(listener);
    bool full = r && sys_call(SYS_ioctl, (long)r->token_fd, (long)FIONREAD, &bytes, 0L) == 0 &&
                (uint32_t)bytes / sizeof(struct token) >= r->waiting;
    plock_release(&C->lock);
    return full;
}

void route_drop(struct route *r)
{
    for (struct route **p = &C->routes; *p; p = &(*p)->next) {
        if (*p == r) {
            *p = r->next;
            break;
        }
    }
    own_fd_close(r->token_fd);
    ports_listener_gone(r->listener);
    memory_put(r, sizeof *r);
    store_relaxed(&C->own_loose, 1);
}

bool route_has_box(const struct own_box *box)
{
    for (const struct route *r = C->routes; r; r = r->next) {
        if (r->box == box)
            return true;
    }
    return false;
}

void route_gone(uint32_t listener)
{
    plock_take(&C->lock);
    struct route *r = route_find(listener);
    if (r)
        route_drop(r);
    plock_release(&C->lock);
}

void routes_drop_box(const struct own_box *box)
{
    for (struct route *r = C->routes, *next; r; r = next) {
        next = r->next;
        if (r->box == box)
            route_drop(r);
    }
}

void routes_forget(void)
{
    while (C->routes)
        route_drop(C->routes);
}
