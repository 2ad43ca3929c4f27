/* own_calls.c - a program whose sockets are made by libc and used without it. Two clients go to two servers,
 * all in this process, and what arrives is told. How it makes its calls is chosen when it is built:
 *   (nothing)  by libc
 *   -DOWN      by the instruction itself
 *   -DWRITTEN  by an instruction that is not in the program: it is written when it runs, after berth has
 *              looked
 *   -DRING     by liburing
 *   -DNUMBER   by a ring that it sets up by syscall()
 *   -DLIBUV    with -DNUMBER: it has in it what is told libuv by
 *   -DLATE     with -DRING: liburing is loaded when there are sockets already
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef RING
#include <liburing.h>
#endif
#ifdef NUMBER
#include <linux/io_uring.h>
#endif

#define CHECK(x) ((x) >= 0 ? 0 : (perror(#x), _exit(1), 0))

#if defined(OWN) || defined(WRITTEN)

typedef long call(long, long, long, long, long, long, long);

#ifdef OWN
static long own(long n, long a, long b, long c, long d, long e, long f)
{
#ifdef __x86_64__
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "+a"(n)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return n;
#else
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#endif
}
static void begin(void)
{
}
#else
static call *own;
static void begin(void)
{
    /* number and six arguments moved on by one; each byte is one too much, so as not to be the code */
#ifdef __x86_64__
    static const unsigned char code[] = {0x49, 0x8a, 0xf9, 0x49, 0x8a, 0xf8, 0x49, 0x8a, 0xd7,
                                         0x49, 0x8a, 0xcb, 0x4e, 0x8a, 0xc3, 0x4e, 0x8a, 0xc9,
                                         0x4d, 0x8c, 0x4d, 0x25, 0x09, 0x10, 0x06, 0xc4};
#else
    static const unsigned char code[] = {0xe9, 0x04, 0x01, 0xab, 0xe1, 0x04, 0x02, 0xab, 0xe2,
                                         0x04, 0x03, 0xab, 0xe3, 0x04, 0x04, 0xab, 0xe4, 0x04,
                                         0x05, 0xab, 0xe5, 0x04, 0x06, 0xab, 0xe6, 0x04, 0x07,
                                         0xab, 0x02, 0x01, 0x01, 0xd5, 0xc1, 0x04, 0x60, 0xd7};
#endif
    unsigned char *at =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < sizeof code; i++)
        at[i] = (unsigned char)(code[i] - 1);
    __builtin___clear_cache((char *)at, (char *)at + 4096);
    own = (call *)(void *)at;
}
#endif
#define OWN_CALL(n, a, b, c) own(SYS_##n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
static long my_connect(int fd, struct sockaddr_in *at)
{
    return OWN_CALL(connect, fd, at, sizeof *at);
}
static long my_accept(int fd)
{
    return OWN_CALL(accept, fd, 0, 0);
}
static long my_send(int fd, const void *what, size_t len)
{
    return OWN_CALL(write, fd, what, len);
}
static long my_recv(int fd, void *to, size_t len)
{
    return OWN_CALL(read, fd, to, len);
}

#elif defined(RING)

static struct io_uring ring;
static void begin(void)
{
    int error;
#ifdef LATE
    void *lib = dlopen("liburing.so.2", RTLD_NOW | RTLD_GLOBAL);
    int (*init)(unsigned, struct io_uring *, unsigned) =
        lib ? dlsym(RTLD_DEFAULT, "io_uring_queue_init") : NULL;
    error = init ? init(8, &ring, 0) : -1;
#else
    error = io_uring_queue_init(8, &ring, 0);
#endif
    if (error) {
        printf("no ring: %s\n", strerror(-error));
        _exit(0);
    }
}
#ifdef LATE
static long my_connect(int fd, struct sockaddr_in *at)
{
    return connect(fd, (void *)at, sizeof *at);
}
static long my_accept(int fd)
{
    return accept(fd, 0, 0);
}
static long my_send(int fd, const void *what, size_t len)
{
    return write(fd, what, len);
}
static long my_recv(int fd, void *to, size_t len)
{
    return read(fd, to, len);
}
#else
static long result(void)
{
    struct io_uring_cqe *done;
    io_uring_submit(&ring);
    io_uring_wait_cqe(&ring, &done);
    long it = done->res;
    io_uring_cqe_seen(&ring, done);
    return it;
}
static long my_connect(int fd, struct sockaddr_in *at)
{
    io_uring_prep_connect(io_uring_get_sqe(&ring), fd, (void *)at, sizeof *at);
    return result();
}
static long my_accept(int fd)
{
    io_uring_prep_accept(io_uring_get_sqe(&ring), fd, NULL, NULL, 0);
    return result();
}
static long my_send(int fd, const void *what, size_t len)
{
    io_uring_prep_send(io_uring_get_sqe(&ring), fd, what, len, MSG_NOSIGNAL);
    return result();
}
static long my_recv(int fd, void *to, size_t len)
{
    io_uring_prep_recv(io_uring_get_sqe(&ring), fd, to, len, 0);
    return result();
}
#endif

#elif defined(NUMBER)

static struct io_uring_params params;
static unsigned char *rings;
static struct io_uring_sqe *sqes;
static int ring;
static void begin(void)
{
#ifdef LIBUV
    if (getenv("UV_USE_IO_URING"))
        puts("asked for");
#endif
    ring = (int)syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) {
        printf("no ring: %s\n", strerror(errno));
        _exit(0);
    }
    rings = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    sqes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
}
static long operation(int what, int fd, const void *at, unsigned len, uint64_t off)
{
    unsigned *tail = (void *)(rings + params.sq_off.tail), *head = (void *)(rings + params.cq_off.head);
    unsigned at_slot = *tail & 3, *array = (void *)(rings + params.sq_off.array);
    struct io_uring_cqe *cqes = (void *)(rings + params.cq_off.cqes);
    sqes[at_slot] = (struct io_uring_sqe){
        .opcode = (uint8_t)what, .fd = fd, .addr = (uintptr_t)at, .len = len, .off = off};
    array[at_slot] = at_slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    long result = cqes[*head & (params.cq_entries - 1)].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}
static long my_connect(int fd, struct sockaddr_in *at)
{
    return operation(IORING_OP_CONNECT, fd, at, 0, sizeof *at);
}
static long my_accept(int fd)
{
    return operation(IORING_OP_ACCEPT, fd, NULL, 0, 0);
}
static long my_send(int fd, const void *what, size_t len)
{
    return operation(IORING_OP_SEND, fd, what, (unsigned)len, 0);
}
static long my_recv(int fd, void *to, size_t len)
{
    return operation(IORING_OP_RECV, fd, to, (unsigned)len, 0);
}

#else

static void begin(void)
{
}
static long my_connect(int fd, struct sockaddr_in *at)
{
    return connect(fd, (void *)at, sizeof *at);
}
static long my_accept(int fd)
{
    return accept(fd, 0, 0);
}
static long my_send(int fd, const void *what, size_t len)
{
    return write(fd, what, len);
}
static long my_recv(int fd, void *to, size_t len)
{
    return read(fd, to, len);
}

#endif

static int listener(struct sockaddr_in *at)
{
    socklen_t len = sizeof *at;
    int l = socket(AF_INET, SOCK_STREAM, 0);
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(bind(l, (struct sockaddr *)at, len));
    CHECK(listen(l, 8));
    CHECK(getsockname(l, (struct sockaddr *)at, &len));
    return l;
}

#ifdef WRITTEN

static int failed(const char *what, long result)
{
    if (result >= 0)
        printf("%s: %ld\n", what, result);
    return result < 0;
}
#define FAILS(n, a, b, c) (wrong += !failed(#n, OWN_CALL(n, a, b, c)))

static int nobody(int l)
{
    struct pollfd f = {l, POLLIN, 0};
    return poll(&f, 1, 100) == 0;
}

/* Each call fails, and nothing becomes of any socket. */
static void all_fail(void)
{
    int wrong = 0;
    for (int family = AF_INET; family; family = family == AF_INET ? AF_INET6 : 0) {
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
        struct sockaddr_in6 own_six = {.sin6_family = AF_INET6};
        struct sockaddr_in there, from = {.sin_family = AF_INET};
        struct sockaddr_storage big = {0};
        struct iovec v = {"bytes", 5};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
        char buf[16];
        socklen_t len = sizeof six;
        int l, a = socket(family, SOCK_STREAM, 0), b = socket(family, SOCK_STREAM, 0);
        const void *to = &there, *own_name = &from;
        if (family == AF_INET) {
            l = listener(&there);
            len = sizeof there;
            memcpy(&big, &there, sizeof there);
        } else {
            l = socket(AF_INET6, SOCK_STREAM, 0);
            CHECK(bind(l, (struct sockaddr *)&six, sizeof six));
            CHECK(listen(l, 8));
            CHECK(getsockname(l, (struct sockaddr *)&six, &len));
            to = &six;
            own_name = &own_six;
            memcpy(&big, &six, sizeof six);
        }
        for (int kind = 0; kind < 3; kind++) { /* undecided; a connection; the accepted end */
            int s = -1;
            if (kind == 1)
                CHECK(connect(a, to, len));
            if (kind == 2)
                CHECK(s = accept(l, NULL, NULL));
            int fd = kind == 2 ? s : a;
            FAILS(connect, fd, to, len);
            FAILS(connect, fd, &big, sizeof big);
            FAILS(bind, fd, own_name, len);
            FAILS(bind, fd, &big, sizeof big);
            FAILS(write, fd, "bytes", 5);
            FAILS(writev, fd, &v, 1);
            FAILS(sendmsg, fd, &m, MSG_NOSIGNAL);
            wrong += !failed(
                "sendto", own(SYS_sendto, fd, (long)"fast", 4, MSG_FASTOPEN | MSG_NOSIGNAL, (long)to, len));
            FAILS(read, fd, buf, sizeof buf);
            FAILS(recvmsg, fd, &m, 0);
            FAILS(accept, fd, 0, 0);
            if (kind == 0 && !nobody(l))
                wrong += printf("somebody came\n");
            if (kind == 2) { /* and by libc all is as it should be */
                CHECK(write(a, "ping", 4));
                wrong += read(s, buf, sizeof buf) != 4 || memcmp(buf, "ping", 4) != 0;
                CHECK(write(s, "pong", 4));
                wrong += read(a, buf, sizeof buf) != 4 || memcmp(buf, "pong", 4) != 0;
                wrong += !nobody(s) || !nobody(a);
            }
        }
        FAILS(shutdown, a, SHUT_RDWR, 0);
        /* this one does not, without an address; but nobody comes there */
        wrong += OWN_CALL(listen, b, 1, 0) != 0;
        len = sizeof big;
        wrong += OWN_CALL(getsockname, b, &big, &len) != 0;
        there = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        there.sin_port = ((struct sockaddr_in *)&big)->sin_port; /* at the same place in both families */
        wrong += !there.sin_port ||
                 connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&there, sizeof there) == 0 ||
                 errno != ECONNREFUSED;
    }
    printf("%s\n", wrong ? "WRONG" : "all fail");
}

#endif

static void talk(const char *name, int l, int c)
{
    char buf[16] = "";
    struct pollfd f = {l, POLLIN, 0};
    if (poll(&f, 1, 2000) != 1) {
        printf("%s: nobody came\n", name);
        return;
    }
    int s = (int)my_accept(l);
    f.fd = s;
    long n = s >= 0 && poll(&f, 1, 2000) == 1 ? my_recv(s, buf, sizeof buf - 1) : -1;
    printf("%s: got %ld \"%s\"\n", name, n, buf);
    if (s < 0)
        return;
    n = my_send(s, "back", 4);
    printf("%s: gave %ld\n", name, n);
    memset(buf, 0, sizeof buf);
    n = my_recv(c, buf, 4);
    printf("%s: back %ld \"%s\"\n", name, n, buf);
}

static int echo(int s)
{
    char buf[64];
    long n = s < 0 ? -1 : my_recv(s, buf, sizeof buf);
    if (n <= 0 || my_send(s, buf, (size_t)n) != n)
        return 9;
    return close(s);
}

/* At a listener that it has inherited, or at a connection (count 0): what comes goes back. */
static int serve(int fd, int count)
{
    begin();
    int status = count ? 0 : echo(fd);
    for (int i = 0; i < count && !status; i++)
        status = echo((int)my_accept(fd));
    return status;
}

int main(int argc, char **args)
{
    struct sockaddr_in at_a, at_b;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc > 3 && !strcmp(args[1], "serve"))
        return serve(atoi(args[2]), atoi(args[3]));
    if (argc > 1 && !strcmp(args[1], "nothing"))
        return 0;
    if (argc > 1 && !strcmp(args[1], "run")) { /* another program, and its status */
        pid_t pid = fork();
        int status = 1;
        if (!pid) {
            execvp(args[2], args + 2);
            _exit(127);
        }
        waitpid(pid, &status, 0);
        return WEXITSTATUS(status);
    }
#ifdef WRITTEN
    int first = socket(AF_INET, SOCK_STREAM, 0);
    begin();
    close(first);
    if (argc > 1 && !strcmp(args[1], "fails")) {
        all_fail();
        return 0;
    }
#endif
    int la = listener(&at_a), lb = listener(&at_b);
    int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
#ifndef WRITTEN
    begin();
#endif
    printf("connect: %ld", my_connect(a, &at_a));
    printf(" %ld\n", my_connect(b, &at_b));
    printf("send: %ld", my_send(a, "to-A", 4));
    printf(" %ld\n", my_send(b, "to-B", 4));
    talk("A", la, a);
    talk("B", lb, b);
    return 0;
}
