/* AVX512-VNNI: four products of a lane in one instruction. */
#include "x86_512.h"

#define NAME(x) srq_vnni512_##x
#define VECTORS 4
#define QUAD 4
/* In assembly, as GCC 12 moves the sums of the intrinsic to the stack. */
INLINE __m512i srq_dpbusd(__m512i sum, __m512i a, __m512i w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(w));
    return sum;
}
#define DOT(sum, a, w) srq_dpbusd(sum, a, w)
#include "dot.h"
#include "template.h"

const srq_isa srq_vnni512 = {"avx512vnni", LANES, VECTORS, QUAD, 0, NAME(run), NAME(peak)};
