/* ctlsock.h - where the daemon of a user is, and packets with descriptors to and from it.
 *
 * Raw system calls only and errno untouched, since libberth uses it inside programs whose libc calls are
 * replaced.
 */
#ifndef BERTH_SHM_CTLSOCK_H
#define BERTH_SHM_CTLSOCK_H

#include <stddef.h>
#include <sys/types.h>

#include "base/result.h"

/* with the terminating zero: with "/control.sock" it must fit into a socket address */
#define RUNTIME_DIR_MAX 95u

/* The runtime directory: `given` if not NULL or empty, else BERTH_RUNTIME_DIR, else /run/berth as root, else
 * $XDG_RUNTIME_DIR/berth where that is a directory of the caller's own, else /tmp/berth-UID. Always absolute.
 * Makes nothing, but for the last, which is made 0700 and must be a directory that the caller owns and nobody
 * else can write. 0; BERTH_E_INVALID: longer than RUNTIME_DIR_MAX or than `size`; BERTH_E_PERMISSION: the one
 * in /tmp is not the caller's. `out` is untouched on failure. */
must_use int runtime_dir_resolve(const char *given, char *out, size_t size);

/* Connects to the daemon that serves `runtime_dir`; a daemon too busy to take the connection is waited for
 * 300 ms. A CLOEXEC, blocking descriptor (a blocking send gives up after as long), or BERTH_E_NO_DAEMON,
 * BERTH_E_PERMISSION, BERTH_E_NO_MEMORY, BERTH_E_INVALID (path too long). */
must_use int ctl_connect(const char *runtime_dir);

/* One packet with `nfds` (0 to CTL_FDS_MAX) descriptors, which stay the caller's. flags: 0 or MSG_DONTWAIT.
 * 0; BERTH_E_WOULD_BLOCK: the queue is full; BERTH_E_DAEMON_GONE; BERTH_E_NO_MEMORY: too many descriptors
 * under way, or the kernel has no memory; BERTH_E_INVALID: longer than the kernel takes, or a descriptor that
 * is none. Never a signal. */
must_use int ctl_send(int sock, const void *msg, size_t len, const int *fds, int nfds, int flags);

/* One packet, with at most CTL_FDS_MAX descriptors (CLOEXEC), which become the caller's: `*nfds` says how
 * many are in `fds`, which has room for CTL_FDS_MAX. fds may be NULL, then none is kept. flags: 0,
 * MSG_DONTWAIT, MSG_PEEK is not for this. Its length; 0 at the end of the connection; BERTH_E_WOULD_BLOCK;
 * BERTH_E_INTERRUPTED; BERTH_E_DAEMON_GONE; BERTH_E_PROTOCOL: longer than `size` or too many descriptors;
 * BERTH_E_NO_MEMORY: this process has no descriptor left. On failure no descriptor is kept and *nfds is 0. */
must_use int ctl_recv(int sock, void *buf, size_t size, int *fds, int *nfds, int flags);

extern void (*ctl_close)(int fd); /* by which ctl_recv closes what it does not keep; close(2) unless set */

#endif
