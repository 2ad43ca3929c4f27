/* connect.c - the states of a connecting socket. */
#include "differ.h"

CASE(in_progress, "a non-blocking connect: EINPROGRESS, then OUT, SO_ERROR 0, EISCONN")
{
    int l = listener(4), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(c, POLLIN | POLLOUT, 1000));
    say("SO_ERROR %d", socket_error(c));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%d", accept(l, NULL, NULL) >= 0);
}

CASE(refused, "nobody listens: blocking and not")
{
    int l = listener(4), c = fresh_socket(), d = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    close(l);
    SAY(connect(c, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(c, POLLIN | POLLOUT, 0));
    SAY(connect(d, (struct sockaddr *)&differ_at, sizeof differ_at));
    say("%s", polled(d, POLLIN | POLLOUT, 1000));
    say("SO_ERROR %s", strerrorname_np(socket_error(d)));
    say("SO_ERROR %d", socket_error(d));
}

CASE(connected_again, "connect of a connected socket")
{
    struct pair p = pair_here();
    SAY(connect(p.c, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(connect(p.s, (struct sockaddr *)&differ_at, sizeof differ_at));
    SAY(connect(p.l, (struct sockaddr *)&differ_at, sizeof differ_at));
}

CASE(not_connected, "calls on a socket that was never connected")
{
    int fd = fresh_socket();
    SAY(recv(fd, (char[9]){0}, 9, MSG_DONTWAIT));
    SAY(send(fd, "x", 1, MSG_NOSIGNAL));
    SAY(shutdown(fd, SHUT_WR));
    SAY(read(fd, (char[9]){0}, 9));
    SAY(accept(fd, NULL, NULL));
}
