/* look.c - poll, select and epoll, with what they saw as a text. */
#include "differ.h"

void nap(int ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

const char *polled(int fd, int events, int ms)
{
    struct pollfd p = {fd, (short)events, 0};
    int n = poll(&p, 1, ms);
    if (n < 0)
        return result_text(n, errno);
    if (n != (p.revents != 0))
        return "a count that does not fit";
    return bits((unsigned short)p.revents);
}

const char *polled_soon(int fd, int events)
{
    struct pollfd p = {fd, (short)events, 0};
    int n = 0;
    SOON((n = poll(&p, 1, 0)) < 0 || (p.revents & events) == events || (p.revents & POLLNVAL));
    return n < 0 ? result_text(n, errno) : bits((unsigned short)p.revents);
}

const char *selected(int fd, const char *sets, int ms)
{
    static char text[8][8];
    static int next;
    fd_set of[3], *ask[3] = {NULL, NULL, NULL};
    char *end = text[++next % 8], *start = end;
    for (int i = 0; i < 3; i++)
        if (strchr(sets, "rwx"[i])) {
            FD_ZERO(&of[i]);
            FD_SET(fd, &of[i]);
            ask[i] = &of[i];
        }
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    int n = select(fd + 1, ask[0], ask[1], ask[2], ms < 0 ? NULL : &tv);
    if (n < 0)
        return result_text(n, errno);
    for (int i = 0; i < 3; i++)
        if (ask[i] && FD_ISSET(fd, ask[i])) {
            *end++ = "rwx"[i];
            n--;
        }
    *end = 0;
    if (n != 0)
        return "a count that does not fit";
    return end == start ? "-" : start;
}

const char *selected_soon(int fd, const char *sets)
{
    const char *seen = "-";
    SOON(strcmp(seen = selected(fd, sets, 0), sets) == 0);
    return seen;
}

int epoll_op(int ep, int op, int fd, unsigned events, int data)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)data};
    return epoll_ctl(ep, op, fd, &event);
}

int epoll_with(int fd, unsigned events, int data)
{
    int ep = epoll_create1(0);
    if (epoll_add(ep, fd, events, data) != 0)
        say("epoll_ctl ADD: %s", result_text(-1, errno));
    return ep;
}

static int by_data(const void *a, const void *b)
{
    const struct epoll_event *x = a, *y = b;
    return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

const char *epolled(int ep, int max, int ms)
{
    static char text[8][1000];
    static int next;
    struct epoll_event events[64];
    char *start = text[++next % 8], *end = start;
    int n = epoll_wait(ep, events, max, ms);
    if (n < 0)
        return result_text(n, errno);
    if (n > max || n > 64)
        return "more than was asked for";
    qsort(events, (size_t)n, sizeof *events, by_data);
    for (int i = 0; i < n && end - start < 900; i++) {
        uint64_t data = events[i].data.u64;
        if (data > 1000000) /* none of ours: its value differs from run to run */
            end += sprintf(end, "%sWILD:%s", i ? " " : "", bits(events[i].events));
        else
            end += sprintf(end, "%s%d:%s", i ? " " : "", (int)data, bits(events[i].events));
    }
    *end = 0;
    return n ? start : "-";
}

const char *epolled_soon(int ep)
{
    const char *seen = "-";
    SOON(strcmp(seen = epolled(ep, 64, 0), "-") != 0);
    return seen;
}
