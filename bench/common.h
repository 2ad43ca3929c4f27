/* common.h - what the measuring programs share: time, percentiles, processes, load, and the one line they
 * print.
 *
 * Every program prints one JSON object on its standard output and nothing else; bench/run.py reads it. A
 * program that needs a peer starts itself once more by exec (peer_start), before it has opened any socket, so
 * that under `berth run` the two are two programs as a shell would have started them. Whatever a program
 * starts dies with it.
 */
#ifndef BERTH_BENCH_COMMON_H
#define BERTH_BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

static inline int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Prints "NAME: what: strerror(errno)" and ends the program with 1. */
void die(const char *what) __attribute__((noreturn));
/* The same for a text that says it all. */
void die_text(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* The whole program ends with 1 after that many seconds: one that hangs must not hang who asked for it. */
void watchdog(int seconds);

void pin_to(int cpu);           /* -1: leave it alone */
int cpu_of(int n);              /* the n-th CPU this process may use, modulo their number */
void sleep_exactly(int64_t ns); /* a real sleep, without the timer slack */

/* A child of fork that dies with its parent. 0 in the child. */
pid_t fork_bound(void);
/* `count` children that compute without end at this process's priority. */
void hogs_start(int count);
/* Ends what hogs_start made. */
void hogs_stop(void);

/* Runs this program again with the arguments `argv` (argv[0] included, NULL at the end); *fd is the write end
 * of a pipe that is the child's standard input. */
pid_t peer_start(char *const argv[], int *fd);
/* Waits for it; ends the program when the child failed. */
void peer_wait(pid_t pid);
/* One line of text from the standard input, without the newline: what the other side wrote to *fd. */
void peer_line(char *line, size_t size);
void peer_tell(int fd, const char *line);

/* Durations by 1/64 of an octave: constant memory, under 2 % error, cheap enough for the loop. */
struct histogram {
    uint64_t count;
    uint64_t buckets[64 * 48];
};
static inline void histogram_add(struct histogram *h, int64_t ns)
{
    uint64_t v = ns < 64 ? 64 : (uint64_t)ns;
    int shift = 63 - __builtin_clzll(v) - 6;
    size_t i = (size_t)shift * 64 + ((v >> shift) & 63);
    h->buckets[i < 64 * 48 ? i : 64 * 48 - 1]++;
    h->count++;
}
double histogram_quantile(const struct histogram *h, double q); /* ns */

/* Command line: --name value pairs. */
const char *option_text(int argc, char **argv, const char *name, const char *fallback);
long option_number(int argc, char **argv, const char *name, long fallback);

#endif
