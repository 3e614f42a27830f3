#!/usr/bin/env bash
# Includes go one way: ir/base <- ir <- {frontend, passes, codegen}; ir/base <- runtime; codegen may
# include runtime/plan.h; only the command (frontend/main*) sees everything.
cd "$(dirname "$0")/.." || exit 1
status=0
check() { # what may be included by these files, the files
    local allowed=$1
    shift
    grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$@" /dev/null | grep -vE "\"($allowed)\"" &&
        status=1
}
own='[a-z0-9_.]+' # a file of the same folder that flex, bison or an X-macro gives
check 'ir/base\.h' ir/base*
check "ir/[^\"]*|$own" $(git ls-files ir | grep -v '^ir/base')
check "(ir|passes)/[^\"]*|$own" $(git ls-files passes)
check "(ir|codegen)/[^\"]*|runtime/plan\.h|$own" $(git ls-files codegen)
check "(ir/base\.h|runtime/[^\"]*)|$own" $(git ls-files runtime)
check "(ir|frontend)/[^\"]*|$own" $(git ls-files frontend | grep -v '^frontend/main')
[ $status = 0 ] || echo "the lines above include against the direction of the layers"
exit $status
