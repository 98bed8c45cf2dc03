/* Plain C with the vectors of GCC and Clang, which become those of whatever processor there is. */
#include "kernels.h"

#include <math.h>
#include <string.h>

#define LANES 4
#define BYTES 16
typedef int32_t vec __attribute__((vector_size(16)));
typedef float vecf __attribute__((vector_size(16)));
typedef uint8_t vecb __attribute__((vector_size(16)));
typedef uint8_t codes4 __attribute__((vector_size(4)));
typedef int8_t weights4 __attribute__((vector_size(4)));
typedef vec vecw;
typedef int32_t vecc;

#define SRQ_LOADER(name, type)                      \
    static inline type name(const void *p)          \
    {                                               \
        type v;                                     \
        memcpy(&v, p, sizeof v);                    \
        return v;                                   \
    }
SRQ_LOADER(srq_load, vec)
SRQ_LOADER(srq_loadf, vecf)
SRQ_LOADER(srq_loadb, vecb)
SRQ_LOADER(srq_load_codes, codes4)
SRQ_LOADER(srq_load_weights, weights4)

static inline void srq_store(void *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

static inline void srq_storeb(void *p, vecb v)
{
    memcpy(p, &v, sizeof v);
}

static inline vecb srq_pack(vec a, vec b, vec c, vec d)
{
    vecb bytes;
    for (int i = 0; i < LANES; i++) {
        int32_t v[4] = {a[i], b[i], c[i], d[i]};
        for (int j = 0; j < 4; j++)
            bytes[j * LANES + i] = (uint8_t)(v[j] < 0 ? 0 : v[j] > 255 ? 255 : v[j]);
    }
    return bytes;
}

static inline vecb srq_clipb(vecb v, uint8_t low, uint8_t high)
{
    for (int i = 0; i < BYTES; i++)
        v[i] = v[i] < low ? low : v[i] > high ? high : v[i];
    return v;
}

/* Outputs are a multiple of 16, so that all four vectors are stored. */
static inline void srq_store_part(void *p, vecb v, int count)
{
    (void)count;
    memcpy(p, &v, sizeof v);
}

static inline vec srq_round(vecf v)
{
    vec rounded;
    for (int i = 0; i < LANES; i++)
        rounded[i] = (int32_t)nearbyintf(v[i]);
    return rounded;
}

static inline vecf srq_clip(vecf v, float low, float high)
{
    for (int i = 0; i < LANES; i++)
        v[i] = v[i] < low ? low : v[i] > high ? high : v[i];
    return v;
}

static inline vecf srq_sloped(vecf v, vecf slope)
{
    for (int i = 0; i < LANES; i++)
        v[i] = v[i] < 0 ? v[i] * slope[i] : v[i];
    return v;
}

#define LOAD(p) srq_load(p)
#define STORE(p, v) srq_store(p, v)
#define ADD(a, b) ((a) + (b))
#define SUB(a, b) ((a) - (b))
#define KEPT(v) "+m"(v)
#define MULTIPLY(v) ((v) * (v))
#define ZERO ((vec){0})
#define LOADB(p) srq_loadb(p)
#define STOREB(p, v) srq_storeb(p, v)
#define ADDB(a, b) ((a) + (b))
#define SUBB(a, b) ((a) - (b))
#define SPLATB(x) (x)
#define LOADF(p) srq_loadf(p)
#define SPLATF(x) (x)
#define TO_FLOAT(v) __builtin_convertvector(v, vecf)
#define ROUND(v) srq_round(v)
#define ADDF(a, b) ((a) + (b))
#define FMA(a, b, c) ((a) * (b) + (c))
#define CLIP(v, low, high) srq_clip(v, low, high)
#define SLOPED(v, s) srq_sloped(v, s)
#define LOAD_CODES(p) __builtin_convertvector(srq_load_codes(p), vec)
#define CLIPB(v, low, high) srq_clipb(v, low, high)
#define PACK(a, b, c, d) srq_pack(a, b, c, d)
#define STORE_PART(p, v, count) srq_store_part(p, v, count)

#define NAME(x) srq_portable_##x
#define VECTORS 1
#define QUAD 1
#define LOADW(p) __builtin_convertvector(srq_load_weights(p), vec)
#define SPLAT_CODES(p) (*(p))
#define DOT(sum, a, w) ((sum) + (a) * (w))
#include "dot.h"
#include "template.h"
const srq_isa srq_portable = {"portable", LANES, VECTORS, QUAD, 0, srq_portable_run, srq_portable_peak};
