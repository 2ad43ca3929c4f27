/* replay.c - an offer that nobody under berth accepts goes to the kernel's listener.
 *
 * Theory of operation
 *
 * The kernel's socket of a listener may be in programs that are not under berth, too: it came from one, or a
 * program that was started with it has left it to its own children. They accept from the kernel, and never
 * see what is offered here. So such an offer stands for a bounded time (offers.c). Then it is withdrawn, a
 * connection to the same address is made by the kernel, and the daemon asked to start a relay that answers
 * the offer and moves the bytes between the two. To whoever has the session here, its bytes that were
 * written, its children and its sets it is as if somebody had accepted.
 */
#include "client/replay.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/memory.h"
#include "base/sys.h"
#include "client/control.h"
#include "client/fds.h"
#include "client/outbox.h"
#include "client/session.h"
#include "shm/slot.h"

static long connect_by_kernel(const struct session *s)
{
    struct sockaddr_storage at;
    socklen_t len = endpoint_to_sockaddr(&s->remote, &at);
    endpoint from = s->local;
    from.port = 0; /* the port is held by berth */
    long fd = sys_socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    struct sockaddr_storage own;
    socklen_t own_len = endpoint_to_sockaddr(&from, &own);
    (void)sys_call(SYS_bind, fd, &own, (long)own_len, 0L); /* else from whatever address the kernel takes */
    long err = sys_connect(fd, &at, len);
    if (err == -EINPROGRESS) { /* on this host a refusal is there already */
        int refused = 0;
        socklen_t size = sizeof refused;
        err = sys_call6(SYS_getsockopt, fd, SOL_SOCKET, SO_ERROR, sys_arg(&refused), sys_arg(&size), 0);
        if (err >= 0)
            err = -refused;
    }
    if (err >= 0)
        return fd;
    (void)sys_close((int)fd);
    return err;
}

struct asked {
    session_handle h;
    uint32_t seq;
    struct asked *next;
};

static struct asked *asked_first; /* under C->lock */

bool replay_asked(const struct session *s)
{
    session_handle h = session_handle_of(s);
    const struct asked *a = asked_first;
    while (a && a->h != h)
        a = a->next;
    return a && !load_acquire(&C->daemon_lost);
}

struct session *replay_answered(uint32_t seq)
{
    for (struct asked **p = &asked_first; *p; p = &(*p)->next) {
        struct asked *a = *p;
        if (a->seq != seq)
            continue;
        session_handle h = a->h;
        *p = a->next;
        memory_put(a, sizeof *a);
        return session_get(h);
    }
    return NULL;
}

void replays_forked(void)
{
    while (asked_first) {
        struct asked *next = asked_first->next;
        memory_put(asked_first, sizeof *asked_first);
        asked_first = next;
    }
}

int replay_ask(struct session *s)
{
    const struct own_box *box = outbox_by_index(session_own_outbox(s));
    const struct slot *own = session_cache_of(s)->own;
    struct ctl_replay msg = {.h = {.type = CTL_REPLAY, .len = sizeof msg}, .listener = session_listener(s)};
    if (!box || !own)
        return BERTH_E_BAD_HANDLE;
    if (load_acquire(&C->daemon_lost)) /* all this before there is a connection that would come to nothing */
        return BERTH_E_DAEMON_GONE;
    if (C->nobody || daemon_is_slow())
        return C->nobody ? BERTH_E_PERMISSION : BERTH_E_BUSY;
    msg.at = (struct ctl_place){box->handle, session_own_slot(s), slot_generation_known(own)};
    struct asked *a = memory_get(sizeof *a);
    long fd = a ? connect_by_kernel(s) : -ENOMEM;
    if (fd == -EMFILE) {
        client_fds_release();
        fd = connect_by_kernel(s);
    }
    if (fd < 0) {
        if (a)
            memory_put(a, sizeof *a);
        return fd == -ECONNREFUSED ? BERTH_E_REFUSED : BERTH_E_NO_MEMORY;
    }
    int sent = (int)fd;
    msg.h.seq = control_async_seq();
    int err = control_send(&msg, &sent, 1);
    *a = (struct asked){session_handle_of(s), msg.h.seq, asked_first};
    if (err)
        memory_put(a, sizeof *a);
    else
        asked_first = a;
    (void)sys_close(sent);
    (void)fds_keep();
    return err;
}
