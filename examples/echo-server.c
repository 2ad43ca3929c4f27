/* echo-server.c - gives back what it is sent: many sessions, one thread, one event wait.
 *
 *     echo-server [URI]          the default is tcp://127.0.0.1:7007; port 0 takes any free one
 *
 * What it shows: attach, listen, a waitset with the listener and every session in it, reads and writes that
 * never block, and what to do when the peer does not take its echo: stop reading until there is room. SIGINT
 * or SIGTERM end it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "berth/berth.h"

struct connection {
    berth_session session;
    size_t length; /* of what is in `buffer` and not yet echoed */
    size_t offset; /* how much of it has gone */
    uint32_t waits_for;
    char buffer[16384];
};

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static int failed(const char *what, int code)
{
    fprintf(stderr, "echo-server: %s: %s\n", what, berth_strerror(code));
    return 1;
}

static void drop(struct connection *c)
{
    berth_close(c->session); /* leaves the waitset by itself */
    free(c);
}

/* Echo what there is. Returns 0 to go on and -1 when the session is over. */
static int serve(berth_waitset *set, struct connection *c)
{
    uint32_t wanted = BERTH_IN;

    for (;;) {
        if (c->length == 0) {
            ssize_t n = berth_read(c->session, c->buffer, sizeof(c->buffer), 0);
            if (n == BERTH_E_WOULD_BLOCK)
                break;
            if (n <= 0)
                return -1; /* the end of the stream, or a reset */
            c->length = (size_t)n;
            c->offset = 0;
        }
        ssize_t n = berth_write(c->session, c->buffer + c->offset, c->length - c->offset, 0);
        if (n == BERTH_E_WOULD_BLOCK) {
            wanted = BERTH_OUT;
            break;
        }
        if (n < 0)
            return -1;
        c->offset += (size_t)n;
        if (c->offset == c->length)
            c->length = 0;
    }
    if (wanted == c->waits_for)
        return 0;
    c->waits_for = wanted;
    return berth_waitset_modify(set, c->session, wanted, (uintptr_t)c) < 0 ? -1 : 0;
}

static void accept_all(berth_waitset *set, berth_listener listener)
{
    berth_session session;

    while (berth_accept(listener, 0, &session) == 0) {
        struct connection *c = calloc(1, sizeof(*c));
        if (!c) {
            berth_reset(session);
            continue;
        }
        c->session = session;
        c->waits_for = BERTH_IN;
        if (berth_waitset_add(set, session, BERTH_IN, (uintptr_t)c) < 0)
            drop(c);
    }
}

int main(int argc, char **argv)
{
    const char *uri = argc > 1 ? argv[1] : "tcp://127.0.0.1:7007";
    struct sigaction action = {.sa_handler = on_signal};
    struct berth_endpoint where;
    berth_listener listener;
    char text[64], why[300] = "";
    int rc;

    if (argc > 2 || uri[0] == '-') {
        fprintf(stderr, "usage: echo-server [tcp://ADDRESS:PORT]\n");
        return 2;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    rc = berth_endpoint_parse(uri, 1, &where, why, sizeof(why));
    if (rc < 0) {
        fprintf(stderr, "echo-server: %s\n", *why ? why : berth_strerror(rc));
        return 2;
    }
    rc = berth_attach(&(struct berth_attach_options){.name = "echo-server", .spin_ns = -1});
    if (rc < 0)
        return failed("cannot attach", rc);
    rc = berth_listen(&where, NULL, &listener);
    if (rc < 0) {
        berth_detach();
        return failed(uri, rc);
    }
    berth_waitset *set = berth_waitset_create();
    if (!set) {
        perror("echo-server: waitset");
        berth_detach();
        return 1;
    }
    rc = berth_waitset_add(set, listener, BERTH_IN, 0);
    if (rc < 0)
        goto out;
    berth_listener_endpoint(listener, &where);
    berth_endpoint_format(&where, text, sizeof(text));
    printf("listening on tcp://%s\n", text);
    fflush(stdout);

    while (!stop) {
        struct berth_event events[64];
        /* A second at most: a signal that comes just before the call would not interrupt it. */
        rc = berth_waitset_wait(set, events, 64, 1000000000);
        if (rc == BERTH_E_INTERRUPTED)
            rc = 0;
        if (rc < 0)
            break;
        for (int i = 0; i < rc; i++) {
            struct connection *c = (struct connection *)(uintptr_t)events[i].data;
            if (!c)
                accept_all(set, listener);
            else if (serve(set, c) < 0)
                drop(c);
        }
    }
out:
    /* Whatever is still open is closed by the detach. */
    berth_waitset_destroy(set);
    berth_detach();
    return rc < 0 ? failed("cannot wait", rc) : 0;
}
