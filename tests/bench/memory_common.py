"""What the memory benchmarks share: m6c as a command, plans, and runs in turns.

A plan is run anew for every figure, and the first steps of a run are not counted. Plans that are
compared take turns (A B C A B C …, each round beginning with another one), so that a machine that
grows slower slows all of them. A plan's time is the median over rounds of the round's median step.
"""
import hashlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOST = "64GB"  # a budget of the host's memory that is never the limit
MIB = 1 << 20
DENSE, MOE, UNCLIPPED = "dense", "moe", "moe, not clipped"  # models of this folder


def settings(**configs):
    return [word for name, value in configs.items() for word in ("--set", f"{name}={value}")]


# Steps of some 100 ms on two cores. In `deep` activations and thin layers count, in `moe` the state.
MODELS = {
    "dense": (DENSE, dict(layers=4, hidden=256, heads=4, ffn_width=1024, batch=16, length=48,
                          vocab=2048)),
    "moe": (MOE, dict(layers=3, hidden=192, heads=4, ffn_width=768, experts=8, batch=12, length=48,
                      vocab=2048)),
    "deep": (DENSE, dict(layers=12, hidden=192, heads=4, ffn_width=768, batch=8, length=48,
                         vocab=2048)),
}


def paced(link):
    return ["--link", link] if link else []


def log(text):
    print(text, file=sys.stderr, flush=True)


class Failure(Exception):
    """m6c ended with an error: its first line."""


class Plan:
    """A compiled plan, what was predicted of it, and its measured rounds (ms a step)."""

    def __init__(self, name, folder, told, link):
        self.name, self.folder, self.told, self.link = name, folder, told, link
        self.predicted, self.device = told["predicted_ms"], told["device_bytes"]
        self.rounds, self.fastest, self.failed = [], [], None

    @property
    def measured(self):
        return float("inf") if self.failed else statistics.median(self.rounds)

    def text(self):
        return (self.folder / "plan.txt").read_text()

    def key(self):
        """Equal for plans that do the same."""
        told = ("command ", "budget ", "predicted ", "decision ", "hashes ", "machine ", "source ")
        lines = [l for l in self.text().splitlines() if not l.startswith(told)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def only_hinted(self):
        """Nothing was decided beyond what was asked for."""
        lines = [l for l in self.text().splitlines() if l.startswith("decision ")]
        return all(" hinted " in l for l in lines)


class M6c:
    """The command, with kernels and products chosen anew in a cache of its own."""

    def __init__(self, folder, link=None, threads=None):
        self.command = folder / "m6c"  # a copy: somebody may build another meanwhile
        shutil.copy2(os.environ.get("M6C") or ROOT / "build" / "m6c", self.command)
        self.folder, self.link = folder, link
        self.threads = threads or len(os.sched_getaffinity(0))
        self.sources = {name: self.source(name) for name in (DENSE, MOE)}
        self.sources[UNCLIPPED] = HERE / "moe.m6"
        self.env = dict(os.environ, M6C_CACHE=str(folder / "cache"), M6C_THREADS=str(self.threads))

    def source(self, name):
        """A model of this folder, with gradients clipped, as large models are trained: the update
        waits for the norm of all gradients."""
        path = self.folder / f"{name}.m6"
        text = (HERE / f"{name}.m6").read_text()
        path.write_text(text.replace("precision = f32", "precision = f32\n    clip = 1.0"))
        return path

    def call(self, *words):
        done = subprocess.run([self.command, *map(str, words)], env=self.env, capture_output=True,
                              text=True)
        if done.returncode:
            raise Failure((done.stderr.strip() or f"status {done.returncode}").splitlines()[0])
        return done.stdout

    def calibrate(self, out, plan=None, quick=False, disk=None):
        """Measures the machine, its link as it is paced; or adds the prices of a plan's pieces."""
        words = ["calibrate", *([plan.folder] if plan else []), "-o", out, *paced(self.link)]
        words += ["--quick"] if quick else []
        return json.loads(self.call(*words, "--disk", disk or self.folder, "--json"))

    def compile(self, name, model, profile, *options, memory=None, only_plan=False):
        """A Plan in a folder of that name; Failure when it does not fit."""
        source, configs = model
        folder = self.folder / name
        words = ["compile", self.sources[source], "-o", folder, "--json", "--cluster", profile,
                 *settings(**configs), *options]
        if memory:
            words += ["--memory", f"{-(-memory // 1024)}KiB"]
        if only_plan:
            words.append("--plan-only")
        return Plan(name, folder, json.loads(self.call(*words)), self.link)

    def smallest(self, model, profile, *options):
        """Bytes of the device that the smallest plan takes, as the compiler says them."""
        try:
            plan = self.compile("smallest", model, profile, *options, memory=4096, only_plan=True)
            return plan.device
        except Failure as error:
            found = re.search(r"smallest plan found takes ([\d.]+) MiB", str(error))
            if not found:
                raise
            return int((float(found.group(1)) + 0.01) * MIB)

    def simulate(self, plan, profile):
        told = json.loads(self.call("simulate", plan.folder, "--cluster", profile, "--json"))
        return told["predicted_ms"]

    def start(self, plan, *options):
        words = [self.command, "run", plan.folder, "--data", "random:1", "--json", "--steps",
                 10 ** 9, "--save-every", 0, *options]
        return subprocess.Popen(list(map(str, words)), env=self.env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def run(self, plan, steps, warm=2, options=(), told=None):
        """Seconds of each step after the first ones. The run is killed, so that it does not write
        a checkpoint of a state that nobody wants."""
        process = self.start(plan, *paced(plan.link), *options)
        seconds = []
        for line in process.stdout:
            step = json.loads(line)
            seconds.append(step["seconds"])
            if told:
                told(process, len(seconds), seconds[-1], step["loss"])
            if len(seconds) == steps + warm:
                break
        process.kill()
        error = process.communicate()[1]
        if len(seconds) < steps + warm:
            lines = [l for l in error.splitlines() if "error:" in l or l.startswith("m6c:")]
            raise Failure((lines or error.splitlines() or ["the run ended early"])[0])
        return seconds[warm:]


def take_turns(m6c, plans, deadline, steps=6, least=2, most=7):
    """Runs the plans in turns until the deadline (time.monotonic); at least `least` rounds. A plan
    whose run fails is left out from then on."""
    longest = 0
    for turn in range(most):
        begin = time.monotonic()
        plans = [p for p in plans if not p.failed]
        if turn >= least and begin + longest > deadline:
            break
        at = turn * max(len(plans) // most, 1) % len(plans)
        for plan in plans[at:] + plans[:at]:
            try:
                seconds = m6c.run(plan, steps)
            except Failure as error:
                plan.failed = str(error)
                log(f"  {plan.name} failed: {error}")
                continue
            plan.rounds.append(1e3 * statistics.median(seconds))
            plan.fastest.append(1e3 * min(seconds))
        longest = max(longest, time.monotonic() - begin)
        log(f"  round {turn + 1}: {len(plans)} plans in {time.monotonic() - begin:.0f} s")


def noise(plans):
    """Two standard errors of the ratio of two plans' times, from how a plan's rounds differ after
    what all plans of a round have in common is taken out."""
    plans = [p for p in plans if not p.failed]
    rounds = min((len(p.rounds) for p in plans), default=0)
    if rounds < 2 or len(plans) < 2:
        return float("nan")
    apart = [[p.rounds[r] / p.measured for p in plans] for r in range(rounds)]
    common = [statistics.median(row) for row in apart]
    left = sorted(abs(x / common[r] - 1) for r in range(rounds) for x in apart[r])
    deviation = 1.48 * left[len(left) // 2] * (rounds / (rounds - 1)) ** 0.5
    return 2 * 2 ** 0.5 * 1.25 * deviation / rounds ** 0.5


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def mib(n):
    return f"{n / MIB:.1f}"


def failures(plans):
    """Lines about the plans that did not run, which a table must not hide."""
    return "".join(f"\n**Failed**: {p.name}: {p.failed}" for p in plans if p.failed)


def record(plan):
    return {"name": plan.name, "predicted_ms": plan.predicted, "device_bytes": plan.device,
            "host_bytes": plan.told["host_bytes"], "rounds_ms": plan.rounds,
            "fastest_ms": plan.fastest, "failed": plan.failed}
