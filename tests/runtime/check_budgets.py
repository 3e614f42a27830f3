#!/usr/bin/env python3
"""Plans under budgets train the same model. For each case the plan without a budget is run, then
plans at 100, 60, 40 and 25 % of its memory and at the smallest budget that fits, without other
tiers, with host memory, with host memory and disk, with disk alone: losses and every parameter are
equal bit by bit, arenas are those of plan.txt and within the budgets, and resident memory grows by
the arenas and a constant only. --all: every case at every budget; else a part of them in turns.
-v: also prints what each plan took. TIMEOUT: 600"""
import argparse, json, os, pathlib, re, struct, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import M6C, check, m6c, workspace

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TINY, DENSE, MOE = (ROOT / p for p in ("examples/m6-tiny.m6", "tests/bench/dense.m6",
                                       "tests/bench/moe.m6"))
STEPS = 10
SHARES = (1.0, 0.6, 0.4, 0.25, 0)  # of the memory with everything kept; 0: the smallest that fits
IN_TURNS = 6  # of the budgets of a case, one in so many is tried
DEFAULT = ("tiny f32", "dense bf16", "moe f32", "hints bf16", "micro-batches", "f16")
TIERS = ("alone", "host", "host+disk", "disk")
KIB, MIB = 1 << 10, 1 << 20
# Beside the arenas a plan with tiers has threads for its copies with their stacks, four buffers of
# 4 MiB for the disk, and more steps in its text; the C library's allocator keeps some of either.
BESIDE, DISK_BUFFERS = 4 * MIB, 16 * MIB

# Hints on scopes, groups and micro-batches; PRECISION and MORE are to be replaced.
HINTS = """use "m6"
config layers = 4, hidden = 64, vocab = 256, batch = 4, length = 16
model hints(text: i32[batch, length], target: i32[batch, length]) {
    x = embedding(text, vocab, hidden)
    repeat layers as block {
        checkpoint { x = x + ffn(norm(x), 256) }
        keep { x = x + attention(norm(x), 4, causal_mask()) }
        offload { x = x + ffn(norm(x), 192) }
    }
    return cross_entropy(linear(norm(x), vocab) as head, target)
}
train hints {
    optimizer = adamw(lr = 1e-3)
    groups = 4
}
"""
FEW = ["layers=4", "hidden=64", "heads=4", "ffn_width=256", "patch=48", "patches=4", "length=12",
       "vocab=300"]


def edited(path, *lines):
    """The model's text with more settings."""
    text = re.sub(r"\n +precision += \w+", "", path.read_text())
    return text.replace("    optimizer =", "".join(f"    {l}\n" for l in lines) + "    optimizer =")


def cases():
    """(name, model text, configs)"""
    few_experts = [*FEW, "layers=6", "experts=4", "batch=4"]
    for precision in ("f32", "bf16"):
        p = f"precision = {precision}"
        yield f"tiny {precision}", edited(TINY, p), ["batch=2", "layers=1", "length=12"]
        yield f"dense {precision}", edited(DENSE, p), FEW
        yield f"moe {precision}", edited(MOE, p), few_experts
        yield f"hints {precision}", HINTS.replace("    groups", f"    {p}\n    groups"), []
    yield "micro-batches", edited(DENSE, "num_micro_batch = 2", "clip = 0.5"), FEW
    yield ("f16", edited(MOE, "precision = f16", "loss_scale = dynamic", "groups = 3"),
           few_experts)


def tensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], raw[8 + n + b:8 + n + e])
            for k, v in header.items() for b, e in [v["data_offsets"]]}


def arenas_of(plan):
    """What plan.txt says, and what a device is asked for."""
    says = re.search(r"^arena device=(\d+) host=(\d+) disk=(\d+)$", (plan / "plan.txt").read_text(),
                     re.M)
    out, _ = m6c("run", plan, "--data", "random:1", "--steps", 1, "--device", "null",
                 "--save-every", 0)
    got = [int(re.search(rf"^alloc {mem} (\d+)$", out, re.M)[1]) for mem in ("device", "host", "disk")]
    planned = [int(g) for g in says.groups()]
    check(got == planned, f"{plan}: the run takes {got} bytes, the plan says {planned}")
    return planned


class Outcome:
    """Ten steps of a plan: losses, parameters, arenas, the process's peak of resident memory."""

    def __init__(self, plan, folder):
        self.arenas = arenas_of(plan)
        saved = folder / "saved"
        with open(folder / "err", "w+") as err, open(folder / "out", "w+") as out:
            p = subprocess.Popen([M6C, *map(str, ("run", plan, "--data", "random:1", "--steps", STEPS,
                                                  "--save-every", 0, "--save", saved, "--json",
                                                  "--disk", folder))], stdout=out, stderr=err)
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
            self.resident = usage.ru_maxrss * KIB
            err.seek(0), out.seek(0)
            text, lines = err.read(), out.read().splitlines()
        check(p.returncode == 0, f"{plan}: {text}")
        self.steps = [{k: v for k, v in json.loads(l).items() if k != "seconds"} for l in lines]
        check(len(self.steps) == STEPS, text)
        self.parameters = tensors(saved)
        told = float(re.search(r"arenas ([\d.]+) MiB \(as planned\)", text)[1])
        check(abs(told - sum(self.arenas[:2]) / MIB) <= 0.051, f"arenas are told:\n{text}")
        tiers = re.search(r"tiers: device ([\d.]+) MiB, host ([\d.]+) MiB, disk ([\d.]+) MiB", text)
        check(bool(tiers) == any(self.arenas[1:]), text)
        for t, a in zip(tiers.groups() if tiers else (), self.arenas):
            check(abs(float(t) - a / MIB) <= 0.051, f"tiers are told:\n{text}")


class Case:
    def __init__(self, folder, name, text, configs):
        self.folder, self.name = folder, name
        self.model, self.plan = folder / "model.m6", folder / "plan"
        self.offloads = "offload {" in text
        configs = dict(c.split("=") for c in configs).items()  # the last of a name counts
        self.configs = [w for c, v in configs for w in ("--set", f"{c}={v}")]
        # The plan to be equal to knows nothing of hints either.
        self.model.write_text(re.sub(r"(checkpoint|keep|offload) \{ (.*) \}", r"\2", text))
        self.whole = json.loads(self.compile([]).stdout)
        self.want = Outcome(self.plan, folder)
        self.model.write_text(text)
        self.smallest = {}
        check(all(t[2].strip(b"\0") for t in self.want.parameters.values()), "parameters are trained")
        losses = [s["loss"] for s in self.want.steps]
        check(len(set(losses)) == STEPS, f"{name}: losses differ from step to step: {losses}")

    def compile(self, more):
        p = subprocess.run([M6C, *map(str, ("compile", self.model, "-o", self.plan, "--json",
                                            *self.configs, *more))], capture_output=True, text=True)
        misfit = "does not fit" in p.stderr or "no plan was found that keeps all" in p.stderr
        check(p.returncode == 0 or p.returncode == 1 and misfit,
              f"{self.name} {more}: {p.returncode}\n{p.stderr}")
        return p

    def place(self, tier, budget):
        """Options for a tier. Host memory beside a disk is so little that the disk is used."""
        state = 4 * 3 * self.whole["parameters"]
        host = {"alone": 0, "host": 1 << 30, "host+disk": state // 6, "disk": 0}[tier]
        more = ["--memory", f"{budget}B"]
        more += ["--host-memory", f"{host}B"] if host else []
        return more + (["--disk", f"{self.folder}:1GiB"] if "disk" in tier else []), host

    def least(self, tier):
        """The smallest budget that fits, as the error about a hopeless one says."""
        if tier not in self.smallest:
            said = self.compile(self.place(tier, 64)[0]).stderr
            edit = re.search(r"^  --memory (\d+)([KM])iB  ", said, re.M)
            check(edit, f"{self.name}, {tier}: the error names the smallest budget:\n{said}")
            self.smallest[tier] = int(edit[1]) * {"K": KIB, "M": MIB}[edit[2]]
        return self.smallest[tier]

    def compare(self, tier, share):
        """Arenas, and bytes of resident memory that these do not explain; None: there is no plan.
        With host memory there is one but where a hint says that tensors are to stay."""
        where = f"{self.name}, {tier}, {share or 'smallest'}"
        top = self.whole["device_bytes"]
        budget = int(top * share) if share else self.least(tier)
        more, host = self.place(tier, budget)
        made = self.compile(more)
        if made.returncode:
            check(share and share < 1 and (tier != "host" or "hints" in self.name),
                  f"{where}: there is a plan:\n{made.stderr}")
            return None
        says, got = json.loads(made.stdout), Outcome(self.plan, self.folder)
        check(got.steps == self.want.steps, f"{where}: losses, rates and norms are the same\n"
              f"{got.steps}\n{self.want.steps}")
        check(got.parameters.keys() == self.want.parameters.keys(), f"{where}: the same parameters")
        for name, t in self.want.parameters.items():
            check(got.parameters[name] == t, f"{where}: {name} is the same")
        check(got.arenas == [says[f"{m}_bytes"] for m in ("device", "host", "disk")], where)
        if self.offloads and not host:  # the hint asks for host memory; no budget means no limit
            host = 1 << 30
        for arena, most in zip(got.arenas, (budget, host, (1 << 30) * ("disk" in tier))):
            check(arena <= most, f"{where}: {got.arenas} within the budgets")
        grown = got.resident - self.want.resident
        explained = sum(got.arenas[:2]) - self.want.arenas[0]
        beside = BESIDE + (DISK_BUFFERS if got.arenas[2] else 0)
        check(grown <= explained + beside, f"{where}: resident memory grows by {grown}, the arenas "
              f"explain {explained} and {beside} are allowed")
        return got.arenas, grown - explained


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--all", action="store_true")
    args.add_argument("-v", "--verbose", action="store_true")
    args.add_argument("--case", default="", help="only cases with this in their names")
    args = args.parse_args()
    compared, misfits, values, used, worst = 0, 0, 0, [0, 0, 0], 0
    every = [(tier, share) for share in SHARES for tier in TIERS]
    with workspace() as name:
        folder = pathlib.Path(name)
        os.environ["M6C_CACHE"] = str(folder / "cache")  # all plans choose the same products
        for i, (name, text, configs) in enumerate(cases()):
            if args.case not in name or not (args.all or args.case or name in DEFAULT):
                continue
            case = Case(folder, name, text, configs)
            for j, (tier, share) in enumerate(every):
                if not args.all and (j + i) % IN_TURNS:
                    continue
                got = case.compare(tier, share)
                if args.verbose:
                    print(f"{name}, {tier}, {share or 'smallest'}: {got or 'does not fit'}", flush=True)
                if not got:
                    misfits += 1
                    continue
                compared += 1
                values += sum(len(t[2]) for t in case.want.parameters.values())
                used = [u + (a > 0) for u, a in zip(used, got[0])]
                worst = max(worst, got[1])
    check(args.case or used[1] >= compared // 4 and used[2] >= compared // 6, f"tiers are used: {used}")
    print(f"{compared} plans under budgets ({used[1]} with host memory, {used[2]} with a disk) have the "
          f"losses of {STEPS} steps and the {values} bytes of parameters of the plans without; "
          f"{misfits} budgets do not fit; at most {worst / MIB:.1f} MiB of resident memory beside the "
          f"arenas")


if __name__ == "__main__":
    main()
