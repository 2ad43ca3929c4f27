/* protocols.h - the scenarios, and what they share. */
#ifndef BERTH_TESTS_PROTOCOLS_H
#define BERTH_TESTS_PROTOCOLS_H

#include "../party.h"

extern int rounds; /* 0: the scenario's own number */

/* ---- ways to wait ---- */

enum way { BLOCKING, LEVEL, EDGE, WAYS };
extern enum way way;

struct waiter {
    berth_waitset *set;
    berth_session s;
};

struct waiter waiter_make(berth_session s, uint32_t events);
ssize_t read_some(struct waiter *w, void *buf, size_t n);
ssize_t write_some(struct waiter *w, const void *buf, size_t n);

/* ---- marked bytes: who, and how many before ---- */

void write_marked(struct waiter *w, unsigned who, uint64_t *count, uint64_t total, uint64_t *r, size_t most);
/* restarts: a new writer may take the other's place, and begins at 0 */
void check_marked(const uint8_t *buf, size_t n, uint64_t count[2], int restarts);

/* ---- echoes ---- */

void far_echo(berth_listener l); /* one session after the other */
void far_echo_threads(berth_listener l);
void ask_echo(struct waiter *w, uint64_t *r, int times);

/* ---- the scenarios ---- */

void one_thread(void);
void parent_waits_for_client(void);
void prefork(void);
void prefork_killed(void);
void fork_two_directions(void);
void fork_same_direction(void);
void fork_killed(void);
void daemonize(void);
void growth(void);
void child_leaves(void);
void fork_per_session(void);
void fork_meanwhile(void);
void forks_among_users(void);
void not_owner(void);
void late_word(void);
void twins(void);
void heir_of_an_offer(void);
void sibling_hears(void);
void ring_swap(void);
void fin_races(void);
void waiters(void);
void two_sets(void);
void one_word(void);
void fault(void);
void event_killed(void);

#endif
