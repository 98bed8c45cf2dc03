/* Operations of AVX-512 (F, BW). */
#include "kernels.h"

#include <immintrin.h>

#define LANES 16
#define BYTES 64
typedef __m512i vec;
typedef __m512i vecb;
typedef __m512i vecw;
typedef __m512i vecc;
typedef __m512 vecf;

#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define ADD(a, b) _mm512_add_epi32(a, b)
#define SUB(a, b) _mm512_sub_epi32(a, b)
#define KEPT(v) "+v"(v)
#define ZERO _mm512_setzero_si512()
#define LOADW(p) _mm512_loadu_si512(p)
#define SPLAT_CODES(p) _mm512_set1_epi32(*(const int32_t *)(p))

#define LOADB(p) _mm512_loadu_si512(p)
#define STOREB(p, v) _mm512_storeu_si512(p, v)
#define ADDB(a, b) _mm512_add_epi8(a, b)
#define SUBB(a, b) _mm512_sub_epi8(a, b)
#define SPLATB(x) _mm512_set1_epi8((char)(int)(x))

#define LOADF(p) _mm512_loadu_ps(p)
#define SPLATF(x) _mm512_set1_ps(x)
#define TO_FLOAT(v) _mm512_cvtepi32_ps(v)
#define ROUND(v) _mm512_cvtps_epi32(v)
#define ADDF(a, b) _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define CLIP(v, low, high) _mm512_min_ps(_mm512_max_ps(v, low), high)
#define SLOPED(v, s) \
    _mm512_mask_mul_ps(v, _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ), v, s)
#define LOAD_CODES(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define CLIPB(v, low, high) _mm512_min_epu8(_mm512_max_epu8(v, low), high)

/* Saturated bytes of four vectors, in their order. */
static inline __m512i srq_pack(__m512i a, __m512i b, __m512i c, __m512i d)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i lanes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    return _mm512_permutexvar_epi32(order, lanes);
}
#define PACK(a, b, c, d) srq_pack(a, b, c, d)

/* Stores the bytes of `count` vectors. */
static inline __attribute__((always_inline)) void srq_store_part(uint8_t *p, __m512i v, int count)
{
    if (count == 4)
        _mm512_storeu_si512(p, v);
    else if (count == 2)
        _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(v));
    else if (count == 1)
        _mm_storeu_si128((__m128i *)p, _mm512_castsi512_si128(v));
    else
        _mm512_mask_storeu_epi32(p, 0x0fff, v);
}
#define STORE_PART(p, v, count) srq_store_part(p, v, count)

#define SPLAT16(x) _mm512_set1_epi16(x)
#define ADD16(a, b) _mm512_add_epi16(a, b)
#define MADD16(a, b) _mm512_madd_epi16(a, b)
#define MADDUBS(a, b) _mm512_maddubs_epi16(a, b)
