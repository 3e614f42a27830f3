"""Phases of run.sh that judge numbers: the kernels on the device, compute-sanitizer, training."""
import json
import math
import os
import shutil
import signal
import subprocess

from run_base import HERE, ROOT, Failed, inputs_of, read_tensors, write_batch

# What is trained a few steps: the example that fits anywhere, and what it has not.
MODELS = [ROOT / "examples/m6-tiny.m6", ROOT / "tests/runtime/small.m6", HERE / "causal.m6"]
TINY = {"m6-tiny": ["hidden=32", "ffn_width=64", "batch=4", "vocab=64", "length=8", "patch=48", "layers=1"],
        "small": ["vocab=64", "batch=4"], "causal": ["hidden=32", "width=64", "vocab=64", "length=17"]}
EXAMPLE = ROOT / "examples/m6-tiny.m6"
# Gradients are compared with the CPU's, by the norm of each tensor, where no routing is involved: a
# token whose experts tie goes to either.
SMOOTH, GRADIENTS = HERE / "causal.m6", {"f32": 1e-4, "bf16": 5e-2, "f16": 1e-2}
LOSSES = HERE / "losses.json"
# One batch is learnt by heart: in 60 steps the loss falls from 7.7 to 0.3, so that a wrong update
# shows. How far the loss of a step may be from the CPU's, relative: while programs have only rounded
# differently, and later, when roundings have sent tokens to other experts (the CPU's own bf16 and
# f32 differ by 1e-4 and 3e-2).
BOUNDS = {"f32": (2e-5, 1e-2), "bf16": (1e-3, 8e-2)}
EARLY, STEPS, LEARNT = 5, 60, 1.0


def sets(run, model):
    return [w for s in TINY.get(model.stem, []) if run.tiny for w in ("--set", s)]


# ---- tests ----

def programs(run):
    """(name, command, environment) of the tests that run kernels on the device."""
    yield "cuda_device.h: lanes", [run.tool("gpu_lanes"), HERE, "gpu"], {}
    yield "cuda_device.h: fragments", [run.tool("gpu_fragments"), HERE], {}
    few = {"M6C_TEST_EVERY": 40} if run.tiny else {}
    if not run.tiny:
        yield "attention kernels", [run.tool("gpu_attention")], {}
    yield "every op, as kernels", [run.tool("test_codegen_kernels"), "gpu"], few
    count = 1 if run.tiny else 60
    yield "random graphs", [run.tool("test_codegen_random"), 1, count, "gpu"], few


def command(run, plan, data, steps, *args):
    return [run.tool("m6c"), "run", plan, "--data", data, "--steps", steps, "--json", *args]


def losses_of(run, *args):
    """{step: loss} of such a command."""
    return {o["step"]: o["loss"] for o in run.lines(command(run, *args))}


def train_twice(run, model, precision):
    """A few steps, twice: finite and the same bits; without graphs as with them."""
    plan, _ = run.compile(model, f"{model.stem}-{precision}", "--precision", precision,
                          *sets(run, model))
    steps = 2 if run.tiny else 8
    first, second = (losses_of(run, plan, "random:3", steps, "--save", run.work / f"saved-{i}",
                               *(["--no-graph"] if i else [])) for i in range(2))
    same = first == second
    saved = [(run.work / f"saved-{i}").read_bytes() for i in range(2)]
    finite = len(first) == steps and all(math.isfinite(x) for x in first.values())
    run.check(f"{model.name} in {precision}: {steps} steps", finite, f"losses {first}")
    run.check(f"{model.name} in {precision}: two runs, with graphs and without, give the same bits",
              same and saved[0] == saved[1], "" if same else f"losses {first} and {second}")


def gradients_of(run, precision, target):
    plan, _ = run.compile(SMOOTH, f"grads-{target or 'gpu'}-{precision}", "--precision", precision, "--grads",
                          *sets(run, SMOOTH), target=target)
    losses_of(run, plan, "random:3", 2, "--save-every", 0, "--grads", plan / "grads")
    return read_tensors(plan / "grads")


def length(x):
    return math.sqrt(sum(v * v for v in x))


def compare_gradients(run, precision):
    name = f"{SMOOTH.name} in {precision}: gradients within {GRADIENTS[precision]:g} of the CPU's"
    try:
        want = gradients_of(run, precision, "cpu")
    except Failed as failed:
        return run.check(name, None, f"no CPU plan here: {failed}")
    got = gradients_of(run, precision, None)
    off, tensor = max((length([a - b for a, b in zip(got[k], want[k])]) / (length(want[k]) or 1), k)
                      for k in want)
    run.check(name, got.keys() == want.keys() and off <= GRADIENTS[precision], f"{tensor}: {off:.2g}")


def tests(run):
    for name, arguments, env in programs(run):
        run.program(name, arguments, **env)
    for model in MODELS[:1] if run.tiny else MODELS:
        for precision in ("bf16",) if run.tiny else ("f32", "bf16", "f16"):
            run.attempt(f"{model.name} in {precision}", train_twice, model, precision)
    for precision in ["bf16"] if run.tiny else GRADIENTS:
        run.attempt(f"gradients in {precision}", compare_gradients, precision)


# ---- compute-sanitizer ----

def find_sanitizer(run):
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return run.args.sanitizer or shutil.which("compute-sanitizer") or \
        shutil.which(f"{home}/bin/compute-sanitizer")


def sanitized(run, tool):
    """What is run under a tool: the more it costs, the fewer of the graphs."""
    every = {"memcheck": 2}.get(tool, 8) * (30 if run.tiny else 1)
    if not run.tiny:
        yield "attention kernels", [run.tool("gpu_attention")], {}
    yield "every op, as kernels", [run.tool("test_codegen_kernels"), "gpu"], {"M6C_TEST_EVERY": every}
    yield "random graphs", [run.tool("test_codegen_random"), 1, 1 if run.tiny else 4, "gpu"], \
        {"M6C_TEST_EVERY": 9 if run.tiny else 1}
    for model in MODELS[:1] if run.tiny else MODELS:
        plan, _ = run.compile(model, f"{model.stem}-bf16", "--precision", "bf16", *sets(run, model))
        yield f"a step of {model.name}", command(run, plan, "random:3", 1, "--no-graph"), {}


def sanitizer(run):
    program = find_sanitizer(run)
    if not program:
        return run.missing("compute-sanitizer is not installed: no kernel was run under it")
    base = [program, "--error-exitcode", "99", "--print-limit", "20", "--tool"]
    status, out, err = run.call([*base, "memcheck", run.tool("bench_cuda"), "device",
                                 *run.bench_options()])
    if status:
        return run.missing(f"compute-sanitizer does not work here: {(out + err).strip()[-300:]}")
    for tool in ("memcheck", "racecheck", "synccheck"):
        for name, arguments, env in sanitized(run, tool):
            run.program(f"{tool}: {name}", [*base, tool, *arguments], **env)


# ---- training ----

def batch_of(run, plan):
    return write_batch(run.work / "batch.safetensors", inputs_of(plan))


def cpu_losses(run, precision, steps):
    plan, _ = run.compile(EXAMPLE, f"cpu-{precision}", "--precision", precision, *sets(run, EXAMPLE),
                          target="cpu")
    return losses_of(run, plan, batch_of(run, plan), steps, "--save-every", 0)


def write_losses(run):
    """The CPU's losses of m6-tiny, for machines that have no C compiler or BLAS."""
    losses = {p: [round(x, 7) for x in cpu_losses(run, p, STEPS).values()] for p in BOUNDS}
    LOSSES.write_text("{" + ",\n ".join(f'"{p}": {json.dumps(x)}' for p, x in losses.items()) + "}\n")


def reference(run, precision, steps):
    """({step: loss}, where from)"""
    try:
        return cpu_losses(run, precision, steps), "the CPU's plan, run here"
    except Failed as failed:
        run.say(f"no CPU plan here: {failed}")
    known = json.loads(LOSSES.read_text())[precision][:steps]
    return dict(enumerate(known, 1)), "the CPU's plan, losses.json"


def distance(got, want, last):
    return max((abs(got.get(n, math.inf) / want[n] - 1) for n in want if n <= last), default=0)


def compare(run, precision, steps):
    """m6-tiny on the device, next to the CPU; (plan, its data, losses)."""
    want, source = reference(run, precision, steps)
    plan, _ = run.compile(EXAMPLE, f"train-{precision}", "--precision", precision, *sets(run, EXAMPLE))
    data = batch_of(run, plan)
    got = losses_of(run, plan, data, steps, "--save-every", 0)
    early, late = BOUNDS[precision]
    for last, bound in ((min(EARLY, steps), early), (steps, late)):
        off = distance(got, want, last)
        run.check(f"{EXAMPLE.name} in {precision}: losses of {last} steps within {bound:g} of the CPU's",
                  off <= bound, f"within {off:.2g} ({source})")
    if steps == STEPS:
        run.check(f"{EXAMPLE.name} in {precision}: learns a batch by heart", got[steps] < LEARNT,
                  f"loss {got[1]:.2f}, after {steps} steps {got[steps]:.3f}")
    return plan, data, got


def killed(run, arguments, step):
    """{step: loss} of a run that gets kill -9 when it has reported the step."""
    seen = {}
    p = subprocess.Popen([str(c) for c in arguments], stdout=subprocess.PIPE, cwd=ROOT, env=run.env,
                         stderr=subprocess.DEVNULL)
    for line in p.stdout:
        told = json.loads(line)
        seen[told["step"]] = told["loss"]
        if told["step"] >= step:
            p.send_signal(signal.SIGKILL)
            break
    p.stdout.close()
    p.wait()
    return seen


def resume(run, plan, data, want, steps):
    """Losses of a run that was killed and went on are those of the run that was not."""
    shutil.rmtree(plan / "checkpoints", ignore_errors=True)
    arguments = command(run, plan, data, steps, "--save-every", 2)
    seen = killed(run, arguments, max(steps // 2, 4))
    rest = {o["step"]: o["loss"] for o in run.lines([*arguments, "--resume"])}
    whole = {**seen, **rest}
    apart = [n for n in want if whole.get(n) != want[n]]
    run.check(f"{EXAMPLE.name}: kill -9 after step {max(seen)}, resumed at {min(rest)}: the same losses",
              min(rest) > 1 and not apart, f"steps {apart[:5]} differ" if apart else "")


def train_one(run, precision):
    steps = 6 if run.tiny else STEPS
    resume(run, *compare(run, precision, steps), steps)


def train(run):
    for precision in ["f32"] if run.tiny else BOUNDS:
        run.attempt(f"training in {precision}", train_one, precision)
