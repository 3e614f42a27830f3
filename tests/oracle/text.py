"""A Config and a Train as .m6 text, for m6c to compile."""


def model_text(config, train=None):
    c = config
    calls = {
        "attention": "attention(norm(x), heads, prefix_mask(patches))",
        "ffn": "ffn(norm(x), ffn_width)",
        "moe": "moe(norm(x), experts, prototypes, capacity, ffn_width, "
               f"group = {c.group or c.tokens}, top = {c.top}, loss = {c.aux!r})",
    }
    body = "\n".join(f"        x = x + {calls[kind]}" for kind in c.block)
    text = f"""use "m6"

config layers = {c.layers}, hidden = {c.hidden}, heads = {c.heads}, ffn_width = {c.ffn_width}
config experts = {c.experts}, prototypes = {c.prototypes}, capacity = {c.capacity}
config batch = {c.batch}, patches = {c.patches}, patch = {c.patch}
config length = {c.length}, vocab = {c.vocab}

model m6(image: f32[batch, patches, patch], text: i32[batch, length], target: i32[batch, length]) {{
    x = concat(linear(image, hidden) as pixels, embedding(text, vocab, hidden), axis = 1)
    x = x + position(patches + length, hidden)
    repeat layers {"share " if c.share else ""}as block {{
{body}
    }}
    return cross_entropy(linear(norm(x[:, patches:, :]), vocab) as head, target)
}}
"""
    if train is None:
        return text
    options = "".join(f", {name} = {str(value).lower()}" for name, value in train.options)
    clip = f"    clip = {train.clip}\n" if train.clip else ""
    schedule = f"cosine(peak = {train.peak}, warmup = {train.warmup}, steps = {train.steps})"
    return text + f"""
train m6 {{
    optimizer = {train.optimizer}(lr = {schedule}{options})
    precision = f32
{clip}}}
"""
