"""Times one training step of three models in m6c and its peers; see step.sh.

Every peer is a process of its own that takes a few steps when told; rounds go through the peers in
turn, each round beginning with another one. m6c is run anew each round, from its compiled plan, and
the first step of each of its runs is not counted, nor are the peers' first two. Peak memory: `step`
while stepping (after compiling), `whole` from the process's start, `imports` what Python and the
library hold before they load a parameter.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import numpy as np

from oracle import files
from oracle.model import Config

# A long warm-up: the parameters hardly move, so that the losses of all peers can be compared. (Two
# correct programs drift apart once rounding sends one token to another expert.)
TRAIN = {"peak": 3e-4, "warmup": 1000, "steps": 20000, "decay": 0.01, "clip": 0}
MODELS = {  # the .m6 file, the same as a Config, the schedule in the file
    "tiny": ("examples/m6-tiny.m6", Config(), TRAIN | {"peak": 1e-3, "warmup": 40, "steps": 600,
                                                   "clip": 1.0}),
    "dense": ("tests/bench/dense.m6",
              Config(block=("attention", "ffn"), layers=12, hidden=768, heads=12, ffn_width=3072,
                     batch=4, length=128, vocab=21128), TRAIN),
    "moe": ("tests/bench/moe.m6",
            Config(block=("attention", "moe"), layers=6, hidden=512, heads=8, ffn_width=2048,
                   experts=16, batch=8, length=128, vocab=21128), TRAIN),
}


def product_flops(c):
    """Floating-point operations of the matrix products of one step: three times forward's."""
    n, d, t = c.tokens, c.hidden, c.patches + c.length
    each = {"attention": 8 * n * d * d + 4 * n * t * d, "ffn": 4 * n * d * c.ffn_width,
            "moe": 2 * n * d * c.experts + 4 * c.experts * c.rows * d * c.ffn_width}
    ends = 2 * c.batch * (c.patches * c.patch + c.length * c.vocab) * d
    return 3 * (c.layers * sum(each[kind] for kind in c.block) + ends)


def product_peak():
    """FLOP/s of the best of NumPy's 1024-cubed products on these threads."""
    a = np.random.default_rng(0).random((1024, 1024), np.float32)
    best = 1e9
    for _ in range(12):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024 ** 3 / best


def balanced(params):
    """Gates as narrow as a new model's: all experts get tokens and few are dropped, so that a token
    that rounding sends elsewhere does not move all those behind it."""
    return {n: p * np.float32(0.02 / p.std()) if n.endswith(".gate") else p
            for n, p in params.items()}


class Peer:
    """A JAX or PyTorch process."""

    def __init__(self, name, spec, params, batch, env):
        script = "peer_jax.py" if name == "jax" else "peer_torch.py"
        if name == "torch-compile":
            env = dict(env, M6C_TORCH_COMPILE="1")
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([sys.executable, HERE / script, spec, params, batch],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, env=env, text=True)
        ready = self.answer()
        self.losses, self.seconds = ready["losses"], []
        self.compile, self.step_rss = ready["compile"], 0
        self.imports, self.whole = ready["imports"], ready["whole"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(self.log.read().decode(errors="replace")[-2000:])
        return json.loads(line)

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        told = self.answer()
        self.losses += told["losses"]
        self.seconds += told["seconds"]
        self.step_rss = told["rss"]
        self.whole = max(self.whole, self.step_rss)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class M6c:
    def __init__(self, model, params, batch, folder, env):
        self.command = os.environ.get("M6C") or str(ROOT / "build" / "m6c")
        self.env = dict(env, M6C_CACHE=str(folder / "cache"), M6C_THREADS=env["OMP_NUM_THREADS"])
        self.plan, self.args = folder / "plan", ["--init", params, "--data", batch]
        self.compile = self.timed_compile(model, self.plan)
        self.warm = self.timed_compile(model, folder / "again")
        self.losses, self.seconds, self.whole, self.step_rss = [], [], 0, 0
        self.log = tempfile.TemporaryFile()

    def timed_compile(self, model, plan):
        begin = time.perf_counter()
        subprocess.run([self.command, "compile", ROOT / model, "-o", plan], check=True,
                       env=self.env, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    def run(self, steps):
        process = subprocess.Popen([self.command, "run", self.plan, *self.args, "--steps",
                                    str(steps + 1), "--json"], stdout=subprocess.PIPE, env=self.env,
                                   stderr=self.log)
        told = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            self.log.seek(0)
            raise RuntimeError(self.log.read().decode(errors="replace")[-2000:])
        self.losses = self.losses or [s["loss"] for s in told]
        self.seconds += [s["seconds"] for s in told[1:]]
        self.whole = self.step_rss = max(self.whole, usage.ru_maxrss * 1024)

    def close(self):
        pass


def measure(model, names, args, env):
    """{peer: figures} of one model, or {"failed": why}."""
    path, config, train = MODELS[model]
    with tempfile.TemporaryDirectory(prefix="m6c-bench-") as folder:
        folder = pathlib.Path(folder)
        spec, params, batch = folder / "spec.json", folder / "params.safetensors", folder / "batch.safetensors"
        numbers = vars(config) | {"rows": config.rows}
        spec.write_text(json.dumps({"config": numbers, "train": train}))
        files.save(params, balanced(files.random_params(config, 1)))
        files.save(batch, files.random_batch(config, 2))
        peers, results = {}, {}
        for name in names:
            print(f"{model}: starting {name}", file=sys.stderr)
            try:
                peers[name] = (M6c(path, params, batch, folder, env) if name == "m6c"
                               else Peer(name, spec, params, batch, env))
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                results[name] = {"failed": str(error)}
        order = list(peers)
        for turn in range(args.rounds):
            for name in order[turn % len(order):] + order[:turn % len(order)]:
                peers[name].run(args.steps)
            print(f"{model}: round {turn + 1} of {args.rounds}", file=sys.stderr)
        for name, p in peers.items():
            p.close()
            results[name] = {"median": statistics.median(p.seconds), "best": min(p.seconds),
                             "step_rss": p.step_rss, "whole_rss": p.whole, "compile": p.compile,
                             "warm": getattr(p, "warm", None), "losses": p.losses,
                             "imports_rss": getattr(p, "imports", 0)}
        return results


def agree(results):
    """The worst relative difference of any two losses of the same step."""
    all_losses = [r["losses"] for r in results.values() if "losses" in r]
    return max((max(v) - min(v)) / min(v) for v in zip(*all_losses))


def table(model, results, flops, peak):
    good = {n: r for n, r in results.items() if "median" in r}
    fastest = min((r["median"] for n, r in good.items() if n != "m6c"), default=None)
    lines = [f"\n### {model}: {flops / 1e9:.1f} GFLOP of matrix products a step\n",
             "| | step, median s | best s | x fastest peer | GFLOP/s | of the product peak "
             "| peak MB, step | whole | imports | compile s | warm s |", "|---|" + "---|" * 10]
    for name, r in results.items():
        if "failed" in r:
            lines.append(f"| {name} | failed: {r['failed'].splitlines()[-1][:80]} |" + " |" * 9)
            continue
        ratio = f"{r['median'] / fastest:.2f}" if fastest else ""
        warm = f"{r['warm']:.2f}" if r["warm"] is not None else ""
        rate = flops / r["median"]
        lines.append(f"| {name} | {r['median']:.3f} | {r['best']:.3f} | {ratio} | {rate / 1e9:.0f} "
                     f"| {100 * rate / peak:.0f} % | {r['step_rss'] / 1e6:.0f} "
                     f"| {r['whole_rss'] / 1e6:.0f} | {r['imports_rss'] / 1e6:.0f} "
                     f"| {r['compile']:.2f} | {warm} |")
    if len(good) > 1:
        apart = agree(good)
        lines.append(f"\nLosses of equal steps differ by at most {apart:.1e} (relative)"
                     + (": **they do not agree**." if not apart <= 1e-3 else "."))
    return "\n".join(lines)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--models", default="tiny,dense,moe")
    args.add_argument("--peers", default="m6c,jax,torch,torch-compile")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--steps", type=int, default=4)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--json", help="file to write the figures to")
    args = args.parse_args()
    cpus = sorted(os.sched_getaffinity(0))[:args.threads]
    os.sched_setaffinity(0, cpus)
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM="false")
    peak, everything = product_peak(), {}
    print(f"{len(cpus)} threads; matrix-product peak (NumPy, 1024 cubed) {peak / 1e9:.0f} GFLOP/s; "
          f"{args.rounds} rounds of {args.steps} steps")
    for model in args.models.split(","):
        results = measure(model, args.peers.split(","), args, env)
        flops = product_flops(MODELS[model][1])
        everything[model] = {"flops": flops, "peak": peak, "peers": results}
        print(table(model, results, flops, peak), flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
