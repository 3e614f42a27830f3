#!/usr/bin/env python3
"""What ranks send in a step: the formulas, `inspect --comm`, what runs count of each collective on each rank, and,
of all_to_alls, the messages and bytes that MPI itself counts between each two ranks (Open MPI's monitoring).
TIMEOUT: 600"""
import collections, concurrent.futures, json, os, pathlib, re, shutil, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "passes"))
from models import text_of
from system import M6C, check, m6c, steps, workspace

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1", M6C_THREADS="1")
SMALL = 64  # bytes: what ranks tell each other beside all_to_alls in a forward step is smaller
MAX_SPLITS = 5  # the setting's default
# model, mesh, ranks, more of `compile`, collectives that the training plan must have
PLANS = [("moe2", "expert=2", 2, [], {"all_to_all", "all_reduce"}),
         ("zero", "data=2,tensor=2", 4, [], {"reduce_scatter", "all_gather", "all_reduce"}),
         ("moe2", "data=4,expert=data", 4, [], {"all_to_all", "all_reduce"}),
         ("moe2", "data=4,expert=data", 4, ["--all-to-all", "2"], {"all_to_all", "all_reduce"}),
         ("moe1", "data=8,expert=data", 8, [], {"all_to_all", "all_reduce"}),
         ("moe1", "data=8,expert=data", 8, ["--all-to-all", "4"], {"all_to_all", "all_reduce"}),
         ("zero", "data=8", 8, [], {"reduce_scatter", "all_gather"})]


def formula(kind, n, size):
    """Messages and bytes that one of n ranks sends of an operand (of an all_gather: a result) of `size` bytes."""
    times = 2 if kind == "all_reduce" else 1
    return times * (n - 1), times * size * (n - 1) / n


def compiled(folder, name, mesh, *args):
    text, sets = text_of(name)
    plan = folder / re.sub(r"\W", "-", "-".join([name, mesh, *args]))
    plan.mkdir()
    (plan / "model.m6").write_text(text)
    m6c("compile", plan / "model.m6", "-o", plan, "--mesh", mesh, *args, *(x for s in sets for x in s.split("=", 1)))
    return plan


def run(plan, ranks, count, *args, mpi=()):
    command = ["mpirun", "-n", ranks, *mpi, M6C, "run", plan, "--data", "random:1", "--steps", count, "--save-every", 0,
               *args]
    p = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    check(p.returncode == 0, f"{plan.name}: exit status {p.returncode}\n{p.stderr}")
    return p


def planned(plan):
    """The collectives of a plan by step, as the formulas have them and as inspect says; and the members of groups."""
    comm = json.loads(m6c("inspect", plan, "--comm", "--json")[0])["comm"]
    group = {g["name"]: g["first"] for g in comm["groups"]}
    for m in comm["messages"]:
        want = formula(m["kind"], len(group[m["group"]]), m["bytes"])
        check((m["messages"], m["sent_bytes"]) == want, f"{plan.name}: inspect says {m}, the formula {want}")
    return {m["step"]: m for m in comm["messages"]}, group


def check_run(plan, ranks, kinds):
    """What each rank counts of each collective is what was planned; and a step's sum, and the run's summary."""
    want, _ = planned(plan)
    check(kinds <= {m["kind"] for m in want.values()}, f"{plan.name}: {kinds} are to be tested")
    few = collections.Counter(m["kind"] for m in want.values() if m["group"] == "data")
    check("reduce_scatter" not in kinds or max(few["reduce_scatter"], few["all_gather"]) <= MAX_SPLITS,
          f"{plan.name}: {few}")
    p = run(plan, ranks, 2, "--json", "--trace", plan / "trace")
    seen = collections.Counter()
    for e in json.loads((plan / "trace").read_text()):
        if e["ph"] != "X" or "messages" not in e["args"]:
            continue
        a, m = e["args"], want[e["args"]["step"]]
        check((a["kind"], a["group"], a["messages"]) == (m["kind"], m["group"], m["messages"]) and
              abs(a["sent_bytes"] - m["sent_bytes"]) < 1e-6, f"{plan.name}: rank {e['pid']} counted {a}, planned {m}")
        seen[e["pid"], a["step"]] += 1
    check(seen == {(r, s): 2 for r in range(ranks) for s in want}, f"{plan.name}: collectives that ran: {seen}")
    messages, size = (sum(m[k] for m in want.values()) for k in ("messages", "sent_bytes"))
    for o in steps(p.stdout).values():
        check(o["messages"] == messages and abs(o["sent_bytes"] - size) < 1e-6, f"{plan.name}: {o}, planned {messages}")
    for kind in kinds:
        check(re.search(rf"sent in a step: \d+ {kind} over ", p.stderr), f"{plan.name}: no line on {kind}\n{p.stderr}")


def sent_by_mpi(plan, ranks, count):
    """Messages of at least SMALL bytes, and all their bytes, from rank to rank, as MPI counts them."""
    at = plan / f"sent-{count}"
    run(plan, ranks, count, mpi=["--mca", "pml_monitoring_enable", 1, "--mca", "pml_monitoring_enable_output", 3,
                                 "--mca", "pml_monitoring_filename", at])
    sent = {}
    for r in range(ranks):
        for line in pathlib.Path(f"{at}.{r}.prof").read_text().splitlines():
            m = re.match(r"[EI]\s+(\d+)\s+(\d+)\s+(\d+) bytes\s+(\d+) msgs sent\s+([\d,]+)", line)
            if not m:
                continue
            # how many are empty, of 1 byte, of 2 and 3, of 4 to 7, ...: the small ones here are of 4, 8 or 16
            number = list(map(int, m[5].split(",")))
            first = SMALL.bit_length()
            small = sum(n << (i - 1) for i, n in enumerate(number[1:first], 1))
            sent[int(m[1]), int(m[2])] = sum(number[first:]), int(m[3]) - small
    return sent


def check_mpi(plan, ranks, part):
    """Between each two ranks MPI sends what the all_to_alls of the plan say, and nothing else that is not small."""
    messages, group = planned(plan)
    exchanges = [m for m in messages.values() if m["kind"] == "all_to_all"]
    check(exchanges and all(m["sent_bytes"] < SMALL for m in messages.values() if m not in exchanges), plan.name)
    if part:  # first among `part` neighbours, then among those that have the same place there
        together, size = len(exchanges) // 2, exchanges[0]["bytes"]
        want = part - 1 + ranks // part - 1, size * (part - 1) / part + size * (1 - part / ranks)
        got = [sum(m[k] for m in exchanges) / together for k in ("messages", "sent_bytes")]
        check(got == list(want), f"{plan.name}: an exchange in two phases sends {got}, the formula is {want}")
    few, more = sent_by_mpi(plan, ranks, 1), sent_by_mpi(plan, ranks, 4)
    for a in range(ranks):
        for b in range(ranks):
            together = [m for m in exchanges if a != b and b in members(group[m["group"]], a)]
            size = [m["bytes"] / len(group[m["group"]]) for m in together]
            check(all(s >= SMALL for s in size), f"{plan.name}: blocks of {size}")
            got = [(x - y) / 3 for x, y in zip(more.get((a, b), (0, 0)), few.get((a, b), (0, 0)))]
            check(got == [len(size), sum(size)], f"{plan.name}: from rank {a} to {b} MPI sends {got[0]} messages, "
                  f"{got[1]} bytes a step, planned are {len(size)} of {size}")
    return len(exchanges)


def members(first, rank):
    """Of the group that `rank` is in, where `first` is rank 0's: groups of neighbours, or of every n-th rank."""
    stride, n = first[1], len(first)
    index = rank // stride % n
    return [rank + (i - index) * stride for i in range(n)]


def monitored():
    p = subprocess.run(["ompi_info", "--parsable"], capture_output=True, text=True)
    return "mca:pml:monitoring:" in p.stdout


if not shutil.which("mpirun"):
    print("no mpirun")
    sys.exit(77)
with workspace() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
    folder = pathlib.Path(folder)
    plans = [pool.submit(compiled, folder, name, mesh, *args) for name, mesh, _, args, _ in PLANS]
    forward = [pool.submit(compiled, folder, name, mesh, *args, "--infer") if "all_to_all" in kinds else None
               for name, mesh, _, args, kinds in PLANS]
    for made, infer, (name, mesh, ranks, args, kinds) in zip(plans, forward, PLANS):
        check_run(made.result(), ranks, kinds)
        if infer and monitored():
            n = check_mpi(infer.result(), ranks, int(args[1]) if args else 0)
            print(f"{name} {mesh} {' '.join(args)}: {n} all_to_alls a forward step, as MPI counts them")
