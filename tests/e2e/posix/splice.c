/* splice.c - splice, sendfile, tee: how much they move, when they wait, what they refuse. */
#include "posix.h"

static int s[2], p[2];
static int pipes_caught;

static void on_pipe(int sig)
{
    (void)sig;
    pipes_caught++;
}

static void fresh(int size)
{
    pair(s);
    if (pipe2(p, 0) < 0)
        abort();
    if (size)
        (void)fcntl(p[1], F_SETPIPE_SZ, size);
}

static void done(void)
{
    (void)close(s[0]);
    (void)close(s[1]);
    (void)close(p[0]);
    (void)close(p[1]);
}

static void nonblock(int fd, bool on)
{
    (void)fcntl(fd, F_SETFL, on ? O_NONBLOCK : 0);
}

static size_t send_all(int fd, size_t n)
{
    size_t sent = 0;
    while (sent < n) {
        ssize_t r = send(fd, buf, n - sent < sizeof buf ? n - sent : sizeof buf, 0);
        if (r <= 0)
            break;
        sent += (size_t)r;
    }
    return sent;
}

static size_t take(int fd, size_t n) /* by recv or read, until n or nothing comes */
{
    size_t got = 0;
    struct pollfd w = {.fd = fd, .events = POLLIN};
    while (got < n && poll(&w, 1, 2000) > 0) {
        ssize_t r = read(fd, buf, n - got < sizeof buf ? n - got : sizeof buf);
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    return got;
}

static void settle(int fd, size_t n) /* until that many bytes are there */
{
    struct pollfd w = {.fd = fd, .events = POLLIN};
    (void)poll(&w, 1, 2000);
    for (int i = 0; i < 400 && recv(fd, buf, n, MSG_PEEK | MSG_DONTWAIT) < (ssize_t)n; i++)
        rest_ms(5);
}

static void from_session(void)
{
    static const struct {
        size_t there, len;
        int size;
        unsigned flags;
    } t[] = {{100, 50, 0, 0},
             {100, 200, 0, 0},
             {20000, 200000, 4096, 0},
             {20000, 200000, 4096, SPLICE_F_NONBLOCK},
             {20000, 200000, 4096, SPLICE_F_MOVE | SPLICE_F_MORE},
             {100, 0, 0, 0}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        fresh(t[i].size);
        (void)send_all(s[0], t[i].there);
        settle(s[1], t[i].there);
        printf("%zu: ", i);
        SAY(splice(s[1], NULL, p[1], NULL, t[i].len, t[i].flags));
        done();
    }
    fresh(4096); /* a full pipe */
    (void)send_all(s[0], 100);
    settle(s[1], 100);
    SAY(write(p[1], buf, 4096));
    SAY(splice(s[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK));
    nonblock(p[1], true);
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    SAY(read(p[0], buf, 4096));
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    done();
    fresh(0); /* nothing there */
    nonblock(s[1], true);
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    SAY(splice(s[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK));
    nonblock(s[1], false);
    struct timeval tv = {0, 60000};
    (void)setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    (void)send_all(s[0], 10);
    (void)shutdown(s[0], SHUT_WR);
    settle(s[1], 10);
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    done();
    fresh(0); /* nobody reads the pipe */
    (void)send_all(s[0], 10);
    settle(s[1], 10);
    (void)close(p[0]);
    SAY(splice(s[1], NULL, p[1], NULL, 100, 0));
    printf("SIGPIPE %d\n", pipes_caught);
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT));
    done();
}

static void into_session(void)
{
    fresh(0);
    SAY(splice(p[0], NULL, s[0], NULL, 100, SPLICE_F_NONBLOCK));
    SAY(write(p[1], buf, 5000));
    SAY(splice(p[0], NULL, s[0], NULL, 3000, 0));
    SAY(splice(p[0], NULL, s[0], NULL, 3000, 0));
    SAY(take(s[1], 5000));
    SAY(splice(p[0], NULL, s[0], NULL, 0, 0));
    (void)fcntl(p[0], F_SETFL, O_NONBLOCK);
    SAY(splice(p[0], NULL, s[0], NULL, 3000, SPLICE_F_NONBLOCK));
    (void)fcntl(p[0], F_SETFL, 0);
    (void)write(p[1], buf, 7);
    (void)close(p[1]);
    SAY(splice(p[0], NULL, s[0], NULL, 100, 0));
    SAY(splice(p[0], NULL, s[0], NULL, 100, 0));
    done();
    fresh(0); /* no room */
    fill(s[0]);
    nonblock(s[0], true);
    SAY(write(p[1], buf, 5000));
    while (splice(p[0], NULL, s[0], NULL, 3000, 0) > 0) /* the kernel counts its room by pages */
        (void)write(p[1], buf, 3000);
    SAY(splice(p[0], NULL, s[0], NULL, 3000, 0));
    nonblock(s[0], false);
    struct timeval tv = {0, 60000};
    (void)setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    SAY(splice(p[0], NULL, s[0], NULL, 3000, 0));
    drain(s[1]);
    SAY(splice(p[0], NULL, s[0], NULL, 2000, 0));
    done();
    fresh(0); /* the peer has gone: the first is lost, the second is told */
    SAY(write(p[1], buf, 5000));
    (void)close(s[1]);
    SAY(splice(p[0], NULL, s[0], NULL, 1000, 0));
    rest_ms(20);
    pipes_caught = 0;
    SAY(splice(p[0], NULL, s[0], NULL, 1000, 0));
    printf("SIGPIPE %d\n", pipes_caught);
    done();
    fresh(0);
    SAY(write(p[1], buf, 5000));
    (void)shutdown(s[0], SHUT_WR);
    pipes_caught = 0;
    SAY(splice(p[0], NULL, s[0], NULL, 1000, 0));
    printf("SIGPIPE %d\n", pipes_caught);
    done();
}

static void refused(void)
{
    off64_t zero = 0;
    int file = memfd_create("posix", 0), other[2];
    fresh(0);
    pair(other);
    (void)ftruncate(file, 1000);
    (void)send_all(s[0], 10);
    settle(s[1], 10);
    SAY(splice(s[1], NULL, other[0], NULL, 10, 0));
    SAY(splice(s[1], NULL, file, NULL, 10, 0));
    SAY(splice(file, NULL, s[0], NULL, 10, 0));
    SAY(splice(s[1], NULL, -1, NULL, 10, 0));
    SAY(splice(-1, NULL, s[0], NULL, 10, 0));
    SAY(splice(s[1], NULL, p[0], NULL, 10, 0));
    SAY(splice(p[1], NULL, s[0], NULL, 10, 0));
    SAY(splice(s[1], NULL, p[1], NULL, 10, 0x100));
    SAY(splice(s[1], NULL, p[1], &zero, 10, 0));
    SAY(splice(s[1], &zero, p[1], NULL, 10, 0));
    SAY(splice(p[0], &zero, s[0], NULL, 10, SPLICE_F_NONBLOCK));
    SAY(splice(p[0], NULL, s[0], &zero, 10, SPLICE_F_NONBLOCK));
    SAY(splice(s[1], NULL, p[1], (off64_t *)8, 10, 0));
    SAY(tee(s[1], p[1], 10, 0));
    SAY(tee(p[0], s[0], 10, 0));
    zero = 0;
    SAY(sendfile(p[1], s[1], &zero, 10));
    SAY(sendfile(p[0], s[1], NULL, 10));
    SAY(sendfile(p[1], s[1], NULL, 4)); /* since Linux 5.12 a splice */
    SAY(read(p[0], buf, 100));
    SAY(recv(s[1], buf, 100, MSG_DONTWAIT));
    SAY(sendfile(s[0], s[1], NULL, 10));
    SAY(sendfile(s[0], -1, NULL, 10));
    SAY(sendfile(s[0], -1, NULL, 0));
    SAY(sendfile(s[0], p[1], NULL, 10));
    SAY(sendfile(s[0], file, (off64_t *)8, 10));
    zero = -5;
    SAY(sendfile(s[0], file, &zero, 10));
    zero = 0;
    SAY(sendfile(s[0], p[0], &zero, 10));
    int wo = open("/dev/null", O_WRONLY);
    SAY(sendfile(s[0], wo, NULL, 10));
    (void)close(wo);
    (void)close(file);
    (void)close(other[0]);
    (void)close(other[1]);
    done();
}

static void from_file(void)
{
    off64_t at_byte = 100;
    int file = memfd_create("posix", 0);
    for (int i = 0; i < 32; i++)
        (void)write(file, buf, sizeof buf);
    fresh(0);
    SAY(lseek(file, 0, SEEK_SET));
    SAY(sendfile(s[0], file, NULL, 1000));
    SAY(lseek(file, 0, SEEK_CUR));
    SAY(sendfile(s[0], file, &at_byte, 1000));
    SAY(at_byte);
    SAY(lseek(file, 0, SEEK_CUR));
    SAY(take(s[1], 2000));
    at_byte = (off64_t)sizeof buf * 32 - 10;
    SAY(sendfile(s[0], file, &at_byte, 1000));
    SAY(sendfile(s[0], file, &at_byte, 1000));
    SAY(sendfile(s[0], file, &at_byte, 0));
    SAY(take(s[1], 10));
    struct timeval tv = {0, 60000};
    (void)setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    fill(s[0]);
    at_byte = 0;
    nonblock(s[0], true);
    while (sendfile(s[0], file, &at_byte, 1000) > 0)
        ;
    nonblock(s[0], false);
    at_byte = 0;
    SAY(sendfile(s[0], file, &at_byte, 1000));
    nonblock(s[0], true);
    SAY(sendfile(s[0], file, &at_byte, 1000));
    SAY(at_byte);
    drain(s[1]);
    (void)close(s[1]);
    rest_ms(20);
    SAY(sendfile(s[0], file, &at_byte, 1000));
    rest_ms(20);
    pipes_caught = 0;
    SAY(sendfile(s[0], file, &at_byte, 1000));
    printf("SIGPIPE %d\n", pipes_caught);
    SAY(at_byte);
    (void)close(file);
    done();
}

int main(void)
{
    (void)signal(SIGPIPE, on_pipe);
    from_session();
    into_session();
    refused();
    from_file();
    return 0;
}
