#!/usr/bin/env python3
"""Whole training steps of CUDA plans on the CPU: the real device_cuda.c on the stand-in, every kernel
in the emulator, products by plain loops. Losses and gradients are those of the CPU's plan: in f32 to
rounding, in bf16 and f16 to theirs. Models: examples/m6-tiny.m6 as it is, and causal.m6.
TIMEOUT: 300"""
import json, math, os, pathlib, struct, sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))
from system import BUILD, check, m6c, steps, workspace

STANDIN = dict(os.environ, M6C_CUDA_DRIVER=str(BUILD / "libcuda_standin.so"),
               M6C_CUBLASLT=str(BUILD / "libcublaslt_standin.so"))
# model, precision, steps, bound of losses (relative) and of gradients (of their tensor's norm). In
# 16 bits both plans round every activation, each in its own order of sums; gradients of a mixture of
# experts are then not compared, since tokens whose experts tie go to another one.
CASES = [
    ("tests/gpu/causal.m6", "f32", 3, 2e-6, 2e-5),
    ("tests/gpu/causal.m6", "bf16", 3, 5e-4, 3e-2),
    ("tests/gpu/causal.m6", "f16", 3, 1e-4, 6e-3),
    ("examples/m6-tiny.m6", "f32", 1, 2e-6, 1e-4),
    ("examples/m6-tiny.m6", "bf16", 2, 5e-4, math.inf),
]


def tensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            begin, end = (8 + n + o for o in t["data_offsets"])
            yield name, struct.unpack(f"<{(end - begin) // 4}f", raw[begin:end])


def train(folder, model, precision, n, target, env):
    plan = folder / target
    only = ["--plan-only"] if target != "cpu" else []
    m6c("compile", HERE.parent.parent / model, "--target", target, "--precision", precision, "--grads",
        *only, "-o", plan)
    out, _ = m6c("run", plan, "--data", "random:3", "--steps", n, "--json", "--save-every", 0,
                 "--grads", plan / "grads", env=env)
    return steps(out), dict(tensors(plan / "grads"))


def distance(a, b):
    """Of vectors, in units of b's length."""
    length = math.sqrt(sum(x * x for x in b))
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b))) / (length or 1)


def check_epilogues(folder):
    """Products whose library does gelu, or does not, and plans that do not ask it to."""
    plan, run = folder / "sm_80", ["--data", "random:3", "--steps", 3, "--json", "--save-every", 0]
    skipped = folder / "skipped"
    m6c("compile", HERE / "causal.m6", "--target", "sm_80", "--plan-only", "--skip", "epilogue", "-o",
        skipped)
    check("epilogue=bias-gelu" in (plan / "plan.txt").read_text(), "products with gelu")
    out = [steps(m6c("run", p, *run, env=dict(STANDIN, **more))[0]) for p, more in
           ((plan, {}), (skipped, {}),
            (plan, {"M6C_STANDIN_EPILOGUES": "0", "M6C_CACHE": str(folder / "cache")}))]
    for other in out[1:]:
        off = max(abs(other[i]["loss"] / out[0][i]["loss"] - 1) for i in out[0])
        check(off < 2e-6, f"losses without the library's epilogues differ by {off:.2g}")


def compare(folder, model, precision, n, loss_bound, grad_bound):
    cpu, cpu_grads = train(folder, model, precision, n, "cpu", os.environ)
    gpu, gpu_grads = train(folder, model, precision, n, "sm_80", STANDIN)
    off = max(abs(gpu[i]["loss"] / cpu[i]["loss"] - 1) for i in cpu)
    check(len(gpu) == n and off < loss_bound, f"{model} {precision}: losses differ by {off:.2g}")
    check(cpu_grads.keys() == gpu_grads.keys(), f"{model}: the same gradients")
    worst = max((distance(gpu_grads[k], g), k) for k, g in cpu_grads.items())
    check(worst[0] < grad_bound, f"{model} {precision}: gradient of {worst[1]} is off by {worst[0]:.2g}")
    print(f"{model} {precision}: losses within {off:.2g}, gradients within {worst[0]:.2g}")


with workspace() as folder:
    for i, case in enumerate(CASES):
        sub = pathlib.Path(folder) / str(i)
        sub.mkdir()
        compare(sub, *case)
    check_epilogues(pathlib.Path(folder) / "0")
