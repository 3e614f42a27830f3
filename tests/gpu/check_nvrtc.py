#!/usr/bin/env python3
"""Every CUDA kernel of the examples, of a larger model, of attention by head size and of random
graphs goes through NVRTC for the GPUs m6c knows. Its logs show no spilled registers and no stack,
but for attention, whose registers and shared memory are those of attention_resources.txt
(M6C_BLESS=1 rewrites it). Prints how long compiling takes, cold and warm. TIMEOUT: 600"""
import concurrent.futures, os, pathlib, re, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", ROOT / "build"))
GOLDEN = HERE / "attention_resources.txt"
TARGETS = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
SEEDS = 20

ATTENTION = """use "m6"
model attentions(x: f32[2, 256, 768]) {
%s    return mean(x * x)
}
train attentions { optimizer = sgd(lr = 0.1) }
"""

PROPERTIES = re.compile(r"Function properties for (\S+)\n.*?(\d+) bytes stack frame, (\d+) bytes "
                        r"spill stores, (\d+) bytes spill loads(?:\n.*?Used (\d+) registers)?")
KERNEL = re.compile(r"^kernel \d+ (\S+) (\S+)\.cu nargs=(\d+) threads=(\d+) shared=(\d+)", re.M)


class Findings:
    def __init__(self):
        self.wrong, self.attention, self.kernels, self.release = [], {}, 0, None


def run(command, **more):
    p = subprocess.run([str(c) for c in command], capture_output=True, text=True,
                       env=dict(os.environ, **more))
    if p.returncode == 3 and "cannot find NVRTC" in p.stderr:
        print(p.stderr.strip())
        sys.exit(77)
    return p


def models(folder):
    """(model, its precisions and targets)"""
    yield ROOT / "examples/m6-tiny.m6", {"f32": TARGETS, "bf16": TARGETS, "f16": ["sm_80"]}
    for path in ("tests/bench/moe.m6", "examples/m6-100b.m6"):
        yield ROOT / path, {"bf16": ["sm_90"]}
    for name, sizes, targets in (("attention", (64, 128), TARGETS),
                                 ("attention-more", (16, 32, 48, 96, 192, 256), ["sm_90"])):
        path = folder / f"{name}.m6"
        path.write_text(ATTENTION % "".join(
            f"    x = x + attention(x, {768 // d}, causal_mask())\n" for d in sizes))
        yield path, {"bf16": targets}


def attention_of(source, kernel):
    """Head size and length of queries: the last that were defined before the kernel."""
    text = source[:source.index(f"KERNEL({kernel},")]
    return tuple(int(re.findall(rf"^#define ATT_{x} (\d+)$", text, re.M)[-1]) for x in "DT")


def check_plan(found, folder, what, target, precision):
    """Every kernel of the folder's plans is in its object and its PTX, and what its log says."""
    kernels = {k for p in folder.glob("*.txt") for k in KERNEL.findall(p.read_text())}
    logs = {p.stem: p.read_text() for p in folder.glob("*.log")}
    said = {(file, name): numbers for file, log in logs.items()
            for name, *numbers in PROPERTIES.findall(log)}
    found.wrong += [f"{what} {target}: {file}.log: {line}" for file, log in logs.items()
                    for line in log.splitlines() if "warning" in line]
    for (file, name), (stack, stores, loads, _) in said.items():
        if (stack, stores, loads) != ("0", "0", "0") and not name.startswith("k_attention"):
            found.wrong.append(f"{what} {target}: {file}.cu: {name} has {stack} bytes of stack, "
                               f"spills {stores} and {loads}")
    for name, file, nargs, threads, shared in kernels:
        ptx, cubin = (folder / f"{file}.{x}" for x in ("ptx", "cubin"))
        if (file, name) not in said or f".entry {name}(" not in ptx.read_text() or \
                name.encode() not in cubin.read_bytes():
            found.wrong.append(f"{what} {target}: {file}: {name} is not there")
        elif name.startswith("k_attention"):
            size, length = attention_of((folder / f"{file}.cu").read_text(), name)
            kind = "backward" if "grad" in name else "forward" if nargs == "4" else "forward+lse"
            key = (TARGETS.index(target), precision, size, length, kind)
            new = [int(n) for n in (*said[file, name][3:], shared, threads, *said[file, name][1:2])]
            old = found.attention.get(key, new)
            found.attention[key] = [max(pair) for pair in zip(old, new)]
    if ptxes := list(folder.glob("*.ptx")):
        found.release = re.search(r"release (\S+),", ptxes[0].read_text())[1]
    found.kernels += len(kernels)


def compile_model(found, folder, model, precision, target):
    plan = folder / f"{model.stem}-{precision}-{target}"
    p = run([BUILD / "m6c", "compile", model, "-o", plan, "--target", target, "--precision",
             precision])
    if p.returncode:
        found.wrong.append(f"{model.name} {precision} {target}: {p.stderr[:2000]}")
    else:
        check_plan(found, plan, f"{model.name} {precision}", target, precision)


def compile_random(found, folder, target):
    p = run([BUILD / "random_plans", folder, 1, SEEDS, target])
    if p.returncode:
        found.wrong.append(f"random graphs {target}: {p.stderr[:2000]}")
        return
    for seed in range(1, SEEDS + 1):
        check_plan(found, folder / f"{seed}-{target}", f"random graph {seed}", target, "")


def measure(folder):
    """Compile time with an empty cache and again."""
    for what in "cold", "warm":
        begin = time.monotonic()
        run([BUILD / "m6c", "compile", ROOT / "examples/m6-tiny.m6", "-o", folder / "timed",
             "--target", "sm_80", "--precision", "bf16"], M6C_CACHE=str(folder / "cache"))
        print(f"m6-tiny bf16 sm_80, {what}: {time.monotonic() - begin:.2f} s")


def check_golden(found):
    lines = ["# Attention kernels, by target, storage, head size and length of queries; written by\n",
             "# M6C_BLESS=1 tests/gpu/check_nvrtc.py\n", f"NVRTC {found.release}\n"]
    for (t, precision, size, length, kind), (registers, shared, threads, spilled) in sorted(
            found.attention.items()):
        lines.append(f"{TARGETS[t]} {precision} d={size} t={length} {kind}: {registers} registers, "
                     f"{shared} bytes shared, {threads} threads, {spilled} bytes spilled\n")
    if os.environ.get("M6C_BLESS"):
        GOLDEN.write_text("".join(lines))
        return
    old = GOLDEN.read_text().splitlines(True)
    if old[2] != lines[2]:
        print(f"attention's registers not compared: {lines[2].strip()} here, {old[2].strip()} there")
        return
    found.wrong += [f"attention_resources.txt lacks: {x.strip()}" for x in lines if x not in old]
    found.wrong += [f"attention_resources.txt has: {x.strip()}" for x in old if x not in lines]


def main():
    found = Findings()
    with tempfile.TemporaryDirectory(prefix="m6c-test-") as name:
        folder = pathlib.Path(name)
        measure(folder)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            tasks = [pool.submit(compile_model, found, folder, model, precision, target)
                     for model, how in models(folder)
                     for precision, targets in how.items() for target in targets]
            tasks += [pool.submit(compile_random, found, folder, target) for target in TARGETS]
            for task in tasks:
                task.result()
    check_golden(found)
    print(f"{found.kernels} kernels for {len(TARGETS)} targets, NVRTC {found.release}")
    if found.wrong:
        sys.exit("FAILED:\n" + "\n".join(found.wrong))


if __name__ == "__main__":
    main()
