/* The kernels, compiled once for each instruction set. Before it is included, define:

   NAME(x)            x with the name of the instruction set
   LANES, VECTORS     32-bit sums in a vector; most vectors of outputs that are summed together
   vec, vecf, vecb    vectors of int32 [LANES], float [LANES] and bytes [BYTES]
   and the operations below. DOT computes the sums: see dot.h and pairs.h.                     */

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define ROUND_UP(n, m) (((n) + (m) - 1) / (m) * (m))

/* The steps of srq_output that a kernel is compiled for. */
enum { NAME(plain), NAME(with_skip), NAME(with_all) };

/* Stores the codes of LANES output channels, from c, of the pixel x of the row y. */
INLINE void NAME(finish)(const srq_output *out, int steps, vec sum, int c, int y, int x)
{
    vecf v = FMA(TO_FLOAT(sum), LOADF(out->scale + c), LOADF(out->bias + c));
    if (steps == NAME(with_all) && out->slope)
        v = ADDF(SLOPED(v, LOADF(out->slope + c)), SPLATF(out->zero));
    vec code = ROUND(CLIP(v, SPLATF(out->low), SPLATF(out->high)));
    if (steps != NAME(plain) && out->skip) {
        vec skip = LOAD_CODES(out->skip + y * out->skip_stride + x * out->skip_step + c);
        vecf both = FMA(TO_FLOAT(skip), SPLATF(out->other), SPLATF(out->constant));
        both = FMA(TO_FLOAT(code), SPLATF(out->own), both);
        code = ROUND(CLIP(both, SPLATF(out->skip_low), SPLATF(out->skip_high)));
    }
    if (steps != NAME(with_all) || out->codes)
        STORE_CODES(out->codes + y * out->stride + x * out->step + c, code);
    if (steps == NAME(with_all) && out->again) {
        vecf again = FMA(TO_FLOAT(code), SPLATF(out->again_scale), LOADF(out->again_bias + c));
        code = ROUND(CLIP(again, SPLATF(out->again_low), SPLATF(out->again_high)));
        STORE_CODES(out->again + y * out->again_stride + x * out->again_step + c, code);
    }
}

/* Sums of `count` vectors of outputs for SRQ_TILES rows of codes: `sums` [SRQ_TILES][count][LANES].
   Row t begins at codes + t * step; segment s lies at offsets[s] in it. */
static void NAME(sums)(const uint8_t *codes, ptrdiff_t step, const ptrdiff_t *offsets, int segments,
                       int inputs, const int8_t *weights, ptrdiff_t weights_step, int count,
                       const int32_t *start, int32_t *sums, int sums_step)
{
    switch (count) {
    case 1: NAME(dot1)(codes, step, offsets, segments, inputs, weights, weights_step, start, sums, sums_step); break;
#if VECTORS > 1
    case 2: NAME(dot2)(codes, step, offsets, segments, inputs, weights, weights_step, start, sums, sums_step); break;
#endif
#if VECTORS > 2
    case 3: NAME(dot3)(codes, step, offsets, segments, inputs, weights, weights_step, start, sums, sums_step); break;
    case 4: NAME(dot4)(codes, step, offsets, segments, inputs, weights, weights_step, start, sums, sums_step); break;
#endif
    }
}

INLINE void NAME(direct)(const srq_conv *conv, const srq_output *out, int steps, const uint8_t *in,
                         ptrdiff_t in_row, int width, int first, int last, uint8_t *scratch)
{
    int32_t *sums = (int32_t *)scratch;
    ptrdiff_t segment = (ptrdiff_t)conv->inputs * conv->outputs;
    for (int y = first; y < last; y++)
        for (int o = 0; o < conv->outputs; o += VECTORS * LANES) {
            int count = MIN(VECTORS, (conv->outputs - o) / LANES);
            for (int x = 0; x < width; x += SRQ_TILES) {
                NAME(sums)(in + y * in_row + (ptrdiff_t)x * conv->in_stride, conv->in_stride,
                           conv->offsets, conv->segments, conv->inputs,
                           conv->weights + (ptrdiff_t)o * conv->inputs, segment, count,
                           conv->start + o, sums, LANES);
                for (int t = 0; t < MIN(SRQ_TILES, width - x); t++)
                    for (int j = 0; j < count; j++)
                        NAME(finish)(out, steps, LOAD(sums + (t * count + j) * LANES), o + j * LANES, y, x + t);
            }
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

/* Transforms 16 sums back, A^T m A, and stores the codes of 2x2 pixels inside the picture. */
INLINE void NAME(untransform)(const srq_output *out, int steps, const int32_t *sums, int c, int y, int x,
                              int height, int width)
{
    vec r[2][4];
    for (int k = 0; k < 4; k++) {
        vec a = LOAD(sums + k * LANES), b = LOAD(sums + (4 + k) * LANES);
        vec d = LOAD(sums + (8 + k) * LANES), e = LOAD(sums + (12 + k) * LANES);
        r[0][k] = ADD(a, ADD(b, d));
        r[1][k] = SUB(SUB(b, d), e);
    }
    for (int i = 0; i < MIN(2, height - y); i++) {
        NAME(finish)(out, steps, ADD(r[i][0], ADD(r[i][1], r[i][2])), c, y + i, x);
        if (x + 1 < width)
            NAME(finish)(out, steps, SUB(SUB(r[i][1], r[i][2]), r[i][3]), c, y + i, x + 1);
    }
}

INLINE void NAME(winograd)(const srq_conv *conv, const srq_output *out, int steps, const uint8_t *in,
                           ptrdiff_t in_row, int width, int first, int last, uint8_t *scratch)
{
    static const ptrdiff_t none = 0;
    int inputs = conv->inputs, wide = ROUND_UP(inputs, BYTES);
    uint8_t *transformed = scratch;
    int32_t *sums = (int32_t *)(scratch + ROUND_UP(16 * SRQ_TILES * wide, 64));
    ptrdiff_t segment = (ptrdiff_t)inputs * conv->outputs;
    for (int y = first; y < last; y += 2)
        for (int x = 0; x < width; x += 2 * SRQ_TILES) {
            int tiles = MIN(SRQ_TILES, (width - x + 1) / 2);
            for (int t = 0; t < tiles; t++)
                NAME(transform)(in + y * in_row + (ptrdiff_t)(x + 2 * t) * conv->in_stride, in_row,
                                conv->in_stride, inputs, wide, conv->shifts, transformed + t * wide);
            for (int o = 0; o < conv->outputs; o += VECTORS * LANES) {
                int count = MIN(VECTORS, (conv->outputs - o) / LANES);
                for (int k = 0; k < 16; k++)
                    NAME(sums)(transformed + k * SRQ_TILES * wide, wide, &none, 1, inputs,
                               conv->weights + k * segment + (ptrdiff_t)o * inputs, 0, count,
                               conv->start + k * conv->outputs + o, sums + k * LANES, 16 * LANES);
                for (int t = 0; t < tiles; t++)
                    for (int j = 0; j < count; j++)
                        NAME(untransform)(out, steps, sums + (t * count + j) * 16 * LANES, o + j * LANES, y,
                                          x + 2 * t, last, width);
            }
        }
}

static void NAME(run)(const srq_conv *conv, const srq_output *out, const uint8_t *in,
                      ptrdiff_t in_row, int32_t width, int32_t first, int32_t last, uint8_t *scratch)
{
#define RUN(steps)                                                                          \
    (conv->winograd ? NAME(winograd)(conv, out, steps, in, in_row, width, first, last, scratch) \
                    : NAME(direct)(conv, out, steps, in, in_row, width, first, last, scratch))
    if (out->slope || out->again || !out->codes)
        RUN(NAME(with_all));
    else if (out->skip)
        RUN(NAME(with_skip));
    else
        RUN(NAME(plain));
#undef RUN
}
