#!/usr/bin/env python3
"""Pipelines and data parallelism over unequal devices: stages and shares are cut by their speeds, the runs are those of
one rank, the simulator sees who waits for whom, and what is said to users. TIMEOUT: 300"""
import itertools, json, os, pathlib, shutil, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "passes"))
import check_equal_mpi as equal
from devices import write_cluster, write_device
from models import FFN, MODELS, decoder, text_of
from system import check, m6c, workspace

# Six equal blocks, four micro-batches; AdamW would make much of rounding.
MODEL = "blocks"
MODELS[MODEL] = decoder([FFN], repeat="repeat 6 as block"), "sgd(lr = 0.1)", "num_micro_batch = 4", "batch=32"
equal.TOKENS[MODEL] = 32 * 6


def machines(folder, devices):
    write_device(folder, "fast", 2, "2GB", devices)
    write_device(folder, "slow", 1, "1GB", devices)
    write_cluster(folder, "backwards", ["slow", "fast"])
    write_cluster(folder, "alike", ["fast", "fast"])
    return write_cluster(folder, "mixed", ["fast", "slow"])


def blocks_of(plan, stage):
    """Which of the blocks' parameters the plan of a stage has."""
    name = "plan.txt" if stage == 0 else f"plan-{stage}.txt"
    out, _ = m6c("inspect", plan / name, "--json")
    return {p["name"].split(".")[0] for p in json.loads(out)["params"] if p["name"].startswith("block")}


def compiled(folder, name, *args):
    text, sets = text_of(MODEL)
    (folder / "model.m6").write_text(text)
    sets = [x for s in sets for x in s.split("=", 1)]
    _, err = m6c("compile", folder / "model.m6", "-o", folder / name, "--plan-only", *sets, *args)
    return folder / name, err


def simulated(plan, cluster):
    return json.loads(m6c("simulate", plan, "--cluster", cluster, "--json")[0])


def cuts(folder, mixed):
    """Twice as fast: more blocks, and the step is faster than with as many on each."""
    pipe, err = compiled(folder, "pipe", "--mesh", "pipeline=2", "--cluster", mixed)
    check("warning" not in err, err)
    even, _ = compiled(folder, "even", "--mesh", "pipeline=2", "--cluster", folder / "alike")
    n = [len(blocks_of(pipe, 0)), len(blocks_of(pipe, 1))]
    check(sum(n) == 6 and n[0] > n[1], f"blocks {n}")
    check(len(blocks_of(even, 0)) == 3, "as many blocks on equal devices")
    uneven_ms, even_ms = (simulated(p, mixed)["predicted_ms"] for p in (pipe, even))
    check(uneven_ms < 0.9 * even_ms, f"{uneven_ms} ms, with even stages {even_ms} ms")
    back, _ = compiled(folder, "back", "--mesh", "pipeline=2", "--cluster", folder / "backwards")
    check(len(blocks_of(back, 0)) < 3, "the slow stage has fewer")
    out, _ = m6c("inspect", pipe)
    lines = [line for line in out.splitlines() if ", on " in line]
    check(len(lines) == 2 and lines[0].endswith(", on fast") and lines[1].endswith(", on slow"), out)
    check("made for: fast" in out and f"… block[{n[0] - 1}], on fast" in out, out)
    out, _ = m6c("dump", folder / "model.m6", "--after", "stages", "--mesh", "pipeline=2", "--cluster", mixed)
    here = [out.count(f"block[{i}]") > out.count("block[0]") / 2 for i in range(6)]
    check(here == [i < n[0] for i in range(6)], f"the dump's stage 0 has blocks {here}")


def budgets(folder, mixed):
    """--memory is a limit for all, a device's own memory for its stage, or class of shares."""
    cases = itertools.product(("pipeline=2", "data=2"), (("2GB", [2e9, 1e9]), ("500MB", [5e8, 5e8])))
    for mesh, (limit, want) in cases:
        plan, _ = compiled(folder, "budget", "--mesh", mesh, "--cluster", mixed, "--memory", limit)
        got = [json.loads(m6c("inspect", plan / f, "--memory", "--json")[0])["memory"]["device"]["budget_bytes"]
               for f in ("plan.txt", "plan-1.txt")]
        check(got == want, f"{mesh} --memory {limit}: budgets {got}")


def simulations(folder, mixed):
    """Ranks of one plan on unequal devices: the fast wait for the slow."""
    data, _ = compiled(folder, "data", "--mesh", "data=2", "--shares", "1,1", "--cluster", mixed)
    o = simulated(data, mixed)
    fast, slow = o["classes"]
    check((fast["machine"], slow["machine"]) == ("fast", "slow") and o["machine"] == "two kinds", o["classes"])
    check(fast["idle_ms"] > 0.3 * o["predicted_ms"] and slow["idle_ms"] < 0.05 * o["predicted_ms"], o["classes"])
    equal_ms = simulated(data, folder / "alike")["predicted_ms"]
    check(1.8 * equal_ms < o["predicted_ms"] < 2.2 * equal_ms, f"{o['predicted_ms']} ms, all fast {equal_ms} ms")
    text, _ = m6c("simulate", data, "--cluster", mixed)
    check("all wait for rank 1  on slow" in text, text)
    o = simulated(folder / "pipe", mixed)
    check([(c["stage"], c["machine"]) for c in o["classes"]] == [(0, "fast"), (1, "slow")], o["classes"])


def shares(folder, mixed):
    """Of twice as fast a device twice the samples: nobody waits long, and the step is faster than with equal shares."""
    ms = {}
    for name, args in (("equal", ["--shares", "1,1"]), ("balanced", [])):
        plan, _ = compiled(folder, name, "--mesh", "data=2", "--cluster", mixed, "--set", "batch=48", *args)
        o = simulated(plan, mixed)
        ms[name] = o["predicted_ms"]
        want = [(0, 1, "fast"), (0, 1, "slow")] if name == "equal" else [(0, 2, "fast"), (0, 1, "slow")]
        check([(c["stage"], c["share"], c["machine"]) for c in o["classes"]] == want, o["classes"])
        idle = o["classes"][0]["idle_ms"] / ms[name]
        check(idle > 0.4 if name == "equal" else idle < 0.1, f"{name}: the fast device is idle for {idle} of the step")
    print(f"batch 48 on devices 2:1: {ms['equal']:.2f} ms with equal shares, {ms['balanced']:.2f} ms with 2,1")
    check(ms["balanced"] < 0.72 * ms["equal"], f"{ms}")


def meetings(folder):
    """Of three fast ranks the one that adds up gradients with the slow one is a class of its own."""
    wide = folder / "wide"
    wide.mkdir()
    machines(wide, 1)
    (wide / "mixed").write_text("m6c-machine 1\nname \"four\"\ngroup 3 \"fast\"\ngroup 1 \"slow\"\n"
                                "link net 10GB/s latency 1us\n")
    plan, err = compiled(wide, "pairs", "--mesh", "pipeline=2,data=2", "--cluster", wide / "mixed")
    check("warning: ranks of one stage" not in err, "pipeline comes first already")
    o = simulated(plan, wide / "mixed")
    got = [(c["stage"], c["first_rank"], c["ranks"], c["machine"]) for c in o["classes"]]
    # the stages' fast ranks that talk to a slow one are others than those that do not
    check(got == [(0, 0, 1, "fast"), (0, 1, 1, "fast"), (1, 2, 1, "fast"), (1, 3, 1, "slow")], got)


def refusals(folder, mixed):
    write_cluster(folder, "wrong", ["fast", "nobody"])
    _, err = m6c("compile", folder / "model.m6", "-o", folder / "x", "--mesh", "pipeline=2", "--cluster",
                 folder / "wrong", status=1)
    check("wrong:4:9: error: " in err and "nobody: No such file" in err, err)
    _, err = m6c("compile", folder / "model.m6", "-o", folder / "x", "--mesh", "pipeline=3", "--cluster", mixed,
                 status=1)
    check("3 ranks need as many devices; 'two kinds' has 2" in err, err)
    one, _ = compiled(folder, "one")
    _, err = m6c("calibrate", one, "-o", mixed, status=1)
    check("is a cluster of groups: measure the machine of each" in err, err)
    out, _ = m6c("search", folder / "model.m6", "--cluster", mixed, "--set", "batch=32", "--memory", "1500MB")
    check("unequal devices: formulas take all for the slowest" in out and "each with 1.0 GB" in out, out)


def runs(folder, mixed):
    (folder / "run").mkdir()
    want, want_losses, wrong = equal.train(folder / "run", MODEL)
    check(not wrong, wrong)
    os.chdir(folder)  # options are part of a folder's name
    got, losses, wrong = equal.train(folder / "run", MODEL, f"pipeline=2 --cluster {mixed.name}")
    check(not wrong, wrong)
    off, name = equal.compare(got, want)
    check(off <= equal.BOUND, f"{name} is off by {off}")
    check(all(abs(a - b) <= 1e-5 * abs(b) for a, b in zip(losses, want_losses)), f"{losses}, not {want_losses}")


def main():
    with workspace() as folder:
        folder = pathlib.Path(folder)
        mixed = machines(folder, 1)
        cuts(folder, mixed)
        budgets(folder, mixed)
        simulations(folder, mixed)
        shares(folder, mixed)
        meetings(folder)
        refusals(folder, mixed)
        text, sets = text_of(MODEL)
        out, _ = m6c("check", folder / "model.m6", *(x for s in sets for x in s.split("=", 1)), "--mesh",
                     "pipeline=2", "--cluster", mixed)
        check(out.endswith("equal\n"), out)
        if shutil.which("mpirun"):
            runs(folder, mixed)


main()
