#!/usr/bin/env python3
"""A cluster of unequal devices gives the ranks along data their shares of the batch, by speed and as memory allows;
it is said, kept in the plan, and the model trained is the same. TIMEOUT: 120"""
import json, pathlib, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from devices import write_cluster, write_device
from models import ADAMW, ATTENTION, MODELS, MOE, decoder, text_of
from system import M6C, check, m6c, workspace

KINDS = {"fast": (5, "2GB"), "slow": (3, "2GB"), "half": (2.5, "2GB"), "small": (5, "110KB"), "tiny": (5, "1KB")}
BY_SPEED = "samples {} by the devices' speed; {}"
MOVED, TIGHT = "memory moved {}", "their memories do not suffice"
MODELS["routed"] = decoder([ATTENTION, MOE.replace("group = length", "group = batch * length")]), ADAMW
# model, mesh, groups of the cluster: shares, what is said, settings
CASES = [
    ("dense", "data=2", ["fast", "slow"], "5,3", BY_SPEED.format("5,3 of 8", MOVED.format(0))),
    ("dense", "data=2", ["small", "slow"], "1,3", BY_SPEED.format("2,6 of 8", MOVED.format(3))),
    ("dense", "data=2", ["tiny", "slow"], "5,3", BY_SPEED.format("5,3 of 8", TIGHT)),
    ("moe2", "data=4", ["fast", "fast", "slow", "slow"], "3,3,1,1", BY_SPEED.format("3,3,1,1 of 8", MOVED.format(0))),
    # of no even batch: 9 samples, and 9 in each of two micro-batches
    ("dense", "data=2", ["fast", "half"], "2,1", BY_SPEED.format("6,3 of 9", MOVED.format(0)), "batch=9"),
    ("dense", "data=2", ["half", "half"], "5,4", BY_SPEED.format("5,4 of 9", MOVED.format(0)), "batch=9"),
    # one group of routed tokens for the whole batch, which all ranks gather anyway
    ("routed", "data=2", ["fast", "half"], "2,1", BY_SPEED.format("6,3 of 9", MOVED.format(0)), "batch=9"),
    ("micro", "data=2", ["half", "fast"], "1,2", BY_SPEED.format("3,6 of 9", MOVED.format(0)), "batch=18"),
    ("dense", "data=2", ["fast", "fast"], None, None),
    ("dense", "data=2,expert=data", ["fast", "slow"], None, None),
    ("dense", "tensor=2", ["fast", "slow"], None, None),
]
# What is not shared unequally: one group of devices, fewer samples than ranks, experts on data's devices
REFUSED = [
    (["fast"], "data=2", "a batch of 9 cannot be shared by the 2 ranks of data", "batch=9"),
    (["fast", "half"], "data=2", "a batch of 1 cannot be shared by the 2 ranks of data", "batch=1"),
    (["fast", "half"], "data=2,expert=data", "batch = 9 cannot be shared by the 2 ranks of data", "batch=9"),
]


def cluster_of(folder, groups):
    return write_cluster(folder, "-".join(groups) + "-cluster", groups, max(1, 2 // len(groups)))


def case(folder, model, mesh, groups, shares, said, *settings):
    cluster = cluster_of(folder, groups)
    text = folder / f"{model}.m6"
    text.write_text(text_of(model)[0])
    sets = [x for s in (*text_of(model)[1], *(f"--set={s}" for s in settings)) for x in s.split("=", 1)]
    common = [text, "--mesh", mesh, "--cluster", cluster, *sets]
    what = f"{model} on {mesh}, {groups}"
    out, _ = m6c("compile", *common, "-o", folder / "plan", "--plan-only")
    plan = (folder / "plan/plan.txt").read_text().split("\n")
    check((said in out.split("\n")) if said else "samples" not in out, f"{what}: {out}")
    check([x for x in plan if x.startswith(("shares ", "balanced "))] ==
          ([f"shares {shares}", f'balanced "{said}"'] if said else []), f"{what}: {plan[:20]}")
    o = json.loads(m6c("check", *common, "--json")[0])
    check(o["equal"] and o["mesh"] == mesh + (f" shares {shares}" if shares else ""), f"{what}: {o}")
    inspected(folder / "plan", mesh, shares, said)
    print(what, shares, o["worst"]["error"])


def inspected(plan, mesh, shares, said):
    """Which shares there are, and whose a plan is."""
    out, _ = m6c("inspect", plan)
    check(("shares " in out) == bool(shares), out)
    if not shares:
        return
    last = len(shares.split(",")) - 1
    first = "s 0 to 1" if last == 3 else " 0"
    check(f"shares {shares} of data: this plan is for its rank{first}\n{said}\n" in out, out)
    out, _ = m6c("inspect", plan / "plan-1.txt")
    second = "s 2 to 3" if last == 3 else " 1"
    check(f"this plan is for its rank{second}\n" in out, out)
    o = json.loads(m6c("inspect", plan, "--json")[0])["shares"]
    check(o == {"of_data": [int(s) for s in shares.split(",")], "class": 0, "chosen": said}, o)


def refusals(folder):
    for groups, mesh, why, setting in REFUSED:
        _, err = m6c("compile", folder / "dense.m6", "--mesh", mesh, "--cluster", cluster_of(folder, groups), "--set",
                     setting, "-o", folder / "refused", "--plan-only", status=1)
        check(f": error: {why}" in err, err)


with workspace() as folder:
    folder = pathlib.Path(folder)
    for name, (speed, memory) in KINDS.items():
        write_device(folder, name, speed, memory)
    for args in CASES:
        case(folder, *args)
    refusals(folder)
    # What the model states is kept.
    out, _ = m6c("compile", folder / "dense.m6", "--mesh", "data=2", "--shares", "1,1", "--cluster",
                 folder / "fast-slow-cluster", "-o", folder / "stated", "--plan-only")
    check("samples" not in out and "\nshares" not in (folder / "stated/plan.txt").read_text(), out)
