/* messages.h - what the fuzzers of control messages share: bytes into packets with descriptors, and the
 * bounded run. */
#ifndef BERTH_TESTS_MESSAGES_H
#define BERTH_TESTS_MESSAGES_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm/abi.h"
#include "shm/control.h"
#include "shm/ctlsock.h"
#include "shm/segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);                         \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t take_byte(struct input *in)
{
    return in->left ? (in->left--, *in->at++) : 0;
}

static inline int sealed_segment(size_t size, uint32_t magic, uint64_t outbox, uint32_t index)
{
    int fd;
    void *map;
    MUST(segment_create("fuzz", size, &fd, &map) == 0);
    if (magic == ABI_MAGIC_OUTBOX || magic == ABI_MAGIC_RINGS) {
        *(struct segment_header *)map = (struct segment_header){.magic = magic,
                                                                .version = ABI_VERSION,
                                                                .lines_per_slot = 2,
                                                                .outbox = outbox,
                                                                .index = index,
                                                                .size = size,
                                                                .chunks = index ? 0 : 1};
    } else {
        struct worker_page *page = map;
        page->magic = magic;
        page->version = ABI_VERSION;
    }
    munmap(map, size);
    return fd;
}

/* As the daemon gives them out: for reading too, so that no write raises SIGPIPE. */
static inline int a_pipe(void)
{
    int fds[2];
    char path[32];
    MUST(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fds[1]);
    int both = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    MUST(both >= 0);
    close(fds[0]);
    close(fds[1]);
    return both;
}

static inline int a_descriptor(uint8_t kind, uint64_t outbox)
{
    int fds[2];
    switch (kind % 8) {
    case 0:
        return sealed_segment(SEGMENT_MIN, ABI_MAGIC_OUTBOX, outbox, 0);
    case 1:
        return sealed_segment(WORKER_PAGE_BYTES, ABI_MAGIC_PAGE, 0, 0);
    case 2:
        return a_pipe();
    case 3:
        return sealed_segment(SEGMENT_MIN, ABI_MAGIC_RINGS, outbox, 1);
    case 4:
        return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    case 5:
        MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
        close(fds[0]);
        return fds[1];
    case 6:
        return eventfd(0, EFD_CLOEXEC);
    default:
        return memfd_create("fuzz", MFD_CLOEXEC);
    }
}

/* One packet: a byte of which descriptors, their kinds, a byte of length / 4 beyond the header, header, body.
 * What a fuzzer would hardly hit, `len`, is right unless that byte is odd. */
static inline void send_one(int sock, struct input *in)
{
    struct {
        struct ctl_header h;
        uint8_t body[1024];
    } m;
    int fds[CTL_FDS_MAX] = {0}, nfds = take_byte(in) % (CTL_FDS_MAX + 1);
    uint8_t kind[CTL_FDS_MAX];
    for (int i = 0; i < nfds; i++)
        kind[i] = take_byte(in);
    uint8_t length = take_byte(in);
    size_t body = length / 2 * 8u, n = in->left < 8 ? in->left : 8;
    memset(&m, 0, sizeof m);
    memcpy(&m.h.type, in->at, n < 2 ? n : 2); /* type, seq and status in 8 bytes */
    m.h.type %= CTL_TYPES + 2;
    if (n == 8) {
        m.h.seq = in->at[2] & 128 ? 0xffffffffu : in->at[2];
        m.h.status = 64 - (int32_t)in->at[3];
    }
    in->at += n;
    in->left -= n;
    size_t have = in->left < body ? in->left : body;
    memcpy(m.body, in->at, have);
    in->at += have;
    in->left -= have;
    m.h.len = (uint16_t)(sizeof m.h + body + (length & 1 ? 3 : 0));
    uint64_t outbox = 0;
    memcpy(&outbox, m.body, sizeof outbox);
    for (int i = 0; i < nfds; i++)
        fds[i] = a_descriptor(kind[i], outbox);
    (void)ctl_send(sock, &m, sizeof m.h + body, fds, nfds, MSG_DONTWAIT);
    for (int i = 0; i < nfds; i++)
        close(fds[i]);
}

#ifndef BERTH_LIBFUZZER
static inline uint64_t next_random(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* The bounded run. */
static inline int run_messages(int argc, char **argv, long rounds)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    rounds = argc > 2 ? strtol(argv[2], NULL, 0) : rounds;
    printf("seed %llu, %ld rounds\n", (unsigned long long)seed, rounds);
    for (long i = 0; i < rounds; i++) {
        uint8_t data[600];
        size_t n = next_random(&seed) % sizeof data;
        for (size_t k = 0; k < n; k++) /* small numbers mean more than large ones */
            data[k] =
                next_random(&seed) % 3 ? (uint8_t)(next_random(&seed) % 40) : (uint8_t)next_random(&seed);
        (void)LLVMFuzzerTestOneInput(data, n);
    }
    return 0;
}
#endif

#endif
