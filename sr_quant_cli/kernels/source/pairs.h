/* Sums of products without VNNI: pairs are added in 16 bits, and SUMS products of each sum as long as
   they fit there: 8, 4, 2, or 1 where not even a pair fits, so that products have 16 bits each.
   Four quads of codes and weights are one step. The functions are those of dot.h. */

#define VECTORS 1
#define QUAD 4

#if SUMS == 1
/* Products of a quad: even and odd ones apart, which madd adds in pairs. */
INLINE vec NAME(quad)(const uint8_t *code, vec w)
{
    vec a = SPLAT_CODES(code), even = SRA16(SLL16(w, 8), 8);
    return ADD(MADD16(AND(a, SPLAT16(255)), even), MADD16(SRL16(a, 8), SRA16(w, 8)));
}
#endif

/* Sums of the products of 16 codes with the weights of each output. */
INLINE vec NAME(products)(const uint8_t *a, vec w0, vec w1, vec w2, vec w3)
{
#if SUMS == 1
    return ADD(ADD(NAME(quad)(a, w0), NAME(quad)(a + 4, w1)), ADD(NAME(quad)(a + 8, w2), NAME(quad)(a + 12, w3)));
#else
    const vec one = SPLAT16(1);
    vec p0 = MADDUBS(SPLAT_CODES(a), w0), p1 = MADDUBS(SPLAT_CODES(a + 4), w1);
    vec p2 = MADDUBS(SPLAT_CODES(a + 8), w2), p3 = MADDUBS(SPLAT_CODES(a + 12), w3);
#if SUMS == 8
    return MADD16(ADD16(ADD16(p0, p1), ADD16(p2, p3)), one);
#elif SUMS == 4
    return ADD(MADD16(ADD16(p0, p1), one), MADD16(ADD16(p2, p3), one));
#else
    return ADD(ADD(MADD16(p0, one), MADD16(p1, one)), ADD(MADD16(p2, one), MADD16(p3, one)));
#endif
#endif
}

#define ADD_ROWS(r0, r1, r2, codes, weights)                                       \
    {                                                                              \
        vec w0 = LOADW(weights), w1 = LOADW(weights + 4 * LANES);                  \
        vec w2 = LOADW(weights + 8 * LANES), w3 = LOADW(weights + 12 * LANES);     \
        sum##r0 = ADD(sum##r0, NAME(products)(codes, w0, w1, w2, w3));             \
        sum##r1 = ADD(sum##r1, NAME(products)(codes + step, w0, w1, w2, w3));      \
        sum##r2 = ADD(sum##r2, NAME(products)(codes + 2 * step, w0, w1, w2, w3));  \
    }
#define ADD_ALL(code, other, weight, other_weight)             \
    for (int c = 0, w = 0; c < inputs; c += 16, w += 16 * LANES) { \
        ADD_ROWS(0, 1, 2, code + c, weight + w)                \
        ADD_ROWS(3, 4, 5, other + c, other_weight + w)         \
    }

static NOINLINE void NAME(window1)(const uint8_t *codes, ptrdiff_t step, const ptrdiff_t *offsets,
                                   int segments, int inputs, const int8_t *weights,
                                   ptrdiff_t segment, int32_t *sums, int sums_tile)
{
    vec sum0 = ZERO, sum1 = ZERO, sum2 = ZERO, sum3 = ZERO, sum4 = ZERO, sum5 = ZERO;
    for (int s = 0; s < segments; s++) {
        const uint8_t *code = codes + offsets[s], *other = code + 3 * step;
        const int8_t *weight = weights + s * segment;
        ADD_ALL(code, other, weight, weight)
    }
    STORE(sums, sum0);
    STORE(sums + sums_tile, sum1);
    STORE(sums + 2 * sums_tile, sum2);
    STORE(sums + 3 * sums_tile, sum3);
    STORE(sums + 4 * sums_tile, sum4);
    STORE(sums + 5 * sums_tile, sum5);
}

static NOINLINE void NAME(column1)(const uint8_t *codes, ptrdiff_t step, ptrdiff_t down, int inputs,
                                   const int8_t *weights, ptrdiff_t segment, int32_t *sums,
                                   int sums_tile, int sums_row, int sums_vector)
{
    (void)sums_vector;  /* there is one vector */
    vec sum0 = ZERO, sum1 = ZERO, sum2 = ZERO, sum3 = ZERO, sum4 = ZERO, sum5 = ZERO;
    ADD_ALL((codes + down), (codes + 2 * down), (weights + segment), (weights + 2 * segment))
    vec difference0 = SUB(sum0, sum3), difference1 = SUB(sum1, sum4), difference2 = SUB(sum2, sum5);
    sum0 = ADD(sum0, sum3), sum1 = ADD(sum1, sum4), sum2 = ADD(sum2, sum5);
    sum3 = difference0, sum4 = difference1, sum5 = difference2;
    ADD_ALL(codes, (codes + 3 * down), weights, (weights + 3 * segment))
    STORE(sums, sum0);
    STORE(sums + sums_tile, sum1);
    STORE(sums + 2 * sums_tile, sum2);
    STORE(sums + sums_row, sum3);
    STORE(sums + sums_row + sums_tile, sum4);
    STORE(sums + sums_row + 2 * sums_tile, sum5);
}

#undef ADD_ROWS
#undef ADD_ALL
