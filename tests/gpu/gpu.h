/* gpu.h: the GPU of this machine, for tests and measurements that talk to the driver themselves;
 * or the stand-in (standin.h), which takes CUDA C where a GPU takes what NVRTC made of it. */
#ifndef M6C_TESTS_GPU_H
#define M6C_TESTS_GPU_H

#include "runtime/cuda_api.h"

typedef struct {
    CudaApi api;
    CudaDevice device;
    CudaContext context; /* the primary one, current */
    CudaStream stream;
    char name[128];
    int major, minor, driver;
    char arch[16]; /* what to compile for: the device's, or the newest that runs on it */
    bool standin;
} Gpu;

/* EXIT_SYSTEM when there is no driver or no device. */
Status gpu_open(Gpu *g);
void gpu_close(Gpu *g);
/* 0 where the driver does not say. */
int gpu_attribute(const Gpu *g, int attribute);

/* The kernels of a .cu file, compiled into the folder `dir`; codegen/cuda_device.h is put before
 * the text of files that do not begin with it. */
Status gpu_load(Gpu *g, const char *cu_path, const char *dir, CudaModule *out);

#define GPU_TRY(g, name, ...) CUDA_TRY(&(g)->api, name, __VA_ARGS__)

#endif
