/* stdio.c - connections that come to an executed program while others have them, too: as its standard input and
 * output, or under another number, meant for it or only forgotten to close. */
#include "differ.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* What a shell does for `command <&s` and `command >&s`. -1: that one is left alone. */
static void run(int s, int in, int out, const char *command)
{
    pid_t pid = fork();
    if (pid == 0) {
        if ((in && dup2(s, 0) < 0) || (out && dup2(s, 1) < 0))
            _exit(120);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(121);
    }
    int status = -1;
    (void)waitpid(pid, &status, 0);
    say("%s: %d", command, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

static void reads(int s, long bytes)
{
    char got[64] = "";
    long n = 0;
    for (long r; n < bytes && (r = recv(s, got + n, (size_t)(bytes - n), 0)) > 0;)
        n += r;
    say("%ld: %.*s", n, (int)n, got);
}

CASE(writer, "a command writes; this process goes on with the connection, both ways")
{
    struct pair p = pair_here();
    run(p.c, 0, 1, "echo first");
    reads(p.s, 6);
    SAY(send(p.s, "answer", 6, 0));
    reads(p.c, 6);
    SAY(send(p.c, "more", 4, 0));
    reads(p.s, 4);
    SAY(close(p.c));
    SAY(recv(p.s, (char[9]){0}, 9, 0));
}

CASE(writer_leaves_the_answer, "the answer comes while the command still runs, and is this process's")
{
    struct pair p = pair_here();
    SAY(send(p.s, "early", 5, 0));
    run(p.c, 0, 1, "echo first");
    reads(p.s, 6);
    reads(p.c, 5);
    SAY(send(p.c, "more", 4, 0));
    reads(p.s, 4);
}

CASE(writers, "several, one after the other, with words of this process's between")
{
    struct pair p = pair_here();
    for (int i = 0; i < 3; i++) {
        run(p.s, 0, 1, "echo again");
        reads(p.c, 6);
        SAY(send(p.s, "own", 3, 0));
        reads(p.c, 3);
    }
    SAY(send(p.c, "still", 5, 0));
    reads(p.s, 5);
}

CASE(reader, "a command reads all that has been sent; this process goes on with the connection")
{
    struct pair p = pair_here();
    SAY(send(p.c, "a line\n", 7, 0));
    run(p.s, 1, 0, "read a; test \"$a\" = 'a line'");
    SAY(send(p.s, "answer", 6, 0));
    reads(p.c, 6);
    SAY(send(p.c, "more", 4, 0));
    reads(p.s, 4);
}

CASE(reader_that_does_not_wait,
     "the same where the connection is O_NONBLOCK: what has been sent is there at once")
{
    struct pair p = pair_here();
    SAY(fcntl(p.s, F_SETFL, O_NONBLOCK));
    for (int i = 0; i < 10; i++) {
        SAY(send(p.c, "a line\n", 7, 0));
        run(p.s, 1, 0, "read a; test \"$a\" = 'a line'");
    }
}

/* More than there are CPUs: who is not waited for comes late. */
struct hogs {
    pid_t pid[6];
};

static struct hogs hogs_start(void)
{
    struct hogs hogs;
    for (int i = 0; i < 6; i++) {
        if ((hogs.pid[i] = fork()) != 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (volatile int for_ever = 1; for_ever;)
            ;
    }
    return hogs;
}

static void hogs_end(const struct hogs *hogs)
{
    for (int i = 0; i < 6; i++) {
        kill(hogs->pid[i], SIGKILL);
        (void)waitpid(hogs->pid[i], NULL, 0);
    }
}

CASE(readers_on_a_busy_machine, "one command after the other, each with more of this process's than it "
                                "knows: none takes the next one's line")
{
    struct hogs hogs = hogs_start();
    struct pair p = pair_here();
    SAY(fcntl(p.s, F_SETFL, O_NONBLOCK));
    for (int i = 0; i < 20; i++) {
        SAY(send(p.c, "a line\n", 7, 0));
        run(p.s, 1, 0, "read a; test \"$a\" = 'a line'");
    }
    hogs_end(&hogs);
}

CASE(waited_for_on_a_busy_machine, "a program reads at once what it may not have been meant to have")
{
    struct hogs hogs = hogs_start();
    struct pair p = pair_here();
    for (int i = 0; i < 10; i++) {
        SAY(give(p.c, 0, 5));
        struct far far = far_heir(BY_EXEC, p.s);
        say("%s", far_do(&far, "mine 0 0;recv 5"));
        far_kill(&far);
    }
    hogs_end(&hogs);
}

CASE(both, "a command reads and answers; this process goes on with the connection")
{
    struct pair p = pair_here();
    SAY(send(p.c, "a line\n", 7, 0));
    run(p.s, 1, 1, "read a; echo $a");
    reads(p.c, 7);
    SAY(send(p.s, "answer", 6, 0));
    reads(p.c, 6);
}

CASE(both_alone, "a command reads and answers, and its end is the connection's: nobody else has it")
{
    struct pair p = pair_here();
    pid_t pid = fork();
    if (pid == 0) {
        if (dup2(p.s, 0) < 0 || dup2(p.s, 1) < 0)
            _exit(120);
        close(p.c);
        close(p.s);
        execl("/bin/sh", "sh", "-c", "read a; echo $a", (char *)NULL);
        _exit(121);
    }
    SAY(close(p.s));
    SAY(send(p.c, "a line\n", 7, 0));
    reads(p.c, 7);
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    int status = -1;
    (void)waitpid(pid, &status, 0);
    say("%d", status);
}

/* ---- under another number ---- */

static void serves(enum heir how)
{
    struct pair p = pair_here();
    SAY(give(p.c, 0, 5));
    struct far far = far_heir(how, p.s);
    SAY(close(p.s));
    say("%s", far_do(&far, "mine 0 0;recv 5"));
    SAY(recv(p.c, (char[9]){0}, 1, MSG_DONTWAIT));
    say("%s", far_do(&far, "send 3000;shutdown wr"));
    say("%ld", take(p.c, 0, 3000, 0));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
    far_kill(&far);
}

CASE(meant_by_exec, "a server that gives a connection to a program, and closes it then")
{
    serves(BY_EXEC);
}

CASE(meant_by_spawn, "the same by posix_spawn")
{
    serves(BY_SPAWN);
}

CASE(waited_for, "a program reads first, and this process, which keeps the connection, waits for it")
{
    struct pair p = pair_here();
    SAY(give(p.c, 0, 5));
    struct far far = far_heir(BY_EXEC, p.s);
    say("%s", far_do(&far, "mine 0 0;recv 5"));
    SAY(give(p.c, 5, 4));
    say("%s", far_do(&far, "readable 5000;recv 4"));
    say("%s", far_do(&far, "send 3000"));
    say("%ld", take(p.c, 0, 3000, 0));
    far_kill(&far);
    SAY(send(p.s, "own", 3, 0));
    reads(p.c, 3);
    SAY(send(p.c, "still", 5, 0));
    reads(p.s, 5);
}

CASE(handed_on, "the same by a shell that has it and does not know, to a program that it starts")
{
    struct pair p = pair_here();
    if (dup2(p.s, 9) != 9)
        say("no 9");
    SAY(send(p.c, "a line\n", 7, 0));
    run(-1, 0, 0, "sh -c 'read a <&9; echo $a >&9'");
    reads(p.c, 7);
    SAY(send(p.c, "still", 5, 0));
    reads(p.s, 5);
}

CASE(forgotten, "a program has it and does not know: this process goes on, also when that has ended")
{
    struct pair p = pair_here();
    struct far far = far_heir(BY_EXEC, p.s);
    for (int i = 0; i < 2; i++) {
        SAY(send(p.c, "question", 8, 0));
        nap(300);
        reads(p.s, 8);
        SAY(send(p.s, "answer", 6, 0));
        reads(p.c, 6);
        if (i == 0)
            far_kill(&far);
    }
    SAY(close(p.s));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}

CASE(forgotten_holds_it_open, "closed here, a connection is open as long as that program lives")
{
    struct pair p = pair_here();
    struct far far = far_heir(BY_EXEC, p.s);
    SAY(close(p.s));
    say("%s", polled(p.c, POLLIN, 200));
    far_kill(&far);
    say("%s", polled_soon(p.c, POLLIN));
    SAY(recv(p.c, (char[9]){0}, 9, 0));
}
