/* main.c - what sessions must bear beyond plain use: one scenario for each name on the command line.
 *
 *   protocols SCENARIO [seed [rounds]]
 *
 * Every scenario is a peer (an app of its own, "the far side") and processes of this app that fork, die or
 * exit. Each byte is checked: what two processes write into one direction carries the writer in its high bit
 * and a count in the rest, so that each writer's bytes are seen to be whole and in order however they are
 * mixed. Any wait that takes longer than PATIENCE is a failure: a wake-up was lost.
 */
#include "protocols.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

int rounds = 0;

static const struct scenario {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"one-thread", one_thread},
    {"parent-waits", parent_waits_for_client},
    {"prefork", prefork},
    {"prefork-killed", prefork_killed},
    {"fork-two-directions", fork_two_directions},
    {"fork-same-direction", fork_same_direction},
    {"fork-killed", fork_killed},
    {"daemonize", daemonize},
    {"growth", growth},
    {"child-leaves", child_leaves},
    {"fork-per-session", fork_per_session},
    {"fork-meanwhile", fork_meanwhile},
    {"forks-among-users", forks_among_users},
    {"not-owner", not_owner},
    {"late-word", late_word},
    {"twins", twins},
    {"heir-of-an-offer", heir_of_an_offer},
    {"sibling-hears", sibling_hears},
    {"ring-swap", ring_swap},
    {"fin", fin_races},
    {"waiters", waiters},
    {"two-sets", two_sets},
    {"one-word", one_word},
    {"fault", fault},
    {"event-killed", event_killed},
};

int main(int argc, char **argv)
{
    role = "protocols";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 0);
    if (argc > 3)
        rounds = atoi(argv[3]);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (argc > 1 && strcmp(scenarios[i].name, argv[1]) == 0) {
            scenarios[i].run();
            printf("%s: passed\n", argv[1]);
            return 0;
        }
    }
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        printf("%s\n", scenarios[i].name);
    return argc > 1 ? 2 : 0;
}
