/* Sums of products without VNNI: pairs are added in 16 bits, and SUMS products of each sum as long as
   they fit there: 8, 4, 2, or 1 where not even a pair fits. Then weights come as 16 * high + low, with
   both between -8 and 8, of which 8 products fit. Four quads of codes and weights are one step. */

#define VECTORS 1
#define QUAD 4
#define STEP (4 * QUAD)
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

#define UNROLL
#define ADD_PRODUCTS(sum, codes, weights)                                   \
    sum = ADD(sum, NAME(products)(codes, weights, PARTS == 2 ? 16 : 1));    \
    if (PARTS == 2)                                                         \
        sum = ADD(sum, NAME(products)(codes, weights + 16 * LANES, 1));
#define ADD_ROWS(r0, r1, r2, codes, weights)            \
    ADD_PRODUCTS(sum##r0##0, codes, weights)            \
    ADD_PRODUCTS(sum##r1##0, codes + step, weights)     \
    ADD_PRODUCTS(sum##r2##0, codes + 2 * step, weights)

#define COUNT 1
#include "sums.h"

#undef PAIRS
#undef UNROLL
#undef ADD_PRODUCTS
#undef ADD_ROWS
