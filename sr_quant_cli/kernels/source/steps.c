/* Programs, and the steps between convolutions: other codes, sums, enlargements, PixelShuffle. */

#include "kernels.h"

#include <math.h>
#include <string.h>
#ifdef _WIN32
#include <windows.h>
#define YIELD() SwitchToThread()
#else
#include <sched.h>
#define YIELD() sched_yield()
#endif

/* Waits so often in a row before others may have the processor. */
#define SPINS 2000

static const uint8_t *pixels_of(srq_place place, int y)
{
    return place.codes + y * place.row;
}

static uint8_t clipped(float v, float low, float high)
{
    return (uint8_t)nearbyintf(v < low ? low : v > high ? high : v);
}

/* out = table[c * table_step + in] */
static void recode(const srq_step *step, int first, int last)
{
    for (int y = first; y < last; y++) {
        const uint8_t *from = pixels_of(step->in, y);
        uint8_t *to = step->out.codes + y * step->out.row;
        for (int x = 0; x < step->width; x++, from += step->in.step, to += step->out.step)
            for (int c = 0; c < step->channels; c++)
                to[c] = step->table[c * step->table_step + from[c]];
    }
}

/* out = clip(rint(scale * in + other_scale * other + constant)) */
static void add(const srq_step *step, int first, int last)
{
    for (int y = first; y < last; y++) {
        const uint8_t *left = pixels_of(step->in, y), *right = pixels_of(step->other, y);
        uint8_t *to = step->out.codes + y * step->out.row;
        for (int x = 0; x < step->width; x++) {
            for (int c = 0; c < step->channels; c++) {
                float both = step->other_scale * right[c] + step->constant;
                to[c] = clipped(step->scale * left[c] + both, step->low, step->high);
            }
            left += step->in.step, right += step->other.step, to += step->out.step;
        }
    }
}

/* out = clip(rint(values[c * values_step + in] + other_values[c * other_values_step + other])) */
static void add_by_table(const srq_step *step, int first, int last)
{
    for (int y = first; y < last; y++) {
        const uint8_t *left = pixels_of(step->in, y), *right = pixels_of(step->other, y);
        uint8_t *to = step->out.codes + y * step->out.row;
        for (int x = 0; x < step->width; x++) {
            for (int c = 0; c < step->channels; c++)
                to[c] = clipped(step->values[c * step->values_step + left[c]]
                                    + step->other_values[c * step->other_values_step + right[c]],
                                step->low, step->high);
            left += step->in.step, right += step->other.step, to += step->out.step;
        }
    }
}

static int within(int position, int length)
{
    return position < 0 ? 0 : position < length ? position : length - 1;
}

/* The pixels around (y, x), each column of them summed with the weights of a row's phase. */
static void columns_of(const srq_step *step, int y, int x, const float *phase,
                       float sums[SRQ_TAPS][SRQ_INPUTS])
{
    const srq_mix *mix = step->mix;
    int reach = mix->taps / 2;
    for (int j = 0; j < mix->taps; j++) {
        ptrdiff_t column = (ptrdiff_t)within(x + j - reach, step->width) * step->in.step;
        for (int c = 0; c < SRQ_INPUTS; c++)
            sums[j][c] = 0;
        for (int i = 0; i < mix->taps; i++) {
            const uint8_t *codes = pixels_of(step->in, within(y + i - reach, step->height)) + column;
            for (int c = 0; c < mix->inputs; c++)
                sums[j][c] += phase[i] * codes[c];
        }
    }
}

/* out = clip(rint(weights . enlarged in + other_weights . other + constant)) */
static void mix(const srq_step *step, int first, int last)
{
    const srq_mix *mix = step->mix;
    int factor = mix->factor, taps = mix->taps;
    float columns[SRQ_TAPS][SRQ_INPUTS];
    for (int row = first * factor; row < last * factor; row++) {
        const uint8_t *other = mix->others ? pixels_of(step->other, row) : NULL;
        uint8_t *to = step->out.codes + row * step->out.row;
        for (int x = 0; x < step->width; x++) {
            columns_of(step, row / factor, x, mix->phases + row % factor * taps, columns);
            for (int j = 0; j < factor; j++, to += step->out.step) {
                float enlarged[SRQ_INPUTS] = {0};
                for (int i = 0; i < taps; i++)
                    for (int c = 0; c < SRQ_INPUTS; c++)
                        enlarged[c] += mix->phases[j * taps + i] * columns[i][c];
                for (int o = 0; o < mix->outputs; o++) {
                    float v = mix->constant[o];
                    for (int c = 0; c < mix->inputs; c++)
                        v += mix->weights[o * mix->inputs + c] * enlarged[c];
                    for (int c = 0; c < mix->others; c++)
                        v += mix->other_weights[o * mix->others + c] * other[c];
                    to[o] = clipped(v, step->low, step->high);
                }
                if (other)
                    other += step->other.step;
            }
        }
    }
}

/* PixelShuffle: channels (i * factor + j) * pixel_step + c * channel_step of a pixel become channel
   c of the pixel (i, j) of its factor x factor pixels. */
static void shuffle(const srq_step *step, int first, int last)
{
    int factor = step->factor, pixel_step = step->pixel_step, channel_step = step->channel_step;
    for (int y = first; y < last; y++)
        for (int i = 0; i < factor; i++) {
            const uint8_t *from = pixels_of(step->in, y) + i * factor * pixel_step;
            uint8_t *to = step->out.codes + (y * factor + i) * step->out.row;
            int whole = channel_step == 1 && step->out.step == pixel_step;
            for (int x = 0; x < step->width; x++, from += step->in.step)
                if (whole) {
                    memcpy(to, from, (size_t)factor * pixel_step);
                    to += factor * pixel_step;
                } else
                    for (int j = 0; j < factor; j++, to += step->out.step)
                        for (int c = 0; c < step->channels; c++)
                            to[c] = from[j * pixel_step + c * channel_step];
        }
}

/* Fills the `pad` pixels beside the rows `first` to `last`, and above and below the whole picture. */
static void enclose(const srq_border *border, int first, int last)
{
    int pad = border->pad, step = border->picture.step;
    int top = first == 0 ? -pad : first, bottom = last == border->height ? last + pad : last;
    for (int y = top; y < bottom; y++) {
        uint8_t *line = border->picture.codes + y * border->picture.row;
        int inside = y >= 0 && y < border->height;
        size_t before = (size_t)(inside ? pad : border->width + 2 * pad) * step;
        memset(line - pad * step, border->zero, before);
        if (inside)
            memset(line + (ptrdiff_t)border->width * step, border->zero, (size_t)pad * step);
    }
}

/* Returns when all threads are here; 0 when the program is stopped. */
static int wait(srq_barrier *barrier, int threads)
{
    int32_t round = __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&barrier->waiting, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&barrier->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_RELEASE);
    }
    for (int spins = 0; __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round; spins++) {
        if (__atomic_load_n(&barrier->stopped, __ATOMIC_RELAXED))
            return 0;
        if (spins >= SPINS)
            YIELD();
    }
    return 1;
}

/* Runs the steps on the rows of one of `threads` threads, which all call this at the same time.
   `scratch` holds srq_scratch() bytes, aligned to 64. */
SRQ_API void srq_execute(const srq_step *steps, int32_t count, int32_t thread, int32_t threads,
                         srq_barrier *barrier, uint8_t *scratch)
{
    for (int s = 0; s < count; s++) {
        const srq_step *step = steps + s;
        int tile = step->kind == SRQ_CONVOLUTION && step->conv->tile ? step->conv->tile : 1;
        int share = (step->height + tile * threads - 1) / (tile * threads) * tile;
        int first = thread * share < step->height ? thread * share : step->height;
        int last = first + share < step->height ? first + share : step->height;
        if (first < last) {
            switch (step->kind) {
            case SRQ_CONVOLUTION:
                step->run(step->conv, step->output, step->in.codes, step->in.row, step->width,
                          first, last, scratch);
                break;
            case SRQ_RECODE: recode(step, first, last); break;
            case SRQ_ADD: add(step, first, last); break;
            case SRQ_SHUFFLE: shuffle(step, first, last); break;
            case SRQ_ADD_BY_TABLE: add_by_table(step, first, last); break;
            case SRQ_MIX: mix(step, first, last); break;
            }
            for (int b = 0; b < 2; b++)
                if (step->borders[b].factor)
                    enclose(&step->borders[b], first * step->borders[b].factor,
                            last * step->borders[b].factor);
        }
        if (threads > 1 && !wait(barrier, threads))
            return;
    }
}

/* Lets threads that wait return. */
SRQ_API void srq_stop(srq_barrier *barrier)
{
    __atomic_store_n(&barrier->stopped, 1, __ATOMIC_RELAXED);
}
