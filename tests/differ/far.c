/* far.c - the far side of a connection: another process, which does what it is told.
 *
 * It is a child of the case or a program of its own (`differ --peer`, started by exec), so that two programs
 * meet for the first time. Orders come over a pair of unix sockets, a record each; so do the answers, one for
 * a whole record of orders, when all of them are done. It has one listener and one connection, and keeps
 * count of what it has sent and received so that each byte can be checked.
 */
#include "differ.h"

#include <netinet/tcp.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/prctl.h>

static int far_l = -1, far_s = -1;
static long sent, received;

static long listening(void)
{
    far_l = listener(16);
    return ntohs(differ_at.sin_port);
}

static long receive(long count)
{
    long n = take(far_s, received, count, 0);
    received += n > 0 ? n : 0;
    return n;
}

static long send_exactly(long count)
{
    long n = give(far_s, sent, count);
    sent += n > 0 ? n : 0;
    return n;
}

static long send_once(long count)
{
    unsigned char *block = malloc((size_t)count);
    for (long i = 0; block && i < count; i++)
        block[i] = pattern(sent + i);
    long n = send(far_s, block, (size_t)count, MSG_DONTWAIT | MSG_NOSIGNAL);
    int why = errno;
    sent += n > 0 ? n : 0;
    free(block);
    errno = why;
    return n;
}

static long receive_once(long count)
{
    unsigned char *block = malloc((size_t)count);
    long n = recv(far_s, block, (size_t)count, 0);
    int why = errno;
    received += n > 0 ? n : 0;
    free(block);
    errno = why;
    return n;
}

static long half_close(const char *how)
{
    return shutdown(far_s, strcmp(how, "rd") == 0 ? SHUT_RD : strcmp(how, "wr") == 0 ? SHUT_WR : SHUT_RDWR);
}

static int far_control = -1;

static long receive_listener(void)
{
    char byte, space[CMSG_SPACE(sizeof(int))];
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(far_control, &m, 0) != 1 || !CMSG_FIRSTHDR(&m))
        return -1;
    memcpy(&far_l, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof far_l);
    return 0;
}

ssize_t send_fd(int by, int fd)
{
    char byte = 'l', space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(by, &m, 0);
}

void far_pass(struct far *far, int l)
{
    far_begin(far, "receive");
    if (send_fd(far->control, l) != 1)
        say("not sent: %s", result_text(-1, errno));
    say("received: %s", far_answer(far));
}

#define HEIRLOOM 200

/* The same program once more, which answers and goes on with the connection. */
static long exec_again(long so_sent, long so_received)
{
    char control[16], before[16], after[16];
    snprintf(control, sizeof control, "%d", far_control);
    snprintf(before, sizeof before, "%ld", so_sent);
    snprintf(after, sizeof after, "%ld", so_received);
    fcntl(far_s, F_SETFD, 0);
    if (far_s != HEIRLOOM && dup2(far_s, HEIRLOOM) < 0)
        return -1;
    if (far_s != HEIRLOOM)
        close(far_s);
    execl("/proc/self/exe", "differ", "--peer", control, before, after, (char *)NULL);
    return -1;
}

static long obey(const char *order)
{
    char word[32] = "", text[32] = "";
    long n = 0, more = 0;
    int one = 1;
    sscanf(order, " %31s %31s %ld", word, text, &more);
    n = atol(text);
    if (strcmp(word, "listen") == 0)
        return listening();
    if (strcmp(word, "connect") == 0)
        return (far_s = dial_port((int)n)) < 0 ? -1 : 0;
    if (strcmp(word, "accept") == 0)
        return (far_s = accept(far_l, NULL, NULL)) < 0 ? -1 : 0;
    if (strcmp(word, "closelistener") == 0)
        return close(far_l);
    if (strcmp(word, "nonblock") == 0)
        return set_nonblock(far_s, (int)n);
    if (strcmp(word, "send") == 0)
        return send_exactly(n);
    if (strcmp(word, "one") == 0)
        return send_once(n);
    if (strcmp(word, "recv") == 0)
        return receive(n);
    if (strcmp(word, "readone") == 0)
        return receive_once(n);
    if (strcmp(word, "readable") == 0) {
        struct pollfd p = {.fd = far_s, .events = POLLIN};
        return poll(&p, 1, (int)n);
    }
    if (strcmp(word, "awaited") == 0) {
        struct epoll_event ev = {.events = EPOLLIN};
        int ep = epoll_create1(0);
        long found = epoll_ctl(ep, EPOLL_CTL_ADD, far_s, &ev) < 0 ? -1 : epoll_wait(ep, &ev, 1, (int)n);
        close(ep);
        return found;
    }
    if (strcmp(word, "drain") == 0)
        return drain(far_s, 1L << 40);
    if (strcmp(word, "shutdown") == 0)
        return half_close(text);
    if (strcmp(word, "close") == 0)
        return close(far_s);
    if (strcmp(word, "rst") == 0) {
        reset(far_s);
        return 0;
    }
    if (strcmp(word, "error") == 0)
        return socket_error(far_s);
    if (strcmp(word, "nodelay") == 0)
        return setsockopt(far_s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (strcmp(word, "rcvbuf") == 0)
        return set_option(far_s, SO_RCVBUF, (int)n);
    if (strcmp(word, "sndbuf") == 0)
        return set_option(far_s, SO_SNDBUF, (int)n);
    if (strcmp(word, "lowat") == 0)
        return set_option(far_s, SO_RCVLOWAT, (int)n);
    if (strcmp(word, "unread") == 0)
        return unread(far_s);
    if (strcmp(word, "sleep") == 0) {
        nap((int)n);
        return 0;
    }
    if (strcmp(word, "inherited") == 0) {
        far_l = HEIRLOOM;
        return 0;
    }
    if (strcmp(word, "receive") == 0)
        return receive_listener();
    if (strcmp(word, "mine") == 0) {
        far_s = far_l;
        far_l = -1;
        sent = n;
        received = more;
        return 0;
    }
    if (strcmp(word, "again") == 0)
        return listen(far_l, 16);
    if (strcmp(word, "flags") == 0)
        return !!(fcntl(far_l, F_GETFL) & O_NONBLOCK);
    if (strcmp(word, "try") == 0) {
        struct pollfd p = {.fd = far_l, .events = POLLIN};
        return poll(&p, 1, (int)n) == 1 ? (far_s = accept(far_l, NULL, NULL)) < 0 ? -1 : 1 : 0;
    }
    if (strcmp(word, "option") == 0 && strcmp(text, "keepalive") == 0) {
        socklen_t len = sizeof one;
        return getsockopt(far_s, SOL_SOCKET, SO_KEEPALIVE, &one, &len) < 0 ? -1 : one;
    }
    if (strcmp(word, "peername") == 0) {
        struct sockaddr_in at = {0};
        socklen_t len = sizeof at;
        return getpeername(far_s, (struct sockaddr *)&at, &len) < 0 ? -1 : (long)ntohl(at.sin_addr.s_addr);
    }
    if (strcmp(word, "exec") == 0)
        return exec_again(n, more);
    if (strcmp(word, "exit") == 0)
        exit(0);
    errno = ENOSYS;
    return -1;
}

_Noreturn void far_serve_on(int control, long so_sent, long so_received)
{
    far_s = HEIRLOOM;
    sent = so_sent;
    received = so_received;
    send(control, "again", 5, MSG_NOSIGNAL);
    far_serve(control);
}

_Noreturn void far_serve(int control)
{
    char orders[500], answer[500];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    far_control = control;
    for (;;) {
        ssize_t n = recv(control, orders, sizeof orders - 1, 0);
        if (n <= 0)
            _exit(0);
        orders[n] = 0;
        size_t end = 0;
        char *rest = NULL;
        for (char *order = strtok_r(orders, ";", &rest); order; order = strtok_r(NULL, ";", &rest)) {
            errno = 0;
            long result = obey(order);
            end += (size_t)snprintf(answer + end, sizeof answer - end, "%s%s", end ? ", " : "",
                                    result_text(result, errno));
        }
        send(control, answer, end, MSG_NOSIGNAL);
    }
}

struct far far_new(enum far_kind kind)
{
    struct far far;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        say("no socketpair: %s", result_text(-1, errno));
    fflush(stdout);
    far.pid = fork();
    if (far.pid == 0) {
        char number[16];
        close(ends[0]);
        if (kind == FORKED)
            far_serve(ends[1]);
        for (int fd = 3; fd < 256; fd++) /* a stranger inherits nothing */
            fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(ends[1], F_SETFD, 0);
        snprintf(number, sizeof number, "%d", ends[1]);
        execl("/proc/self/exe", "differ", "--peer", number, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    far.control = ends[0];
    return far;
}

struct far far_alone(int s)
{
    struct far far;
    int ends[2];
    char number[16], go;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        say("no socketpair: %s", result_text(-1, errno));
    snprintf(number, sizeof number, "%d", ends[1]);
    char *argv[] = {(char *)"differ", (char *)"--peer", number, NULL};
    fflush(stdout);
    if ((far.pid = fork()) == 0) {
        for (int fd = 3; fd < 256; fd++)
            fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(ends[1], F_SETFD, 0);
        if (dup2(s, HEIRLOOM) < 0 || read(ends[1], &go, 1) != 1)
            _exit(126);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    close(s);
    far.control = ends[0];
    far_begin(&far, "g");
    say("inherited: %s", far_do(&far, "inherited"));
    return far;
}

struct far far_heir(enum heir how, int l)
{
    struct far far;
    int ends[2];
    char number[16];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        say("no socketpair: %s", result_text(-1, errno));
    snprintf(number, sizeof number, "%d", ends[1]);
    char *argv[] = {(char *)"differ", (char *)"--peer", number, NULL};
    fflush(stdout);
    if (how == BY_SPAWN) {
        if (dup2(l, HEIRLOOM) < 0)
            say("no copy: %s", result_text(-1, errno));
        fcntl(ends[1], F_SETFD, 0);
        if (posix_spawn(&far.pid, "/proc/self/exe", NULL, NULL, argv, environ) != 0)
            say("no spawn");
        close(HEIRLOOM);
    } else if ((far.pid = fork()) == 0) {
        for (int fd = 3; fd < 256; fd++)
            fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(ends[1], F_SETFD, 0);
        dup2(l, HEIRLOOM);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    far.control = ends[0];
    say("inherited: %s", far_do(&far, "inherited"));
    return far;
}

static void send_orders(struct far *far, const char *format, va_list list)
{
    char orders[400];
    int n = vsnprintf(orders, sizeof orders, format, list);
    if (send(far->control, orders, (size_t)n, MSG_NOSIGNAL) != n)
        say("the far side is gone");
}

void far_begin(struct far *far, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    send_orders(far, format, list);
    va_end(list);
}

const char *far_answer(struct far *far)
{
    static char answers[4][500];
    static int next;
    char *answer = answers[++next % 4];
    ssize_t n;
    while ((n = recv(far->control, answer, sizeof answers[0] - 1, 0)) < 0 && errno == EINTR)
        ;
    answer[n > 0 ? n : 0] = 0;
    return n > 0 ? answer : "gone";
}

const char *far_do(struct far *far, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    send_orders(far, format, list);
    va_end(list);
    return far_answer(far);
}

void far_kill(struct far *far)
{
    kill(far->pid, SIGKILL);
    waitpid(far->pid, NULL, 0);
}

struct meeting meet_as_server(enum far_kind kind)
{
    struct meeting m = {.far = far_new(kind)};
    m.l = listener(16);
    far_begin(&m.far, "connect %d", ntohs(differ_at.sin_port));
    m.s = accept(m.l, NULL, NULL);
    if (m.s < 0)
        say("no accept: %s", result_text(-1, errno));
    const char *answer = far_answer(&m.far);
    if (strcmp(answer, "0") != 0)
        say("no connect: %s", answer);
    return m;
}

struct meeting meet_as_client(enum far_kind kind)
{
    struct meeting m = {.far = far_new(kind), .l = -1};
    m.s = dial_port(atoi(far_do(&m.far, "listen")));
    if (m.s < 0)
        say("no connect: %s", result_text(-1, errno));
    const char *answer = far_do(&m.far, "accept");
    if (strcmp(answer, "0") != 0)
        say("no accept: %s", answer);
    return m;
}
