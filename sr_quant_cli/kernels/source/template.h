/* The kernels, compiled once for each instruction set. Before it is included, define:

   NAME(x)            x with the name of the instruction set
   LANES, VECTORS     32-bit sums in a vector; most vectors of outputs that are summed together
   PARTS              numbers that make up a weight
   vec, vecf, vecb    vectors of int32 [LANES], float [LANES] and bytes [BYTES]
   MULTIPLY(v)        multiplies LANES * QUAD numbers, as often in a second as can be
   and the operations below. Sums are those of dot.h or pairs.h.                               */

#include "kernels.h"

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

/* Calls a function of dot.h or pairs.h by its number of vectors, at most VECTORS. */
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
                sums + j * LANES, count * LANES);
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

/* Transforms the 4x4 pixels around `in`: V = B^T d B + shifts, [16][SRQ_TILES][width of V]. */
INLINE void NAME(transform)(const uint8_t *in, ptrdiff_t row, int step, int inputs, int wide,
                            const uint8_t *shifts, uint8_t *transformed)
{
    for (int c = 0; c < inputs; c += BYTES) {
        vecb d[4][4], e[4][4];
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < 4; x++)
                d[y][x] = LOADB(in + (y - 1) * row + (x - 1) * (ptrdiff_t)step + c);
        for (int x = 0; x < 4; x++) {
            e[0][x] = SUBB(d[0][x], d[2][x]);
            e[1][x] = ADDB(d[1][x], d[2][x]);
            e[2][x] = SUBB(d[2][x], d[1][x]);
            e[3][x] = SUBB(d[1][x], d[3][x]);
        }
        for (int y = 0; y < 4; y++) {
            uint8_t *v = transformed + y * 4 * SRQ_TILES * wide + c;
            const uint8_t *shift = shifts + y * 4;
            STOREB(v, ADDB(SUBB(e[y][0], e[y][2]), SPLATB(shift[0])));
            STOREB(v + SRQ_TILES * wide, ADDB(ADDB(e[y][1], e[y][2]), SPLATB(shift[1])));
            STOREB(v + 2 * SRQ_TILES * wide, ADDB(SUBB(e[y][2], e[y][1]), SPLATB(shift[2])));
            STOREB(v + 3 * SRQ_TILES * wide, ADDB(SUBB(e[y][1], e[y][3]), SPLATB(shift[3])));
        }
    }
}

/* Sums of two neighbours. */
typedef struct {
    vec left, right;
} NAME(pair);

/* Sums of a row of 2 pixels: r A, of the 4 sums r = A^T m that dot.h leaves. */
INLINE NAME(pair) NAME(untransform)(const int32_t *r)
{
    vec r0 = LOAD(r), r1 = LOAD(r + LANES), r2 = LOAD(r + 2 * LANES), r3 = LOAD(r + 3 * LANES);
    return (NAME(pair)){ADD(ADD(r0, r1), r2), SUB(SUB(r1, r2), r3)};
}

/* Stores the codes of a tile of 2x2 pixels, as far as they lie in `height` rows and `width`
   columns, of sums [count][2][4][LANES]. */
INLINE void NAME(finish_tile)(const srq_output *out, int steps, int count, const int32_t *sums,
                              const int32_t *start, int outputs, int c, int y, int x, int height,
                              int width)
{
    for (int i = 0; i < MIN(2, height - y); i++, sums += 4 * LANES, start += 2 * outputs) {
        NAME(pair) p0 = NAME(untransform)(sums), p1 = p0, p2 = p0, p3 = p0;
        if (count > 1) p1 = NAME(untransform)(sums + 8 * LANES);
        if (count > 2) p2 = NAME(untransform)(sums + 16 * LANES);
        if (count > 3) p3 = NAME(untransform)(sums + 24 * LANES);
        NAME(finish)(out, steps, count, p0.left, p1.left, p2.left, p3.left, start, c, y + i, x);
        if (x + 1 < width)
            NAME(finish)(out, steps, count, p0.right, p1.right, p2.right, p3.right,
                         start + outputs, c, y + i, x + 1);
    }
}

/* `count` vectors of outputs, from o, of SRQ_TILES transformed tiles from (y, x) on. */
INLINE void NAME(tiles)(const srq_conv *conv, const srq_output *out, int steps, int count, int o,
                        const uint8_t *transformed, int wide, int32_t *sums, int y, int x,
                        int height, int width)
{
    ptrdiff_t down = 4 * SRQ_TILES * wide;  /* to the next row of the transformed tiles */
    ptrdiff_t of_output = (ptrdiff_t)conv->inputs * PARTS;
    ptrdiff_t segment = conv->outputs * of_output;
    for (int k = 0; k < 4; k++)
        for (int t = 0; t < SRQ_TILES; t += SRQ_TILES / 2)
            for (int j = 0; j < count; j += VECTORS)
                SUMS_OF(column, MIN(VECTORS, count - j),
                        transformed + (k * SRQ_TILES + t) * wide, wide, down, conv->inputs,
                        conv->weights + k * segment + (o + j * LANES) * of_output,
                        4 * segment, sums + ((t * count + j) * 8 + k) * LANES, count * 8 * LANES,
                        4 * LANES, 8 * LANES);
    for (int t = 0; t < MIN(SRQ_TILES, (width - x + 1) / 2); t++)
        NAME(finish_tile)(out, steps, count, sums + t * count * 8 * LANES, conv->start,
                          conv->outputs, o, y, x + 2 * t, height, width);
}

INLINE void NAME(winograd)(const srq_conv *conv, const srq_output *out, int steps, const uint8_t *in,
                           ptrdiff_t in_row, int width, int first, int last, uint8_t *scratch)
{
    int inputs = conv->inputs, wide = ROUND_UP(inputs, BYTES);
    int32_t *sums = (int32_t *)(scratch + ROUND_UP(16 * SRQ_TILES * wide, 64));
    for (int y = first; y < last; y += 2)
        for (int x = 0; x < width; x += 2 * SRQ_TILES) {
            for (int t = 0; t < MIN(SRQ_TILES, (width - x + 1) / 2); t++)
                NAME(transform)(in + y * in_row + (ptrdiff_t)(x + 2 * t) * conv->in_stride, in_row,
                                conv->in_stride, inputs, wide, conv->shifts, scratch + t * wide);
            for (int o = 0; o < conv->outputs; o += GROUP * LANES)
                FOR_COUNT(NAME(tiles), MIN(GROUP, (conv->outputs - o) / LANES), conv, out, steps,
                          o, scratch, wide, sums, y, x, last, width)
        }
}

/* As many products as the processor can do, of numbers that stay in registers; see dot.h for why
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
#define RUN(steps)                                                                              \
    (conv.winograd ? NAME(winograd)(&conv, &out, steps, in, in_row, width, first, last, scratch) \
                   : NAME(direct)(&conv, &out, steps, in, in_row, width, first, last, scratch))
    if (out.slope || out.again || !out.codes)
        RUN(NAME(with_all));
    else if (out.skip)
        RUN(NAME(with_skip));
    else
        RUN(NAME(plain));
#undef RUN
}
