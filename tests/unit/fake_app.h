/* fake_app.h - an app worker written from control.h alone, without libberth: it says exactly what a test
 * wants it to say. And a daemon of the test's own to say it to. */
#ifndef BERTH_TESTS_FAKE_APP_H
#define BERTH_TESTS_FAKE_APP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm/control.h"

/* ---- a daemon in a directory of its own ---- */

struct test_daemon {
    char dir[64];
    pid_t pid;
};

void daemon_start(struct test_daemon *d);
/* SIGTERM; its exit status as waitpid has it; the directory is gone */
int daemon_stop(struct test_daemon *d);
bool daemon_alive(const struct test_daemon *d);
int daemon_descriptors(const struct test_daemon *d); /* how many it has open */

/* ---- the one daemon of a test program ---- */

extern struct test_daemon the_daemon;
extern int daemon_baseline; /* descriptors it had open when the tests began */

int daemon_start_clean(void **state); /* group set-up */
int daemon_stop_clean(void **state);  /* group tear-down: it must end with status 0 */

/* ---- an app ---- */

union fake_packet {
    struct ctl_header h;
    struct ctl_hello hello;
    struct ctl_welcome welcome;
    struct ctl_child child;
    struct ctl_child_hello child_hello;
    struct ctl_listen listen;
    struct ctl_listened listened;
    struct ctl_listener listener;
    struct ctl_introduce introduce;
    struct ctl_introduced introduced;
    struct ctl_outbox outbox;
    struct ctl_outbox_is outbox_is;
    struct ctl_segment_is segment_is;
    struct ctl_ports ports;
    struct ctl_dead dead;
    struct ctl_move move;
    struct ctl_stay stay;
    struct ctl_show show;
    struct ctl_ns ns;
    struct ctl_status_is status;
    uint8_t bytes[CTL_MAX];
};

struct fake_app {
    int sock, page, kick, netns; /* descriptors; -1: none */
    uint32_t seq, worker, app;
    union fake_packet in; /* the last reply */
    int in_len, in_fds[CTL_FDS_MAX], in_nfds;
};

void fake_connect(struct fake_app *a, const struct test_daemon *d); /* not attached yet */
void fake_close(struct fake_app *a);

/* Sends a packet as it is. 0 or an enum berth_error. */
int fake_send(struct fake_app *a, const void *msg, size_t len, const int *fds, int nfds);
/* The next packet whatever it is, within 5 seconds, into a->in: its length; 0 at the end of the connection.
 * Descriptors of the one before are closed. */
int fake_receive(struct fake_app *a);
/* A request with header filled in, and its reply: status of the reply, or DAEMON_GONE. Others that come
 * meanwhile are dropped. */
int fake_request(struct fake_app *a, uint16_t type, void *msg, size_t len, const int *fds, int nfds);
/* True if the next thing that comes is the end of the connection (errors and notices before it are skipped).
 */
bool fake_ended(struct fake_app *a);

void fake_hello_fill(struct ctl_hello *m, const char *name, const char *ns, const char *secret,
                     uint32_t flags);
int fake_hello(struct fake_app *a, const struct ctl_hello *m);
void fake_attach(struct fake_app *a, const struct test_daemon *d, const char *name); /* must succeed */
int fake_status(struct fake_app *a); /* a STATUS round trip: is the daemon still at its work? */
/* What others left must soon be gone: that many workers, apps, and descriptors beyond the baseline are there.
 */
void fake_expect_left(struct fake_app *a, uint32_t workers, uint32_t apps, int descriptors);
void nothing_is_left(
    void **state); /* a test, after all others: no worker, app or descriptor is left in the daemon */
/* Waits until the daemon rests; then daemon_baseline is what it has open, but for so many that are the tests'. */
void daemon_rests(struct fake_app *a, int descriptors);

/* ---- requests ---- */
int fake_listen(struct fake_app *a, const char *addr, uint16_t port, uint8_t flags,
                int *read_end); /* a->in.listened */
int fake_ns(struct fake_app *a, uint16_t type, const char *id, const char *secret);
int fake_page(uint32_t worker); /* a sealed worker page */
int fake_outbox_segment(outbox_handle h, uint32_t index,
                        uint32_t facing_app); /* a sealed segment that tells the truth */
/* INTRODUCE with a new outbox number `n`; outbox is what it was named. a->in.introduced, its pipe in
 * a->in_fds[0] */
int fake_introduce(struct fake_app *a, uint32_t listener, uint32_t n, uint32_t facing_app,
                   outbox_handle *outbox);

/* Is there a listener for that endpoint in the directory of that descriptor? */
bool in_directory(int fd, const char *addr4, uint16_t port);

#endif
