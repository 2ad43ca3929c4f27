/* relatives.c - many processes that were forked from one another, wide and deep, all of them alive. */
#include "differ.h"

#define MANY 600
#define SERVED 280
#define DEEP 120 /* in a long chain the kernel's own forks become slow */

static int go[2], ready[2];

/* A child that says that it is there and waits until the parent closes its end. */
static void remain(void)
{
    close(go[1]);
    (void)!write(ready[1], "r", 1);
    (void)!read(go[0], (char[1]){0}, 1);
    _exit(0);
}

static void gate(void)
{
    if (pipe(go) < 0 || pipe(ready) < 0)
        say("no pipe");
}

static void have(int n)
{
    int got = 0;
    char text[64];
    while (got < n) {
        long more = read(ready[0], text, sizeof text < (size_t)(n - got) ? sizeof text : (size_t)(n - got));
        if (more <= 0)
            break;
        got += (int)more;
    }
    say("%d of them", got);
}

static void crowd(int n)
{
    for (int i = 0; i < n; i++) {
        pid_t pid = fork();
        if (pid == 0)
            remain();
        if (pid < 0)
            say("fork: %s", result_text(-1, errno));
    }
    have(n);
}

static void all_end(int n)
{
    int status, ended = 0;
    close(go[1]);
    while (ended < n && waitpid(-1, &status, 0) > 0 && status == 0)
        ended++;
    say("ended: %d", ended);
}

CASE(a_crowd_that_waits, "hundreds of children are alive: parent and the last child go on with a connection")
{
    struct pair p = pair_here();
    gate();
    crowd(MANY);
    SAY(send(p.c, "ab", 2, 0));
    SAY(recv(p.s, (char[2]){0}, 1, 0));
    pid_t pid = fork();
    if (pid == 0) {
        int c = dial(), s = accept(p.l, NULL, NULL);
        _exit(recv(p.s, (char[2]){0}, 2, 0) != 1 || give(c, 0, 300000) != 300000 ||
              take(s, 0, 300000, 0) != 300000 || send(p.s, "c", 1, 0) != 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    say("child: %d", status);
    SAY(recv(p.c, (char[2]){0}, 2, 0));
    all_end(MANY);
    SAY(send(p.s, "d", 1, 0));
    SAY(recv(p.c, (char[2]){0}, 2, 0));
}

CASE(a_server_of_hundreds, "a server forks for each of hundreds of connections, which all stay")
{
    int l = listener(128), c[SERVED];
    pid_t parent = getpid();
    for (int i = 0; i < SERVED; i++) {
        c[i] = dial();
        int s = accept(l, NULL, NULL);
        if (fork() == 0) {
            unsigned char at = 0;
            close(l);
            for (int k = 0; k <= i; k++)
                close(c[k]);
            while (recv(s, &at, 1, 0) == 1) {
                at = (unsigned char)(at + i);
                if (send(s, &at, 1, 0) != 1)
                    break;
            }
            _exit(0);
        }
        close(s);
    }
    int right = 0;
    for (int i = 0; getpid() == parent && i < SERVED; i++) {
        unsigned char at = 7;
        right += send(c[i], &at, 1, 0) == 1 && recv(c[i], &at, 1, 0) == 1 && at == (unsigned char)(7 + i);
    }
    say("right: %d", right);
    for (int i = 0; i < SERVED; i++)
        close(c[i]);
    int ended = 0;
    for (int status; ended < SERVED && wait(&status) > 0; ended += status == 0)
        ;
    say("ended: %d", ended);
}

#define CALLERS 20
#define WORDS 100

/* Each leaves its connection to a child of its own. */
static _Noreturn void calls_by_a_child(void)
{
    int c = dial(), status = -1;
    pid_t pid = fork();
    if (pid > 0) {
        close(c);
        waitpid(pid, &status, 0);
        _exit(status != 0);
    }
    for (int i = 0; i < WORDS; i++) {
        unsigned char word = (unsigned char)i, back = 0;
        if (i % 3 == 0)
            usleep(200);
        if (send(c, &word, 1, 0) != 1 || recv(c, &back, 1, 0) != 1 || back != word)
            _exit(1);
    }
    _exit(0);
}

CASE(both_leave_it_to_children,
     "a server and its callers fork for each connection; both ends are the children's")
{
    int l = listener(128), right = 0;
    pid_t server = fork();
    if (server == 0) {
        signal(SIGCHLD, SIG_IGN);
        for (int s; (s = accept(l, NULL, NULL)) >= 0; close(s)) {
            unsigned char word;
            if (fork() > 0)
                continue;
            close(l);
            while (recv(s, &word, 1, 0) == 1 && send(s, &word, 1, 0) == 1)
                ;
            _exit(0);
        }
        _exit(1);
    }
    close(l);
    for (int i = 0; i < CALLERS; i++) {
        if (fork() == 0)
            calls_by_a_child();
    }
    for (int i = 0, status; i < CALLERS && wait(&status) > 0; i++)
        right += status == 0;
    say("right: %d", right);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

CASE(workers_that_accept, "hundreds of forked workers accept at one listener")
{
    int l = listener(128);
    for (int i = 0; i < MANY; i++) {
        if (fork() == 0) {
            int s = accept(l, NULL, NULL);
            _exit(s < 0 || send(s, "w", 1, 0) != 1 || recv(s, (char[2]){0}, 1, 0) != 0);
        }
    }
    int right = 0, ended = 0;
    for (int i = 0; i < MANY; i++) {
        int c = dial();
        right += recv(c, (char[2]){0}, 1, 0) == 1;
        close(c);
    }
    say("right: %d", right);
    for (int status; ended < MANY && wait(&status) > 0; ended += status == 0)
        ;
    say("ended: %d", ended);
}

static void deeper(struct pair *p, int depth)
{
    int status = -1;
    pid_t pid = depth ? fork() : -1;
    if (pid == 0) {
        deeper(p, depth - 1);
        _exit(0);
    }
    if (pid > 0)
        waitpid(pid, &status, 0);
    unsigned char at = (unsigned char)depth;
    if (pid > 0 && status)
        at = 0xff;
    (void)!send(p->c, &at, 1, 0);
}

CASE(a_long_chain, "each forks the next, the last speaks first, on one connection")
{
    struct pair p = pair_here();
    unsigned char at = 0;
    int right = 0;
    deeper(&p, DEEP);
    for (int i = 0; i <= DEEP && recv(p.s, &at, 1, 0) == 1; i++)
        right += at == (unsigned char)i;
    say("right: %d", right);
}

#define DEPTH 40

/* Each level makes a connection and keeps those of the levels above. */
static void connect_deeper(struct pair *made, int depth)
{
    int status = -1;
    made[depth] = pair_here();
    if (depth == DEPTH - 1) {
        int wrong = 0, ep = epoll_create1(0);
        for (int i = 0; i < DEPTH; i++)
            wrong += epoll_add(ep, made[i].s, EPOLLIN, i) < 0;
        pid_t pid = fork();
        if (pid == 0) {
            asleep(getppid());
            for (int i = 0; i < DEPTH; i++) {
                nap(2);
                wrong += send(made[i].c, "x", 1, 0) != 1;
            }
            _exit(wrong);
        }
        for (int i = 0; i < DEPTH; i++) {
            struct epoll_event event = {0};
            wrong +=
                epoll_wait(ep, &event, 1, 2000) != 1 || recv(made[event.data.u32].s, (char[2]){0}, 2, 0) != 1;
        }
        waitpid(pid, &status, 0);
        say("at the end: %d, %d", wrong, status);
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        connect_deeper(made, depth + 1);
        _exit(0);
    }
    waitpid(pid, &status, 0);
}

CASE(one_of_each_generation, "the last of a long line waits for connections that each of the others has made")
{
    static struct pair made[DEPTH];
    connect_deeper(made, 0);
}

CASE(a_crowd_that_is_killed, "what hundreds of killed children held is the parent's alone")
{
    struct pair p = pair_here();
    pid_t pid[MANY];
    gate();
    for (int i = 0; i < MANY; i++) {
        if ((pid[i] = fork()) == 0)
            remain();
    }
    have(MANY);
    int ended = 0;
    for (int i = 0; i < MANY; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < MANY; i++)
        ended += waitpid(pid[i], NULL, 0) == pid[i];
    say("ended: %d", ended);
    SAY(send(p.c, "x", 1, 0));
    close(p.c);
    SAY(recv(p.s, (char[2]){0}, 1, 0));
    say("%s", polled_soon(p.s, POLLIN | POLLRDHUP));
    SAY(recv(p.s, (char[2]){0}, 1, 0));
}

/* ---- a child for each connection ------------------------------------------------------------------------ */

#define CHILDREN 7

static int something(int s, int kind, int ep)
{
    struct pollfd p = {s, POLLIN, 0};
    struct epoll_event ev;
    fd_set in;
    FD_ZERO(&in);
    FD_SET(s, &in);
    return kind % 4 == 1   ? poll(&p, 1, -1) == 1
           : kind % 4 == 2 ? select(s + 1, &in, NULL, NULL, NULL) == 1
           : kind % 4 == 3 ? epoll_wait(ep, &ev, 1, -1) == 1
                           : 1;
}

/* Sends back what comes, to the end, and then ten bytes more. */
static _Noreturn void serve(int s, int kind)
{
    struct epoll_event ev = {.events = EPOLLIN | (kind > 3 ? EPOLLET : 0)};
    int ep = epoll_create1(0), left = 60;
    char buf[4096];
    ssize_t n = 1;
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev);
    while (something(s, kind, ep) && (n = recv(s, buf, sizeof buf, 0)) > 0) {
        if (send(s, buf, (size_t)n, MSG_NOSIGNAL) != n)
            _exit(1);
        if (kind == 4 && --left == 0 && fork()) /* a grandchild goes on */
            _exit(0);
    }
    _exit(n == 0 && send(s, "0123456789", 10, MSG_NOSIGNAL) == 10 ? 0 : 1);
}

CASE(a_child_for_each, "a server forks for each connection, and each child waits in another way")
{
    int l = listener(16), c[CHILDREN], good[CHILDREN] = {0};
    pid_t child[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        c[i] = dial();
        int s = accept(l, NULL, NULL);
        if ((child[i] = fork()) == 0) {
            for (int j = 0; j <= i; j++)
                close(c[j]);
            serve(s, i);
        }
        close(s);
    }
    for (int round = 0; round < 150; round++) {
        for (int i = 0; i < CHILDREN; i++)
            good[i] += give(c[i], round * 100L, 100) == 100;
        for (int i = 0; i < CHILDREN; i++)
            good[i] += take(c[i], round * 100L, 100, 0) == 100;
        usleep(300);
    }
    kill(child[2], SIGKILL);
    for (int i = 0; i < CHILDREN; i++) {
        say("%d: good %d", i, good[i]);
        if (i != 2)
            SAY(shutdown(c[i], SHUT_WR));
        say("read: %ld", take(c[i], 0, 10, 0));
        SAY(recv(c[i], (char[9]){0}, 9, 0));
        SAY(close(c[i]));
        waitpid(child[i], NULL, 0);
    }
}
