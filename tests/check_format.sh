#!/usr/bin/env bash
# Every C file is as clang-format would write it, and keeps to the size limits: files under 800
# lines, functions at most 120 (the case labels of a flat switch do not count).
cd "$(dirname "$0")/.." || exit 1
files=$(git ls-files '*.c' '*.h')
status=0
if command -v clang-format >/dev/null; then
    clang-format --dry-run -Werror $files 2>&1 | grep -E 'error|warning' && status=1
fi
awk '
    FNR == 1 { start = 0 }
    FNR == 800 { print FILENAME ": 800 lines or more"; bad = 1 }
    /^[A-Za-z_].*\) *\{$/ || /^  *.*\) \{$/ && !start && prev ~ /^[A-Za-z_].*[,(]$/ { start = FNR; cases = 0 }
    start && /^ *(case .*|default):/ { cases++ }
    /^}/ && start {
        n = FNR - start + 1 - cases
        if (n > 120) { print FILENAME ":" start ": a function of " n " lines"; bad = 1 }
        start = 0
    }
    { prev = $0 }
    END { exit bad }' $files || status=1
exit $status
