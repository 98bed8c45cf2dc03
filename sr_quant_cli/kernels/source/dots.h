/* dot.h for every number of vectors up to VECTORS. */
#include "kernels.h"

#define PARTS 1
#ifndef MULTIPLY
#define MULTIPLY(v) DOT(v, v, v)
#endif

#define COUNT 1
#define WINDOW_NAME NAME(window1)
#define COLUMN_NAME NAME(column1)
#include "dot.h"
#if VECTORS > 1
#define COUNT 2
#define WINDOW_NAME NAME(window2)
#define COLUMN_NAME NAME(column2)
#include "dot.h"
#endif
#if VECTORS > 2
#define COUNT 3
#define WINDOW_NAME NAME(window3)
#define COLUMN_NAME NAME(column3)
#include "dot.h"
#define COUNT 4
#define WINDOW_NAME NAME(window4)
#define COLUMN_NAME NAME(column4)
#include "dot.h"
#endif
