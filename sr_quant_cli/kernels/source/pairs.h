/* Sums of products without VNNI: pairs are added in 16 bits, and SUMS products of each sum as long as
   they fit there: 8, 4, 2, or 1 where not even a pair fits. Then weights come as 16 * high + low, with
   both between -8 and 8, of which 8 products fit. Four quads of codes and weights are one step. The
   functions are those of dot.h. */

#define VECTORS 1
#define QUAD 4
#define MULTIPLY(v) MADDUBS(v, v)
#define PARTS (SUMS == 1 ? 2 : 1)

/* The sums of 2 products each, of 4 codes with 4 weights of each output. */
#define PAIRS(i) MADDUBS(SPLAT_CODES(a + 4 * (i)), LOADW(w + 4 * (i) * LANES))

/* Sums of the products of 16 codes with the weights of each output, times `factor`. */
INLINE vec NAME(products)(const uint8_t *a, const int8_t *w, int factor)
{
    const vec times = SPLAT16(factor);
#if SUMS == 8 || SUMS == 1
    return MADD16(ADD16(ADD16(PAIRS(0), PAIRS(1)), ADD16(PAIRS(2), PAIRS(3))), times);
#elif SUMS == 4
    return ADD(MADD16(ADD16(PAIRS(0), PAIRS(1)), times), MADD16(ADD16(PAIRS(2), PAIRS(3)), times));
#else
    return ADD(ADD(MADD16(PAIRS(0), times), MADD16(PAIRS(1), times)),
               ADD(MADD16(PAIRS(2), times), MADD16(PAIRS(3), times)));
#endif
}

#define ADD_PRODUCTS(sum, codes, weights)                                   \
    sum = ADD(sum, NAME(products)(codes, weights, PARTS == 2 ? 16 : 1));    \
    if (PARTS == 2)                                                         \
        sum = ADD(sum, NAME(products)(codes, weights + 16 * LANES, 1));
#define ADD_ROWS(r0, r1, r2, codes, weights)            \
    ADD_PRODUCTS(sum##r0, codes, weights)               \
    ADD_PRODUCTS(sum##r1, codes + step, weights)        \
    ADD_PRODUCTS(sum##r2, codes + 2 * step, weights)
#define ADD_ALL(code, other, weight, other_weight)             \
    for (int c = 0, w = 0; c < inputs; c += 16, w += 16 * PARTS * LANES) { \
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

#undef PAIRS
#undef ADD_PRODUCTS
#undef ADD_ROWS
#undef ADD_ALL
