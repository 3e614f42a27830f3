#!/usr/bin/env python3
"""m6c search against plans: every candidate of small models on a small cluster is compiled. The
search's best is within a tenth of the best compiled one, its order is nearly theirs, and bytes and
times are near the plans'. The command it prints makes the winner's plan."""
import json, pathlib, shlex, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from system import check, m6c, workspace

CLUSTER = """m6c-machine 1
name "2 nodes of 4"
target sm_80
devices 4
nodes 2
memory device 32GB
memory host 256GB
launch 3us
vector 10TOPS
bandwidth 1TB/s
host-vector 100GOPS
host-bandwidth 100GB/s
peak f32 10TFLOPS
copy in 12GB/s latency 10us
copy out 12GB/s latency 10us
copy read 1GB/s
copy write 1GB/s
link nvlink 100GB/s latency 2us
link net 6GB/s latency 10us overhead 2us
"""

MODEL = """use "m6"
config hidden = 128, heads = 4, experts = %d, batch = 16, length = 32
model lm(text: i32[batch, length], target: i32[batch, length]) {
    x = embedding(text, 512, hidden) + position(length, hidden)
    repeat 2 as block {
        x = x + attention(norm(x), heads, causal_mask())
        if experts > 0 {
            x = x + moe(norm(x), experts, 1, 1.25, 256, group = length)
        } else {
            x = x + ffn(norm(x), 512)
        }
    }
    return cross_entropy(linear(norm(x), 512) as head, target)
}
train lm {
    optimizer = adamw(lr = 1e-3)
    clip = 1.0
}
"""

# Of time and bytes: how far formulas may be from plans, at the median and anywhere.
BEST, ORDER, MEDIAN, WORST = 1.1, 0.85, 1.3, 2.5


def places(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    place = [0] * len(values)
    for i, v in enumerate(order):
        place[v] = i
    return place


def correlation(x, y):
    """Spearman's: 1 when both have one order."""
    n, far = len(x), sum((a - b) ** 2 for a, b in zip(places(x), places(y)))
    return 1 - 6 * far / (n * (n * n - 1))


def distances(pairs):
    return sorted(max(a / b, b / a) for a, b in pairs)


def compared(folder, name, experts):
    path = folder / f"{name}.m6"
    path.write_text(MODEL % experts)
    out, _ = m6c("search", path, "--cluster", folder / "cluster", "--target", "null", "--stages", "1", "--json",
                 "--limit", 1000, "--verify", 1000)
    found = json.loads(out)["best"]
    made = [c for c in found if "error" not in c["compiled"]]
    check(len(made) == len(found) > 20, f"{name}: {len(made)} of {len(found)} candidates compile")
    guess, plan = [c["ms"] for c in made], [c["compiled"]["ms"] for c in made]
    order = correlation(guess, plan)
    times = distances(zip(guess, plan))
    memory = distances((c["device_bytes"], c["compiled"]["device_bytes"]) for c in made)
    told = f"{name}: {len(made)} candidates, order {order:.3f}, best {plan[0] / min(plan):.3f} of the best plan, " \
           f"times off by {times[len(made) // 2]:.2f} (at most {times[-1]:.2f}), bytes by " \
           f"{memory[len(made) // 2]:.2f} (at most {memory[-1]:.2f})"
    print(told)
    check(plan[0] <= BEST * min(plan) and order >= ORDER, told)
    for far in times, memory:
        check(far[len(made) // 2] <= MEDIAN and far[-1] <= WORST, told)
    return found[0]


with workspace() as name:
    folder = pathlib.Path(name)
    (folder / "cluster").write_text(CLUSTER)
    compared(folder, "dense", 0)
    best = compared(folder, "experts", 8)
    command = shlex.split(best["command"])
    check(command[:2] == ["m6c", "compile"], best["command"])
    plan = folder / "plan"
    m6c(*command[1:], "-o", plan, "--plan-only")
    memory = json.loads(m6c("inspect", plan, "--memory", "--json")[0])
    check(memory, "the winner's plan reads back")
