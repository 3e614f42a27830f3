/* work.c: what a unit does, as far as its price depends on it. */
#include "ir/storage.h"
