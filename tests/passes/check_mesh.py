#!/usr/bin/env python3
"""`m6c check` over small models of every kind and every mesh of 2, 4 and 8 ranks: the sharded program, and
what later passes make of it, is the model within 1e-10, in double precision, over two steps. TIMEOUT: 900"""
import argparse, json, os, pathlib, subprocess, sys, tempfile

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


def check_model(folder, name, ranks):
    """What is wrong, as text; how many meshes were equal, how many refused."""
    p = run(folder, name, "--all-meshes", ranks, "--json")
    wrong, equal, refused = "", 0, 0
    if not lines(p):
        wrong = f"{name} on {ranks} ranks: exit status {p.returncode}\n{p.stderr[-2000:]}"
    for o in lines(p):
        equal += o["equal"]
        refused += o["refused"]
        if not o["equal"]:
            wrong += f"{name} {o['mesh']}: {json.dumps(o)}\n"
    return wrong + (p.stderr if wrong else ""), equal, refused


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
                wrong, equal, refused = check_model(folder, name, ranks)
                print(f"{name:12} {ranks} ranks: {equal} meshes equal, {refused} refused", flush=True)
                if wrong:
                    print(wrong, flush=True)
                    bad.append(f"{name} on {ranks} ranks")
    check(not bad, ", ".join(bad))


main()
