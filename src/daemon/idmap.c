/* idmap.c - see idmap.h.
 *
 * Theory of operation
 *
 * Open addressing with linear probing, at most three quarters filled, deleted entries marked until the next
 * rehash. The hash is a multiplication by a random odd number, since apps choose a part of the ids (outbox
 * handles).
 */
#include "daemon/idmap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "berth/error.h"

struct idmap_entry {
    uint64_t id;  /* 0: never used */
    void *object; /* NULL with an id: deleted */
};

static uint64_t hash_key;

static uint32_t slot_of(const struct idmap *map, uint64_t id)
{
    return (uint32_t)((id ^ id >> 31) * hash_key >> 32) & map->mask;
}

static int rehash(struct idmap *map)
{
    if (!hash_key) {
        if (getrandom(&hash_key, sizeof hash_key, GRND_NONBLOCK) != (long)sizeof hash_key)
            hash_key = 0x9e3779b97f4a7c15ull;
        hash_key |= 1;
    }
    uint32_t size = 16;
    while (size < map->used * 2 + 2)
        size *= 2;
    struct idmap bigger = {.table = calloc(size, sizeof *bigger.table), .mask = size - 1};
    if (!bigger.table)
        return BERTH_E_NO_MEMORY;
    for (uint32_t i = 0; map->table && i <= map->mask; i++) {
        if (!map->table[i].object)
            continue;
        uint32_t at = slot_of(&bigger, map->table[i].id);
        while (bigger.table[at].id)
            at = (at + 1) & bigger.mask;
        bigger.table[at] = map->table[i];
    }
    bigger.used = bigger.filled = map->used;
    free(map->table);
    *map = bigger;
    return 0;
}

int idmap_put(struct idmap *map, uint64_t id, void *object)
{
    if (!map->table || (map->filled + 1) * 4 > (map->mask + 1) * 3) {
        int err = rehash(map);
        if (err)
            return err;
    }
    uint32_t at = slot_of(map, id);
    while (map->table[at].object)
        at = (at + 1) & map->mask;
    if (!map->table[at].id)
        map->filled++;
    map->table[at] = (struct idmap_entry){id, object};
    map->used++;
    return 0;
}

static struct idmap_entry *find(const struct idmap *map, uint64_t id)
{
    if (!map->table || !id)
        return NULL;
    for (uint32_t at = slot_of(map, id); map->table[at].id; at = (at + 1) & map->mask) {
        if (map->table[at].id == id && map->table[at].object)
            return &map->table[at];
    }
    return NULL;
}

void *idmap_get(const struct idmap *map, uint64_t id)
{
    struct idmap_entry *entry = find(map, id);
    return entry ? entry->object : NULL;
}

void idmap_remove(struct idmap *map, uint64_t id)
{
    struct idmap_entry *entry = find(map, id);
    if (!entry)
        return;
    entry->object = NULL;
    if (--map->used == 0) { /* a map that has become empty gives its memory back */
        idmap_free(map);
    }
}

void idmap_free(struct idmap *map)
{
    free(map->table);
    *map = (struct idmap){0};
}

void *idmap_next(const struct idmap *map, uint32_t *at)
{
    while (map->table && *at <= map->mask) {
        struct idmap_entry *entry = &map->table[(*at)++];
        if (entry->object)
            return entry->object;
    }
    return NULL;
}

int ptrset_add(struct ptrset *set, void *item)
{
    if (ptrset_has(set, item))
        return 0;
    if (set->count == set->room) {
        uint32_t room = set->room ? set->room * 2 : 4;
        void **bigger = realloc(set->item, room * sizeof *bigger);
        if (!bigger)
            return BERTH_E_NO_MEMORY;
        set->item = bigger;
        set->room = room;
    }
    set->item[set->count++] = item;
    return 0;
}

bool ptrset_has(const struct ptrset *set, const void *item)
{
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->item[i] == item)
            return true;
    }
    return false;
}

bool ptrset_remove(struct ptrset *set, const void *item)
{
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->item[i] != item)
            continue;
        set->item[i] = set->item[--set->count];
        if (!set->count)
            ptrset_free(set);
        return true;
    }
    return false;
}

int ptrset_copy(struct ptrset *to, const struct ptrset *from)
{
    for (uint32_t i = 0; i < from->count; i++) {
        int err = ptrset_add(to, from->item[i]);
        if (err)
            return err;
    }
    return 0;
}

void ptrset_free(struct ptrset *set)
{
    free(set->item);
    *set = (struct ptrset){0};
}
