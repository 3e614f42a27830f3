#!/usr/bin/env python3
"""A cluster of unequal devices gives the ranks along data their shares of the batch, by speed and as memory allows;
it is said, kept in the plan, and the model trained is the same. TIMEOUT: 120"""
import json, pathlib, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from models import text_of
from system import M6C, check, m6c, workspace

DEVICE = """m6c-machine 1
name "{name}"
target cpu
devices 1
launch 1ns
vector {speed}GOPS
bandwidth {speed}GB/s
peak f32 {speed}GFLOPS
memory device {memory}
memory host 8GB
copy in 1GB/s
copy out 1GB/s
copy read 1GB/s
copy write 1GB/s
"""
CLUSTER = 'm6c-machine 1\nname "two kinds"\n{groups}link net 10GB/s latency 1us\n'
KINDS = {"fast": (5, "2GB"), "slow": (3, "2GB"), "small": (5, "110KB"), "tiny": (5, "1KB")}
# model, mesh, groups of the cluster: shares, what is said
CASES = [
    ("dense", "data=2", ["fast", "slow"], "5,3", "samples 5,3 of 8 by the devices' speed; memory moved 0"),
    ("dense", "data=2", ["small", "slow"], "1,3", "samples 2,6 of 8 by the devices' speed; memory moved 3"),
    ("dense", "data=2", ["tiny", "slow"], "5,3", "samples 5,3 of 8 by the devices' speed; their memories do not suffice"),
    ("moe2", "data=4", ["fast", "fast", "slow", "slow"], "3,3,1,1", "samples 3,3,1,1 of 8 by the devices' speed; memory moved 0"),
    ("dense", "data=2", ["fast", "fast"], None, None),
    ("dense", "data=2,expert=data", ["fast", "slow"], None, None),
    ("dense", "tensor=2", ["fast", "slow"], None, None),
]


def case(folder, model, mesh, groups, shares, said):
    cluster = folder / "-".join(groups)
    cluster.write_text(CLUSTER.format(groups="".join(f'group 1 "{g}"\n' for g in groups)))
    text = folder / f"{model}.m6"
    text.write_text(text_of(model)[0])
    sets = [x for s in text_of(model)[1] for x in s.split("=", 1)]
    common = [text, "--mesh", mesh, "--cluster", cluster, *sets]
    what = f"{model} on {mesh}, {groups}"
    out, _ = m6c("compile", *common, "-o", folder / "plan", "--plan-only")
    plan = (folder / "plan/plan.txt").read_text().split("\n")
    check((said in out.split("\n")) if said else "samples" not in out, f"{what}: {out}")
    check([x for x in plan if x.startswith(("shares ", "balanced "))] ==
          ([f"shares {shares}", f'balanced "{said}"'] if said else []), f"{what}: {plan[:20]}")
    o = json.loads(m6c("check", *common, "--json")[0])
    check(o["equal"] and o["mesh"] == mesh + (f" shares {shares}" if shares else ""), f"{what}: {o}")
    print(what, shares, o["worst"]["error"])


with workspace() as folder:
    folder = pathlib.Path(folder)
    for name, (speed, memory) in KINDS.items():
        (folder / name).write_text(DEVICE.format(name=name, speed=speed, memory=memory))
    for args in CASES:
        case(folder, *args)
    # What the model states is kept.
    out, _ = m6c("compile", folder / "dense.m6", "--mesh", "data=2", "--shares", "1,1", "--cluster", folder / "fast-slow",
                 "-o", folder / "stated", "--plan-only")
    check("samples" not in out and "\nshares" not in (folder / "stated/plan.txt").read_text(), out)
