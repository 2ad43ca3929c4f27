/* list.h - intrusive doubly linked lists. A link that is in no list points to itself. */
#ifndef BERTH_DAEMON_LIST_H
#define BERTH_DAEMON_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* `next` is taken before the body runs, so that the body may unlink (and free) the element it has */
#define list_for_each(head, it, after)                                                                       \
    for (struct list *it = (head)->next, *after = it->next; it != (head); it = after, after = it->next)

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_append(struct list *head, struct list *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static inline void list_unlink(struct list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}

#endif
