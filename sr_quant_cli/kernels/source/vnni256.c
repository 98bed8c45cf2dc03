/* AVX-VNNI: as AVX512-VNNI, on vectors of 256 bits. */
#include "x86_256.h"

#define NAME(x) srq_vnni256_##x
#define VECTORS 2
#define QUAD 4
#define DOT(sum, a, w) _mm256_dpbusd_avx_epi32(sum, a, w)
#include "dot.h"
#include "template.h"

const srq_isa srq_vnni256 = {"avxvnni", LANES, VECTORS, QUAD, 0, NAME(run), NAME(peak)};
