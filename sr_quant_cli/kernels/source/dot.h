/* Sums of products that fit 32 bits one by one: VNNI, and plain C. DOT(sum, code, weights) adds the
   products of QUAD codes with QUAD * LANES weights. */

#include "kernels.h"

#define PARTS 1
#define STEP QUAD
#ifndef MULTIPLY
#define MULTIPLY(v) DOT(v, v, v)
#endif

/* Clang unrolls well; GCC then moves sums to the stack. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL
#endif

#define ADD_PRODUCTS(r, code)                                  \
    {                                                          \
        vecc a = SPLAT_CODES(code);                            \
        sum##r##0 = DOT(sum##r##0, a, weight0);                \
        if (COUNT > 1) sum##r##1 = DOT(sum##r##1, a, weight1); \
        if (COUNT > 2) sum##r##2 = DOT(sum##r##2, a, weight2); \
        if (COUNT > 3) sum##r##3 = DOT(sum##r##3, a, weight3); \
    }
#define ADD_ROWS(r0, r1, r2, codes, weights)                                                    \
    {                                                                                           \
        vecw weight0 = LOADW(weights), weight1 = weight0, weight2 = weight0, weight3 = weight0; \
        if (COUNT > 1) weight1 = LOADW(weights + LANES * QUAD);                                 \
        if (COUNT > 2) weight2 = LOADW(weights + 2 * LANES * QUAD);                             \
        if (COUNT > 3) weight3 = LOADW(weights + 3 * LANES * QUAD);                             \
        ADD_PRODUCTS(r0, codes)                                                                 \
        ADD_PRODUCTS(r1, codes + step)                                                          \
        ADD_PRODUCTS(r2, codes + 2 * step)                                                      \
    }

#define COUNT 1
#include "sums.h"
#if VECTORS > 1
#define COUNT 2
#include "sums.h"
#endif
#if VECTORS > 2
#define COUNT 3
#include "sums.h"
#define COUNT 4
#include "sums.h"
#endif

#undef UNROLL
#undef ADD_PRODUCTS
#undef ADD_ROWS
