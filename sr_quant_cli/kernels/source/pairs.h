/* Sums of products without VNNI: pairs are added in 16 bits, and SUMS products of each sum as long as
   they fit there: 8, 4, 2, or 1 where not even a pair fits, so that products have 16 bits each.
   Four quads of codes and weights are one step. */

#define VECTORS 1
#define QUAD 4

#if SUMS == 1
/* Products of a quad: even and odd ones apart, which madd adds in pairs. */
static inline vec NAME(products)(const uint8_t *code, vec w)
{
    vec a = SPLAT_CODES(code), even = SRA16(SLL16(w, 8), 8);
    return ADD(MADD16(AND(a, SPLAT16(255)), even), MADD16(SRL16(a, 8), SRA16(w, 8)));
}
#endif

static void NAME(dot1)(const uint8_t *codes, ptrdiff_t step, const ptrdiff_t *offsets, int segments,
                       int inputs, const int8_t *weights, ptrdiff_t weights_step,
                       const int32_t *start, int32_t *sums, int sums_step)
{
    vec sum[SRQ_TILES];
    for (int t = 0; t < SRQ_TILES; t++)
        sum[t] = LOAD(start);
    for (int s = 0; s < segments; s++) {
        const uint8_t *code = codes + offsets[s];
        const int8_t *weight = weights + s * weights_step;
        for (int c = 0; c < inputs; c += 16, weight += 16 * LANES) {
            vec w0 = LOADW(weight), w1 = LOADW(weight + 4 * LANES);
            vec w2 = LOADW(weight + 8 * LANES), w3 = LOADW(weight + 12 * LANES);
            for (int t = 0; t < SRQ_TILES; t++) {
                const uint8_t *a = code + t * step + c;
#if SUMS == 1
                vec left = ADD(NAME(products)(a, w0), NAME(products)(a + 4, w1));
                vec right = ADD(NAME(products)(a + 8, w2), NAME(products)(a + 12, w3));
#else
                const vec one = SPLAT16(1);
                vec p0 = MADDUBS(SPLAT_CODES(a), w0), p1 = MADDUBS(SPLAT_CODES(a + 4), w1);
                vec p2 = MADDUBS(SPLAT_CODES(a + 8), w2), p3 = MADDUBS(SPLAT_CODES(a + 12), w3);
#if SUMS == 8
                sum[t] = ADD(sum[t], MADD16(ADD16(ADD16(p0, p1), ADD16(p2, p3)), one));
#elif SUMS == 4
                vec left = MADD16(ADD16(p0, p1), one), right = MADD16(ADD16(p2, p3), one);
#else
                vec left = ADD(MADD16(p0, one), MADD16(p1, one));
                vec right = ADD(MADD16(p2, one), MADD16(p3, one));
#endif
#endif
#if SUMS != 8
                sum[t] = ADD(sum[t], ADD(left, right));
#endif
            }
        }
    }
    for (int t = 0; t < SRQ_TILES; t++)
        STORE(sums + t * sums_step, sum[t]);
}
