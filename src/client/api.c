/* api.c - the public functions: arguments checked, waiting added to what client.h offers without. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "berth/berth.h"
#include "client/attach.h"
#include "client/outbox.h"
#include "client/session.h"
#include "client/watch.h"
#include "session/directory.h"
#include "session/uri.h"
#include "shm/slot.h"

#define BERTH_PUBLIC __attribute__((visibility("default")))

BERTH_PUBLIC int berth_attach(const struct berth_attach_options *options)
{
    if (!options)
        return client_attach(NULL);
    struct berth_attach_options o = *options;
    if (o.flags & SPIN_GIVEN)
        return BERTH_E_INVALID;
    if (o.spin_ns == 0)
        o.flags |= SPIN_GIVEN;
    return client_attach(&o);
}

BERTH_PUBLIC int berth_detach(void)
{
    return client_detach();
}

BERTH_PUBLIC int berth_endpoint_parse(const char *uri, int for_listen, struct berth_endpoint *out,
                                      char *message, size_t message_size)
{
    struct uri_error err;
    char host[256];
    if (!uri || !out)
        return BERTH_E_INVALID;
    int code = uri_parse(uri, for_listen != 0, out, host, sizeof host, &err);
    if ((code == BERTH_E_URI || code == BERTH_E_UNSUPPORTED) && message && message_size)
        uri_error_format(uri, &err, message, message_size);
    return code;
}

BERTH_PUBLIC int berth_endpoint_format(const struct berth_endpoint *ep, char *out, size_t size)
{
    return endpoint_format(ep, out, size);
}

/* ---- listeners ----------------------------------------------------------------------------------------- */

BERTH_PUBLIC int berth_listen(const struct berth_endpoint *ep, const struct berth_listen_options *options,
                              berth_listener *out)
{
    if (!ep || !out || ep->proto != BERTH_PROTO_TCP || (ep->family != 4 && ep->family != 6))
        return BERTH_E_INVALID;
    uint32_t backlog = options && options->backlog ? options->backlog : 128;
    if (backlog > 65535)
        return BERTH_E_INVALID;
    uint32_t flags = 0;
    if (options && options->v6only)
        flags |= LISTEN_V6ONLY;
    if (options && options->reuseport)
        flags |= LISTEN_REUSEPORT;
    return client_listen(ep, flags, backlog, 0, out);
}

BERTH_PUBLIC int berth_listen_uri(const char *uri, const struct berth_listen_options *options,
                                  berth_listener *out)
{
    struct berth_endpoint ep;
    int err = berth_endpoint_parse(uri, 1, &ep, NULL, 0);
    return err ? err : berth_listen(&ep, options, out);
}

BERTH_PUBLIC int berth_listener_endpoint(berth_listener listener, struct berth_endpoint *out)
{
    return out ? client_listener_endpoint(listener, out) : BERTH_E_INVALID;
}

BERTH_PUBLIC int berth_accept(berth_listener listener, int64_t timeout_ns, berth_session *out)
{
    if (!out)
        return BERTH_E_INVALID;
    int err = client_accept(listener, out);
    if (err != BERTH_E_WOULD_BLOCK || timeout_ns == 0)
        return err;
    struct sleep_mark mark = sleep_mark_now();
    int64_t deadline = clock_deadline(timeout_ns);
    do {
        err = client_listener_wait(listener, -1, deadline, &mark);
        if (!err)
            err = client_accept(listener, out);
    } while (err == BERTH_E_WOULD_BLOCK);
    return err;
}

BERTH_PUBLIC int berth_unlisten(berth_listener listener)
{
    return client_unlisten(listener);
}

/* ---- sessions ------------------------------------------------------------------------------------------ */

static void close_connecting(void *session)
{
    (void)client_close(*(berth_session *)session);
}

#define LATE_NS (5 * NS_PER_SEC)
#define LATE_STEP_NS (5 * NS_PER_MS)

/* There is no kernel to go to instead: where the daemon is only late, the caller waits as long as he said. */
static int connect_patiently(const struct berth_endpoint *ep, int64_t timeout_ns, berth_session *out)
{
    int64_t end = clock_deadline(timeout_ns < 0 || timeout_ns > LATE_NS ? LATE_NS : timeout_ns);
    struct sleep_mark mark = sleep_mark_now();
    int err;
    while ((err = client_connect(ep, NULL, out)) == BERTH_E_TIMED_OUT && clock_now() < end &&
           !sleep_signalled(&mark)) {
        struct timespec ts = clock_timespec(LATE_STEP_NS);
        (void)sys_ppoll(NULL, 0, &ts, NULL);
    }
    /* the shim would ask the kernel now; here nobody else has that address */
    if (err == BERTH_E_NO_ROUTE && !directory_paused(C->dir) && directory_is_local(C->dir, ep->addr))
        err = BERTH_E_REFUSED;
    return err;
}

BERTH_PUBLIC int berth_connect(const struct berth_endpoint *ep, int64_t timeout_ns, berth_session *out)
{
    if (!ep || !out || ep->proto != BERTH_PROTO_TCP || ep->port == 0)
        return BERTH_E_INVALID;
    int err = connect_patiently(ep, timeout_ns, out);
    if (err == BERTH_E_IN_PROGRESS && timeout_ns != 0) {
        struct sleep_mark mark = sleep_mark_now();
        pthread_cleanup_push(close_connecting, out);
        err = client_connect_wait(*out, clock_deadline(timeout_ns), &mark);
        pthread_cleanup_pop(err != 0);
    }
    return err;
}

BERTH_PUBLIC int berth_connect_uri(const char *uri, int64_t timeout_ns, berth_session *out)
{
    struct berth_endpoint ep;
    int err = berth_endpoint_parse(uri, 0, &ep, NULL, 0);
    return err ? err : berth_connect(&ep, timeout_ns, out);
}

/* Waits until what came back as WOULD_BLOCK is worth another try: 0, else what to return. A deadline of 0 is
 * "not taken yet". */
static int again(berth_session s, uint32_t events, int64_t timeout_ns, int64_t *deadline)
{
    if (timeout_ns == 0)
        return BERTH_E_WOULD_BLOCK;
    if (*deadline == 0)
        *deadline = clock_deadline(timeout_ns);
    struct sleep_mark mark = sleep_mark_now();
    return client_wait(s, events, *deadline, &mark);
}

BERTH_PUBLIC ssize_t berth_read(berth_session session, void *buf, size_t len, int64_t timeout_ns)
{
    ssize_t n = client_read(session, buf, len, 0);
    int64_t deadline = 0;
    while (__builtin_expect(n == BERTH_E_WOULD_BLOCK, 0)) {
        int err = again(session, EPOLLIN, timeout_ns, &deadline);
        if (err)
            return err;
        n = client_read(session, buf, len, 0);
    }
    return n;
}

BERTH_PUBLIC ssize_t berth_readv(berth_session session, const struct iovec *iov, int count,
                                 int64_t timeout_ns)
{
    if (count < 0 || (count && !iov))
        return BERTH_E_INVALID;
    ssize_t n = client_readv(session, iov, count, 0);
    int64_t deadline = 0;
    while (n == BERTH_E_WOULD_BLOCK) {
        int err = again(session, EPOLLIN, timeout_ns, &deadline);
        if (err)
            return err;
        n = client_readv(session, iov, count, 0);
    }
    return n;
}

BERTH_PUBLIC ssize_t berth_write(berth_session session, const void *buf, size_t len, int64_t timeout_ns)
{
    ssize_t n = client_write(session, buf, len);
    if (__builtin_expect(n == (ssize_t)len, 1))
        return n;
    if (n < 0 && n != BERTH_E_WOULD_BLOCK)
        return n;
    size_t done = n > 0 ? (size_t)n : 0;
    int64_t deadline = 0;
    while (done < len) {
        int err = again(session, EPOLLOUT, timeout_ns, &deadline);
        n = err ? err : client_write(session, (const uint8_t *)buf + done, len - done);
        if (n > 0)
            done += (size_t)n;
        else if (n != BERTH_E_WOULD_BLOCK || err)
            return done ? (ssize_t)done : n;
    }
    return (ssize_t)done;
}

BERTH_PUBLIC ssize_t berth_writev(berth_session session, const struct iovec *iov, int count,
                                  int64_t timeout_ns)
{
    if (count < 0 || (count && !iov))
        return BERTH_E_INVALID;
    ssize_t done = 0;
    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len == 0)
            continue;
        ssize_t n = berth_write(session, iov[i].iov_base, iov[i].iov_len, timeout_ns);
        if (n < 0)
            return done ? done : n;
        done += n;
        if ((size_t)n < iov[i].iov_len)
            break;
    }
    return done;
}

BERTH_PUBLIC int berth_read_spans(berth_session session, struct iovec spans[2], int64_t timeout_ns)
{
    int n = client_read_spans(session, spans);
    int64_t deadline = 0;
    while (n == BERTH_E_WOULD_BLOCK) {
        int err = again(session, EPOLLIN, timeout_ns, &deadline);
        if (err)
            return err;
        n = client_read_spans(session, spans);
    }
    return n;
}

BERTH_PUBLIC int berth_read_consume(berth_session session, size_t len)
{
    return client_read_consume(session, len);
}

BERTH_PUBLIC int berth_write_spans(berth_session session, size_t want, struct iovec spans[2],
                                   int64_t timeout_ns)
{
    int n = client_write_spans(session, want, spans);
    int64_t deadline = 0;
    while (n == BERTH_E_WOULD_BLOCK) {
        int err = again(session, EPOLLOUT, timeout_ns, &deadline);
        if (err)
            return err;
        n = client_write_spans(session, want, spans);
    }
    return n;
}

BERTH_PUBLIC int berth_write_commit(berth_session session, size_t len)
{
    return client_write_commit(session, len);
}

BERTH_PUBLIC int berth_shutdown(berth_session session, int how)
{
    return client_shutdown(session, how);
}

BERTH_PUBLIC int berth_close(berth_session session)
{
    return client_close(session);
}

BERTH_PUBLIC int berth_reset(berth_session session)
{
    return client_abort(session);
}

BERTH_PUBLIC int berth_local_endpoint(berth_session session, struct berth_endpoint *out)
{
    return out ? client_local(session, out) : BERTH_E_INVALID;
}

BERTH_PUBLIC int berth_remote_endpoint(berth_session session, struct berth_endpoint *out)
{
    return out ? client_remote(session, out) : BERTH_E_INVALID;
}

BERTH_PUBLIC int berth_error(berth_session session)
{
    return client_take_error(session);
}

BERTH_PUBLIC int berth_option_set(berth_session session, enum berth_option option, uint64_t value)
{
    if (value == 0)
        return BERTH_E_INVALID;
    switch (option) {
    case BERTH_OPT_RX_FIFO_SIZE:
        return client_set_fifo_limit(session, value, 0);
    case BERTH_OPT_TX_FIFO_SIZE:
        return client_set_fifo_limit(session, 0, value);
    default:
        return BERTH_E_INVALID;
    }
}

BERTH_PUBLIC int berth_option_get(berth_session session, enum berth_option option, uint64_t *value)
{
    struct session *s = session_get(session);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    switch (option) {
    case BERTH_OPT_RX_FIFO_SIZE:
        *value = info_rx_limit(outbox_info(outbox_by_index(s->own_outbox), s->own_slot));
        return 0;
    case BERTH_OPT_TX_FIFO_SIZE:
        *value = session_tx_limit(s);
        return 0;
    case BERTH_OPT_READABLE:
        *value = client_readable(session);
        return 0;
    case BERTH_OPT_UNREAD:
        *value = client_unread(session);
        return 0;
    }
    return BERTH_E_INVALID;
}

/* ---- event wait ---------------------------------------------------------------------------------------- */

_Static_assert(BERTH_IN == EPOLLIN && BERTH_OUT == EPOLLOUT && BERTH_ERROR == EPOLLERR &&
                   BERTH_HUP == EPOLLHUP && BERTH_RDHUP == EPOLLRDHUP && BERTH_EDGE == EPOLLET &&
                   BERTH_ONESHOT == EPOLLONESHOT,
               "the public event bits are epoll's");

#define WAIT_BATCH 256

BERTH_PUBLIC berth_waitset *berth_waitset_create(void)
{
    if (!C->attached) {
        errno = ENOTCONN;
        return NULL;
    }
    return (berth_waitset *)evset_create(-1);
}

BERTH_PUBLIC void berth_waitset_destroy(berth_waitset *set)
{
    if (set)
        evset_destroy((struct evset *)set);
}

BERTH_PUBLIC int berth_waitset_add(berth_waitset *set, uint64_t handle, uint32_t events, uint64_t data)
{
    return set ? evset_add((struct evset *)set, handle, 0, events, data) : BERTH_E_INVALID;
}

BERTH_PUBLIC int berth_waitset_modify(berth_waitset *set, uint64_t handle, uint32_t events, uint64_t data)
{
    return set ? evset_modify((struct evset *)set, handle, 0, events, data) : BERTH_E_INVALID;
}

BERTH_PUBLIC int berth_waitset_remove(berth_waitset *set, uint64_t handle)
{
    return set ? evset_remove((struct evset *)set, handle, 0) : BERTH_E_INVALID;
}

BERTH_PUBLIC int berth_waitset_wait(berth_waitset *set, struct berth_event *events, int max,
                                    int64_t timeout_ns)
{
    struct epoll_event ev[WAIT_BATCH];
    if (!set || !events || max <= 0)
        return BERTH_E_INVALID;
    int n = evset_wait((struct evset *)set, ev, max < WAIT_BATCH ? max : WAIT_BATCH,
                       timeout_ns ? clock_deadline(timeout_ns) : 0, NULL, NULL);
    for (int i = 0; i < n; i++)
        events[i] = (struct berth_event){.events = ev[i].events, .data = ev[i].data.u64};
    return n;
}

BERTH_PUBLIC int berth_waitset_fd(berth_waitset *set)
{
    return set ? evset_fd((struct evset *)set) : BERTH_E_INVALID;
}
