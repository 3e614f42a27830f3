"""Is the oracle itself right? Gradients against finite differences in float64, routing against a
naive loop written from M6.md, and what must not change: permuted experts, other groups' tokens,
later text. Optimizers where their first step is known in closed form.   TIMEOUT: 600"""
import dataclasses
import functools
import math
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from oracle import files, model, ops
from oracle.variants import VARIANTS

jax.config.update("jax_enable_x64", True)


def close(a, b, tolerance, what):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300)
    assert error <= tolerance, f"{what}: relative error {error:.2e}, allowed {tolerance:.0e}"


def setting(variant, seed=3):
    config, train = VARIANTS[variant]
    batch = files.random_batch(config, seed + 1)
    return config, train, files.random_params(config, seed, np.float64), batch


def test_gradients():
    """Along a random direction of each parameter."""
    for variant in ("shared", "top2x2"):
        config, _, params, batch = setting(variant)
        loss = jax.jit(lambda p, config=config, batch=batch: model.loss(p, batch, config))
        grads = jax.jit(jax.grad(loss))(params)
        rng = np.random.default_rng(5)
        for name, p in params.items():
            d = rng.standard_normal(p.shape) / math.sqrt(p.size)
            h = 1e-6
            slope = (loss(params | {name: p + h * d}) - loss(params | {name: p - h * d})) / (2 * h)
            exact = float((grads[name] * d).sum())
            size = float(jnp.sqrt((grads[name] ** 2).sum())) / math.sqrt(p.size)
            assert abs(slope - exact) <= 1e-4 * size + 1e-9, (variant, name, float(slope), exact)


def naive_moe(x, gate, up, down, config):
    """One token after another, as M6.md words it (k top-1 by prototypes, top-2 as GShard)."""
    n, per = config.group or config.tokens, config.experts // config.prototypes
    s = x.reshape(-1, x.shape[-1])
    y, aux = np.zeros_like(s), 0.0
    for first in range(0, len(s), n):
        tokens = range(first, first + n)
        logits = s[first:first + n] @ gate
        for prototype in range(config.prototypes):
            own = range(prototype * per, (prototype + 1) * per)
            probs = [[math.exp(row[e] - max(row[list(own)])) for e in own] for row in logits]
            probs = [[v / sum(row) for v in row] for row in probs]
            used = [0] * per
            picks = [[] for _ in tokens]  # (expert, probability, kept)
            for choice in range(config.top):
                for t, row in enumerate(probs):
                    free = [e for e in range(per) if e not in [p[0] for p in picks[t]]]
                    best = max(free, key=lambda e: row[e])
                    picks[t].append((best, row[best], used[best] < config.rows))
                    used[best] += 1
            for t in range(n):
                total = sum(p for _, p, kept in picks[t] if kept) if config.top > 1 else 1
                for e, p, kept in picks[t]:
                    if kept:
                        v = s[first + t]
                        h = np.asarray(model.gelu(v @ up[own[e]]))
                        y[first + t] += p / total * (h @ down[own[e]])
            for e in range(per):
                share = sum(p[0][0] == e for p in picks) / n
                aux += per * share * sum(row[e] for row in probs) / n
    return y.reshape(x.shape), config.aux * aux * n / len(s)


def test_routing():
    for variant in ("moe1", "moe2", "moe4", "top2", "top2x2", "groups", "tight"):
        config = VARIANTS[variant][0]
        rng = np.random.default_rng(7)
        x = rng.standard_normal((config.batch, config.patches + config.length, config.hidden))
        p = {n.split(".")[-1]: a for n, a in files.random_params(config, 8, np.float64).items()
             if n.startswith("block[0].moe.")}
        y, aux = model.moe(p.__getitem__, x, config)
        want, want_aux = naive_moe(x, p["gate"], p["up"], p["down"], config)
        close(y, want, 1e-12, f"{variant}: output")
        close(aux, want_aux, 1e-12, f"{variant}: auxiliary loss")
    dropped = int((np.abs(np.asarray(y)).sum(-1) == 0).sum())
    assert dropped > 0, "the tight capacity drops no token, so dropping is not tested"


def test_permuted_experts():
    """Experts renumbered inside their prototype, and prototypes exchanged: the same outputs."""
    config = VARIANTS["moe2"][0]
    rng = np.random.default_rng(9)
    x = rng.standard_normal((config.batch, config.patches + config.length, config.hidden))
    p = {n.split(".")[-1]: a for n, a in files.random_params(config, 8, np.float64).items()
         if n.startswith("block[0].moe.")}
    half = config.experts // 2
    order = np.concatenate([half + rng.permutation(half), rng.permutation(half)])
    q = {"gate": p["gate"][:, order], "up": p["up"][order], "down": p["down"][order]}
    a, b = (model.moe(t.__getitem__, x, config) for t in (p, q))
    close(a[0], b[0], 1e-12, "permuted experts")
    close(a[1], b[1], 1e-12, "permuted experts: auxiliary loss")


def test_groups_are_independent():
    config = VARIANTS["groups"][0]
    rng = np.random.default_rng(10)
    x = rng.standard_normal((config.batch, config.patches + config.length, config.hidden))
    p = {n.split(".")[-1]: a for n, a in files.random_params(config, 8, np.float64).items()
         if n.startswith("block[0].moe.")}
    other = x.reshape(-1, config.hidden).copy()
    other[config.group:] += 1
    a, b = (model.moe(p.__getitem__, t, config)[0] for t in (x, other.reshape(x.shape)))
    first = lambda y: np.asarray(y).reshape(-1, config.hidden)[:config.group]
    close(first(a), first(b), 1e-13, "the first group's tokens")


def test_no_look_ahead():
    """Text sees the picture and earlier text; patches see patches only."""
    config, _, params, batch = setting("dense")
    later = dict(batch, text=batch["text"].copy())
    later["text"][:, 6:] = (later["text"][:, 6:] + 1) % config.vocab
    a, b = (model.forward(params, t, config)[0] for t in (batch, later))
    close(a[:, :6], b[:, :6], 1e-13, "logits before the change")
    assert np.abs(np.asarray(a - b))[:, 6:].max() > 1e-6
    picture = dict(batch, image=batch["image"].copy())
    picture["image"][:, -1] += 1
    c = model.forward(params, picture, config)[0]
    assert np.abs(np.asarray(a - c))[:, 0].max() > 1e-9, "text does not see the last patch"


def test_shared_layers():
    """A shared parameter's gradient is the sum over its uses."""
    config, _, params, batch = setting("shared")
    single = dataclasses.replace(config, share=False)
    spread = {n: params[n.replace("block[0]", "block").replace("block[1]", "block")]
              for n in model.shapes(single)}
    together = jax.jit(jax.grad(functools.partial(model.loss, config=config)))(params, batch)
    apart = jax.jit(jax.grad(functools.partial(model.loss, config=single)))(spread, batch)
    for name, g in together.items():
        if name.startswith("block."):
            for i in range(config.layers):
                g = g - apart[name.replace("block", f"block[{i}]", 1)]
            assert float(jnp.abs(g).max()) < 1e-12, name


def test_first_steps():
    rng = np.random.default_rng(11)
    p, g = rng.standard_normal((6, 5)), rng.standard_normal((6, 5))
    new, _ = model.adamw(p, g, {}, 1, 0.1, eps=0.0, decay=0.0)
    close(new, p - 0.1 * np.sign(g), 1e-12, "adamw's first step is the sign of the gradient")
    outer = np.outer(rng.random(6) + 0.1, rng.random(5) + 0.1) * np.sign(g)
    new, _ = model.adafactor(p, outer, {}, 1, 0.1)
    close(new, p - 0.1 * np.sign(g), 1e-12, "adafactor recovers a second moment of rank one")
    new, state = model.sgd(p, g, {}, 1, 0.1)
    new, _ = model.sgd(new, g, state, 2, 0.1)
    close(new, p - 0.1 * (1 + 1.9) * g, 1e-12, "sgd with momentum 0.9, two steps")


def test_clip():
    config, train, params, batch = setting("dense")
    train = dataclasses.replace(train, optimizer="sgd", options=(("momentum", 0.0),), clip=0.01)
    _, norms, _, after = model.run(config, train, params, batch, 1)
    moved = math.sqrt(sum(float(((after[n] - params[n]) ** 2).sum()) for n in params))
    rate = model.cosine(1, train.peak, train.warmup, train.steps)
    close(moved, rate * 0.01, 1e-9, "clipped step")
    assert norms[0] > 0.01


def test_ops():
    """NumPy's ops, on which the test of single operations stands, against JAX's own."""
    rng = np.random.default_rng(12)
    x = rng.standard_normal((3, 7))
    close(ops.softmax(x), jax.nn.softmax(x), 1e-13, "softmax")
    close(ops.gelu(x), jax.nn.gelu(x, approximate=True), 1e-13, "gelu")
    close(ops.norm(x, 1.0, 0.0), jax.nn.standardize(x, axis=-1, epsilon=1e-5), 1e-13, "norm")
    target = np.array([2, model.IGNORE, 6])
    close(ops.cross_entropy(x, target), model.cross_entropy(jnp.asarray(x), target), 1e-13, "loss")
    q, k, v = rng.standard_normal((3, 2, 6, 4, 8))
    for kind in ("none", "causal", "prefix"):
        seen = ops.mask(kind, 6, 3)
        want = jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(seen))
        close(ops.attention(q, k, v, seen), want, 1e-6, f"attention, {kind} mask")
        assert (seen == np.asarray(model.visible(kind, 6, 3))).all(), kind


if __name__ == "__main__":
    failed = 0
    for name, test in sorted((n, t) for n, t in globals().items() if n.startswith("test_")):
        try:
            begin = time.monotonic()
            test()
            print(f"{name}: ok, {time.monotonic() - begin:.1f} s")
        except AssertionError as error:
            failed += 1
            print(f"{name}: failed: {error}")
    sys.exit(failed > 0)
