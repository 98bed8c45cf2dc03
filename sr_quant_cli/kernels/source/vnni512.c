/* AVX512-VNNI: four products of a lane in one instruction. */
#include "x86_512.h"

#define NAME(x) srq_vnni512_##x
#define VECTORS 4
#define QUAD 4
#define DOT(sum, a, w) _mm512_dpbusd_epi32(sum, a, w)
#include "dots.h"
#include "template.h"

const srq_isa srq_vnni512 = {"avx512vnni", LANES, VECTORS, QUAD, 0, NAME(run)};
