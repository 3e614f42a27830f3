/* opaque_block.c: the block of a tensor. */
#include "codegen/opaque.h"
