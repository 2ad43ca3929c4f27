/* far.c - the far side of a connection: another process, which does what it is told.
 *
 * It is a child of the case or a program of its own (`differ --peer`, started by exec), so that two programs meet for
 * the first time. Orders come over a pair of unix sockets, a record each; so do the answers, one for a whole record
 * of orders, when all of them are done. It has one listener and one connection, and keeps count of what it has sent
 * and received so that each byte can be checked.
 */
#include "differ.h"

#include <netinet/tcp.h>
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

static long obey(const char *order)
{
    char word[32] = "", text[32] = "";
    long n = 0;
    int one = 1;
    sscanf(order, " %31s %31s", word, text);
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
    if (strcmp(word, "exit") == 0)
        exit(0);
    errno = ENOSYS;
    return -1;
}

_Noreturn void far_serve(int control)
{
    char orders[500], answer[500];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
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
