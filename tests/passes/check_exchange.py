#!/usr/bin/env python3
"""All_to_alls in phases and in pieces: models of experts stay what they are (`m6c check`), on meshes of 4 and 8
ranks, with as many collectives as that takes; and under mpirun the losses of 8 steps are the one-rank run's within
1e-5. Chosen by itself, pieces and phases are those that inspect prices lowest. TIMEOUT: 900"""
import json, os, pathlib, shutil, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from models import text_of
from system import M6C, check, steps, workspace

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1", M6C_THREADS="1")
EXCHANGES = 2 * 4  # two layers, each with two forward and two backward
# model, mesh, --all-to-all, phases, --chunks, pieces (rows are 2 to 8: the pieces of few rows are fewer)
CASES = [
    ("moe1", "data=4,expert=data", "2", 2, 1, 1),
    ("moe1", "data=4,expert=data", "flat", 1, 2, 2),
    ("moe2", "expert=4", "grouped", 2, 2, 2),
    ("top2", "data=2,expert=4", "2", 2, 3, 2),
    ("moe2", "data=4,expert=data,tensor=2", "2", 2, 2, 2),
    ("moe4", "data=8,expert=data", "2,4", 3, 2, 2),
    ("adafactor", "data=4,expert=data", "2", 2, 2, 2),
]
SUMS = {"data=4,expert=data,tensor=2": 4}  # over tensor, between two exchanges: of each piece its own
# Two nodes of two devices; links slow enough for phases and pieces.
NODES = """m6c-machine 1
name "two nodes of two"
target cpu
devices 2
nodes 2
launch 0.2us
vector 100GOPS
bandwidth 20GB/s
host-vector 100GOPS
host-bandwidth 20GB/s
peak f32 100GFLOPS
copy in 10GB/s latency 10us
copy out 10GB/s latency 10us
copy read 1GB/s latency 70us
copy write 1GB/s latency 70us
link memory 10GB/s latency 1us
link ethernet RATE latency 50us overhead 50us
"""


def write(folder, name, width=16):
    text, sets = text_of(name)
    path = pathlib.Path(folder) / f"{name}.m6"
    path.write_text(text.replace("capacity, 16,", f"capacity, {width},"))
    return path, [x for s in sets for x in s.split("=", 1)]


def call(*command):
    p = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    check(p.returncode == 0, f"{' '.join(map(str, command))}: exit status {p.returncode}\n{p.stdout}{p.stderr}")
    return p.stdout


def check_equal(folder):
    for name, mesh, how, phases, chunks, pieces in CASES:
        path, sets = write(folder, name)
        asked = ["--mesh", mesh, *sets, "--json"]
        flat = json.loads(call(M6C, "check", path, *asked, "--all-to-all", "flat", "--chunks", 1))
        parts = json.loads(call(M6C, "check", path, *asked, "--all-to-all", how, "--chunks", chunks))
        check(flat["equal"] and parts["equal"], f"{name} {mesh} {how} {chunks}: {parts}")
        more = EXCHANGES * (phases * pieces - 1) + SUMS.get(mesh, 0) * (pieces - 1)
        check(parts["collectives"] == flat["collectives"] + more,
              f"{name} {mesh} {how} {chunks}: {flat['collectives']} collectives became {parts['collectives']}, "
              f"not {more} more")


def losses(folder, path, sets, ranks, *options):
    plan = pathlib.Path(folder) / "plan"
    call(M6C, "compile", path, "-o", plan, *sets, *options)
    start = ["mpirun", "-n", ranks] if ranks > 1 else []
    out = call(*start, M6C, "run", plan, "--data", "random:1", "--steps", 8, "--json", "--save-every", 0)
    shutil.rmtree(plan)
    return [o["loss"] for o in steps(out).values()]


def check_runs(folder):
    """f16 on the wire is rounded once in one phase and in two: the same losses."""
    path, sets = write(folder, "moe2")
    mesh = ["--mesh", "data=4,expert=data"]
    want = losses(folder, path, sets, 1)
    for how, chunks in [("2", 1), ("flat", 2), ("2", 3)]:
        got = losses(folder, path, sets, 4, *mesh, "--all-to-all", how, "--chunks", chunks)
        off = max(abs(a - b) / abs(b) for a, b in zip(got, want))
        check(len(got) == 8 and off <= 1e-5, f"{how}, {chunks} pieces: losses {got}, not {want}")
    half = path.with_name("half.m6")
    half.write_text(path.read_text() + "place {\n    fp16 1\n}\n")
    flat, parts = (losses(folder, half, sets, 4, *mesh, "--all-to-all", how, "--chunks", chunks)
                   for how, chunks in [("flat", 1), ("2", 2)])
    check(max(abs(a - b) / abs(b) for a, b in zip(flat, parts)) <= 1e-6 and flat != want[:len(flat)],
          f"as f16: {flat} flat, {parts} in parts")


def choice(folder, rate, width, *sets):
    """What --cluster makes of the exchanges, as inspect tells it; experts are so wide."""
    path, own = write(folder, "moe1", width)
    machine = pathlib.Path(folder) / "nodes"
    machine.write_text(NODES.replace("RATE", rate))
    plan = pathlib.Path(folder) / "plan"
    call(M6C, "compile", path, "-o", plan, "--mesh", "data=4,expert=data", "--cluster", machine, *own, *sets)
    out = json.loads(call(M6C, "inspect", plan, "--comm", "--cluster", machine, "--json"))["all_to_all"]
    shutil.rmtree(plan)
    check(out and all(x["ms"] <= x["fastest_ms"] * (1 + 1e-9) <= x["flat_ms"] * (1 + 1e-9) for x in out), f"{out}")
    return out


def check_choices(folder):
    few = choice(folder, "1GB/s", 16)  # latency counts: one message between nodes, no pieces
    check([(x["phases"], x["number"]) for x in few] == [("data%2 data/2", EXCHANGES)], f"{few}")
    large = ["--set", "hidden=128", "--set", "batch=64", "--set", "length=32"]
    many = choice(folder, "50MB/s", 4096, *large)  # bytes count: flat, in pieces while experts compute
    check(all(x["phases"] == "flat" for x in many) and sum(x["number"] for x in many) > EXCHANGES, f"{many}")
    narrow = choice(folder, "50MB/s", 16, *large)  # nothing to overlap with
    check([(x["phases"], x["number"]) for x in narrow] == [("flat", EXCHANGES)], f"{narrow}")


with workspace() as folder:
    check_equal(folder)
    check_choices(folder)
    if not shutil.which("mpirun"):
        print("no mpirun")
        sys.exit(77)
    check_runs(folder)
print(f"{len(CASES)} models equal in phases and pieces; runs and choices as they must be")
