/* tasks.h - the threads of this process, as /proc has them. */
#ifndef BERTH_BASE_TASKS_H
#define BERTH_BASE_TASKS_H

#include <stdbool.h>
#include <stddef.h>

/* Is it so of each thread but the calling one? Of `visit`: `dir` is /proc/self/task, `tid` a name in it.
 * Without a /proc nothing is known, and it is. */
bool tasks_all(bool (*visit)(int dir, const char *tid, const void *arg), const void *arg);
/* What is in that file of the thread's, with a 0 behind it; negative: it has ended. */
long task_read(int dir, const char *tid, const char *name, char *text, size_t size);

#endif
