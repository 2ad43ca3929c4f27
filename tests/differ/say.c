/* say.c - the words in which cases tell what they saw. */
#include "differ.h"

#include <stdarg.h>

static char *text_place(void)
{
    static char places[32][300];
    static int next;
    return places[__atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % 32];
}

void say(const char *format, ...)
{
    char line[2000];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    puts(line);
}

const char *result_text(long result, int error)
{
    char *text = text_place();
    const char *name = strerrorname_np(error);
    if (result == -1)
        snprintf(text, 300, "-1 %s", name ? name : "?");
    else
        snprintf(text, 300, "%ld", result);
    return text;
}

void say_result(const char *text, long result, int error)
{
    say("%s = %s", text, result_text(result, error));
}

const char *bits(unsigned events)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{POLLIN, "IN"},
                 {POLLPRI, "PRI"},
                 {POLLOUT, "OUT"},
                 {POLLERR, "ERR"},
                 {POLLHUP, "HUP"},
                 {POLLNVAL, "NVAL"},
                 {POLLRDNORM, "RDNORM"},
                 {POLLRDBAND, "RDBAND"},
                 {POLLWRNORM, "WRNORM"},
                 {POLLWRBAND, "WRBAND"},
                 {POLLMSG, "MSG"},
                 {POLLRDHUP, "RDHUP"},
                 {EPOLLONESHOT, "ONESHOT"},
                 {EPOLLET, "ET"}};
    char *text = text_place(), *end = text;
    *text = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (events & names[i].bit) {
            end += sprintf(end, "%s%s", end == text ? "" : "|", names[i].name);
            events &= ~names[i].bit;
        }
    if (events)
        sprintf(end, "%s%#x", end == text ? "" : "|", events);
    return *text ? text : "-";
}
