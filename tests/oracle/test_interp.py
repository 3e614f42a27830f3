"""The interpreter against the oracle, both in double precision: losses and gradient norms of three
optimizer steps of every variant within 1e-9, step 1's gradients (kept as f32) within 1e-6.

usage: test_interp.py [VARIANT ...]   TIMEOUT: 900
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from oracle import files, model, text
from oracle.variants import VARIANTS

BUILD = pathlib.Path(os.environ.get("BUILD", HERE.parent.parent / "build"))
STEPS, LOSS, GRADIENT = 3, 1e-9, 1e-6


def run_interp(config, train, params, batch, folder):
    """Losses, gradient norms and step 1's gradients of the interpreter."""
    (folder / "model.m6").write_text(text.model_text(config, train))
    files.save(folder / "params.safetensors", params)
    files.save(folder / "batch.safetensors", batch)
    p = subprocess.run([BUILD / "m6-interp", folder / "model.m6", folder / "params.safetensors",
                        folder / "batch.safetensors", str(STEPS), folder / "grads.safetensors"],
                       capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(p.stderr)
    steps = [json.loads(line) for line in p.stdout.splitlines()]
    return ([s["loss"] for s in steps], [s["grad_norm"] for s in steps],
            files.load(folder / "grads.safetensors"))


def worst(a, b):
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def check(name):
    config, train = VARIANTS[name]
    params, batch = files.random_params(config, 1), files.random_batch(config, 2)
    wide = {n: np.asarray(p, np.float64) for n, p in params.items()}
    floats = {n: x.astype(np.float64) if x.dtype == np.float32 else x for n, x in batch.items()}
    want = model.run(config, train, wide, floats, STEPS)
    with tempfile.TemporaryDirectory(prefix="m6c-interp-") as folder:
        got = run_interp(config, train, params, batch, pathlib.Path(folder))
    loss, norm = worst(got[0], want[0]), worst(got[1], want[1])
    grads = files.compare(got[2], want[2])
    ok = loss <= LOSS and norm <= LOSS and grads[0][0] <= GRADIENT
    print(f"{name}: {'ok' if ok else 'failed'}: loss {loss:.1e}, norm {norm:.1e}, "
          f"gradient {grads[0][0]:.1e} ({grads[0][1]})")
    return ok


if __name__ == "__main__":
    sys.exit(0 if all([check(name) for name in sys.argv[1:] or VARIANTS]) else 1)
