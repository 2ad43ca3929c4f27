/* openfile.c - what belongs to an open file, and so to all who came to have it over fork.
 *
 * Sessions. O_NONBLOCK, and whether a connect has been told of, are bits in the session's record. Options are kept by
 * whoever sets them, and copied by a fork, as long as nobody else holds the session. One that is set when there are
 * several holders is written into the family's memory, where it goes before what each has kept.
 *
 * Sockets of the kernel's of which neither a session nor a listener has become (files here): flags and options are
 * the kernel's. What must be known is whether a relative has it, too: then nobody may make a session of it, for which
 * the others' copies would not stand. A member that has died counts no more; one that was given the place of a dead
 * one has what its parent had (files_share).
 */
#include "client/openfile.h"

#include "client/aside.h"
#include "client/family.h"
#include "client/listener.h"
#include "client/news.h"
#include "client/optlist.h"
#include "client/session.h"

/* ---- bits ---------------------------------------------------------------------------------------------- */

void client_set_nonblock(uint64_t h, bool on)
{
    struct listener *l = handle_is_listener(h) ? listener_get(h) : NULL;
    struct aside *a = l ? aside_of(l) : NULL;
    struct session *s = handle_is_listener(h) ? NULL : session_get(h);
    if (a)
        aside_set_nonblock(a, on ? 1u : 0u);
    if (s)
        session_set_file(s, FILE_NONBLOCK, on);
}

bool client_nonblock(uint64_t h, bool otherwise)
{
    const struct listener *l = handle_is_listener(h) ? listener_get(h) : NULL;
    const struct aside *a = l ? aside_of(l) : NULL;
    const struct session *s = handle_is_listener(h) ? NULL : session_get(h);
    return a ? aside_nonblock(a) : s ? session_file(s, FILE_NONBLOCK) : otherwise;
}

void client_set_connecting(session_handle h, bool on)
{
    struct session *s = session_get(h);
    if (s)
        session_set_file(s, FILE_CONNECTING, on);
}

bool client_connecting(session_handle h)
{
    const struct session *s = session_get(h);
    return s && session_file(s, FILE_CONNECTING);
}

uint32_t client_lowat(session_handle h)
{
    return session_lowat(session_at((uint32_t)h % SESSIONS_MAX));
}

/* ---- options of sessions ------------------------------------------------------------------------------- */

bool client_option_put(session_handle h, const struct client_option *option)
{
    struct session *s = session_get(h);
    return s && (session_flags(s) & SF_SHARED || session_file(s, FILE_OPTIONS)) && options_put(s, option);
}

bool client_options_there(session_handle h)
{
    const struct session *s = session_get(h);
    return s && session_file(s, FILE_OPTIONS);
}

bool client_option_find(session_handle h, int level, int name, struct client_option *out)
{
    struct session *s = session_get(h);
    uint32_t kept = option_is_time(level, name) ? FILE_TIMES : FILE_OPTIONS;
    return s && session_file(s, kept) && options_find(s, level, name, out);
}

bool client_option_at(session_handle h, uint32_t i, struct client_option *out)
{
    struct session *s = session_get(h);
    return s && session_file(s, FILE_OPTIONS) && options_at(s, i, out);
}

/* ---- sockets of the kernel's --------------------------------------------------------------------------- */

static struct joint_file *file_at(uint32_t file)
{
    return file && file <= FILES_MAX && C->attached ? &C->family->file[file - 1] : NULL;
}

static struct member_set holders_of(const void *file)
{
    return members_copy(&((const struct joint_file *)file)->holders);
}

static bool held(const struct joint_file *f)
{
    return members_any_lives(holders_of, f);
}

/* One that is free, else one whose holders have all ended without a word. */
uint32_t client_file_new(void)
{
    struct family *fam = C->family;
    uint32_t file = 0;
    if (!C->attached)
        return 0;
    family_lock_acquire(&fam->options_lock, C->member);
    for (uint32_t i = 0; i < family_files(fam) && !file; i++)
        file = joint_file_used(&fam->file[i]) ? 0 : i + 1;
    if (!file && family_files(fam) < FILES_MAX) {
        file = family_files(fam) + 1;
        family_set_files(fam, file);
    }
    for (uint32_t i = 0; i < FILES_MAX && !file; i++)
        file = held(&fam->file[i]) ? 0 : i + 1;
    if (file) {
        struct joint_file *f = &fam->file[file - 1];
        joint_file_decide(f, false);
        members_only(&f->holders, C->member);
        joint_file_set_used(f, true);
    }
    family_lock_drop(&fam->options_lock);
    return file;
}

bool client_file_joint(uint32_t file)
{
    struct joint_file *f = file_at(file);
    if (!f || joint_file_decided(f))
        return true;
    control_poll(); /* who executes another program has its pid still, and the daemon says that he has gone */
    return members_others_live(&f->holders);
}

void client_file_decide(uint32_t file)
{
    struct joint_file *f = file_at(file);
    if (f)
        joint_file_decide(f, true);
}

void client_file_leave(uint32_t file)
{
    struct joint_file *f = file_at(file);
    if (!f)
        return;
    family_lock_acquire(&C->family->options_lock, C->member);
    if (members_drop(&f->holders, C->member) && !held(f))
        joint_file_set_used(f, false);
    family_lock_drop(&C->family->options_lock);
}

void files_share(uint32_t member)
{
    for (uint32_t i = 0, n = family_files(C->family); i < n; i++) {
        struct joint_file *f = &C->family->file[i];
        bool ours = joint_file_used(f) && members_has(&f->holders, C->member);
        if (member == NONE && ours)
            joint_file_decide(f, true);
        else if (member != NONE && ours)
            members_add(&f->holders, member);
        else if (member != NONE)
            (void)members_drop(&f->holders, member); /* of who had its place before */
    }
}

void client_files_changed(void)
{
    if (C->attached && berth_family_shared)
        family_files_changed(C->family);
}

uint32_t client_files_change(void)
{
    return C->attached ? family_files_change(C->family) : 0;
}
