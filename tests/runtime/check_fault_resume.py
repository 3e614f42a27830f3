#!/usr/bin/env python3
"""Of the four ranks of a training run (mpirun) one is killed, stopped or slowed at a random step: the others end,
say which rank, and the resumed run has the losses of an undisturbed one. A number of trials; without one 8.
TIMEOUT: 600"""
import json, os, pathlib, random, shutil, signal, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "passes"))
from models import text_of
from system import M6C, check, m6c, steps, workspace

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1", M6C_THREADS="1")
RANKS, STEPS, EVERY, LIMIT = 4, 120, 15, 60
MESHES = "data=4,expert=data", "data=2,pipeline=2"
TIMEOUT = 3  # seconds that the others wait
# the signal, seconds until the rank goes on, exit statuses that mpirun may have, what the others say
FAULTS = {"killed": (signal.SIGKILL, None, {137}, "rank {} was lost"),
          "stopped": (signal.SIGSTOP, None, {3}, "rank {} does not answer"),
          "slowed": (signal.SIGSTOP, TIMEOUT + 4, {3}, "rank {} does not answer"),
          "held up": (signal.SIGSTOP, 1, {0}, "")}


def command(plan, *more):
    return ["mpirun", "-n", str(RANKS), M6C, "run", plan, "--data", "random:1", "--steps", str(STEPS), "--json",
            "--save-every", str(EVERY), "--comm-timeout", str(TIMEOUT), *more]


def losses(lines):
    return {n: o["loss"] for n, o in steps("".join(lines)).items()}


def process_of(launcher, rank):
    """The id of the process that is this rank."""
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True).stdout
    for pid in out.split():
        try:
            if f"OMPI_COMM_WORLD_RANK={rank}\0".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes():
                return int(pid)
        except OSError:
            pass
    return None


def disturbed(plan, fault, rank, step):
    """The run's losses, exit status, and what it said."""
    sig, wait, _, _ = FAULTS[fault]
    p = subprocess.Popen(command(plan), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for line in p.stdout:
        seen.append(line)
        if json.loads(line)["step"] == step:
            break
    pid = process_of(p.pid, rank)
    check(pid, f"{fault}: rank {rank} is not there at step {step}")
    os.kill(pid, sig)
    if wait:
        time.sleep(wait)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
    try:
        out, err = p.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        p.kill()
        check(False, f"{fault} at step {step}: still running after {LIMIT} s")
    return losses(seen + out.splitlines(True)), p.returncode, err


def trial(plan, want, fault, rank, step):
    what = f"rank {rank} {fault} at step {step}"
    shutil.rmtree(plan / "checkpoints", ignore_errors=True)
    seen, status, err = disturbed(plan, fault, rank, step)
    _, _, statuses, said = FAULTS[fault]
    check(status in statuses, f"{what}: exit status {status}\n{err}")
    check(said.format(rank) in err, f"{what}: nobody named it\n{err}")
    check(seen == {n: want[n] for n in seen}, f"{what}: other losses before")
    p = subprocess.run(command(plan, "--resume"), capture_output=True, text=True, timeout=LIMIT)
    check(p.returncode == 0, f"{what}: resumed with exit status {p.returncode}\n{p.stderr}")
    again = losses(p.stdout.splitlines(True))
    first = min(again, default=STEPS + 1) - 1  # of what rank 0 reported last, the last lines may be lost
    saved = (step - 1) // EVERY * EVERY
    check(sorted(again) == list(range(first + 1, STEPS + 1)) and first % EVERY == 0 and first >= saved,
          f"{what}: resumed with steps {sorted(again)}")
    check(status != 0 or first == STEPS, f"{what}: it ended well, but at step {first}")
    check(again == {n: want[n] for n in again}, f"{what}: other losses after")
    m6c("checkpoint", "verify", plan)


def undisturbed(plan, mesh):
    """Compiles into the folder; the losses that any run must have."""
    text, sets = text_of("moe2")
    plan.mkdir()
    (plan / "model.m6").write_text(text)
    m6c("compile", plan / "model.m6", "-o", plan, "--mesh", mesh, *(x for s in sets for x in s.split("=", 1)))
    p = subprocess.run(command(plan), capture_output=True, text=True, timeout=LIMIT)
    want = losses(p.stdout.splitlines(True))
    check(sorted(want) == list(range(1, STEPS + 1)), f"undisturbed on {mesh}: {p.returncode}\n{p.stderr}")
    return want


def main():
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seed = int(os.environ.get("M6C_SEED", time.time_ns() % 10 ** 6))
    print("seed", seed, flush=True)
    dice = random.Random(seed)
    with workspace() as folder:
        plans = [(pathlib.Path(folder) / mesh, mesh) for mesh in MESHES]
        want = [undisturbed(*p) for p in plans]
        for i in range(trials):
            k = i // len(FAULTS) % len(MESHES)
            trial(plans[k][0], want[k], list(FAULTS)[i % len(FAULTS)], dice.randrange(RANKS),
                  dice.randrange(2, STEPS - 20))


if not shutil.which("mpirun"):
    print("no mpirun")
    sys.exit(77)
main()
