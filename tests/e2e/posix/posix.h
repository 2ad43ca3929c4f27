/* posix.h - for small programs that print what blocking calls do, so that a run on the kernel and one under
 * berth can be compared. Prints nothing that may differ between two runs on the kernel: no times, no numbers
 * of ports or descriptors.
 */
#ifndef BERTH_TESTS_POSIX_H
#define BERTH_TESTS_POSIX_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in at;
static char buf[1 << 16];

__attribute__((unused)) static const char *why(long result)
{
    const char *name = result < 0 ? strerrorname_np(errno) : "";
    return name ? name : "?";
}

/* Prints the text, the result and, where it is -1, the error. */
#define SAY(call)                                                                                            \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        long said = (long)(call);                                                                            \
        int saved = errno;                                                                                   \
        printf("%s = %ld%s%s\n", #call, said, said < 0 ? " " : "", said < 0 ? strerrorname_np(saved) : "");  \
        (void)fflush(stdout);                                                                                \
    } while (0)

static inline int listener(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof at;
    at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&at, len) < 0 || listen(fd, 16) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) < 0)
        abort();
    return fd;
}

static inline int client(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
        abort();
    return fd;
}

/* to[0]: the connector's end, to[1]: the acceptor's */
static inline void pair_at(int l, int to[2])
{
    to[0] = client();
    to[1] = accept(l, NULL, NULL);
    if (to[1] < 0)
        abort();
}

static inline void pair(int to[2])
{
    int l = listener();
    pair_at(l, to);
    (void)close(l);
}

static inline void fill(int fd) /* until no byte more goes in */
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    while (send(fd, buf, sizeof buf, MSG_DONTWAIT) > 0 || poll(&p, 1, 50) > 0)
        ;
}

static inline void drain(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 50) > 0 && recv(fd, buf, sizeof buf, MSG_DONTWAIT) > 0)
        ;
}

static inline int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void rest_ms(int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&ts, &ts) < 0)
        ;
}

/* Until that thread of this process has slept for a while. */
static inline void wait_asleep(const int *tid)
{
    int asleep = 0;
    while (!__atomic_load_n(tid, __ATOMIC_ACQUIRE))
        rest_ms(1);
    for (int64_t end = now_ms() + 10000; asleep < 6 && now_ms() < end; rest_ms(4)) {
        char path[64], text[512] = "";
        (void)snprintf(path, sizeof path, "/proc/self/task/%d/stat", *tid);
        FILE *f = fopen(path, "re");
        const char *end_of_name = f && fread(text, 1, sizeof text - 1, f) > 0 ? strrchr(text, ')') : NULL;
        asleep = end_of_name && end_of_name[2] == 'S' ? asleep + 1 : 0;
        if (f)
            (void)fclose(f);
    }
}

static inline void say_tid(int *tid)
{
    __atomic_store_n(tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
}

#endif
