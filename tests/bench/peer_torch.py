"""One training step in PyTorch: scaled_dot_product_attention, fused AdamW, tokens of the mixture of
experts moved by index. With M6C_TORCH_COMPILE=1 the loss goes through torch.compile; on
M6C_TORCH_DEVICE=cuda (cpu); with M6C_TORCH_DTYPE=bf16 under autocast."""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import peer

DEVICE = os.environ.get("M6C_TORCH_DEVICE", "cpu")
BF16 = os.environ.get("M6C_TORCH_DTYPE") == "bf16"


def norm(p, x):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["shift"], 1e-5)


def linear(x, weight, bias):
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)


def attention(p, x, bias):
    b, t, d = x.shape
    heads = p["wq"].shape[1]
    q, k, v = ((x @ p[w].view(d, d)).view(b, t, heads, -1).transpose(1, 2)
               for w in ("wq", "wk", "wv"))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return y.transpose(1, 2).reshape(b, t, d) @ p["wo"].view(d, d)


def ffn(p, x):
    h = F.gelu(linear(x, p["up.weight"], p["up.bias"]), approximate="tanh")
    return linear(h, p["down.weight"], p["down.bias"])


def moe(p, x, config):
    e, k, rows = config["experts"], config["prototypes"], config["rows"]
    s = x.reshape(-1, x.shape[-1])
    n, d = s.shape
    probs = (s @ p["gate"]).view(n, k, e // k).softmax(-1)
    gate, choice = probs.max(-1)
    hot = F.one_hot(choice, e // k)
    row = hot.cumsum(0).gather(-1, choice[..., None]).squeeze(-1) - 1
    kept = row < rows
    first = torch.arange(k, device=DEVICE) * (e // k)
    slot = torch.where(kept, (first + choice) * rows + row, e * rows)
    source = torch.full((e * rows + 1,), n, device=DEVICE)
    tokens = torch.arange(n, device=DEVICE).repeat_interleave(k)
    source = source.scatter(0, slot.view(-1), tokens)[:-1]
    h = torch.cat([s, s.new_zeros(1, d)]).index_select(0, source).view(e, rows, d)
    h = torch.bmm(F.gelu(torch.bmm(h, p["up"]), approximate="tanh"), p["down"])
    y = h.view(e * rows, d).index_select(0, slot.view(-1).clamp(max=e * rows - 1)).view(n, k, d)
    balance = (probs.mean(0) * hot.to(probs.dtype).mean(0)).sum() * (e // k)
    y = (y * (gate * kept)[..., None]).sum(1)
    return y.view(x.shape), config["aux"] * balance


def make_loss(config):
    prefix = config["patches"]
    t = prefix + config["length"]
    row, col = torch.arange(t)[:, None], torch.arange(t)[None]
    seen = (col <= row) | ((row < prefix) & (col < prefix))
    bias = torch.zeros(t, t).masked_fill(~seen, float("-inf"))
    bias = bias.to(DEVICE, torch.bfloat16 if BF16 else torch.float32)
    scopes = list(peer.blocks(config))

    def loss(tree, image, text, target):
        x = torch.cat([linear(image, tree["pixels"]["weight"], tree["pixels"]["bias"]),
                       F.embedding(text, tree["embedding"]["table"])], dim=1)
        x = x + tree["position"]["table"]
        aux = 0.0
        for kind, scope, before in scopes:
            y, p = norm(tree[before], x), tree[scope]
            if kind == "moe":
                y, more = moe(p, y, config)
                aux = aux + more
            else:
                y = attention(p, y, bias) if kind == "attention" else ffn(p, y)
            x = x + y
        y = norm(tree["norm"], x[:, prefix:])
        logits = linear(y, tree["head"]["weight"], tree["head"]["bias"])
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100) + aux

    return loss


def nested(params, config):
    """{layer's scope: {own name: parameter}}"""
    scopes = [s for _, *pair in peer.blocks(config) for s in pair]
    scopes += ["pixels", "embedding", "position", "norm", "head"]
    return {s: {n[len(s) + 1:]: p for n, p in params.items() if n.startswith(s + ".")}
            for s in scopes}


def start(spec, params, batch):
    config, train = spec["config"], spec["train"]
    params = {n: torch.nn.Parameter(p.clone()) for n, p in load_file(params, DEVICE).items()}
    batch = load_file(batch, DEVICE)
    image, text, target = batch["image"], batch["text"].long(), batch["target"].long()
    tree, loss = nested(params, config), make_loss(config)
    if os.environ.get("M6C_TORCH_COMPILE"):
        loss = torch.compile(loss)
    values = list(params.values())
    optimizer = torch.optim.AdamW(values, lr=0.0, betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=train["decay"], fused=True)

    def step(number):
        for group in optimizer.param_groups:
            group["lr"] = peer.learning_rate(train, number)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=BF16):
            value = loss(tree, image, text, target)
        value.backward()
        if train["clip"]:
            torch.nn.utils.clip_grad_norm_(values, train["clip"], foreach=True)
        optimizer.step()
        return value.detach()

    return step


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    peer.serve("torch", start, peer.one_by_one if DEVICE == "cpu" else peer.at_once)
