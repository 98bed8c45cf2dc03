/* The kernels, compiled once for each instruction set. Before it is included, define:

   NAME(x)            x with the name of the instruction set
   LANES, VECTORS     32-bit sums in a vector; most vectors of outputs that are summed together
   PARTS              numbers that make up a weight
   vec, vecf, vecb    vectors of int32 [LANES], float [LANES] and bytes [BYTES]
   MULTIPLY(v)        multiplies LANES * QUAD numbers, as often in a second as can be
   and the operations below. Sums are those of sums.h, by dot.h or pairs.h.                              */

#include "kernels.h"

/* Before loops of a constant length, whose variables become registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 5")
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define ROUND_UP(n, m) (((n) + (m) - 1) / (m) * (m))

/* Vectors of outputs whose codes are stored together. */
#define GROUP 4

/* Calls a function that is compiled for each number of vectors; outputs are multiples of 16. */
#define FOR_COUNT(function, count, conv, out, steps, ...)                       \
    switch (count) {                                                            \
    case 4: function(conv, out, steps, 4, __VA_ARGS__); break;                  \
    case 2: function(conv, out, steps, 2, __VA_ARGS__); break;                  \
    case 3: if (LANES == 16) function(conv, out, steps, 3, __VA_ARGS__); break; \
    case 1: if (LANES == 16) function(conv, out, steps, 1, __VA_ARGS__); break; \
    }

/* Calls a function of sums.h by its number of vectors, at most VECTORS. */
#if VECTORS == 1
#define SUMS_OF(function, count, ...) NAME(function##1)(__VA_ARGS__)
#elif VECTORS == 2
#define SUMS_OF(function, count, ...) \
    ((count) == 1 ? NAME(function##1)(__VA_ARGS__) : NAME(function##2)(__VA_ARGS__))
#else
#define SUMS_OF(function, count, ...)                \
    ((count) == 1   ? NAME(function##1)(__VA_ARGS__) \
     : (count) == 2 ? NAME(function##2)(__VA_ARGS__) \
     : (count) == 3 ? NAME(function##3)(__VA_ARGS__) \
                    : NAME(function##4)(__VA_ARGS__))
#endif

/* The steps of srq_output that a kernel is compiled for. */
enum { NAME(plain), NAME(with_skip), NAME(with_all) };

/* Codes of LANES outputs, from c; plain ones are clipped later, as bytes. */
INLINE vec NAME(code)(const srq_output *out, int steps, vec sum, const int32_t *start, int c,
                      const uint8_t *skip)
{
    vecf v = TO_FLOAT(ADD(sum, LOAD(start + c)));
    v = FMA(v, LOADF(out->scale + c), LOADF(out->bias + c));
    if (steps == NAME(plain))
        return ROUND(v);
    if (steps == NAME(with_all) && out->slope)
        v = ADDF(SLOPED(v, LOADF(out->slope + c)), SPLATF(out->zero));
    vec code = ROUND(CLIP(v, SPLATF(out->low), SPLATF(out->high)));
    if (!skip)
        return code;
    vecf both = FMA(TO_FLOAT(LOAD_CODES(skip + c)), SPLATF(out->other), SPLATF(out->constant));
    both = FMA(TO_FLOAT(code), SPLATF(out->own), both);
    return ROUND(CLIP(both, SPLATF(out->skip_low), SPLATF(out->skip_high)));
}

/* The same codes in the other range, to be clipped. */
INLINE vec NAME(recoded)(const srq_output *out, vec code, int c)
{
    return ROUND(FMA(TO_FLOAT(code), SPLATF(out->again_scale), LOADF(out->again_bias + c)));
}

/* Stores the codes of `count` vectors of outputs, from c, of the pixel x of the row y. */
INLINE void NAME(finish)(const srq_output *out, int steps, int count, vec sum0, vec sum1, vec sum2,
                         vec sum3, const int32_t *start, int c, int y, int x)
{
    const uint8_t *skip = NULL;
    if (steps != NAME(plain) && out->skip)
        skip = out->skip + y * out->skip_stride + x * out->skip_step;
    vec code0 = NAME(code)(out, steps, sum0, start, c, skip);
    vec code1 = code0, code2 = code0, code3 = code0;
    if (count > 1) code1 = NAME(code)(out, steps, sum1, start, c + LANES, skip);
    if (count > 2) code2 = NAME(code)(out, steps, sum2, start, c + 2 * LANES, skip);
    if (count > 3) code3 = NAME(code)(out, steps, sum3, start, c + 3 * LANES, skip);
    if (steps != NAME(with_all) || out->codes) {
        vecb codes = PACK(code0, code1, code2, code3);
        if (steps == NAME(plain))
            codes = CLIPB(codes, SPLATB(out->low), SPLATB(out->high));
        STORE_PART(out->codes + y * out->stride + x * out->step + c, codes, count);
    }
    if (steps == NAME(with_all) && out->again) {
        code0 = NAME(recoded)(out, code0, c);
        if (count > 1) code1 = NAME(recoded)(out, code1, c + LANES);
        if (count > 2) code2 = NAME(recoded)(out, code2, c + 2 * LANES);
        if (count > 3) code3 = NAME(recoded)(out, code3, c + 3 * LANES);
        vecb codes = PACK(code0, code1, code2, code3);
        codes = CLIPB(codes, SPLATB(out->again_low), SPLATB(out->again_high));
        STORE_PART(out->again + y * out->again_stride + x * out->again_step + c, codes, count);
    }
}

/* `count` vectors of outputs, from o, of SRQ_TILES pixels from (y, x) on. */
INLINE void NAME(pixels)(const srq_conv *conv, const srq_output *out, int steps, int count, int o,
                         const uint8_t *in, int32_t *sums, int y, int x, int width)
{
    ptrdiff_t of_output = (ptrdiff_t)conv->inputs * PARTS;  /* weights of an output, in a segment */
    for (int j = 0; j < count; j += VECTORS)
        SUMS_OF(window, MIN(VECTORS, count - j), in, conv->in_stride, conv->offsets,
                conv->segments, conv->inputs,
                conv->weights + (o + j * LANES) * of_output, conv->outputs * of_output,
                sums + j * LANES, count * LANES, LANES);
    for (int t = 0; t < MIN(SRQ_TILES, width - x); t++) {
        const int32_t *sum = sums + t * count * LANES;
        NAME(finish)(out, steps, count, LOAD(sum), LOAD(sum + LANES), LOAD(sum + 2 * LANES),
                     LOAD(sum + 3 * LANES), conv->start, o, y, x + t);
    }
}

INLINE void NAME(direct)(const srq_conv *conv, const srq_output *out, int steps, const uint8_t *in,
                         ptrdiff_t in_row, int width, int first, int last, uint8_t *scratch)
{
    for (int y = first; y < last; y++)
        for (int x = 0; x < width; x += SRQ_TILES) {
            const uint8_t *codes = in + y * in_row + (ptrdiff_t)x * conv->in_stride;
            for (int o = 0; o < conv->outputs; o += GROUP * LANES)
                FOR_COUNT(NAME(pixels), MIN(GROUP, (conv->outputs - o) / LANES), conv, out, steps,
                          o, codes, (int32_t *)scratch, y, x, width)
        }
}

/* B^T d of a column or row of `edge` bytes, 4 or 5, in place; see kernels.h. */
INLINE void NAME(transform)(int edge, vecb *d)
{
    vecb d3_d1 = SUBB(d[3], d[1]), d0_d2 = SUBB(d[0], d[2]), sum = ADDB(d[1], d[2]);
    if (edge == 4) {
        d[0] = d0_d2;
        d[2] = SUBB(d[2], d[1]);
        d[1] = sum;
        d[3] = d3_d1;
    } else {
        vecb d1_d2 = SUBB(d[1], d[2]), d4_d2 = SUBB(d[4], d[2]);
        d[0] = ADDB(ADDB(d0_d2, d0_d2), d3_d1);
        d[1] = SUBB(d3_d1, sum);
        d[2] = ADDB(ADDB(d1_d2, ADDB(d1_d2, d1_d2)), d3_d1);
        d[3] = d3_d1;
        d[4] = SUBB(d4_d2, ADDB(d3_d1, d3_d1));
    }
}

/* Transforms the tile around `in`: V = B^T d B + shifts, [edge][edge][SRQ_TILES][width of V]. */
INLINE void NAME(transform_tile)(int edge, const uint8_t *in, ptrdiff_t row, int step, int inputs,
                                 int wide, const uint8_t *shifts, uint8_t *transformed)
{
    for (int c = 0; c < inputs; c += BYTES) {
        vecb d[5][5], e[5];  /* d[x][y] */
        UNROLL for (int y = 0; y < edge; y++)
            UNROLL for (int x = 0; x < edge; x++)
                d[x][y] = LOADB(in + (y - 1) * row + (x - 1) * (ptrdiff_t)step + c);
        UNROLL for (int x = 0; x < edge; x++)
            NAME(transform)(edge, d[x]);
        UNROLL for (int y = 0; y < edge; y++) {
            uint8_t *v = transformed + y * edge * SRQ_TILES * wide + c;
            UNROLL for (int x = 0; x < edge; x++)
                e[x] = d[x][y];
            NAME(transform)(edge, e);
            UNROLL for (int x = 0; x < edge; x++)
                STOREB(v + x * SRQ_TILES * wide, ADDB(e[x], SPLATB(shifts[y * edge + x])));
        }
    }
}

/* In functions of their own, so that compilers keep their addresses in registers. */
static NOINLINE void NAME(transform4x4)(const uint8_t *in, ptrdiff_t row, int step, int inputs,
                                        int wide, const uint8_t *shifts, uint8_t *transformed)
{
    NAME(transform_tile)(4, in, row, step, inputs, wide, shifts, transformed);
}

static NOINLINE void NAME(transform5x5)(const uint8_t *in, ptrdiff_t row, int step, int inputs,
                                        int wide, const uint8_t *shifts, uint8_t *transformed)
{
    NAME(transform_tile)(5, in, row, step, inputs, wide, shifts, transformed);
}

/* Sums of 2 or 3 pixels of a row. */
typedef struct {
    vec pixel[3];
} NAME(row);

/* r C of the sums r = A^T m that sums.h leaves for a row of a tile; see kernels.h. */
INLINE NAME(row) NAME(untransform)(int tile, const int32_t *r)
{
    vec r0 = LOAD(r), r1 = LOAD(r + LANES), r2 = LOAD(r + 2 * LANES), r3 = LOAD(r + 3 * LANES);
    if (tile == 2)
        return (NAME(row)){{ADD(ADD(r0, r1), r2), ADD(SUB(r1, r2), r3)}};
    r1 = ADD(r1, ADD(r1, r1));
    vec sum = ADD(r1, r2), twice = ADD(r3, r3), more = ADD(twice, LOAD(r + 4 * LANES));
    return (NAME(row)){{ADD(ADD(r0, r3), sum), ADD(SUB(r1, r2), twice), ADD(sum, ADD(more, more))}};
}

/* Stores the codes of a tile, as far as they lie in `height` rows and `width` columns, of sums
   [count][tile][edge][LANES]. */
INLINE void NAME(finish_tile)(const srq_output *out, int steps, int count, int tile,
                              const int32_t *sums, const int32_t *start, int outputs, int c, int y,
                              int x, int height, int width)
{
    const int row = (tile + 2) * LANES, vector = tile * row;
    for (int i = 0; i < MIN(tile, height - y); i++, sums += row, start += tile * outputs) {
        NAME(row) p0 = NAME(untransform)(tile, sums), p1 = p0, p2 = p0, p3 = p0;
        if (count > 1) p1 = NAME(untransform)(tile, sums + vector);
        if (count > 2) p2 = NAME(untransform)(tile, sums + 2 * vector);
        if (count > 3) p3 = NAME(untransform)(tile, sums + 3 * vector);
        UNROLL for (int j = 0; j < tile; j++)
            if (x + j < width)
                NAME(finish)(out, steps, count, p0.pixel[j], p1.pixel[j], p2.pixel[j], p3.pixel[j],
                             start + j * outputs, c, y + i, x + j);
    }
}

/* `count` vectors of outputs, from o, of SRQ_TILES transformed tiles from (y, x) on. */
INLINE void NAME(tiles)(const srq_conv *conv, const srq_output *out, int steps, int count, int tile,
                        int o, const uint8_t *transformed, int wide, int32_t *sums, int y, int x,
                        int height, int width)
{
    const int edge = tile + 2, row = edge * LANES, vector = tile * row;
    ptrdiff_t down = edge * SRQ_TILES * wide;  /* to the next row of the transformed tiles */
    ptrdiff_t of_output = (ptrdiff_t)conv->inputs * PARTS;
    ptrdiff_t segment = conv->outputs * of_output;
    const ptrdiff_t here = 0;
    for (int k = 0; k < edge; k++)
        for (int j = 0; j < count; j += VECTORS) {
            const uint8_t *codes = transformed + k * SRQ_TILES * wide;
            const int8_t *weights = conv->weights + k * segment + (o + j * LANES) * of_output;
            int32_t *to = sums + j * vector + k * LANES;
            if (tile == 3)  /* m3 of all tiles, where `column` takes it from */
                SUMS_OF(window, MIN(VECTORS, count - j), codes + 3 * down, wide, &here, 1,
                        conv->inputs, weights + 3 * edge * segment, 0, to + row, count * vector,
                        vector);
            for (int t = 0; t < SRQ_TILES; t += SRQ_TILES / 2)
                SUMS_OF(column, MIN(VECTORS, count - j), codes + t * wide, wide, down, edge,
                        conv->inputs, weights, edge * segment, to + t * count * vector,
                        count * vector);
        }
    for (int t = 0; t < MIN(SRQ_TILES, (width - x + tile - 1) / tile); t++)
        NAME(finish_tile)(out, steps, count, tile, sums + t * count * vector, conv->start,
                          conv->outputs, o, y, x + t * tile, height, width);
}

INLINE void NAME(winograd)(const srq_conv *conv, const srq_output *out, int steps, int tile,
                           const uint8_t *in, ptrdiff_t in_row, int width, int first, int last,
                           uint8_t *scratch)
{
    const int edge = tile + 2, step = conv->in_stride;
    int inputs = conv->inputs, wide = ROUND_UP(inputs, BYTES);
    int32_t *sums = (int32_t *)(scratch + ROUND_UP(edge * edge * SRQ_TILES * wide, 64));
    for (int y = first; y < last; y += tile)
        for (int x = 0; x < width; x += tile * SRQ_TILES) {
            for (int t = 0; t < MIN(SRQ_TILES, (width - x + tile - 1) / tile); t++) {
                const uint8_t *codes = in + y * in_row + (ptrdiff_t)(x + t * tile) * step;
                (tile == 2 ? NAME(transform4x4) : NAME(transform5x5))(
                    codes, in_row, step, inputs, wide, conv->shifts, scratch + t * wide);
            }
            for (int o = 0; o < conv->outputs; o += GROUP * LANES)
                FOR_COUNT(NAME(tiles), MIN(GROUP, (conv->outputs - o) / LANES), conv, out, steps,
                          tile, o, scratch, wide, sums, y, x, last, width)
        }
}

/* As many products as the processor can do, of numbers that stay in registers; see sums.h for why
   each sum has a name. */
#define CHAINS(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define START(i) vec sum##i = ZERO;
#define EXTEND(i)                             \
    sum##i = MULTIPLY(sum##i);                \
    __asm__ volatile("" : KEPT(sum##i)); /* neither removed nor moved */
#define COUNT_CHAIN(i) +1
static int64_t NAME(peak)(int64_t rounds)
{
    CHAINS(START)
    for (int64_t round = 0; round < rounds; round++) {
        CHAINS(EXTEND)
    }
    return rounds * (CHAINS(COUNT_CHAIN)) * LANES * QUAD;
}

static void NAME(run)(const srq_conv *given, const srq_output *to, const uint8_t *in,
                      ptrdiff_t in_row, int32_t width, int32_t first, int32_t last, uint8_t *scratch)
{
    /* Copies, which stores of codes cannot change. */
    const srq_conv conv = *given;
    const srq_output out = *to;
#define WHERE in, in_row, width, first, last, scratch
#define RUN(steps)                                                  \
    (conv.tile == 2   ? NAME(winograd)(&conv, &out, steps, 2, WHERE) \
     : conv.tile == 3 ? NAME(winograd)(&conv, &out, steps, 3, WHERE) \
                      : NAME(direct)(&conv, &out, steps, WHERE))
    if (out.slope || out.again || !out.codes)
        RUN(NAME(with_all));
    else if (out.skip)
        RUN(NAME(with_skip));
    else
        RUN(NAME(plain));
#undef RUN
#undef WHERE
}
