/* dot.h for every number of vectors up to VECTORS. */
#include "kernels.h"
#define COUNT 1
#define DOT_NAME NAME(dot1)
#include "dot.h"
#if VECTORS > 1
#define COUNT 2
#define DOT_NAME NAME(dot2)
#include "dot.h"
#endif
#if VECTORS > 2
#define COUNT 3
#define DOT_NAME NAME(dot3)
#include "dot.h"
#define COUNT 4
#define DOT_NAME NAME(dot4)
#include "dot.h"
#endif
