/* tell.c - what the program is told of a session's end, once; and how it wants to be told that there is
 * nothing. */
#include <string.h>

#include "base/atomic.h"
#include "client/aside.h"
#include "client/listener.h"
#include "client/session.h"
#include "client/sleeper.h"
#include "client/wake.h"

int client_take_error(session_handle h)
{
    sleeper_glance();
    struct session *s = session_get(h);
    if (!s)
        return BERTH_E_BAD_HANDLE;
    int32_t error = session_take_error(s), cut = 0;
    if ((error == BERTH_E_RESET || error == BERTH_E_CLOSED) && !client_tell_reset(h))
        error = 0;
    else if (!error && !(session_flags(s) & SF_RESET_TOLD) &&
             (cut = stream_cut(s, session_cache_of(s))) != 0 && client_tell_reset(h))
        error = cut;
    return error;
}

bool client_tell_reset(session_handle h)
{
    struct session *s = session_get(h);
    return s && !(session_add_flags(s, SF_RESET_TOLD) & SF_RESET_TOLD);
}

bool client_write_lost(session_handle h)
{
    struct session *s = session_get(h);
    if (!s || session_flags(s) & (SF_SHUT_WR | SF_RESET) || stream_cut(s, session_cache_of(s)) ||
        session_add_flags(s, SF_WRITE_LOST) & SF_WRITE_LOST)
        return false;
    session_break(s, BERTH_E_CLOSED, "the peer answers what came after its end");
    if (session_flags(s) & SF_SHARED)
        shared_kick(s);
    return true;
}

bool client_over(session_handle h)
{
    struct session *s = session_get(h);
    return s && session_over(s, session_cache_of(s));
}

bool client_stopped(session_handle h)
{
    struct session *s = session_get(h);
    return s && session_flags(s) & SF_STOPPED;
}
