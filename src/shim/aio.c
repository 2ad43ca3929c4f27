/* aio.c - POSIX asynchronous I/O, aio(7): libc reads and writes in threads of its own, by calls that do not come by here.
 * So a socket that is used that way is the kernel's from then on. Not one that relatives have, too, whose bytes that
 * would take: there it fails (ENOTCONN, EPIPE). */
#include <aio.h>
#include <dlfcn.h>

#include "base/clock.h"
#include "shim/shim.h"

/* A relay made a moment ago has it until it runs. */
#define PATIENCE_NS (200 * NS_PER_MS)

static void to_kernel(int fd)
{
    struct sock *s;
    uint64_t h;
    if (unlikely(fd_word(fd)) &&
        (fd_view(fd, &s, &h) != SOCK_SESSION || session_alone(h, clock_now() + PATIENCE_NS)))
        fd_to_kernel(fd);
}

#define ONE(name, type)                                                                                      \
    EXPORT int name(struct type *cb)                                                                         \
    {                                                                                                        \
        if (!pointer_wild(cb))                                                                               \
            to_kernel(cb->aio_fildes);                                                                       \
        return NEXT(name)(cb);                                                                               \
    }

#define LIST(name, type)                                                                                     \
    EXPORT int name(int mode, struct type *const list[], int count, struct sigevent *event)                  \
    {                                                                                                        \
        for (int i = 0; !pointer_wild(list) && i < count; i++) {                                             \
            if (!pointer_wild(list[i]) && list[i]->aio_lio_opcode != LIO_NOP)                                \
                to_kernel(list[i]->aio_fildes);                                                              \
        }                                                                                                    \
        return NEXT(name)(mode, list, count, event);                                                         \
    }

ONE(aio_read, aiocb)
ONE(aio_read64, aiocb64)
ONE(aio_write, aiocb)
ONE(aio_write64, aiocb64)
LIST(lio_listio, aiocb)
LIST(lio_listio64, aiocb64)
