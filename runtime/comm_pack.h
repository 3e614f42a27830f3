/* comm_pack.h: tensors put together as one message, and in the format they travel in. */
#ifndef M6C_COMM_PACK_H
#define M6C_COMM_PACK_H

#include "ir/base.h"

/* n elements of `dtype` become elements of `wire`, multiplied by `scale` (pack), and back, divided
 * by it (unpack). Floats of any two formats; others only as they are, with scale 1. unpack: `from`
 * may be the last n elements' place of what `to` takes. */
void comm_pack(Dtype dtype, Dtype wire, double scale, const void *from, void *to, int64_t n);
void comm_unpack(Dtype dtype, Dtype wire, double scale, const void *from, void *to, int64_t n);

#endif
