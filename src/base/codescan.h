/* codescan.h - does machine code make system calls of its own?
 */
#ifndef BERTH_BASE_CODESCAN_H
#define BERTH_BASE_CODESCAN_H

#include <stddef.h>

enum codescan {
    CODESCAN_NOTHING = 0,
    CODESCAN_OWN_CALLS = 1, /* a system call that may be about a descriptor */
    CODESCAN_IO_URING = 2,  /* io_uring_setup, by libc's syscall() */
};

/* A set of the above. */
int codescan(const void *code, size_t size);

#endif
