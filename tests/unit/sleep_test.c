/* sleep_test.c - no signal is lost between a look and the sleep after it; restarts; cancellation. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <time.h>
#include <unistd.h>

#include "base/sleep.h"
#include "check.h"

#if defined(__x86_64__)
#define PC(uc) ((uintptr_t *)&(uc)->uc_mcontext.gregs[REG_RIP])
#else
#define PC(uc) ((uintptr_t *)&(uc)->uc_mcontext.pc)
#endif

static volatile int flags_now;
static volatile int handled;

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)info;
    handled++;
    sleep_interrupted(PC((ucontext_t *)context), flags_now & SA_RESTART);
}

static void install(int flags)
{
    struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};
    flags_now = flags;
    assert_int_equal(sigaction(SIGALRM, &act, NULL), 0);
}

static long sleep_ms(const struct sleep_mark *mark, int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
    return sys_sleep_ppoll(mark, NULL, 0, &ts, NULL);
}

static void test_ends_by_itself(void **state)
{
    (void)state;
    struct sleep_mark mark = sleep_mark_now();
    assert_int_equal(sleep_ms(&mark, 1), 0);
    assert_false(sleep_signalled(&mark));
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    char in[8] = "", *to = in;
    assert_int_equal(sys_sleep6(&mark, SYS_write, fds[1], sys_arg("six arg"), 8, 0, 0, 0), 8);
    assert_int_equal(sys_sleep6(&mark, SYS_read, fds[0], sys_arg(to), 8, 0, 0, 0), 8);
    assert_string_equal(in, "six arg");
    (void)close(fds[0]);
    (void)close(fds[1]);
    /* arguments five and six arrive: a futex whose bits match nobody's times out, without any bit it is
     * refused */
    uint32_t word = 5;
    struct timespec ts = {1, 0};
    assert_int_equal(sys_sleep6(&mark, SYS_futex, sys_arg(&word), 9, 5, sys_arg(&ts), 0, 1), -ETIMEDOUT);
    assert_int_equal(sys_sleep6(&mark, SYS_futex, sys_arg(&word), 9, 5, sys_arg(&ts), 0, 0), -EINVAL);
}

static void test_a_handler_before_the_sleep_counts(void **state)
{
    (void)state;
    install(0);
    struct sleep_mark mark = sleep_mark_now();
    (void)raise(SIGALRM);
    assert_true(sleep_signalled(&mark));
    assert_int_equal(sleep_ms(&mark, 10000), -EINTR);
    assert_false(sleep_restarts(&mark));
    assert_false(sleep_signalled(&mark));
    install(SA_RESTART);
    (void)raise(SIGALRM);
    assert_int_equal(sleep_ms(&mark, 10000), -EINTR);
    assert_true(sleep_restarts(&mark));
    assert_int_equal(sleep_ms(&mark, 1), 0);
}

/* A timer goes off at every place between the mark and the sleep, thousands of times: the sleep of 10 s must
 * end each time. */
static void never_lost(int flags)
{
    install(flags);
    uint32_t word = 1;
    struct timespec began, now;
    (void)clock_gettime(CLOCK_MONOTONIC, &began);
    for (int round = 0; round < 20000; round++) {
        struct sleep_mark mark = sleep_mark_now();
        handled = 0;
        struct itimerval once = {.it_value = {0, 1 + round % 30}};
        (void)setitimer(ITIMER_REAL, &once, NULL);
        for (volatile int spin = 0; spin < round % 997 * 4; spin++)
            ;
        struct timespec ts = {10, 0};
        long ret = round & 1 ? sys_sleep6(&mark, SYS_futex, sys_arg(&word), 0, 1, sys_arg(&ts), 0, 0)
                             : sys_sleep_ppoll(&mark, NULL, 0, &ts, NULL);
        assert_int_equal(ret, -EINTR);
        assert_int_equal(handled, 1);
        assert_int_equal(sleep_restarts(&mark), flags != 0);
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        if (round >= 2000 && now.tv_sec - began.tv_sec > 5)
            return;
    }
}

static void test_no_signal_is_lost(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* ThreadSanitizer keeps signals back until a call that it knows, and does not know ours */
#endif
    never_lost(0);
    never_lost(SA_RESTART);
}

static volatile int cleaned, cancel_type = -1;

static void clean(void *arg)
{
    cleaned += *(int *)arg;
}

static void *sleeper(void *arg)
{
    int one = 1;
    bool before = *(bool *)arg;
    if (before) {
        while (!load_acquire(&cleaned))
            cpu_relax();
    }
    struct sleep_mark mark = sleep_mark_now();
    int old;
    pthread_cleanup_push(clean, &one);
    (void)sleep_ms(&mark, 1);
    (void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &old);
    cancel_type = old;
    (void)sleep_ms(&mark, 20000);
    pthread_cleanup_pop(0);
    return NULL;
}

static void test_cancellation(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        bool before = round & 1; /* asked for before it sleeps */
        pthread_t t;
        void *end;
        store_release(&cleaned, 0);
        assert_int_equal(pthread_create(&t, NULL, sleeper, &before), 0);
        if (!before)
            (void)usleep(round < 10 ? 5000 : (unsigned)round * 100);
        assert_int_equal(pthread_cancel(t), 0);
        if (before)
            store_release(&cleaned, 1);
        assert_int_equal(pthread_join(t, &end), 0);
        assert_ptr_equal(end, PTHREAD_CANCELED);
        assert_int_equal(cleaned, before ? 2 : 1);
    }
    assert_int_equal(cancel_type, PTHREAD_CANCEL_DEFERRED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends_by_itself),
        cmocka_unit_test(test_a_handler_before_the_sleep_counts),
        cmocka_unit_test(test_no_signal_is_lost),
        cmocka_unit_test(test_cancellation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
