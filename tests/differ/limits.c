/* limits.c - what `ulimit` leaves: sockets need no files, and next to no memory of the process. */
#include "differ.h"

#include <sys/mman.h>
#include <sys/resource.h>

static void limit_to(int resource, rlim_t most)
{
    struct rlimit limit = {most, most};
    SAY(setrlimit(resource, &limit));
}

static rlim_t memory_now(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (rlim_t)pages * 4096;
}

static void exchange(struct meeting *m, long bytes)
{
    static long at;
    far_begin(&m->far, "recv %ld; send %ld", bytes, bytes);
    say("%ld", give(m->s, at, bytes));
    long taken = take(m->s, at, bytes, 0); /* before the far side can be asked */
    at += bytes;
    say("%ld, far %s", taken, far_answer(&m->far));
}

CASE(small_files, "both ways, where no file may be larger than 100,000 bytes")
{
    struct meeting m = meet_as_server(FRESH);
    limit_to(RLIMIT_FSIZE, 100000);
    exchange(&m, 5000000);
}

CASE(no_files, "both ways, where no file may have a single byte")
{
    struct meeting m = meet_as_client(FRESH);
    limit_to(RLIMIT_FSIZE, 0);
    exchange(&m, 5000000);
}

CASE(no_files_in_the_middle, "a stream goes on, and a signal does not come")
{
    struct meeting m = meet_as_server(FRESH);
    handle(SIGXFSZ, 0);
    exchange(&m, 300000);
    limit_to(RLIMIT_FSIZE, 0);
    exchange(&m, 5000000);
    say("SIGXFSZ: %d", (int)handled);
}

CASE(fifty_streams_without_files, "fifty connections that are made before, and begin after")
{
    struct pair p[50];
    for (int i = 0; i < 50; i++)
        p[i] = pair_here();
    limit_to(RLIMIT_FSIZE, 0);
    long wrong = 0;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 50; i++) {
            wrong += give(p[i].c, 2000 * round, 2000) != 2000;
            wrong += give(p[i].s, 2000 * round, 2000) != 2000;
            wrong += take(p[i].c, 2000 * round, 2000, 0) != 2000;
            wrong += take(p[i].s, 2000 * round, 2000, 0) != 2000;
        }
    say("wrong: %ld", wrong);
}

CASE(little_memory, "both ways, where the process may map 3 MB more than it has")
{
    struct meeting m = meet_as_server(FRESH);
    limit_to(RLIMIT_AS, memory_now() + (3 << 20));
    exchange(&m, 5000000);
}

CASE(lowered_under_what_is_there, "descriptors above a lowered limit go on, new ones are refused")
{
    struct meeting m = meet_as_server(FRESH);
    limit_to(RLIMIT_NOFILE, 3);
    say("%s", result_text(dup(0), errno));
    exchange(&m, 300000);
    say("%s", polled(m.s, POLLIN, 0));
}

CASE(prlimit, "the limit as it was set, by each of the calls")
{
    struct rlimit is = {100, 200}, was = {0, 0};
    SAY(prlimit(0, RLIMIT_NOFILE, &is, &was));
    is = (struct rlimit){0, 0};
    SAY(getrlimit(RLIMIT_NOFILE, &is));
    say("%ld %ld", (long)is.rlim_cur, (long)is.rlim_max);
    is.rlim_cur = 300;
    SAY(setrlimit(RLIMIT_NOFILE, &is));
    SAY(setrlimit((__rlimit_resource_t)99, &is));
    is.rlim_cur = 50;
    SAY(prlimit(getpid(), RLIMIT_NOFILE, &is, NULL));
    SAY(prlimit(0, RLIMIT_NOFILE, NULL, &was));
    say("%ld %ld", (long)was.rlim_cur, (long)was.rlim_max);
}
