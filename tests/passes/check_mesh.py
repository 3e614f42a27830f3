#!/usr/bin/env python3
"""`m6c check` over small models of every kind and every mesh of 2, 4 and 8 ranks (variants: of 2 and 4), pipelines included: the sharded
program, its stages, and what later passes make of them, is the model within 1e-10, in double precision, over two
steps; no rank waits forever. A pipeline longer than the model is refused. TIMEOUT: 900"""
import argparse, json, os, pathlib, re, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from models import MODELS, text_of
from system import M6C, check


def run(folder, name, *args):
    text, settings = text_of(name)
    path = pathlib.Path(folder) / f"{name}.m6"
    path.write_text(text)
    command = [M6C, "check", path, *map(str, args), *(x for s in settings for x in s.split("=", 1))]
    p = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    return p


def lines(p):
    return [json.loads(line) for line in p.stdout.splitlines() if line.startswith("{")]


TOO_LONG = re.compile(r"(\d+) layers cannot be (\d+) stages|annotated with (\d+) stages, not (\d+)")


def too_long(o):
    """The model has fewer layers than the mesh has stages."""
    m = TOO_LONG.search(o.get("reason", ""))
    layers, stages = [int(x) for x in m.groups() if x] if m else (0, 0)
    return layers < stages and f"pipeline={stages}" in o["mesh"].split(",")


def check_model(folder, name, ranks):
    """What is wrong, as text; how many meshes were equal, how many refused, how many stages the longest had."""
    p = run(folder, name, "--all-meshes", ranks, "--json")
    wrong, equal, refused, stages = "", 0, 0, 1
    if not lines(p):
        wrong = f"{name} on {ranks} ranks: exit status {p.returncode}\n{p.stderr[-2000:]}"
    for o in lines(p):
        equal += o["equal"]
        refused += o["refused"]
        stages = max(stages, o.get("stages", 1))
        if not o["equal"] and not too_long(o):
            wrong += f"{name} {o['mesh']}: {json.dumps(o)}\n"
    if stages < (ranks if ranks <= 2 or name == "ahead" else 2):
        wrong += f"{name} on {ranks} ranks: only {stages} stages\n"
    return wrong + (p.stderr if wrong else ""), equal, refused


def check_order_of_axes(folder):
    """Stages need not be the slowest axis."""
    wrong = ""
    for mesh in ["data=2,pipeline=2", "tensor=2,pipeline=2,data=2", "data=2,pipeline=4,expert=data"]:
        p = run(folder, "moe2", "--mesh", mesh)
        if p.returncode or "equal" not in p.stdout.split():
            wrong += f"moe2 on {mesh}: {p.stdout}{p.stderr}"
    return wrong


# Variants of others: on meshes of 2 and 4 ranks, of 8 where they are named.
FEWER = {"tied", "tied_factor", "smooth", "placed", "placed_data", "zero_factor", "scaled", "overflow", "clip", "rms",
         "crowded", "roomy", "towers_micro", "dropout_width", "micro_image", "gpipe"}
SHARES = [  # what divides batch and token groups, in classes of one rank and of several, beside other axes
    ("dense", "data=2", "5,3"), ("image", "data=3", "3,4,1"), ("dropout", "data=4", "3,3,1,1"),
    ("clip", "data=3", "2,1,1"), ("tensor", "tensor=2,data=2", "5,3"), ("towers", "data=2,tensor=2", "3,1"),
    ("moe2", "data=2", "5,3"), ("crowded", "data=3", "1,2,1"), ("top2", "data=2,expert=2", "3,1"),
    ("moe4", "data=2,expert=2,tensor=2", "1,3"), ("encoder", "data=2", "7,1"), ("shared", "data=3", "1,1,2"),
    ("micro", "data=2", "5,3"), ("groups", "data=4", "1,3,3,1"), ("f16", "data=2", "3,5"),
]


def check_shares(folder):
    """Ranks with unequal parts of the batch."""
    wrong, worst = "", 0
    for name, mesh, shares in SHARES:
        p = run(folder, name, "--mesh", mesh, "--shares", shares, "--json")
        o = lines(p)[0] if lines(p) else {"equal": False}
        if not o["equal"] or o["classes"] < 2:
            wrong += f"{name} on {mesh}, shares {shares}: {p.stdout}{p.stderr}"
        worst = max(worst, o.get("worst", {}).get("error") or 0)
    print(f"unequal shares: {len(SHARES)} meshes, off by {worst:.1e} at most", flush=True)
    return wrong


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--ranks", type=int, nargs="*", default=[2, 4, 8])
    args.add_argument("--print", action="store_true", help="the models' text")
    args.add_argument("name", nargs="*")
    args = args.parse_args()
    bad = []
    with tempfile.TemporaryDirectory(prefix="m6c-test-") as folder:
        for name in args.name or MODELS:
            if args.print:
                print(text_of(name)[0])
                continue
            for ranks in args.ranks:
                if ranks > 4 and name in FEWER and not args.name:
                    continue
                wrong, equal, refused = check_model(folder, name, ranks)
                print(f"{name:12} {ranks} ranks: {equal} meshes equal, {refused} refused", flush=True)
                if wrong:
                    print(wrong, flush=True)
                    bad.append(f"{name} on {ranks} ranks")
        if not args.name:
            wrong = check_order_of_axes(folder)
            print(wrong, end="")
            bad += ["the order of axes"] if wrong else []
            wrong = check_shares(folder)
            print(wrong, end="")
            bad += ["unequal shares"] if wrong else []
    check(not bad, ", ".join(bad))


main()
