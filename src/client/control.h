/* control.h - the worker's connection to the daemon: what is sent, what is answered, what comes of its own
 * accord. */
#ifndef BERTH_CLIENT_CONTROL_H
#define BERTH_CLIENT_CONTROL_H

#include "base/result.h"
#include "client/state.h"

struct push {
    struct push *next;
    bool lost; /* its descriptors found no room in the process's table */
    int nfds;
    int fds[CTL_FDS_MAX];
    int len;
    uint8_t data[CTL_MAX] __attribute__((aligned(8))); /* read as any message */
};

struct control_ask { /* a question that waits for its answer */
    uint32_t seq;
    uint16_t type; /* the answer's */
    int64_t deadline;
    struct push *reply;
    struct control_ask *next;
};

/* Asks, and waits for the answer: TIMED_OUT at once while the daemon is slow. No lock is held but such as
 * nobody else waits for long. */
must_use int control_request(void *msg, const int *fds, int nfds, void *reply, size_t reply_size, int *rfds,
                             int *nrfds);
/* The same in two steps: the first never waits, and may be taken under any lock; where it is 0 the second
 * must follow. */
must_use int control_ask(struct control_ask *a, void *msg, const int *fds, int nfds);
/* Until the answer is there, or what control_answer would say; as often as the caller likes, who may look once more
 * after the deadline. control_answer follows, for it is still asked. */
must_use int control_await(struct control_ask *a);
must_use int control_answer(struct control_ask *a, void *reply, size_t reply_size, int *rfds, int *nrfds);
void control_unask(struct control_ask *a); /* its answer is wanted no more; instead of control_answer */
bool daemon_is_slow(void);                 /* it was late, and has said nothing since */
void daemon_was_slow(void);
void daemon_has_answered(
    void); /* the word that tells of it is another one now: what was noted of it means nothing */
/* No reply is waited for, and nothing else: what the socket does not take is kept, with copies of the
 * descriptors, and sent later in order. */
must_use int control_send(void *msg, const int *fds, int nfds);
bool control_unsent(void);       /* something is kept so */
void control_flush(void);        /* as much of it as can be sent now */
void control_receive(void);      /* takes what the daemon sent, if anything, onto the list of pushes */
extern struct plock pushes_lock; /* of that list, and of those who wait for an answer */
bool control_pushed(void);       /* is anything on it? */
bool control_news(void); /* has the daemon sent something since its socket was last emptied? No system call */
struct push *control_push_take(void); /* the oldest; memory_put gives it back. NULL: none */
void control_pushes_forget(void);     /* of a daemon that this process has done with */
uint32_t control_async_seq(void);     /* for a question whose answer is a push; no request has it */
void control_take_over(int fd); /* in a forked child: its own connection, in the place of its parent's */
void control_forget(void);      /* in a forked child: what the daemon told the parent */
bool control_asking(void);      /* does a thread wait for an answer? */

#endif
