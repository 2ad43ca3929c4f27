/* client_fuzz.c - control messages as libberth reads them: any pushes, any answers, any descriptors.
 *
 * What must hold: no call hangs or gives what is no error code, and no descriptor is left.
 */
#include "messages.h"

#include "base/log.h"
#include "client/attach.h"
#include "client/control.h"
#include "client/events.h"
#include "client/family.h"
#include "client/fds.h"
#include "client/hello.h"
#include "client/listener.h"
#include "client/news.h"
#include "client/routes.h"
#include "client/state.h"
#include "shm/segment.h"

static int far_end = -1;
static int directory_fd = -1;

/* As control.c's attach, with a socket of ours in the daemon's place. */
static void attach(void)
{
    int fds[2];
    struct ctl_welcome w = {.version = CTL_VERSION, .worker = 7, .app = 3, .uid = getuid()};
    if (directory_fd < 0) {
        void *map;
        MUST(segment_create("fuzz", DIRECTORY_BYTES, &directory_fd, &map) == 0);
        struct directory *dir = map;
        dir->magic = ABI_MAGIC_DIR;
        dir->version = ABI_VERSION;
    }
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
    far_end = fds[1];
    C->ctl = own_fd(fds[0]);
    C->segment_size = SEGMENT_MIN;
    C->tx_limit = C->rx_limit = 65536;
    C->cpus = 1;
    int page = -1, came[2] = {dup(directory_fd), a_pipe()};
    MUST(family_create() == 0 && listeners_create() == 0);
    MUST(worker_page_create(&page) == 0);
    MUST(welcome(&w, came) == 0);
    close(page);
    C->attached = true;
}

static void leave(void)
{
    C->attached = false;
    routes_forget();
    client_reset();
    close(far_end);
}

static void drain(void)
{
    uint8_t packet[CTL_MAX];
    int fds[CTL_FDS_MAX], nfds;
    while (ctl_recv(far_end, packet, sizeof packet, fds, &nfds, MSG_DONTWAIT) > 0) {
        while (nfds > 0)
            close(fds[--nfds]);
    }
}

/* Asks when the answer lies there: the fuzzer's, then one that ends the matter. */
static void ask(struct input *in, uint8_t type)
{
    struct ctl_outbox m = {.h = {.type = type, .len = sizeof m}, .outbox = 1};
    struct ctl_header end = {.type = type, .len = sizeof end, .seq = C->seq + 1, .status = BERTH_E_LIMIT};
    uint8_t reply[sizeof(struct ctl_welcome)];
    int fds[3], nfds = 3;
    send_one(far_end, in);
    (void)ctl_send(far_end, &end, sizeof end, NULL, 0, MSG_DONTWAIT);
    int err = control_request(&m, NULL, 0, reply, sizeof(struct ctl_outbox_is), fds, &nfds);
    MUST(err <= 0 && err >= BERTH_E_LAST && nfds >= 0 && nfds <= 3);
    for (int i = 0; i < nfds && !err; i++)
        close(fds[i]);
}

static int lowest_descriptor(void)
{
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    log_set_level(LOG_LEVEL_ERROR);
    if (directory_fd < 0) {
        attach();
        leave();
    }
    int before = lowest_descriptor();
    attach();
    while (in.left) {
        uint8_t op = take_byte(&in);
        if (op % 4 == 0)
            ask(&in, CTL_GET_OUTBOX);
        else
            send_one(far_end, &in);
        control_poll();
        events_poll(true);
        drain();
    }
    leave();
    MUST(lowest_descriptor() == before);
    return 0;
}

#ifndef BERTH_LIBFUZZER
int main(int argc, char **argv)
{
    return run_messages(argc, argv, 5000);
}
#endif
