/* lock_test.c - the family lock among threads (TSan's part), among processes killed at random while they hold
 * it, wait for it or take it over, and its hand-over and take-over times. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/plock.h"

static bool nobody_dies(void *arg, uint32_t member)
{
    return false;
}

static const struct family_members immortals = {.dead = nobody_dies};

static void *shared_memory(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static void take_try_release(void **state)
{
    struct family_lock l = {0};
    assert_int_equal(family_lock_holder(&l), -1);
    assert_int_equal(family_lock_take(&l, 0, &immortals), 0); /* member 0 is not mistaken for a free lock */
    assert_int_equal(family_lock_holder(&l), 0);
    assert_false(family_lock_try(&l, 1));
    family_lock_release(&l);
    assert_int_equal(l.word, 0);
    assert_true(family_lock_try(&l, LOCK_MEMBER_MAX));
    assert_int_equal(family_lock_holder(&l), LOCK_MEMBER_MAX);
    family_lock_release(&l);
    assert_int_equal(l.word, 0);
}

/* ---- threads ---- */

struct counting {
    struct family_lock lock;
    uint64_t plain; /* not atomic: TSan and the sum tell if two were inside */
    int rounds;
};

static void *count(void *arg)
{
    struct counting *c = arg;
    for (int i = 0; i < c->rounds; i++) {
        if (family_lock_take(&c->lock, 7, &immortals) != 0)
            abort();
        c->plain++;
        family_lock_release(&c->lock);
    }
    return NULL;
}

static void threads_exclude_each_other(void **state)
{
    struct counting c = {.rounds = 30000};
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, count, &c), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(c.plain, 4 * c.rounds);
    assert_int_equal(c.lock.word & ~LOCK_CONTENDED, 0);
}

static void *hold_briefly(void *arg)
{
    struct counting *c = arg;
    struct timespec pause = {.tv_nsec = 300 * NS_PER_US};
    for (int i = 0; i < c->rounds; i++) {
        if (family_lock_take(&c->lock, 1, &immortals) != 0)
            abort();
        nanosleep(&pause, NULL);
        family_lock_release(&c->lock);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* How many takes had to wait, and how many of those as if for the timeout of 10 ms. */
static void waits_for_releases(int *waits, int *slow)
{
    struct counting c = {.rounds = 150};
    pthread_t t;
    *waits = *slow = 0;
    assert_int_equal(pthread_create(&t, NULL, hold_briefly, &c), 0);
    for (int i = 0; i < c.rounds; i++) {
        int64_t start = clock_now();
        assert_int_equal(family_lock_take(&c.lock, 2, &immortals), 0);
        int64_t took = clock_now() - start;
        *waits += took > 100 * NS_PER_US;
        *slow += took > 9 * NS_PER_MS;
        family_lock_release(&c.lock);
        usleep(100);
    }
    pthread_join(t, NULL);
}

/* A sleeper is woken by the release and does not live off its 10 ms timeout: then half of the waits would
 * take that long. */
static void release_wakes_the_sleeper(void **state)
{
    int slow = 0, waits = 0;
    for (int turn = 0; turn < 20; turn++) { /* a busy machine wakes late too, but not each time */
        waits_for_releases(&waits, &slow);
        assert_true(waits > 10);
        if (slow * 4 < waits)
            return;
    }
    fail_msg("%d of %d waits took a timeout", slow, waits);
}

/* ---- processes, killed at random ---- */

#define MEMBERS 6
#define INDEX_BITS 8

struct arena {
    struct family_lock lock;
    uint32_t inside;        /* the member that is inside, +1 */
    uint64_t first, second; /* equal whenever the lock is free: the invariant a killed holder breaks */
    uint64_t takeovers, repairs, violations;
    struct {
        uint32_t generation;
        int32_t pid;
    } member[MEMBERS];
};

static bool process_dead(void *arg, uint32_t id)
{
    struct arena *a = arg;
    uint32_t index = id & ((1u << INDEX_BITS) - 1);
    if (index >= MEMBERS || load_acquire(&a->member[index].generation) != id >> INDEX_BITS)
        return true; /* the index is another's by now */
    int32_t pid = load_acquire(&a->member[index].pid);
    if (pid == 0)
        return false; /* being born: its parent lives */
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool dead = poll(&p, 1, 0) == 1; /* also for a zombie, for which kill(pid, 0) would lie */
    close(fd);
    return dead;
}

static void burn(uint64_t *seed)
{
    for (uint64_t n = next_random(seed) % 60; n; n--)
        cpu_relax();
}

static __attribute__((noreturn)) void live(struct arena *a, uint32_t id)
{
    struct family_members m = {.dead = process_dead, .arg = a};
    uint64_t seed = id;
    for (;;) {
        int rc = family_lock_take(&a->lock, id, &m);
        uint32_t before = exchange_sc(&a->inside, id + 1);
        if (rc == LOCK_TAKEN_OVER) {
            fetch_add_sc(&a->takeovers, 1);
            if (a->first != a->second) {
                a->repairs++;
                burn(&seed); /* may die here as well */
                a->second = a->first;
            }
        } else if (before != 0) {
            fetch_add_sc(&a->violations, 1); /* somebody was inside, and did not die there */
        }
        if (a->first != a->second)
            fetch_add_sc(&a->violations, 1);
        a->first++;
        burn(&seed);
        store_relaxed(&a->second, a->second + 1);
        burn(&seed);
        if (exchange_sc(&a->inside, 0) != id + 1)
            fetch_add_sc(&a->violations, 1);
        family_lock_release(&a->lock);
        burn(&seed);
    }
}

static void give_birth(struct arena *a, uint32_t index)
{
    store_release(&a->member[index].pid, 0);
    uint32_t generation = a->member[index].generation + 1;
    store_release(&a->member[index].generation, generation);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        live(a, generation << INDEX_BITS | index);
    store_release(&a->member[index].pid, pid);
}

static void holders_killed_at_random(void **state)
{
    struct arena *a = shared_memory(sizeof *a);
    uint64_t seed = (uint64_t)getpid();
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint32_t i = 0; i < MEMBERS; i++)
        give_birth(a, i);
    int64_t end = clock_now() + 3 * NS_PER_SEC;
    unsigned kills = 0;
    while (clock_now() < end) {
        usleep((useconds_t)(next_random(&seed) % 3000));
        uint32_t i = (uint32_t)(next_random(&seed) % MEMBERS);
        if (next_random(&seed) % 2) { /* half of the time whoever is inside right now */
            uint32_t who = load_relaxed(&a->inside);
            if (who && ((who - 1) & ((1u << INDEX_BITS) - 1)) < MEMBERS)
                i = (who - 1) & ((1u << INDEX_BITS) - 1);
        }
        assert_int_equal(kill(a->member[i].pid, SIGKILL), 0);
        if (next_random(&seed) % 2)
            usleep(12000); /* stays a zombie past the waiters' patience */
        assert_int_equal(waitpid(a->member[i].pid, NULL, 0), a->member[i].pid);
        give_birth(a, i);
        kills++;
    }
    uint64_t count = load_relaxed(&a->first);
    usleep(200000);
    uint64_t later = load_relaxed(&a->first); /* still moving */
    for (uint32_t i = 0; i < MEMBERS; i++) {
        kill(a->member[i].pid, SIGKILL);
        waitpid(a->member[i].pid, NULL, 0);
    }
    print_message("%u kills, %llu rounds, %llu take-overs, %llu repairs\n", kills, (unsigned long long)count,
                  (unsigned long long)a->takeovers, (unsigned long long)a->repairs);
    assert_int_equal(a->violations, 0);
    check(later > count, "nobody gets the lock any more: word %08x", a->lock.word);
    check(a->takeovers > 0, "in %u kills none hit a holder: the test proves nothing", kills);
    munmap(a, sizeof *a);
}

static void dead_holder_is_relieved_in_time(void **state)
{
    struct arena *a = shared_memory(sizeof *a);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (!family_lock_try(&a->lock, 1 << INDEX_BITS))
            _exit(1);
        raise(SIGKILL);
    }
    a->member[0].generation = 1;
    a->member[0].pid = pid;
    siginfo_t si;
    assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0); /* leaves the zombie */
    assert_int_equal(family_lock_holder(&a->lock), 1 << INDEX_BITS);
    assert_false(family_lock_try(&a->lock, 5));
    struct family_members m = {.dead = process_dead, .arg = a};
    int64_t start = clock_now();
    assert_int_equal(family_lock_take(&a->lock, 5, &m), LOCK_TAKEN_OVER);
    int64_t took = clock_now() - start;
    check(took >= 9 * NS_PER_MS, "the holder was given only %lld ns", (long long)took);
    check(took < longer(NS_PER_SEC), "it took %lld ms", (long long)(took / NS_PER_MS));
    assert_int_equal(family_lock_holder(&a->lock), 5);
    family_lock_release(&a->lock);
    assert_int_equal(a->lock.word, 0);
    waitpid(pid, NULL, 0);
    munmap(a, sizeof *a);
}

static void a_scribbled_word_is_taken_over(void **state)
{
    struct arena *a = shared_memory(sizeof *a);
    struct family_members m = {.dead = process_dead, .arg = a};
    static const uint32_t words[] = {0x7fffffff, 0xffffffff, LOCK_CONTENDED, 12345};
    for (size_t i = 0; i < 4; i++) {
        a->lock.word = words[i];
        int rc = family_lock_take(&a->lock, 5, &m);
        assert_int_equal(rc, LOCK_TAKEN_OVER);
        family_lock_release(&a->lock);
        assert_int_equal(a->lock.word, 0);
    }
    munmap(a, sizeof *a);
}

/* What it costs is printed; that the kernel has no part in it is what the kernel itself looks at. */
static void uncontended_cost(void **state)
{
#ifdef BERTH_DELAYS
    print_message("skipped: in this build each atomic operation is a system call (delay.h)\n");
    skip();
#endif
    /* not fork(): a sanitizer's would add a thread, and neither a forbidden call nor SYS_exit ends more than one */
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    assert_true(pid >= 0);
    if (pid == 0) {
        struct family_lock l = {0};
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
            _exit(1);
        for (int i = 0; i < 100000; i++) {
            if (family_lock_take(&l, 3, &immortals) != 0)
                abort();
            family_lock_release(&l);
        }
        syscall(SYS_exit, 0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    struct family_lock l = {0};
    int64_t start = clock_now();
    for (int i = 0; i < 100000; i++) {
        if (family_lock_take(&l, 3, &immortals) != 0)
            abort();
        family_lock_release(&l);
    }
    print_message("take and release: %.1f ns\n", (double)(clock_now() - start) / 100000);
}

#ifdef BERTH_DELAYS
static void take(struct plock *a, struct plock *b, bool try_second)
{
    plock_take(a);
    if (!try_second)
        plock_take(b);
    else if (!plock_try(b))
        abort();
    plock_release(b);
    plock_release(a);
}

/* Does a process that takes them in that way end by the checker's hand? */
static bool is_caught(void (*how)(struct plock *locks))
{
    static struct plock locks[3];
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
        how(locks);
        _exit(0);
    }
    int st;
    assert_int_equal(waitpid(pid, &st, 0), pid);
    assert_true((WIFEXITED(st) && WEXITSTATUS(st) == 0) || (WIFSIGNALED(st) && WTERMSIG(st) == SIGABRT));
    return WIFSIGNALED(st);
}

static void twice(struct plock *l)
{
    plock_take(&l[0]);
    plock_take(&l[0]);
}

static void either_way(struct plock *l)
{
    take(&l[0], &l[1], false);
    take(&l[1], &l[0], false);
}

static void around(struct plock *l)
{
    take(&l[0], &l[1], false);
    take(&l[1], &l[2], false);
    take(&l[2], &l[0], false);
}

static void as_agreed(struct plock *l)
{
    for (int i = 0; i < 3; i++) {
        take(&l[0], &l[1], false);
        take(&l[1], &l[2], false);
        take(&l[0], &l[2], false);
        take(&l[2], &l[0], true); /* who tries waits for nobody */
    }
}

static void the_order_is_kept(void **state)
{
    assert_true(is_caught(twice));
    assert_true(is_caught(either_way));
    assert_true(is_caught(around));
    assert_false(is_caught(as_agreed));
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take_try_release),
        cmocka_unit_test(threads_exclude_each_other),
        cmocka_unit_test(release_wakes_the_sleeper),
        cmocka_unit_test(dead_holder_is_relieved_in_time),
        cmocka_unit_test(a_scribbled_word_is_taken_over),
        cmocka_unit_test(holders_killed_at_random),
        cmocka_unit_test(uncontended_cost),
#ifdef BERTH_DELAYS
        cmocka_unit_test(the_order_is_kept),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
