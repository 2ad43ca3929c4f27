/* kin.c - a child that does its part of a case when it is told to: parent and child in turns. */
#include "differ.h"

static int to_kin[2], to_us[2];
static char text[1];
pid_t kin_pid;

int kin(void)
{
    if (pipe(to_kin) != 0 || pipe(to_us) != 0)
        say("no pipe");
    kin_pid = fork();
    if (kin_pid == 0 && read(to_kin[0], text, 1) != 1)
        _exit(1);
    return kin_pid == 0;
}

void turn(void)
{
    if (write(to_us[1], "d", 1) != 1 || read(to_kin[0], text, 1) != 1)
        _exit(1);
}

_Noreturn void stay(void)
{
    turn();
    _exit(0);
}

_Noreturn void part_over(void)
{
    _exit(0);
}

void theirs(void)
{
    if (write(to_kin[1], "g", 1) != 1 || read(to_us[0], text, 1) != 1)
        say("the child has ended");
}

void theirs_begins(void)
{
    if (write(to_kin[1], "g", 1) != 1)
        say("the child has ended");
}

void theirs_last(void)
{
    theirs_begins();
    kin_ended();
}

void kin_ended(void)
{
    int status = -1;
    waitpid(kin_pid, &status, 0);
    say("child: %d", status);
}

void kin_ends(void)
{
    kill(kin_pid, SIGKILL);
    waitpid(kin_pid, NULL, 0);
}
