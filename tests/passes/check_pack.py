#!/usr/bin/env python3
"""m6c pack from outside: rows come back with offsets that do not overlap, heights and bounds are as
said, mistakes in files and options are named; and every arena of the examples' and the tests' plans
is at most 1 % above its largest live sum."""
import csv, io, json, pathlib, random, re, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from system import HERE, M6C, check, m6c, workspace

ROOT = HERE.parent.parent
FIVE = ROOT / "tests/fuzz/seeds/pack/five.csv"


def rows(text):
    return [{k: v if k == "id" else int(v) for k, v in r.items()}
            for r in csv.DictReader(io.StringIO(text))]


def check_rows(given, got):
    """The same rows, and no two alive at one time on the same bytes; returns the height."""
    check([{k: r[k] for k in ("id", "lower", "upper", "size")} for r in got] == given, "other rows")
    for i, a in enumerate(got):
        check(a["offset"] >= 0, f"offset {a['offset']}")
        for b in got[:i]:
            check(a["lower"] >= b["upper"] or b["lower"] >= a["upper"] or
                  a["offset"] >= b["offset"] + b["size"] or b["offset"] >= a["offset"] + a["size"],
                  f"{a} overlaps {b}")
    return max((r["offset"] + r["size"] for r in got), default=0)


def pack(path, *more, status=0):
    out, err = m6c("pack", path, "--json", *more, status=status)
    return out, json.loads(err)


def answers(folder):
    out, said = pack(FIVE)
    check(check_rows(rows(FIVE.read_text()), rows(out)) == 12 == said["height"] == said["bound"], said)
    check(said["answer"] == "optimal", said)
    out, said = pack(FIVE, "--capacity", "1KiB", "-o", folder / "out.csv")
    check(out == "" and said["answer"] in ("fits", "optimal") and said["capacity"] == 1024, said)
    check_rows(rows(FIVE.read_text()), rows((folder / "out.csv").read_text()))
    out, said = pack(FIVE, "--capacity", "11", status=1)
    check(out == "" and said["answer"] == "impossible" and said["bound"] == 12, said)
    _, err = m6c("pack", FIVE, "--capacity", "11B", status=1)
    check("cannot fit into 11 bytes: it needs at least 12" in err, err)
    out, _ = m6c("pack", FIVE.parent / "columns.csv")
    check(out == 'id,lower,upper,size,offset\na,-1,3,7,0\nb,2,9,0,7\n', out)
    (folder / "none.csv").write_text("id,lower,upper,size\n")
    check(m6c("pack", folder / "none.csv")[0] == "id,lower,upper,size,offset\n", "no rows")


def random_ones(folder):
    """Sizes and lifetimes of a few magnitudes; half have a capacity near what is alive at most."""
    for seed in range(12):
        r = random.Random(seed)
        given = []
        for i in range(r.randrange(1, 120)):
            lower = r.randrange(200)
            given.append({"id": f"b{i}", "lower": lower, "upper": lower + 1 + int(r.expovariate(.05)),
                          "size": r.randrange(1, 100) << r.randrange(8)})
        path = folder / "random.csv"
        with open(path, "w", newline="") as f:
            w = csv.DictWriter(f, ["size", "upper", "id", "lower"], lineterminator="\r\n")
            w.writeheader()
            w.writerows(given)
        live = max(sum(b["size"] for b in given if b["lower"] <= a["lower"] < b["upper"]) for a in given)
        more = ["--capacity", str(live + live // 50)] if seed % 2 else ["--seconds", "1"]
        out, said = pack(path, *more)
        check(check_rows(given, rows(out)) == said["height"] >= said["bound"] >= live, said)


def mistakes(folder):
    for text, what in (
        ("", "1:1: error: the file is empty"),
        ("id,lower,upper\n", "1:1: error: expected a header line with the columns id, lower, upper "
                             "and size; there is no 'size'"),
        ("id,lower,upper,size,id\n", "1:21: error: column 'id' is here twice"),
        ("id,lower,upper,size\na,1,2\n", "2:1: error: this row has 3 columns, the header line 4"),
        ("id,lower,upper,size\n\na,1,x,4\n", "3:5: error: upper must be a whole number"),
        ("id,lower,upper,size\na,1,1,4\n", "2:5: error: upper must be above lower"),
        ("id,lower,upper,size\na,1,2,-4\n", "2:7: error: a size cannot be negative"),
        ("id,lower,upper,size\na,1,2,4611686018427387904\n", "2:7: error: the sizes add up to"),
        ("id,lower,upper,size\na,1,2,99999999999999999999\n", "2:7: error: size must be a whole"),
        ('id,lower,upper,size\n"a,1,2,3\n', "2:1: error: this quote is not closed"),
        ('id,lower,upper,size\n"a"b,1,2,3\n', "2:4: error: expected a comma"),
    ):
        path = folder / "wrong.csv"
        path.write_text(text)
        _, err = m6c("pack", path, status=1)
        check(f"wrong.csv:{what}" in err, f"{what}: {err}")
    for capacity in ("-1", "0", "1 MiB", "1Mib", "MiB", "1e99", "99999999TiB"):
        p = subprocess.run([M6C, "pack", FIVE, "--capacity=" + capacity], capture_output=True, text=True)
        check(p.returncode == 2 and "--capacity wants a size" in p.stderr, f"{capacity}: {p.stderr}")
    m6c("pack", folder / "missing.csv", status=1)


def arenas(folder):
    """Each memory's arena against the largest sum of bytes alive in it, from the plan's text."""
    models = [*sorted((ROOT / "examples").rglob("*.m6")), *sorted((ROOT / "tests/runtime").glob("*.m6")),
              *sorted((ROOT / "tests/bench").glob("*.m6"))]
    seen = 0
    for model in models:
        plan = folder / model.stem
        p = subprocess.run([M6C, "compile", model, "-o", plan, "--plan-only"], capture_output=True,
                           text=True)
        if p.returncode:
            continue  # needs what it is not given here; its own test says so
        for path in plan.glob("*.txt"):
            seen += 1
            text = path.read_text()
            sums = {key: dict(re.findall(r"(\w+)=(\d+)", line))
                    for key, line in re.findall(r"^(arena|lower-bound) (.*)$", text, re.M)}
            check(sums.get("arena"), f"{path}: no line 'arena'")
            for mem, size in sums["arena"].items():
                bound = int(sums["lower-bound"][mem])
                check(bound <= int(size) <= 1.01 * bound, f"{model}: {mem} {size}, live {bound}")
    check(seen >= 6, f"only {seen} plans")


with workspace() as name:
    for test in (answers, random_ones, mistakes, arenas):
        test(pathlib.Path(name))
