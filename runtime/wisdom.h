/* wisdom.h: choices that were measured on this machine, as text in the cache folder (as FFTW does).
 *
 *     m6c-wisdom 2 SIGNATURE
 *     CHOICE SPEED KEY
 *
 * The signature names the machine, its libraries and the candidates: a file with another one is
 * ignored and replaced. Processes that measure at the same time each merge their news into the file
 * and rename it into place, so the worst that can happen is that something is measured twice. */
#ifndef M6C_WISDOM_H
#define M6C_WISDOM_H

#include "runtime/plan.h"

typedef struct {
    char *key;
    uint64_t hash;
    char *choice; /* a word */
    double speed; /* what it was chosen for: GFLOP/s */
} WisdomEntry;

typedef struct {
    char *file; /* its name in the cache folder */
    char *signature;
    VEC(WisdomEntry) entry;
    bool news; /* something the file does not have */
} Wisdom;

/* Takes over both texts, and reads what the file has. */
void wisdom_open(Wisdom *w, char *file, char *signature);
const WisdomEntry *wisdom_recall(const Wisdom *w, const char *key);
/* In place of what was known of this key. */
void wisdom_remember(Wisdom *w, const char *key, const char *choice, double speed);
/* Writes what is new; a failure to write is no error: wisdom can always be gained again. */
void wisdom_save(Wisdom *w);
void wisdom_close(Wisdom *w); /* without saving */

/* A product's shape as a part of a key: types, extents, strides. */
void wisdom_put_product(const PlanGemm *s, Buf *out);

#endif
