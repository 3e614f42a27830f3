/* flush.cu: reads 128 KiB a block and keeps nothing, so that afterwards the caches hold only this. */
KERNEL(flush, 2, 256) {
    const char *x = (const char *)ARG(0) + (int64_t)BID * 131072 + TID * 16;
    uint32_t r[4], all = 0;
    for (int i = 0; i < 32; i++) {
        load16(r, x + i * 4096);
        all |= r[0] | r[1] | r[2] | r[3];
    }
    if (all == 1) store4(ARG(1), &all);
}
