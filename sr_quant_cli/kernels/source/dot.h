/* Sums of products that fit 32 bits one by one: VNNI, and plain C. Included once for each COUNT of
   vectors. DOT(sum, code, weights) adds the products of QUAD codes with QUAD * LANES weights. */

static void DOT_NAME(const uint8_t *codes, ptrdiff_t step, const ptrdiff_t *offsets, int segments,
                     int inputs, const int8_t *weights, ptrdiff_t weights_step,
                     const int32_t *start, int32_t *sums, int sums_step)
{
    vec sum[SRQ_TILES][COUNT];
    for (int t = 0; t < SRQ_TILES; t++)
        for (int j = 0; j < COUNT; j++)
            sum[t][j] = LOAD(start + j * LANES);
    for (int s = 0; s < segments; s++) {
        const uint8_t *code = codes + offsets[s];
        const int8_t *weight = weights + s * weights_step;
        for (int c = 0; c < inputs; c += QUAD) {
            vecw w[COUNT];
            for (int j = 0; j < COUNT; j++)
                w[j] = LOADW(weight + j * LANES * QUAD);
            weight += COUNT * LANES * QUAD;
            for (int t = 0; t < SRQ_TILES; t++) {
                vecc a = SPLAT_CODES(code + t * step + c);
                for (int j = 0; j < COUNT; j++)
                    sum[t][j] = DOT(sum[t][j], a, w[j]);
            }
        }
    }
    for (int t = 0; t < SRQ_TILES; t++)
        for (int j = 0; j < COUNT; j++)
            STORE(sums + (t * COUNT + j) * sums_step, sum[t][j]);
}

#undef DOT_NAME
#undef COUNT
