"""What the phases of run.sh share: a run's options and findings, ways to start programs."""
import array
import json
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Failed(Exception):
    """A command did not do what the run needs; its words."""


def summary(samples):
    """Median, quartiles and number of samples."""
    s = sorted(samples)
    at = lambda q: s[round(q * (len(s) - 1))]
    return {"median": statistics.median(s), "low": at(0.25), "high": at(0.75), "n": len(s)}


# ---- data ----

INPUT = re.compile(r'^buffer (\d+) input "([^"@]+)" (f32|i32)\[([\d,]*)\]', re.M)


def inputs_of(plan):
    """{name: (shape, bound of integers or 0)} of what a plan is fed."""
    text = (plan / "plan.txt").read_text()
    bounds = dict(re.findall(r"^input b(\d+) bound=(\d+)", text, re.M))
    return {name: (tuple(map(int, shape.split(","))), int(bounds.get(number, 2)) if kind == "i32" else 0)
            for number, name, kind, shape in INPUT.findall(text)}


def random_values(dice, shape, bound):
    n = 1
    for d in shape:
        n *= d
    if bound:
        return array.array("i", (dice.randrange(bound) for _ in range(n)))
    block = [dice.gauss(0, 1) for _ in range(min(n, 1 << 16))]  # longer ones repeat it
    return array.array("f", (block * (n // len(block) + 1))[:n])


def write_batch(path, inputs, seed=3):
    """A batch as a safetensors file, the same for m6c and its peers."""
    dice, header, body = random.Random(seed), {}, b""
    for name, (shape, bound) in inputs.items():
        raw = random_values(dice, shape, bound).tobytes()
        header[name] = {"dtype": "I32" if bound else "F32", "shape": list(shape),
                        "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def read_tensors(path):
    """{name: its f32 values} of a safetensors file."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    return {name: array.array("f", raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
            for name, t in header.items() if name != "__metadata__"}


# ---- a run ----

class Run:
    """Options, the device, what was found so far; and ways to run programs."""

    def __init__(self, args):
        self.args, self.tiny, self.root, self.here = args, args.tiny, ROOT, HERE
        self.work = pathlib.Path(args.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.build = pathlib.Path(args.build or ROOT / "build").resolve()
        self.env = dict(os.environ)
        self.env.setdefault("M6C_CACHE", str(self.work / "cache"))
        self.deadline = time.monotonic() + args.seconds
        self.device, self.results = {}, {}
        self.found = lambda: None  # called after each finding: a run that is cut off has a report

    def tool(self, name):
        return str(self.build / name)

    def left(self):
        return self.deadline - time.monotonic()

    def call(self, command, timeout=600, **env):
        """(status, stdout, stderr) of a program; 124: it took too long."""
        try:
            p = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True,
                               timeout=max(min(timeout, self.left()), 1),
                               env={**self.env, **{k: str(v) for k, v in env.items()}})
        except subprocess.TimeoutExpired as late:
            return 124, (late.stdout or b"").decode(errors="replace"), "it took too long\n"
        except OSError as error:
            return 127, "", f"{error}\n"
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")

    def lines(self, command, timeout=600, **env):
        """The JSON objects that a program prints."""
        status, out, err = self.call(command, timeout, **env)
        if status:
            raise Failed(f"{pathlib.Path(str(command[0])).name} {' '.join(map(str, command[1:4]))}: "
                         f"exit status {status}: {err.strip()[-1500:]}")
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def bench(self, *args, **env):
        return self.lines([self.tool("bench_cuda"), *args, *self.bench_options()], **env)

    def bench_options(self):
        options = ["--flush-source", HERE / "flush.cu"]
        return options + (["--flush", 1 << 18, "--rounds", 3, "--warmup", 1] if self.tiny else [])

    def compile(self, model, name, *args, target=None, **env):
        """A plan in the work folder: (its folder, what m6c says of it)."""
        folder = self.work / "plans" / name
        model = os.path.relpath(model, ROOT)  # plans and reports name it
        only = ["--plan-only"] if self.device.get("standin") and target is None else []
        told = self.lines([self.tool("m6c"), "compile", model, "-o", folder, "--json", "--target",
                           target or self.device["arch"], *only, *args], **env)
        return folder, told[0]

    def say(self, text):
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    # -- findings --

    def program(self, name, command, **env):
        """A check: a program that ends well. One for which there is no time left is skipped."""
        begin = time.monotonic()
        if self.left() < 15:
            return self.check(name, None, "no time was left")
        status, out, err = self.call(command, **env)
        ok = None if status == 124 and self.left() < 2 else status == 0
        return self.check(name, ok, out[-500:] + err, time.monotonic() - begin)

    def check(self, name, ok, note="", seconds=None):
        """ok: True, False, or None for what could not be tried."""
        note = note.replace(f"{ROOT}/", "")
        result = "skip" if ok is None else "pass" if ok else "fail"
        self.say(f"{result}: {name}{': ' + note.splitlines()[-1] if note and not ok else ''}")
        self.phase["checks"].append({"name": name, "result": result, "note": note[-3000:],
                                     "seconds": seconds and round(seconds, 1)})
        self.found()

    def attempt(self, name, fn, *args):
        """A part of a phase, without which the others go on."""
        try:
            fn(self, *args)
        except Failed as failed:
            self.check(name, False, str(failed))
        except Exception:  # a mistake of these scripts
            self.check(name, False, traceback.format_exc())

    def figure(self, name, unit, samples, target=None, **detail):
        """A measured figure: median and quartiles of its samples; target: at least so much, judged
        where it is a measurement."""
        figure = {"name": name, "unit": unit, **summary(samples), **detail}
        if target is not None:
            figure["target"] = target
        if target is not None and self.results["measured"]:
            figure["met"] = figure["median"] >= target
        self.phase["figures"].append(figure)
        self.found()
        return figure["median"]

    def missing(self, text):
        if text not in self.phase["missing"]:
            self.say(f"missing: {text}")
            self.phase["missing"].append(text)

    def do(self, name, phase):
        begin = time.monotonic()
        self.say(f"phase {name}")
        self.phase = {"checks": [], "figures": [], "missing": []}
        self.results["phases"][name] = self.phase
        self.attempt(f"phase {name} came to its end", phase)
        self.phase["seconds"] = round(time.monotonic() - begin, 1)
        self.phase["finished"] = time.strftime("%Y-%m-%d %H:%M")
