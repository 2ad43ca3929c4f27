/* unwind.c - what the compiler's code for cleanups calls when a thread is cancelled or an exception passes.
 *
 * Linked in the usual way libgcc_s would be loaded into every program, five mappings that each start and each
 * fork pays for. Whoever unwinds has it loaded already: the C library before it cancels a thread, a program
 * of C++ from its start. So it is looked up here, as the C library does for its own cleanups. Not linked with the
 * rest as one program: the calls are made after the linker has decided what is used.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/atomic.h"

struct _Unwind_Exception;
struct _Unwind_Context;

typedef void resume(struct _Unwind_Exception *);
typedef int personality(int, int, uint64_t, struct _Unwind_Exception *, struct _Unwind_Context *);

void _Unwind_Resume(struct _Unwind_Exception *exception) __attribute__((noreturn));
personality __gcc_personality_v0;

static void *find(const char *name)
{
    static void *library; /* several threads may come here at once: each stores the same */
    if (!load_relaxed(&library))
        store_relaxed(&library, dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_LOCAL));
    void *function = load_relaxed(&library) ? dlsym(load_relaxed(&library), name) : NULL;
    if (!function)
        abort(); /* nobody can be here */
    return function;
}

void _Unwind_Resume(struct _Unwind_Exception *exception)
{
    ((resume *)find("_Unwind_Resume"))(exception);
    abort();
}

int __gcc_personality_v0(int version, int actions, uint64_t class, struct _Unwind_Exception *exception,
                         struct _Unwind_Context *context)
{
    return ((personality *)find("__gcc_personality_v0"))(version, actions, class, exception, context);
}
