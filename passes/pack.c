/* pack.c: offsets for buffers with known lifetimes. */
#include "passes/pack.h"
