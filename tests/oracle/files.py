"""Parameters, batches and their files (safetensors); how far two files are apart."""
import numpy as np
from safetensors.numpy import load_file, save_file

from . import model


def random_params(config, seed, dtype=np.float32):
    """As the model's own inits, but nothing is exactly 0 or 1, and gates are wide enough that a
    rounding error does not send a token to another expert."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, (shape, kind) in model.shapes(config).items():
        std = {"normal": 0.04, "zeros": 0.02, "ones": 0.1}[kind]
        if name.endswith(".gate"):
            std = 3 / config.hidden ** 0.5
        params[name] = (rng.standard_normal(shape) * std + (kind == "ones")).astype(dtype)
    return params


def random_batch(config, seed):
    rng = np.random.default_rng(seed)
    text = rng.integers(0, config.vocab, (config.batch, config.length), dtype=np.int32)
    target = np.roll(text, -1, axis=1)
    target[rng.random(target.shape) < 0.1] = model.IGNORE
    target[:, -1] = model.IGNORE
    image = rng.standard_normal((config.batch, config.patches, config.patch), dtype=np.float32)
    return {"image": image, "text": text, "target": target}


def save(path, tensors):
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path)


def load(path):
    return load_file(path)


def compare(a, b):
    """[(relative error |a-b|/|b|, name)], the worst first; a name that is missing on one side, or
    has two shapes, is infinitely far."""
    errors = []
    for name in sorted(set(a) | set(b)):
        x, y = a.get(name), b.get(name)
        if x is None or y is None or x.shape != y.shape:
            errors.append((float("inf"), name))
            continue
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        size = np.linalg.norm(y.ravel())
        away = np.linalg.norm((x - y).ravel())
        errors.append((away / size if size else away, name))
    return sorted(errors, key=lambda e: (-e[0] if e[0] == e[0] else -np.inf, e[1]))
