#!/usr/bin/env python3
"""What machines one does not have would do with examples/m6-100b.m6: tables in Markdown.

Every figure is m6c's own: plans from `compile --plan-only --json`, streams from `simulate --json`,
on the machine files of examples/clusters. They are predictions of the cost model from datasheets
and the assumptions named in those files; nothing here was run on a GPU. Tokens are positions, of
image and text. $M6C names the binary; --only picks tables; two plans are made at a time.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
M6C = os.environ.get("M6C") or str(ROOT / "build/m6c")
MODEL = ROOT / "examples/m6-100b.m6"
CLUSTERS = ROOT / "examples/clusters"
OPTIMIZERS = {"AdamW": "factored=false", "Adafactor": "factored=true"}
LINK = {"in": "link to the device", "out": "link to the host", "host": "host's cores",
        "compute": "device's kernels", "read": "reads of the disk", "write": "writes to the disk"}
LAYERS, HIDDEN, VOCAB, PER_EXPERT = 24, 1024, 21128, 2 * 1024 * 4096


class Machine:
    def __init__(self, file, target, device, host, devices=1):
        self.file, self.target, self.devices = file, target, devices
        self.device, self.host = device, host  # GB


def share(folder):
    """One of eight V100 with an eighth of the node's host and disk; the links stay each device's."""
    text = (CLUSTERS / "v100-32gb.m6c-machine").read_text()
    for key in ("memory host", "memory disk", "host-vector", "host-bandwidth", "copy read", "copy write"):
        eighth = lambda found: f"{found[1]}{float(found[2]) / 8:g}"
        text = re.sub(rf"^({key} )([\d.]+)", eighth, text, flags=re.M)
    text = re.sub(r"^devices 8", "devices 1", text, flags=re.M)
    path = folder / "v100-share.m6c-machine"
    path.write_text(text)
    return Machine(path, "sm_80", 32, 92, 8)


def call(args):
    p = subprocess.run([M6C, *map(str, args)], capture_output=True, text=True)
    return p.returncode, p.stdout, p.stderr


def size(gigabytes):
    return f"{gigabytes * 1000:.0f}MB"


def plan(m, sets, device=None, host=None, disk=0, more=()):
    """A plan's figures, or {"why": what m6c says} where there is none."""
    with tempfile.TemporaryDirectory(prefix="m6c-paper-") as folder:
        args = ["compile", MODEL, "-o", folder, "--plan-only", "--json", "--target", m.target,
                "--cluster", m.file, "--memory", size(device or m.device), *more]
        host = m.host if host is None else host
        args += ["--host-memory", size(host)] if host else []
        args += ["--disk", f"{folder}:{size(disk)}"] if disk else []
        for s in sets:
            args += ["--set", s]
        status, out, err = call(args)
        if status:
            needs = re.search(r"^device +arena +([\d.]+) MiB", err, re.M)
            first = err.strip().splitlines()[0]
            if status != 1:
                return {"why": f"m6c failed: {first[:90]}"}
            if not needs:
                return {"why": first[:90]}
            least = float(needs[1]) * 2 ** 20 / 1e9
            return {"why": f"no plan found; the smallest takes {least:.0f} GB of device"}
        o = json.loads(out)
        status, out, err = call(["simulate", folder, "--cluster", m.file, "--json"])
        if status:
            return {"why": f"m6c simulate failed: {err.strip().splitlines()[0][:90]}"}
        o["run"] = json.loads(out)
        return o


def tokens(o, ms=None):
    return 1e3 * o["run"]["tokens"] / (ms or o["run"]["predicted_ms"])


def bounds(o):
    """The busiest stream; below half of the step, what the step waits for in turn."""
    busy = sorted(((s["busy_share"], s["stream"]) for s in o["run"]["streams"]), reverse=True)
    told = ", ".join(f"{LINK[s]} {100 * b:.0f} %" for b, s in busy[:2] if b > 0.05)
    return told if busy[0][0] >= 0.5 else f"one after the other: {told}"


def row(o, *first):
    cells = [str(f) for f in first]
    if "why" in o:
        cells += [o["why"]] + [""] * 6
    else:
        disk = f" + {o['disk_bytes'] / 1e9:.0f}" if o["disk_bytes"] else ""
        cells += [f"{o['device_bytes'] / 1e9:.0f}", f"{o['host_bytes'] / 1e9:.0f}{disk}",
                  f"{o['run']['predicted_ms'] / 1e3:.2f}", f"{o['bound_ms'] / 1e3:.2f}",
                  f"{o['unconstrained_ms'] / 1e3:.2f}", f"{tokens(o):.0f}", bounds(o)]
    return "| " + " | ".join(cells) + " |"


HEAD = ["device GB", "host (+ disk) GB", "s a step", "no plan faster than", "everything kept",
        "tokens/s", "bound by: busy share of the step"]


def table(title, first, jobs, pool):
    """jobs: (cells in front, arguments of plan)."""
    made = list(pool.map(lambda j: plan(*j[1], **j[2]), jobs))
    lines = [f"\n**{title}**\n", "| " + " | ".join(first + HEAD) + " |",
             "|" + "---|" * (len(first) + len(HEAD))]
    lines += [row(o, *j[0]) for j, o in zip(jobs, made)]
    print("\n".join(lines), flush=True)
    return made


def fits(m, pool):
    jobs = [((name, precision, "yes" if clip else "no", host),
             (m, [o, f"clip={clip}"]), {"host": host, "more": ["--precision", precision]})
            for precision in ("bf16", "f32") for clip in (0, 1) for name, o in OPTIMIZERS.items()
            for host in ((1500, 2000) if clip and name == "AdamW" else (1500,))]
    table("What fits: one H200, 16,384 tokens a step",
          ["optimizer", "precision", "clipped", "host budget GB"], jobs, pool)


def batches(m, pool):
    jobs = [((name, f"{batch * 128:,}"), (m, [o, f"batch={batch}"]), {})
            for name, o in OPTIMIZERS.items() for batch in (32, 128, 256, 512, 1024, 2048, 4096)]
    table("Tokens a step, one H200", ["optimizer", "tokens a step"], jobs, pool)


def budgets(m, pool):
    jobs = [((name, f"{device}"), (m, [o], device), {})
            for name, o in OPTIMIZERS.items() for device in (40, 60, 80, 100, 120, 141)]
    table("Device budgets, H200, 16,384 tokens a step", ["optimizer", "budget GB"], jobs, pool)


def disks(m, pool):
    jobs = [((f"{name}, {experts} experts", host), (m, [o, f"experts={experts}"]),
             {"host": host, "disk": 3840})
            for experts, host in ((512, 1000), (512, 500), (1024, 1500))
            for name, o in OPTIMIZERS.items()]
    table("A disk of 3.84 TB (3 GB/s read, 1.5 GB/s written: assumed) below the host, H200, "
          "16,384 tokens a step", ["model", "host budget GB"], jobs, pool)


def exchange_ms(batch, experts, width):
    """By hand, one rank of eight on links of 150 GB/s each way, nothing hidden: two all-to-alls a
    layer forward and two backward, of two prototypes' rows at capacity 1.25; the dense gradients'
    ring sum."""
    rows = experts * 2 * -(-batch * 128 * 8 * 5 // (4 * experts)) / 8
    away = rows * HIDDEN * width * 7 / 8
    dense = LAYERS * 4 * HIDDEN ** 2 + 2 * VOCAB * HIDDEN
    return LAYERS * 4 * (1e3 * away / 150e9 + 7 * 2e-3), 1e3 * 2 * 7 / 8 * 4 * dense / 150e9


def v100(m, pool):
    jobs = []
    for precision, disk in (("f16", 0), ("f32", 0), ("f16", 480)):
        for name, o in OPTIMIZERS.items():
            for batch in (32, 128) if not disk else (32,):
                jobs.append(((name, precision + (" + disk" if disk else ""), f"{batch * 128 * 8:,}"),
                             (m, [o, "experts=64", f"batch={batch}"]),
                             {"disk": disk, "more": ["--precision", precision], "batch": batch}))
    wide = [j[2].pop("batch") for j in jobs]
    made = table("Eight V100-32GB, 736 GB: the plan of one rank (64 of 512 experts a layer, an eighth "
                 "of the host)", ["optimizer", "precision", "tokens a step, 8 ranks"], jobs, pool)
    print("\nWith the exchanges added by hand, none of them hidden:\n")
    print("| optimizer | precision | tokens a step | plan s | all-to-all s "
          "| sum of dense gradients s | tokens/s, 8 ranks |")
    print("|" + "---|" * 7)
    for j, o, batch in zip(jobs, made, wide):
        if "why" not in o:
            a, d = exchange_ms(batch, 512, 4 if j[0][1].startswith("f32") else 2)
            ms = o["run"]["predicted_ms"]
            print(f"| {' | '.join(j[0])} | {ms / 1e3:.2f} | {a / 1e3:.3f} | {d / 1e3:.3f} "
                  f"| {8 * tokens(o, ms + a + d):.0f} |", flush=True)


class Sizes:
    """Plans of one machine by the number of experts, each made once."""

    def __init__(self, m, sets, more):
        self.m, self.sets, self.more, self.known = m, sets, more, {}

    def __call__(self, experts):
        if experts not in self.known:
            self.known[experts] = plan(self.m, [*self.sets, f"experts={experts}"], more=self.more)
        return self.known[experts]

    def largest(self, good, low, high):
        """The largest count of experts between a good one and a bad one, to 3 %."""
        while high - low > max(2, 0.03 * low):
            middle = (low + high) // 4 * 2
            low, high = (middle, high) if good(self(middle)) else (low, middle)
        return low


def grow(m, name, batch, more):
    """(experts of the largest model within the device, its tokens/s, {share: experts}, the largest)"""
    sets = [OPTIMIZERS[name], f"batch={batch}"]
    alone = Machine(m.file, m.target, m.device, 0, m.devices)
    inside = Sizes(alone, sets, [*more, "--offload", "none"])
    ok = lambda o: "why" not in o
    if not ok(inside(2)):
        return None
    base = inside.largest(ok, 2, 2048)
    speed = tokens(inside(base))
    all_, found, bad = Sizes(m, sets, more), {}, None
    grid = [base]
    while bad is None and grid[-1] < 8192:
        e = grid[-1] * 3 // 4 * 2
        if ok(all_(e)):
            grid.append(e)
        else:
            bad = e
    most = all_.largest(ok, grid[-1], bad or grid[-1])
    for share_ in (0.5, 0.25, 0.1):
        good = lambda o: ok(o) and tokens(o) >= share_ * speed
        fast = [e for e in grid if good(all_(e) if e != base else inside(base))]
        above = [e for e in [*grid, most] if e > fast[-1]]
        found[share_] = all_.largest(good, fast[-1], above[0]) if above else fast[-1]
    return base, speed, found, most, tokens(all_(most)) if most != base else speed


def billions(experts, devices):
    return (LAYERS * (experts * devices * PER_EXPERT + 4 * HIDDEN ** 2) + 2 * VOCAB * HIDDEN) / 1e9


def largest(machines, pool):
    print("\n**The largest model at a loss of speed**: experts a layer grow, the rest stays; "
          "billions of parameters.\n")
    print("| machine | optimizer | tokens a step | within the device: size, tokens/s "
          "| at 50 % of that speed | 25 % | 10 % | largest with a plan (its speed) |")
    print("|" + "---|" * 8)
    jobs = [(label, m, name, batch, more) for label, m, more in machines
            for name in OPTIMIZERS for batch in (128, 512)[:2 if label == "H200" else 1]]
    for (label, m, name, batch, _), g in zip(jobs, pool.map(lambda j: grow(*j[1:]), jobs)):
        head = f"| {label} | {name} | {batch * 128 * m.devices:,} | "
        if not g:
            print(head + "none |" + " |" * 4, flush=True)
            continue
        base, speed, found, most, last = g
        size_ = lambda e: f"{billions(e, m.devices):.1f}"
        print(head + f"{size_(base)}, {m.devices * speed:.0f} | " +
              " | ".join(size_(e) for e in found.values()) +
              f" | {size_(most)} ({100 * last / speed:.1f} %) |", flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--only", default="fits,batches,budgets,disks,v100,largest")
    args.add_argument("--jobs", type=int, default=2)
    args = args.parse_args()
    h200 = Machine(CLUSTERS / "h200-141gb.m6c-machine", "sm_90", 141, 1500)
    with tempfile.TemporaryDirectory(prefix="m6c-paper-") as folder, \
            concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rank = share(pathlib.Path(folder))
        for name in args.only.split(","):
            if name == "largest":
                largest([("H200", h200, []), ("8 V100 in f32, without exchanges", rank,
                                              ["--precision", "f32"])], pool)
            else:
                globals()[name](rank if name == "v100" else h200, pool)


if __name__ == "__main__":
    main()
