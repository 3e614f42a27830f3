#!/usr/bin/env python3
"""All-to-alls between hosts, flat and grouped, as m6c's runtime does them over MPI on a shaped
network, and what the simulator says of the same network. See alltoall.sh."""
import argparse, json, math, os, pathlib, re, shutil, statistics, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from network import BURST, Hosts

ROOT = pathlib.Path(__file__).resolve().parents[2]
M6C = os.environ.get("M6C", str(ROOT / "build/m6c"))
KIB, MIB = 1 << 10, 1 << 20
SIZES = (256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
CLUSTERS = ((2, 2), (2, 4), (3, 2), (4, 2))  # hosts, ranks on each: two cores carry eight
MOST_OUT = 20 * MIB  # bytes that a host sends in one exchange
ENV = {"M6C_THREADS": "1"}


def say(*text):
    print(*text, file=sys.stderr, flush=True)


def size_text(n):
    return f"{n // MIB} MiB" if n >= MIB else f"{n // KIB} KiB" if n >= KIB else f"{n} B"


# ---- plans by hand: every size flat and grouped, in turns from step to step ----

def out_of_host(hosts, per, size):
    return per * (hosts - 1) * per * size


def repeats(hosts, per, size):
    """Of each variant in a step: about half a second at 200 Mb/s."""
    seconds = 5e-4 + out_of_host(hosts, per, size) / 25e6
    return max(2, min(40, round(0.5 / seconds)))


SWAP = """
/* blocks of %(block)d bytes: [%(rows)d][%(cols)d] to [%(cols)d][%(rows)d] */
void swap_%(name)s(void *const *arg, long lo, long hi) {
    const char *from = arg[0];
    char *to = arg[1];
    for (long i = lo; i < hi; i++)
        memcpy(to + (i %% %(cols)d * %(rows)d + i / %(cols)d) * %(block)dL, from + i * %(block)dL,
               %(block)d);
}
"""


TENSORS = 16  # that are added up, one by one or fused
# The steps that one of a variant is, by the name of the first.
PARTS = {"flat": ("flat", 1), "swap": ("grouped", 4), "half": ("half", 1), "sums": ("sums", TENSORS),
         "fused": ("fused", 1), "fused half": ("fused half", 1)}


class PlanText:
    def __init__(self, hosts, per):
        self.hosts, self.per, self.n = hosts, per, hosts * per
        self.kernels, self.steps, self.source = [], [], "#include <string.h>\n"
        self.last = None  # kind of the step before

    def swap(self, size, rows, cols):
        """Blocks ordered by row and column become ordered by column and row."""
        name = f"{size}_{rows}_{cols}"
        known = [k.split()[2] for k in self.kernels]
        if f"swap_{name}" not in known:
            self.source += SWAP % {"name": name, "block": size, "rows": rows, "cols": cols}
            self.kernels.append(f"kernel {len(known)} swap_{name} plan_0.c nargs=2 "
                                f"hash={len(known) + 1:016x}")
            known.append(f"swap_{name}")
        k = known.index(f"swap_{name}")
        self.step(f"kernel k{k} items={self.n} grain={self.n} traffic={2 * self.n * size} "
                  "args=b0,b1 writes=2", size, "swap")

    def exchange(self, group, size, operands, name):
        count = self.n * size // 4
        self.step(f"collective all_to_all group=g{group} count={count} dtype=f32 stream=6 "
                  f"args={operands}", size, name)

    def step(self, text, size, name):
        kind = text.split()[0]
        wait = f" wait={len(self.steps) - 1}" if self.last not in (None, kind) else ""
        self.last = kind
        self.steps.append(f'step {len(self.steps)} {text}{wait} ; "{name}" {size} -')

    def flat(self, size):
        self.exchange(0, size, "b0,b1", "flat")

    def grouped(self, size):
        """First to the ranks of the own host, what is for ranks of their index on all hosts; then
        between ranks of one index."""
        self.swap(size, self.hosts, self.per)
        self.exchange(1, size, "b1,b0", "grouped")
        self.swap(size, self.per, self.hosts)
        self.exchange(2, size, "b1,b0", "grouped")

    def half(self, size):
        """The flat exchange, as half-precision numbers."""
        count = self.n * size // 4
        self.step(f"collective all_to_all group=g0 count={count} dtype=f32 wire=f16 room stream=6 "
                  "args=b0,b1,b2", size, "half")

    def sums(self, size):
        """TENSORS tensors of `size` bytes are added up over all ranks, each alone."""
        for i in range(TENSORS):
            self.step(f"collective all_reduce group=g0 reduce=sum count={size // 4} dtype=f32 "
                      f"stream=6 args=b0+{i * size},b0+{i * size}", size, "sums")

    def fused(self, size, wire="f32"):
        """All of them as one message."""
        args = ",".join(f"b0+{i * size}" for i in range(TENSORS))
        scale = " wire=f16 scale=128" if wire == "f16" else ""
        self.step(f"collective all_reduce group=g0 reduce=sum count="
                  f"{','.join([str(size // 4)] * TENSORS)} dtype=f32{scale} room stream=6 "
                  f"args={args},{args},b2", size, "fused" if wire == "f32" else "fused half")

    def fused_half(self, size):
        self.fused(size, "f16")

    def text(self, most):
        n, per, hosts = self.n, self.per, self.hosts
        most = (max(most, TENSORS * most // n) + 63) // 64 * 64  # buffers begin at such multiples
        words = n * most // 4
        room = 3 * n * most
        lines = ["m6c-plan 1", "model exchange", "target cpu", 'command ""', "train yes",
                 "hashes model=0000000000000001 compiler=0000000000000001",
                 f"arena device={room} host=0 disk=0", f"lower-bound device={room} host=0 disk=0", 
                 "work tokens=1 flops=1",
                 f"ranks {n}", f"mesh data={n}", f"group data {n}/1", f"group data%{per} {per}/1",
                 f"group data/{per} {hosts}/{per}",
                 f'buffer 0 temp "a" f32[{words}] device+0 -',
                 f'buffer 1 temp "b" f32[{words}] device+{n * most} -',
                 f'buffer 2 temp "room" f32[{words}] device+{2 * n * most} -']
        return "\n".join([*lines, *self.kernels, *self.steps, "end", ""])


def write_plan(folder, hosts, per, sizes, variants):
    p = PlanText(hosts, per)
    for size in sizes:
        for variant in variants:  # in blocks: a pause of one would be the other's gain
            for _ in range(repeats(hosts, per, size)):
                getattr(p, variant)(size)
    folder.mkdir()
    (folder / "plan.txt").write_text(p.text(max(sizes)))
    (folder / "plan_0.c").write_text(p.source)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", folder / "plan_0.so", folder / "plan_0.c"],
                   check=True)


# ---- measuring ----

def read_trace(path, ranks, steps):
    """{(size, variant): [us of each]}, the mean over ranks; the first step is not counted."""
    rank = [[] for _ in range(ranks)]
    for e in json.loads(path.read_text()):
        if e["ph"] == "X":
            rank[e["pid"]].append((e["ts"], e["args"]["step"], e["name"], int(e["args"]["scope"]), e["dur"]))
    found = {}
    for r in rank:
        r.sort()
    length = len(rank[0]) // steps
    i = length
    while i < len(rank[0]):
        name, size = rank[0][i][2:4]
        variant, parts = PARTS[name]
        us = sum(x[4] for r in rank for x in r[i:i + parts]) / ranks
        found.setdefault((size, variant), []).append(us)
        i += parts
    return found


def measure_raw(net, folder, hosts, per, rate, sizes, steps, variants=("flat", "grouped")):
    plan = folder / f"{variants[0]}-{hosts}x{per}"
    if not plan.exists():
        write_plan(plan, hosts, per, sizes, variants)
    net.shape(rate)
    trace = folder / "trace.json"
    net.mpirun(per, [M6C, "run", plan, "--data", "random:1", "--steps", steps, "--save-every", 0,
                     "--trace", trace], env=ENV)
    return read_trace(trace, hosts * per, steps)


def median_interval(ordered):
    """Where the median of all such times lies, with 95 % of confidence, however they are distributed:
    from the k-th of the least to the k-th of the greatest of these."""
    n, k, below = len(ordered), 0, 0.5 ** len(ordered)
    while k < n // 2 and below <= 0.025:  # below: the chance that at most k are less than the median
        k += 1
        below += math.comb(n, k) * 0.5 ** n
    k = max(k - 1, 0)
    return ordered[k], ordered[n - 1 - k]


def raw_points(net, folder, hosts, per, rate, sizes, steps, cluster):
    say(f"{hosts} hosts x {per} ranks, {rate} Mb/s")
    before = net.sent(0)
    measured = measure_raw(net, folder, hosts, per, rate, sizes, steps)
    # only what leaves the host may be on its link: ranks of one host share memory
    wanted = 2 * steps * sum(repeats(hosts, per, s) * out_of_host(hosts, per, s) for s in sizes)
    say(f"host 0 sent {(net.sent(0) - before) / wanted:.3f} times the bytes of its exchanges")
    predicted = predict_raw(folder / f"flat-{hosts}x{per}", cluster)
    points = []
    for size in sizes:
        p = {"hosts": hosts, "per": per, "rate": rate, "size": size}
        for variant in ("flat", "grouped"):
            us = sorted(measured[size, variant])
            p[variant] = statistics.median(us)
            p[f"{variant}_quartiles"] = us[len(us) // 4], us[3 * len(us) // 4]
            p[f"{variant}_interval"] = median_interval(us)
            p[f"{variant}_predicted"] = predicted[size, variant]
        points.append(p)
    return points


# ---- predicting ----

CALIBRATED = 200  # Mb/s; clusters of other rates are described: the same with another rate
HEADER = 88  # bytes of a message's own frame and header: Ethernet, IP, TCP 66, Open MPI 22


def calibrate(net, folder, per):
    """The cluster file of this network, its links measured by its ranks."""
    net.shape(CALIBRATED)
    path = folder / f"{len(net.names)}x{per}.m6c-machine"
    shutil.copy(folder / "machine.m6c-machine", path)
    net.mpirun(per, [M6C, "calibrate", "-o", path], env=ENV)
    return path


def describe(calibrated, rate):
    """The cluster with links of another rate, with headers and with what shaped links save up."""
    def scaled(line):
        return re.sub(r"([\d.e+]+)MB/s", lambda x: f"{float(x[1]) * rate / CALIBRATED:.4g}MB/s",
                      line[0])

    path = calibrated.with_name(f"{calibrated.stem}-{rate}.m6c-machine")
    text = re.sub(r"link net .*", scaled, calibrated.read_text())
    text = re.sub(r"(link net.* joins \d+)", rf"\1 burst {BURST / 1e3:g}KB header {HEADER}B", text)
    path.write_text(text)
    return path


def m6c(*args):
    p = subprocess.run([M6C, *map(str, args)], capture_output=True, text=True, timeout=600)
    if p.returncode:
        raise RuntimeError(f"m6c {args[0]}: status {p.returncode}\n{p.stderr[-1000:]}")
    return p.stdout


def predict_raw(plan, cluster):
    """{(size, variant): us} of the plan's steps, each alone on the described cluster."""
    steps = json.loads(m6c("simulate", plan, "--cluster", cluster, "--json", "--steps"))["steps"]
    found, i = {}, 0
    while i < len(steps):
        variant, parts = PARTS[steps[i]["what"]]
        us = sum(s["alone_us"] for s in steps[i:i + parts])
        found[int(steps[i]["scope"]), variant] = us
        i += parts
    return found


# ---- tables ----

NEAR = 0.05  # by which a choice may be slower and still be called as good, as in former reports


def is_tie(p):
    """The repetitions do not tell which of the two is faster."""
    (a, b), (c, d) = p["flat_interval"], p["grouped_interval"]
    return a <= d and c <= b


def choices(p):
    """What was measured to be faster, and what was predicted to be."""
    return tuple("flat" if p["flat" + what] <= p["grouped" + what] else "grouped"
                 for what in ("", "_predicted"))


def verdict(p):
    """Did the prediction choose what was measured to be faster?"""
    measured, predicted = choices(p)
    return "tie" if is_tie(p) else "right" if predicted == measured else "WRONG"


def lost(p):
    """What the choice costs, as a share of the faster one's time."""
    measured, predicted = choices(p)
    return p[predicted] / p[measured] - 1


def off(p, variant):
    return p[f"{variant}_predicted"] / p[variant] - 1


def print_raw(points):
    print("| hosts x ranks | Mb/s | a pair | flat ms | grouped ms | flat / grouped | predicted flat ms | "
          "off | predicted grouped ms | off | choice |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for p in points:
        print(f"| {p['hosts']} x {p['per']} | {p['rate']} | {size_text(p['size'])} | "
              f"{p['flat'] / 1e3:.3f} | {p['grouped'] / 1e3:.3f} | {p['flat'] / p['grouped']:.2f} | "
              f"{p['flat_predicted'] / 1e3:.3f} | {off(p, 'flat'):+.0%} | "
              f"{p['grouped_predicted'] / 1e3:.3f} | {off(p, 'grouped'):+.0%} | {verdict(p)} |")
    print_verdicts(points)


def print_verdicts(points):
    verdicts = [verdict(p) for p in points]
    within = sum(abs(off(p, v)) <= 0.15 for p in points for v in ("flat", "grouped"))
    strict = sum(lost(p) == 0 for p in points)
    near = sum(lost(p) <= NEAR for p in points)
    print(f"\n{len(points)} points: {verdicts.count('tie')} are ties (the medians' 95 % intervals overlap); "
          f"of the others the choice is right in {verdicts.count('right')}, wrong in "
          f"{verdicts.count('WRONG')}. Whatever the intervals: the winner in {strict}, within {NEAR:.0%} of "
          f"it in {near}; the choice costs {statistics.mean(map(lost, points)):.1%} on average, at most "
          f"{max(map(lost, points)):.0%}. {within} of {2 * len(points)} times are within 15 %.\n", flush=True)


# ---- half precision and fusion ----

MESSAGES = ("half", "sums", "fused", "fused_half")
BASE = {"half": "flat", "fused": "sums", "fused half": "sums"}


def bench_messages(args, folder, figures):
    hosts, per = map(int, args.step_cluster.split("x"))
    sizes = [KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB]
    with Hosts(hosts) as net:
        say(f"half precision and fusion: {hosts} hosts x {per} ranks, {args.step_rate} Mb/s")
        cluster = describe(calibrate(net, folder, per), args.step_rate)
        measured = measure_raw(net, folder, hosts, per, args.step_rate, sizes, args.steps,
                               (*MESSAGES, "flat"))
    predicted = predict_raw(folder / f"half-{hosts}x{per}", cluster)
    for size in sizes:
        for variant, base in BASE.items():
            ms = [statistics.median(measured[size, v]) / 1e3 for v in (base, variant)]
            figures["messages"].append({"size": size, "variant": variant, "base": base, "ms": ms,
                                        "predicted": [predicted[size, v] / 1e3 for v in (base, variant)]})
    print_messages(figures["messages"])


def print_messages(points):
    what = {"half": "an exchange as f16 instead of f32, a pair",
            "fused": f"{TENSORS} sums as one message, a tensor",
            "fused half": f"{TENSORS} sums as one message of f16, a tensor"}
    print("| what, size | ms before | ms | times as fast | predicted ms | off | predicted ms | off | "
          "predicted times as fast |\n|---|---|---|---|---|---|---|---|---|")
    for p in sorted(points, key=lambda p: list(BASE).index(p["variant"])):
        (a, b), (c, d) = p["ms"], p["predicted"]
        print(f"| {what[p['variant']]} {size_text(p['size'])} | {a:.3f} | {b:.3f} | {a / b:.2f} | "
              f"{c:.3f} | {c / a - 1:+.0%} | {d:.3f} | {d / b - 1:+.0%} | {c / d:.2f} |")
    print(flush=True)


# ---- whole training steps ----

ALL = {"num_communicators": 2, "max_splits": 5, "fp16": 1, "all_to_all": "auto",
       "all_to_all_chunks": 0}
VARIANTS = {
    "all techniques": {},
    "without grouping": {"all_to_all": '"flat"'},
    "always grouped": {"all_to_all": '"grouped"'},
    "without fusion": {"max_splits": 0},
    "without pieces": {"all_to_all_chunks": 1},
    "one communicator": {"num_communicators": 1},
    "without half precision": {"fp16": 0},
    "none of them": {"all_to_all": '"flat"', "max_splits": 0, "all_to_all_chunks": 1,
                     "num_communicators": 1, "fp16": 0},
}


def compile_step(folder, name, ranks, cluster):
    plan = folder / name.replace(" ", "-")
    place = "\n".join(f"    {k} {v}" for k, v in {**ALL, **VARIANTS[name]}.items())
    text = (ROOT / "tests/bench/exchange.m6").read_text()
    plan.with_suffix(".m6").write_text(f"{text}\nplace {{\n{place}\n}}\n")
    m6c("compile", plan.with_suffix(".m6"), "-o", plan, "--mesh", f"data={ranks},expert=data",
        "--cluster", cluster)
    return plan


def run_step(net, per, plan, steps, *more):
    return net.mpirun(per, [M6C, "run", plan, "--data", "random:1", "--steps", steps, "--save-every",
                            0, *more], env=ENV).stdout


def step_times(net, per, plan, steps):
    """ms of each step but the first two."""
    said = run_step(net, per, plan, steps, "--json").splitlines()
    return [json.loads(line)["seconds"] * 1e3 for line in said][2:]


def only_collectives(plan):
    """The same plan without its kernels."""
    to = plan.with_name(f"{plan.name}-collectives")
    shutil.copytree(plan, to)
    kept, count = [], 0
    for line in (plan / "plan.txt").read_text().splitlines():
        if line.startswith("step "):
            _, _, what = line.split(" ", 2)
            if not what.startswith("collective"):
                continue
            line = f"step {count} " + re.sub(r" wait=\S+", "", what)
            count += 1
        if not line.startswith("kernel "):
            kept.append(line)
    (to / "plan.txt").write_text("\n".join([*kept, ""]))
    return to


def parts(net, folder, per, plan, steps):
    """ms of a step whose parts come one after the other, and ms of it in which the cores that ranks
    share compute."""
    run_step(net, per, plan, steps, "--trace", folder / "trace.json")
    events = [e for e in json.loads((folder / "trace.json").read_text()) if e["ph"] == "X"]
    each = max(e["args"]["step"] for e in events) + 1
    ranks = [sorted((e for e in events if e["pid"] == r), key=lambda e: e["ts"])
             for r in range(per * len(net.names))]
    whole, kernels = [], []
    for i in range(each, each * steps, each):  # the first step does not count
        whole.append(max(r[i + each - 1]["ts"] + r[i + each - 1]["dur"] for r in ranks) -
                     min(r[i]["ts"] for r in ranks))
        kernels.append(turns(len(ranks)) * statistics.mean(
            sum(e["dur"] for e in r[i:i + each] if e["cat"] != "collective") for r in ranks))
    return statistics.median(whole) / 1e3, statistics.median(kernels) / 1e3


def turns(ranks):
    """How many ranks take turns on a core."""
    return max(1, ranks / len(os.sched_getaffinity(0)))


def share_cores(machine, ranks):
    """Ranks take turns on the cores there are: each kernel takes so many times as long as alone, and
    communication takes of a core what that of so many ranks takes."""
    n = turns(ranks)
    text = re.sub(r"(?m)^(step .* )([\d.e+-]+)us$", lambda x: f"{x[1]}{float(x[2]) * n:.4g}us",
                  machine.read_text())
    text = re.sub(r"(?m)^(slow compute while comm2? )([\d.e+-]+)$",
                  lambda x: f"{x[1]}{max(0.01, 1 - n * (1 - float(x[2]))):.2g}", text)
    machine.write_text(text)


def predict_step(net, per, plan, cluster):
    """ms of a step, of its kernels alone and of its collectives alone, with the steps' prices on these
    ranks."""
    priced = plan.with_suffix(".m6c-machine")
    shutil.copy(cluster, priced)
    net.mpirun(per, [M6C, "calibrate", plan, "--quick", "-o", priced], env=ENV)
    share_cores(priced, per * len(net.names))
    said = json.loads(m6c("simulate", plan, "--cluster", priced, "--json", "--steps"))
    alone = {True: 0, False: 0}
    for step in said["steps"]:
        alone[step["stream"].startswith("comm")] += step["alone_us"] / 1e3
    return said["predicted_ms"], alone[False], alone[True]


def hidden(step, kernels, comm):
    """The share of what communication takes alone by which the step is not longer than its kernels."""
    return 1 - (step - kernels) / comm


def measure_steps(net, folder, per, cluster, rounds, steps):
    ranks, points = per * len(net.names), []
    plans = {name: compile_step(folder, name, ranks, cluster) for name in VARIANTS}
    times = {name: [] for name in plans}
    for i in range(rounds):
        for name, plan in plans.items():
            say(f"round {i + 1} of {rounds}: {name}")
            times[name] += step_times(net, per, plan, steps)
    for name, plan in plans.items():
        say(f"alone and predicted: {name}")
        alone, kernels = parts(net, folder, per, plan, 8)
        comm, _ = parts(net, folder, per, only_collectives(plan), 8)
        points.append({"name": name, "ms": statistics.median(times[name]), "alone": alone,
                       "kernels": kernels, "comm": comm,
                       "predicted": predict_step(net, per, plan, cluster)})
    return points


def print_steps(points):
    base = points[0]
    print("| plan | ms a step | against all | one after the other ms | kernels ms | collectives ms | "
          "hidden | predicted ms | off | kernels | collectives | hidden |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for p in points:
        ms, kernels, comm = p["predicted"]
        print(f"| {p['name']} | {p['ms']:.1f} | {p['ms'] / base['ms']:.2f} | {p['alone']:.1f} | "
              f"{p['kernels']:.1f} | {p['comm']:.1f} | {hidden(p['ms'], p['kernels'], p['comm']):.0%} | "
              f"{ms:.1f} | {ms / p['ms'] - 1:+.0%} | {kernels:.1f} | {comm:.1f} | "
              f"{hidden(ms, kernels, comm):.0%} |")
    print(flush=True)


def bench_steps(args, folder, figures):
    hosts, per = map(int, args.step_cluster.split("x"))
    with Hosts(hosts) as net:
        say(f"training steps: {hosts} hosts x {per} ranks, {args.step_rate} Mb/s")
        calibrated = calibrate(net, folder, per)
        net.shape(args.step_rate)
        figures["steps"] = measure_steps(net, folder, per, describe(calibrated, args.step_rate),
                                         args.rounds, 10)
    print_steps(figures["steps"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clusters", default=",".join(f"{h}x{p}" for h, p in CLUSTERS))
    parser.add_argument("--rates", default="100,200,500", help="Mb/s of each host's link")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="bytes for each pair")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", help="keep all figures in this file")
    parser.add_argument("--only", choices=("raw", "messages", "steps"), help="one of the parts")
    parser.add_argument("--step-cluster", default="4x2")
    parser.add_argument("--step-rate", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    clusters = [tuple(map(int, c.split("x"))) for c in args.clusters.split(",")]
    figures = {"raw": [], "messages": []}
    with tempfile.TemporaryDirectory(prefix="m6c-bench-") as name:
        folder = pathlib.Path(name)
        os.environ["M6C_CACHE"] = str(folder / "cache")
        m6c("calibrate", "--quick", "-o", folder / "machine.m6c-machine")
        if args.only in (None, "steps"):
            bench_steps(args, folder, figures)
        if args.only in (None, "messages"):
            bench_messages(args, folder, figures)
        for hosts, per in clusters if args.only in (None, "raw") else ():
            sizes = [s for s in map(int, args.sizes.split(","))
                     if out_of_host(hosts, per, s) <= MOST_OUT]
            with Hosts(hosts) as net:
                say(f"{hosts} hosts x {per} ranks")
                calibrated = calibrate(net, folder, per)
                say(calibrated.read_text())
                for rate in map(int, args.rates.split(",")):
                    figures["raw"] += raw_points(net, folder, hosts, per, rate, sizes, args.steps,
                                                 describe(calibrated, rate))
    if figures["raw"]:
        print_raw(figures["raw"])
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=1))


main()
