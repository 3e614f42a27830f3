/* map.h: a hash table from interned strings (or any pointers) to pointers, in an arena. Nothing is
 * removed; a table is emptied by setting n and cap to zero. */
#ifndef M6C_MAP_H
#define M6C_MAP_H

#include "ir/base.h"

typedef struct {
    Arena *arena;
    struct MapEntry {
        const void *key;
        void *value;
    } * entry;
    uint32_t n, cap; /* cap: zero or a power of two, less than half full */
} Map;

static inline struct MapEntry *map_slot(const Map *m, const void *key) {
    uint32_t i = (uint32_t)hash_mix((uintptr_t)key, 0) & (m->cap - 1);
    while (m->entry[i].key && m->entry[i].key != key) i = (i + 1) & (m->cap - 1);
    return &m->entry[i];
}

static inline void *map_get(const Map *m, const void *key) {
    return m->cap ? map_slot(m, key)->value : NULL;
}

static inline void map_put(Map *m, const void *key, void *value) {
    if (2 * (m->n + 1) > m->cap) {
        Map larger = {.arena = m->arena, .n = m->n, .cap = m->cap ? 2 * m->cap : 16};
        larger.entry = arena_array(m->arena, struct MapEntry, larger.cap);
        for (uint32_t i = 0; i < m->cap; i++)
            if (m->entry[i].key) *map_slot(&larger, m->entry[i].key) = m->entry[i];
        *m = larger;
    }
    struct MapEntry *e = map_slot(m, key);
    m->n += e->key == NULL;
    *e = (struct MapEntry){key, value};
}

static inline Map map_new(Arena *a) { return (Map){.arena = a}; }

#endif
