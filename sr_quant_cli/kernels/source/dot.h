/* Sums of products that fit 32 bits one by one: VNNI, and plain C. Included once for each COUNT of
   vectors. DOT(sum, code, weights) adds the products of QUAD codes with QUAD * LANES weights. Every
   sum has a name, as compilers keep names in registers but not always elements of an array.

   WINDOW_NAME sums over the segments of a window, for 6 pixels `step` bytes apart, [6][COUNT].
   COLUMN_NAME sums over a column of 4 transformed pixels, `down` bytes apart, for 3 tiles, and
   transforms the sums m0, m1, m2, m3 at once: m0 + m1 + m2 and m1 - m2 - m3, [3 tiles][2][COUNT].
   Half of each is summed first and goes on in its registers; weights of m3 come negated. */

#define ZERO_SUMS(r) vec sum##r##0 = ZERO, sum##r##1 = ZERO, sum##r##2 = ZERO, sum##r##3 = ZERO;
#define ADD_PRODUCTS(r, code)                                  \
    {                                                          \
        vecc a = SPLAT_CODES(code);                            \
        sum##r##0 = DOT(sum##r##0, a, weight0);                \
        if (COUNT > 1) sum##r##1 = DOT(sum##r##1, a, weight1); \
        if (COUNT > 2) sum##r##2 = DOT(sum##r##2, a, weight2); \
        if (COUNT > 3) sum##r##3 = DOT(sum##r##3, a, weight3); \
    }
#define ADD_ROWS(r0, r1, r2, codes, weights)                               \
    {                                                                      \
        vecw weight0 = LOADW(weights), weight1 = weight0, weight2 = weight0, weight3 = weight0; \
        if (COUNT > 1) weight1 = LOADW(weights + LANES * QUAD);            \
        if (COUNT > 2) weight2 = LOADW(weights + 2 * LANES * QUAD);        \
        if (COUNT > 3) weight3 = LOADW(weights + 3 * LANES * QUAD);        \
        ADD_PRODUCTS(r0, codes)                                            \
        ADD_PRODUCTS(r1, codes + step)                                     \
        ADD_PRODUCTS(r2, codes + 2 * step)                                 \
    }
#define ADD_ALL(code, other, weight, other_weight)                         \
    UNROLL                                                                      \
    for (int c = 0, w = 0; c < inputs; c += QUAD, w += COUNT * LANES * QUAD) { \
        ADD_ROWS(0, 1, 2, code + c, weight + w)                            \
        ADD_ROWS(3, 4, 5, other + c, other_weight + w)                     \
    }
#define BUTTERFLY(a, b) { vec s = ADD(a, b), d = SUB(a, b); a = s; b = d; }
#define BUTTERFLIES(r, s)                                  \
    BUTTERFLY(sum##r##0, sum##s##0)                        \
    if (COUNT > 1) BUTTERFLY(sum##r##1, sum##s##1)         \
    if (COUNT > 2) BUTTERFLY(sum##r##2, sum##s##2)         \
    if (COUNT > 3) BUTTERFLY(sum##r##3, sum##s##3)
#define KEEP(r)                                                          \
    {                                                                    \
        int32_t *at = sums + (r) % 3 * sums_tile + (r) / 3 * sums_row;   \
        STORE(at, sum##r##0);                                            \
        if (COUNT > 1) STORE(at + sums_vector, sum##r##1);               \
        if (COUNT > 2) STORE(at + 2 * sums_vector, sum##r##2);           \
        if (COUNT > 3) STORE(at + 3 * sums_vector, sum##r##3);           \
    }

/* Clang unrolls well; GCC then moves sums to the stack. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL
#endif

static NOINLINE void WINDOW_NAME(const uint8_t *codes, ptrdiff_t step, const ptrdiff_t *offsets,
                                 int segments, int inputs, const int8_t *weights, ptrdiff_t segment,
                                 int32_t *sums, int sums_tile)
{
    const int sums_row = 3 * sums_tile, sums_vector = LANES;
    ZERO_SUMS(0) ZERO_SUMS(1) ZERO_SUMS(2) ZERO_SUMS(3) ZERO_SUMS(4) ZERO_SUMS(5)
    for (int s = 0; s < segments; s++) {
        const uint8_t *code = codes + offsets[s], *other = code + 3 * step;
        const int8_t *weight = weights + s * segment;
        ADD_ALL(code, other, weight, weight)
    }
    KEEP(0) KEEP(1) KEEP(2) KEEP(3) KEEP(4) KEEP(5)
}

static NOINLINE void COLUMN_NAME(const uint8_t *codes, ptrdiff_t step, ptrdiff_t down, int inputs,
                                 const int8_t *weights, ptrdiff_t segment, int32_t *sums,
                                 int sums_tile, int sums_row, int sums_vector)
{
    ZERO_SUMS(0) ZERO_SUMS(1) ZERO_SUMS(2) ZERO_SUMS(3) ZERO_SUMS(4) ZERO_SUMS(5)
    ADD_ALL((codes + down), (codes + 2 * down), (weights + segment), (weights + 2 * segment))
    BUTTERFLIES(0, 3) BUTTERFLIES(1, 4) BUTTERFLIES(2, 5)
    ADD_ALL(codes, (codes + 3 * down), weights, (weights + 3 * segment))
    KEEP(0) KEEP(1) KEEP(2) KEEP(3) KEEP(4) KEEP(5)
}

#undef ZERO_SUMS
#undef ADD_PRODUCTS
#undef ADD_ROWS
#undef ADD_ALL
#undef BUTTERFLY
#undef BUTTERFLIES
#undef KEEP
#undef UNROLL
#undef WINDOW_NAME
#undef COLUMN_NAME
#undef COUNT
