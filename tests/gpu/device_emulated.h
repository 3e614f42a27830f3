/* device_emulated.h: a device for tests that runs a CUDA plan's kernels in the emulator and its
 * products on the processor. Each launch works on copies of its arguments in guarded memory, so
 * that an access outside a tensor traps, and a write to an argument that the plan says is only read
 * is an error. Environment: M6C_EMULATED_SEED draws the order of threads. */
#ifndef M6C_TESTS_DEVICE_EMULATED_H
#define M6C_TESTS_DEVICE_EMULATED_H

#include "runtime/device.h"

extern const DeviceOps device_emulated;

#endif
