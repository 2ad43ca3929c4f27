/* file-copy.c - copies a file from one process to another without a buffer in either.
 *
 *     file-copy receive URI FILE     listens, takes one session and writes what it brings to FILE
 *     file-copy send URI FILE        connects and sends FILE
 *
 * What it shows: spans. The sender lets the kernel read the file straight into the shared memory that the
 * receiver reads, and the receiver lets the kernel write from there to its file: no byte is copied in user
 * space. The receiver answers with the number of bytes it has stored, so that the sender knows the copy is
 * whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "berth/berth.h"

#define SECOND 1000000000ll
#define WANT (256u << 10) /* how much room to ask for; less is given when the fifo is nearly full */

static int failed(const char *what, ssize_t code)
{
    fprintf(stderr, "file-copy: %s: %s\n", what, berth_strerror((int)code));
    return 1;
}

static int failed_system(const char *what)
{
    fprintf(stderr, "file-copy: %s: %s\n", what, strerror(errno));
    return 1;
}

/* After a move between file and spans: n and error are the file's answer, rc the session's. */
static int moved(const char *path, ssize_t n, int error, int rc, uint64_t *total)
{
    if (n < 0 && error != EINTR) {
        errno = error;
        return failed_system(path);
    }
    if (rc < 0)
        return failed("the session", rc);
    if (n > 0)
        *total += (uint64_t)n;
    return 0;
}

/* Fill spans from the file until it ends. */
static int send_file(berth_session session, int fd, const char *path, uint64_t *total)
{
    for (;;) {
        struct iovec spans[2];
        int count = berth_write_spans(session, WANT, spans, 30 * SECOND);
        if (count < 0)
            return failed("waiting for room", count);
        ssize_t n = readv(fd, spans, count);
        int error = errno;
        /* Commit in every case: it also gives the spans back. */
        int rc = berth_write_commit(session, n > 0 ? (size_t)n : 0);
        if (moved(path, n, error, rc, total) != 0)
            return 1;
        if (n == 0)
            return 0;
    }
}

/* Write out what the spans hold until the stream ends. */
static int receive_file(berth_session session, int fd, const char *path, uint64_t *total)
{
    for (;;) {
        struct iovec spans[2];
        int count = berth_read_spans(session, spans, 30 * SECOND);
        if (count == 0)
            return 0;
        if (count < 0)
            return failed("waiting for data", count);
        ssize_t n = writev(fd, spans, count);
        int error = errno;
        int rc = berth_read_consume(session, n > 0 ? (size_t)n : 0);
        if (moved(path, n, error, rc, total) != 0)
            return 1;
    }
}

static int sender(const char *uri, const char *path)
{
    uint64_t total = 0, stored = 0;
    berth_session session;

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed_system(path);
    int rc = berth_connect_uri(uri, 5 * SECOND, &session);
    if (rc < 0) {
        close(fd);
        return failed(uri, rc);
    }
    rc = send_file(session, fd, path, &total);
    close(fd);
    if (rc != 0) {
        berth_reset(session); /* so that the receiver does not take a part for the whole */
        return rc;
    }
    berth_shutdown(session, BERTH_SHUT_WR);
    for (size_t have = 0; have < sizeof(stored);) {
        ssize_t n = berth_read(session, (char *)&stored + have, sizeof(stored) - have, 30 * SECOND);
        if (n <= 0) {
            rc = failed("waiting for the receipt", n ? n : BERTH_E_CLOSED);
            break;
        }
        have += (size_t)n;
    }
    berth_close(session);
    if (rc != 0)
        return rc;
    if (stored != total) {
        fprintf(stderr, "file-copy: sent %llu bytes, but %llu were stored\n", (unsigned long long)total,
                (unsigned long long)stored);
        return 1;
    }
    printf("%llu bytes sent and stored\n", (unsigned long long)total);
    return 0;
}

static int receiver(const char *uri, const char *path)
{
    struct berth_endpoint where;
    berth_listener listener;
    berth_session session;
    uint64_t total = 0;
    char text[64];

    int rc = berth_listen_uri(uri, NULL, &listener);
    if (rc < 0)
        return failed(uri, rc);
    berth_listener_endpoint(listener, &where);
    berth_endpoint_format(&where, text, sizeof(text));
    printf("listening on tcp://%s\n", text);
    fflush(stdout);

    rc = berth_accept(listener, -1, &session);
    berth_unlisten(listener);
    if (rc < 0)
        return failed("accept", rc);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = failed_system(path);
        berth_reset(session);
        return rc;
    }
    rc = receive_file(session, fd, path, &total);
    if (close(fd) < 0 && rc == 0)
        rc = failed_system(path);
    if (rc != 0) {
        berth_reset(session);
        return rc;
    }
    ssize_t n = berth_write(session, &total, sizeof(total), 5 * SECOND);
    berth_close(session);
    if (n != sizeof(total))
        return failed("sending the receipt", n < 0 ? n : BERTH_E_TIMED_OUT);
    printf("%llu bytes received\n", (unsigned long long)total);
    return 0;
}

int main(int argc, char **argv)
{
    int sends = argc == 4 && strcmp(argv[1], "send") == 0;
    int receives = argc == 4 && strcmp(argv[1], "receive") == 0;

    if (!sends && !receives) {
        fprintf(stderr, "usage: file-copy receive tcp://ADDRESS:PORT FILE\n"
                        "       file-copy send tcp://ADDRESS:PORT FILE\n");
        return 2;
    }
    struct berth_attach_options options = {.name = sends ? "file-send" : "file-receive", .spin_ns = -1};
    int rc = berth_attach(&options);
    if (rc < 0)
        return failed("cannot attach", rc);
    rc = sends ? sender(argv[2], argv[3]) : receiver(argv[2], argv[3]);
    berth_detach();
    return rc;
}
