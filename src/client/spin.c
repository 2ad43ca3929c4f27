/* spin.c - looking for a while before one sleeps, where that is likely to pay.
 *
 * Theory of operation
 *
 * Waking a sleeper costs 50 to 100 microseconds, so a thread that waits first watches the peer's cache line
 * for the spin budget. It does not when that could only delay others: when the machine has one CPU, or when
 * spinning has been in vain of late: where the last waits all outlasted the budget, the next one sleeps at
 * once, and it goes on so until one turns out to be shorter than the budget. A spin in vain costs more than
 * its CPU time: it keeps the two sides on two CPUs, and a CPU that has gone idle a moment ago is the slowest
 * to be woken (a guest's: 17 us for the interrupt and 12 for the switch, by sched_waking, sched_wakeup and
 * sched_switch), where a reader that sleeps from the beginning is mostly woken on the writer's CPU, in 4 us.
 *
 * Where the peer last ran on our CPU (both sides publish where they run), spinning would keep it from
 * running. If the two are all that wants to run, the spinner gives the CPU away between two looks
 * (sched_yield): two switches for a round trip instead of two wakes, and, as both then always want to run,
 * the kernel soon moves one to the CPU that is idle. If more want to run, the thread sleeps: a stranger might
 * take the CPU for milliseconds.
 *
 * How many CPUs a thread may use says nothing about it: two that are each pinned to a CPU of their own are
 * the pair for which spinning pays most. A thread with one CPU to itself and its peer on another spins; on
 * the same one, it does not.
 */
#include "client/spin.h"

#include <sched.h>

#include "base/clock.h"
#include "base/sleep.h"
#include "base/sys.h"
#include "client/crowd.h"
#include "shm/page.h"
#include "shm/slot.h"

#define LOOKS_PER_CLOCK 16
#define KERNEL_LOOK_NS (20 * NS_PER_US)
/* waits in a row; arrivals at random, one in a budget on average, then still mostly meet a spinner */
#define VAIN_MAX 4

uint32_t cpu_here(void)
{
    int cpu = sched_getcpu(); /* reads rseq's word: no system call */
    return cpu < 0 || cpu > 253 ? 0 : (uint32_t)cpu + 1;
}

static uint32_t peer_cpu(const struct session_cache *c)
{
    const struct slot *peer = load_acquire(&c->peer);
    const struct peer_box *box = load_relaxed(&c->box);
    uint32_t cpu = peer ? slot_cpu(peer) : 0;
    if (cpu || !peer || !box)
        return cpu;
    uint32_t waiter = slot_waiter(peer);
    return waiter_cpu(&box->worker->page->waiter[waiter]);
}

int64_t spin_budget(const struct session_cache *c, int64_t now, bool *stacked)
{
    *stacked = false;
    if (C->cpus < 2)
        return 0;
    if (c) {
        uint32_t theirs = peer_cpu(c);
        *stacked = theirs && theirs == cpu_here();
    }
    return *stacked && !alone_lately(now) ? 0 : C->spin_ns;
}

static void spin_pause(bool stacked)
{
    if (stacked)
        (void)sys_call(SYS_sched_yield, 0, 0, 0, 0);
    else
        cpu_relax();
}

void cpu_publish(struct slot *own)
{
    slot_set_cpu(own, (uint8_t)cpu_here());
}

static bool spin_pays(const uint8_t *vain)
{
    return load_relaxed(vain) < VAIN_MAX;
}

void spin_learn(uint8_t *vain, int64_t waited_ns)
{
    uint8_t n = load_relaxed(vain);
    if (waited_ns <= C->spin_ns) {
        if (n)
            store_relaxed(vain, 0);
    } else if (n < VAIN_MAX) {
        store_relaxed(vain, n + 1);
    }
}

int spin_until(struct spin *sp, int (*look)(void *arg), int (*kernel)(void *arg), void *arg)
{
    bool stacked = false;
    int64_t now = sp->now, since = now, looked = now, budget = 0;
    if (spin_pays(sp->vain) && !(sp->many && crowded_lately(now)))
        budget = spin_budget(sp->c, now, &stacked);
    int64_t end = now + budget < sp->deadline ? now + budget : sp->deadline;
    while (now < end) {
        for (int i = 0; i < (stacked ? 1 : LOOKS_PER_CLOCK); i++) {
            int found = look(arg);
            if (found)
                return found;
            spin_pause(stacked);
        }
        now = clock_now();
        if (stacked && sp->publish)
            sp->publish(arg);
        else if (stacked && sp->c && sp->c->own)
            cpu_publish(sp->c->own);
        if (kernel && now - looked > KERNEL_LOOK_NS) {
            looked = now;
            int found = kernel(arg);
            if (found)
                return found;
        }
        if (spin_budget(sp->c, now, &stacked) == 0 || (sp->many && crowded(now, since)) ||
            sleep_signalled(sp->mark))
            break;
    }
    return 0;
}
