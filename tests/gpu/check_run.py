#!/usr/bin/env python3
"""tests/gpu/run.sh where there is no GPU: without a driver it says so and exits with 77; on the
stand-in, with tiny sizes, every phase comes to its end, and nothing it writes is called measured.
losses.json is what the CPU computes. TIMEOUT: 300"""
import json, os, pathlib, subprocess, sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "runtime"), str(HERE)]
from system import BUILD, M6C, check, workspace

import run_base

RUN = HERE / "run.sh"
STANDIN = {"M6C_CUDA_DRIVER": str(BUILD / "libcuda_standin.so"),
           "M6C_CUBLASLT": str(BUILD / "libcublaslt_standin.so")}
# Takes compute-sanitizer's options, of which each has a value, and runs the program.
SANITIZER = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift 2; done\nexec "$@"\n'


def run(*args, **env):
    return subprocess.run([RUN, *map(str, args)], capture_output=True, text=True, timeout=280,
                          env={**os.environ, **env})


def check_nothing():
    p = run(M6C_CUDA_DRIVER="/no/such/driver.so")
    check(p.returncode == 77 and "no CUDA driver" in p.stdout, f"without a driver: {p}")
    p = run(**STANDIN, M6C_STANDIN_SM="0")
    check(p.returncode == 77 and "no device" in p.stdout, f"without a device: {p}")
    p = run("--phases", "kernels,colours")
    check(p.returncode == 2 and "no phase colours" in p.stderr, f"a phase that is none: {p}")


def check_phases(folder):
    fake = folder / "sanitizer"
    fake.write_text(SANITIZER)
    fake.chmod(0o755)
    p = run("--tiny", "--build", BUILD, "--work", folder / "work", "--sanitizer", fake, "--python",
            "/no/such/python", **STANDIN)
    check(p.returncode == 0, f"exit status {p.returncode}\n{p.stdout}{p.stderr}")
    report = json.loads((folder / "work/report-stand-in-gpu.json").read_text())
    check(len(report["phases"]) == 7 and not report["measured"], "all phases, nothing measured")
    for name, phase in report["phases"].items():
        check(phase["checks"] or phase["figures"], f"{name} found something")
        check(not any("met" in f for f in phase["figures"]), f"{name} judges no figure")
        left = [m for m in phase["missing"] if "PyTorch" not in m]
        check(not left, f"{name} left out: {left}")
    text = (folder / "work/report-stand-in-gpu.md").read_text()
    check("Not measured on a GPU" in text and "met |" not in text, "the report says what it is")
    print(", ".join(f"{n} {p['seconds']} s" for n, p in report["phases"].items()))


def check_losses(folder):
    """The first two steps of losses.json."""
    known = json.loads((HERE / "losses.json").read_text())["f32"]
    plan = folder / "cpu"
    for args in (["compile", "examples/m6-tiny.m6", "-o", plan],
                 ["run", plan, "--data", folder / "batch.safetensors", "--steps", 2, "--json"]):
        if args[0] == "run":
            run_base.write_batch(folder / "batch.safetensors", run_base.inputs_of(plan))
        p = subprocess.run([M6C, *map(str, args)], capture_output=True, text=True, cwd=run_base.ROOT)
        check(p.returncode == 0, f"{args[0]}: {p.stderr}")
    seen = [json.loads(line)["loss"] for line in p.stdout.splitlines()]
    check(all(abs(a / b - 1) < 2e-5 for a, b in zip(seen, known)), f"{seen} is not {known[:2]}: "
          "tests/gpu/run.sh --write-losses makes the file anew")


with workspace() as folder:
    check_nothing()
    check_phases(pathlib.Path(folder))
    check_losses(pathlib.Path(folder))
