/* The steps between convolutions: other codes, sums, PixelShuffle. All pictures have the
   same rows `first` to `last` and `width`; a pixel is `step` bytes after the one before. */

#include "kernels.h"

#include <math.h>

static uint8_t clipped(float v, float low, float high)
{
    return (uint8_t)nearbyintf(v < low ? low : v > high ? high : v);
}

/* out = table[c * table_step + in] */
SRQ_API void srq_recode(const uint8_t *in, ptrdiff_t in_row, int32_t in_step, uint8_t *out,
                        ptrdiff_t out_row, int32_t out_step, int32_t channels,
                        const uint8_t *table, int32_t table_step, int32_t width, int32_t first,
                        int32_t last)
{
    for (int y = first; y < last; y++)
        for (int x = 0; x < width; x++) {
            const uint8_t *from = in + y * in_row + (ptrdiff_t)x * in_step;
            uint8_t *to = out + y * out_row + (ptrdiff_t)x * out_step;
            for (int c = 0; c < channels; c++)
                to[c] = table[c * table_step + from[c]];
        }
}

/* out = clip(rint(left_scale * left + right_scale * right + constant)) */
SRQ_API void srq_add(const uint8_t *left, ptrdiff_t left_row, int32_t left_step, const uint8_t *right,
             ptrdiff_t right_row, int32_t right_step, uint8_t *out, ptrdiff_t out_row,
             int32_t out_step, int32_t channels, float left_scale, float right_scale,
             float constant, float low, float high, int32_t width, int32_t first, int32_t last)
{
    for (int y = first; y < last; y++)
        for (int x = 0; x < width; x++) {
            const uint8_t *a = left + y * left_row + (ptrdiff_t)x * left_step;
            const uint8_t *b = right + y * right_row + (ptrdiff_t)x * right_step;
            uint8_t *to = out + y * out_row + (ptrdiff_t)x * out_step;
            for (int c = 0; c < channels; c++)
                to[c] = clipped(left_scale * a[c] + (right_scale * b[c] + constant), low, high);
        }
}

/* Channels c * factor^2 + i * factor + j of a pixel become channel c of the pixel (i, j) of its
   factor x factor pixels. Rows and width count pixels of the input. */
SRQ_API void srq_shuffle(const uint8_t *in, ptrdiff_t in_row, int32_t in_step, uint8_t *out,
                 ptrdiff_t out_row, int32_t out_step, int32_t channels, int32_t factor,
                 int32_t width, int32_t first, int32_t last)
{
    for (int y = first; y < last; y++)
        for (int i = 0; i < factor; i++)
            for (int x = 0; x < width; x++) {
                const uint8_t *from = in + y * in_row + (ptrdiff_t)x * in_step + i * factor;
                uint8_t *to = out + (y * factor + i) * out_row + (ptrdiff_t)x * factor * out_step;
                for (int j = 0; j < factor; j++, to += out_step)
                    for (int c = 0; c < channels; c++)
                        to[c] = from[c * factor * factor + j];
            }
}

/* Fills the `pad` pixels around the rows `first` to `last`, and above and below the whole picture. */
SRQ_API void srq_border(uint8_t *picture, ptrdiff_t row, int32_t step, int32_t pad, uint8_t zero,
                int32_t height, int32_t width, int32_t first, int32_t last)
{
    int top = first == 0 ? -pad : first, bottom = last == height ? height + pad : last;
    for (int y = top; y < bottom; y++) {
        uint8_t *line = picture + y * row;
        int inside = y >= 0 && y < height;
        for (ptrdiff_t at = -(ptrdiff_t)pad * step; at < (inside ? 0 : (ptrdiff_t)(width + pad) * step); at++)
            line[at] = zero;
        for (ptrdiff_t at = (ptrdiff_t)width * step; at < (ptrdiff_t)(width + pad) * step; at++)
            line[at] = zero;
    }
}
