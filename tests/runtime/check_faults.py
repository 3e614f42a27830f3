#!/usr/bin/env python3
"""Of three ranks (mpirun) one is killed, stopped, slow, fails or leaves at a random step: the others end
within seconds, say which rank and where, and nobody hangs."""
import os, pathlib, random, re, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import M6C, check

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1")
PROGRAM = pathlib.Path(M6C).parent / "test_comm"
TIMEOUT, SECONDS = 2, 20
# fault: exit statuses mpirun may have, what the others say
FAULTS = {"kill": ({137}, "rank {} was lost"), "stop": ({3}, "rank {} does not answer"),
          "fail": ({3}, "rank {} failed"), "bad": ({1}, "rank {} failed"), "exit": ({3, 5}, "rank {} was lost"),
          "slow": ({3}, "rank {} has not come to it")}


def run(fault, rank, step):
    begin = time.monotonic()
    p = subprocess.Popen(["mpirun", "-n", "3", PROGRAM, "loop", "60", fault, str(rank), str(step),
                          str(TIMEOUT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        text, _ = p.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        p.kill()
        check(False, f"{fault} of rank {rank} at step {step}: still running after {SECONDS} s")
        return
    statuses, said = FAULTS[fault]
    what = f"{fault} of rank {rank} at step {step}, {time.monotonic() - begin:.1f} s"
    check(p.returncode in statuses, f"{what}: exit status {p.returncode}\n{text}")
    others = [line for line in text.split("\n")
              if line.startswith("m6c: rank") and not line.startswith(f"m6c: rank {rank}:")]
    check(any(said.format(rank) in line for line in others), f"{what}: nobody named the rank\n{text}")
    silent = set(re.findall(r"rank (\d) does not answer", text))
    check(silent <= {str(rank)}, f"{what}: a wrong rank was named\n{text}")
    check(all(re.search(r"step \d+", line) for line in others), f"{what}: no step is named\n{text}")


seed = int(os.environ.get("M6C_SEED", time.time_ns() % 10 ** 6))
print("seed", seed)
random.seed(seed)
for i in range(20):
    run(list(FAULTS)[i % len(FAULTS)], random.randrange(3), random.randrange(1, 59))
