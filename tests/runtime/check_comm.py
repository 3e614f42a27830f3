#!/usr/bin/env python3
"""Collectives of 2, 3 and 4 ranks (mpirun) against direct computation, alone and as steps of plans."""
import os, pathlib, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import M6C, check

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1")
PROGRAM = pathlib.Path(M6C).parent / "test_comm"

for ranks in (2, 3, 4):
    for what in ("check", "exec"):
        p = subprocess.run(["mpirun", "-n", str(ranks), PROGRAM, what], capture_output=True, text=True,
                           timeout=60)
        said = p.stdout.split("\n").count("comm: ok") + p.stderr.split("\n").count("comm: ok")
        check(p.returncode == 0 and said == ranks,
              f"{ranks} ranks, {what}: exit status {p.returncode}\n{p.stdout}{p.stderr}")
