"""Small models of every kind, as text: what check_mesh.py and check_equal_mpi.py put on meshes."""

HEAD = """use "m6"
config batch = 8, length = 6, hidden = 16, heads = 4, vocab = 24
config experts = 8, prototypes = 1, top = 1, capacity = 1.25, rate = 0.2
"""
TEXT = "text: i32[batch, length], target: i32[batch, length]"
LOSS = "    return cross_entropy(linear(norm(x), vocab) as head, target)\n"
EMBED = "    x = embedding(text, vocab, hidden) + position(length, hidden)\n"


def decoder(layers, head=EMBED, inputs=TEXT, loss=LOSS, repeat="repeat 2 as block"):
    body = "".join(f"        x = x + {layer}\n" for layer in layers)
    return f"model small({inputs}) {{\n{head}    {repeat} {{\n{body}    }}\n{loss}}}\n"


ATTENTION = "attention(norm(x), heads, causal_mask())"
FFN = "ffn(norm(x), 32)"
MOE = "moe(norm(x), experts, prototypes, capacity, 16, group = length, top = top)"
IMAGE = """    x = concat(linear(image, hidden) as pixels, embedding(text, vocab, hidden), axis = 1)
    x = x + position(4 + length, hidden)
"""
# Encoder-decoder: what is asked comes from the decoder, keys and values from the encoder.
CROSS = """layer cross(x: [b, t, d], memory: [b, s, d], heads) {
    param wq: [d, heads, d/heads] = normal(0.02)
    param wk, wv: [d, heads, d/heads] = normal(0.02)
    param wo: [heads, d/heads, d] = normal(0.02)
    q = einsum("btd,dhk->bhtk", x, wq)
    k = einsum("bsd,dhk->bhsk", memory, wk)
    v = einsum("bsd,dhk->bhsk", memory, wv)
    p = softmax(einsum("bhtk,bhsk->bhts", q, k) / sqrt(d / heads))
    return einsum("bhts,bhsk,hkd->btd", p, v, wo)
}
model small(source: i32[batch, 5], text: i32[batch, length], target: i32[batch, length]) {
    m = embedding(source, vocab, hidden) as words + position(5, hidden)
    repeat 2 as encoder {
        m = m + attention(norm(m), heads)
        m = m + ffn(norm(m), 32)
    }
    x = embedding(text, vocab, hidden) + position(length, hidden) as places
    repeat 2 as decoder {
        x = x + attention(norm(x), heads, causal_mask())
        x = x + cross(norm(x), norm(m) as memory, heads)
        x = x + MOE
    }
    return cross_entropy(linear(norm(x), vocab) as head, target)
}
""".replace("MOE", MOE)
# Two towers: the pictures' ranks are all replicas, the text's share the contractions.
TOWERS = """model small(image: f32[batch, 4, 12], text: i32[batch, length], target: i32[batch, length]) {
    replicate {
        p = linear(image, hidden) as pixels + position(4, hidden)
        repeat 2 as vision {
            p = p + attention(norm(p), heads)
            p = p + ffn(norm(p), 32)
        }
    }
    x = concat(p, embedding(text, vocab, hidden), axis = 1) + position(4 + length, hidden) as places
    split {
        repeat 2 as language {
            x = x + attention(norm(x), heads, prefix_mask(4))
            x = x + ffn(norm(x), 32)
        }
    }
    return cross_entropy(linear(norm(x[:, 4:, :]), vocab) as head, target)
}
"""
SPLIT = """layer mlp(x: [b, t, d], width) {
    param up: [d, width] = normal(0.02) split(width: tensor)
    param bias: [width] = normal(0.02) split(width: tensor)
    param down: [width, d] = normal(0.02) split(width: tensor)
    return gelu(x @ up + bias) @ down
}
"""
# Masks of the batch, and of the width that a tensor axis splits.
WET = """layer wet(x: [b, t, d], width) {
    return dropout(linear(dropout(gelu(linear(x, width) as up), rate), d) as down, rate)
}
"""
STAGED = """model small(text: i32[batch, length], target: i32[batch, length]) {
    param table: [vocab, hidden] = normal(0.02)
    stage first {
        x = gather(table, text)
        x = x + attention(norm(x), heads, causal_mask())
    }
    stage last {
        x = x + ffn(norm(x), 32)
        y = einsum("btd,vd->btv", norm(x), table)
    }
    return cross_entropy(y, target)
}
"""
# One table looked up and multiplied with, and a loss of its own: label smoothing and z-loss.
TIED = """layer smooth(logits: [..., v], target) {
    m = max(logits, axis = -1, keep = true)
    lse = log(sum(exp(logits - m), axis = -1, keep = true)) + m
    hit = pick(logits, unsqueeze(target, -1))
    return mean(lse - 0.9 * hit - 0.1 * mean(logits, axis = -1, keep = true) + 1e-3 * lse * lse)
}
model small(text: i32[batch, length], target: i32[batch, length]) {
    param table: [vocab, hidden] = normal(0.02)
    x = gather(table, text) + position(length, hidden)
    repeat 2 as block {
        x = x + attention(norm(x), heads, causal_mask())
        x = x + ffn(norm(x), 32)
    }
    return LOSS(einsum("btd,vd->btv", norm(x), table), target)
}
"""
# Who splits a vocabulary of 24 must say so: it does not pay.
PLACED = """model small(text: i32[batch, length], target: i32[batch, length]) {
    param table: [vocab, hidden] = normal(0.02) split(vocab: AXIS)
    x = gather(table, text)
    x = x + attention(norm(x), heads, causal_mask())
    x = x + ffn(norm(x), 32)
    return cross_entropy(einsum("btd,vd->btv", norm(x), table), target)
}
"""
ADAMW = "adamw(lr = constant(1e-2, warmup = 4), decay = 0.01)"

# name: the model, its optimizer, more lines of `train`, settings
MODELS = {
    "dense": (decoder([ATTENTION, FFN]), ADAMW),
    "image": (decoder(["attention(norm(x), heads, prefix_mask(4))", FFN], IMAGE,
                      "image: f32[batch, 4, 12], " + TEXT, LOSS.replace("norm(x)", "norm(x[:, 4:, :])")), ADAMW),
    "clip": (decoder([ATTENTION, FFN]), ADAMW, "clip = 0.1"),
    "rms": (decoder([ATTENTION, "ffn(rmsnorm(x), 32)"]), "sgd(lr = 0.1)"),
    "adafactor": (decoder([ATTENTION, FFN, MOE]), "adafactor(lr = 1e-2, relative = true)", "clip = 1.0"),
    "tensor": (SPLIT + decoder([ATTENTION, "mlp(norm(x), 32)"]), ADAMW, "clip = 1.0"),
    "towers": (TOWERS, ADAMW, "clip = 1.0"),
    "towers_micro": (TOWERS, ADAMW, "num_micro_batch = 2", "batch=16"),
    "moe1": (decoder([ATTENTION, MOE]), ADAMW),
    "moe2": (decoder([ATTENTION, MOE]), ADAMW, "clip = 1.0", "prototypes=2"),
    "moe4": (decoder([ATTENTION, MOE]), ADAMW, "", "prototypes=4"),
    "top2": (decoder([ATTENTION, MOE]), ADAMW, "", "top=2"),
    "crowded": (decoder([ATTENTION, MOE]), ADAMW, "", "prototypes=2", "capacity=0.5", "top=2"),
    "roomy": (decoder([ATTENTION, MOE]), ADAMW, "", "prototypes=2", "capacity=4"),
    "encoder": (CROSS, ADAMW, "", "prototypes=2"),
    "shared": (decoder([ATTENTION, MOE], repeat="repeat 3 share as block"), ADAMW),
    "dropout": (decoder([f"dropout({ATTENTION}, rate)", f"dropout({MOE}, rate)"]), ADAMW),
    "dropout_width": (WET + decoder([ATTENTION, "wet(norm(x), 32)"]), ADAMW, "num_micro_batch = 2", "batch=16"),
    "micro": (decoder([ATTENTION, MOE]), ADAMW, "num_micro_batch = 2\n    clip = 1.0", "batch=16"),
    "micro_image": (decoder([f"dropout({ATTENTION}, rate)", FFN], IMAGE, "image: f32[batch, 4, 12], " + TEXT,
                            LOSS.replace("norm(x)", "norm(x[:, 4:, :])")),
                    ADAMW, "num_micro_batch = 4", "batch=32"),
    # pipelines: GPipe's order, one forward step more in flight, layers for 8 stages, stages by annotation
    "gpipe": (decoder([ATTENTION, FFN]), ADAMW, "num_micro_batch = 4\n    clip = 0.1", "batch=32",
              'place: pipeline "PreferForward"'),
    "ahead": (decoder([FFN], repeat="repeat 6 as block"), ADAMW, "num_micro_batch = 4", "batch=32",
              'place: pipeline "PreferBackwardOptimizer"'),
    "staged": (STAGED, ADAMW, "num_micro_batch = 2", "batch=16"),
    # a vocabulary on a tensor axis
    "vocabulary": (decoder([ATTENTION, FFN]), "sgd(lr = 0.1)", "clip = 1.0", "vocab=2048"),
    "tied": (TIED.replace("LOSS", "cross_entropy"), "sgd(lr = 0.1)", "num_micro_batch = 2", "batch=16", "vocab=2048"),
    "tied_factor": (TIED.replace("LOSS", "cross_entropy"), "adafactor(lr = 1e-2)", "", "vocab=512"),
    "smooth": (TIED.replace("LOSS", "smooth"), ADAMW, "", "vocab=512"),
    "placed": (PLACED.replace("AXIS", "tensor"), ADAMW),
    "placed_data": (PLACED.replace("AXIS", "data"), ADAMW),
    "groups": (decoder([ATTENTION, MOE]), ADAMW, "groups = 3\n    clip = 1.0"),
    "zero": (decoder([ATTENTION, FFN, MOE]), ADAMW, "clip = 1.0", "place: zero 1"),
    "zero_factor": (decoder([ATTENTION, FFN, MOE]), "adafactor(lr = 1e-2)", "", "place: zero 1"),
    "f16": (decoder([ATTENTION, FFN]), ADAMW, "precision = f16"),
    # a loss scale that is no power of two, and one with which the sum of squares overflows: no step is made
    "scaled": (decoder([FFN, MOE]), ADAMW, "loss_scale = 1000\n    clip = 1.0\n    num_micro_batch = 2", "batch=16"),
    "overflow": (decoder([ATTENTION, FFN]), ADAMW, "loss_scale = 1e155"),
}


def text_of(name):
    model, optimizer, *more = MODELS[name]
    train, settings = (more or [""])[0], more[1:]
    places = [s.split(":")[1] for s in settings if s.startswith("place:")]
    place = "place {\n" + "\n".join(places) + "\n}\n" if places else ""
    text = f"{HEAD}{model}train small {{\n    optimizer = {optimizer}\n    {train}\n}}\n{place}"
    return text, [f"--set={s}" for s in settings if not s.startswith("place:")]
