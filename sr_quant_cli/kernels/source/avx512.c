/* AVX-512 (F and BW), without VNNI. Compiled once for each SUMS: see pairs.h. */
#include "x86_512.h"

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define ISA CONCAT(srq_avx512_, SUMS)
#define NAME(x) CONCAT(CONCAT(ISA, _), x)
#include "pairs.h"
#include "template.h"

const srq_isa ISA = {"avx512", LANES, VECTORS, QUAD, SUMS, NAME(run), NAME(peak)};
