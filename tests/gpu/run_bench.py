"""Phases of run.sh that measure. Times are of CUDA events, medians of rounds after a warm-up; single
kernels run with caches that hold nothing of theirs (flush.cu); inputs are new ones each step."""
import json
import math
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from run_base import HERE, ROOT, Failed, inputs_of, write_batch

BENCH = ROOT / "tests/bench"
MIB = 1 << 20
# Timed steps of the block of attention, of which there are many, slow ones too.
BLOCK_STEPS = ["--rounds", 10, "--warmup", 3, "--steps", 2]
# Targets, as shares.
KERNEL, ATTENTION, BLOCK, MFU = 0.9, 0.9, 1.3, {"dense": 0.6, "moe": 0.5}
SAME_LOSS = 1e-2  # bf16 in both, rounded at other places
# Kernels that move by index or multiply: not judged by their bytes.
OPAQUE = {"attention", "attention_grad", "combine", "combine_sum", "concat", "dispatch",
          "dispatch_scaled", "gate_grad", "gather", "route", "scatter_add", "unpick"}


# ---- rates: what the device can do ----

def measure_copies(run):
    """The bandwidth is that of the largest: of small ones the caches still hold what was written."""
    sizes = [1 << 16, 1 << 18] if run.tiny else [MIB << s for s in range(0, 11)]
    told = run.bench("copy", *sizes)
    for t in told:
        run.figure(f"copy of {t['bytes'] / 2 / MIB:g} MiB, bytes read and written", "GB/s",
                   [t["bytes"] / us / 1e3 for us in t["us"]])
    run.phase["copies"] = {t["bytes"]: statistics.median(t["us"]) for t in told}


def copy_bandwidth(copies):
    size = max(copies)
    return size / copies[size] / 1e3


def measure_products(run):
    sizes = [(64, 64, 64)] if run.tiny else [(8192, 8192, 8192), (16384, 8192, 4096),
                                             (8192, 4096, 1024), (8192, 1024, 4096), (4096,) * 3]
    rates = []
    for m, n, k in sizes:
        told = run.bench("product", m, n, k)[0]
        rates.append(run.figure(f"bf16 product {m} x {n} x {k}", "TFLOP/s",
                                [told["flops"] / us / 1e6 for us in told["us"]]))
    run.phase["product_tflops"] = max(rates)


def measure_launches(run):
    launches = 20 if run.tiny else 300
    plan, _ = run.compile(HERE / "chain.m6", "chain", "--set", f"launches={launches}", M6C_SKIP="fuse")
    for graph, option in ((True, []), (False, ["--no-graph"])):
        told = run.bench("steps", plan, "--data", "random:1", *option)[0]
        run.figure(f"a launch after another, {'in a graph' if graph else 'one by one'}", "us",
                   [us / told["launches"] for us in told["us"]], launches=told["launches"])


def measure_compiling(run):
    """m6c compile with an empty cache, and again."""
    for name in ["tiny", *names(run)]:
        model = Model(run, name)
        cache = run.work / "cold-cache"
        shutil.rmtree(cache, ignore_errors=True)
        for state in ("cold", "warm"):
            begin = time.perf_counter()
            model.compile(f"{name}-compiled", M6C_CACHE=cache)
            run.figure(f"compiling {name}, {state}", "s", [time.perf_counter() - begin])


def rates(run):
    for measure in (measure_copies, measure_products, measure_launches, measure_compiling):
        run.attempt(measure.__name__, measure)


def of_rates(run, name, measure):
    """A result of the phase rates, or measured now."""
    known = run.results["phases"].get("rates", {}).get(name)
    if known is None:
        measure(run)
        known = run.phase[name]
    return known


def copies_of(run):
    return {int(b): us for b, us in of_rates(run, "copies", measure_copies).items()}


def product_rate(run):
    return of_rates(run, "product_tflops", measure_products)


# ---- models ----

class Model:
    """A model of tests/bench in bf16, as large as the phases want it and the device can hold."""

    FILES = {"tiny": ROOT / "examples/m6-tiny.m6", "dense": BENCH / "dense.m6", "moe": BENCH / "moe.m6"}
    SIZES = {
        "tiny": {},
        "dense": {"layers": 24, "hidden": 1024, "heads": 16, "ffn_width": 4096, "length": 496},
        "moe": {"layers": 6, "hidden": 1024, "heads": 16, "ffn_width": 4096, "length": 496,
                "experts": 32, "prototypes": 2},
    }
    SMALL = {"layers": 1, "hidden": 32, "heads": 2, "ffn_width": 64, "length": 8, "vocab": 64,
             "patch": 48}
    BATCHES = [32, 24, 16, 8, 4, 2, 1]

    def __init__(self, run, name):
        self.run, self.name = run, name
        self.sizes = dict(self.SIZES[name])
        if run.tiny:
            self.sizes.update(self.SMALL, **({"experts": 4} if name == "moe" else {}))
        if name != "tiny" or run.tiny:
            self.sizes["batch"] = self.fitting()

    def arguments(self):
        return [w for k, v in self.sizes.items() for w in ("--set", f"{k}={v}")]

    def compile(self, folder, *more, **env):
        return self.run.compile(self.FILES[self.name], folder, "--precision", "bf16",
                                *self.arguments(), *more, **env)

    def fitting(self):
        """The largest batch with room for what is measured beside it."""
        if self.run.tiny:
            return 2
        for batch in self.BATCHES:
            self.sizes["batch"] = batch
            _, told = self.compile(f"{self.name}-fits", "--plan-only")
            if told["device_bytes"] < 0.7 * self.run.device["memory"]:
                return batch
        raise Failed(f"{self.name} does not fit into the device's memory with any batch")

    def config(self):
        """All its numbers: the file's, with what was set."""
        text = self.FILES[self.name].read_text()
        config = {k: float(v) if "." in v or "e" in v else int(v) for line in
                  re.findall(r"^config (.*)", text, re.M)
                  for k, v in re.findall(r"(\w+) = ([\d.e+-]+)", line)}
        return {"prototypes": 1, "experts": 1, "capacity": 1.25, **config, **self.sizes}

    def spec(self):
        """What the peers of tests/bench read."""
        c = self.config()
        tokens = c["batch"] * (c["patches"] + c["length"])
        block = ["attention", "moe" if self.name == "moe" else "ffn"]
        rows = c["prototypes"] * math.ceil(tokens * c["capacity"] / c["experts"])
        train = {"peak": c["peak"], "warmup": c["warmup"], "steps": c["steps"], "decay": 0.01, "clip": 0}
        return {"config": {**c, "block": block, "rows": rows, "aux": 0.01}, "train": train}


def names(run):
    return ["moe"] if run.tiny else ["dense", "moe"]


# ---- kernels: share of the copy bandwidth ----

def copy_us(copies, size):
    """Time of a copy that moves `size` bytes, between the measured ones."""
    points = sorted(copies.items())
    for (b0, t0), (b1, t1) in zip(points, points[1:]):
        if size <= b1 or (b1, t1) == points[-1]:
            return max(t0 + (t1 - t0) * (size - b0) / (b1 - b0), min(t0, t1) * size / max(b0, size))
    return points[0][1]


def judge_kernel(run, model, k, copies, peak):
    us = statistics.median(k["us"])
    share = [k["bytes"] / x / 1e3 / peak for x in k["us"]]
    detail = {"kernel": k["name"], "what": k["what"], "scope": k["scope"], "place": k["place"],
              "count": k["count"], "bytes": k["bytes"], "us": us,
              "of_equal_copy": copy_us(copies, k["bytes"]) / us}
    run.figure(f"{model}: {k['what']}", "of the copy bandwidth", share, KERNEL, **detail)


def judge_together(run, model, fused, peak):
    """All of them: bytes of a step over the time they take in it."""
    size = sum(k["bytes"] * k["count"] for k in fused)
    us = sum(statistics.median(k["us"]) * k["count"] for k in fused)
    run.figure(f"{model}: all fused kernels of a step together", "of the copy bandwidth",
               [size / us / 1e3 / peak], bytes=size, us=us)


def breakdown(run, model, told):
    """Where a step's time goes, by kind, as if everything ran alone and cold."""
    kinds = {}
    for k in told:
        kind = "products" if k["kind"] == "gemm" else \
            "attention" if k["what"].startswith("attention") else \
            "by index" if k["what"] in OPAQUE else "fused kernels"
        kinds[kind] = kinds.get(kind, 0) + statistics.median(k["us"]) * k["count"]
    for kind, us in sorted(kinds.items(), key=lambda x: -x[1]):
        run.figure(f"{model}: a step's {kind}, one by one", "us", [us])


def list_others(run, model, told):
    for k in told:
        us = k["us"]
        if k["kind"] == "gemm":
            run.figure(f"{model}: product {k['name']}, {k['scope']}", "TFLOP/s",
                       [k["flops"] / x / 1e6 for x in us], count=k["count"])
        elif k["what"] in OPAQUE and not k["what"].startswith("attention"):
            run.figure(f"{model}: {k['what']}, {k['scope']}", "GB/s", [k["bytes"] / x / 1e3 for x in us],
                       count=k["count"], us=statistics.median(us))


def measure_kernels(run, name, copies):
    peak = copy_bandwidth(copies)
    plan, _ = Model(run, name).compile(f"{name}-bf16")
    told = run.bench("kernels", plan)
    fused = [k for k in told if k["kind"] == "kernel" and k["what"] not in OPAQUE]
    judge_together(run, name, fused, peak)
    for k in sorted(fused, key=lambda k: -k["bytes"] * k["count"]):
        judge_kernel(run, name, k, copies, peak)
    list_others(run, name, told)
    breakdown(run, name, told)


def kernels(run):
    copies = copies_of(run)
    for name in names(run):
        run.attempt(f"kernels of {name}", measure_kernels, name, copies)


# ---- PyTorch ----

def find_torch(run):
    """A Python whose PyTorch sees the device (on the stand-in: any), or None."""
    test = "import torch, safetensors; print(torch.__version__, torch.cuda.is_available())"
    for python in [run.args.python] if run.args.python else [sys.executable,
                                                             ROOT / "build/peers/bin/python", "python3"]:
        status, out, _ = run.call([python, "-c", test], timeout=120)
        if status == 0 and (out.split()[1] == "True" or run.device["standin"]):
            run.results["torch"] = out.split()[0]
            return str(python)
    run.missing("PyTorch that sees the device: nothing was compared with it (--python names a Python)")
    return None


# ---- attention ----

def cases(run):
    """(sequence, head size, causal), shortest first."""
    sequences = [48] if run.tiny else [512, 1024, 2048, 4096, 8192, 16384]
    heads, masks = ([64], [False]) if run.tiny else ([64, 128], [True, False])
    return [(t, d, causal) for t in sequences for d in heads for causal in masks]


def shape(run, t, d):
    """16,384 tokens of hidden size 1024 in all, whatever the sequence."""
    return (1, 2) if run.tiny else (16384 // t, 1024 // d)


def case_name(t, d, causal):
    return f"sequence {t}, head {d}, {'causal' if causal else 'no mask'}"


def source(run, causal):
    return run.work / f"attention-{'causal' if causal else 'none'}.m6"


def write_sources(run):
    text = (HERE / "attention.m6").read_text()
    source(run, True).write_text(text)
    source(run, False).write_text(text.replace("causal_mask()", "no_mask()"))


def compile_case(run, t, d, causal, skip):
    """A plan of the block; None when it would not fit."""
    batch, heads = shape(run, t, d)
    sizes = {"batch": batch, "length": t, "heads": heads, "head": d}
    sets = [w for k, v in sizes.items() for w in ("--set", f"{k}={v}")]
    name = f"attention-{t}-{d}-{int(causal)}{'-unfused' if skip else ''}"
    env = {"M6C_SKIP": "raise"} if skip else {}
    if skip and run.compile(source(run, causal), name, "--plan-only", *sets, **env)[1]["device_bytes"] \
            > 0.8 * run.device["memory"]:
        return None
    return run.compile(source(run, causal), name, *sets, **env)[0]


def compile_cases(run):
    """{(case, unfused): plan}, several at a time; those that fail are not there."""
    plans = {}
    write_sources(run)

    def one(run, case, skip):
        plans[case, skip] = compile_case(run, *case, skip)

    with ThreadPoolExecutor(4) as pool:
        for case in cases(run):
            for skip in (False, True):
                name = f"compiling {case_name(*case)}{', unfused' if skip else ''}"
                pool.submit(run.attempt, name, one, case, skip)
    return plans


def peer_attention(run):
    """{case: {backend: {"forward", "backward": us of each round}}}"""
    python = find_torch(run)
    if not python:
        return {}
    arguments = [f"{t},{d},{int(c)},{','.join(map(str, shape(run, t, d)))}" for t, d, c in cases(run)]
    device = "cpu" if run.device["standin"] else "cuda"
    told, result = [], {}
    try:
        told = run.lines([python, HERE / "peer_attention.py", device, *arguments], timeout=300)
    except Failed as failed:
        run.missing(f"PyTorch's attention failed: {failed}")
    for t in told:
        case = (t["sequence"], t["head"], t["causal"])
        if "failed" in t:
            run.missing(f"PyTorch's {t['backend']}, {case_name(*case)}: {t['failed']}")
        else:
            result.setdefault(case, {})[t["backend"]] = t
    return result


def attention_flops(run, case, direction):
    t, d, causal = case
    batch, heads = shape(run, t, d)
    pairs = t * (t + 1) / 2 if causal else t * t
    return {"forward": 4, "backward": 10}[direction] * batch * heads * pairs * d


def judge_attention(run, case, direction, us, peers):
    """Next to the fastest peer."""
    flops = attention_flops(run, case, direction)
    run.figure(f"{direction}, {case_name(*case)}", "TFLOP/s", [flops / x / 1e6 for x in us],
               us=statistics.median(us))
    times = {b: statistics.median(p[direction]) for b, p in peers.items()}
    if not times:
        return
    best = min(times, key=times.get)
    run.figure(f"{direction}, {case_name(*case)}: of the best peer's rate", "x",
               [times[best] / x for x in us], ATTENTION, peer=best, peers_us=times)


def measure_case(run, case, plans, peers):
    for k in run.bench("kernels", plans[case, False], "--only", "attention"):
        if k["what"] in ("attention", "attention_grad"):
            direction = "forward" if k["what"] == "attention" else "backward"
            judge_attention(run, case, direction, k["us"], peers.get(case, {}))
    fused = run.bench("steps", plans[case, False], *BLOCK_STEPS)[0]["us"]
    if not plans.get((case, True), True):
        return run.missing(f"the unfused block, {case_name(*case)}: it needs more than the device has")
    if (case, True) not in plans:
        return None
    unfused = run.bench("steps", plans[case, True], *BLOCK_STEPS)[0]["us"]
    run.figure(f"block, {case_name(*case)}: times as fast as unfused", "x",
               [statistics.median(unfused) / x for x in fused], BLOCK, us=statistics.median(fused),
               unfused_us=statistics.median(unfused))


def attention(run):
    plans, peers = compile_cases(run), peer_attention(run)
    for case in cases(run):
        if run.left() < 15:
            run.missing(f"{case_name(*case)}: no time was left")
            continue
        if (case, False) in plans:
            run.attempt(case_name(*case), measure_case, case, plans, peers)


# ---- models: share of the product rate ----

class Peer:
    """tests/bench/peer_torch.py on the device: a process that trains on command."""

    def __init__(self, run, python, folder, compiled):
        self.log = open(folder / "peer.log", "w+")
        env = {**run.env, "M6C_TORCH_DEVICE": "cpu" if run.device["standin"] else "cuda",
               "M6C_TORCH_DTYPE": "bf16", "OMP_NUM_THREADS": "4"}
        if compiled:
            env["M6C_TORCH_COMPILE"] = "1"
        self.process = subprocess.Popen(
            [python, BENCH / "peer_torch.py", folder / "spec.json", folder / "params.safetensors",
             folder / "batch.safetensors"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, env=env, text=True)
        self.timer = threading.Timer(max(min(300, run.left()), 1), self.process.kill)
        self.timer.start()
        self.ready = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.log.seek(0)
        raise Failed("it ended: " + self.log.read()[-600:])

    def steps(self, n):
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.timer.cancel()
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.log.close()


def peer_step(run, python, folder, compiled):
    """(us of a step in each round, its losses)"""
    peer = None
    try:
        peer = Peer(run, python, folder, compiled)
        rounds = [peer.steps(2 if run.tiny else 4) for _ in range(2 if run.tiny else 5)]
        return ([1e6 * statistics.mean(r["seconds"]) for r in rounds[1:]],
                peer.ready["losses"])
    finally:
        if peer:
            peer.close()


def prepare_peer(run, model, plan, folder):
    """Files for both: parameters are those after a first step, whose learning rate is next to
    nothing. Returns m6c's losses with them."""
    folder.mkdir(parents=True, exist_ok=True)
    batch = write_batch(folder / "batch.safetensors", inputs_of(plan))
    (folder / "spec.json").write_text(json.dumps(model.spec()))
    params = folder / "params.safetensors"
    command = [run.tool("m6c"), "run", plan, "--data", batch, "--json", "--save-every", 0]
    run.lines([*command, "--steps", 1, "--save", params])
    told = run.lines([*command, "--steps", 2, "--init", params])
    shutil.rmtree(plan / "checkpoints", ignore_errors=True)
    return [o["loss"] for o in told]


def judge_peer(run, model, name, us, losses, flops, peak, ours):
    run.figure(f"{model.name}: PyTorch {name}, bf16 autocast", "MFU", [flops / x / 1e6 / peak for x in us],
               us=statistics.median(us))
    run.figure(f"{model.name}: times as fast as PyTorch {name}", "x",
               [x / ours["us"] for x in us])
    off = max(abs(a / b - 1) for a, b in zip(ours["losses"], losses))
    run.check(f"{model.name}: losses of two steps within {SAME_LOSS:g} of PyTorch's ({name})",
              off <= SAME_LOSS, f"{ours['losses']} and {losses}")


def compare_peers(run, model, plan, flops, peak, us):
    python, folder = find_torch(run), run.work / f"peer-{model.name}"
    if not python:
        return
    ours = {"us": us, "losses": prepare_peer(run, model, plan, folder)}
    for name, compiled in (("eager", False), ("compiled", True)):
        if run.left() < 60:
            run.missing(f"PyTorch ({name}) on {model.name}: no time was left")
            continue
        try:
            times, losses = peer_step(run, python, folder, compiled)
        except (Failed, OSError) as failed:
            run.missing(f"PyTorch ({name}) on {model.name}: {failed}")
            continue
        judge_peer(run, model, name, times, losses, flops, peak, ours)


def measure_model(run, name):
    peak, model = product_rate(run), Model(run, name)
    plan, told = model.compile(f"{name}-bf16")
    step = run.bench("steps", plan)[0]
    us, flops = step["us"], step["flops"]
    run.figure(f"{name}: a step, in a graph", "MFU", [flops / x / 1e6 / peak for x in us], MFU[name],
               us=statistics.median(us), flops=flops, parameters=step["parameters"],
               device_bytes=told["device_bytes"], **model.sizes)
    run.figure(f"{name}: tokens", "1/s", [step["tokens"] / x * 1e6 for x in us])
    alone = run.bench("steps", plan, "--no-graph")[0]
    run.figure(f"{name}: a step, launched one by one", "MFU",
               [flops / x / 1e6 / peak for x in alone["us"]], us=statistics.median(alone["us"]))
    compare_peers(run, model, plan, flops, peak, statistics.median(us))


def models(run):
    for name in names(run):
        run.attempt(f"a step of {name}", measure_model, name)
