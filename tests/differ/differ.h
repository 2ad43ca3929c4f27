/* differ.h - what every case of the differential suite stands on.
 *
 * A case is a function that asks the socket interface something and prints what it saw.
 * tests/e2e/test_differ.py runs each case on the kernel and under berth; the two outputs must be equal. So a
 * case prints only what cannot differ between two runs on the kernel: results, names of errors and events,
 * counts of bytes. No times, ports, pids or descriptor numbers.
 *
 * A new case is one function in the file of its area:
 *
 *     CASE(zero_timeout_sees_data, "poll with timeout 0 after the peer has sent")
 *     {
 *         struct pair p = pair_here();
 *         SAY(send(p.c, "x", 1, 0));
 *         say("poll: %s", polled_soon(p.s, POLLIN));
 *     }
 *
 * and `differ area.zero_timeout_sees_data` runs it. Nothing needs to be closed: a case has a process of its
 * own, and 5 seconds. What waits for another party waits for what that party has done (far_do, asleep), not
 * for a time.
 */
#ifndef DIFFER_H
#define DIFFER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

struct differ_case {
    const char *file, *name, *what;
    int line;
    void (*run)(void);
    struct differ_case *next;
};

void differ_add(struct differ_case *it);

#define CASE(name, what)                                                                                     \
    static void case_##name(void);                                                                           \
    __attribute__((constructor)) static void add_##name(void)                                                \
    {                                                                                                        \
        static struct differ_case self = {__FILE__, #name, what, __LINE__, case_##name, NULL};               \
        differ_add(&self);                                                                                   \
    }                                                                                                        \
    static void case_##name(void)

/* ---- telling (say.c) ---- */

/* A line of output. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* The text, the result and, where it is -1, the error. */
#define SAY(call)                                                                                            \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        long said_ = (long)(call);                                                                           \
        say_result(#call, said_, errno);                                                                     \
    } while (0)
void say_result(const char *text, long result, int error);

/* The texts live until some 30 others were made. */
const char *result_text(long result, int error); /* "5" or "-1 EAGAIN" */
const char *bits(unsigned events);               /* poll's and epoll's: "IN|OUT", "-" for none */

/* ---- looking (look.c); each gives the text of what it saw: "IN|OUT", "-" for nothing, "-1 EINTR" ---- */

const char *polled(int fd, int events, int ms);
const char *selected(int fd, const char *sets, int ms); /* sets: of "rwx"; gives those that were ready */
/* Events by their data: "1:IN 2:IN|OUT", ordered by the data. */
const char *epolled(int ep, int max, int ms);

/* Looks with timeout 0 until all of events are there, for a second at most: readiness that nobody ever tells.
 */
const char *polled_soon(int fd, int events);
const char *selected_soon(int fd, const char *sets);
const char *epolled_soon(int ep); /* until any event is there */

int epoll_with(int fd, unsigned events, int data); /* a new set with one member */
int epoll_op(int ep, int op, int fd, unsigned events, int data);
#define epoll_add(ep, fd, events, data) epoll_op(ep, EPOLL_CTL_ADD, fd, events, data)
#define epoll_mod(ep, fd, events, data) epoll_op(ep, EPOLL_CTL_MOD, fd, events, data)
#define epoll_del(ep, fd) epoll_op(ep, EPOLL_CTL_DEL, fd, 0, 0)

/* Until the condition is true, a second at most, looking each millisecond. Its last value. */
#define SOON(condition)                                                                                      \
    ({                                                                                                       \
        int held_ = 0;                                                                                       \
        for (int look_ = 0; look_ < 1000 && !(held_ = !!(condition)); look_++)                               \
            nap(1);                                                                                          \
        held_;                                                                                               \
    })
void nap(int ms);

/* ---- sockets (net.c) ---- */

extern struct sockaddr_in differ_at; /* where the last listener listens */

int listener(int backlog); /* 127.0.0.1, port 0 */
int dial(void);            /* a blocking socket, connected to differ_at; -1 and errno */
int dial_port(int port);
int begin_dial(void);       /* non-blocking; whatever connect said is ignored */
void begin_connect(int fd); /* the same for one that is there */
int fresh_socket(void);
int bound_socket(void);    /* 127.0.0.1; its port is in differ_at */
int connect_there(int fd); /* to differ_at */
int set_nonblock(int fd, int on);
int set_option(int fd, int option, int value); /* of SOL_SOCKET */
int set_timeout(int fd, int option, int ms);
int option_of(int fd, int option); /* of SOL_SOCKET */
int socket_error(int fd);          /* SO_ERROR, which it takes */
int unread(int fd);                /* FIONREAD */
void reset(int fd);                /* closes with SO_LINGER 0 */

struct pair {
    int l, c, s;
};
struct pair pair_here(void); /* both ends in this process, blocking */
struct pair pair_in(void);   /* the same, for one whose ends have exchanged a byte before */

/* The byte at a place of the stream, so that none can be lost or swapped unseen. */
unsigned char pattern(long at);
long give(int fd, long at, long count);            /* writes that many from there; how many, or -1 */
long take(int fd, long at, long count, int flags); /* reads so many; how many, -1, or -2 for a wrong byte */
long fill(int fd);                                 /* non-blocking writes till EAGAIN; how many bytes */
long send_till_error(int fd);                      /* a byte each: what still goes hides no error */
long drain(int fd, long count);                    /* reads and forgets; how many */

/* ---- the far side (far.c): another process that does what it is told ----
 *
 * Orders are words, several with ';' between; each is answered by its result ("5", "-1 ECONNRESET", "end").
 *     listen · connect PORT · accept · closelistener · nonblock 0|1 · send N · recv N · drain ·
 *     one N (a single non-blocking send of up to N) · readone N (a single blocking recv) ·
 *     shutdown rd|wr|rdwr · close · rst · error (SO_ERROR) · nodelay · rcvbuf N · sndbuf N ·
 *     lowat N · unread · sleep MS · exit · inherited (the listener of far_heir) · receive (one that
 *     far_pass sends) · again (listen, at the listener) · flags (is it non-blocking?) ·
 *     try (accepts if there is anybody) · mine SENT RECEIVED (what it inherited or received is its
 *     connection, on which so much has gone) · exec SENT RECEIVED (executes itself and goes on: "again") ·
 *     option keepalive · peername (its address) ·
 *     readable MS (by poll) · awaited MS (by a new epoll set, level)
 */
enum far_kind {
    FORKED, /* a child of this process */
    FRESH,  /* another program, started by exec: the two meet for the first time */
};
struct far {
    int control;
    pid_t pid;
};
struct far far_new(enum far_kind kind);
enum heir { BY_EXEC, BY_SPAWN };
struct far far_heir(enum heir how, int l); /* another program, that has l over exec */
struct far far_alone(int s);               /* another program by exec, that alone has s from then on */
ssize_t send_fd(int by, int fd);           /* by that unix socket; as sendmsg */
void far_pass(struct far *far, int l);     /* sends it, for the order "receive" */
__attribute__((format(printf, 2, 3))) const char *far_do(struct far *far, const char *format, ...);
__attribute__((format(printf, 2, 3))) void far_begin(struct far *far, const char *format, ...);
const char *far_answer(struct far *far);
void far_kill(struct far *far); /* SIGKILL, and reaps it */
_Noreturn void far_serve(int control);
_Noreturn void far_serve_on(int control, long sent, long received); /* after "exec SENT RECEIVED" */

/* A connection to a far side. s is this side's end, l the listener if it is here, else -1. */
struct meeting {
    struct far far;
    int s, l;
};
struct meeting meet_as_server(enum far_kind kind); /* the far side connects */
struct meeting meet_as_client(enum far_kind kind); /* the far side accepts */

/* ---- parent and child in turns (kin.c) ----
 *
 *     if (kin()) {
 *         SAY(set_nonblock(fd, 1));
 *         turn();
 *         SAY(recv(fd, text, 9, 0));
 *         stay();
 *     }
 *     theirs();
 *     SAY(send(other, "x", 1, 0));
 *     theirs();
 */
extern pid_t kin_pid;
int kin(void);             /* forks; true in the child, which begins at its first turn */
void turn(void);           /* the child has done so far, and waits for its next turn */
_Noreturn void stay(void); /* it has done all, but does not end */
_Noreturn void part_over(void);
void theirs(void);        /* the child's turn: until it has had it */
void theirs_begins(void); /* does not wait for that */
void theirs_last(void);   /* until it has ended by itself; says how */
void kin_ended(void);
void kin_ends(void); /* kills it */

/* ---- threads and sleep (side.c) ---- */

extern int differ_main_tid;
int my_tid(void);
/* Waits, a second at most, until that thread (or process) sleeps and goes on sleeping, or has ended. */
void asleep(int tid);
/* Waits for it and sends it the signal: to be called in another thread. */
void poke(int tid, int sig);

struct side {
    pthread_t thread;
    int tid, began, done, error;
    long result;
    long (*call)(void *);
    void *argument;
};
/* Runs call(argument) in a thread; side_blocked waits until it sleeps in it. */
void side_start(struct side *side, long (*call)(void *), void *argument);
void side_blocked(struct side *side);
/* "3", "-1 EINTR", "cancelled", or "STILL BLOCKED" after a second. */
const char *side_end(struct side *side);

/* A signal's handler that counts; flags as sigaction's. */
void handle(int sig, int flags);
extern volatile sig_atomic_t handled;

#endif
