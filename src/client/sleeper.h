/* sleeper.h - how a thread of this process sleeps, and who of them hears what the process must hear. */
#ifndef BERTH_CLIENT_SLEEPER_H
#define BERTH_CLIENT_SLEEPER_H

#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

#include "base/sleep.h"
#include "client/state.h"

/* One blocked call. `mark` is taken when it begins: a handler of the program that has run since ends each
 * sleep at once. */
struct sleeper {
    struct sleep_mark mark;
    int64_t deadline;
    const sigset_t *mask;     /* signals blocked while it sleeps, NULL: as they are */
    void (*leave)(void *arg); /* the thread may never come back: it is cancelled, or a handler runs. NULL:
                                 nothing was set up */
    void (*back)(void *arg);  /* the handler has returned. NULL: what was undone stays so */
    void *arg;
};

/* Has the daemon sent something since its socket was last emptied? No system call. */
bool sleeper_news(void);
/* Works off what the daemon and the peers have sent, if anything; costs nothing else. */
void sleeper_glance(void);
/* Before a sleep: does what is due, says that somebody falls asleep. How long the sleep may last, ns; -1: as
 * long as it likes; 0: there is something to look at first. The caller arms before this, or looks once more
 * after it. */
int64_t sleeper_prepare(const struct sleeper *sl);
/* as if somebody fell asleep: the next event wakes whoever sleeps, what has come wakes them now */
void sleeper_again(void);
/* For who leaves a set that others sleep on, too, and has perhaps taken their edge with it: what had woken it
 * wakes them. */
void sleeper_pass_on(void);
bool sleeper_over(const struct sleeper *sl); /* its deadline has passed */

/* Sleeps; each a cancellation point, each returns what the kernel returns, or -EINTR. The caller is in a hold
 * (base/hold.h), which is open while it sleeps. */
long sleeper_epoll(struct sleeper *sl, int ep, struct epoll_event *ev, int max, int64_t ns);
long sleeper_poll(struct sleeper *sl, struct pollfd *fds, int n, int64_t ns);
/* On words of memory: v with room for SLEEPER_WORDS more. Who is the first of the process to sleep hears what
 * all must hear. */
#define SLEEPER_WORDS 3
long sleeper_words(struct sleeper *sl, struct futex_waitv *v, int n);
#define DOZE_NS (100 * NS_PER_MS)
long sleeper_doze(struct sleeper *sl, const uint32_t *word, uint32_t is,
                  int64_t ns); /* on one word, for so long at most */
struct futex_waitv sleeper_word(const uint32_t *word, uint32_t is, bool shared);
bool sleeper_has_words(void); /* does the kernel let us sleep on several? */

/* An epoll set for the calling thread with the bell and what concerns every sleeper in it, until ep_give; -1:
 * no descriptor. */
int ep_take(void);
void ep_give(int ep);
void eps_close(void);     /* when nobody sleeps: at the end, and in a forked child */
void sleepers_anew(void); /* this process has another bell and control socket: all look again */
/* Puts the two into a set, edge-triggered, with that data. Who takes an event of the inner set must call
 * control_told. */
bool sleeper_wire(int ep, uint64_t bell, uint64_t inner);
#define EP_INNER 1u    /* the inner set's data in those of ep_take, the bell's is 0 */
#define EP_SET 2u      /* what an event set sleeps on, in one that a poll has taken */
void ep_empty(int ep); /* takes what is there, and works it off; the bell's edges are forgotten */

/* Waits for what was asked of the daemon, not longer than it should take: false, it is not here. When the
 * daemon was late it is not waited for again until it has said something. */
bool fetch_wait(bool (*here)(void *arg), void *arg);

int64_t wait_cap(int64_t deadline);
struct timespec *timespec_of(int64_t ns, struct timespec *ts); /* NULL for -1 */

#endif
