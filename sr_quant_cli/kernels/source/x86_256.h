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
#define LOADW(p) LOAD(p)
#define SPLAT_CODES(p) _mm256_set1_epi32(*(const int32_t *)(p))

#define LOADB(p) LOAD(p)
#define STOREB(p, v) STORE(p, v)
#define ADDB(a, b) _mm256_add_epi8(a, b)
#define SUBB(a, b) _mm256_sub_epi8(a, b)
#define SPLATB(x) _mm256_set1_epi8((char)(x))

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
#define STORE_CODES(p, v) _mm_storel_epi64((__m128i *)(p), srq_pack8(v))

static inline __m128i srq_pack8(__m256i v)
{
    __m128i both = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return _mm_packus_epi16(both, both);
}

#define SPLAT16(x) _mm256_set1_epi16(x)
#define ADD16(a, b) _mm256_add_epi16(a, b)
#define MADD16(a, b) _mm256_madd_epi16(a, b)
#define MADDUBS(a, b) _mm256_maddubs_epi16(a, b)
#define AND(a, b) _mm256_and_si256(a, b)
#define SLL16(v, n) _mm256_slli_epi16(v, n)
#define SRL16(v, n) _mm256_srli_epi16(v, n)
#define SRA16(v, n) _mm256_srai_epi16(v, n)
