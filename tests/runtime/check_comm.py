#!/usr/bin/env python3
"""Collectives of 2, 3 and 4 ranks (mpirun) against direct computation, alone and as steps of plans;
and ranks that must not start: too many or few of them, without MPI, with different plans."""
import os, pathlib, shutil, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import M6C, check, compile_small, workspace

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1")
if not shutil.which("mpirun"):
    print("no mpirun")
    sys.exit(77)
PROGRAM = pathlib.Path(M6C).parent / "test_comm"

for ranks in (2, 3, 4):
    for what, debug in (("check", ""), ("exec", ""), ("check", "pieces")):
        if debug and ranks == 2:
            continue
        p = subprocess.run(["mpirun", "-n", str(ranks), PROGRAM, what], capture_output=True, text=True,
                           timeout=60, env={**os.environ, "M6C_DEBUG": debug})
        said = p.stdout.split("\n").count("comm: ok") + p.stderr.split("\n").count("comm: ok")
        check(p.returncode == 0 and said == ranks,
              f"{ranks} ranks, {what} {debug}: exit status {p.returncode}\n{p.stdout}{p.stderr}")


def refused(what, ranks, command, status, *said, **env):
    start = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    p = subprocess.run([*start, *map(str, command), "--data", "random:1", "--steps", "2"],
                       capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    check(p.returncode == status and "step 1" not in p.stderr and all(t in p.stderr for t in said),
          f"{what}: exit status {p.returncode}\n{p.stderr}")


with workspace() as folder:
    folder = pathlib.Path(folder)
    one, two = compile_small(folder / "one"), compile_small(folder / "two", "--mesh", "data=2")
    other = compile_small(folder / "other", "--mesh", "data=2", "--set", "hidden=48")
    refused("one rank of two", 1, [M6C, "run", two], 2, "is for 2 ranks, this run has 1: mpirun -n 2 ")
    refused("three ranks of two", 3, [M6C, "run", two], 2, "is for 2 ranks, this run has 3: mpirun -n 2 ")
    refused("two ranks of one", 2, [M6C, "run", one], 2, "is for 1 rank, this run has 2: m6c run ")
    refused("no MPI", 2, [M6C, "run", two], 3, "several ranks need MPI", M6C_MPI="/nowhere")
    choose = 'if [ $OMPI_COMM_WORLD_RANK = 0 ]; then exec "$0" run "$1" "${@:3}"; fi; exec "$0" run "${@:2}"'
    shell = ["bash", "-c", choose, M6C, two]
    refused("two plans", 2, [*shell, other], 1, "rank 1 runs something else than rank 0: the model differs")
    refused("no plan", 2, [*shell, folder / "none"], 1, "none: No such file or directory")
