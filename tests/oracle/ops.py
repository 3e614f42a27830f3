"""Single operations in NumPy, in the precision of their arguments."""
import numpy as np

IGNORE = -100


def einsum(spec, *args):
    return np.einsum(spec, *args, optimize=len(args) > 2)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def norm(x, scale, shift, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + shift


def rmsnorm(x, scale, eps=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def gelu(x):
    """The tanh form."""
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def cross_entropy(logits, target, ignore=IGNORE):
    kept = target != ignore
    if not kept.any():
        return 0.0
    picked = softmax(logits[kept])[np.arange(kept.sum()), target[kept]]
    return -np.log(picked).mean()


def mask(kind, t, prefix=0):
    """[t, t]: may the row's position see the column's?"""
    seen = np.ones((t, t), bool) if kind == "none" else np.tril(np.ones((t, t), bool))
    if kind == "prefix":
        seen[:prefix, :prefix] = True
    return seen


def attention(q, k, v, seen):
    """q, k, v: [batch, position, head, channel]; seen: [t, t]."""
    score = einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
    return einsum("bhts,bshk->bthk", softmax(np.where(seen, score, -np.inf)), v)
