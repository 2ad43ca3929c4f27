/* pump.h - moves the bytes of a session to a socket of the kernel's, and back. */
#ifndef BERTH_RELAY_PUMP_H
#define BERTH_RELAY_PUMP_H

#include "client/client.h"

/* When a relay begins to take what the session has, where other processes hold it as well. */
enum relay_reads {
    RELAY_READS,       /* at once */
    RELAY_READS_LATER, /* whoever has the socket is most likely to write only: in a moment */
    /* he may not know that he has it: when he has written, has said so (SIGURG), or the others have closed it */
    RELAY_READS_IF_USED
};

/* Until both directions have ended; then the process ends, too. Ends and resets pass through as they are. For
 * a process that does nothing else: signals are what they are to a fresh program. */
void relay_pump(session_handle h, int fd, enum relay_reads reads) __attribute__((noreturn));
void relay_signals(void); /* the same, of signals alone */

#endif
