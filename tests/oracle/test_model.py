"""m6c against the oracle: the same parameters and batch in, 20 optimizer steps of every variant.

Losses within 1e-4 relative, step 1's gradients within 1e-3 of their norm, in float32.
usage: test_model.py [VARIANT ...]; the command is $M6C (build/m6c). Names of the columns:
loss, gradient: the worst relative error; moved: how far the parameters are apart after the last
step, relative to how far they moved.   TIMEOUT: 900
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np

from oracle import files, model, text
from oracle.variants import VARIANTS

M6C = os.environ.get("M6C") or str(HERE.parent.parent / "build" / "m6c")
STEPS = 20
LOSS, GRADIENT, MOVED = 1e-4, 1e-3, 5e-3
STARTS = 3


def m6c(*args):
    p = subprocess.run([M6C, *map(str, args)], capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(f"m6c {' '.join(map(str, args))}: status {p.returncode}\n{p.stderr}")
    return p.stdout


def run_m6c(config, train, params, batch, folder):
    """What model.run returns, from m6c."""
    source = folder / "model.m6"
    source.write_text(text.model_text(config, train))
    files.save(folder / "params.safetensors", params)
    files.save(folder / "batch.safetensors", batch)
    m6c("compile", source, "-o", folder / "plan")
    out = m6c("run", folder / "plan", "--init", folder / "params.safetensors",
              "--data", folder / "batch.safetensors", "--steps", STEPS, "--json",
              "--save", folder / "after.safetensors")
    m6c("compile", source, "-o", folder / "plan_grads", "--grads")
    m6c("run", folder / "plan_grads", "--init", folder / "params.safetensors",
        "--data", folder / "batch.safetensors", "--steps", 1, "--json",
        "--grads", folder / "grads.safetensors")
    steps = [json.loads(line) for line in out.splitlines()]
    after = {n: t for n, t in files.load(folder / "after.safetensors").items() if n in params}
    return ([s["loss"] for s in steps], [s["grad_norm"] for s in steps],
            files.load(folder / "grads.safetensors"), after)


def worst(a, b):
    pairs = zip(a, b, strict=True)
    return max((abs(x - y) / abs(y) if x == x else float("inf")) for x, y in pairs)


def check_seed(name, seed):
    """Prints one line of errors, the worst tensors if they are too large. Returns whether the first
    step agrees (every gradient), and whether all steps do."""
    config, train = VARIANTS[name]
    params, batch = files.random_params(config, seed), files.random_batch(config, seed + 1)
    want = model.run(config, train, params, batch, STEPS)
    with tempfile.TemporaryDirectory(prefix="m6c-oracle-") as folder:
        got = run_m6c(config, train, params, batch, pathlib.Path(folder))
    loss, norm = worst(got[0], want[0]), worst(got[1], want[1])
    grads = files.compare(got[2], want[2])
    start = {n: np.asarray(p, np.float64) for n, p in params.items()}
    moved = files.compare({n: t - start[n] for n, t in got[3].items()},
                          {n: t - start[n] for n, t in want[3].items()})
    first = grads[0][0] <= GRADIENT and worst(got[0][:1], want[0][:1]) <= LOSS
    ok = first and loss <= LOSS and norm <= GRADIENT and moved[0][0] <= MOVED
    print(f"{name}: {'ok' if ok else 'differs'}: loss {loss:.1e}, gradient {grads[0][0]:.1e} "
          f"({grads[0][1]}), norm {norm:.1e}, moved {moved[0][0]:.1e} ({moved[0][1]}), seed {seed}")
    if not ok:
        print("  losses, m6c and oracle:")
        print(*(f"  {a:.7f} {b:.7f}\n" for a, b in zip(got[0], want[0])))
        print(*(f"  {e:.1e} {n}\n" for e, n in grads[:6]))
    return first, ok


def check(name):
    """Two experts whose gates tie to the last bits are chosen either way, and from then on correct
    programs differ: such a start says nothing, another is taken. The first step, which has no
    history, must agree for every start, and some start must agree to the end."""
    for seed in range(1, 1 + STARTS):
        first, ok = check_seed(name, seed)
        if ok or not first:
            return ok
    return False


def main():
    if not os.access(M6C, os.X_OK):
        print(f"{M6C} is not built")
        return 77
    failed = 0
    for name in sys.argv[1:] or VARIANTS:
        try:
            failed += not check(name)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            failed += 1
            print(f"{name}: failed: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
