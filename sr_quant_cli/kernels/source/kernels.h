/* Convolutions of 8-bit codes on integers, and the steps between them.

   Pictures of codes are uint8, rows of pixels of `channels` bytes, a multiple of 16, with a border
   of `pad` pixels on every side that holds the code of zero. `stride` is the number of bytes from
   one row to the next. Pointers point at the first pixel inside the border.

   A convolution sums u8 codes times s8 weights in 32 bits. From the sum of output channel c follows
       v = scale[c] * sum + bias[c];  v = v < 0 ? slope[c] * v : v;
       code = clip(rint(v + zero), low, high)
   and, where there is a second picture,
       code = clip(rint(own * code + other * skip + constant), skip_low, skip_high)
   rint rounds half to even; v must fit 32 bits. The code may be stored once more, as codes of another range:
       again = clip(rint(again_scale * code + again_bias[c]), again_low, again_high)            */

#ifndef SRQ_KERNELS_H
#define SRQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

#ifdef _WIN32
#define SRQ_API __declspec(dllexport)
#else
#define SRQ_API __attribute__((visibility("default")))
#endif

/* Raised whenever a structure or a function changes, so that Python does not call an older library. */
#define SRQ_LAYOUT 3

/* Weights of one convolution, packed for one instruction set.

   Direct: a segment for each tap of the window; `offsets` are relative to the pixel of the output.
   Winograd F(2x2,3x3) and F(3x3,3x3): tiles of 2x2 or 3x3 pixels of the output, from 4x4 or 5x5 pixels
   of the input, whose transform has one segment for each. For weights g and codes d of a tile,
       V = B^T d B,  U = G g H^T,  A^T (sum over input channels of U * V) C
   is 4 or 36 times the convolution, exactly, with the integer matrices
       F(2x2,3x3)  B^T = [1  0 -1  0]    G = H = [2  0  0]    A^T = C^T = [1  1  1  0]
                         [0  1  1  0]            [1  1  1]                [0  1 -1  1]
                         [0 -1  1  0]            [1 -1  1]
                         [0 -1  0  1]            [0  0  2]
       F(3x3,3x3)  B^T = [2 -1 -2  1  0]   G = [ 3  0  0]   A^T = [1  1  1  1  0]
                         [0 -2 -1  1  0]       [-3 -3 -3]         [0  1 -1  2  0]
                         [0  2 -3  1  0]       [-1  1 -1]         [0  1  1  4  1]
                         [0 -1  0  1  0]       [ 1  2  4]
                         [0  2 -1 -2  1]       [ 0  0  6]
           H = G but for [-1 -1 -1] and [0 0 3], whose factors 3 and 2 are in columns of C^T = A^T:
                                           [1 3 1 1 0], [0 3 -1 2 0], [0 3 1 4 2]
   F(2x2,3x3) evaluates polynomials at 0, 1, -1 and infinity, F(3x3,3x3) at 2, too. Every U must fit a
   signed byte, and every V an unsigned one: V is made non-negative by `shifts`, whose products with
   the weights `start` takes away. */
typedef struct {
    int32_t tile;                /* side of Winograd's tile of outputs, 2 or 3; 0: direct */
    int32_t segments;
    int32_t inputs, outputs;     /* channels, multiples of 16 */
    int32_t in_stride;           /* bytes from one input pixel to the next */
    const ptrdiff_t *offsets;    /* [segments], in bytes; direct only */
    const uint8_t *shifts;       /* [segments]; Winograd only */
    const int8_t *weights;       /* packed by packing.py */
    const int32_t *start;        /* added to the sums: [outputs]; Winograd: [tile, tile, outputs] */
} srq_conv;

typedef struct {
    const float *scale, *bias;   /* [outputs] */
    const float *slope;          /* [outputs], or null */
    float zero, low, high;
    const uint8_t *skip;         /* null: there is none */
    ptrdiff_t skip_stride;
    int32_t skip_step;           /* bytes from one pixel to the next */
    float own, other, constant, skip_low, skip_high;
    uint8_t *codes;              /* null: only `again` is stored */
    ptrdiff_t stride;
    int32_t step;
    uint8_t *again;              /* null: nothing is stored again */
    ptrdiff_t again_stride;
    int32_t again_step;
    float again_scale, again_low, again_high;
    const float *again_bias;     /* [outputs] */
} srq_output;

/* Rows `first` to `last` of the outputs of a picture of `width`. Winograd's tiles start at `first`, and
   read `tile` rows and columns behind the last ones. `scratch` holds srq_scratch() bytes, aligned to 64. */
typedef void srq_run(const srq_conv *conv, const srq_output *out, const uint8_t *in,
                     ptrdiff_t in_row, int32_t width, int32_t first, int32_t last, uint8_t *scratch);

/* An instruction set: how weights are packed for it, and its kernel. */
typedef struct {
    const char *name;
    int32_t lanes;      /* outputs of a vector of sums */
    int32_t vectors;    /* vectors of outputs that are summed together */
    int32_t quad;       /* input channels whose weights lie together: 4, or 1 */
    int32_t sums;       /* products of a code and a weight that are added in 16 bits; 0: in 32; */
                        /* 1: weights in two parts, see pairs.h */
    srq_run *run;
    int64_t (*peak)(int64_t rounds);    /* multiplies in registers alone; returns how often */
} srq_isa;

#define SRQ_TILES 6     /* pixels or tiles that share a load of weights */

/* Channels of a picture: the first of them of its first pixel. */
typedef struct {
    uint8_t *codes;
    ptrdiff_t row;      /* bytes from one row to the next */
    int32_t step;       /* bytes from one pixel to the next */
} srq_place;

/* A border to fill with the code of zero. */
typedef struct {
    srq_place picture;  /* from channel 0 on */
    int32_t pad, zero;
    int32_t height, width;
    int32_t factor;     /* rows for one of the step that writes them; 0: there is no border */
} srq_border;

enum { SRQ_CONVOLUTION, SRQ_RECODE, SRQ_ADD, SRQ_SHUFFLE, SRQ_ADD_BY_TABLE, SRQ_MIX };

#define SRQ_INPUTS 4    /* most channels of a picture that SRQ_MIX enlarges */
#define SRQ_TAPS 5      /* most pixels in a row that one enlarged pixel depends on */

/* Sums of channels: weights of an enlarged picture, and of a second one of the larger size. */
typedef struct {
    int32_t inputs, others, outputs, factor;
    int32_t taps;               /* odd */
    const float *phases;        /* [factor, taps] */
    const float *weights;       /* [outputs, inputs] */
    const float *other_weights; /* [outputs, others] */
    const float *constant;      /* [outputs] */
} srq_mix;

/* A step of a program, on all rows of its input; see steps.c. */
typedef struct {
    int32_t kind, channels;
    int32_t height, width;      /* of the input */
    srq_place in, other, out;   /* `other`: right term of a sum, or second picture */
    srq_border borders[2];      /* of what it writes */
    srq_run *run;               /* SRQ_CONVOLUTION */
    const srq_conv *conv;
    const srq_output *output;
    const uint8_t *table;       /* SRQ_RECODE */
    int32_t table_step;
    int32_t factor, pixel_step, channel_step;       /* SRQ_SHUFFLE */
    float scale, other_scale, constant, low, high;  /* SRQ_ADD; the last two also those below */
    const float *values, *other_values;             /* SRQ_ADD_BY_TABLE */
    int32_t values_step, other_values_step;
    const srq_mix *mix;                             /* SRQ_MIX */
} srq_step;

/* Where threads wait for each other; starts as zeros. */
typedef struct {
    int32_t waiting, round, stopped;
} srq_barrier;

extern const srq_isa srq_portable;

#endif
