#!/usr/bin/env python3
"""Times m6c pack: tests/bench/pack.py [--seconds S] [FILE.CAPACITY.csv]...

Without files: rectangles cut from edge to edge into pieces, so that at the rectangle's height no
byte is free at any time, by number of pieces and seed. With files, named like those of the public
benchmark of MiniMalloc (github.com/google/minimalloc, benchmarks/challenging): each with the
capacity in its name."""
import argparse, json, os, pathlib, random, subprocess, tempfile

M6C = os.environ.get("M6C", str(pathlib.Path(__file__).resolve().parents[2] / "build/m6c"))
WIDE, HIGH = 10000, 1 << 20


def cut(r, pieces):
    """(lower, upper, size) of each piece."""
    todo, done = [(0, WIDE, 0, HIGH, pieces)], []
    while todo:
        a, b, low, high, n = todo.pop()
        if n == 1 or (b - a < 2 and high - low < 2):
            done.append((a, b, high - low))
            continue
        half = r.randrange(1, n)
        if high - low < 2 or (b - a > 1 and r.random() < .5):
            at = r.randrange(a + 1, b)
            todo += [(a, at, low, high, half), (at, b, low, high, n - half)]
        else:
            at = r.randrange(low + 1, high)
            todo += [(a, b, low, at, half), (a, b, at, high, n - half)]
    r.shuffle(done)
    return done


def run(name, path, capacity, seconds):
    p = subprocess.run([M6C, "pack", path, "--capacity", str(capacity), "--json", "--seconds",
                        str(seconds)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = json.loads(p.stderr)
    print(f"{name:28} {said['answer']:10} {said['seconds']:8.3f} s  height {said['height']} "
          f"bound {said['bound']}", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--seconds", type=int, default=10)
    args.add_argument("file", nargs="*")
    args = args.parse_args()
    for name in args.file:
        run(pathlib.Path(name).name, name, int(name.split(".")[-2]), args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        for pieces in [] if args.file else [100, 200, 400, 800]:
            for seed in range(5):
                path = pathlib.Path(folder) / "cut.csv"
                rows = [f"{i},{a},{b},{s}\n" for i, (a, b, s) in
                        enumerate(cut(random.Random(seed), pieces))]
                path.write_text("id,lower,upper,size\n" + "".join(rows))
                run(f"{pieces} pieces, seed {seed}", path, HIGH, args.seconds)


main()
