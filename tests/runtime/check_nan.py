#!/usr/bin/env python3
"""Numbers that are none. A loss that becomes NaN at a known step ends the run and the message names
the tensor, its scope and its line; the checkpoint before holds the parameters of the step before.
Half precision: overflowing steps are skipped and reported, and those that no scale can cure end the
run; bf16 and f16 train to the loss of f32."""
import json, math, pathlib, struct, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import SQUARES, check, compile_small, m6c, make_data, steps, workspace

# Each step takes 0.3 off every element of w: the fifth takes the logarithm of -0.2.
SLIDE = """use "m6"
layer slide(n) {
    param w: [n] = constant(1)
    l = log(w)
    return mean(w) * n + 1e-9 * mean(l)
}
model nan() {
    y = 0
    repeat 1 as block {
        y = y + slide(8)
    }
    return y
}
train nan { optimizer = sgd(lr = 0.3, momentum = 0) }
"""


def tensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    return {k: struct.unpack(f"<{(e - b) // 4}f", raw[8 + n + b:8 + n + e])
            for k, v in header.items() if v["dtype"] == "F32" for b, e in [v["data_offsets"]]}


def check_slide(folder):
    model = folder / "nan.m6"
    model.write_text(SLIDE)
    for skip, where in (("", "block[0].slide"), ("fuse", "nan.m6:4:9: NaN in")):
        plan = folder / f"slide-{skip}"
        m6c("compile", model, "-o", plan, *(["--skip", skip] if skip else []))
        for more in ([], ["--check-finite"]):
            out, err = m6c("run", plan, "--steps", "30", "--save-every", "2", "--json", *more,
                           status=1)
            check(sorted(steps(out)) == [1, 2, 3, 4], f"four steps are reported:\n{out}")
            last = err.splitlines()[-1]
            for part in ("step 5: ", "NaN in ", "log", where, "nan.m6:"):
                check(part in last, f"'{part}' is in the message: {last}")
        names = sorted(p.name for p in (plan / "checkpoints").iterdir())
        check(names == ["step-00000002.safetensors", "step-00000004.safetensors"], names)
        w = tensors(plan / "checkpoints/step-00000004.safetensors")["block[0].slide.w"]
        check(all(abs(x + 0.2) < 1e-6 for x in w), f"the checkpoint has the last parameters: {w}")
        _, err = m6c("run", plan, "--steps", "30", "--resume", status=1)
        check("step 5: " in err, "resuming comes to the same end")


def squares(folder, precision, scale):
    model, plan = folder / "squares.m6", folder / f"squares-{precision}-{scale}"
    model.write_text(SQUARES.replace("PRECISION", precision).replace("SCALE", scale))
    m6c("compile", model, "-o", plan)
    return plan


def run(plan, n, status=0):
    out, err = m6c("run", plan, "--data", "random:1", "--steps", n, "--json", status=status)
    return [o for _, o in sorted(steps(out).items())], err


def check_scales(folder):
    exact, _ = run(squares(folder, "f32", "none"), 12)
    check(all("loss_scale" not in o and "overflow" not in o for o in exact), "f32 has no scale")
    seen, err = run(squares(folder, "f16", "dynamic"), 40)
    first = seen[0]["loss_scale"]
    skipped = [o for o in seen if o["overflow"]]
    check(0 < len(skipped) < 15, f"the first steps overflow: {len(skipped)} of {len(seen)}")
    check("overflow, step skipped" in err, "people are told")
    for i, o in enumerate(seen):
        halved = sum(before["overflow"] for before in seen[:i])
        check(o["loss_scale"] == first / 2**halved,
              f"every overflow halves the scale: step {i + 1} has {o['loss_scale']}")
    check(all(math.isfinite(o["grad_norm"]) for o in seen if not o["overflow"]), "finite norms")
    check(seen[-1]["loss"] < 0.5 * seen[0]["loss"], f"training went on: {seen[-1]}")
    fixed, _ = run(squares(folder, "f16", "256"), 12)
    check(all(o["loss_scale"] == 256 and not o["overflow"] for o in fixed), "a fixed scale stays")
    for a, b in zip(fixed, exact):
        check(abs(a["loss"] / b["loss"] - 1) < 2e-3, f"f16 {a['loss']} and f32 {b['loss']}")
    hopeless = squares(folder, "f16", "1e12")
    seen, err = run(hopeless, 100, status=1)
    check(all(o["overflow"] for o in seen) and len(seen) == 32, f"{len(seen)} skipped steps")
    check("step 32: " in err and "infinity in " in err, f"the end is explained:\n{err}")


def check_precisions(folder):
    data = make_data(folder / "data")
    final = {}
    for precision in ("f32", "bf16", "f16"):
        plan = compile_small(folder / precision, "--precision", precision)
        out, _ = m6c("run", plan, "--data", data, "--steps", "100", "--json")
        last = list(steps(out).values())[-20:]
        final[precision] = sum(o["loss"] for o in last) / len(last)
    for precision, loss in final.items():
        check(abs(loss / final["f32"] - 1) < 0.01, f"{precision} trains as f32 does: {final}")


with workspace() as folder:
    folder = pathlib.Path(folder)
    check_slide(folder)
    check_scales(folder)
    check_precisions(folder)
