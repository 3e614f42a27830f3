"""Predicted time of a step against the measured one, of plans with recomputation and with copies.

The machine is measured once; of each model and batch the plan without budgets is measured too, and
the plans under budgets are predicted from the prices of its pieces. `machine alone` is what the
machine's profile says without them.
"""
import statistics
import time

from memory_common import HOST, MODELS, failures, log, mib, record, table, take_turns

BATCHES = (1, 0.5)  # of the model's batch


def variants(m6c, model, profile, whole):
    """[(what, options, budget)] of one model and batch."""
    alone = ["--host-memory", "0B", "--offload", "none"]
    least = m6c.smallest(model, profile, "--offload", "none")
    away = ["--host-memory", HOST]
    lowest = m6c.smallest(model, profile, *away)
    middle = round(least + 0.4 * (whole - least))
    return [("checkpoint all", alone[2:] + ["--checkpoint", "all"], None),
            ("recomputed", alone[2:], middle),
            ("moved", away, round(0.7 * whole)),
            ("moved", away, round(0.35 * whole)),
            ("moved", away, round(1.05 * lowest))]


def make_plans(m6c, name, share, machine, quick):
    source, configs = MODELS[name]
    model = source, dict(configs, batch=max(int(configs["batch"] * share), 1))
    label = f"{name}-{model[1]['batch']}"
    whole = m6c.compile(f"{label}-whole", model, machine)
    own = m6c.folder / f"{label}.txt"
    own.write_bytes(machine.read_bytes())
    m6c.calibrate(own, whole, quick=quick)
    plans = [m6c.compile(f"{label}-whole", model, own)]
    plans[0].what = "all kept"
    for i, (what, options, budget) in enumerate(variants(m6c, model, own, whole.device)):
        plan = m6c.compile(f"{label}-{i}", model, own, *options, memory=budget)
        plan.what = what
        plans.append(plan)
    for plan in plans:
        plan.model, plan.batch, plan.whole = name, model[1]["batch"], whole.device
        plan.alone = m6c.simulate(plan, machine)
    log(f"{label}: {len(plans)} plans")
    return plans


def error(predicted, measured):
    return 100 * (predicted / measured - 1)


def row(p):
    return [p.model, p.batch, p.what, f"{mib(p.device)} ({100 * p.device / p.whole:.0f} %)",
            f"{p.predicted:.1f}", f"{p.measured:.1f}", f"{error(p.predicted, p.measured):+.1f} %",
            f"{error(p.predicted, min(p.fastest)):+.1f} %", f"{error(p.alone, p.measured):+.1f} %"]


def summary(plans):
    lines = []
    for what, of in (("plan's pieces measured", lambda p: error(p.predicted, p.measured)),
                     ("machine alone", lambda p: error(p.alone, p.measured))):
        errors = [of(p) for p in plans]
        worst = max(plans, key=lambda p: abs(of(p)))
        lines.append(f"{what}: mean absolute error {statistics.mean(map(abs, errors)):.1f} %, mean "
                     f"{statistics.mean(errors):+.1f} %, worst {of(worst):+.1f} % ({worst.model}, "
                     f"batch {worst.batch}, {worst.what}).")
    off = [p for p in plans if abs(error(p.predicted, p.measured)) > 12]
    lines.append(f"{len(off)} of {len(plans)} plans are off by more than 12 %.")
    return "\n".join(lines)


def run(m6c, args):
    begin, plans = time.monotonic(), []
    machine = m6c.folder / "machine.txt"
    log("predict: calibrating")
    m6c.calibrate(machine, quick=args.quick)
    for name in args.models.split(","):
        for share in BATCHES:
            plans += make_plans(m6c, name, share, machine, args.quick)
    take_turns(m6c, plans, begin + 60 * args.minutes, args.steps)
    failed = failures(plans)
    plans = [p for p in plans if not p.failed]
    print(f"\n### Predicted and measured, {len(plans)} plans, link {m6c.link or 'not paced'}\n")
    print(table(["model", "batch", "plan", "device MiB (of all kept)", "predicted ms", "measured",
                 "error", "of the fastest step", "machine alone"], map(row, plans)))
    print("\n" + summary(plans) + failed, flush=True)
    return {"link": m6c.link, "plans": [
        record(p) | {"model": p.model, "batch": p.batch, "what": p.what, "alone_ms": p.alone}
        for p in plans]}
