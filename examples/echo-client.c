/* echo-client.c - sends lines to an echo server and checks that they come back.
 *
 *     echo-client [URI]              lines from the standard input, each echoed to the standard output
 *     echo-client URI COUNT          COUNT messages of 64 bytes, one after the other, and what a round trip
 *                                    took
 *
 * What it shows: the blocking side of the API, where a call does its whole work within the timeout it is
 * given.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "berth/berth.h"

#define SECOND 1000000000ll

static int failed(const char *what, ssize_t code)
{
    const char *why = code == 0 ? "the server ended the stream" : berth_strerror((int)code);

    fprintf(stderr, "echo-client: %s: %s\n", what, why);
    return 1;
}

/* A stream has no messages: read until all of it is there. Returns len, 0 at the end of the stream, or an
 * error. */
static ssize_t read_all(berth_session session, char *buffer, size_t len)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = berth_read(session, buffer + have, len - have, 5 * SECOND);
        if (n <= 0)
            return n;
        have += (size_t)n;
    }
    return (ssize_t)len;
}

static int round_trip(berth_session session, const char *message, char *reply, size_t len)
{
    ssize_t n = berth_write(session, message, len, 5 * SECOND);
    if (n != (ssize_t)len)
        return failed("write", n < 0 ? n : BERTH_E_TIMED_OUT);
    n = read_all(session, reply, len);
    if (n <= 0)
        return failed("read", n);
    if (memcmp(message, reply, len) != 0) {
        fprintf(stderr, "echo-client: the echo differs from what was sent\n");
        return 1;
    }
    return 0;
}

static int echo_lines(berth_session session)
{
    char line[4096], reply[4096];

    while (fgets(line, sizeof(line), stdin)) {
        size_t len = strlen(line);
        if (round_trip(session, line, reply, len) != 0)
            return 1;
        fwrite(reply, 1, len, stdout);
    }
    return 0;
}

static int echo_many(berth_session session, long count)
{
    char message[64], reply[64];
    struct timespec start, end;

    memset(message, '.', sizeof(message));
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < count; i++) {
        memcpy(message, &i, sizeof(i));
        if (round_trip(session, message, reply, sizeof(message)) != 0)
            return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double us = (double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) / 1e3;
    printf("%ld round trips of 64 bytes, %.2f us each\n", count, us / (double)count);
    return 0;
}

int main(int argc, char **argv)
{
    const char *uri = argc > 1 ? argv[1] : "tcp://127.0.0.1:7007";
    char *rest = NULL;
    long count = argc == 3 ? strtol(argv[2], &rest, 10) : 0;
    struct berth_endpoint where;
    berth_session session;
    char why[300] = "";
    int rc;

    if (argc > 3 || uri[0] == '-' || (argc == 3 && (count < 1 || *rest != 0))) {
        fprintf(stderr, "usage: echo-client [tcp://ADDRESS:PORT [COUNT]]\n");
        return 2;
    }
    rc = berth_endpoint_parse(uri, 0, &where, why,
                              sizeof(why)); /* as berth_connect_uri does, and it says what is wrong */
    if (rc < 0) {
        fprintf(stderr, "echo-client: %s\n", *why ? why : berth_strerror(rc));
        return 2;
    }
    rc = berth_attach(&(struct berth_attach_options){.name = "echo-client", .spin_ns = -1});
    if (rc < 0)
        return failed("cannot attach", rc);
    rc = berth_connect(&where, 5 * SECOND, &session);
    if (rc < 0) {
        rc = failed(uri, rc);
    } else {
        rc = count ? echo_many(session, count) : echo_lines(session);
        berth_close(session);
    }
    berth_detach();
    return rc;
}
