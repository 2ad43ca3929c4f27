/* crowd_test.c - when an event loop gives up spinning: with more loops in the conversation than CPUs, and
 * somebody waiting. */
#include "check.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/crowd.h"
#include "client/state.h"

#define LONG_AGO(now) ((now)-NS_PER_SEC)

static pid_t *hogs;
static int cpus;

/* One process more than CPUs, all computing: whatever else runs here, somebody waits for a CPU. */
static int start_hogs(void **state)
{
    cpus = get_nprocs();
    hogs = calloc((size_t)cpus + 1, sizeof *hogs);
    C->family = mmap(NULL, sizeof(struct family), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!hogs || C->family == MAP_FAILED)
        return -1;
    for (int i = 0; i <= cpus; i++) {
        hogs[i] = fork();
        if (hogs[i] == 0) {
            alarm((unsigned)longer(60));
            for (;;)
                cpu_relax();
        }
    }
    return 0;
}

static int end_hogs(void **state)
{
    for (int i = 0; i <= cpus; i++) {
        if (hogs[i] > 0) {
            kill(hogs[i], SIGKILL);
            waitpid(hogs[i], NULL, 0);
        }
    }
    free(hogs);
    munmap(C->family, sizeof(struct family));
    crowd_forget();
    return 0;
}

static void loops(unsigned n)
{
    C->waiters_used = n >= 64 ? ~0ull : (1ull << n) - 1;
}

static bool crowded_within(int64_t ns)
{
    int64_t end = clock_now() + ns;
    for (int64_t now = clock_now(); now < end; now = clock_now()) {
        if (crowded(now, LONG_AGO(now)))
            return true;
    }
    return false;
}

static void a_pair_spins_whatever_else_runs(void **state)
{
    loops((unsigned)cpus);
    assert_false(crowded_within(20 * NS_PER_MS));
    assert_false(crowded_lately(clock_now()));
}

static void many_loops_where_somebody_waits(void **state)
{
    if (cpus >= 64) {
        print_message("more CPUs than a process has event loops\n");
        skip();
    }
    loops((unsigned)cpus + 1);
    assert_true(crowded_within(5 * NS_PER_SEC));
    assert_true(crowded_lately(clock_now()));
    usleep(2000);
    assert_false(crowded_lately(clock_now())); /* it is asked anew */
    assert_true(crowded_within(5 * NS_PER_SEC));
}

static void relatives_count(void **state)
{
    if (cpus >= (int)MEMBERS_MAX) {
        print_message("more CPUs than a family has members\n");
        skip();
    }
    usleep(2000);
    loops(1);
    C->family->members = (uint32_t)cpus + 1;
    for (int i = 1; i <= cpus; i++)
        C->family->member[i].pid = hogs[i];
    assert_true(crowded_within(5 * NS_PER_SEC));
    for (int i = 1; i <= cpus; i++)
        C->family->member[i].pid = -2; /* they died */
    assert_false(crowded_within(5 * NS_PER_MS));
}

static void who_just_began_does_not_ask(void **state)
{
    loops((unsigned)cpus + 1);
    for (int i = 0; i < 1000; i++) {
        int64_t now = clock_now();
        assert_false(crowded(now, now - 1000));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair_spins_whatever_else_runs),
        cmocka_unit_test(many_loops_where_somebody_waits),
        cmocka_unit_test(relatives_count),
        cmocka_unit_test(who_just_began_does_not_ask),
    };
    return cmocka_run_group_tests(tests, start_hogs, end_hogs);
}
