/* slowfile.c - sendfile of a file whose read waits, while other calls use the connection.
 *
 *   slowfile FILE
 *
 * One thread sends 5 bytes of the file; their read takes most of a second (test_slowfile.py). Meanwhile
 * another one writes, asks, and has a signal handler write. Prints what the calls gave, and whether each came
 * at once; so the outputs on the kernel and under berth are equal.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../slowness.h"

static int s, far, file;
static atomic_int sent;

static double now(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void pair(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int l = socket(AF_INET, SOCK_STREAM, 0);
    far = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(l, (struct sockaddr *)&at, len) || listen(l, 1) ||
        getsockname(l, (struct sockaddr *)&at, &len) || connect(far, (struct sockaddr *)&at, len) ||
        (s = accept(l, NULL, NULL)) < 0) {
        perror("slowfile: no connection");
        exit(1);
    }
}

static void *send_file(void *arg)
{
    off_t *off = arg;
    double cpu = now(CLOCK_THREAD_CPUTIME_ID);
    ssize_t n = sendfile(s, file, off, 5);
    sent = 1;
    printf("sendfile %zd, offset %ld, slept %d\n", n, (long)(off ? *off : lseek(file, 0, SEEK_CUR)),
           now(CLOCK_THREAD_CPUTIME_ID) - cpu < 0.2);
    return NULL;
}

static void on_signal(int sig)
{
    (void)!write(s, "h", 1);
}

static void meanwhile(const char *what, long result, double began)
{
    printf("%s %ld, while the file was read %d, slept %d\n", what, result, !sent,
           now(CLOCK_THREAD_CPUTIME_ID) - began < 0.1);
}

static void round_of(const char *path, off_t *off)
{
    pthread_t t;
    char buf[16] = "";
    struct pollfd p = {.fd = s, .events = POLLOUT};
    struct timespec nap = {0, 300000000};
    sent = 0;
    file = open(path, O_RDONLY); /* anew: nothing of it is in memory then */
    if (file < 0)
        perror(path);
    if (pthread_create(&t, NULL, send_file, off))
        exit(1);
    nanosleep(&nap, NULL);
    double cpu = now(CLOCK_THREAD_CPUTIME_ID);
    meanwhile("poll", poll(&p, 1, 0), cpu);
    meanwhile("write", write(s, "w", 1), cpu);
    meanwhile("send", send(s, "n", 1, MSG_DONTWAIT), cpu);
    pthread_kill(t, SIGUSR1); /* its handler runs when the read is over, or in the midst of it */
    pthread_join(t, NULL);
    for (size_t got = 0; got < 8;) {
        ssize_t n = recv(far, buf + got, 8 - got, 0);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    close(file);
    printf("%.2s and %s\n", buf, strstr(buf, "hello") ? "hello" : buf);
}

int main(int argc, char **argv)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    off_t off = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm((unsigned)longer(60));
    if (argc < 2 || sigaction(SIGUSR1, &act, NULL))
        return 1;
    pair();
    round_of(argv[1], &off);
    round_of(argv[1], NULL);
    return 0;
}
