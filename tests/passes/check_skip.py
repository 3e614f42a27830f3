#!/usr/bin/env python3
"""The same losses over ten steps of the compiled plan, whatever optional pass is left out, into how
many micro-batches and groups of parameters a step is cut (all within 1e-5), and on however many
threads it runs (bit for bit)."""
import itertools, os, pathlib, re, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from system import HERE, M6C, check, m6c, make_data, steps, workspace

STEPS, TOLERANCE = 10, 1e-5
TRAIN = "train small {"


def losses(plan, data, *more):
    out, _ = m6c("run", plan, "--data", data, "--steps", STEPS, "--save-every", "0", "--json", *more)
    return [(o["loss"], o["grad_norm"]) for _, o in sorted(steps(out).items())]


def model(folder, name, change=lambda text: text, train=""):
    """small.m6 changed, with more lines in its `train`."""
    text = change((HERE / "small.m6").read_text())
    path = folder / f"{name}.m6"
    path.write_text(text.replace(TRAIN, f"{TRAIN}\n    {train}"))
    return path


def compiled(folder, path, *more, **env):
    plan = folder / f"{path.stem}.plan"
    m6c("compile", path, "-o", plan, *more, env={**os.environ, **env})
    return plan


def compare(got, want, what):
    check(len(got) == len(want) == STEPS, f"{what}: {len(got)} of {STEPS} steps")
    for n, (a, b) in enumerate(zip(got, want), 1):
        check(abs(a[0] / b[0] - 1) < TOLERANCE, f"{what}: step {n} has loss {a[0]}, not {b[0]}")


def optional_passes():
    p = subprocess.run([M6C, "opt", "--help"], capture_output=True, text=True, check=True)
    names = re.findall(r"^(\w+) .*\(optional\)$", p.stdout, re.M)
    check(len(names) >= 3, f"optional passes: {names}")
    return names


def check_passes(folder, data):
    names = optional_passes()
    sets = [c for n in range(1, len(names) + 1) for c in itertools.combinations(names, n)]
    # The second has every kind of routing and layer more.
    more = lambda text: text.replace(
        "moe(norm(x), 4, 2, 1.25, 64)", "moe(norm(x), 8, 4, 1.0, 64, top = 2) + ffn(rmsnorm(x), 64)")
    for path in (model(folder, "moe2"), model(folder, "top2", more)):
        want = losses(compiled(folder, path), data)
        check(want[-1][0] < want[0][0], f"{path.name} learns: {want}")
        for left_out in sets:
            names = ",".join(left_out)
            compare(losses(compiled(folder, path, "--skip", names), data), want,
                    f"{path.name} without {names}")
        compare(losses(compiled(folder, path, M6C_SKIP="simplify,fuse"), data), want,
                f"{path.name} with M6C_SKIP")


def check_parts(folder, data):
    # No dropout, which draws other numbers for each micro-batch; token groups that no cut divides;
    # each example has as many targets, so that the mean of means is the mean.
    plain = lambda text: re.sub(r"dropout\((.*), 0.1\)", r"\1", text).replace(
        "1.25, 64)", "1.25, 64, group = 32)")
    want = losses(compiled(folder, model(folder, "whole", plain)), "random:5")
    cuts = ["num_micro_batch = 2", "num_micro_batch = 4", "groups = 3", "num_apply_group = 7",
            "num_micro_batch = 2\n    groups = 4"]
    for i, cut in enumerate(cuts):
        compare(losses(compiled(folder, model(folder, f"cut{i}", plain, cut)), "random:5"), want, cut)
        skipped = compiled(folder, model(folder, f"cut{i}", plain, cut), "--skip", "simplify,fuse")
        compare(losses(skipped, "random:5"), want, f"{cut}, without simplify and fuse")


def check_threads(folder, data):
    for precision in ("f32", "bf16"):
        for threads in (1, 2):
            plan = compiled(folder, model(folder, f"{precision}-{threads}"), "--precision", precision,
                            M6C_THREADS=str(threads))
            want = losses(plan, data, "--threads", 1)
            for n in (2, 3):
                got = losses(plan, data, "--threads", n)
                check(got == want, f"{precision}, plan for {threads} threads, on {n}: {got}\n{want}")


with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    check_passes(folder, data)
    check_parts(folder, data)
    check_threads(folder, data)
