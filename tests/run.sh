#!/usr/bin/env bash
# Everything a change must pass: installs what is missing, builds with gcc, and with clang and its
# address and undefined-behaviour sanitizers, then runs every test (tests/run.py). The last line is
# "N passed, N failed, N skipped". Arguments choose tests by a part of their name.
set -uo pipefail
cd "$(dirname "$0")/.."

build() { # directory, compiler, meson options
    local dir=$1 cc=$2
    shift 2
    mkdir -p "$dir"
    {
        { [ -f "$dir/build.ninja" ] || CC=$cc meson setup "$dir" "$@"; } && ninja -C "$dir"
    } >"$dir/build.log" 2>&1 && return 0
    cat "$dir/build.log"
    echo "run.sh: building $dir failed"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
}

tests/setup.sh build oracle cuda slurm || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
build build gcc
build build-asan clang -Db_sanitize=address,undefined -Db_lundef=false
exec python3 tests/run.py -b build -b build-asan:unit,text,check_language "$@"
