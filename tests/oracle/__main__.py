"""python -m oracle (from tests/, under build/venv):

  make VARIANT MODEL.m6 PARAMS BATCH [SEED]     model text, random parameters, a random batch
  run VARIANT PARAMS BATCH STEPS OUT GRADS      steps; losses on stdout, final parameters, gradients
  compare A B                                   relative errors of each tensor, the worst first
"""
import sys

import numpy as np

from . import files, model, text
from .variants import VARIANTS


def make(variant, model_file, params, batch, seed="1"):
    config, train = VARIANTS[variant]
    with open(model_file, "w") as f:
        f.write(text.model_text(config, train))
    files.save(params, files.random_params(config, int(seed)))
    files.save(batch, files.random_batch(config, int(seed) + 1))


def run(variant, params, batch, steps, out, grads):
    config, train = VARIANTS[variant]
    losses, norms, first, last = model.run(config, train, files.load(params), files.load(batch),
                                           int(steps))
    for step, (loss, size) in enumerate(zip(losses, norms), 1):
        print(f"step {step} loss {loss:.7g} grad_norm {size:.7g}")
    files.save(out, {n: np.asarray(p) for n, p in last.items()})
    files.save(grads, {n: np.asarray(g) for n, g in first.items()})


def compare(a, b):
    for error, name in files.compare(files.load(a), files.load(b)):
        print(f"{error:10.3e}  {name}")


COMMANDS = {"make": make, "run": run, "compare": compare}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__ + "\nvariants: " + " ".join(VARIANTS))
    COMMANDS[sys.argv[1]](*sys.argv[2:])
