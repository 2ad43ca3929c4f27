/* shutdown.c - of listeners and of sockets that are still connecting, while another thread waits for them. */
#include "posix.h"

static int l, fd, tid, connect_result, connect_error;

static void *accepts(void *arg)
{
    say_tid(&tid);
    for (int i = 0; i < *(int *)arg; i++) {
        int got = accept(l, NULL, NULL);
        printf("blocked accept %s %s\n", got < 0 ? "-1" : "ok", why(got));
    }
    return NULL;
}

static void *polls(void *arg)
{
    struct pollfd p = {.fd = l, .events = (short)*(int *)arg};
    say_tid(&tid);
    int n = poll(&p, 1, 5000);
    printf("blocked poll %d %x\n", n, (unsigned)p.revents);
    return NULL;
}

static void *waits(void *arg)
{
    struct epoll_event ev = {.events = (uint32_t) * (int *)arg};
    int ep = epoll_create1(0);
    (void)epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
    say_tid(&tid);
    int n = epoll_wait(ep, &ev, 1, 5000);
    printf("blocked epoll_wait %d %x\n", n, n > 0 ? ev.events : 0);
    n = epoll_wait(ep, &ev, 1, 0);
    printf("and again %d %x\n", n, n > 0 ? ev.events : 0);
    (void)close(ep);
    return NULL;
}

static void *selects(void *arg)
{
    fd_set set;
    struct timeval tv = {5, 0};
    (void)arg;
    FD_ZERO(&set);
    FD_SET(l, &set);
    say_tid(&tid);
    int n = select(l + 1, &set, NULL, NULL, &tv);
    printf("blocked select %d %d\n", n, FD_ISSET(l, &set));
    return NULL;
}

static void with(void *(*other)(void *), int arg, int how)
{
    pthread_t t;
    tid = 0;
    l = listener();
    if (pthread_create(&t, NULL, other, &arg))
        abort();
    wait_asleep(&tid);
    int ret = shutdown(l, how);
    if (how == SHUT_WR)
        (void)close(client());
    (void)pthread_join(t, NULL);
    printf("shutdown %d gave %d\n", how, ret);
    (void)close(l);
}

static void afterwards(void)
{
    struct pollfd p = {.events = POLLIN | POLLOUT | POLLRDHUP};
    l = listener();
    int early = client();
    SAY(shutdown(l, 3));
    SAY(shutdown(l, -1));
    SAY(shutdown(l, SHUT_WR));
    SAY(accept(l, NULL, NULL) >= 0);
    int late = client();
    SAY(shutdown(l, SHUT_RD));
    SAY(accept(l, NULL, NULL));
    (void)fcntl(l, F_SETFL, O_NONBLOCK);
    SAY(accept(l, NULL, NULL));
    p.fd = l;
    SAY(poll(&p, 1, 0));
    SAY(p.revents);
    SAY(shutdown(l, SHUT_RD));
    p.fd = late; /* nobody took it */
    SAY(poll(&p, 1, 2000) > 0);
    SAY(recv(late, buf, 10, 0));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(fd, (struct sockaddr *)&at, sizeof at));
    SAY(listen(l, 16));
    socklen_t len = sizeof at;
    (void)getsockname(l, (struct sockaddr *)&at, &len); /* the kernel takes another port */
    SAY(connect(fd, (struct sockaddr *)&at, sizeof at));
    (void)fcntl(l, F_SETFL, 0);
    SAY(accept(l, NULL, NULL) >= 0);
    (void)close(early);
    (void)close(late);
    (void)close(fd);
    (void)close(l);
}

static void *connects(void *arg)
{
    (void)arg;
    say_tid(&tid);
    connect_result = connect(fd, (struct sockaddr *)&at, sizeof at);
    connect_error = errno;
    return NULL;
}

static void connecting(int how)
{
    int others[64], n = 0;
    pthread_t t;
    l = listener();
    (void)listen(l, 1);
    for (; n < 64; n++) { /* until the queue is full */
        struct pollfd p = {.events = POLLOUT};
        p.fd = others[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(p.fd, (struct sockaddr *)&at, sizeof at);
        if (poll(&p, 1, 100) == 0)
            break;
    }
    fd = socket(AF_INET, SOCK_STREAM, 0);
    tid = 0;
    if (pthread_create(&t, NULL, connects, NULL))
        abort();
    wait_asleep(&tid);
    struct sockaddr_in peer;
    socklen_t len = sizeof peer;
    SAY(getpeername(fd, (struct sockaddr *)&peer, &len));
    SAY(recv(fd, buf, 10, MSG_DONTWAIT));
    SAY(shutdown(fd, how));
    (void)pthread_join(t, NULL);
    printf("blocked connect %d %s\n", connect_result, connect_result ? strerrorname_np(connect_error) : "");
    for (int i = 0; i <= n && i < 64; i++)
        (void)close(others[i]);
    (void)fcntl(l, F_SETFL, O_NONBLOCK);
    for (int64_t end = now_ms() + 1500; now_ms() < end; rest_ms(10))
        (void)close(accept(l, NULL, NULL));
    SAY(connect(fd, (struct sockaddr *)&at, sizeof at));
    SAY(send(fd, "x", 1, 0));
    (void)close(fd);
    (void)close(l);
}

int main(void)
{
    int one = 1, two = 2;
    (void)signal(SIGPIPE, SIG_IGN);
    with(accepts, two, SHUT_RDWR);
    with(accepts, one, SHUT_RD);
    with(accepts, one, SHUT_WR);
    with(polls, POLLIN, SHUT_RDWR);
    with(polls, POLLIN | POLLOUT | POLLRDHUP, SHUT_RDWR);
    with(polls, 0, SHUT_RDWR);
    with(waits, EPOLLIN, SHUT_RDWR);
    with(waits, (int)(EPOLLIN | EPOLLET), SHUT_RDWR);
    with(selects, 0, SHUT_RDWR);
    afterwards();
    connecting(SHUT_RDWR);
    connecting(SHUT_WR);
    return 0;
}
