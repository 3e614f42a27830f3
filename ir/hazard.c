/* hazard.c: which steps of other streams a step must wait for. */
#include "ir/storage.h"
