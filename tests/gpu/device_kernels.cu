/* Kernels of device_plan.txt, in the words of generated ones. */

KERNEL(rate, 2, 32) {
    if (TID == 0) *(float *)ARG(0) = 0.25f / (float)*(const int32_t *)ARG(1);
}

KERNEL(subtract, 3, 8) {
    const float *y = (const float *)ARG(0);
    const float *t = (const float *)ARG(1);
    float *error = (float *)ARG(2);
    error[BID * 8 + TID] = y[BID * 8 + TID] - t[BID * 8 + TID];
}

KERNEL(half_squares, 2, 32) {
    DYNAMIC_SHARED(room);
    float *part = (float *)room;
    const float *error = (const float *)ARG(0);
    part[TID] = TID < 24 ? error[TID] * error[TID] : 0.0f;
    SYNC();
    for (int n = 16; n > 0; n >>= 1) {
        if (TID < n) part[TID] += part[TID + n];
        SYNC();
    }
    if (TID == 0) *(float *)ARG(1) = 0.5f * part[0] / 8;
}

/* Adds to what is there. */
KERNEL(add_squares, 2, 32) {
    const float *g = (const float *)ARG(0);
    float x = TID < 12 ? g[TID] * g[TID] : 0.0f;
    for (int m = 16; m > 0; m >>= 1) x += shfl_xor_f32(x, m);
    if (TID == 0) *(float *)ARG(1) += x;
}
