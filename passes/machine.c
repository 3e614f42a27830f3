/* machine.c: descriptions of machines, as text. */
#include "passes/machine.h"
