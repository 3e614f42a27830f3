"""One training step in JAX: everything in one jit, parameters and state donated, tokens of the
mixture of experts moved by index."""
import functools
import math

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file

import peer


def norm(p, x):
    c = x - x.mean(-1, keepdims=True)
    return c * jax.lax.rsqrt((c * c).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["shift"]


def attention(p, x, seen):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[w]) for w in ("wq", "wk", "wv"))
    score = jnp.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])
    weight = jax.nn.softmax(jnp.where(seen, score, -1e30), axis=-1)
    return jnp.einsum("bthk,hkd->btd", jnp.einsum("bhts,bshk->bthk", weight, v), p["wo"])


def ffn(p, x):
    return jax.nn.gelu(x @ p["up.weight"] + p["up.bias"]) @ p["down.weight"] + p["down.bias"]


def moe(p, x, config):
    e, k, rows = config["experts"], config["prototypes"], config["rows"]
    s = x.reshape(-1, x.shape[-1])
    n = len(s)
    probs = jax.nn.softmax((s @ p["gate"]).reshape(n, k, e // k), axis=-1)
    choice = probs.argmax(-1)
    gate = jnp.take_along_axis(probs, choice[..., None], -1)[..., 0]
    hot = jax.nn.one_hot(choice, e // k, dtype=jnp.int32)
    row = jnp.take_along_axis(hot.cumsum(0), choice[..., None], -1)[..., 0] - 1
    slot = jnp.where(row < rows, (jnp.arange(k) * (e // k) + choice) * rows + row, e * rows)
    source = jnp.full(e * rows, n).at[slot].set(jnp.arange(n)[:, None], mode="drop")
    h = s.at[source].get(mode="fill", fill_value=0).reshape(e, rows, -1)
    h = jnp.einsum("ecf,efd->ecd", jax.nn.gelu(jnp.einsum("ecd,edf->ecf", h, p["up"])), p["down"])
    y = h.reshape(e * rows, -1).at[slot].get(mode="fill", fill_value=0)
    balance = (probs.mean(0) * hot.mean(0)).sum() * (e // k)
    return (y * gate[..., None]).sum(1).reshape(x.shape), config["aux"] * balance


def loss(params, batch, config):
    def own(scope):
        return {n[len(scope) + 1:]: p for n, p in params.items() if n.startswith(scope + ".")}

    prefix = config["patches"]
    t = prefix + config["length"]
    row, col = jnp.arange(t)[:, None], jnp.arange(t)[None]
    seen = (col <= row) | ((row < prefix) & (col < prefix))
    x = jnp.concatenate([batch["image"] @ params["pixels.weight"] + params["pixels.bias"],
                         params["embedding.table"][batch["text"]]], axis=1)
    x = x + params["position.table"]
    aux = 0.0
    for kind, scope, before in peer.blocks(config):
        y, p = norm(own(before), x), own(scope)
        if kind == "moe":
            y, more = moe(p, y, config)
            aux = aux + more
        else:
            y = attention(p, y, seen) if kind == "attention" else ffn(p, y)
        x = x + y
    logits = norm(own("norm"), x[:, prefix:]) @ params["head.weight"] + params["head.bias"]
    target = batch["target"]
    picked = jnp.take_along_axis(logits, jnp.maximum(target, 0)[..., None], -1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - picked
    kept = target != -100
    return jnp.where(kept, nll, 0).sum() / jnp.maximum(kept.sum(), 1) + aux


@functools.partial(jax.jit, static_argnames=("spec",), donate_argnums=(0, 1, 2))
def train_step(params, m, v, batch, lr, step, spec):
    config, train = spec.config, spec.train
    value, grads = jax.value_and_grad(loss)(params, batch, config)
    scale = 1
    if train["clip"]:
        size = jnp.sqrt(sum((g * g).sum() for g in grads.values()))
        scale = jnp.minimum(1, train["clip"] / size)
    tree = jax.tree.map
    m = tree(lambda m, g: 0.9 * m + 0.1 * scale * g, m, grads)
    v = tree(lambda v, g: 0.999 * v + 0.001 * (scale * g) ** 2, v, grads)
    a, b = 1 / (1 - 0.9 ** step), 1 / (1 - 0.999 ** step)
    params = tree(lambda p, m, v: p - lr * (a * m / (jnp.sqrt(b * v) + 1e-8) + train["decay"] * p),
                  params, m, v)
    return params, m, v, value


class Spec:
    """The model's numbers, as a static argument: hashed by identity."""

    def __init__(self, spec):
        self.config, self.train = spec["config"], spec["train"]


def start(spec, params, batch):
    spec = Spec(spec)
    params, batch = (jax.tree.map(jnp.asarray, load_file(f)) for f in (params, batch))
    state = [params, *(jax.tree.map(jnp.zeros_like, params) for _ in "mv")]

    def step(number):
        *state[:], value = train_step(*state, batch, peer.learning_rate(spec.train, number),
                                      float(number), spec)
        return float(value)

    return step


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    peer.serve("jax", start)
