/* costs.c - what it costs a program to be there at all: to start, to connect for the first time, to fork.
 *
 *     cost-bench start [--runs N] -- PROGRAM ARGUMENTS
 *     cost-bench first [--runs N]
 *     cost-bench fork  [--sessions N] [--mib N] [--runs N]
 *     cost-bench grow  [--sessions N]
 *     cost-bench pairs [--pairs N] [--runs N]
 *     cost-bench pass  [--runs N]
 *
 * start: a program from its fork to its end, as a shell starts it. This one is not run under berth; its
 *        PROGRAM may be `berth run`.
 * first: a fresh process and a server that has never met it: socket, connect, and the answer to one byte.
 * fork:  fork, _exit and waitpid of a program that has so much memory of its own in use, and holds so many
 *        sessions and a listener.
 * grow:  one more session and one more fork, the whole from the first to the last: memcached's maxconns test.
 * pairs: forked pairs, each a server and a client of 1,000 round trips of 64 bytes, from the first fork to
 *        the last end.
 * pass:  a connection is made, goes over a unix socket to another program, and is echoed one byte there; until
 *        that one says so.
 *
 * Like sock-bench it knows nothing of berth. The world is the kernel's TCP.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

#define ROUND_TRIPS 1000

extern char **environ;

static struct histogram took;

static void report(void)
{
    printf("{\"p50_us\": %.2f, \"p90_us\": %.2f}\n", histogram_quantile(&took, 0.5) / 1000,
           histogram_quantile(&took, 0.9) / 1000);
}

/* ---- sockets ---- */

static int listener(struct sockaddr_in *in)
{
    socklen_t len = sizeof *in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (fd < 0 || bind(fd, (struct sockaddr *)in, sizeof *in) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)in, &len) < 0)
        die("listen");
    return fd;
}

static int accept_one(int l)
{
    int one = 1, fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        die("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int connect_to(const struct sockaddr_in *in)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)in, sizeof *in) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void send_all(int fd, const char *buf, size_t len)
{
    if (write(fd, buf, len) != (ssize_t)len)
        die("write");
}

static bool receive_all(int fd, char *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t n = read(fd, buf + have, len - have);
        if (n < 0)
            die("read");
        if (n == 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

static void ask(int fd, size_t len)
{
    char buf[64] = "question";
    send_all(fd, buf, len);
    if (!receive_all(fd, buf, len))
        die_text("the server has gone");
}

static void echo(int fd, size_t len)
{
    char buf[64];
    while (receive_all(fd, buf, len))
        send_all(fd, buf, len);
}

/* This program again, another app to berth, which is told the address. Waiting for it ends it, too. */
static pid_t other(char *program, const char *role, const struct sockaddr_in *in, int *fd)
{
    char line[64], *argv[] = {program, (char *)(uintptr_t) "peer", (char *)(uintptr_t)role, NULL};
    pid_t pid = peer_start(argv, fd);
    snprintf(line, sizeof line, "%d", in ? ntohs(in->sin_port) : 0);
    peer_tell(*fd, line);
    return pid;
}

static struct sockaddr_in told_address(void)
{
    char line[64];
    peer_line(line, sizeof line);
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(line)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

/* ---- start ---- */

static void start(char **command, long runs)
{
    for (long i = 0; i < runs; i++) {
        pid_t pid;
        int64_t from = now_ns();
        if (posix_spawnp(&pid, command[0], NULL, NULL, command, environ) != 0)
            die(command[0]);
        peer_wait(pid);
        histogram_add(&took, now_ns() - from);
    }
    report();
}

/* ---- first ---- */

/* The peer's figure comes as the bytes of its second question. */
static void first(char *program, long runs)
{
    struct sockaddr_in in;
    int l = listener(&in), fd;
    for (long i = 0; i < runs + 2; i++) {
        int64_t ns = 0;
        pid_t pid = other(program, "first", &in, &fd);
        int s = accept_one(l);
        char c;
        if (!receive_all(s, &c, 1))
            die_text("no question");
        send_all(s, &c, 1);
        if (!receive_all(s, (char *)&ns, sizeof ns))
            die_text("no figure");
        close(s);
        peer_wait(pid);
        close(fd);
        if (i >= 2) /* the server's own first meetings */
            histogram_add(&took, ns);
    }
    report();
}

static void first_peer(void)
{
    struct sockaddr_in in = told_address();
    int64_t from = now_ns();
    int fd = connect_to(&in);
    ask(fd, 1);
    int64_t ns = now_ns() - from;
    send_all(fd, (const char *)&ns, sizeof ns);
    close(fd);
}

/* ---- fork ---- */

static void fork_once(void)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        _exit(0);
    peer_wait(pid);
}

/* A server for `fork` and `grow`: it takes what comes, answers the first byte of each, and holds them until
 * its standard input ends. */
static void holder_peer(void)
{
    struct sockaddr_in in, unused = told_address();
    int l = listener(&in);
    (void)unused;
    printf("%d\n", ntohs(in.sin_port));
    fflush(stdout);
    for (;;) {
        char c;
        int fd = accept_one(l);
        if (!receive_all(fd, &c, 1) || c == 'e')
            break;
        send_all(fd, &c, 1);
    }
}

static pid_t holder_start(char *program, struct sockaddr_in *in, int *fd)
{
    int out[2], keep = dup(1);
    char line[16] = "";
    if (pipe(out) < 0 || keep < 0 || dup2(out[1], 1) < 0)
        die("pipe");
    pid_t pid = other(program, "holder", NULL, fd);
    dup2(keep, 1);
    close(keep);
    close(out[1]);
    for (size_t n = 0; n + 1 < sizeof line && read(out[0], line + n, 1) == 1 && line[n] != '\n'; n++)
        ;
    close(out[0]);
    *in = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(line)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return pid;
}

static void holder_end(pid_t pid, const struct sockaddr_in *in)
{
    send_all(connect_to(in), "e", 1);
    peer_wait(pid);
}

static void forks(char *program, long sessions, long mib, long runs)
{
    struct sockaddr_in in;
    int fd;
    pid_t pid = holder_start(program, &in, &fd);
    char *memory = malloc(((size_t)mib << 20) + 1);
    if (!memory)
        die("memory");
    memset(memory, 1, ((size_t)mib << 20) + 1);
    (void)listener(&(struct sockaddr_in){0});
    for (long i = 0; i < sessions; i++)
        ask(connect_to(&in), 1);
    for (long i = 0; i < runs + 5; i++) {
        int64_t from = now_ns();
        fork_once();
        if (i >= 5)
            histogram_add(&took, now_ns() - from);
    }
    report();
    holder_end(pid, &in);
    free(memory);
}

static void grow(char *program, long sessions)
{
    struct sockaddr_in in;
    int fd;
    pid_t pid = holder_start(program, &in, &fd);
    int64_t from = now_ns();
    for (long i = 0; i < sessions; i++) {
        ask(connect_to(&in), 1);
        fork_once();
    }
    printf("{\"ms\": %.2f}\n", (double)(now_ns() - from) / 1e6);
    holder_end(pid, &in);
}

/* ---- pairs ---- */

static void pair_start(pid_t *server, pid_t *client)
{
    struct sockaddr_in in;
    int l = listener(&in);
    *server = fork_bound();
    if (*server == 0) {
        echo(accept_one(l), 64);
        _exit(0);
    }
    *client = fork_bound();
    if (*client == 0) {
        int fd = connect_to(&in);
        for (int i = 0; i < ROUND_TRIPS; i++)
            ask(fd, 64);
        _exit(0);
    }
    close(l);
}

static void pairs(long count, long runs)
{
    for (long run = 0; run < runs; run++) {
        pid_t pids[2 * 64] = {0};
        int64_t from = now_ns();
        for (long i = 0; i < count && i < 64; i++)
            pair_start(&pids[2 * i], &pids[2 * i + 1]);
        for (long i = 0; i < 2 * count && i < 2l * 64; i++)
            peer_wait(pids[i]);
        histogram_add(&took, now_ns() - from);
    }
    report();
}

/* ---- pass ---- */

/* The receiver, another program: its standard input is the socket by which connections come. */
static void pass_peer(void)
{
    char c, control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&c, 1};
    for (;;) {
        struct msghdr m = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(0, &m, MSG_CMSG_CLOEXEC);
        const struct cmsghdr *h = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
        int fd;
        if (!h)
            break;
        memcpy(&fd, CMSG_DATA(h), sizeof fd);
        ask(fd, 1);
        close(fd);
        send_all(0, "d", 1);
    }
}

static void pass_on(int to, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = "";
    struct iovec iov = {(char[]){"c"}, 1};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    if (sendmsg(to, &m, 0) != 1)
        die("sendmsg");
    close(fd);
}

static pid_t receiver_start(char *program, int *fd)
{
    char *argv[] = {program, (char *)(uintptr_t) "peer", (char *)(uintptr_t) "pass", NULL};
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        die("socketpair");
    pid_t pid = fork_bound();
    if (pid == 0) {
        dup2(ends[1], 0);
        execv("/proc/self/exe", argv);
        die("exec");
    }
    close(ends[1]);
    *fd = ends[0];
    return pid;
}

/* A server of one connection after the other, which is a process of its own: the echo's. */
static void passes(long runs)
{
    struct sockaddr_in in;
    int fd, l = listener(&in);
    char c;
    pid_t server = fork_bound();
    if (server == 0) {
        for (;;) {
            int s = accept_one(l);
            echo(s, 1);
            close(s);
        }
    }
    close(l);
    pid_t pid = receiver_start((char *)(uintptr_t) "cost-bench", &fd);
    for (long i = 0; i < runs + 5; i++) {
        int64_t from = now_ns();
        pass_on(fd, connect_to(&in));
        if (!receive_all(fd, &c, 1))
            die_text("the receiver has gone");
        if (i >= 5)
            histogram_add(&took, now_ns() - from);
    }
    report();
    close(fd);
    peer_wait(pid);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    watchdog(60);
    if (strcmp(what, "peer") == 0 && argc > 2 && strcmp(argv[2], "first") == 0) {
        first_peer();
    } else if (strcmp(what, "peer") == 0 && argc > 2 && strcmp(argv[2], "pass") == 0) {
        pass_peer();
    } else if (strcmp(what, "peer") == 0) {
        holder_peer();
    } else if (strcmp(what, "start") == 0) {
        int command = 2;
        while (command < argc && strcmp(argv[command], "--") != 0)
            command++;
        if (command + 1 >= argc)
            die_text("start: which program?");
        start(argv + command + 1, option_number(command, argv, "--runs", 50));
    } else if (strcmp(what, "first") == 0) {
        first(argv[0], option_number(argc, argv, "--runs", 50));
    } else if (strcmp(what, "fork") == 0) {
        forks(argv[0], option_number(argc, argv, "--sessions", 0), option_number(argc, argv, "--mib", 8),
              option_number(argc, argv, "--runs", 300));
    } else if (strcmp(what, "grow") == 0) {
        grow(argv[0], option_number(argc, argv, "--sessions", 1000));
    } else if (strcmp(what, "pairs") == 0) {
        pairs(option_number(argc, argv, "--pairs", 8), option_number(argc, argv, "--runs", 3));
    } else if (strcmp(what, "pass") == 0) {
        passes(option_number(argc, argv, "--runs", 300));
    } else {
        die_text("start, first, fork, grow, pairs or pass?");
    }
    return 0;
}
