/* fork_basic.c - connections and listeners that parent and child share. */
#include "differ.h"

static char text[100];

static int child_end(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

CASE(child_reads, "the child reads what comes, the parent the rest")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0)
        _exit(recv(p.s, text, 3, 0) == 3 && memcmp(text, "abc", 3) == 0 ? 0 : 1);
    SAY(send(p.c, "abcdef", 6, 0));
    say("child: %d", child_end(pid));
    SAY(recv(p.s, text, 9, 0));
    say("%.3s", text);
}

CASE(child_writes, "the child writes, its end does not end the connection")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0)
        _exit(send(p.c, "abc", 3, 0) != 3);
    say("child: %d", child_end(pid));
    SAY(recv(p.s, text, 9, 0));
    say("%s", polled(p.s, POLLIN | POLLRDHUP, 20));
    SAY(send(p.c, "d", 1, 0));
    SAY(recv(p.s, text, 9, 0));
}

CASE(last_copy_ends_it, "the peer sees the end when the last copy is closed")
{
    struct pair p = pair_here();
    int q[2];
    SAY(pipe(q));
    pid_t pid = fork();
    if (pid == 0) {
        close(q[1]);
        _exit(read(q[0], text, 1) != 0);
    }
    SAY(close(p.c));
    say("a copy is left: %s", polled(p.s, POLLIN | POLLRDHUP, 30));
    close(q[1]);
    say("child: %d", child_end(pid));
    say("none: %s", polled_soon(p.s, POLLIN | POLLRDHUP));
    SAY(recv(p.s, text, 9, 0));
}

CASE(child_killed, "a killed child's copy ends as well")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    SAY(close(p.c));
    say("%s", polled(p.s, POLLIN | POLLRDHUP, 20));
    kill(pid, SIGKILL);
    child_end(pid);
    say("%s", polled_soon(p.s, POLLIN | POLLRDHUP));
}

CASE(child_accepts, "a child accepts at the parent's listener, then the parent does")
{
    int l = listener(8);
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            int s = accept(l, NULL, NULL);
            _exit(s < 0 || send(s, "c", 1, 0) != 1 || recv(s, text, 1, 0) != 1);
        }
        int c = dial();
        SAY(recv(c, text, 9, 0));
        SAY(send(c, "x", 1, 0));
        say("child: %d", child_end(pid));
        SAY(recv(c, text, 9, 0));
        int d = dial(), s = accept(l, NULL, NULL);
        say("parent: %d", d >= 0 && s >= 0);
    }
}

CASE(each_connection_a_child, "a forking server: five clients, a child each")
{
    int l = listener(8);
    pid_t server = fork();
    if (server == 0) {
        for (int i = 0; i < 5; i++) {
            int s = accept(l, NULL, NULL);
            if (fork() == 0) {
                close(l);
                long n = recv(s, text, sizeof text, 0);
                _exit(send(s, text, (size_t)n, 0) != n);
            }
            close(s);
        }
        while (wait(NULL) > 0)
            ;
        _exit(0);
    }
    for (int i = 0; i < 5; i++) {
        int c = dial();
        if (send(c, "hello", (size_t)i + 1, 0) != i + 1)
            say("no send");
        long n = recv(c, text, sizeof text, 0), end = recv(c, text, sizeof text, 0);
        say("echo %ld, then %ld", n, end);
    }
    say("server: %d", child_end(server));
}

CASE(blocked_in_both, "parent and child both wait in poll; a byte is told to both")
{
    struct pair p = pair_here();
    int told[2];
    SAY(pipe(told));
    pid_t pid = fork();
    if (pid == 0) {
        const char *seen = polled(p.s, POLLIN, 2000);
        _exit(strcmp(seen, "IN") != 0);
    }
    pid_t sender = fork();
    if (sender == 0) {
        asleep(pid);
        asleep(getppid());
        _exit(send(p.c, "x", 1, 0) != 1);
    }
    say("parent: %s", polled(p.s, POLLIN, 2000));
    say("child: %d", child_end(pid));
    say("sender: %d", child_end(sender));
}

CASE(child_connects, "a child makes its own connections")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        int c = dial();
        _exit(c < 0 || recv(c, text, 9, 0) != 5 || send(c, "bye", 3, 0) != 3);
    }
    int s = accept(l, NULL, NULL);
    SAY(send(s, "hello", 5, 0));
    SAY(recv(s, text, 9, 0));
    say("child: %d", child_end(pid));
    SAY(recv(s, text, 9, 0));
}

CASE(child_after_traffic, "a child of a process that has talked before talks with the same peer")
{
    struct meeting m = meet_as_server(FRESH);
    say("far: %s", far_do(&m.far, "send 10"));
    say("%ld", take(m.s, 0, 10, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(strcmp(polled(m.s, POLLIN, 2000), "IN") != 0 || take(m.s, 10, 300000, 0) != 300000);
    far_begin(&m.far, "send 300000; send 10");
    say("child: %d", child_end(pid));
    say("%ld, sent %s", take(m.s, 300010, 10, 0), far_answer(&m.far));
}

CASE(nonblock_is_shared, "O_NONBLOCK set by the child holds for the parent")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0)
        _exit(set_nonblock(p.s, 1) != 0 || set_nonblock(p.l, 1) != 0);
    say("child: %d", child_end(pid));
    say("connection %d, listener %d", !!(fcntl(p.s, F_GETFL) & O_NONBLOCK),
        !!(fcntl(p.l, F_GETFL) & O_NONBLOCK));
    SAY(recv(p.s, text, 9, 0));
    SAY(accept(p.l, NULL, NULL));
}

CASE(set_is_shared,
     "a set made before fork is waited for in the child; DEL by the child holds for the parent")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
    pid_t pid = fork();
    if (pid == 0)
        _exit(strcmp(epolled(ep, 8, 1000), "1:IN") != 0 || epoll_del(ep, p.s) != 0);
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 20));
    SAY(epoll_del(ep, p.s));
}

CASE(set_of_child, "the child's own set of the parent's connection")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        int ep = epoll_with(p.s, EPOLLIN | EPOLLET, 1);
        if (strcmp(epolled(ep, 8, 2000), "1:IN") != 0)
            _exit(1);
        _exit(recv(p.s, text, 9, 0) != 1);
    }
    asleep(pid);
    SAY(send(p.c, "x", 1, 0));
    say("child: %d", child_end(pid));
    say("%s", polled(p.s, POLLIN, 0));
}

CASE(child_learns_and_goes,
     "a child has met the far side and ended; the connection is closed here, and the next is another")
{
    int l = listener(16), done[2];
    struct far far = far_new(FRESH);
    SAY(pipe(done));
    for (int i = 0; i < 5; i++) {
        far_begin(&far, "connect %d", ntohs(differ_at.sin_port));
        int s = accept(l, NULL, NULL);
        pid_t pid = fork();
        if (pid == 0) {
            int ep = epoll_with(s, EPOLLIN, 1);
            for (int look = 0; look < 3; look++)
                (void)epolled(ep, 8, 20);
            _exit(0);
        }
        say("connected: %s, child: %d", far_answer(&far), child_end(pid));
        say("%s", polled(s, POLLIN, 0));
        SAY(close(s));
        say("%s", far_do(&far, "drain;close"));
    }
}
