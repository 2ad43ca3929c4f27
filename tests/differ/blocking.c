/* blocking.c - blocked reads and writes: what ends them, and with what. */
#include "differ.h"

static char text[65536];

static long recv_some(void *fd)
{
    return recv(*(int *)fd, (char[100]){0}, 100, 0);
}

static long recv_one(void *fd)
{
    return recv(*(int *)fd, (char[1]){0}, 1, 0);
}

static long send_block(void *fd)
{
    return send(*(int *)fd, text, sizeof text, MSG_NOSIGNAL);
}

static long send_bytes(void *fd)
{
    return send_till_error(*(int *)fd);
}

/* A read that blocks in a thread while the far side does something. */
static void while_reading(const char *orders)
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    side_start(&side, recv_some, &m.s);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "%s", orders));
    say("%s", side_end(&side));
}

CASE(read_data, "data ends a blocked read")
{
    while_reading("send 7");
}

CASE(read_end, "the end ends a blocked read")
{
    while_reading("shutdown wr");
}

CASE(read_close, "a close ends a blocked read")
{
    while_reading("close");
}

CASE(read_reset, "a reset ends a blocked read")
{
    while_reading("rst");
}

CASE(read_killed, "the peer's death ends a blocked read")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    side_start(&side, recv_some, &m.s);
    side_blocked(&side);
    far_kill(&m.far);
    say("%s", side_end(&side));
    say("%s", polled_soon(m.s, POLLIN | POLLRDHUP));
}

CASE(killed_with_unread, "a peer that dies with unread bytes resets")
{
    struct meeting m = meet_as_server(FRESH);
    SAY(send(m.s, "abc", 3, 0));
    say("far: %s", far_do(&m.far, "sleep 5; send 2; unread"));
    far_kill(&m.far);
    say("%s", polled_soon(m.s, POLLERR | POLLHUP));
    SAY(recv(m.s, text, 9, 0));
    SAY(recv(m.s, text, 9, 0));
}

CASE(killed_after_data, "what a peer has sent before its death is read, then the end")
{
    struct meeting m = meet_as_client(FRESH);
    say("far: %s", far_do(&m.far, "send 50000"));
    far_kill(&m.far);
    say("%ld", take(m.s, 0, 60000, 0));
    SAY(recv(m.s, text, 9, 0));
}

static void while_writing(const char *orders)
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    fill(m.s);
    side_start(&side, send_bytes, &m.s);
    side_blocked(&side);
    say("far: %s", far_do(&m.far, "%s", orders));
    const char *end = side_end(&side);
    say("%s", end);
    SAY(send(m.s, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT));
}

CASE(write_reset, "a reset ends a blocked write")
{
    while_writing("rst");
}

CASE(write_close, "a close with unread bytes ends a blocked write")
{
    while_writing("close");
}

CASE(write_killed, "the peer's death ends a blocked write")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    fill(m.s);
    side_start(&side, send_bytes, &m.s);
    side_blocked(&side);
    far_kill(&m.far);
    say("%s", side_end(&side));
}

CASE(write_room, "a peer that reads ends a blocked write")
{
    struct meeting m = meet_as_server(FRESH);
    struct side side;
    long all = fill(m.s);
    side_start(&side, send_block, &m.s);
    side_blocked(&side);
    far_begin(&m.far, "drain");
    say("%s", side_end(&side));
    SAY(shutdown(m.s, SHUT_WR));
    say("all came: %d", atol(far_answer(&m.far)) == all + (long)sizeof text);
}

CASE(read_and_write, "one thread reads, another writes, both blocked on the same connection")
{
    struct meeting m = meet_as_server(FRESH);
    struct side reader, writer;
    fill(m.s);
    side_start(&reader, recv_some, &m.s);
    side_start(&writer, send_block, &m.s);
    side_blocked(&reader);
    side_blocked(&writer);
    say("far: %s", far_do(&m.far, "send 3"));
    say("reader: %s", side_end(&reader));
    far_begin(&m.far, "drain");
    say("writer: %s", side_end(&writer));
    close(m.s);
    far_answer(&m.far);
}

CASE(two_readers, "two threads block in reads of one connection; each gets a byte")
{
    struct pair p = pair_here();
    struct side a, b;
    side_start(&a, recv_one, &p.s);
    side_start(&b, recv_one, &p.s);
    side_blocked(&a);
    side_blocked(&b);
    SAY(send(p.c, "xy", 2, 0));
    say("%s", side_end(&a));
    say("%s", side_end(&b));
}

CASE(two_readers_end, "two threads block in reads; the end is for both")
{
    struct pair p = pair_here();
    struct side a, b;
    side_start(&a, recv_one, &p.s);
    side_start(&b, recv_one, &p.s);
    side_blocked(&a);
    side_blocked(&b);
    SAY(shutdown(p.c, SHUT_WR));
    say("%s", side_end(&a));
    say("%s", side_end(&b));
}

CASE(big_both_ways, "three megabytes each way at once, every byte checked")
{
    struct meeting m = meet_as_client(FRESH);
    pid_t pid;
    far_begin(&m.far, "send 3000000; recv 3000000");
    pid = fork();
    if (pid == 0)
        _exit(give(m.s, 0, 3000000) != 3000000);
    say("read: %ld", take(m.s, 0, 3000000, 0));
    int status = -1;
    waitpid(pid, &status, 0);
    say("written: %d, far: %s", status == 0, far_answer(&m.far));
}

CASE(became_nonblocking, "O_NONBLOCK set while a read is blocked does not end it")
{
    struct pair p = pair_here();
    struct side side;
    side_start(&side, recv_one, &p.s);
    side_blocked(&side);
    set_nonblock(p.s, 1);
    side_blocked(&side);
    SAY(send(p.c, "x", 1, 0));
    say("%s", side_end(&side));
    SAY(recv(p.s, text, 1, 0));
}

CASE(request_and_answer, "a thousand round trips with a fresh program")
{
    struct meeting m = meet_as_server(FRESH);
    int good = 0;
    for (int i = 0; i < 1000; i++) {
        if (i % 100 == 0)
            far_begin(&m.far, "recv 100; send 100");
        if (give(m.s, i, 1) == 1 && i % 100 == 99)
            good += take(m.s, i - 99, 100, 0) == 100 && strcmp(far_answer(&m.far), "100, 100") == 0;
    }
    say("%d of 10", good);
}
