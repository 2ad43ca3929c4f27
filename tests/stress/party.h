/* party.h - what the processes of these programs begin with: chance, failure, sessions, and the far side. */
#ifndef BERTH_TESTS_PARTY_H
#define BERTH_TESTS_PARTY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "../slowness.h"
#include "berth/berth.h"

#define SEC 1000000000ll
#define MS 1000000ll
#define PATIENCE longer(20 * SEC) /* whatever takes longer has failed: a wake-up was lost */

extern const char *role; /* who speaks when something is wrong */
extern uint64_t seed;
extern char uri[64]; /* where the last listener is */

uint64_t next_random(uint64_t *state);          /* state is not 0 */
uint8_t byte_at(uint64_t key, uint64_t offset); /* of the stream with that key */
/* ns; of CLOCK_THREAD_CPUTIME_ID, CLOCK_PROCESS_CPUTIME_ID too */
int64_t time_of(clockid_t clock);
int64_t now(void);
void pause_ms(long ms);

/* A sentence, with the code's own when it is negative, and the end of the process. */
__attribute__((noreturn, format(printf, 2, 3))) void fail(long code, const char *format, ...);
void expect(long code, const char *what); /* not negative */

int enter(const char *name); /* attaches, if it can be done */

/* All of these must succeed. */
void attach(const char *name);
berth_listener listen_here(uint32_t backlog); /* at a free port; sets uri */
berth_session dial(void);                     /* uri */
berth_session take(berth_listener l);
void put_all(berth_session s, const void *buf, size_t n);
void get_all(berth_session s, void *buf, size_t n);
void expect_end(berth_session s);

/* A process of this app or, before anybody attached, of another. */
pid_t start(void (*what)(void *), void *arg);
void reap(pid_t pid, const char *what); /* it must end with 0 */

/* Another app, which listens at uri, then serves. It is killed when this process ends. */
pid_t far_side(void (*serve)(berth_listener));

#endif
