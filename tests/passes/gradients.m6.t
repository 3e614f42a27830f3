# Gradients of experts on a mesh that also replicates them, of four micro-batches: their sum travels once, 2 of 8 experts' 2 x 16 x 32 numbers of 4 bytes.
# RUN: m6c compile %s -o %t/p --target null --plan-only --mesh data=2,expert=4 --micro-batches 4 >/dev/null && m6c inspect %t/p --comm --json | python3 -c 'import json, sys; print(sum(c["sent_bytes"] for c in json.load(sys.stdin)["comm"]["collectives"] if c["group"] == "data"))'
use "m6"
config batch = 32, length = 8, hidden = 16, experts = 8
model m(text: i32[batch, length], target: i32[batch, length]) {
    x = embedding(text, 64, hidden)
    x = x + moe(norm(x), experts, 1, 1.25, 32, group = length)
    return cross_entropy(linear(x, 64), target)
}
train m { optimizer = adamw(lr = 1e-3) }
# EXPECT:
8192.0
