/* help.c - the texts of --help. The man pages in docs/man say the same at more length; a test compares the
 * flags. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
    const char *command, *text;
} texts[] = {
    {"", "Usage: berth COMMAND [ARGUMENTS]\n"
         "\n"
         "A user-space host stack: programs on one host talk through shared memory instead of the\n"
         "kernel's loopback, unmodified.\n"
         "\n"
         "Commands:\n"
         "  run [FLAGS] -- PROGRAM ARGS   run a program on berth\n"
         "  show WHAT                     apps, workers, listeners, sessions, segments, namespaces\n"
         "  ns add|del ID                 make or remove a namespace\n"
         "  pause, resume                 send new connections to the kernel, and back\n"
         "  daemon                        the daemon, which 'run' starts where none runs\n"
         "  bench                         measure berth beside the kernel\n"
         "  version                       of this command and of the daemon\n"
         "  help [COMMAND]                more about one of them\n"
         "\n"
         "Try: berth run -- redis-server     and in another terminal:     berth run -- redis-cli ping\n"},
    {"run", "Usage: berth run [FLAGS] [--] PROGRAM [ARGUMENTS]\n"
            "\n"
            "Runs PROGRAM so that its TCP connections to other programs under berth go through shared\n"
            "memory. All others go to the kernel as always. Starts a daemon where none runs; it leaves\n"
            "with its last program. Exit status, signals, terminal and environment are the program's.\n"
            "\n"
            "  -d, --runtime-dir DIR    the daemon's directory (BERTH_RUNTIME_DIR, else /run/berth as\n"
            "                           root, else $XDG_RUNTIME_DIR/berth, else /tmp/berth-UID)\n"
            "  -n, --namespace ID       join that namespace (BERTH_NAMESPACE, else default)\n"
            "  -s, --secret-file FILE   the namespace's secret is the first line of FILE\n"
            "                           (BERTH_SECRET_FILE)\n"
            "  -v, --verbose            say what is done, and let the program's berth library say so too\n"
            "  -h, --help               this text\n"
            "\n"
            "Exit status: the program's; 127 program not found; 126 it cannot be executed; 2 wrong use.\n"},
    {"show", "Usage: berth show WHAT [FLAGS]\n"
             "\n"
             "WHAT is one of:\n"
             "  apps         programs that are attached\n"
             "  workers      their processes\n"
             "  listeners    where they listen\n"
             "  sessions     who talks with whom, with bytes and fill of both directions\n"
             "  segments     shared memory\n"
             "  namespaces   who may meet whom\n"
             "\n"
             "  -j, --json               for programs: an array of objects\n"
             "  -d, --runtime-dir DIR    the daemon's directory\n"
             "  -h, --help               this text\n"},
    {"ns", "Usage: berth ns add ID [FLAGS]\n"
           "       berth ns del ID [FLAGS]\n"
           "\n"
           "Makes or removes a namespace: apps of different namespaces do not meet. Programs that are in\n"
           "one when it is removed go on: their open sessions stay, new connections go to the kernel.\n"
           "\n"
           "  -s, --secret-file FILE   ask those who join for the secret in the first line of FILE\n"
           "  -S, --secret-stdin       the same, read from standard input\n"
           "  -g, --group GROUP        the group that mode 0660 admits (the daemon's own)\n"
           "  -m, --mode MODE          0600 owner only, 0660 owner and group, 0666 everybody\n"
           "                           (as the daemon's socket has it)\n"
           "  -d, --runtime-dir DIR    the daemon's directory\n"
           "  -h, --help               this text\n"},
    {"pause", "Usage: berth pause [FLAGS]\n"
              "\n"
              "From now on each new connection goes to the kernel, as if berth were not there. Those that\n"
              "are there go on, and end in their own time. No program needs to be started again.\n"
              "\n"
              "  -d, --runtime-dir DIR    the daemon's directory\n"
              "  -h, --help               this text\n"},
    {"resume", "Usage: berth resume [FLAGS]\n"
               "\n"
               "Undoes 'berth pause': new connections go through shared memory again.\n"
               "\n"
               "  -d, --runtime-dir DIR    the daemon's directory\n"
               "  -h, --help               this text\n"},
    {"bench", "Usage: berth bench [ARGUMENTS]\n"
              "\n"
              "Runs the measurements, berth and kernel in turn on the same work. The arguments are the\n"
              "bench runner's own: 'berth bench -- --help' shows them.\n"
              "\n"
              "  -h, --help               this text\n"},
    {"version", "Usage: berth version [FLAGS]\n"
                "\n"
                "The versions of this command and of the daemon, if one answers.\n"
                "\n"
                "  -d, --runtime-dir DIR    the daemon's directory\n"
                "  -h, --help               this text\n"},
    {"help", "Usage: berth help [COMMAND]\n"
             "\n"
             "What 'berth COMMAND --help' prints, or without a command the list of them.\n"
             "\n"
             "  -h, --help               this text\n"},
    {"daemon", ""}, /* the daemon prints its own */
};

const char *help_text(const char *command)
{
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (!strcmp(command, texts[i].command))
            return texts[i].text;
    }
    return NULL;
}

int help_print(const char *command)
{
    const char *text = help_text(command);
    (void)fputs(text ? text : "", stdout);
    return 0;
}
