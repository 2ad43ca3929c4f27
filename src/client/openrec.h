/* openrec.h - records of what belongs to open files, in the family's memory (see records.h). */
#ifndef BERTH_CLIENT_OPENREC_H
#define BERTH_CLIENT_OPENREC_H

#include "client/client.h"
#include "client/members.h"

/* An option of a session that several hold. */
struct option_rec {
    uint32_t next; /* free list, or the session's: index + 1 */
    struct client_option option;
};
#define OPTIONS_MAX (1u << 17)

/* A socket of the kernel's that is nobody's session and nobody's listener, and that relatives have as well. */
struct joint_file {
    struct member_set holders;
    uint32_t used;
    uint32_t decided; /* one of them has taken it to the kernel for good */
};
#define FILES_MAX 1024u

/* Under options_lock, after the holders were written. */
static inline void joint_file_set_used(struct joint_file *f, bool used)
{
    store_release(&f->used, used ? 1u : 0u);
}

static inline bool joint_file_used(const struct joint_file *f)
{
    return load_acquire(&f->used) != 0;
}

static inline bool joint_file_decided(const struct joint_file *f)
{
    return load_sc(&f->decided) != 0;
}

static inline void joint_file_decide(struct joint_file *f, bool so)
{
    store_sc(&f->decided, so ? 1u : 0u);
}

#endif
