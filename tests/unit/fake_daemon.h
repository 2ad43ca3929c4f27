/* fake_daemon.h - a daemon that answers libberth as a test's script says: well, wrongly, half, late or never.
 *
 * Each case is one child process that uses the public API, for a process is one worker; this process is the
 * daemon it talks to. The child tells what its calls returned over a pipe, and must end by itself with status
 * 0.
 */
#ifndef BERTH_TESTS_FAKE_DAEMON_H
#define BERTH_TESTS_FAKE_DAEMON_H

#include "check.h"

#include <stdbool.h>
#include <sys/types.h>

#include "berth/berth.h"
#include "session/directory.h"
#include "shm/control.h"

extern char dir[];    /* the runtime directory */
extern int listening; /* the daemon's socket */

/* what the daemon answers when it answers well */
#define WORKER 7
#define APP 3
#define LISTENER 5 /* at 127.0.0.1:8080 */
#define SERVER_APP 4

/* ---- the child's part ---- */

int attach(void);
void tell(long result); /* to the parent's result() */
int descriptors(void);
struct berth_endpoint at(uint16_t port); /* of 127.0.0.1 */

/* ---- the child, seen from the daemon ---- */

struct child {
    pid_t pid;
    int results; /* read end: one int for each call */
    int sock;    /* the daemon's end */
    uint32_t seq, type;
    int fds[CTL_FDS_MAX], nfds;
    uint8_t bytes[CTL_MAX];
};

struct child start(void (*body)(void));
int result(struct child *c);  /* of the child's next call */
void finish(struct child *c); /* it must end, with 0 */

/* ---- the daemon's part ---- */

struct answer {
    union {
        struct ctl_header h;
        struct ctl_welcome welcome;
        struct ctl_listened listened;
        struct ctl_introduced introduced;
        struct ctl_ports ports;
        uint8_t bytes[CTL_MAX];
    };
    size_t len;
    int fds[CTL_FDS_MAX], nfds;
};

void accept_child(struct child *c);
/* The next message that wants an answer or is of that type. */
bool take(struct child *c, uint32_t type);
struct answer good_welcome(const struct child *c);
void answer(struct child *c, const struct answer *a);
void welcome_child(struct child *c); /* all that an attach takes */
/* A body that attaches (0) and then tells of so many things that they are as they should be. */
void all_is_true(void (*body)(void), int things);
/* sealed: a segment with a directory's first words */
int memfd_of(size_t size, uint32_t magic, uint16_t version, bool seal);

int set_up(void **state);
int tear_down(void **state);

#endif
