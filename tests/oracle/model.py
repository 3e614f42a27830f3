"""The M6 family in JAX: a Transformer over image patches and text, dense or mixture of experts.

Written from M6.md (the papers) and the definitions of the standard layers, with none of m6c's code:
routing is the one-hot einsum form of GShard (dims G groups, S tokens, P prototypes, E experts of a
prototype, C rows), where m6c moves rows by index. Parameters are a dict from m6c's logical names to
arrays; precision follows the arrays (float32, or float64 with jax_enable_x64).
"""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = -100  # a target that does not count


@dataclasses.dataclass(frozen=True)
class Config:
    block: tuple = ("attention", "ffn", "attention", "moe")  # one layer, repeated `layers` times
    layers: int = 2
    share: bool = False  # one set of parameters for all layers
    hidden: int = 192
    heads: int = 4
    ffn_width: int = 512
    experts: int = 8
    prototypes: int = 2
    top: int = 1
    capacity: float = 1.25
    group: int = 0  # tokens that are routed together; 0: all of them
    aux: float = 0.01
    batch: int = 32
    patches: int = 16
    patch: int = 768
    length: int = 24
    vocab: int = 2048

    @property
    def tokens(self):
        return self.batch * (self.patches + self.length)

    @property
    def rows(self):
        """The capacity of one expert, in rows for each token group."""
        return self.prototypes * self.top * math.ceil((self.group or self.tokens) * self.capacity
                                                      / self.experts)


def layer_names(config):
    """[(kind, its scope, scope of the norm before it)] of all layers, as m6c names them."""
    scopes = ["block"] * config.layers if config.share else [f"block[{i}]" for i in
                                                            range(config.layers)]
    result = []
    for scope in scopes:
        seen = {}
        for kind in config.block:
            names = []
            for name in (kind, "norm"):
                n = seen[name] = seen.get(name, -1) + 1
                names.append(f"{scope}.{name}" + (f"_{n}" if n else ""))
            result.append((kind, *names))
    return result


def shapes(config):
    """{logical name: (shape, kind of initial value)} of every parameter, in the model's order."""
    d, k, w, e = config.hidden, config.hidden // config.heads, config.ffn_width, config.experts
    table = {
        "pixels.weight": ((config.patch, d), "normal"), "pixels.bias": ((d,), "zeros"),
        "embedding.table": ((config.vocab, d), "normal"),
        "position.table": ((config.patches + config.length, d), "normal"),
    }

    def norm(scope):
        return {f"{scope}.scale": ((d,), "ones"), f"{scope}.shift": ((d,), "zeros")}

    own = {
        "attention": {"wq": (d, config.heads, k), "wk": (d, config.heads, k),
                      "wv": (d, config.heads, k), "wo": (config.heads, k, d)},
        "ffn": {"up.weight": (d, w), "up.bias": (w,), "down.weight": (w, d), "down.bias": (d,)},
        "moe": {"gate": (d, e), "up": (e, d, w), "down": (e, w, d)},
    }
    for kind, scope, before in layer_names(config):
        table |= norm(before)
        for name, shape in own[kind].items():
            table[f"{scope}.{name}"] = (shape, "zeros" if name.endswith("bias") else "normal")
    table |= norm("norm")
    table |= {"head.weight": ((d, config.vocab), "normal"), "head.bias": ((config.vocab,), "zeros")}
    return table


# ---- layers: p looks a parameter of the layer up by its own name ----


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def norm(p, x, eps=1e-5):
    c = x - x.mean(-1, keepdims=True)
    return c / jnp.sqrt((c * c).mean(-1, keepdims=True) + eps) * p("scale") + p("shift")


def linear(p, x):
    return x @ p("weight") + p("bias")


def visible(kind, t, prefix=0):
    """[t, t] booleans: may position row look at position column? kind: none, causal, prefix."""
    row, col = jnp.arange(t)[:, None], jnp.arange(t)[None, :]
    if kind == "none":
        return jnp.ones((t, t), bool)
    both = (row < prefix) & (col < prefix) if kind == "prefix" else False
    return (col <= row) | both


def attention(p, x, seen):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, p(w)) for w in ("wq", "wk", "wv"))
    score = jnp.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])
    weight = jax.nn.softmax(jnp.where(seen, score, -jnp.inf), axis=-1)
    return jnp.einsum("bthk,hkd->btd", jnp.einsum("bhts,bshk->bthk", weight, v), p("wo"))


def ffn(p, x):
    up, down = lambda w: p(f"up.{w}"), lambda w: p(f"down.{w}")
    return linear(down, gelu(linear(up, x)))


def route(logits, rows, top):
    """logits [G,S,P,E] -> combine [G,S,P,E,C] (gate where a token has a row) and the balance loss.

    Softmax inside each prototype; choice after choice takes the best expert that is left, and gets
    the next row of that expert in token order; rows beyond C are dropped."""
    probs = jax.nn.softmax(logits, axis=-1)
    left, taken, gates, places = probs, 0, [], []
    for choice in range(top):
        hot = jax.nn.one_hot(left.argmax(-1), probs.shape[-1], dtype=probs.dtype)
        if choice == 0:
            share = hot.mean(1)  # before capacity
        row = ((jnp.cumsum(hot, axis=1) - 1 + taken) * hot).sum(-1)
        taken = taken + hot.sum(1, keepdims=True)
        place = hot[..., None] * jax.nn.one_hot(row, rows, dtype=probs.dtype)[..., None, :]
        gates.append((probs * hot).sum(-1) * (row < rows))
        places.append(place)
        left = jnp.where(hot > 0, -1.0, left)
    if top > 1:
        total = sum(gates)
        gates = [g / jnp.where(total == 0, 1, total) for g in gates]
    combine = sum(g[..., None, None] * place for g, place in zip(gates, places))
    used = sum(places)
    balance = (probs.mean(1) * share).sum() * probs.shape[-1] / probs.shape[0]
    return combine, used, balance


def moe(p, x, config):
    d, e, prototypes = config.hidden, config.experts, config.prototypes
    s = x.reshape(-1, config.group or config.tokens, d)
    logits = jnp.einsum("gsd,de->gse", s, p("gate"))
    logits = logits.reshape(*logits.shape[:2], prototypes, e // prototypes)
    combine, used, balance = route(logits, config.rows, config.top)
    used = used.reshape(*used.shape[:2], e, config.rows)
    combine = combine.reshape(used.shape)
    h = gelu(jnp.einsum("egcd,edf->egcf", jnp.einsum("gsec,gsd->egcd", used, s), p("up")))
    y = jnp.einsum("gsec,egcd->gsd", combine, jnp.einsum("egcf,efd->egcd", h, p("down")))
    return y.reshape(x.shape), config.aux * balance


def forward(params, batch, config):
    """Returns the logits [batch, length, vocab] and the sum of the auxiliary losses."""
    def scope(name):
        return lambda own: params[f"{name}.{own}"]

    x = jnp.concatenate([linear(scope("pixels"), batch["image"]),
                         params["embedding.table"][batch["text"]]], axis=1)
    x = x + params["position.table"]
    seen = visible("prefix", config.patches + config.length, config.patches)
    aux = 0
    for kind, own, before in layer_names(config):
        y = norm(scope(before), x)
        if kind == "attention":
            x = x + attention(scope(own), y, seen)
        elif kind == "ffn":
            x = x + ffn(scope(own), y)
        else:
            y, more = moe(scope(own), y, config)
            x, aux = x + y, aux + more
    return linear(scope("head"), norm(scope("norm"), x[:, config.patches:])), aux


def cross_entropy(logits, target, ignore=IGNORE):
    """Mean over the targets that are not `ignore`; 0 where there is none."""
    counts = target != ignore
    log_p = jax.nn.log_softmax(logits, axis=-1)
    nll = -jnp.take_along_axis(log_p, jnp.where(counts, target, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(counts, nll, 0).sum() / jnp.maximum(counts.sum(), 1)


def loss(params, batch, config):
    logits, aux = forward(params, batch, config)
    return cross_entropy(logits, batch["target"]) + aux


# ---- schedules and optimizers, in NumPy; steps count from 1 ----


def cosine(step, peak, warmup, steps, floor=0.0):
    done = min(max((step - warmup) / max(steps - warmup, 1), 0), 1)
    rate = floor + (peak - floor) / 2 * (1 + math.cos(math.pi * done))
    return min(step / max(warmup, 1), 1) * rate


def sgd(p, g, state, step, lr, momentum=0.9, decay=0.0):
    m = momentum * state.get("m", 0) + g + decay * p
    return p - lr * m, {"m": m}


def adamw(p, g, state, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.01):
    m = beta1 * state.get("m", 0) + (1 - beta1) * g
    v = beta2 * state.get("v", 0) + (1 - beta2) * g ** 2
    update = m / (1 - beta1 ** step) / (np.sqrt(v / (1 - beta2 ** step)) + eps)
    return p - lr * (update + decay * p), {"m": m, "v": v}


def adafactor(p, g, state, step, lr, power=0.8, eps=1e-30, clip=1.0, relative=False, floor=1e-3):
    """Shazeer and Stern 2018, algorithm 4, without momentum."""
    rho = 1 - step ** -power
    square = g ** 2 + eps
    if p.ndim < 2:
        state = {"v": rho * state.get("v", 0) + (1 - rho) * square}
        root = np.sqrt(state["v"])
    else:
        state = {"row": rho * state.get("row", 0) + (1 - rho) * square.mean(-1),
                 "col": rho * state.get("col", 0) + (1 - rho) * square.mean(-2)}
        row, col = state["row"][..., :, None], state["col"][..., None, :]
        root = np.sqrt(row / row.mean(-2, keepdims=True)) * np.sqrt(col)
    update = g / root
    update = update / max(1, float(np.sqrt((update ** 2).mean())) / clip)
    if relative:
        update = update * max(floor, float(np.sqrt((p ** 2).mean())))
    return p - lr * update, state


OPTIMIZERS = {"sgd": sgd, "adamw": adamw, "adafactor": adafactor}


@dataclasses.dataclass(frozen=True)
class Train:
    optimizer: str = "adamw"
    options: tuple = ()  # (name, value) pairs of the optimizer's own arguments
    peak: float = 1e-3
    warmup: int = 4
    steps: int = 40
    clip: float = 0.0  # 0: gradients are not clipped


def global_norm(grads):
    return math.sqrt(sum(float((g ** 2).sum()) for g in grads.values()))


def apply(train, params, grads, states, step):
    """One optimizer step: new parameters and states, the norm of the gradients before clipping."""
    size = global_norm(grads)
    scale = min(1, train.clip / size) if train.clip else 1
    lr = cosine(step, train.peak, train.warmup, train.steps)
    update = OPTIMIZERS[train.optimizer]
    options = dict(train.options)
    new = {n: update(params[n], grads[n] * scale, states.get(n, {}), step, lr, **options)
           for n in params}
    return {n: p for n, (p, _) in new.items()}, {n: s for n, (_, s) in new.items()}, size


def run(config, train, params, batch, steps):
    """`steps` steps on one batch: their losses, gradient norms, step 1's gradients, the end's
    parameters."""
    value_and_grad = jax.jit(jax.value_and_grad(functools.partial(loss, config=config)))
    states, losses, norms, first = {}, [], [], None
    for step in range(1, steps + 1):
        value, grads = value_and_grad(params, batch)
        grads = {n: np.asarray(g) for n, g in grads.items()}
        first = first or grads
        params, states, size = apply(train, params, grads, states, step)
        losses.append(float(value))
        norms.append(float(size))
    return losses, norms, first, params
