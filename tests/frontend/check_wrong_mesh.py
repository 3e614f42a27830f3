#!/usr/bin/env python3
"""Meshes that cannot be: each is refused with a clear message before anything starts, and says so once."""
import json, os, pathlib, shutil, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "runtime"))
from system import M6C, check, compile_small, m6c, workspace

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1", M6C_THREADS="1")
AXES = "there are data, tensor, expert and pipeline, and those that a 'split' of the model names"
SIZE = "is a number, a config or an axis before it, not"
# mesh: what is said
MESHES = {
    "data=3": "batch = 8 cannot be shared by the 3 ranks of data",
    "expert=3": "batch = 8 cannot be shared by the 3 ranks of expert",
    "data=2,expert=8": "batch = 8 cannot be shared by the 16 ranks of data.expert",
    "data=8,expert=data": "dimension 'experts' of size 4 cannot be split over the 8 of 'expert'",
    "tensor=3": "the 3 ranks of mesh axis 'tensor' would all do the same work",
    "dat=2": f"unknown mesh axis 'dat': {AXES}; did you mean 'data'?",
    "data=2,rows=2": f"unknown mesh axis 'rows': {AXES}",
    "data=2,rows=data": f"unknown mesh axis 'rows': {AXES}",
    "data=2,data=2": "mesh axis 'data' is given twice",
    "data=two": f"the size of mesh axis 'data' {SIZE} 'two'",
    "data=btach": f"the size of mesh axis 'data' {SIZE} 'btach'; did you mean 'batch'?",
    "data=2,expert=dta": f"the size of mesh axis 'expert' {SIZE} 'dta'; did you mean 'data'?",
    "expert=data,data=2": f"the size of mesh axis 'expert' {SIZE} 'data'",
    "data=1.5": "the size of mesh axis 'data' must be a whole number, but is 1.5",
    "data=-2": "the size of mesh axis 'data' must be from 1 to 65536, not -2",
    "data=65536,tensor=65536": "a mesh of 4294967296 ranks: at most 1048576 are possible",
    "data": "a mesh is written 'mesh data = 4, expert = data'",
    "2": "a mesh is written 'mesh data = 4, expert = data'",
    "data=2,,tensor=2": "expected an expression, but found ','",
}
CLUSTER = """m6c-machine 1
name "two boxes"
target cpu
devices 1
nodes 2
memory device 1GB
memory host 1GB
launch 1us
vector 10GOPS
bandwidth 10GB/s
host-launch 1us
host-vector 10GOPS
host-bandwidth 10GB/s
peak f32 40GFLOPS
copy in 1GB/s
copy out 1GB/s
copy read 1GB/s
copy write 1GB/s
"""
LINK = "link nic 100MB/s latency 50us\n"


def refused(what, command, status, *said, env={}):
    p = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60,
                       env={**os.environ, **env})
    check(p.returncode == status, f"{what}: exit status {p.returncode}, not {status}\n{p.stderr}")
    for text in said:
        check(text in p.stderr, f"{what}: not said: {text}\n{p.stderr}")
    check("step 1" not in p.stderr and "loss" not in p.stdout, f"{what}: it started\n{p.stderr}")
    return p.stderr


def compile_of(folder, *args):
    model = pathlib.Path(__file__).parent.parent / "runtime/small.m6"
    return [M6C, "compile", model, "-o", folder / "refused", "--plan-only", *args]


def compiled(folder):
    for mesh, said in MESHES.items():
        refused(mesh, compile_of(folder, "--mesh", mesh), 1, "error: " + said)
        check(not (folder / "refused").exists(), f"{mesh}: a plan was written")
    _, err = m6c(*compile_of(folder, "--mesh", "tensor=4")[1:])
    check(err.count("warning:") == 1 and "2 heads cannot be shared by the 4 ranks of tensor" in err, err)
    refused("micro-batches", compile_of(folder, "--mesh", "data=2", "--set", "batch=9"), 1,
            "batch = 9 cannot be shared by the 2 ranks of data")
    refused("check", [M6C, "check", *compile_of(folder)[2:3], "--mesh", "dat=2"], 1, MESHES["dat=2"])


SHARES = {  # mesh, shares: what is said, where
    ("data=2", "5"): "3:8: error: 1 shares for the 2 ranks of mesh axis 'data'",
    ("tensor=2", "5,3"): "3:8: error: 2 shares for the 1 rank of mesh axis 'data'",
    ("data=2", "8,0"): "3:8: error: a share must be from 1 to 1048576, not 0",
    ("data=2", "5,1.5"): "3:8: error: a share must be a whole number, but is 1.5",
    ("data=2", "5,4"): "3:8: error: batch = 8 cannot be shared so: it is not a multiple of 9, the sum of the shares",
    ("data=2", "5,3 --micro-batches 2"):
        "3:8: error: batch = 8 cannot be shared so: it is not a multiple of 16, the sum of the shares in all "
        "micro-batches",
    ("data=2,expert=2", "5,3"):
        "3:8: error: batch = 8 cannot be shared so: the 2 ranks of an expert axis do not divide each rank's share",
    ("data=2,expert=data", "5,3"): "3:8: error: experts on the devices of data would be exchanged in parts of unequal "
                                   "size: give them an axis of their own",
    ("data=2", "5,3 --zero 1"):
        "4:8: error: the optimizer's state cannot be split over ranks of unequal shares (zero)",
    ("data=2,pipeline=2", "5,3"): "3:8: error: a pipeline cannot have ranks of unequal shares yet",
}


def shares(folder):
    for (mesh, given), said in SHARES.items():
        refused(given, compile_of(folder, "--mesh", mesh, "--shares", *given.split()), 1, f"place options:{said}")
    model = folder / "shares.m6"
    text = (pathlib.Path(__file__).parent.parent / "runtime/small.m6").read_text()
    model.write_text(text + "place {\n    mesh data = 2\n    shares 5\n}\n")
    line = len(text.splitlines()) + 3
    refused("no list", [M6C, "check", model], 1, f"shares.m6:{line}:12: error: 'shares' is a list, as in [5, 3]")
    refused("a class that is not there", [M6C, "dump", *compile_of(folder)[2:3], "--mesh", "data=2", "--shares", "5,3",
                                          "--stage", "2", "--after", "shard"], 1, "there is no such class of shares")


def clusters(folder):
    small = folder / "small.m6c-machine"
    small.write_text(CLUSTER + LINK)
    refused("a mesh larger than the cluster", compile_of(folder, "--mesh", "data=4", "--cluster", small), 1,
            "error: 4 ranks need as many devices; 'two boxes' has 2")
    small.write_text(CLUSTER)
    refused("a cluster without a network", compile_of(folder, "--mesh", "data=2", "--cluster", small), 1,
            "'two boxes' has 2 nodes and needs a line like 'link")
    small.write_text(CLUSTER + LINK)
    out, err = m6c(*compile_of(folder, "--mesh", "data=2", "--cluster", small)[1:])
    check(err.count("warning:") == 1 and "cannot be shared by the 2 ranks of data" in err,
          f"the training plan and its forward half warn together, once\n{err}")


def run(folder):
    two = compile_small(folder / "two", "--mesh", "data=2")
    refused("compare", [M6C, "compare", two], 1, "the plan is for 2 ranks and m6c compare starts one")
    refused("calibrate", [M6C, "calibrate", two, "-o", folder / "profile"], 2,
            "the plan is for 2 ranks, this run has 1: mpirun -n 2 m6c calibrate ")
    if not shutil.which("mpirun"):
        return
    steps = ["--data", "random:1", "--steps", "2"]
    trace = folder / "trace.json"
    subprocess.run(["mpirun", "-n", "2", M6C, "run", two, *steps, "--trace", trace], check=True,
                   capture_output=True, timeout=60)
    out, _ = m6c("compare", two, "--trace", trace, "--json")
    compared = json.loads(out)
    check(compared["measured_steps"] == 4 and compared["kinds"]["collective"]["steps"] > 0, out)
    stages = compile_small(folder / "stages", "--mesh", "pipeline=2")
    subprocess.run(["mpirun", "-n", "2", M6C, "run", stages, *steps, "--trace", trace], check=True,
                   capture_output=True, timeout=60)
    compared = json.loads(m6c("compare", stages, "--trace", trace, "--json")[0])
    check(compared["measured_steps"] == 2 and compared["kinds"]["collective"]["steps"] > 0, compared)
    (stages / "plan-1.txt").unlink()
    refused("a stage that is not there", ["mpirun", "-n", "2", M6C, "run", stages, *steps], 1,
            "plan-1.txt: No such file or directory")
    other = compile_small(folder / "other", "--mesh", "pipeline=2", "--set", "hidden=48")
    shutil.copy(other / "plan-1.txt", stages)
    refused("a stage of another model", ["mpirun", "-n", "2", M6C, "run", stages, *steps], 1,
            "the plans of stages 0 and 1 are of different models")
    uneven = compile_small(folder / "uneven", "--mesh", "data=2", "--shares", "5,3")
    other = compile_small(folder / "even", "--mesh", "data=2", "--shares", "1,3")
    shutil.copy(other / "plan-1.txt", uneven)
    refused("another division", ["mpirun", "-n", "2", M6C, "run", uneven, *steps], 1,
            "the plans of shares 0 and 1 are of different models")
    run_three = ["mpirun", "-n", "3", M6C, "run"]
    four = compile_small(folder / "four", "--mesh", "data=4")
    refused("three of four", [*run_three, four, *steps], 2,
            "the plan is for 4 ranks, this run has 3: mpirun -n 4 m6c run ")


with workspace() as folder:
    folder = pathlib.Path(folder)
    compiled(folder)
    shares(folder)
    clusters(folder)
    run(folder)
