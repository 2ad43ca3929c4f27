/* handover.c - a listener in programs that do not know of each other: over exec, by posix_spawn, sent over a
 * unix socket. Every connection is served by whoever accepts, also when the others never will. */
#include "differ.h"

#define MANY 10

/* Connections, each served by the far side: how many. */
static int served_by(struct far *far, int n)
{
    int good = 0;
    char byte;
    for (int i = 0; i < n; i++) {
        int c = dial();
        good += strcmp(far_do(far, "accept;send 1;close"), "0, 1, 0") == 0 && recv(c, &byte, 1, 0) == 1 &&
                recv(c, &byte, 1, 0) == 0;
        close(c);
    }
    return good;
}

static int served_here(int l, int n)
{
    int good = 0;
    char byte;
    for (int i = 0; i < n; i++) {
        int c = dial(), s = strcmp(polled(l, POLLIN, 1000), "IN") == 0 ? accept(l, NULL, NULL) : -1;
        good += s >= 0 && send(s, "x", 1, 0) == 1 && recv(c, &byte, 1, 0) == 1;
        close(s);
        close(c);
    }
    return good;
}

CASE(over_exec, "the executed program accepts, this one never")
{
    int l = listener(16);
    struct far far = far_heir(BY_EXEC, l);
    say("served: %d", served_by(&far, MANY));
    say("non-blocking: %d, there %s", !!(fcntl(l, F_GETFL) & O_NONBLOCK), far_do(&far, "flags"));
}

CASE(over_exec_nonblocking, "the same of a listener that is non-blocking")
{
    int l = listener(16);
    SAY(set_nonblock(l, 1));
    struct far far = far_heir(BY_EXEC, l);
    say("nobody: %s", far_do(&far, "accept"));
    say("non-blocking: %s", far_do(&far, "flags"));
    int c = dial();
    say("%s", far_do(&far, "try 1000;send 1"));
    SAY(recv(c, (char[9]){0}, 9, 0));
}

CASE(spawned, "by posix_spawn")
{
    struct far far = far_heir(BY_SPAWN, listener(16));
    say("served: %d", served_by(&far, MANY));
}

CASE(listens_again, "the executed program calls listen, as most do")
{
    struct far far = far_heir(BY_EXEC, listener(16));
    say("%s", far_do(&far, "again"));
    say("served: %d", served_by(&far, MANY));
}

CASE(bound_only, "it is bound here, and listens there")
{
    int l = fresh_socket();
    socklen_t len = sizeof differ_at;
    differ_at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SAY(bind(l, (struct sockaddr *)&differ_at, len));
    SAY(getsockname(l, (struct sockaddr *)&differ_at, &len));
    struct far far = far_heir(BY_EXEC, l);
    say("%s", far_do(&far, "again"));
    say("served: %d", served_by(&far, MANY));
    SAY(listen(l, 16)); /* and is not heard of again */
    say("served: %d", served_by(&far, MANY));
}

CASE(waiting_before, "connections that wait before the exec are served after it (socket activation)")
{
    int l = listener(16), c = dial(), d = dial();
    char byte;
    SAY(send(c, "question", 8, 0));
    say("%s", polled(l, POLLIN, 1000));
    struct far far = far_heir(BY_EXEC, l);
    for (int i = 0; i < 2; i++)
        say("%s", far_do(&far, "try 2000;send 1;close"));
    SAY(recv(c, &byte, 1, 0));
    SAY(recv(d, &byte, 1, 0));
    say("nobody else: %s", far_do(&far, "try 0"));
}

CASE(heir_never_accepts, "what was executed only has it: this program serves, before and after its end")
{
    int l = listener(16);
    say("served: %d", served_here(l, MANY));
    struct far far = far_heir(BY_EXEC, l);
    say("served: %d", served_here(l, MANY));
    far_kill(&far);
    say("served: %d", served_here(l, MANY));
}

CASE(both_accept, "whoever is asked serves")
{
    int l = listener(16);
    struct far far = far_heir(BY_EXEC, l);
    say("there: %d", served_by(&far, MANY));
    int c = dial(), s;
    say("%s", polled(l, POLLIN, 1000));
    s = accept(l, NULL, NULL);
    SAY(send(s, "x", 1, 0));
    SAY(recv(c, (char[9]){0}, 9, 0));
}

CASE(passed, "sent over a unix socket to another program; this one never accepts")
{
    int l = listener(16);
    struct far far = far_new(FRESH);
    far_pass(&far, l);
    say("served: %d", served_by(&far, MANY));
    say("non-blocking: %d, there %s", !!(fcntl(l, F_GETFL) & O_NONBLOCK), far_do(&far, "flags"));
    SAY(close(l));
    say("served: %d", served_by(&far, MANY));
}

CASE(passed_to_child, "sent to a child")
{
    struct far far = far_new(FORKED);
    far_pass(&far, listener(16));
    say("served: %d", served_by(&far, MANY));
}

CASE(passed_and_kept, "the receiver never accepts")
{
    struct far far = far_new(FRESH);
    int l = listener(16);
    far_pass(&far, l);
    say("served: %d", served_here(l, MANY));
}

CASE(passed_bound, "sent before anybody listens")
{
    int l = fresh_socket();
    socklen_t len = sizeof differ_at;
    struct far far = far_new(FRESH);
    differ_at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SAY(bind(l, (struct sockaddr *)&differ_at, len));
    SAY(getsockname(l, (struct sockaddr *)&differ_at, &len));
    far_pass(&far, l);
    SAY(listen(l, 16));
    say("%s", far_do(&far, "again"));
    say("served: %d", served_by(&far, MANY));
}

CASE(passed_on, "from one to the next, the first and the second end")
{
    int l = listener(16);
    struct far far = far_heir(BY_EXEC, l), next = far_new(FRESH);
    say("served: %d", served_by(&far, MANY));
    far_pass(&next, l);
    SAY(close(l));
    far_kill(&far);
    say("served: %d", served_by(&next, MANY));
}

CASE(waiting_before_sent, "connections that wait when it is sent")
{
    int l = listener(16), c = dial();
    char byte;
    struct far far = far_new(FRESH);
    SAY(give(c, 0, 8));
    far_pass(&far, l);
    say("%s", far_do(&far, "try 2000;recv 8;send 1;close"));
    SAY(recv(c, &byte, 1, 0));
    SAY(recv(c, &byte, 1, 0));
}
