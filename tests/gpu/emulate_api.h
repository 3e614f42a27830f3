/* emulate_api.h: what passes between an emulated kernel and the emulator (emulator.c). A kernel's
 * shared object imports nothing from the process that loads it: it exports one pointer, which the
 * emulator sets before each launch. */
#ifndef M6C_TESTS_EMULATE_API_H
#define M6C_TESTS_EMULATE_API_H

#include <stddef.h>
#include <stdint.h>

/* What a thread waits in. The barrier of the block and the end come first: they end the turn of a
 * warp; the rest are done as soon as all lanes of the warp are there. */
typedef enum {
    EMU_SYNC,
    EMU_END,
    EMU_WARP_SYNC,
    EMU_SHFL_XOR,
    EMU_SHFL,
    EMU_SHFL_UP,
    EMU_BALLOT,
    EMU_LDMATRIX,
    EMU_LDMATRIX_TRANS,
    EMU_MMA_BF16,
    EMU_MMA_F16,
    EMU_OPS
} EmuOp;

/* A lane's operands of a warp operation, and its result. */
typedef struct {
    uint64_t x;          /* shuffles, ballot: the value, then the result */
    int32_t arg;         /* shuffles: lane, mask or distance */
    void *to;            /* registers written: ldmatrix's four, mma's sums */
    const void *from[2]; /* ldmatrix: the row; mma: a and b */
} EmuSlot;

typedef struct {
    int32_t tid, bid; /* of the running thread */
    EmuSlot *slot;    /* of the running thread */
    void (*wait)(int op, int line);
    void *(*shared)(int key, int64_t bytes); /* key 0: the launch's dynamic shared memory */
    void (*copy)(void *to, const void *from, int valid, int line);
    void (*commit)(void);
    void (*wait_groups)(int n);
    void (*fault)(int line, const char *what, const void *address); /* does not return */
    /* Of kernels compiled to look for races: each access to these addresses. */
    void (*access)(const void *p, int bytes, int write, const void *pc);
    uintptr_t watch;
    size_t watch_bytes;
} EmuApi;

/* What a kernel's object says of it, exported as NAME_emu_. */
typedef struct {
    int32_t nargs, threads; /* pointers it takes; most threads of a block */
} EmuKernelInfo;

#endif
