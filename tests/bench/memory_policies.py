"""The planner against what people set by hand: ten budgets of three models.

A fixed policy is a choice of --checkpoint and --offload for the whole model; it has a plan for a
budget when nothing beyond the choice had to be decided. Equal plans are run once.
"""
import concurrent.futures
import time

from memory_common import (HOST, MODELS, Failure, failures, log, mib, noise, record, table,
                           take_turns)

POLICIES = [(again, away) for away in ("none", "optimizer", "all")
            for again in ("none", "all", "sqrt")]
BUDGETS = 10


def policy_name(policy):
    again, away = policy
    parts = [f"checkpoint {again}"] * (again != "none") + [f"offload {away}"] * (away != "none")
    return " + ".join(parts) or "none"


def budgets_of(whole, least, n):
    return [round(whole + (least - whole) * i / (n - 1)) for i in range(n)]


def flags(policy):
    return ["--checkpoint", policy[0], "--offload", policy[1], "--host-memory", HOST]


def fixed_plans(m6c, name, model, profile, budgets):
    """{(policy, budget): folder's name} of those that fit without help."""
    found = {}

    def try_policy(policy):
        for i, budget in enumerate(budgets):
            folder = f"{name}-{policy[0]}-{policy[1]}-{i}"
            try:
                plan = m6c.compile(folder, model, profile, *flags(policy), memory=budget,
                                   only_plan=True)
            except Failure:
                return  # nor will it fit a smaller one
            if not plan.only_hinted():
                return
            found[policy, budget] = plan

    with concurrent.futures.ThreadPoolExecutor(m6c.threads) as workers:
        list(workers.map(try_policy, POLICIES))
    return found


def compiled(m6c, model, profile, budget, policy, plan, unique):
    """The plan to be run: the one that does the same, or this one with its kernels."""
    key = plan.key()
    if key not in unique:
        options = flags(policy) if policy else ["--host-memory", HOST]
        unique[key] = m6c.compile(plan.name, model, profile, *options, memory=budget)
    return unique[key]


def measure_model(m6c, name, profile, args, deadline):
    model = MODELS[name]
    whole = m6c.compile(f"{name}-whole", model, profile)
    own = m6c.folder / f"{name}.txt"
    own.write_bytes(profile.read_bytes())
    m6c.calibrate(own, whole)
    least = m6c.smallest(model, own, "--host-memory", HOST)
    budgets = budgets_of(whole.device, least, args.budgets)
    fixed, unique, cases = fixed_plans(m6c, name, model, own, budgets), {}, []
    for i, budget in enumerate(budgets):
        chosen = m6c.compile(f"{name}-auto-{i}", model, own, "--host-memory", HOST, memory=budget,
                             only_plan=True)
        rivals = {policy: compiled(m6c, model, own, b, policy, plan, unique)
                  for (policy, b), plan in fixed.items() if b == budget}
        cases.append({"model": name, "budget": budget, "whole": whole.device, "rivals": rivals,
                      "planner": compiled(m6c, model, own, budget, None, chosen, unique)})
    plans = list(unique.values())
    log(f"{name}: {len(plans)} different plans, {mib(least)} to {mib(whole.device)} MiB")
    take_turns(m6c, plans, deadline, args.steps)
    return cases, noise(plans), plans


def judge(case, apart):
    """Adds the rivals' best, and whether the planner is slower than it."""
    planner, rivals = case["planner"], case["rivals"]
    rivals = {policy: plan for policy, plan in rivals.items() if not plan.failed}
    case["noise"] = apart
    if not rivals:
        case.update(best=None, ratio=None, verdict="no fixed policy fits")
        return
    policy = min(rivals, key=lambda p: rivals[p].measured)
    case["best"], case["least"] = policy, min(r.predicted for r in rivals.values())
    case["ratio"] = planner.measured / rivals[policy].measured
    case["verdict"] = ("same plan" if rivals[policy] is planner else
                       "slower" if case["ratio"] > 1 + apart else
                       "faster" if case["ratio"] < 1 - apart else "equal")


def row(case):
    planner, best = case["planner"], case["best"]
    cells = [case["model"], f"{100 * case['budget'] / case['whole']:.0f} % ({mib(case['budget'])})",
             f"{planner.predicted:.1f}", f"{planner.measured:.1f}"]
    if best is None:
        return cells + ["(none fits)", "", "", "", case["verdict"]]
    rival = case["rivals"][best]
    return cells + [policy_name(best), f"{rival.predicted:.1f}", f"{rival.measured:.1f}",
                    f"{case['ratio']:.3f}", case["verdict"]]


def summary(cases):
    held = [c for c in cases if c["verdict"] != "slower"]
    predicted = [c for c in cases if c["best"] is None
                 or c["planner"].predicted <= c["least"] * (1 + 1e-9)]
    lines = [f"The planner's plan is not slower than the best fixed policy in {len(held)} of "
             f"{len(cases)} cases as measured, in {len(predicted)} as predicted; in "
             f"{sum(c['best'] is None for c in cases)} no fixed policy fits. Noise (two standard "
             "errors of a ratio): "
             + ", ".join(f"{m} {100 * n:.1f} %" for m, n in
                         {c["model"]: c["noise"] for c in cases}.items()) + "."]
    lines += [f"Miss: {c['model']} at {mib(c['budget'])} MiB is {c['ratio']:.3f} times "
              f"{policy_name(c['best'])}." for c in cases if c["verdict"] == "slower"]
    return "\n".join(lines)


def run(m6c, args):
    begin, results, all_plans = time.monotonic(), [], []
    profile = m6c.folder / "machine.txt"
    log("policies: calibrating")
    m6c.calibrate(profile, quick=args.quick)
    models = args.models.split(",")
    for i, name in enumerate(models):
        end = begin + 60 * args.minutes * (i + 1) / len(models)
        cases, apart, plans = measure_model(m6c, name, profile, args, end)
        for case in cases:
            judge(case, apart)
        results += cases
        all_plans += plans
    print(f"\n### The planner against fixed policies, link {m6c.link or 'not paced'}\n")
    print(table(["model", "budget (MiB)", "planner, predicted ms", "measured", "best fixed policy",
                 "predicted ms", "measured", "planner / best", ""], map(row, results)))
    print("\n" + summary(results) + failures(all_plans), flush=True)
    return {"link": m6c.link, "plans": [record(p) for p in all_plans],
            "cases": [{"model": c["model"], "budget": c["budget"], "planner": c["planner"].name,
                       "best": c["best"] and policy_name(c["best"]), "ratio": c["ratio"],
                       "noise": c["noise"], "verdict": c["verdict"],
                       "rivals": {policy_name(p): r.name for p, r in c["rivals"].items()}}
                      for c in results]}
