/* emulator.h: runs generated CUDA C on the CPU, as a test wants it: unforgiving.
 *
 *     EmuModule *m;
 *     Status s = emu_load("DIR/plan_0.cu", &m);          compiled by cc behind emulate.h, cached
 *     void *k = emu_find(m, "kernel");
 *     s = emu_launch(k, blocks, threads, shared, arg, seed);
 *
 * Every thread is a fiber. The threads between two barriers run one after another in an order drawn
 * from the seed, and so do the blocks; what a thread reads without a barrier before it is therefore
 * not there in many of the orders. Shared memory is 0xff bytes (NaN) at the start of each block and
 * ends, like what emu_buffer gives, where accesses trap. An asynchronous copy lands when it is
 * waited for, one in four at once, which is as legal: who reads too early, or overwrites what is
 * still read, is wrong soon.
 *
 * Reported as a Status that names kernel, block, thread and, where it can be known, the line: a
 * barrier that not all threads reach, a warp operation without all its lanes or with lanes in
 * different ones, misaligned accesses, accesses outside guarded memory, writes into the margins
 * around it, stacks that overflow, integer division by zero, more threads than __launch_bounds__.
 * Where M6C_EMULATED_RACES at emu_load is "shared" or "all", data races in shared or in all memory
 * are reported too, of every order, harmless or not; that takes two to ten times as long. A thread
 * that loops for ever, loops for ever.
 *
 * With AddressSanitizer in the emulator the kernels are compiled with it too, and races are not
 * looked for. */
#ifndef M6C_TESTS_EMULATOR_H
#define M6C_TESTS_EMULATOR_H

#include "ir/base.h"

typedef struct EmuModule EmuModule;

Status emu_load(const char *cu_path, EmuModule **out);
void emu_unload(EmuModule *m);
/* NULL: the module has none of that name. Valid until emu_unload. */
void *emu_find(EmuModule *m, const char *kernel);
int emu_args(const void *kernel); /* how many pointers it takes */

/* `arg` has as many pointers as the kernel's declaration says. Launches of several threads wait for
 * each other. The same seed runs everything in the same order. */
Status emu_launch(void *kernel, int64_t blocks, int threads, int64_t shared, void *const *arg,
                  uint64_t seed);

/* Memory filled with 0xff whose end, rounded up to 16 bytes, lies against a page without access.
 * The bytes between are checked after every launch. */
void *emu_buffer(int64_t bytes);
void emu_buffer_free(void *p);

bool emu_sanitized(void); /* AddressSanitizer watches: a write into a margin ends the process */

#endif
