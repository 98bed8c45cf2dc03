/* Sums of products in 32 bits, for COUNT vectors of outputs. Included by dot.h and pairs.h, which
   define STEP and ADD_ROWS(r0, r1, r2, codes, weights): it adds the products of STEP codes of each of
   three pixels, `step` bytes apart, with the weights of COUNT vectors to the sums r0, r1 and r2. Every
   sum has a name, as compilers keep names in registers but not always elements of an array.

   window sums over the segments of a window, for 6 pixels `step` bytes apart, [6][COUNT].
   column sums over a column of `edge` transformed pixels, `down` bytes apart, for 3 tiles, and transforms
   the sums m by the A^T of kernels.h, [3 tiles][COUNT][edge - 2 rows][edge columns][LANES]:
       edge 4: m0 + m1 + m2,  m1 - m2 + m3
       edge 5: m0 + m1 + m2 + m3,  m1 - m2 + 2 m3,  m1 + m2 + 4 m3 + m4; m3 is in the second row before
   What m1, m2 and m3 leave goes on in its registers with m0 and the last one. */

#define FUNCTION_(name, count) NAME(name##count)
#define FUNCTION(name, count) FUNCTION_(name, count)

#define ZERO_SUMS(r) vec sum##r##0 = ZERO, sum##r##1 = ZERO, sum##r##2 = ZERO, sum##r##3 = ZERO;
#define ADD_ALL(codes, other, weights, other_weights)                                    \
    UNROLL                                                                               \
    for (int c = 0, w = 0; c < inputs; c += STEP, w += COUNT * LANES * STEP * PARTS) {   \
        ADD_ROWS(0, 1, 2, (codes) + c, (weights) + w)                                    \
        ADD_ROWS(3, 4, 5, (other) + c, (other_weights) + w)                              \
    }

/* f(sum of r, sum of s, where to keep the sum of r) for each vector; that is in tile r % 3, in `row`. */
#define AT(r, row, v) (sums + (r) % 3 * sums_tile + (row) * sums_row + (v) * sums_vector)
#define EACH(f, r, s, row)                                         \
    f(sum##r##0, sum##s##0, AT(r, row, 0))                         \
    if (COUNT > 1) f(sum##r##1, sum##s##1, AT(r, row, 1))          \
    if (COUNT > 2) f(sum##r##2, sum##s##2, AT(r, row, 2))          \
    if (COUNT > 3) f(sum##r##3, sum##s##3, AT(r, row, 3))
#define STORE_SUM(sum, same, at) STORE(at, sum);
#define KEEP(r, row) EACH(STORE_SUM, r, r, row)
#define BUTTERFLY(a, b, at) { vec s = ADD(a, b), d = SUB(a, b); a = s; b = d; }
/* m1, m2, and m3 in memory: stores the row in the middle; a and b go on as the two others. */
#define SPREAD(a, b, at)                                       \
    {                                                          \
        vec m3 = LOAD(at), twice = ADD(m3, m3);                \
        vec s = ADD(a, b), d = SUB(a, b);                      \
        STORE(at, ADD(d, twice));                              \
        a = ADD(s, m3);                                        \
        b = ADD(s, ADD(twice, twice));                         \
    }

static NOINLINE void FUNCTION(window, COUNT)(const uint8_t *codes, ptrdiff_t step,
                                             const ptrdiff_t *offsets, int segments, int inputs,
                                             const int8_t *weights, ptrdiff_t segment, int32_t *sums,
                                             int sums_tile, int sums_vector)
{
    const int sums_row = 3 * sums_tile;
    ZERO_SUMS(0) ZERO_SUMS(1) ZERO_SUMS(2) ZERO_SUMS(3) ZERO_SUMS(4) ZERO_SUMS(5)
    for (int s = 0; s < segments; s++) {
        const uint8_t *code = codes + offsets[s], *other = code + 3 * step;
        const int8_t *weight = weights + s * segment;
        ADD_ALL(code, other, weight, weight)
    }
    KEEP(0, 0) KEEP(1, 0) KEEP(2, 0) KEEP(3, 1) KEEP(4, 1) KEEP(5, 1)
}

static NOINLINE void FUNCTION(column, COUNT)(const uint8_t *codes, ptrdiff_t step, ptrdiff_t down,
                                             int edge, int inputs, const int8_t *weights,
                                             ptrdiff_t segment, int32_t *sums, int sums_tile)
{
    const int sums_row = edge * LANES, sums_vector = (edge - 2) * sums_row, last = edge - 1;
    ZERO_SUMS(0) ZERO_SUMS(1) ZERO_SUMS(2) ZERO_SUMS(3) ZERO_SUMS(4) ZERO_SUMS(5)
    ADD_ALL(codes + down, codes + 2 * down, weights + segment, weights + 2 * segment)
    if (edge == 4) {
        EACH(BUTTERFLY, 0, 3, 0) EACH(BUTTERFLY, 1, 4, 0) EACH(BUTTERFLY, 2, 5, 0)
    } else {
        EACH(SPREAD, 0, 3, 1) EACH(SPREAD, 1, 4, 1) EACH(SPREAD, 2, 5, 1)
    }
    ADD_ALL(codes, codes + last * down, weights, weights + last * segment)
    KEEP(0, 0) KEEP(1, 0) KEEP(2, 0) KEEP(3, edge - 3) KEEP(4, edge - 3) KEEP(5, edge - 3)
}

#undef FUNCTION_
#undef FUNCTION
#undef ZERO_SUMS
#undef ADD_ALL
#undef AT
#undef EACH
#undef STORE_SUM
#undef KEEP
#undef BUTTERFLY
#undef SPREAD
#undef COUNT
