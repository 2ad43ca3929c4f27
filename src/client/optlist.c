/* optlist.c - options of sessions that several hold: a list for each session, in the family's memory.
 *
 * All are read and written under one lock. A record is in its list when it is complete, before the one that it
 * replaces is taken out: who dies in between leaves two, of which the first is the later one.
 */
#include "client/optlist.h"

/* A list that was torn by a death may lead astray, not out. */
static struct option_rec *option_at(uint32_t link)
{
    return link && link <= OPTIONS_MAX ? &C->family->option[link - 1] : NULL;
}

static struct option_rec *option_alloc(void)
{
    struct family *f = C->family;
    struct option_rec *r = option_at(f->option_free);
    if (r)
        f->option_free = r->next;
    else if (f->options < OPTIONS_MAX)
        r = &f->option[f->options++];
    return r;
}

static void option_free(struct option_rec *r)
{
    struct family *f = C->family;
    r->next = f->option_free;
    f->option_free = (uint32_t)(r - f->option) + 1;
}

static uint32_t *list_of(const struct session *s)
{
    return &C->family->options_of[s - C->family->session];
}

static bool is(const struct option_rec *r, int level, int name)
{
    return r->option.level == level && r->option.name == name;
}

static void take_former(struct option_rec *r)
{
    uint32_t *link = &r->next;
    for (struct option_rec *old; (old = option_at(*link)) != NULL; link = &old->next) {
        if (is(old, r->option.level, r->option.name)) {
            *link = old->next;
            option_free(old);
            return;
        }
    }
}

bool options_put(struct session *s, const struct client_option *option)
{
    struct family *f = C->family;
    family_lock_acquire(&f->options_lock, C->member);
    struct option_rec *r = option_alloc();
    if (r) {
        uint32_t index = (uint32_t)(s - f->session);
        r->option = *option;
        r->next = session_file(s, FILE_OPTIONS) ? f->options_of[index] : 0;
        family_set_options_of(f, index, (uint32_t)(r - f->option) + 1);
        session_set_file(s, FILE_OPTIONS, true);
        if (option_is_time(option->level, option->name))
            session_set_file(s, FILE_TIMES, true);
        take_former(r);
    }
    family_lock_drop(&f->options_lock);
    return r != NULL;
}

/* Others can write there. */
static void copy(struct client_option *out, const struct option_rec *r)
{
    *out = r->option;
    out->given_len = out->given_len < OPTION_VALUE_MAX ? out->given_len : OPTION_VALUE_MAX;
    out->seen_len = out->seen_len < OPTION_VALUE_MAX ? out->seen_len : OPTION_VALUE_MAX;
}

bool options_find(struct session *s, int level, int name, struct client_option *out)
{
    bool found = false;
    family_lock_acquire(&C->family->options_lock, C->member);
    for (struct option_rec *r = option_at(*list_of(s)); r && !found; r = option_at(r->next)) {
        found = is(r, level, name);
        if (found)
            copy(out, r);
    }
    family_lock_drop(&C->family->options_lock);
    return found;
}

bool options_at(struct session *s, uint32_t i, struct client_option *out)
{
    bool found = false;
    family_lock_acquire(&C->family->options_lock, C->member);
    for (struct option_rec *r = option_at(*list_of(s)); r && !found; r = option_at(r->next)) {
        found = i-- == 0;
        if (found)
            copy(out, r);
    }
    family_lock_drop(&C->family->options_lock);
    return found;
}

void options_free(struct session *s)
{
    if (!session_file(s, FILE_OPTIONS))
        return;
    family_lock_acquire(&C->family->options_lock, C->member);
    for (struct option_rec *r; (r = option_at(*list_of(s))) != NULL;) {
        *list_of(s) = r->next;
        option_free(r);
    }
    session_set_file(s, FILE_OPTIONS | FILE_TIMES, false);
    family_lock_drop(&C->family->options_lock);
}
