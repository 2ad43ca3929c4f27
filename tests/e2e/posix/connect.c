/* connect.c - as soon as the server has accepted, every thread may use the client's socket, whether or not
 * connect() has returned. */
#include "posix.h"

static int fd;

static void *connects(void *arg)
{
    (void)arg;
    if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
        abort();
    return NULL;
}

int main(void)
{
    int bad = 0, l = listener();
    for (int i = 0; i < 500; i++) {
        pthread_t t;
        struct sockaddr_in peer;
        socklen_t len = sizeof peer;
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (pthread_create(&t, NULL, connects, NULL))
            abort();
        int s = accept(l, NULL, NULL);
        if (i & 1)
            (void)send(s, "hello", 5, 0);
        (void)close(s);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        bad += poll(&p, 1, 2000) != 1 || recv(fd, buf, 100, 0) != (i & 1 ? 5 : 0);
        bad += getpeername(fd, (struct sockaddr *)&peer, &len) != 0 && errno != ENOTCONN;
        (void)pthread_join(t, NULL);
        (void)close(fd);
    }
    printf("%d of 500 not as they should be\n", bad);
    return 0;
}
