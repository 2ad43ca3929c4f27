/* crowd.c - is it crowded: do more threads want to run than there are CPUs, with some of ours among them?
 *
 * Theory of operation
 *
 * A thread that spins while another one of the conversation waits for a CPU delays what it waits for. With
 * one partner the CPUs that both publish tell (see spin_budget). An event loop has many: its own process's
 * other loops, its siblings of a prefork server, the loops of all its peers. Where all of them together are
 * no more than the CPUs, spinning can only take time from strangers, a fair share. Where they are more, the
 * kernel knows whether anybody waits: /proc/loadavg tells how many threads of the whole machine want to run
 * at this moment (proc(5); 0.9 us to read). That is asked only after the first 5 us of a spin without
 * success, so a conversation at full speed never asks; and what it told is held for true for a millisecond,
 * in which event loops go to sleep at once.
 *
 * Measured: nginx with two workers and wrk with two threads on two CPUs, a connection per request: 1.9 times
 * the requests.
 *
 * Two that share a CPU are another case, see spin.c: they may hand it to and fro if nobody else wants it
 * (alone_lately). And a loop that is woken for each event coalesces where the CPUs are outnumbered, see evset.c.
 *
 * It is a hint for choosing how to wait. Races between threads cost a look too many.
 */
#include "client/crowd.h"

#include <fcntl.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "base/sys.h"
#include "client/family.h"
#include "client/fds.h"
#include "shm/page.h"

#define PATIENCE_NS (5 * NS_PER_US)   /* of a spin, before it asks */
#define ASK_NS (10 * NS_PER_US)       /* between two questions */
#define CROWDED_NS (1000 * NS_PER_US) /* how long the answer yes is believed */

static int64_t asked, until, alone_asked;
static bool alone, outnumbered; /* neither: it cannot be told */
static int load_fd;             /* 0: not opened yet, -1: there is none */
static uint32_t cpus_online;

/* Event loops that a worker has used, at least 1 (it may block in its reads). Their lines are handed out from
 * the first. */
static uint32_t loops_of(const struct worker_page *page)
{
    uint32_t n = 0;
    while (n + 1 < WAITERS_MAX && waiter_cpu(&page->waiter[n + 1]))
        n++;
    return n ? n : 1;
}

/* poll_lock is held. */
static bool more_than_cpus(void)
{
    uint32_t n = (uint32_t)__builtin_popcountll(load_relaxed(&C->waiters_used));
    for (uint32_t i = 0; i < members_used(); i++)
        n += i != C->member && member_pid(&C->family->member[i]) > 0;
    for (const struct peer_box *b = C->polled; b && n <= cpus_online; b = b->next_polled)
        n += loops_of(b->worker->page);
    return n > cpus_online;
}

static bool load_open(void)
{
    if (load_fd == 0) {
        cpus_online = (uint32_t)get_nprocs();
        long fd = sys_call(SYS_openat, (long)AT_FDCWD, "/proc/loadavg", (long)(O_RDONLY | O_CLOEXEC), 0L);
        load_fd = fd < 0 ? -1 : own_fd((int)fd);
    }
    return load_fd > 0;
}

/* "0.20 0.18 0.12 3/411 8823": three want to run, the one that asks among them. */
static uint32_t runnable(void)
{
    char text[96] = {0};
    long n = sys_call(SYS_pread64, (long)load_fd, text, (long)sizeof text, 0L);
    uint32_t count = 0, unit = 1;
    long at = 0;
    while (at < n && text[at] != '/')
        at++;
    while (at < n && at > 0 && text[at - 1] >= '0' && text[at - 1] <= '9' && unit < 1000000) {
        count += (uint32_t)(text[--at] - '0') * unit;
        unit *= 10;
    }
    return count;
}

bool crowded_lately(int64_t now)
{
    return now < load_relaxed(&until);
}

bool crowded(int64_t now, int64_t since)
{
    if (now - since < PATIENCE_NS || now - load_relaxed(&asked) < ASK_NS || !plock_try(&C->poll_lock))
        return false;
    store_relaxed(&asked, now);
    bool yes = load_open() && more_than_cpus() && runnable() > cpus_online;
    if (yes)
        store_relaxed(&until, now + CROWDED_NS);
    plock_release(&C->poll_lock);
    return yes;
}

static void ask_who_runs(int64_t now)
{
    if (now - load_relaxed(&alone_asked) < CROWDED_NS || !plock_try(&C->poll_lock))
        return;
    store_relaxed(&alone_asked, now);
    uint32_t most = load_open() ? cpus_online < 2 ? 2 : cpus_online : 0, run = most ? runnable() : 0;
    store_relaxed(&alone, most && run <= most);
    store_relaxed(&outnumbered, run > most);
    plock_release(&C->poll_lock);
}

bool alone_lately(int64_t now)
{
    ask_who_runs(now);
    return load_relaxed(&alone);
}

bool outnumbered_lately(int64_t now)
{
    ask_who_runs(now);
    return load_relaxed(&outnumbered);
}

void crowd_forget(void)
{
    if (load_fd > 0)
        own_fd_close(load_fd);
    load_fd = 0;
    until = asked = alone_asked = 0;
    alone = outnumbered = false;
}
