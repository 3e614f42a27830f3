#!/usr/bin/env bash
# From nothing to a trained model: installs what is missing, builds m6c, makes the picture data,
# compiles examples/m6-tiny.m6, trains it, and measures on two held-out splits what it learned.
# STEPS=60 examples/quickstart.sh makes a shorter run.
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${STEPS:-600}
out=build/quickstart
data=$out/emoji
plan=$out/m6-tiny

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. Building m6c"
tests/setup.sh build
[ -f build/build.ninja ] || meson setup build >/dev/null
ninja -C build >build/build.log 2>&1 || { cat build/build.log; exit 3; }
m6c=build/m6c

say "2. Pictures with Chinese captions (MUGE's caption format)"
mkdir -p "$out"
build/emoji-prepare "$data"

say "3. Compiling examples/m6-tiny.m6"
vocab=$(wc -l <"$data/vocab.txt")
$m6c compile examples/m6-tiny.m6 -o "$plan" --set vocab="$vocab" --set steps="$steps"

say "4. Training $steps steps"
rm -rf "$plan/checkpoints"
$m6c run "$plan" --data "$data" --steps "$steps" --log "$out/train.jsonl"

say "5. What it learned: loss on pictures it never saw"
score() { # split, further options
    local split=$1
    shift
    $m6c run "$plan" --data "$data" --validate --split "$split" --json "$@" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["loss"])'
}
for split in test unseen; do
    score $split >"$out/$split.seen"
    score $split --blank-images >"$out/$split.blank"
done
python3 - "$out" "$data/stats.json" <<'PY'
import json, math, sys
out, stats = sys.argv[1], json.load(open(sys.argv[2]))["splits"]
names = {"test": "new combinations of things seen", "unseen": "symbols never seen"}
print(f"{'held-out split':<34}{'unigram':>10}{'blank':>10}{'pictures':>10}{'perplexity':>12}{'learned to see':>16}")
for split, name in names.items():
    seen, blank = (float(open(f"{out}/{split}.{k}").read()) for k in ("seen", "blank"))
    unigram = stats[split]["unigram_loss"]
    print(f"{name:<34}{unigram:>10.3f}{blank:>10.3f}{seen:>10.3f}{math.exp(seen):>12.1f}{blank - seen:>16.3f}")
print("Losses are nats a token. 'blank' is the same model with the pictures taken away; the")
print("difference is what it learned to see.")
PY

say "Made"
cat <<END
$plan                 the plan: plan.txt, kernel sources, checkpoints
$out/train.jsonl      the training log
$data                 pictures and captions

Next:
  $m6c inspect $plan --memory                          where the memory goes
  $m6c dump examples/m6-tiny.m6 --after raise          the IR after a pass
  $m6c run $plan --data $data --steps $((steps + 100)) --resume   train on
END
