/* Operations of AVX2 and FMA. */
#include "kernels.h"

#include <immintrin.h>

#define LANES 8
#define BYTES 32
typedef __m256i vec;
typedef __m256i vecb;
typedef __m256i vecw;
typedef __m256i vecc;
typedef __m256 vecf;

#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define ADD(a, b) _mm256_add_epi32(a, b)
#define SUB(a, b) _mm256_sub_epi32(a, b)
#define KEPT(v) "+x"(v)
#define ZERO _mm256_setzero_si256()
#define LOADW(p) LOAD(p)
#define SPLAT_CODES(p) _mm256_set1_epi32(*(const int32_t *)(p))

#define LOADB(p) LOAD(p)
#define STOREB(p, v) STORE(p, v)
#define ADDB(a, b) _mm256_add_epi8(a, b)
#define SUBB(a, b) _mm256_sub_epi8(a, b)
#define SPLATB(x) _mm256_set1_epi8((char)(int)(x))

#define LOADF(p) _mm256_loadu_ps(p)
#define SPLATF(x) _mm256_set1_ps(x)
#define TO_FLOAT(v) _mm256_cvtepi32_ps(v)
#define ROUND(v) _mm256_cvtps_epi32(v)
#define ADDF(a, b) _mm256_add_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define CLIP(v, low, high) _mm256_min_ps(_mm256_max_ps(v, low), high)
#define SLOPED(v, s) \
    _mm256_blendv_ps(v, _mm256_mul_ps(v, s), _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_LT_OQ))
#define LOAD_CODES(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define CLIPB(v, low, high) _mm256_min_epu8(_mm256_max_epu8(v, low), high)

/* Saturated bytes of four vectors, in their order. */
static inline __m256i srq_pack(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i lanes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    return _mm256_permutevar8x32_epi32(lanes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#define PACK(a, b, c, d) srq_pack(a, b, c, d)

/* Stores the bytes of `count` vectors, 2 or 4. */
static inline __attribute__((always_inline)) void srq_store_part(uint8_t *p, __m256i v, int count)
{
    if (count == 4)
        _mm256_storeu_si256((__m256i *)p, v);
    else
        _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(v));
}
#define STORE_PART(p, v, count) srq_store_part(p, v, count)

#define SPLAT16(x) _mm256_set1_epi16(x)
#define ADD16(a, b) _mm256_add_epi16(a, b)
#define MADD16(a, b) _mm256_madd_epi16(a, b)
#define MADDUBS(a, b) _mm256_maddubs_epi16(a, b)
