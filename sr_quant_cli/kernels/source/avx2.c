/* AVX2 and FMA, without VNNI. Compiled once for each SUMS: see pairs.h. */
#include "x86_256.h"

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define ISA CONCAT(srq_avx2_, SUMS)
#define NAME(x) CONCAT(CONCAT(ISA, _), x)
#include "pairs.h"
#include "template.h"

const srq_isa ISA = {"avx2", LANES, VECTORS, QUAD, SUMS, NAME(run), NAME(peak)};
