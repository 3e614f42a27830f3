/* half.h: rows of 16-bit floats widened to f32 and rounded back, eight at a time. The bits are
 * those of bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16 in ir/base.h. */
#ifndef M6C_HALF_H
#define M6C_HALF_H

#include "ir/base.h"

/* d: DT_BF16 or DT_F16. n elements; the two must not overlap. */
void half_widen(Dtype d, const uint16_t *from, float *to, int64_t n);
void half_narrow(Dtype d, const float *from, uint16_t *to, int64_t n);

#endif
