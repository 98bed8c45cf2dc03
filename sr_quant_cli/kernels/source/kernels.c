/* The instruction sets that this library was compiled for, the best first. */

#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
extern const srq_isa srq_vnni512, srq_vnni256;
extern const srq_isa srq_avx512_8, srq_avx512_4, srq_avx512_2, srq_avx512_1;
extern const srq_isa srq_avx2_8, srq_avx2_4, srq_avx2_2, srq_avx2_1;
#endif

static const srq_isa *const isas[] = {
#if defined(__x86_64__) || defined(_M_X64)
    &srq_vnni512, &srq_vnni256,
    &srq_avx512_8, &srq_avx512_4, &srq_avx512_2, &srq_avx512_1,
    &srq_avx2_8, &srq_avx2_4, &srq_avx2_2, &srq_avx2_1,
#endif
    &srq_portable,
};

SRQ_API int32_t srq_layout(void)
{
    return SRQ_LAYOUT;
}

SRQ_API const srq_isa *srq_isa_at(int32_t index)
{
    return index < (int32_t)(sizeof isas / sizeof *isas) ? isas[index] : NULL;
}

/* Bytes of scratch memory that a convolution of so many input channels needs: transformed tiles of
   5x5 pixels, and sums of 3x5 for 64 outputs. */
SRQ_API int64_t srq_scratch(int32_t inputs)
{
    int64_t transformed = 25 * SRQ_TILES * (int64_t)((inputs + 63) / 64 * 64);
    return transformed + 15 * SRQ_TILES * 64 * (int64_t)sizeof(int32_t) + 64;
}
