/* machine_builtin.c: figures for machines that were never measured, so that every plan is priced.
 * Those of the CPU were measured by `m6c calibrate` on two cores of a Zen 3 EPYC; those of GPUs are
 * the ones of examples/clusters, with a host of a few cores. */
#include "passes/machine_private.h"

#include <string.h>

static const char cpu[] = "m6c-machine 1\n"
                          "name \"a CPU, not measured: m6c calibrate\"\n"
                          "target cpu\n"
                          "launch 0.2us\n"
                          "vector 210GOPS\n"
                          "bandwidth 87GB/s at 64KiB\n"
                          "bandwidth 120GB/s at 256KiB\n"
                          "bandwidth 35GB/s at 1MiB\n"
                          "bandwidth 35GB/s at 64MiB\n"
                          "host-launch 0.1us\n"
                          "host-vector 110GOPS\n"
                          "host-bandwidth 86GB/s at 64KiB\n"
                          "host-bandwidth 66GB/s at 256KiB\n"
                          "host-bandwidth 28GB/s at 1MiB\n"
                          "host-bandwidth 24GB/s at 64MiB\n"
                          "peak f32 190GFLOPS efficiency 0.8\n"
                          "peak f64 95GFLOPS efficiency 0.8\n"
                          "peak bf16 160GFLOPS efficiency 0.8\n"
                          "peak f16 160GFLOPS efficiency 0.8\n"
                          "attention f32 100GFLOPS\n"
                          "attention-grad f32 90GFLOPS\n"
                          "copy in 10GB/s latency 15us\n"
                          "copy out 10GB/s latency 15us\n"
                          "copy read 0.8GB/s latency 70us\n"
                          "copy write 1.2GB/s latency 150us\n"
                          "slow in while out 0.57\n"
                          "slow out while in 0.55\n"
                          "slow compute while in 0.6\n"
                          "slow in while compute 0.62\n"
                          "slow compute while out 0.6\n"
                          "slow out while compute 0.57\n"
                          "slow compute while host 0.6\n"
                          "slow host while compute 0.54\n"
                          "slow compute while in out 0.42\n"
                          "slow in while compute out 0.36\n"
                          "slow out while compute in 0.32\n";

static const char a100[] = "m6c-machine 1\n"
                           "name \"a GPU of compute capability 8, not measured: A100's figures\"\n"
                           "target sm_80\n"
                           "launch 3us\n"
                           "vector 9.7TOPS\n"
                           "bandwidth 1.6TB/s\n"
                           "host-launch 5us\n"
                           "host-vector 100GOPS\n"
                           "host-bandwidth 100GB/s\n"
                           "peak f32 19.5TFLOPS efficiency 0.8\n"
                           "peak bf16 312TFLOPS efficiency 0.6\n"
                           "peak f16 312TFLOPS efficiency 0.6\n"
                           "copy in 24GB/s latency 10us\n"
                           "copy out 24GB/s latency 10us\n"
                           "copy read 3GB/s latency 100us\n"
                           "copy write 1.5GB/s latency 100us\n";

static const char h100[] =
    "m6c-machine 1\n"
    "name \"a GPU of compute capability 9 or later, not measured: H100's figures\"\n"
    "target sm_90\n"
    "launch 3us\n"
    "vector 33TOPS\n"
    "bandwidth 2.8TB/s\n"
    "host-launch 5us\n"
    "host-vector 100GOPS\n"
    "host-bandwidth 100GB/s\n"
    "peak f32 67TFLOPS efficiency 0.7\n"
    "peak bf16 989TFLOPS efficiency 0.5\n"
    "peak f16 989TFLOPS efficiency 0.5\n"
    "copy in 48GB/s latency 10us\n"
    "copy out 48GB/s latency 10us\n"
    "copy read 3GB/s latency 100us\n"
    "copy write 1.5GB/s latency 100us\n";

const char *machine_builtin(const char *target) {
    if (!target || strncmp(target, "sm_", 3) != 0) return cpu;
    return strlen(target) == 5 && target[3] < '9' ? a100 : h100;
}
