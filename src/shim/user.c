/* user.c - a process becomes another user.
 *
 * Relatives trust each other with memory that all of them can write. So a process that has no way back to the
 * user that it was leaves its family (client_part), at the moment of the call: nothing that it may be made to
 * do afterwards reaches those that it was one of. It keeps its listeners, which goes on at full speed. Its
 * sessions go on as sockets of the kernel, with relays behind them that stay what the process was until then
 * (relay.c); so they are made before the call. What was inherited of berth's own descriptors goes.
 *
 * Who can come back (root by its saved id, as ftp servers and mail daemons do from call to call) is as
 * trusted as before, and nothing happens. For who holds root among its ids, the others do not matter.
 *
 * Whether a call will succeed is foretold as the kernel decides it, but for capabilities: what was foretold
 * wrong, and what was done by a system call of the program's own, is seen after it or at the next call that
 * asks (user_look). No relay can be made then; the sessions end.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/single_threaded.h>
#include <unistd.h>

#include "base/sys.h"
#include "base/tasks.h"
#include "shim/shim.h"

struct ids {
    uid_t real, effective, saved;
};

#define KEEP ((uid_t)-1)

static struct ids known; /* as of the last look */

static struct ids ids_now(void)
{
    struct ids is = {0};
    (void)sys_call(SYS_getresuid, &is.real, &is.effective, &is.saved, 0L);
    return is;
}

static bool has(const struct ids *is, uid_t user)
{
    return is->real == user || is->effective == user || is->saved == user;
}

static bool no_way_back(const struct ids *was, const struct ids *is)
{
    if (has(was, 0))
        return !has(is, 0);
    return !has(is, was->real) || !has(is, was->effective) || !has(is, was->saved);
}

/* ---- what goes ----------------------------------------------------------------------------------------- */

static void sessions_end(void)
{
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        if (unlikely(fd_words[fd]) && fd_look(fd, &s, &h) == SOCK_SESSION)
            (void)client_abort(h);
    }
    sessions_lost();
}

/* Of which nothing has become. Relatives of before are not known any more, nor will they know of this
 * process: what they may have, too, is the kernel's for all. */
static void undecided_end(void)
{
    for (int fd = 0; fd < fds_used(); fd++) {
        struct sock *s;
        uint64_t h;
        enum sock_kind kind = unlikely(fd_words[fd]) ? fd_look(fd, &s, &h) : SOCK_FREE;
        if (kind == SOCK_FRESH || (kind == SOCK_BOUND && s->file && client_file_joint(s->file))) {
            client_file_decide(s->file);
            (void)sock_to_kernel(fd, s, false); /* no descriptor: it stays as it is */
        }
    }
}

/* The others' numbers are of the family that was. */
static void files_leave(void)
{
    shim_lock();
    for (uint32_t i = 1; i < socks_known(); i++) {
        client_file_leave(sock_pool[i].file);
        sock_pool[i].file = 0;
    }
    shim_unlock();
}

static void part(bool before)
{
    if (client_related()) {
        undecided_end();
        if (before && shim_vfork_is_fork)
            sessions_go_away();
        if (shim_vfork_is_fork)
            sessions_end();
        files_leave();
        internals_close();
    }
    client_part();
}

/* ---- when ---------------------------------------------------------------------------------------------- */

/* Has that thread no way back, either? */
static bool thread_gone(int dir, const char *tid, const void *was)
{
    char text[2048];
    long n = task_read(dir, tid, "status", text, sizeof text);
    char *at = n > 0 ? strstr(text, "\nUid:") : NULL;
    if (!at)
        return true;
    uid_t user[3];
    at += 5;
    for (int i = 0; i < 3; i++)
        user[i] = (uid_t)strtoul(at, &at, 10);
    struct ids is = {user[0], user[1], user[2]};
    return no_way_back(was, &is);
}

static void look(bool before, const struct ids *is)
{
    bool gone = no_way_back(&known, is);
    int saved = errno;
    /* A bare call changes only the thread that makes it. As long as that has all its memory in common with
     * threads that are who they were, nobody has left. */
    bool alone = gone && !before && !__libc_single_threaded && !tasks_all(thread_gone, &known);
    errno = saved;
    if (alone)
        return;
    if (!before)
        known = *is;
    if (gone && client_attached())
        part(before);
    known = *is; /* the relays were forked as who it was */
    errno = saved;
}

void user_look(void)
{
    struct ids is = ids_now();
    if (unlikely(is.real != known.real || is.effective != known.effective || is.saved != known.saved) &&
        !shim_foreign())
        look(false, &is);
}

/* Before the call that is to make them these. */
static void becomes(uid_t ruid, uid_t euid, uid_t suid)
{
    struct ids to = {ruid, euid, suid};
    if (!shim_foreign() &&
        (known.effective == 0 || (has(&known, ruid) && has(&known, euid) && has(&known, suid))))
        look(true, &to);
}

static int done(int result)
{
    int saved = errno;
    user_look();
    errno = saved;
    return result;
}

static uid_t or_kept(uid_t asked, uid_t is)
{
    return asked == KEEP ? is : asked;
}

static void becomes_resuid(uid_t ruid, uid_t euid, uid_t suid)
{
    becomes(or_kept(ruid, known.real), or_kept(euid, known.effective), or_kept(suid, known.saved));
}

static void becomes_reuid(uid_t ruid, uid_t euid)
{
    bool saves = ruid != KEEP || (euid != KEEP && euid != known.real);
    uid_t to = or_kept(euid, known.effective);
    becomes(or_kept(ruid, known.real), to, saves ? to : known.saved);
}

static void becomes_uid(uid_t user)
{
    bool all = known.effective == 0;
    becomes(all ? user : known.real, user, all ? user : known.saved);
}

/* By its number, through libc's syscall(): of a process with threads that is no change of user. */
long user_by_call(long (*call)(long, ...), long n, uid_t a, uid_t b, uid_t c)
{
    user_look();
    if (__libc_single_threaded && n == SYS_setresuid)
        becomes_resuid(a, b, c);
    else if (__libc_single_threaded && n == SYS_setreuid)
        becomes_reuid(a, b);
    else if (__libc_single_threaded)
        becomes_uid(a);
    return done((int)call(n, a, b, c));
}

EXPORT int setresuid(uid_t ruid, uid_t euid, uid_t suid)
{
    user_look();
    becomes_resuid(ruid, euid, suid);
    return done(NEXT(setresuid)(ruid, euid, suid));
}

EXPORT int setreuid(uid_t ruid, uid_t euid)
{
    user_look();
    becomes_reuid(ruid, euid);
    return done(NEXT(setreuid)(ruid, euid));
}

EXPORT int setuid(uid_t user)
{
    user_look();
    becomes_uid(user);
    return done(NEXT(setuid)(user));
}

EXPORT int seteuid(uid_t user)
{
    user_look();
    becomes(known.real, user, known.saved);
    return done(NEXT(seteuid)(user));
}
