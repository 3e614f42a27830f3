"""A model whose state (parameters and AdamW's moments) is four times the device's memory: the
planner's choice tensor by tensor against offloading everything, which is given the best of the
ways to recompute, the planner's own prefetching, and its choice of activations where the policy
alone does not fit: `with the planner's help`.
"""
import time

from memory_common import (DENSE, HOST, MOE, Failure, M6c, failures, log, mib, noise, record,
                           table, take_turns)

MODELS = {
    "thin": (DENSE, dict(layers=8, hidden=384, heads=4, ffn_width=1536, batch=2, length=16,
                         vocab=2048)),
    "wide": (DENSE, dict(layers=8, hidden=384, heads=4, ffn_width=1536, batch=4, length=48,
                         vocab=2048)),
    "experts": (MOE, dict(layers=4, hidden=192, heads=4, ffn_width=768, experts=16, batch=4,
                          length=48, vocab=2048)),
}
STATE = 12  # bytes a parameter: itself and two moments, f32
SHARE = 4
WAYS = ["epl", "all"]  # everything offloaded: fetched just before its use; with prefetching


def plans_of(m6c, name, profile, budget):
    """The planner's plan, and those that offload all."""
    label = f"{name}-{'paced' if m6c.link else 'free'}"
    model, host = MODELS[name], ["--host-memory", HOST]
    planner = m6c.compile(f"{label}-auto", model, profile, *host, memory=budget)
    planner.what, rivals, seen = "planner", [], {planner.key(): planner}
    for how, again in [(h, a) for h in WAYS for a in ("auto", "none", "all", "sqrt")]:
        try:
            plan = m6c.compile(f"{label}-{how}-{again}", model, profile, *host, "--offload", how,
                               "--checkpoint", again, memory=budget)
        except Failure:
            continue
        plan = seen.setdefault(plan.key(), plan)
        if plan is planner:
            continue
        plan.what = f"checkpoint {again}"
        plan.ways = getattr(plan, "ways", set()) | {how}
        if not plan.only_hinted():
            plan.what += ", with the planner's help"
        rivals.append(plan)
    return planner, rivals


def measure(m6c, name, machine, budget_share, args):
    whole = m6c.compile(f"{name}-whole", MODELS[name], machine)
    profile = m6c.folder / f"{name}-{'paced' if m6c.link else 'free'}.txt"
    profile.write_bytes(machine.read_bytes())
    m6c.calibrate(profile, whole, quick=args.quick)
    state = STATE * whole.told["parameters"]
    budget = state // budget_share
    planner, rivals = plans_of(m6c, name, profile, budget)
    return {"model": name, "link": m6c.link, "state": state, "budget": budget, "planner": planner,
            "rivals": rivals, "whole": whole}


def row(case):
    planner, rivals = case["planner"], case["rivals"]
    rivals = [p for p in rivals if not p.failed]
    cells = [case["model"], case["link"] or "not paced", mib(case["state"]), mib(case["budget"]),
             f"{case['whole'].measured:.1f}", f"{planner.predicted:.1f}", f"{planner.measured:.1f}"]
    for how in WAYS:
        mine = [p for p in rivals if how in p.ways]
        if not mine:
            cells += ["(none)", "", "", ""]
            continue
        best = min(mine, key=lambda p: p.measured)
        case.setdefault("ratio", {})[how] = best.measured / planner.measured
        cells += [best.what, f"{best.predicted:.1f}", f"{best.measured:.1f}",
                  f"{case['ratio'][how]:.2f}"]
    return cells


def run(m6c, args):
    begin, cases = time.monotonic(), []
    free = M6c(m6c.folder, None, m6c.threads)
    links = [m6c, free] if m6c.link else [free]
    for link in links:
        machine = m6c.folder / f"machine-{'paced' if link.link else 'free'}.txt"
        log(f"granular: calibrating, link {link.link or 'not paced'}")
        link.calibrate(machine, quick=True)
        cases += [measure(link, name, machine, SHARE, args) for name in MODELS]
    plans = {id(p): p for c in cases for p in [c["planner"], c["whole"], *c["rivals"]]}
    plans = list(plans.values())
    log(f"granular: {len(plans)} plans")
    take_turns(m6c, plans, begin + 60 * args.minutes, args.steps)
    print(f"\n### State {SHARE} times the device's memory\n")
    print(table(["model", "link", "state MiB", "device MiB", "all on the device, ms",
                 "planner, predicted ms", "measured", "offload epl, the best of", "predicted ms",
                 "measured", "/ planner", "offload all, the best of", "predicted ms", "measured",
                 "/ planner"], map(row, cases)))
    print(f"\nNoise (two standard errors of a ratio): {100 * noise(plans):.1f} %."
          + failures(plans), flush=True)
    return {"cases": [{"model": c["model"], "link": c["link"], "state": c["state"],
                       "budget": c["budget"], "ratio": c.get("ratio"),
                       "plans": [dict(record(p), what=getattr(p, "what", "all kept")) for p in
                                 [c["whole"], c["planner"], *c["rivals"]]]} for c in cases]}
