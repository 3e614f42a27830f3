#!/usr/bin/env bash
# Runs every fuzz target of build-asan for FUZZ_SECONDS (3) from its seeds and from what earlier runs
# found (build-asan/corpus/NAME, not in the repository). An input that fails is left in
# build-asan/corpus as NAME-crash-….
# TIMEOUT: 4000
cd "$(dirname "$0")/../.." || exit 1
command -v clang >/dev/null || exit 77
shopt -s nullglob
status=0 targets=0
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    name=${name#fuzz_}
    program=build-asan/fuzz_$name
    [ -x "$program" ] || continue
    corpus=build-asan/corpus/$name
    mkdir -p "$corpus"
    "$program" -max_total_time="${FUZZ_SECONDS:-3}" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="build-asan/corpus/$name-" "$corpus" "tests/fuzz/seeds/$name" \
        >"$corpus.log" 2>&1 || { tail -40 "$corpus.log"; echo "fuzz_$name failed"; status=1; }
    targets=$((targets + 1))
done
[ $targets -gt 0 ] || { echo "no fuzz targets in build-asan"; exit 77; }
exit $status
