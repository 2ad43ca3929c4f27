/* users.c - a process that becomes another user with connections, listeners and sets that it shares with
 * relatives.
 *
 * Only root can; whoever else runs this sees that the calls fail, the same twice. A child says by its exit
 * status which of its steps went wrong, 0: none.
 */
#include <sys/syscall.h>

#include "differ.h"

#define NOBODY 65534
#define STEP(number, condition)                                                                              \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            _exit(number);                                                                                   \
    } while (0)

static char text[4096];

static int child_end(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int become(uid_t user)
{
    return setresuid(user, user, user);
}

/* One connection, echoed. */
static int serve(int l)
{
    int s = accept(l, NULL, NULL);
    long n = s < 0 ? -1 : recv(s, text, sizeof text, 0);
    int good = n > 0 && send(s, text, (size_t)n, 0) == n;
    close(s);
    return good;
}

static void ask(const char *what)
{
    int c = dial();
    char answer[64] = {0};
    SAY(send(c, what, strlen(what), 0));
    SAY(recv(c, answer, sizeof answer - 1, 0));
    say("%s", answer);
    SAY(recv(c, answer, sizeof answer, 0));
    close(c);
}

CASE(worker_accepts, "a worker of another user accepts at its master's listener")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, setuid(NOBODY) == 0 && getuid() == NOBODY);
        STEP(2, serve(l));
        STEP(3, serve(l));
        _exit(0);
    }
    ask("one");
    ask("two");
    say("worker: %d", child_end(pid));
}

CASE(both_accept, "the worker is another user; then the master accepts, then the worker again")
{
    int l = listener(8), told[2], go[2];
    SAY(pipe(told));
    SAY(pipe(go));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, serve(l));
        STEP(3, write(told[1], "x", 1) == 1 && read(go[0], text, 1) == 1);
        STEP(4, serve(l));
        _exit(0);
    }
    ask("worker");
    SAY(read(told[0], text, 1));
    int c = dial(), s = accept(l, NULL, NULL);
    SAY(send(c, "master", 6, 0));
    SAY(recv(s, text, sizeof text, 0));
    SAY(write(go[1], "x", 1));
    ask("worker");
    say("worker: %d", child_end(pid));
}

CASE(waiting_before, "connections that wait in the queue when the worker becomes another user")
{
    int l = listener(8), c[3];
    for (int i = 0; i < 3; i++) {
        c[i] = dial();
        SAY(send(c[i], "abc", (size_t)i + 1, 0));
    }
    say("seen before: %s", polled(l, POLLIN, 1000));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        for (int i = 0; i < 3; i++)
            STEP(2 + i, serve(l));
        _exit(0);
    }
    for (int i = 0; i < 3; i++)
        SAY(recv(c[i], text, sizeof text, 0));
    say("worker: %d", child_end(pid));
}

CASE(session_goes_on, "a connection accepted as root is read and written as another user")
{
    struct pair p = pair_here();
    SAY(send(p.c, "before", 6, 0));
    pid_t pid = fork();
    if (pid == 0) {
        close(p.c);
        STEP(1, become(NOBODY) == 0);
        STEP(2, recv(p.s, text, 6, MSG_WAITALL) == 6 && !memcmp(text, "before", 6));
        STEP(3, send(p.s, "answer", 6, 0) == 6);
        STEP(4, recv(p.s, text, 5, MSG_WAITALL) == 5 && !memcmp(text, "after", 5));
        STEP(5, recv(p.s, text, 1, 0) == 0);
        _exit(0);
    }
    close(p.s);
    SAY(recv(p.c, text, 6, MSG_WAITALL));
    say("%.6s", text);
    SAY(send(p.c, "after", 5, 0));
    SAY(shutdown(p.c, SHUT_WR));
    say("worker: %d", child_end(pid));
    SAY(recv(p.c, text, 1, 0));
}

CASE(monitor_keeps_a_copy, "the parent keeps the connection open while the child uses it as another user")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        close(p.c);
        STEP(1, become(NOBODY) == 0);
        STEP(2, send(p.s, "child", 5, 0) == 5);
        STEP(3, recv(p.s, text, 3, MSG_WAITALL) == 3);
        _exit(0);
    }
    SAY(recv(p.c, text, 5, MSG_WAITALL));
    SAY(send(p.c, "abc", 3, 0));
    say("child: %d", child_end(pid));
    SAY(send(p.s, "parent", 6, 0));
    SAY(recv(p.c, text, 6, MSG_WAITALL));
    say("%.6s", text);
    SAY(close(p.s));
    say("%s", polled_soon(p.c, POLLIN | POLLRDHUP));
}

CASE(much_both_ways, "two megabytes each way through a connection of before")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        close(p.c);
        STEP(1, become(NOBODY) == 0);
        STEP(2, take(p.s, 0, 2000000, 0) == 2000000);
        STEP(3, give(p.s, 0, 2000000) == 2000000);
        _exit(0);
    }
    close(p.s);
    SAY(give(p.c, 0, 2000000));
    SAY(take(p.c, 0, 2000000, 0));
    say("worker: %d", child_end(pid));
}

CASE(killed_after, "a worker that is killed after it became another user: its connections end")
{
    int l = listener(8), told[2];
    SAY(pipe(told));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        int s = accept(l, NULL, NULL);
        STEP(2, send(s, "x", 1, 0) == 1 && write(told[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    int c = dial();
    SAY(recv(c, text, 1, 0));
    SAY(read(told[0], text, 1));
    kill(pid, SIGKILL);
    say("worker: %d", child_end(pid));
    say("%s", polled_soon(c, POLLIN | POLLRDHUP));
    SAY(recv(c, text, 1, 0));
    int d = dial(), s = accept(l, NULL, NULL);
    SAY(send(d, "still", 5, 0));
    SAY(recv(s, text, sizeof text, 0));
}

CASE(there_and_back, "the effective user changes and comes back, over and over")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 20; i++) {
            STEP(1, seteuid(NOBODY) == 0 && geteuid() == NOBODY);
            STEP(2, send(p.c, "x", 1, 0) == 1);
            STEP(3, seteuid(0) == 0 && geteuid() == 0);
            STEP(4, recv(p.s, text, 1, 0) == 1);
        }
        _exit(0);
    }
    say("worker: %d", child_end(pid));
    SAY(send(p.c, "y", 1, 0));
    SAY(recv(p.s, text, 9, 0));
}

CASE(for_good_by_steps, "real and effective user first, the saved one later")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, setresuid(NOBODY, NOBODY, 0) == 0);
        STEP(2, serve(l));
        STEP(3, setreuid(NOBODY, NOBODY) == 0 && setresuid(-1, -1, NOBODY) == 0);
        STEP(4, setuid(0) == -1 && errno == EPERM);
        STEP(5, serve(l));
        _exit(0);
    }
    ask("in between");
    ask("for good");
    say("worker: %d", child_end(pid));
}

CASE(set_of_before, "an epoll set made before the fork, and waited for as another user")
{
    int l = listener(8), ep = epoll_with(l, EPOLLIN, 7);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, !strcmp(epolled(ep, 4, 2000), "7:IN"));
        STEP(3, serve(l));
        STEP(4, !strcmp(epolled(ep, 4, 0), "-") || !strcmp(epolled(ep, 4, 0), ""));
        _exit(0);
    }
    asleep(pid);
    ask("told");
    say("worker: %d", child_end(pid));
}

CASE(set_with_session, "a connection of before stays in the set that it is in")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        int ep = epoll_with(p.s, EPOLLIN, 3);
        STEP(1, become(NOBODY) == 0);
        STEP(2, !strcmp(epolled(ep, 4, 3000), "3:IN"));
        STEP(3, recv(p.s, text, sizeof text, 0) == 3);
        _exit(0);
    }
    asleep(pid);
    SAY(send(p.c, "abc", 3, 0));
    say("worker: %d", child_end(pid));
}

CASE(fresh_of_before, "a socket made before, connected after")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        int c = fresh_socket();
        STEP(1, become(NOBODY) == 0);
        STEP(2, connect(c, (struct sockaddr *)&differ_at, sizeof differ_at) == 0);
        STEP(3, send(c, "fresh", 5, 0) == 5 && recv(c, text, 1, 0) == 1);
        _exit(0);
    }
    int s = accept(l, NULL, NULL);
    SAY(recv(s, text, 5, MSG_WAITALL));
    SAY(send(s, "x", 1, 0));
    say("worker: %d", child_end(pid));
}

CASE(connects_after, "as another user it connects to the listener of its parent")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        int c = dial();
        STEP(2, c >= 0 && send(c, "hello", 5, 0) == 5 && recv(c, text, 1, 0) == 1);
        _exit(0);
    }
    int s = accept(l, NULL, NULL);
    SAY(recv(s, text, 5, MSG_WAITALL));
    SAY(send(s, "x", 1, 0));
    say("worker: %d", child_end(pid));
    SAY(recv(s, text, 1, 0));
}

CASE(prints_before_it_is_accepted,
     "as another user it gives a connection to stdio that nobody has accepted yet")
{
    int l = listener(16);
    pid_t pid = fork();
    if (pid == 0) {
        serve(l);
        nap(200);
        _exit(!serve(l));
    }
    ask("before");
    SAY(become(NOBODY));
    FILE *f = fdopen(dial(), "r+");
    char answer[64] = "";
    SAY(fputs("hello\n", f));
    SAY(fflush(f));
    say("%s", fgets(answer, sizeof answer, f) ? answer : "the end");
    say("%d", child_end(pid));
}

CASE(listens_after, "as another user it makes a listener of its own, to which its parent connects")
{
    int q[2];
    struct sockaddr_in at;
    (void)listener(1);
    SAY(pipe(q));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        int l = listener(8);
        STEP(2, write(q[1], &differ_at, sizeof differ_at) == sizeof differ_at);
        STEP(3, serve(l));
        _exit(0);
    }
    say("told: %d", read(q[0], &at, sizeof at) == sizeof at);
    differ_at = at;
    ask("there");
    say("worker: %d", child_end(pid));
}

CASE(grandchild_serves, "a worker that became another user forks, and its child accepts")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, serve(l));
        pid_t child = fork();
        if (child == 0) {
            STEP(3, serve(l));
            _exit(0);
        }
        _exit(child_end(child));
    }
    ask("worker");
    ask("its child");
    say("worker: %d", child_end(pid));
}

CASE(session_with_grandchild, "a connection accepted as another user goes on in a child")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        int s = accept(l, NULL, NULL);
        pid_t child = fork();
        if (child == 0) {
            STEP(2, recv(s, text, 3, MSG_WAITALL) == 3 && send(s, "child", 5, 0) == 5);
            _exit(0);
        }
        int end = child_end(child);
        STEP(3, send(s, "worker", 6, 0) == 6);
        _exit(end);
    }
    int c = dial();
    SAY(send(c, "abc", 3, 0));
    SAY(recv(c, text, 11, MSG_WAITALL));
    say("%.11s", text);
    SAY(recv(c, text, 1, 0));
    say("worker: %d", child_end(pid));
}

CASE(alone, "a process without relatives becomes another user and keeps all it has")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(send(p.c, "abc", 3, 0));
    say("%d", become(NOBODY));
    say("%s", epolled(ep, 4, 1000));
    SAY(recv(p.s, text, 3, 0));
    SAY(send(p.s, "d", 1, 0));
    SAY(recv(p.c, text, 3, 0));
    int c = dial(), s = accept(p.l, NULL, NULL);
    SAY(send(c, "e", 1, 0));
    SAY(recv(s, text, 3, 0));
}

CASE(parent_becomes, "the parent becomes another user, the child stays what it was")
{
    struct pair p = pair_here();
    int q[2];
    SAY(pipe(q));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, read(q[0], text, 1) == 1);
        STEP(2, serve(p.l));
        STEP(3, send(p.c, "child", 5, 0) == 5);
        _exit(0);
    }
    say("%d", become(NOBODY));
    SAY(write(q[1], "x", 1));
    ask("child");
    SAY(recv(p.s, text, 5, MSG_WAITALL));
    say("%.5s", text);
    say("child: %d", child_end(pid));
    int c = dial(), s = accept(p.l, NULL, NULL);
    SAY(send(c, "e", 1, 0));
    SAY(recv(s, text, 3, 0));
}

static long accepts(void *arg)
{
    return serve(*(int *)arg);
}

CASE(blocked_thread, "one thread sleeps in accept while another makes the process another user")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        struct side side;
        side_start(&side, accepts, &l);
        side_blocked(&side);
        STEP(1, become(NOBODY) == 0);
        STEP(2, !strcmp(side_end(&side), "1"));
        _exit(0);
    }
    nap(100);
    ask("thread");
    say("worker: %d", child_end(pid));
}

CASE(flags_stay, "O_NONBLOCK of listener and connection stays as it was")
{
    struct pair p = pair_here();
    set_nonblock(p.l, 1);
    set_nonblock(p.s, 1);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, accept(p.l, NULL, NULL) == -1 && errno == EAGAIN);
        STEP(3, recv(p.s, text, 1, 0) == -1 && errno == EAGAIN);
        STEP(4, fcntl(p.l, F_GETFL) & O_NONBLOCK && fcntl(p.s, F_GETFL) & O_NONBLOCK);
        STEP(5, !(fcntl(p.c, F_GETFL) & O_NONBLOCK));
        _exit(0);
    }
    say("worker: %d", child_end(pid));
}

CASE(refused, "a call that fails changes nothing")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, setuid(0) == -1 && errno == EPERM);
        STEP(3, setresuid(1, 2, 3) == -1 && errno == EPERM);
        STEP(4, setreuid(0, 0) == -1 && seteuid(1) == -1 && errno == EPERM);
        STEP(5, serve(l));
        _exit(0);
    }
    ask("served");
    say("worker: %d", child_end(pid));
}

CASE(by_a_bare_call, "a bare system call makes it another user; then it accepts")
{
    int l = listener(8);
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0 && getuid() == NOBODY);
        STEP(2, serve(l));
        _exit(0);
    }
    ask("served");
    say("worker: %d", child_end(pid));
}

CASE(session_after_a_bare_call, "a bare system call makes it another user, with a connection of before")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        close(p.c);
        STEP(1, syscall(SYS_setresuid, -1, -1, 0) == 0 && syscall(SYS_setreuid, -1, 0) == 0);
        STEP(2, syscall(SYS_setuid, NOBODY) == 0 && getuid() == NOBODY);
        STEP(3, syscall(SYS_setuid, 0) == -1 && errno == EPERM);
        STEP(4, recv(p.s, text, 3, MSG_WAITALL) == 3 && send(p.s, "answer", 6, 0) == 6);
        _exit(0);
    }
    close(p.s);
    SAY(send(p.c, "abc", 3, 0));
    SAY(recv(p.c, text, 6, MSG_WAITALL));
    say("%.6s", text);
    SAY(recv(p.c, text, 6, 0));
    say("worker: %d", child_end(pid));
}

/* As another user than the rest of the process. */
static long acts(void *arg)
{
    const int *fd = arg;
    if (syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) != 0 || getuid() != NOBODY)
        return 1;
    int c = dial();
    if (c < 0 || send(c, "thread", 6, 0) != 6 || recv(c, text, 1, 0) != 1)
        return 2;
    if (send(*fd, "before", 6, 0) != 6)
        return 3;
    return 0;
}

CASE(one_thread_changes, "a bare system call makes one thread another user; it connects, and all goes on")
{
    struct pair p = pair_here();
    if (kin()) { /* who has relatives has somebody to leave */
        SAY(recv(p.s, text, 6, MSG_WAITALL));
        say("%.6s", text);
        part_over();
    }
    struct side side;
    side_start(&side, acts, &p.c);
    int s = accept(p.l, NULL, NULL);
    SAY(recv(s, text, 6, MSG_WAITALL));
    SAY(send(s, "x", 1, 0));
    say("thread: %s", side_end(&side));
    say("still root: %d", getuid() == 0);
    SAY(send(p.s, "x", 1, 0));
    SAY(recv(p.c, text, 1, 0));
    SAY(seteuid(NOBODY));
    SAY(seteuid(0));
    theirs_last();
}

CASE(reset_goes_through, "a reset on the one side of a connection of before is a reset on the other")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        close(p.c);
        STEP(1, become(NOBODY) == 0);
        STEP(2, send(p.s, "x", 1, 0) == 1);
        STEP(3, recv(p.s, text, 1, 0) == -1 && errno == ECONNRESET);
        _exit(0);
    }
    close(p.s);
    SAY(recv(p.c, text, 1, 0));
    reset(p.c);
    say("worker: %d", child_end(pid));
}

CASE(spawns_a_program, "a child becomes another user only to execute a program: the parent misses nothing")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        execl("/bin/sleep", "sleep", "0.3", NULL);
        _exit(2);
    }
    nap(150);
    SAY(send(p.c, "abcdef", 6, 0));
    SAY(recv(p.s, text, 6, MSG_WAITALL));
    SAY(send(p.s, "x", 1, 0));
    SAY(recv(p.c, text, 6, 0));
    say("child: %d", child_end(pid));
    SAY(send(p.c, "g", 1, 0));
    SAY(recv(p.s, text, 6, 0));
    SAY(close(p.c));
    SAY(recv(p.s, text, 6, 0));
}

CASE(shut_by_one, "another user shuts down what its parent has, too")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, send(p.s, "last", 4, 0) == 4 && shutdown(p.s, SHUT_WR) == 0);
        STEP(3, recv(p.s, text, 3, MSG_WAITALL) == 3);
        _exit(0);
    }
    SAY(recv(p.c, text, 4, MSG_WAITALL));
    SAY(recv(p.c, text, 4, 0));
    SAY(send(p.c, "abc", 3, 0));
    say("child: %d", child_end(pid));
}

CASE(polls_what_was, "poll and select tell of connections of before")
{
    struct pair p = pair_here();
    SAY(send(p.c, "abc", 3, 0));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        STEP(2, !strcmp(polled(p.s, POLLIN | POLLOUT, 2000), polled_soon(p.s, POLLIN | POLLOUT)));
        STEP(3, !strcmp(polled_soon(p.s, POLLIN | POLLOUT), "IN|OUT"));
        STEP(4, !strcmp(selected(p.s, "rw", 2000), "rw"));
        STEP(5, recv(p.s, text, 9, 0) == 3);
        _exit(0);
    }
    say("child: %d", child_end(pid));
}

CASE(closed_unused, "connections of before are closed without having been used")
{
    struct pair p = pair_here(), q = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        close(q.c);
        STEP(1, become(NOBODY) == 0);
        STEP(2, close(p.s) == 0 && close(p.c) == 0 && close(q.s) == 0 && close(q.s) == -1);
        _exit(0);
    }
    close(q.s);
    say("child: %d", child_end(pid));
    say("the last copy: %s", polled_soon(q.c, POLLIN | POLLRDHUP));
    SAY(send(p.c, "goes on", 7, 0));
    SAY(recv(p.s, text, 9, 0));
}

CASE(two_numbers, "one connection of before under two numbers, and in a child")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        int d = dup(p.s);
        close(p.c);
        STEP(1, become(NOBODY) == 0);
        STEP(2, recv(d, text, 2, MSG_WAITALL) == 2 && recv(p.s, text + 2, 2, MSG_WAITALL) == 2);
        STEP(3, !memcmp(text, "abcd", 4));
        pid_t child = fork();
        if (child == 0)
            _exit(send(d, "child", 5, 0) != 5);
        STEP(4, child_end(child) == 0 && close(d) == 0 && send(p.s, "worker", 6, 0) == 6);
        _exit(0);
    }
    close(p.s);
    SAY(send(p.c, "abcd", 4, 0));
    SAY(recv(p.c, text, 11, MSG_WAITALL));
    say("%.11s", text);
    SAY(recv(p.c, text, 1, 0));
    say("worker: %d", child_end(pid));
}

CASE(names_stay, "who is connected with whom is the same after it")
{
    struct pair p = pair_here();
    struct sockaddr_in before = {0}, after = {0};
    socklen_t len = sizeof before;
    SAY(getpeername(p.c, (struct sockaddr *)&before, &len));
    pid_t pid = fork();
    if (pid == 0) {
        STEP(1, become(NOBODY) == 0);
        len = sizeof after;
        STEP(2, getsockname(p.l, (struct sockaddr *)&after, &len) == 0 && !memcmp(&before, &after, len));
        len = sizeof after;
        STEP(3, getpeername(p.c, (struct sockaddr *)&after, &len) == 0);
        STEP(4, after.sin_addr.s_addr == before.sin_addr.s_addr);
        _exit(0);
    }
    say("worker: %d", child_end(pid));
}

CASE(many_of_before, "twenty connections of before, each answered")
{
    struct pair p[20];
    for (int i = 0; i < 20; i++)
        p[i] = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 20; i++)
            close(p[i].c);
        STEP(1, become(NOBODY) == 0);
        for (int i = 0; i < 20; i++)
            STEP(2, recv(p[i].s, text, 9, 0) == 1 && send(p[i].s, text, 1, 0) == 1);
        _exit(0);
    }
    int good = 0;
    for (int i = 0; i < 20; i++) {
        close(p[i].s);
        char out = (char)('a' + i), in = 0;
        if (send(p[i].c, &out, 1, 0) == 1 && recv(p[i].c, &in, 1, 0) == 1)
            good += in == out;
    }
    say("%d of 20; worker: %d", good, child_end(pid));
}

static void undecided(int by_child)
{
    int l = listener(8), fd = fresh_socket();
    if (kin()) {
        SAY(become(NOBODY));
        if (by_child)
            SAY(connect_there(fd));
        turn();
        SAY(send(fd, "other", 5, 0));
        stay();
    }
    theirs();
    if (!by_child)
        SAY(connect_there(fd));
    int s = accept(l, NULL, NULL);
    theirs();
    SAY(send(fd, "parent", 6, 0));
    SAY(recv(s, text, 11, MSG_WAITALL));
    say("%.11s", text);
    SAY(send(s, "x", 1, 0));
    SAY(recv(fd, text, 9, 0));
    kin_ends();
}

CASE(undecided_of_before,
     "a socket of before the fork is connected by its parent, when the child is another user")
{
    undecided(0);
}

CASE(undecided_by_other, "a socket of before the fork is connected by the child, which is another user")
{
    undecided(1);
}

CASE(bound_of_before,
     "a socket bound before the fork listens when the child is another user, and both accept")
{
    int fd = bound_socket();
    if (kin()) {
        SAY(become(NOBODY));
        turn();
        say("served: %d", serve(fd));
        stay();
    }
    theirs();
    SAY(listen(fd, 8));
    int c = dial();
    SAY(send(c, "first", 5, 0));
    theirs();
    SAY(recv(c, text, 5, MSG_WAITALL));
    int d = dial();
    SAY(send(d, "second", 6, 0));
    say("served: %d", serve(fd));
    SAY(recv(d, text, 6, MSG_WAITALL));
    kin_ends();
}

CASE(options_of_before, "what relatives have set on a connection of before holds for the other user, too")
{
    struct pair p = pair_here();
    if (kin()) {
        SAY(become(NOBODY));
        say("kept alive: %d", option_of(p.s, SO_KEEPALIVE));
        SAY(recv(p.s, text, 1, 0));
        SAY(send(p.s, "x", 1, 0));
        part_over();
    }
    SAY(set_option(p.s, SO_KEEPALIVE, 1));
    SAY(set_timeout(p.s, SO_RCVTIMEO, 50));
    theirs_last();
    SAY(recv(p.c, text, 9, 0));
}
