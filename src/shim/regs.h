/* regs.h - what the program has put into an epoll set: one registration for each descriptor and set. See
 * epoll.c. */
#ifndef BERTH_SHIM_REGS_H
#define BERTH_SHIM_REGS_H

#include <sys/epoll.h>

#include "shim/shim.h"

struct reg {
    struct reg *next_of_sock, **prev_of_sock;
    struct reg *next_of_set, **prev_of_set;
    struct reg *next_shot, **prev_shot; /* prev_shot NULL: not in that list */
    struct sock *sock, *ep;
    int fd;
    uint32_t made; /* after so many forks of this process's ancestors; 0: by a relative */
    struct epoll_event event;
    bool in_kernel, in_set;
    bool shot;         /* one shot, in both worlds: it has fired, and was told */
    uint32_t owed;     /* what the other world has fired beside that, and is still to be dropped */
    uint64_t armed_at; /* drops only what a wait brings that began before it was armed again; UINT64_MAX: it
                          is not */
};

/* All but shots_take: under the shim's lock. */
void shot_load(struct reg *r); /* it is (or is no more) armed, in the worlds where it is now */
void shot_unlink(struct reg *r);
uint64_t shots_now(void); /* before a wait */
/* Drops from what a wait has brought, which began at `since`, whatever the other world has told already. How
 * many events are left; takes the shim's lock if there is any one shot in both worlds. */
int shots_take(const struct evset *set, uint64_t since, struct epoll_event *out, int n);

#endif
