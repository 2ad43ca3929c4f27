/* sendfile_splice.c - bytes that go between connections, files and pipes without the program's seeing them.
 */
#include "differ.h"

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

static char text[65536];

/* A file of so many bytes of the pattern. */
static int file_of(long size)
{
    int fd = memfd_create("differ", 0);
    for (long i = 0; i < size;) {
        long part = size - i < (long)sizeof text ? size - i : (long)sizeof text;
        for (long k = 0; k < part; k++)
            text[k] = (char)pattern(i + k);
        if (pwrite(fd, text, (size_t)part, i) != part)
            say("no file");
        i += part;
    }
    return fd;
}

CASE(sendfile, "a file, from its offset and from one that is given")
{
    struct pair p = pair_here();
    int f = file_of(10000);
    off_t at = 1000;
    SAY(sendfile(p.c, f, NULL, 4000));
    say("offset %ld", (long)lseek(f, 0, SEEK_CUR));
    say("%ld", take(p.s, 0, 4000, 0));
    SAY(sendfile(p.c, f, &at, 500));
    say("given %ld, offset %ld", (long)at, (long)lseek(f, 0, SEEK_CUR));
    say("%ld", take(p.s, 1000, 500, 0));
    SAY(sendfile(p.c, f, NULL, 100000));
    say("%ld", take(p.s, 4000, 6000, 0));
    SAY(sendfile(p.c, f, NULL, 100000));
    at = 20000;
    SAY(sendfile(p.c, f, &at, 10));
    SAY(sendfile(p.c, f, NULL, 0));
    at = -1;
    SAY(sendfile(p.c, f, &at, 10));
}

CASE(sendfile_big, "three megabytes to a fresh program, every byte checked")
{
    struct meeting m = meet_as_server(FRESH);
    int f = file_of(3000000);
    far_begin(&m.far, "recv 3000000");
    long all = 0, n;
    while (all < 3000000 && (n = sendfile(m.s, f, NULL, 3000000)) > 0)
        all += n;
    say("%ld, far: %s", all, far_answer(&m.far));
}

CASE(sendfile_full, "to a full peer, non-blocking; to a shut one; the offset stays where nothing went")
{
    struct pair p = pair_here();
    int f = file_of(10000);
    long n;
    off_t at;
    fill(p.c);
    set_nonblock(p.c, 1);
    do {
        at = 0;
        n = sendfile(p.c, f, &at, 1);
    } while (n == 1);
    say("%s, offset %ld", result_text(n, errno), (long)at);
    SAY(shutdown(p.c, SHUT_WR));
    signal(SIGPIPE, SIG_IGN);
    SAY(sendfile(p.c, f, &at, 4000));
    SAY(sendfile(p.c, f, NULL, 4000));
    say("offsets %ld and %ld", (long)at, (long)lseek(f, 0, SEEK_CUR));
}

CASE(sendfile_unreadable,
     "from what cannot be read: refused at once, also by a connection that is full and would block")
{
    struct pair p = pair_here();
    off_t at = 0;
    int f = open("/dev/null", O_WRONLY);
    SAY(sendfile(p.c, f, &at, 100));
    SAY(sendfile(p.c, f, NULL, 100));
    SAY(sendfile(p.c, f, &at, 0));
    SAY(sendfile(p.c, 999, &at, 100));
    fill(p.c);
    SAY(sendfile(p.c, f, &at, 100));
    SAY(sendfile(p.c, 999, NULL, 100));
    set_nonblock(p.c, 1);
    SAY(sendfile(p.c, f, &at, 100));
}

CASE(sendfile_no_places, "from what cannot seek: a socket, a pipe")
{
    struct pair p = pair_here();
    int u[2] = {-1, -1}, q[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, u) || pipe(q) || write(u[1], "hello", 5) != 5 ||
        write(q[1], "hello", 5) != 5)
        say("no beginning");
    SAY(sendfile(p.c, u[0], NULL, 5));
    SAY(sendfile(p.c, q[0], NULL, 5));
}

CASE(sendfile_sigpipe, "sendfile after SHUT_WR gives SIGPIPE")
{
    struct pair p = pair_here();
    handle(SIGPIPE, 0);
    SAY(shutdown(p.c, SHUT_WR));
    SAY(sendfile(p.c, file_of(100), NULL, 100));
    say("handled %d", (int)handled);
}

CASE(sendfile_wrong, "from a connection, to a listener, from a closed number")
{
    struct pair p = pair_here();
    int f = file_of(100);
    signal(SIGPIPE, SIG_IGN);
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    SAY(sendfile(p.s, p.s, NULL, 1));
    SAY(sendfile(f, p.s, NULL, 1));
    SAY(sendfile(p.l, f, NULL, 1));
    SAY(sendfile(p.c, 999, NULL, 1));
    SAY(sendfile(999, f, NULL, 1));
    say("still there: %d", unread(p.s));
}

CASE(splice_out, "connection to pipe to connection")
{
    struct pair p = pair_here(), q = pair_here();
    int t[2] = {-1, -1};
    SAY(pipe(t));
    say("%ld", give(p.c, 0, 5000));
    say("arrived: %d", SOON(unread(p.s) == 5000));
    SAY(splice(p.s, NULL, t[1], NULL, 2000, 0));
    SAY(splice(p.s, NULL, t[1], NULL, 3000, SPLICE_F_MOVE));
    SAY(splice(t[0], NULL, q.c, NULL, 5000, SPLICE_F_MORE));
    say("%ld", take(q.s, 0, 5000, 0));
}

CASE(splice_empty, "nothing there: EAGAIN with O_NONBLOCK; the end is 0")
{
    struct pair p = pair_here();
    int t[2] = {-1, -1};
    SAY(pipe(t));
    set_nonblock(p.s, 1);
    SAY(splice(p.s, NULL, t[1], NULL, 100, 0));
    SAY(shutdown(p.c, SHUT_WR));
    polled_soon(p.s, POLLRDHUP);
    SAY(splice(p.s, NULL, t[1], NULL, 100, 0));
    SAY(splice(p.s, NULL, t[1], NULL, 0, 0));
    SAY(splice(t[0], NULL, p.s, NULL, 100, SPLICE_F_NONBLOCK));
}

CASE(splice_wrong, "two connections, offsets, closed numbers, tee")
{
    struct pair p = pair_here();
    int t[2] = {-1, -1};
    loff_t at = 0;
    SAY(pipe(t));
    SAY(send(p.c, "x", 1, 0));
    polled_soon(p.s, POLLIN);
    SAY(splice(p.s, NULL, p.c, NULL, 1, 0));
    SAY(splice(p.s, &at, t[1], NULL, 1, 0));
    SAY(splice(p.s, NULL, t[1], &at, 1, 0));
    SAY(splice(999, NULL, t[1], NULL, 1, 0));
    SAY(splice(p.s, NULL, 999, NULL, 1, 0));
    SAY(splice(p.l, NULL, t[1], NULL, 1, 0));
    SAY(tee(p.s, t[1], 1, 0));
    say("still there: %d", unread(p.s));
}

/* More bytes than the pipe holds: some are moved and the call returns. */
static void to_small_pipe(unsigned flags, long have, size_t want)
{
    struct meeting m = meet_as_server(FRESH);
    int t[2] = {-1, -1};
    SAY(pipe(t));
    far_begin(&m.far, "send %ld", have);
    say("arrived: %d", SOON(unread(m.s) >= 30000));
    long n = splice(m.s, NULL, t[1], NULL, want, flags);
    say("moved some: %d", n > 0 && n <= 65536 * 16);
    long got = 0;
    while (n > 0 && got < n) {
        long part = read(t[0], text, sizeof text);
        for (long i = 0; i < part; i++)
            if ((unsigned char)text[i] != pattern(got + i))
                say("a wrong byte");
        got += part > 0 ? part : n;
    }
    say("the rest: %d, sent %s", take(m.s, n, have - n, 0) == have - n, far_answer(&m.far));
}

CASE(splice_more_than_pipe, "more than the pipe has room for, SPLICE_F_NONBLOCK")
{
    to_small_pipe(SPLICE_F_NONBLOCK, 300000, 240000);
}

CASE(splice_more_than_pipe_blocking, "more than the pipe has room for, no flag")
{
    to_small_pipe(0, 300000, 240000);
}

CASE(splice_more_than_pipe_move, "a megabyte into a pipe, SPLICE_F_NONBLOCK and SPLICE_F_MOVE")
{
    to_small_pipe(SPLICE_F_NONBLOCK | SPLICE_F_MOVE, 1000000, 1 << 20);
}

CASE(splice_full_pipe, "into a pipe that is full: EAGAIN with SPLICE_F_NONBLOCK, and no byte is lost")
{
    struct pair p = pair_here();
    int t[2] = {-1, -1};
    SAY(pipe(t));
    set_nonblock(t[1], 1);
    while (write(t[1], text, 4096) > 0)
        ;
    say("%ld", give(p.c, 0, 3000));
    say("arrived: %d", SOON(unread(p.s) == 3000));
    SAY(splice(p.s, NULL, t[1], NULL, 3000, SPLICE_F_NONBLOCK));
    SAY(splice(p.s, NULL, t[1], NULL, 3000, 0));
    say("%ld", take(p.s, 0, 3000, 0));
}

/* A pipe with a name, which knows no read or write that does not wait. */
static void fifo(int t[2])
{
    char at[] = "/tmp/differ-XXXXXX", name[40];
    if (!mkdtemp(at))
        say("no directory");
    snprintf(name, sizeof name, "%s/fifo", at);
    if (mkfifo(name, 0600) || (t[0] = open(name, O_RDONLY | O_NONBLOCK)) < 0 ||
        (t[1] = open(name, O_WRONLY)) < 0)
        say("no fifo");
    set_nonblock(t[0], 0);
    unlink(name);
    rmdir(at);
}

CASE(splice_fifo, "through a pipe with a name, both ways, more than was there, and in many small writes")
{
    struct pair p = pair_here(), q = pair_here();
    int t[2] = {-1, -1};
    fifo(t);
    say("%ld", give(p.c, 0, 5000));
    say("arrived: %d", SOON(unread(p.s) == 5000));
    SAY(splice(p.s, NULL, t[1], NULL, 2000, 0));
    SAY(splice(p.s, NULL, t[1], NULL, 10000, SPLICE_F_MOVE));
    SAY(splice(t[0], NULL, q.c, NULL, 10000, SPLICE_F_NONBLOCK));
    say("%ld", take(q.s, 0, 5000, 0));
    SAY(splice(t[0], NULL, q.c, NULL, 10, SPLICE_F_NONBLOCK));
    for (long at = 5000; at < 5040; at++) {
        unsigned char c = pattern(at);
        if (write(t[1], &c, 1) != 1)
            say("not written");
    }
    for (long all = 0; all < 40;) {
        long n = splice(t[0], NULL, q.c, NULL, 40 - all, 0);
        if (n <= 0)
            say("%s", result_text(n, errno));
        all += n > 0 ? n : 40;
    }
    say("%ld", take(q.s, 5000, 40, 0));
    close(t[1]);
    SAY(splice(t[0], NULL, q.c, NULL, 10, 0));
}

CASE(splice_fifo_full,
     "out of a connection into a pipe with a name that is full, has little room, and no reader")
{
    struct pair p = pair_here();
    int t[2] = {-1, -1};
    long all = 0, n;
    fifo(t);
    handle(SIGPIPE, 0);
    set_nonblock(t[1], 1);
    while ((n = write(t[1], text, 4096)) > 0)
        all += n;
    say("%ld", give(p.c, 0, 3000));
    say("arrived: %d", SOON(unread(p.s) == 3000));
    SAY(splice(p.s, NULL, t[1], NULL, 3000, SPLICE_F_NONBLOCK));
    while (all > 0 && (n = read(t[0], text, sizeof text)) > 0)
        all -= n;
    SAY(splice(p.s, NULL, t[1], NULL, 1000, SPLICE_F_NONBLOCK));
    say("%ld", (long)read(t[0], text, 1000));
    for (long i = 0; i < 1000; i++)
        if ((unsigned char)text[i] != pattern(i))
            say("a wrong byte");
    close(t[0]);
    SAY(splice(p.s, NULL, t[1], NULL, 1000, SPLICE_F_NONBLOCK));
    say("handled %d, still there: %d", (int)handled, unread(p.s));
}

CASE(splice_proxy, "a proxy by one pipe: two megabytes from one fresh program to another")
{
    struct meeting from = meet_as_server(FRESH), to = meet_as_client(FRESH);
    int t[2] = {-1, -1};
    long all = 0;
    SAY(pipe(t));
    far_begin(&from.far, "send 2000000; shutdown wr");
    far_begin(&to.far, "recv 2000000");
    for (;;) {
        long n = splice(from.s, NULL, t[1], NULL, 1 << 20, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0 && errno == EAGAIN && strcmp(polled(from.s, POLLIN, 2000), "-") != 0)
            continue;
        if (n <= 0)
            break;
        for (long out = 0; out < n;) {
            long part = splice(t[0], NULL, to.s, NULL, (size_t)(n - out), SPLICE_F_MOVE);
            if (part <= 0)
                break;
            out += part;
        }
        all += n;
    }
    say("%ld, sent %s", all, far_answer(&from.far));
    say("received %s", far_answer(&to.far));
}

static long splice_in(void *fds)
{
    return splice(((int *)fds)[0], NULL, ((int *)fds)[1], NULL, 100, 0);
}

CASE(splice_blocks, "a blocked splice is woken by data and by the end")
{
    struct meeting m = meet_as_server(FRESH);
    int t[2] = {-1, -1};
    SAY(pipe(t));
    int fds[2] = {m.s, t[1]};
    struct side side;
    side_start(&side, splice_in, fds);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "send 5"));
    say("%s", side_end(&side));
    side_start(&side, splice_in, fds);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "close"));
    say("%s", side_end(&side));
}

CASE(vmsplice_and_copy, "vmsplice and copy_file_range refuse connections")
{
    struct pair p = pair_here();
    struct iovec part = {text, 10};
    int f = file_of(10);
    SAY(vmsplice(p.c, &part, 1, 0));
    SAY(copy_file_range(f, NULL, p.c, NULL, 10, 0));
    SAY(copy_file_range(p.c, NULL, f, NULL, 10, 0));
}

CASE(splice_first_look, "splice by one who connected and has not looked yet, without waiting")
{
    struct pair p = pair_here();
    int q[2];
    SAY(pipe(q));
    SAY(send(p.s, "abc", 3, 0));
    set_nonblock(p.c, 1);
    say("found: %d", SOON(splice(p.c, NULL, q[1], NULL, 9, SPLICE_F_NONBLOCK) == 3));
    SAY(splice(p.c, NULL, q[1], NULL, 9, SPLICE_F_NONBLOCK));
}

/* How many bytes go until there is no room. `once`: until one call has sent less than it was asked to. */
static long sendfile_till_full(int to, int f, int once)
{
    off_t at = 0;
    ssize_t n;
    while ((n = sendfile(to, f, &at, once ? 40000000 : 100000)) > 0 && !once)
        ;
    return n < 0 && errno != EAGAIN ? -1 : at;
}

static void edge_after_sendfile(int once)
{
    struct pair p = pair_here();
    int f = memfd_create("x", 0), ep = epoll_with(p.c, EPOLLOUT | EPOLLET, 1);
    SAY(ftruncate(f, 40000000));
    set_nonblock(p.c, 1);
    say("%s", epolled(ep, 8, 1000));
    long sent = sendfile_till_full(p.c, f, once);
    say("%s", sent > 0 && sent < 40000000 ? "full" : "NOT FULL");
    say("%s", epolled(ep, 8, 0));
    say("%s", drain(p.s, sent) == sent ? "all" : "NOT ALL");
    say("%s", epolled(ep, 8, 2000));
    SAY(send(p.c, "x", 1, 0));
}

CASE(sendfile_edge, "edge: when sendfile has found no room, there being some is an event")
{
    edge_after_sendfile(0);
}

CASE(sendfile_edge_short, "edge: the same when it has sent less than it was asked to")
{
    edge_after_sendfile(1);
}

CASE(splice_edge, "edge: the same of splice")
{
    struct pair p = pair_here();
    int q[2], ep = epoll_with(p.c, EPOLLOUT | EPOLLET, 1);
    long sent = 0, n = 1;
    SAY(pipe(q));
    set_nonblock(p.c, 1);
    say("%s", epolled(ep, 8, 1000));
    while (n > 0 && write(q[1], text, 4096) == 4096) {
        n = splice(q[0], NULL, p.c, NULL, 4096, SPLICE_F_NONBLOCK);
        sent += n > 0 ? n : 0;
    }
    say("%s", n < 0 ? result_text(n, errno) : "NOT FULL");
    say("%s", epolled(ep, 8, 0));
    say("%s", drain(p.s, sent) == sent ? "all" : "NOT ALL");
    say("%s", epolled(ep, 8, 2000));
}
