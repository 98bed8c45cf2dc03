/* The transforms of Winograd's F(4x4, 3x3) in float32 (Lavin and Gray 2016), for convolutions with a
   border of one zero, and their adjoints for the gradients. Compiled once for each instruction set.

   Pictures are [images][height][width][channels], channels a multiple of 8. Transformed tiles are
   [36][tiles][channels], with one tile for every 4x4 pixels; pixels outside the picture count as zero.
       input     V = B^T d B    of 6x6 pixels, from one above and left of the tile
       output    y = A^T M A    4x4 pixels, plus the bias of the channel
       of_output                the adjoint of `output`: tiles from a gradient of 4x4 pixels
       of_input                 the adjoint of `input`: sums of gradients of 6x6 pixels that overlap */
#include <string.h>

#include "kernels.h"

enum { LANES = 8, TILE = 4, SIDE = 6, ALL = SIDE * SIDE };

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE void input(const lanes *d, int step, lanes *v, int to)
{
    lanes d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    v[0] = 4 * d0 - 5 * d2 + d4;
    v[to] = d4 + d3 - 4 * (d2 + d1);
    v[2 * to] = d4 - d3 - 4 * (d2 - d1);
    v[3 * to] = d4 - d2 + 2 * (d3 - d1);
    v[4 * to] = d4 - d2 - 2 * (d3 - d1);
    v[5 * to] = 4 * d1 - 5 * d3 + d5;
}

INLINE void of_input(const lanes *v, int step, lanes *d, int to)
{
    lanes v0 = v[0], v1 = v[step], v2 = v[2 * step], v3 = v[3 * step], v4 = v[4 * step], v5 = v[5 * step];
    d[0] = 4 * v0;
    d[to] = 4 * (v2 - v1) + 2 * (v4 - v3) + 4 * v5;
    d[2 * to] = -5 * v0 - 4 * (v1 + v2) - v3 - v4;
    d[3 * to] = v1 - v2 + 2 * (v3 - v4) - 5 * v5;
    d[4 * to] = v0 + v1 + v2 + v3 + v4;
    d[5 * to] = v5;
}

INLINE void output(const lanes *m, int step, lanes *y, int to)
{
    lanes sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    lanes far_sum = m[3 * step] + m[4 * step], far_difference = m[3 * step] - m[4 * step];
    y[0] = m[0] + sum + far_sum;
    y[to] = difference + 2 * far_difference;
    y[2 * to] = sum + 4 * far_sum;
    y[3 * to] = difference + 8 * far_difference + m[5 * step];
}

INLINE void of_output(const lanes *y, int step, lanes *m, int to)
{
    lanes y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step];
    lanes even = y0 + y2, odd = y1 + y3, far_even = y0 + 4 * y2, far_odd = 2 * y1 + 8 * y3;
    m[0] = y0;
    m[to] = even + odd;
    m[2 * to] = even - odd;
    m[3 * to] = far_even + far_odd;
    m[4 * to] = far_even - far_odd;
    m[5 * to] = y3;
}

typedef void transform(const lanes *from, int step, lanes *to, int to_step);

/* Transform columns, then rows: [before][before] -> [after][after]. */
INLINE void both_ways(transform *one, int before, int after, const lanes *from, lanes *to)
{
    lanes half[ALL];
    for (int column = 0; column < before; column++)
        one(from + column, before, half + column, before);
    for (int row = 0; row < after; row++)
        one(half + row * before, 1, to + row * after, 1);
}

typedef struct {
    int64_t images, height, width, channels;
} shape;

INLINE int64_t tiles_of(int64_t pixels)
{
    return (pixels + TILE - 1) / TILE;
}

/* First pixel of a tile of `side` pixels, which may lie outside of its image. */
typedef struct {
    int64_t image, top, left;
} place;

INLINE place place_of(int64_t tile, int side, shape s)
{
    int64_t rows = tiles_of(s.height), columns = tiles_of(s.width), edge = (side - TILE) / 2;
    return (place){tile / (rows * columns), tile / columns % rows * TILE - edge, tile % columns * TILE - edge};
}

/* Where the channels of a pixel of a tile begin; -1 outside of the image. */
INLINE int64_t pixel_of(place p, int row, int column, shape s)
{
    int64_t y = p.top + row, x = p.left + column;
    int outside = y < 0 || y >= s.height || x < 0 || x >= s.width;
    return outside ? -1 : ((p.image * s.height + y) * s.width + x) * s.channels;
}

/* Tiles of the images from `first` to before `end`, from `side` pixels each. */
INLINE void gather(transform *one, int side, const float *picture, float *tiles, shape s, int64_t first,
                   int64_t end)
{
    int64_t each = tiles_of(s.height) * tiles_of(s.width), plane = s.images * each * s.channels;
    for (int64_t tile = first * each; tile < end * each; tile++) {
        place p = place_of(tile, side, s);
        for (int64_t channel = 0; channel < s.channels; channel += LANES) {
            lanes pixels[ALL], transformed[ALL];
            for (int i = 0; i < side; i++)
                for (int j = 0; j < side; j++) {
                    int64_t at = pixel_of(p, i, j, s);
                    pixels[i * side + j] = at < 0 ? (lanes){0} : *(const lanes *)(picture + at + channel);
                }
            both_ways(one, side, SIDE, pixels, transformed);
            float *at = tiles + tile * s.channels + channel;
            for (int i = 0; i < ALL; i++)
                *(lanes *)(at + i * plane) = transformed[i];
        }
    }
}

/* Pictures from tiles: `side` pixels of each are added to what is there. */
INLINE void scatter(transform *one, int side, const float *tiles, float *picture, shape s, int64_t first,
                    int64_t end)
{
    int64_t each = tiles_of(s.height) * tiles_of(s.width), plane = s.images * each * s.channels;
    for (int64_t tile = first * each; tile < end * each; tile++) {
        place p = place_of(tile, side, s);
        for (int64_t channel = 0; channel < s.channels; channel += LANES) {
            lanes transformed[ALL], pixels[ALL];
            const float *from = tiles + tile * s.channels + channel;
            for (int i = 0; i < ALL; i++)
                transformed[i] = *(const lanes *)(from + i * plane);
            both_ways(one, SIDE, side, transformed, pixels);
            for (int i = 0; i < side; i++)
                for (int j = 0; j < side; j++) {
                    int64_t at = pixel_of(p, i, j, s);
                    if (at >= 0)
                        *(lanes *)(picture + at + channel) += pixels[i * side + j];
                }
        }
    }
}

/* Fill pictures with the bias of each channel; without one, with zero. */
static void fill(float *picture, const float *bias, shape s, int64_t first, int64_t end)
{
    int64_t pixels = s.height * s.width;
    for (int64_t pixel = first * pixels; pixel < end * pixels; pixel++)
        if (bias)
            memcpy(picture + pixel * s.channels, bias, (size_t)s.channels * sizeof *bias);
        else
            memset(picture + pixel * s.channels, 0, (size_t)s.channels * sizeof *picture);
}

/* Transform the images from `first` to before `end`. Kinds, as in `training/convolution.py`:
   0 input, 1 output, 2 of_output, 3 of_input. */
SRQ_API void TRANSFORM_TILES(int32_t kind, const float *from, const float *bias, float *to, int64_t images,
                       int64_t height, int64_t width, int64_t channels, int64_t first, int64_t end)
{
    shape s = {images, height, width, channels};
    if (kind == 1 || kind == 3)
        fill(to, bias, s, first, end);
    switch (kind) {
    case 0: gather(input, SIDE, from, to, s, first, end); break;
    case 1: scatter(output, TILE, from, to, s, first, end); break;
    case 2: gather(of_output, TILE, from, to, s, first, end); break;
    case 3: scatter(of_input, SIDE, from, to, s, first, end); break;
    }
}
