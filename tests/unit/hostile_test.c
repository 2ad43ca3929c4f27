/* hostile_test.c - the daemon against an app that lies: malformed, truncated, reordered, replayed and random
 * messages, foreign descriptors, floods that nobody reads.
 *
 * What must hold each time: the liar gets an error or the end of its connection; a bystander, attached all
 * the time, is answered; in the end the daemon holds no descriptor more than before and stops with status 0
 * (so that a sanitizer has its say).
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "berth/error.h"
#include "fake_app.h"
#include "shm/ctlsock.h"
#include "shm/segment.h"

static struct fake_app bystander;

static void still_serving(const char *after)
{
    check(daemon_alive(&the_daemon), "the daemon died of %s", after);
    int64_t start = clock_now();
    int rc = fake_status(&bystander);
    check(rc == 0, "after %s the bystander got %s", after, berth_error_name(rc));
    check(clock_now() - start < longer(2 * NS_PER_SEC), "after %s the bystander waited %lld ms", after,
          (long long)((clock_now() - start) / NS_PER_MS));
}

/* ---- lengths ---- */

static const struct {
    uint16_t type;
    size_t len;
    int fds;
    bool replied;
} rows[] = {
    {CTL_HELLO, sizeof(struct ctl_hello), 2, true},
    {CTL_CHILD, sizeof(struct ctl_child), 1, false},
    {CTL_CHILD_HELLO, sizeof(struct ctl_child_hello), 1, true},
    {CTL_PART, sizeof(struct ctl_header), 0, false},
    {CTL_DETACH, sizeof(struct ctl_header), 0, true},
    {CTL_LISTEN, sizeof(struct ctl_listen), 1, true},
    {CTL_UNLISTEN, sizeof(struct ctl_listener), 0, false},
    {CTL_SHUT, sizeof(struct ctl_listener), 0, false},
    {CTL_HIDE, sizeof(struct ctl_listener), 1, true},
    {CTL_GIVE, sizeof(struct ctl_move), 3, true},
    {CTL_TAKE, sizeof(struct ctl_move), 1, true},
    {CTL_MOVED, sizeof(struct ctl_move), 0, false},
    {CTL_REPLAY, sizeof(struct ctl_replay), 1, true},
    {CTL_BACKLOG, sizeof(struct ctl_listener), 0, false},
    {CTL_INTRODUCE, sizeof(struct ctl_introduce), 0, true},
    {CTL_OUTBOX, sizeof(struct ctl_outbox), 1, false},
    {CTL_ANNOUNCE, sizeof(struct ctl_outbox), 0, false},
    {CTL_SEGMENT, sizeof(struct ctl_outbox), 1, false},
    {CTL_RETIRE, sizeof(struct ctl_outbox), 0, false},
    {CTL_LEAVE, sizeof(struct ctl_outbox), 0, false},
    {CTL_GET_OUTBOX, sizeof(struct ctl_outbox), 0, true},
    {CTL_GET_SEGMENT, sizeof(struct ctl_outbox), 0, true},
    {CTL_GET_PEERS, sizeof(struct ctl_outbox), 0, false},
    {CTL_PORTS, sizeof(struct ctl_ports), 0, true},
    {CTL_RETURN_PORTS, sizeof(struct ctl_ports), 0, false},
    {CTL_STAY, sizeof(struct ctl_stay), 0, true},
    {CTL_SHOW, sizeof(struct ctl_show), 0, true},
    {CTL_NS_ADD, sizeof(struct ctl_ns), 0, true},
    {CTL_NS_DEL, sizeof(struct ctl_ns), 0, true},
    {CTL_MEMORY, sizeof(struct ctl_memory), 0, true},
    {CTL_STATUS, sizeof(struct ctl_header), 0, true},
};
#define ROWS (sizeof rows / sizeof rows[0])

static void liar(struct fake_app *a, bool attached)
{
    if (attached)
        fake_attach(a, &the_daemon, "liar");
    else
        fake_connect(a, &the_daemon);
}

/* Sends one packet and demands the end of the connection, with PROTOCOL before it if anything. */
static void must_end_it(struct fake_app *a, const void *msg, size_t len, const int *fds, int nfds,
                        const char *what, int number)
{
    (void)fake_send(a, msg, len, fds, nfds);
    int told = 0;
    for (int i = 0; i < 50; i++) {
        if (fake_receive(a) == 0) {
            check(told == 0 || told == BERTH_E_PROTOCOL, "%s %d: closed with %s", what, number,
                  berth_error_name(told));
            fake_close(a);
            return;
        }
        if (a->in.h.type != CTL_PEER && a->in.h.type != CTL_DEAD)
            told = a->in.h.status;
    }
    check(false, "%s %d was tolerated", what, number);
}

static int a_descriptor(uint64_t which)
{
    switch (which % 6) {
    case 0:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 1:
        return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    case 2:
        return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 3:
        return fake_page(1);
    case 4:
        return memfd_create("liar", MFD_CLOEXEC);
    default:
        return open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    }
}

static void truncated_messages(void **state)
{
    struct fake_app a;
    union fake_packet m;
    for (int attached = 0; attached < 2; attached++) {
        for (size_t r = 0; r < ROWS; r++) {
            if (rows[r].type == CTL_HELLO && attached)
                continue; /* refused as such: ALREADY_ATTACHED */
            for (size_t len = sizeof(struct ctl_header); len < rows[r].len; len += 8) {
                memset(&m, 0, sizeof m);
                m.h = (struct ctl_header){.type = rows[r].type, .len = (uint16_t)len, .seq = 1};
                liar(&a, attached);
                must_end_it(&a, &m, len, NULL, 0, "truncated message", rows[r].type);
            }
        }
    }
    still_serving("truncated messages");
}

static void lengths_that_disagree(void **state)
{
    struct fake_app a;
    union fake_packet m;
    for (size_t r = 0; r < ROWS; r++) {
        static const int off[] = {-1, 1, 8, 1000};
        for (size_t i = 0; i < 4; i++) {
            memset(&m, 0, sizeof m);
            m.h = (struct ctl_header){
                .type = rows[r].type, .len = (uint16_t)(rows[r].len + (size_t)off[i]), .seq = 1};
            liar(&a, rows[r].type != CTL_HELLO);
            must_end_it(&a, &m, rows[r].len, NULL, 0, "wrong length", rows[r].type);
            if (off[i] < 0 || rows[r].type == CTL_HELLO)
                continue;
            liar(&a, true); /* longer, and says so */
            must_end_it(&a, &m, m.h.len, NULL, 0, "overlong message", rows[r].type);
        }
    }
    for (size_t len = 1; len < sizeof(struct ctl_header); len++) {
        memset(&m, 0x11, sizeof m);
        liar(&a, true);
        must_end_it(&a, &m, len, NULL, 0, "half a header", (int)len);
    }
    uint8_t huge[CTL_MAX + 64] = {0};
    ((struct ctl_header *)huge)->type = CTL_STATUS;
    ((struct ctl_header *)huge)->len = sizeof huge;
    liar(&a, true);
    must_end_it(&a, huge, sizeof huge, NULL, 0, "a packet longer than any", 0);
    still_serving("wrong lengths");
}

static void unknown_types_and_replies_as_requests(void **state)
{
    struct fake_app a;
    union fake_packet m;
    for (int type = 0; type < CTL_TYPES + 3; type++) {
        bool known = false;
        for (size_t r = 0; r < ROWS; r++)
            known |= rows[r].type == type;
        if (known)
            continue;
        memset(&m, 0, sizeof m);
        m.h = (struct ctl_header){.type = (uint16_t)type, .len = sizeof m.outbox_is, .seq = 1};
        liar(&a, true);
        must_end_it(&a, &m, m.h.len, NULL, 0, "type", type);
    }
    still_serving("unknown types");
}

static void requests_without_a_number(void **state)
{
    struct fake_app a;
    union fake_packet m;
    for (size_t r = 0; r < ROWS; r++) {
        if (!rows[r].replied || rows[r].type == CTL_HELLO)
            continue;
        memset(&m, 0, sizeof m);
        m.h = (struct ctl_header){.type = rows[r].type, .len = (uint16_t)rows[r].len};
        liar(&a, true);
        must_end_it(&a, &m, m.h.len, NULL, 0, "seq 0 in a request", rows[r].type);
    }
    still_serving("requests with seq 0");
}

/* ---- descriptors ---- */

static void wrong_numbers_of_descriptors(void **state)
{
    struct fake_app a;
    union fake_packet m;
    int fds[CTL_FDS_MAX];
    for (int i = 0; i < (int)CTL_FDS_MAX; i++)
        fds[i] = a_descriptor(0);
    for (size_t r = 0; r < ROWS; r++) {
        for (int n = 0; n <= (int)CTL_FDS_MAX; n++) {
            if (n == rows[r].fds || ((rows[r].type == CTL_INTRODUCE || rows[r].type == CTL_HIDE) && n < 2) ||
                rows[r].type == CTL_CHILD_HELLO || (rows[r].type == CTL_GIVE && n > 0 && n < 4) ||
                (rows[r].type == CTL_HELLO && n == 3))
                continue;
            memset(&m, 0, sizeof m);
            m.h = (struct ctl_header){.type = rows[r].type, .len = (uint16_t)rows[r].len, .seq = 1};
            if (rows[r].type == CTL_HELLO)
                fake_hello_fill(&m.hello, "liar", NULL, NULL, CTL_SCOPE_LOCAL),
                    m.h = (struct ctl_header){.type = CTL_HELLO, .len = sizeof m.hello, .seq = 1};
            liar(&a, rows[r].type != CTL_HELLO);
            must_end_it(&a, &m, m.h.len, fds, n, "descriptors with type", rows[r].type);
        }
    }
    for (int i = 0; i < (int)CTL_FDS_MAX; i++)
        close(fds[i]);
    still_serving("wrong numbers of descriptors");
}

static void more_descriptors_than_any_message_has(void **state)
{
    struct fake_app a;
    struct ctl_header h = {.type = CTL_STATUS, .len = sizeof h, .seq = 1};
    enum { MANY = 60 };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(MANY * sizeof(int))];
    } room = {0};
    struct iovec iov = {&h, sizeof h};
    struct msghdr mh = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room.bytes, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(MANY * sizeof(int));
    int fd = a_descriptor(0);
    for (int i = 0; i < MANY; i++)
        memcpy(CMSG_DATA(c) + (size_t)i * sizeof fd, &fd, sizeof fd);
    liar(&a, true);
    assert_int_equal(sendmsg(a.sock, &mh, 0), sizeof h);
    assert_true(fake_ended(&a));
    fake_close(&a);
    close(fd);
    still_serving("60 descriptors at once");
}

static void hello_with(int place, int fd, const char *what)
{
    struct fake_app a;
    struct ctl_hello m;
    check(fd >= 0, "%s: %s", what, strerror(errno));
    fake_connect(&a, &the_daemon);
    fake_hello_fill(&m, "liar", NULL, NULL, CTL_SCOPE_LOCAL);
    m.h = (struct ctl_header){.type = CTL_HELLO, .len = sizeof m, .seq = 1};
    int fds[] = {place == 0 ? fd : a_descriptor(2), place == 1 ? fd : fake_page(0)};
    must_end_it(&a, &m, sizeof m, fds, 2, what, place);
    for (int i = 0; i < 2; i++)
        close(fds[i]);
}

static int sealed(uint64_t size, uint32_t magic, uint16_t version)
{
    int fd;
    void *map;
    if (segment_create("liar", size, &fd, &map))
        return -1;
    struct worker_page *page = map;
    page->magic = magic;
    page->version = version;
    munmap(map, size);
    return fd;
}

static void foreign_descriptors_in_hello(void **state)
{
    hello_with(0, a_descriptor(0), "/dev/null as network namespace's socket");
    hello_with(0, a_descriptor(4), "a memfd as network namespace's socket");
    hello_with(1, a_descriptor(0), "/dev/null as worker page");
    hello_with(1, a_descriptor(4), "an unsealed worker page");
    hello_with(1, sealed(PAGE_BYTES, ABI_MAGIC_PAGE, ABI_VERSION), "a short worker page");
    hello_with(1, sealed(1 << 20, ABI_MAGIC_PAGE, ABI_VERSION), "a long worker page");
    hello_with(1, sealed(WORKER_PAGE_BYTES, ABI_MAGIC_DIR, ABI_VERSION),
               "a worker page with another's magic");
    hello_with(1, sealed(WORKER_PAGE_BYTES, ABI_MAGIC_PAGE, ABI_VERSION + 1),
               "a worker page of another version");
    still_serving("foreign descriptors in HELLO");
}

static void listen_with(int fd, const char *what)
{
    struct fake_app a;
    struct ctl_listen l = {
        .h = {.type = CTL_LISTEN, .len = sizeof l, .seq = 1}, .port = 7000, .proto = PROTO_TCP};
    memcpy(l.addr, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16);
    check(fd >= 0, "%s: %s", what, strerror(errno));
    liar(&a, true);
    must_end_it(&a, &l, sizeof l, &fd, 1, what, 0);
    close(fd);
}

static void foreign_descriptors_in_listen(void **state)
{
    listen_with(a_descriptor(0), "/dev/null as queue");
    listen_with(a_descriptor(1), "an eventfd as queue");
    listen_with(a_descriptor(4), "a memfd as queue");
    listen_with(a_descriptor(5), "a file as queue");
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    close(p[1]);
    listen_with(p[0], "the wrong end of a pipe as queue");
    char name[] = "/tmp/berth-fifo-XXXXXX";
    assert_non_null(mkdtemp(name));
    char path[64];
    snprintf(path, sizeof path, "%s/fifo", name);
    assert_int_equal(mkfifo(path, 0600), 0);
    listen_with(open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK),
                "a named pipe, which may be on any file system, as queue");
    unlink(path);
    rmdir(name);
    still_serving("foreign descriptors in LISTEN");
}

static void foreign_descriptors_elsewhere(void **state)
{
    struct fake_app a;
    for (uint64_t i = 0; i < 6; i++) {
        int fd = a_descriptor(i);
        struct ctl_listen l = {
            .h = {.type = CTL_LISTEN, .len = sizeof l, .seq = 1}, .port = 7000, .proto = PROTO_TCP};
        memcpy(l.addr, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16);
        liar(&a, true);
        must_end_it(&a, &l, sizeof l, &fd, 1, "no pipe for LISTEN", (int)i);
        struct ctl_child c = {.h = {.type = CTL_CHILD, .len = sizeof c}, .member = 1};
        liar(&a, true);
        must_end_it(&a, &c, sizeof c, &fd, 1, "no socket for CHILD", (int)i);
        liar(&a, true);
        struct ctl_outbox o = {.h = {.type = CTL_OUTBOX, .len = sizeof o},
                               .outbox = outbox_handle_make(a.worker, 1),
                               .facing_app = a.app};
        must_end_it(&a, &o, sizeof o, &fd, 1, "no segment for OUTBOX", (int)i);
        close(fd);
    }
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    struct ctl_listen l = {
        .h = {.type = CTL_LISTEN, .len = sizeof l, .seq = 1}, .port = 7000, .proto = PROTO_TCP};
    liar(&a, true);
    must_end_it(&a, &l, sizeof l, &p[0], 1, "the read end of the pipe for LISTEN", 0);
    close(p[0]);
    close(p[1]);
    still_serving("foreign descriptors");
}

/* ---- what a message says ---- */

static void segments_that_lie(void **state)
{
    struct fake_app a;
    for (int lie = 0; lie < 9; lie++) {
        liar(&a, true);
        outbox_handle h = outbox_handle_make(a.worker, 1);
        struct ctl_outbox o = {.h = {.type = CTL_OUTBOX, .len = sizeof o}, .outbox = h, .facing_app = a.app};
        int fd;
        void *map;
        assert_int_equal(segment_create("liar", SEGMENT_MIN, &fd, &map), 0);
        struct segment_header *s = map;
        *s = (struct segment_header){.magic = ABI_MAGIC_OUTBOX,
                                     .version = ABI_VERSION,
                                     .lines_per_slot = 2,
                                     .outbox = h,
                                     .facing_app = a.app,
                                     .size = SEGMENT_MIN,
                                     .owner_worker = a.worker};
        switch (lie) {
        case 0:
            s->magic = ABI_MAGIC_RINGS;
            break;
        case 1:
            s->version++;
            break;
        case 2:
            s->outbox++;
            break;
        case 3:
            s->index = 1;
            break;
        case 4:
            s->size *= 2;
            break;
        case 5:
            s->facing_app++;
            break;
        case 6:
            s->owner_worker++;
            break;
        case 7:
            o.outbox = outbox_handle_make(bystander.worker, 1), s->outbox = o.outbox;
            break; /* another's name */
        default:
            o.facing_app = s->facing_app = 0xfffffff0;
            break; /* an app that never was */
        }
        munmap(map, SEGMENT_MIN);
        must_end_it(&a, &o, sizeof o, &fd, 1, "lie in a segment", lie);
        close(fd);
    }
    still_serving("segments that lie");
}

static void unterminated_strings(void **state)
{
    struct fake_app a;
    for (int which = 0; which < 3; which++) {
        struct ctl_hello m;
        fake_connect(&a, &the_daemon);
        fake_hello_fill(&m, "liar", NULL, NULL, CTL_SCOPE_LOCAL);
        m.h = (struct ctl_header){.type = CTL_HELLO, .len = sizeof m, .seq = 1};
        memset(which == 0   ? m.name
               : which == 1 ? m.ns
                            : m.secret,
               'x', which == 2 ? CTL_SECRET_MAX : CTL_NAME_MAX);
        int fds[] = {a_descriptor(2), fake_page(0)};
        must_end_it(&a, &m, sizeof m, fds, 2, "unterminated string", which);
        for (int i = 0; i < 2; i++)
            close(fds[i]);
    }
    for (int which = 0; which < 3; which++) {
        struct ctl_ns m = {.id = "x"};
        memset(which == 0   ? m.id
               : which == 1 ? m.secret
                            : m.group,
               'x', which == 1 ? CTL_SECRET_MAX : CTL_NAME_MAX);
        fake_connect(&a, &the_daemon);
        int rc = fake_request(&a, CTL_NS_ADD, &m, sizeof m, NULL, 0);
        check(rc < 0, "NS_ADD with unterminated string %d was taken", which);
        fake_close(&a);
    }
    still_serving("unterminated strings");
}

static void names_with_control_characters(void **state)
{
    struct fake_app a, viewer;
    struct ctl_hello m;
    fake_connect(&a, &the_daemon);
    fake_hello_fill(&m, "\x1b[31m\"\\\n\xff\xfe", NULL, NULL, CTL_SCOPE_LOCAL);
    int rc = fake_hello(&a, &m); /* may be refused; if taken, the tables must stay valid text */
    if (rc == 0) {
        struct ctl_show show = {.what = CTL_SHOW_APPS};
        fake_connect(&viewer, &the_daemon);
        rc = fake_request(&viewer, CTL_SHOW, &show, sizeof show, NULL, 0);
        check(rc == 0 && viewer.in_nfds == 1, "SHOW APPS fails when an app has a strange name: %s",
              berth_error_name(rc));
        char text[8192];
        ssize_t n = pread(viewer.in_fds[0], text, sizeof text, 0);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            check((unsigned char)text[i] >= ' ' || text[i] == '\n', "a raw byte %02x in JSON",
                  (unsigned char)text[i]);
        fake_close(&viewer);
    }
    fake_close(&a);
    still_serving("a strange name");
}

/* ---- replayed and reordered ---- */

static void replayed_messages(void **state)
{
    struct fake_app a;
    liar(&a, true);
    outbox_handle h = outbox_handle_make(a.worker, 1);
    struct ctl_outbox o = {.h = {.type = CTL_OUTBOX, .len = sizeof o}, .outbox = h, .facing_app = a.app};
    int fd = fake_outbox_segment(h, 0, a.app);
    assert_int_equal(fake_send(&a, &o, sizeof o, &fd, 1), 0);
    assert_int_equal(fake_status(&a), 0);
    must_end_it(&a, &o, sizeof o, &fd, 1, "OUTBOX again", 0);
    close(fd);

    liar(&a, true);
    h = outbox_handle_make(a.worker, 1);
    fd = fake_outbox_segment(h, 0, a.app);
    o = (struct ctl_outbox){.h = {.type = CTL_OUTBOX, .len = sizeof o}, .outbox = h, .facing_app = a.app};
    assert_int_equal(fake_send(&a, &o, sizeof o, &fd, 1), 0);
    close(fd);
    fd = fake_outbox_segment(h, 1, 0);
    struct ctl_outbox s = {.h = {.type = CTL_SEGMENT, .len = sizeof s}, .outbox = h, .index = 1};
    assert_int_equal(fake_send(&a, &s, sizeof s, &fd, 1), 0);
    assert_int_equal(fake_status(&a), 0);
    must_end_it(&a, &s, sizeof s, &fd, 1, "SEGMENT again", 0);
    close(fd);

    struct ctl_child_hello ch = {.version = CTL_VERSION, .pid = 1};
    int page = fake_page(0);
    liar(&a, true);
    int rc = fake_request(&a, CTL_CHILD_HELLO, &ch, sizeof ch, &page, 1);
    check(rc < 0, "CHILD_HELLO of a worker that is no child was taken");
    fake_close(&a);
    liar(&a, false);
    rc = fake_request(&a, CTL_CHILD_HELLO, &ch, sizeof ch, &page, 1);
    check(rc < 0, "CHILD_HELLO of a stranger was taken");
    fake_close(&a);
    close(page);
    still_serving("replayed messages");
}

static void reordered_messages(void **state)
{
    struct fake_app a;
    liar(&a, true); /* a segment of an outbox that was not announced */
    outbox_handle h = outbox_handle_make(a.worker, 9);
    int fd = fake_outbox_segment(h, 1, 0);
    struct ctl_outbox s = {.h = {.type = CTL_SEGMENT, .len = sizeof s}, .outbox = h, .index = 1};
    (void)fake_send(&a, &s, sizeof s, &fd, 1); /* ignored or the end, as for one that has just gone */
    struct ctl_outbox g = {.outbox = h, .index = 1};
    int rc = fake_request(&a, CTL_GET_SEGMENT, &g, sizeof g, NULL, 0);
    check(rc < 0, "a segment of an outbox that never was can be had");
    close(fd);
    fake_close(&a);

    static const uint16_t types[] = {CTL_RETIRE, CTL_ANNOUNCE, CTL_UNLISTEN,
                                     CTL_SHUT,   CTL_BACKLOG,  CTL_RETURN_PORTS};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        union fake_packet m = {0};
        m.h.type = types[i];
        bool listener = types[i] == CTL_UNLISTEN || types[i] == CTL_SHUT || types[i] == CTL_BACKLOG;
        m.h.len = listener                       ? sizeof m.listener
                  : types[i] == CTL_RETURN_PORTS ? sizeof m.ports
                                                 : sizeof m.outbox;
        for (size_t k = sizeof m.h; k < m.h.len; k++)
            m.bytes[k] = (uint8_t)(k * 37);
        liar(&a, true);
        (void)fake_send(&a, &m, m.h.len, NULL, 0);
        still_serving("a message about something that never was");
        fake_close(&a);
    }
    /* all of it after DETACH */
    liar(&a, true);
    struct ctl_header detach = {0};
    assert_int_equal(fake_request(&a, CTL_DETACH, &detach, sizeof detach, NULL, 0), 0);
    rc = fake_request(&a, CTL_GET_OUTBOX, &g, sizeof g, NULL, 0);
    check(rc == BERTH_E_NOT_ATTACHED, "GET_OUTBOX after DETACH gave %s", berth_error_name(rc));
    fake_close(&a);
    still_serving("reordered messages");
}

/* ---- random ---- */

static size_t random_packet(uint64_t *seed, struct fake_app *a, union fake_packet *m)
{
    uint64_t r = next_random(seed);
    size_t row = r % ROWS, len = rows[row].len;
    for (size_t i = 0; i < sizeof *m; i += 8) {
        uint64_t x = next_random(seed);
        memcpy(m->bytes + i, &x, 8);
    }
    if (r >> 8 & 7) /* mostly zeros, so that some of it makes sense */
        memset(m->bytes + sizeof m->h, 0, sizeof *m - sizeof m->h);
    m->h = (struct ctl_header){.type = rows[row].type, .len = (uint16_t)len, .seq = 1 + (uint32_t)(r >> 40)};
    if (m->h.type == CTL_HELLO) {
        fake_hello_fill(&m->hello, "random", NULL, NULL, (uint32_t)(r >> 20) & 15);
        m->h = (struct ctl_header){.type = CTL_HELLO, .len = (uint16_t)len, .seq = 1};
    } else if (m->h.type == CTL_NS_DEL || m->h.type == CTL_NS_ADD) {
        snprintf(m->ns.id, sizeof m->ns.id, "random-%u", (unsigned)(r >> 20 & 3));
    } else if (rows[row].len == sizeof(struct ctl_outbox) && m->h.type != CTL_INTRODUCE) {
        m->outbox.outbox = outbox_handle_make(a->worker + (r >> 16 & 1), (uint32_t)(r >> 24 & 3));
        m->outbox.index = (uint32_t)(r >> 30 & 3);
        m->outbox.facing_app = r >> 33 & 1 ? a->app : bystander.app;
        m->outbox.worker = r >> 34 & 1 ? a->worker : bystander.worker;
    } else if (m->h.type == CTL_LISTEN) {
        m->listen.proto = PROTO_TCP;
        m->listen.flags = r >> 20 & 7;
    } else if (m->h.type == CTL_INTRODUCE) {
        m->introduce.listener = (uint32_t)(r >> 20 & 15);
        m->introduce.outbox = outbox_handle_make(a->worker, (uint32_t)(r >> 24 & 3));
    }
    for (uint64_t flips = (r >> 50 & 3) == 0 ? next_random(seed) % 8 : 0; flips; flips--) {
        uint64_t f = next_random(seed);
        m->bytes[f % len] ^= (uint8_t)(1u << (f >> 32 & 7));
    }
    return len;
}

static int random_descriptors(uint64_t *seed, const union fake_packet *m, int fds[CTL_FDS_MAX])
{
    uint64_t r = next_random(seed);
    int n = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].type == m->h.type)
            n = rows[i].fds;
    }
    if ((r & 31) == 0)
        n = (int)(r >> 8) & 3;
    for (int i = 0; i < n; i++) {
        int p[2];
        uint64_t kind = next_random(seed);
        if (m->h.type == CTL_HELLO && n == 2 && kind % 8)
            fds[i] = a_descriptor(i == 0 ? 2 : 3);
        else if ((m->h.type == CTL_OUTBOX || m->h.type == CTL_SEGMENT) && kind % 8)
            fds[i] = fake_outbox_segment(m->outbox.outbox, m->h.type == CTL_OUTBOX ? 0 : m->outbox.index,
                                         m->outbox.facing_app);
        else if ((m->h.type == CTL_CHILD && kind % 4 &&
                  socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p) == 0) ||
                 (m->h.type == CTL_LISTEN && kind % 4 && pipe2(p, O_CLOEXEC) == 0))
            fds[i] = (close(p[0]), p[1]);
        else
            fds[i] = a_descriptor(kind >> 8);
    }
    return n;
}

static void random_messages(void **state)
{
    const char *given = getenv("BERTH_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)clock_now();
    print_message("BERTH_TEST_SEED=%llu\n", (unsigned long long)seed);
    struct fake_app a;
    liar(&a, true);
    unsigned ended = 0;
    int64_t end = clock_now() + 4 * NS_PER_SEC;
    for (int i = 0; i < 30000 && clock_now() < end; i++) {
        union fake_packet m;
        int fds[CTL_FDS_MAX];
        size_t len = random_packet(&seed, &a, &m);
        int n = random_descriptors(&seed, &m, fds);
        int rc = ctl_send(a.sock, &m, len, fds, n, MSG_DONTWAIT);
        for (int k = 0; k < n; k++)
            close(fds[k]);
        struct pollfd p = {.fd = a.sock, .events = POLLIN};
        while (rc == 0 && poll(&p, 1, (next_random(&seed) & 7) ? 0 : 1) > 0) {
            if (fake_receive(&a) == 0) {
                rc = BERTH_E_DAEMON_GONE;
                break;
            }
        }
        if (rc == BERTH_E_DAEMON_GONE || rc == BERTH_E_WOULD_BLOCK) {
            ended++;
            fake_close(&a);
            liar(&a, next_random(&seed) & 3);
        }
        if (i % 500 == 0)
            still_serving("random messages");
    }
    fake_close(&a);
    assert_true(ended > 50);
    still_serving("random messages");
}

/* ---- floods ---- */

static void one_who_never_reads(void **state)
{
    struct fake_app a;
    liar(&a, true);
    struct ctl_show m = {.h = {.type = CTL_SHOW, .len = sizeof m, .seq = 1}, .what = CTL_SHOW_WORKERS};
    int64_t end = clock_now() + NS_PER_SEC;
    for (int i = 0; i < 20000 && clock_now() < end; i++) {
        int rc = ctl_send(a.sock, &m, sizeof m, NULL, 0, MSG_DONTWAIT);
        if (rc == BERTH_E_DAEMON_GONE)
            break;
        if (rc)
            usleep(1000);
    }
    still_serving("a flood whose answers nobody reads");
    int open_now = daemon_descriptors(&the_daemon);
    check(open_now < 2000, "%d descriptors wait in the daemon for one who does not read", open_now);
    fake_close(&a);
    still_serving("its end");
}

static void strangers_who_say_nothing(void **state)
{
    enum { MANY = 300 };
    struct fake_app a[MANY];
    for (int i = 0; i < MANY; i++)
        fake_connect(&a[i], &the_daemon);
    still_serving("300 strangers who say nothing");
    for (int i = 0; i < MANY; i++)
        fake_close(&a[i]);
}

static void bystander_is_left(void **state)
{
    still_serving("everything");
    fake_expect_left(&bystander, 1, 1, 0);
}

static int start(void **state)
{
    daemon_start(&the_daemon);
    fake_attach(&bystander, &the_daemon, "bystander");
    daemon_rests(&bystander, 0);
    return 0;
}

static int stop(void **state)
{
    fake_close(&bystander);
    return daemon_stop_clean(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncated_messages),
        cmocka_unit_test(lengths_that_disagree),
        cmocka_unit_test(unknown_types_and_replies_as_requests),
        cmocka_unit_test(requests_without_a_number),
        cmocka_unit_test(wrong_numbers_of_descriptors),
        cmocka_unit_test(more_descriptors_than_any_message_has),
        cmocka_unit_test(foreign_descriptors_in_hello),
        cmocka_unit_test(foreign_descriptors_in_listen),
        cmocka_unit_test(foreign_descriptors_elsewhere),
        cmocka_unit_test(segments_that_lie),
        cmocka_unit_test(unterminated_strings),
        cmocka_unit_test(names_with_control_characters),
        cmocka_unit_test(replayed_messages),
        cmocka_unit_test(reordered_messages),
        cmocka_unit_test(random_messages),
        cmocka_unit_test(one_who_never_reads),
        cmocka_unit_test(strangers_who_say_nothing),
        cmocka_unit_test(bystander_is_left),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
