/* idmap.h - from an id (any 64 bits but 0) to an object; and small vectors of pointers. */
#ifndef BERTH_DAEMON_IDMAP_H
#define BERTH_DAEMON_IDMAP_H

#include <stdbool.h>
#include <stdint.h>

struct idmap {
    struct idmap_entry *table;
    uint32_t mask, used, filled; /* used: live entries; filled: live and deleted ones */
};

int idmap_put(struct idmap *map, uint64_t id, void *object); /* 0 or BERTH_E_NO_MEMORY; the id must be new */
void *idmap_get(const struct idmap *map, uint64_t id);       /* NULL where there is none */
void idmap_remove(struct idmap *map, uint64_t id);
void idmap_free(struct idmap *map);
/* Walks the live entries: start with *at = 0. NULL at the end. Entries may be removed meanwhile, none put. */
void *idmap_next(const struct idmap *map, uint32_t *at);

/* An unordered set of pointers, small as a rule. */
struct ptrset {
    void **item;
    uint32_t count, room;
};

int ptrset_add(struct ptrset *set, void *item); /* 0 (also when it is in), or BERTH_E_NO_MEMORY */
bool ptrset_has(const struct ptrset *set, const void *item);
bool ptrset_remove(struct ptrset *set, const void *item); /* true when it was in */
int ptrset_copy(struct ptrset *to, const struct ptrset *from);
void ptrset_free(struct ptrset *set);

#endif
