/* debuggee.c - what test_debug.py looks into: a server that answers each line, and a client that asks.
 *
 *     debuggee server PORT COUNT         serves COUNT connections, one after the other
 *     debuggee client PORT [hold|crash]  100 questions; then ends, or reads until the other side closes, or
 *                                        aborts
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE 64

__attribute__((noinline)) static int answer(int fd)
{
    char line[LINE];
    ssize_t n = read(fd, line, sizeof line);
    if (n < 0)
        perror("read");
    return n > 0 && write(fd, line, (size_t)n) == n;
}

__attribute__((noinline)) static void greet(const char *text)
{
    puts(text);
    (void)fflush(stdout);
}

static int serve(const struct sockaddr_in *at, int count)
{
    int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
    (void)setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (l < 0 || bind(l, (const struct sockaddr *)at, sizeof *at) < 0 || listen(l, 16) < 0)
        return 1;
    while (count-- > 0) {
        int fd = accept(l, NULL, NULL);
        if (fd < 0)
            return 1;
        while (answer(fd))
            ;
        (void)close(fd);
    }
    (void)close(l);
    return 0;
}

static int ask(const struct sockaddr_in *at, const char *then)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char *line = NULL; /* of malloc's: valgrind looks */
    if (fd < 0 || connect(fd, (const struct sockaddr *)at, sizeof *at) < 0 || !(line = calloc(1, LINE)))
        return 1;
    memcpy(line, "hello", 6);
    for (int i = 0; i < 100; i++) {
        if (write(fd, line, LINE) != LINE || recv(fd, line, LINE, MSG_WAITALL) != LINE) {
            free(line);
            return 1;
        }
    }
    greet(line);
    if (!strcmp(then, "crash"))
        abort();
    if (!strcmp(then, "hold"))
        (void)!read(fd, line, LINE);
    free(line);
    (void)close(fd);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(argv[2])),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return !strcmp(argv[1], "server") ? serve(&at, argc > 3 ? atoi(argv[3]) : 1)
                                      : ask(&at, argc > 3 ? argv[3] : "");
}
