#!/usr/bin/env python3
"""examples/m6-100b.m6, on paper: it is the size it says, fits into one H200 with its host under both
optimizers, keeps the budgets, its plans can be read back and simulated, and kernels of tensors of
2^31 elements count in 64 bits."""
import json, math, pathlib, re, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/runtime"))
from system import check, m6c, workspace

MODEL = ROOT / "examples/m6-100b.m6"
H200 = ROOT / "examples/clusters/h200-141gb.m6c-machine"
DEVICE, HOST = 141 * 10 ** 9, 1500 * 10 ** 9
KERNEL = re.compile(r"/\*\n \* domain ([^\n,]*)[^\n]*\n.*?\n}\n", re.S)
INDEX = re.compile(r"\b(int(?:32_t|64_t)?) (?:at|row|c|e|outer|i\d|j\d) =")


def wide_kernels(folder):
    """How many kernels have a domain that 32 bits cannot count."""
    wide = 0
    for path in folder.glob("plan*.cu"):
        for k in KERNEL.finditer(path.read_text()):
            if math.prod(map(int, re.findall(r"\d+", k[1]))) < 2 ** 31:
                continue
            wide += 1
            check(set(INDEX.findall(k[0])) == {"int64_t"}, f"{path}: narrow indices\n{k[0]}")
    return wide


def planned(folder, *args):
    out, _ = m6c("compile", MODEL, "-o", folder, "--plan-only", "--json", "--target", "sm_90", "--cluster",
                 H200, "--memory", "141GB", "--host-memory", "1.5TB", *args)
    o = json.loads(out)
    check(103e9 < o["parameters"] < 104e9, out)
    check(0 < o["device_bytes"] <= DEVICE and 0 < o["host_bytes"] <= HOST, out)
    check(o["bound_ms"] <= o["predicted_ms"], out)
    memory = json.loads(m6c("inspect", folder, "--memory", "--json")[0])
    check(memory, "inspect reads the plan")
    told = json.loads(m6c("simulate", folder, "--cluster", H200, "--json")[0])
    check(told["tokens"] == 128 * 128 and told["tokens_per_second"] > 0, told)
    check(wide_kernels(folder) >= 3, "casts and updates of expert weights are wide")


with workspace() as name:
    for factored in ("false", "true"):
        planned(pathlib.Path(name) / factored, "--set", f"factored={factored}")
