/* daemon_fuzz.c - control messages as the daemon reads them: two clients send any packets with any
 * descriptors.
 *
 * What must hold: the daemon goes on, and when both have gone it knows nobody any more and has no descriptor
 * of theirs.
 */
#include "messages.h"

#include <sys/epoll.h>

#include "daemon/registry.h"

static struct daemon d;

static void start_once(void)
{
    static bool done;
    if (done)
        return;
    done = true;
    log_set_level(LOG_LEVEL_ERROR);
    daemon_init(&d);
    d.epfd = epoll_create1(EPOLL_CLOEXEC);
    MUST(d.epfd >= 0 && netaddr_open(&d) == 0);
    MUST(ns_add(&d, "default", NULL, d.uid, d.gid, 0) == 0);
}

static void rounds(void)
{
    for (int i = 0; i < 64 && server_round(&d, 0) > 0; i++)
        ;
}

static int enter(bool hello)
{
    int fds[2];
    struct conn *c;
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    MUST(conn_adopt(&d, fds[0], &c) == 0);
    if (!hello)
        return fds[1];
    struct ctl_hello m = {.h = {.type = CTL_HELLO, .len = sizeof m, .seq = 1},
                          .magic = CTL_MAGIC,
                          .version = CTL_VERSION,
                          .flags = CTL_SCOPE_LOCAL,
                          .name = "fuzz",
                          .ns = "default"};
    int with[2] = {a_descriptor(4, 0), a_descriptor(1, 0)};
    MUST(ctl_send(fds[1], &m, sizeof m, with, 2, 0) == 0);
    for (int i = 0; i < 2; i++)
        close(with[i]);
    rounds();
    MUST(c->state == CONN_ATTACHED);
    return fds[1];
}

static void drain(int sock)
{
    uint8_t packet[CTL_MAX];
    int fds[CTL_FDS_MAX], nfds;
    while (ctl_recv(sock, packet, sizeof packet, fds, &nfds, MSG_DONTWAIT) > 0) {
        while (nfds > 0)
            close(fds[--nfds]);
    }
}

static int lowest_descriptor(void)
{
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    start_once();
    struct input in = {data, size};
    int before = lowest_descriptor();
    uint8_t how = take_byte(&in);
    int sock[2] = {enter(how & 1), enter(how & 2)};
    while (in.left) {
        int who = take_byte(&in) & 1;
        send_one(sock[who], &in);
        rounds();
        drain(sock[who]);
    }
    close(sock[0]);
    rounds();
    close(sock[1]);
    rounds();
    outbox_sweep(&d);
    MUST(d.conn_count == 0 && d.worker_count == 0 && d.app_count == 0);
    for (int i = 0; i < 10000 && lowest_descriptor() != before; i++)
        usleep(100); /* some are closed by threads */
    MUST(lowest_descriptor() == before);
    return 0;
}

#ifndef BERTH_LIBFUZZER
int main(int argc, char **argv)
{
    return run_messages(argc, argv, 20000);
}
#endif
