/* real.c - see real.h. */
#include "shim/real.h"

#include <dlfcn.h>
#include <errno.h>

#include "shim/shim.h"

#define X(ret, name, params, args)                                                                           \
    static ret early_##name params                                                                           \
    {                                                                                                        \
        real_resolve();                                                                                      \
        return real.name args;                                                                               \
    }
REAL_FUNCTIONS(X)
#undef X

struct real_functions real = {
#define X(ret, name, params, args) .name = early_##name,
    REAL_FUNCTIONS(X)
#undef X
};

static long missing(void)
{
    errno = ENOSYS;
    return -1;
}

static void *find(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);
    return function ? function : (void *)missing;
}

/* Several threads may come here at once: each stores the same pointers. */
void real_resolve(void)
{
    int saved = errno;
#define X(ret, name, params, args) store_release((void **)&real.name, find(#name));
    REAL_FUNCTIONS(X)
#undef X
    errno = saved;
}
