#!/usr/bin/env python3
"""The CUDA device without a GPU: a small plan over four streams (device_plan.txt), whose parameters and optimizer are
the host's, against the stand-in for the driver and cuBLASLt (standin.h). Losses are those of Python, in whatever order
work that nothing orders is done, with graphs and without; a wait that is left out shows. What is asked of the driver is
calls_*.txt (M6C_BLESS=1 rewrites them). Every kind of failure ends with its message and exit status; a NaN ends the
run; an interrupted run goes on with the same bits."""
import json, os, pathlib, random, struct, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))
from system import SQUARES, check, m6c
from standin import STANDIN, compile_host, standin_run

STEPS = 7


def make_plan(folder, edit_plan=(), edit_kernels=(), edit_host=()):
    """The plan in a new folder, with texts replaced."""
    folder.mkdir()
    for name, edits in (("device_plan.txt", edit_plan), ("device_kernels.cu", edit_kernels),
                        ("device_host.c", edit_host)):
        text = (HERE / name).read_text()
        for old, new in edits:
            check(old in text, f"'{old}' is in {name}")
            text = text.replace(old, new)
        (folder / ("plan.txt" if name.endswith(".txt") else name)).write_text(text)
    compile_host(folder)
    return folder


def run(plan, *args, n=STEPS, **more):
    return standin_run(plan, *args, n=n, **more)


def figures(seen):
    return [(o["loss"], o["lr"], o["grad_norm"], o["loss_scale"]) for _, o in sorted(seen.items())]


# ---- numbers ----

def numbers(n):
    dice = random.Random(n)
    return [struct.unpack("f", struct.pack("f", dice.uniform(-1, 1)))[0] for _ in range(n)]


def write_tensors(path, tensors):
    header, body = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def read_tensor(path, name):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    begin, end = json.loads(raw[8:8 + n])[name]["data_offsets"]
    return struct.unpack(f"<{(end - begin) // 4}f", raw[8 + n + begin:8 + n + end])


def trained(x, t, n):
    """The same training in double precision: figures of the steps, w, the last error."""
    w, v, norm, out = [0.5] * 12, [0.0] * 12, 0, []
    for step in range(1, n + 1):
        e = [sum(x[4 * i + k] * w[3 * k + j] for k in range(4)) - t[3 * i + j]
             for i in range(8) for j in range(3)]
        g = [sum(x[4 * i + k] * e[3 * i + j] for i in range(8)) / 8
             for k in range(4) for j in range(3)]
        speed, norm = sum(a * a for a in v) + norm, sum(a * a for a in g)
        v = [0.5 * a + b for a, b in zip(v, g)]
        w = [a - 0.25 / step * b for a, b in zip(w, v)]
        out.append((sum(a * a for a in e) / 16, 0.25 / step, norm, speed))
    return out, w, e


def close(a, b):
    return len(a) == len(b) and all(abs(p - q) < 1e-5 for p, q in zip(a, b))


def check_numbers(folder):
    plan, data = make_plan(folder / "numbers"), folder / "data.safetensors"
    x, t = numbers(32), numbers(24)
    write_tensors(data, {"x": ([8, 4], x), "target": ([8, 3], t)})
    want, w, error = trained(x, t, STEPS)
    for more in ([], ["--no-graph"], ["--check-finite"], ["--trace", folder / "trace.json"]):
        seen, _ = run(plan, "--data", data, "--out", folder / "out", "--save", folder / "w", *more)
        got = figures(seen)
        check(len(got) == STEPS and all(map(close, got, want)), f"{more}: {got}, not {want}")
        check(close(read_tensor(folder / "w", "w"), w), f"{more}: the parameters")
        check(close(read_tensor(folder / "out", "error"), error), f"{more}: the last output")
    events = json.loads((folder / "trace.json").read_text())
    check(sum(e["ph"] == "X" for e in events) == 15 * STEPS, "the trace has every step")


def check_orders(folder):
    """Fresh data each step: a step that takes another's inputs or is overtaken is noticed."""
    plan = make_plan(folder / "orders")
    want, _ = run(plan, M6C_CUDA_SYNC=1)
    for seed in range(12):
        for more in ([], ["--no-graph"]):
            seen, _ = run(plan, *more, M6C_STANDIN_SEED=seed)
            check(figures(seen) == figures(want), f"seed {seed} {more}: another result")


def check_waits(folder):
    """Each wait of the third step, left out, gives another result in one of some orders."""
    plan = make_plan(folder / "waits")
    want, _ = run(plan, M6C_CUDA_SYNC=1)
    per_step = calls(plan, folder, "--no-graph", n=1).count("cuStreamWaitEvent")
    check(per_step == 13, f"{per_step} waits in a step")
    for which in range(1, per_step + 1):
        for seed in range(20):
            seen, _ = run(plan, "--no-graph", M6C_STANDIN_SEED=seed,
                          M6C_STANDIN_FORGET=f"cuStreamWaitEvent:{2 * per_step + which}")
            if figures(seen) != figures(want):
                break
        else:
            sys.exit(f"FAILED: nobody misses wait {which} of a step")


# ---- calls ----

def calls(plan, folder, *args, n=3, **env):
    log = folder / "calls"
    for old in folder.glob("cache/wisdom-*"):
        old.unlink()
    run(plan, *args, n=n, M6C_STANDIN_LOG=log, M6C_CACHE=folder / "cache", **env)
    return log.read_text()


def golden(name, text):
    path = HERE / name
    if os.environ.get("M6C_BLESS"):
        path.write_text(text)
    check(path.exists() and path.read_text() == text, f"{name} differs: M6C_BLESS=1 shows how")


def check_calls(folder):
    plan = make_plan(folder / "calls-plan")
    golden("calls_graph.txt", calls(plan, folder))
    golden("calls_no_graph.txt", calls(plan, folder, "--no-graph"))
    first = calls(plan, folder, n=1)
    log = folder / "again"
    run(plan, n=1, M6C_STANDIN_LOG=log, M6C_CACHE=folder / "cache")
    again = log.read_text()
    check("cuEventElapsedTime" in first and "cuEventElapsedTime" not in again,
          "what was measured is remembered")
    check(again.count("cublasLtMatmul") == 4 and again.count("algo=2") == 4, "the faster one runs")
    run(plan, n=1, M6C_STANDIN_LOG=log, M6C_CACHE=folder / "cache", M6C_STANDIN_SM=86)
    check("cuEventElapsedTime" in log.read_text(), "another device is measured anew")


# ---- failures ----

def fails(plan, status, parts, *args, **env):
    _, err = run(plan, *args, status=status, **env)
    last = err.splitlines()[-1]
    for part in parts:
        check(part in last, f"{args} {env}: '{part}' is in the message: {last}")
    return last


def check_failures(folder):
    plan = make_plan(folder / "failures")
    fails(plan, 3, ["cannot load the CUDA driver", "nowhere.so"], M6C_CUDA_DRIVER="/nowhere.so")
    fails(plan, 3, ["cannot load cuBLASLt", "nowhere.so"], M6C_CUBLASLT="/nowhere.so")
    fails(plan, 3, ["the CUDA driver has no function cuInit"],
          M6C_CUDA_DRIVER=STANDIN["M6C_CUBLASLT"])
    fails(plan, 3, ["no CUDA device"], M6C_STANDIN_SM=0)
    fails(plan, 3, ["the plan is for sm_80", "Stand-in GPU is sm_75", "needs sm_80"],
          M6C_STANDIN_SM=75)
    newer = make_plan(folder / "newer", edit_plan=[("target sm_80", "target sm_90")])
    fails(newer, 3, ["the plan is for sm_90", "Stand-in GPU is sm_86", "--target sm_86"],
          M6C_STANDIN_SM=86)
    fails(plan, 3, ["needs 32.00 MiB of device memory", "has 16.00 MiB free of 16.00 MiB"],
          M6C_STANDIN_MEMORY=16 << 20)
    fails(plan, 3, ["the plan needs"], M6C_STANDIN_FAIL="cuMemAlloc_v2:2:2")
    fails(plan, 3, ["pinned host memory"], M6C_STANDIN_FAIL="cuMemHostAlloc:1:2")
    fails(plan, 3, ["cuMemAlloc_v2", "719"], M6C_STANDIN_FAIL="cuMemAlloc_v2:3:719")
    fails(plan, 3, ["cannot load", "device_kernels.cubin", "not compiled"],
          M6C_STANDIN_FAIL="cuModuleLoad:1:301")
    fails(plan, 3, ["cuStreamEndCapture"], M6C_STANDIN_FAIL="cuStreamEndCapture:1:901")
    fails(plan, 3, ["cuGraphInstantiateWithFlags", "out of memory"],
          M6C_STANDIN_FAIL="cuGraphInstantiateWithFlags:1:2")
    # A launch that is refused names its step, at the moment it is launched or captured.
    for more in ([], ["--no-graph"]):
        fails(plan, 3, ["step 1: regression.m6:4:7: step 4 (sub) in net, kernel subtract: "
                        "cuLaunchKernel"], *more, M6C_STANDIN_FAIL="cuLaunchKernel:2:701")
        fails(plan, 3, ["step 1: regression.m6:2:5: step 11 (sgd), kernel descend: cuLaunchHostFunc"],
              *more, M6C_STANDIN_FAIL="cuLaunchHostFunc:2:701")
    # One that dies later is known only when every call is waited for.
    fails(plan, 3, ["step 3: ", "M6C_CUDA_SYNC=1 or --check-finite"],
          M6C_STANDIN_FAIL="kernel:10:700")
    for more, env in (([], {"M6C_CUDA_SYNC": 1}), (["--check-finite"], {})):
        fails(plan, 3, ["step 3: regression.m6:4:7: step 4 (sub) in net, kernel subtract: ", "700"],
              *more, M6C_STANDIN_FAIL="kernel:10:700", **env)
    wrong = make_plan(folder / "no-kernel", edit_kernels=[("KERNEL(subtract", "KERNEL(add")])
    fails(wrong, 1, ["device_kernels.cu has no kernel subtract"])
    wrong = make_plan(folder / "no-host", edit_host=[("void descend(", "void ascend(")])
    fails(wrong, 1, ["device_host.c has no kernel descend"])
    (wrong / "device_host.so").unlink()
    fails(wrong, 1, ["cannot load the plan's kernels", "device_host.so"])
    wrong = make_plan(folder / "swapped", edit_plan=[("kernel k5 stream=3", "kernel k3 stream=3"),
                                                     ("args=b1,b17,b16 writes=4", "args=b1,b16")])
    fails(wrong, 1, ["step 6: kernel add_squares is no kernel of the host"])
    wrong = make_plan(folder / "mixed", edit_plan=[
        ('9 temp "%y" f32[8,3]', '9 temp "%y" bf16[8,3]'),
        ("f32 f32 f32 m=8", "f32 f32 bf16 m=8")])
    fails(wrong, 1, ["regression.m6:3:7: step 3 (matmul) in net.linear: the product of f32 and f32 "
                     "into bf16", "does not multiply these types"])
    wrong = make_plan(folder / "shared", edit_plan=[("shared=57344", "shared=172032")])
    fails(wrong, 3, ["kernel add_squares needs 172032 bytes of shared memory"])


def check_targets(folder):
    plan = make_plan(folder / "targets")
    for sm, kind in ((80, "cubin"), (86, "cubin"), (89, "cubin"), (90, "ptx"), (120, "ptx")):
        text = calls(plan, folder, n=1, M6C_STANDIN_SM=sm)
        check(f"cuModuleLoad device_kernels.{kind}\n" in text, f"sm_{sm} loads {kind}")


def check_nan(folder):
    bad = [("0.25f /", "(*(const int32_t *)ARG(1) == 4 ? 1e30f * 1e30f : 0.25f) /")]
    host = [("0.25f /", "(*(const int32_t *)arg[3] == 4 ? 1e30f * 1e30f : 0.25f) /")]
    plan = make_plan(folder / "nan", edit_kernels=bad, edit_host=host)
    seen, err = run(plan, "--save-every", 2, status=1)
    last = err.splitlines()[-1]
    check(sorted(seen) == [1, 2, 3, 4], f"four steps are reported: {sorted(seen)}")
    for part in ("step 5: ", "already updated", "step-00000004.safetensors is intact",
                 "--check-finite with --resume"):
        check(part in last, f"'{part}' is in the message: {last}")
    _, err = run(plan, "--save-every", 2, "--resume", "--check-finite", status=1)
    check("step 5: " in err and '"w"' in err and "before the step began" in err, err)
    plan = make_plan(folder / "nan-2", edit_kernels=bad, edit_host=host)
    last = fails(plan, 1, ["step 5: ", "no checkpoint was written yet"])
    last = fails(plan, 1, ["step 4: ", '"lr", made by step 1 (schedule)'], "--check-finite")


def check_resume(folder):
    plan = make_plan(folder / "resume")
    want, _ = run(plan, "--save", folder / "want", n=20)
    for old in (plan / "checkpoints").glob("*"):
        old.unlink()
    first, _ = run(plan, "--save-every", 3, n=11)
    check((plan / "checkpoints/step-00000009.safetensors").exists(), "a checkpoint at step 9")
    (plan / "checkpoints/step-00000011.safetensors").unlink()
    rest, _ = run(plan, "--resume", "--save", folder / "got", n=20, M6C_STANDIN_SEED=5)
    check(min(rest) == 10 and max(rest) == 20, f"resumed at {min(rest)}")
    check(figures({**first, **rest}) == figures(want), "the same figures")
    check((folder / "want").read_bytes() == (folder / "got").read_bytes(), "the same parameters")


# ---- a compiled model whose loss scale moves ----


def check_scales(folder):
    """Overflowing updates are skipped as on the CPU, and those that no scale cures end the run."""
    model = folder / "squares.m6"
    seen = {}
    for target in ("cpu", "sm_80"):
        model.write_text(SQUARES.replace("PRECISION", "f16").replace("SCALE", "dynamic"))
        plan = folder / f"squares-{target}"
        m6c("compile", model, "-o", plan, "--target", target, *["--plan-only"] * (target != "cpu"))
        seen[target], _ = run(plan, n=40)
    ours, theirs = seen["sm_80"], seen["cpu"]
    check(sum(o["overflow"] for o in ours.values()) > 0, "the first steps overflow")
    for n, o in ours.items():
        check(o["overflow"] == theirs[n]["overflow"] and o["loss_scale"] == theirs[n]["loss_scale"],
              f"step {n}: {o}, on the CPU {theirs[n]}")
        check(abs(o["loss"] / theirs[n]["loss"] - 1) < 2e-3, f"step {n}: {o}, not {theirs[n]}")
    model.write_text(SQUARES.replace("PRECISION", "f16").replace("SCALE", "1e12"))
    m6c("compile", model, "-o", folder / "hopeless", "--target", "sm_80", "--plan-only")
    seen, err = run(folder / "hopeless", n=100, status=1)
    check(all(o["overflow"] for o in seen.values()) and len(seen) == 32, f"{len(seen)} skipped steps")
    check("step 32: " in err and "infinity in " in err, f"the end is explained:\n{err}")


with tempfile.TemporaryDirectory(prefix="m6c-test-") as folder:
    folder = pathlib.Path(folder)
    os.environ["M6C_CACHE"] = str(folder / "shared-cache")
    check_numbers(folder)
    check_orders(folder)
    check_waits(folder)
    check_calls(folder)
    check_failures(folder)
    check_targets(folder)
    check_nan(folder)
    check_resume(folder)
    check_scales(folder)
