#!/bin/sh
# Prints the file $1 as a C array named $2 with its size, NUL-terminated.
set -eu
echo '#include <stddef.h>'
echo "extern const char $2[];"
echo "extern const size_t $2_size;"
echo "const char $2[] = {"
od -An -v -tx1 "$1" | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'
echo '0};'
echo "const size_t $2_size = sizeof $2 - 1;"
