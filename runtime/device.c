/* device.c: the table of devices. */
#include "runtime/device.h"

#include <string.h>

static const DeviceOps *const devices[] = {&device_cpu, &device_cuda, &device_null};

const DeviceOps *device_at(size_t i) { return i < COUNT(devices) ? devices[i] : NULL; }

const DeviceOps *device_find(const char *name) {
    if (target_is_gpu(name)) return &device_cuda;
    for (size_t i = 0; i < COUNT(devices); i++)
        if (strcmp(devices[i]->name, name) == 0) return devices[i];
    return NULL;
}
