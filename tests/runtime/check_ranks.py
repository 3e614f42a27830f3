#!/usr/bin/env python3
"""Runs of several ranks (mpirun): what each of six meshes saves, each other loads bit for bit and
goes on with; killed and asked to stop at any moment they lose nothing; one rank speaks. TIMEOUT: 600"""
import json, os, pathlib, random, shutil, signal, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from check_equal_mpi import compare, tensors
from system import M6C, check, compile_small, m6c, make_data, steps, workspace

MESHES = {"one": None, "data": "data=2", "stages": "pipeline=2", "both": "data=2,tensor=2",
          "expert": "data=4,expert=data", "shares": "data=2 --shares 5,3"}
RANKS = {"one": 1, "data": 2, "stages": 2, "both": 4, "expert": 4, "shares": 2}
FIRST, LAST = 4, 8
os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1", M6C_THREADS="1")


def compiled(folder, mesh, *args):
    return compile_small(folder, *args, *(["--mesh", *MESHES[mesh].split()] if MESHES[mesh] else []))


def command(mesh, *args):
    n = RANKS[mesh]
    return [*(["mpirun", "-n", str(n)] if n > 1 else []), M6C, *map(str, args)]


def run(mesh, *args, status=0):
    p = subprocess.run(command(mesh, "run", *args), capture_output=True, text=True, timeout=120)
    check(p.returncode == status, f"{mesh}: run {args}: exit status {p.returncode}\n{p.stderr}")
    return p.stdout, p.stderr


def losses(text):
    return {n: o["loss"] for n, o in steps(text).items()}


def close(got, want, what):
    for n, loss in got.items():
        check(abs(loss - want[n]) <= 1e-5 * want[n], f"{what}: step {n} has loss {loss}, not {want[n]}")


def checkpoints(plan):
    return sorted(p.name for p in (plan / "checkpoints").iterdir())


def pairs(folder, data, plans):
    """Each mesh trains, and saves; each other loads the same bits and goes on with the same losses."""
    want, params = {}, {}
    for mesh, plan in plans.items():
        out, err = run(mesh, plan, "--data", data, "--steps", LAST, "--json", "--save-every", 0)
        want[mesh] = losses(out)
        check(sorted(want[mesh]) == list(range(1, LAST + 1)), f"{mesh}: one report a step\n{out}")
        check(err.count("memory: arenas") == 1, f"{mesh}: one line on memory\n{err}")
        close(want[mesh], want["one"], mesh)
        shutil.rmtree(plan / "checkpoints")
        params[mesh] = folder / f"{mesh}.safetensors"
        run(mesh, plan, "--data", data, "--steps", FIRST, "--save", params[mesh])
        check(checkpoints(plan) == [f"step-{FIRST:08}" + (".safetensors" if mesh == "one" else "")],
              f"{mesh}: {checkpoints(plan)}")
        m6c("checkpoint", "verify", plan)
        shutil.move(plan / "checkpoints", folder / f"{mesh}-saved")
    for saved in MESHES:
        for mesh, plan in plans.items():
            what = f"saved on {saved}, resumed on {mesh}"
            shutil.rmtree(plan / "checkpoints", ignore_errors=True)
            shutil.copytree(folder / f"{saved}-saved", plan / "checkpoints")
            again = folder / "again.safetensors"
            _, err = run(mesh, plan, "--data", data, "--steps", FIRST, "--resume", "--save", again)
            check(err.count("resuming from") == 1, f"{what}: {err}")
            m6c("checkpoint", "diff", params[saved], again)  # the same bits; their order may differ
            out, _ = run(mesh, plan, "--data", data, "--steps", LAST, "--resume", "--json")
            got = losses(out)
            check(sorted(got) == list(range(FIRST + 1, LAST + 1)), f"{what}: steps {sorted(got)}")
            if saved == mesh:
                check(got == {n: want[mesh][n] for n in got}, f"{what}: not the same losses")
            close(got, want["one"], what)
            m6c("checkpoint", "verify", plan)
    return want


def other_commands(folder, data, plans):
    one, both = plans["one"], plans["both"]
    newest = both / "checkpoints" / f"step-{LAST:08}"
    out, _ = m6c("checkpoint", "diff", "--json", newest, newest)
    check(json.loads(out) == [], out)
    out, _ = m6c("checkpoint", "diff", "--json", folder / "one-saved", newest, status=1)
    check(len(json.loads(out)) > 20, out)
    out, _ = m6c("checkpoint", "ls", "--json", newest)
    whole = json.loads(m6c("checkpoint", "ls", "--json", folder / "one-saved")[0])[0]
    name = lambda o: [(t["name"], t["shape"], t["bytes"]) for t in o["tensors"]]
    check(name(json.loads(out)[0]) == name(whole), "the same whole tensors")
    part = max(newest.glob("part-*"))
    text = bytearray(part.read_bytes())
    text[-3] ^= 1
    part.write_bytes(text)
    out, _ = m6c("checkpoint", "verify", both, status=1)
    check("is damaged" in out, out)
    _, err = run("both", both, "--data", data, "--steps", LAST + 1, "--resume", status=1)
    check(err.count("is damaged") == 1 and "rank " in err, err)
    part.unlink()
    m6c("checkpoint", "verify", newest, status=1)
    shutil.rmtree(newest)
    scores = []
    for mesh in ("one", "both", "expert"):
        out, _ = run(mesh, plans[mesh], "--data", data, "--validate", "--json", "--init",
                     folder / "both.safetensors")
        scores.append(json.loads(out))
    check(all(s["targets"] == scores[0]["targets"] and s["examples"] == scores[0]["examples"] and
              abs(s["loss"] - scores[0]["loss"]) < 1e-5 * scores[0]["loss"] for s in scores), scores)
    trace = folder / "trace.json"
    run("both", both, "--data", data, "--steps", 2, "--trace", trace, "--log", folder / "log")
    check({e["pid"] for e in json.loads(trace.read_text())} == {0, 1, 2, 3}, "all ranks' traces")
    check(len((folder / "log").read_text().splitlines()) == 2, "one log")
    check(not list(folder.glob("trace.json.*")), "no other files of traces")
    _, err = run("both", both, "--data", folder / "nowhere", "--steps", 2, status=1)
    check(err.count("nowhere") == 1, err)


def gradients(folder, data):
    """Of unequal shares the whole batch's gradients, and what the model returned, are one rank's."""
    saved = {}
    for mesh in ("one", "shares"):
        plan = compiled(folder / f"{mesh}-grads", mesh, "--grads")
        files = [folder / f"{mesh}-grads.safetensors", folder / f"{mesh}-out.safetensors"]
        run(mesh, plan, "--data", data, "--steps", 2, "--save-every", 0, "--grads", files[0], "--out", files[1])
        saved[mesh] = [tensors(f) for f in files]
    for got, want in zip(saved["shares"], saved["one"]):
        off, name = compare(got, want)
        check(off <= 1e-5, f"{name} is off by {off}")


def children(pid):
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(p) for p in out.stdout.split()]


def until_step(process, n):
    for line in process.stdout:
        if json.loads(line)["step"] >= n:
            return


def stops(data, plan, want):
    """A signal to one rank: all stop after the same step, with a checkpoint."""
    shutil.rmtree(plan / "checkpoints", ignore_errors=True)
    p = subprocess.Popen(command("both", "run", plan, "--data", data, "--steps", 100000, "--json"),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_step(p, 5)
    os.kill(max(children(p.pid)), signal.SIGTERM)
    out, err = p.communicate(timeout=60)
    check(p.returncode == 0 and err.count("stopped after step") == 1, f"{p.returncode} {err}")
    stopped = int(err.split("stopped after step")[1].split()[0])
    check(checkpoints(plan) == [f"step-{stopped:08}"], f"{checkpoints(plan)} after {stopped}")


def kills(data, plan, trials):
    """Killed at random moments, also while a checkpoint is written, and resumed: the same losses."""
    steps_in_all = 60
    args = ["--data", data, "--steps", steps_in_all, "--json", "--save-every", 2]
    shutil.rmtree(plan / "checkpoints", ignore_errors=True)
    begin = time.monotonic()
    out, _ = run("both", plan, *args)
    whole, want = time.monotonic() - begin, losses(out)
    dice, resumed = random.Random(3), []
    for trial in range(trials):
        shutil.rmtree(plan / "checkpoints", ignore_errors=True)
        p = subprocess.Popen(command("both", "run", plan, *args), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.4, 1) * whole)
        for pid in children(p.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        p.wait(timeout=60)
        out, _ = run("both", plan, *args, "--resume")
        got = losses(out)
        check(got == {n: want[n] for n in got}, f"trial {trial}: other losses")
        resumed.append(min(got, default=steps_in_all))
        left = [n for n in checkpoints(plan) if not n.replace("step-", "").isdigit()]
        check(not left, f"trial {trial}: left behind {left}")
        m6c("checkpoint", "verify", plan)
    return resumed


if not shutil.which("mpirun"):
    print("no mpirun")
    sys.exit(77)
with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    plans = {mesh: compiled(folder / mesh, mesh) for mesh in MESHES}
    want = pairs(folder, data, plans)
    other_commands(folder, data, plans)
    gradients(folder, data)
    stops(data, plans["both"], want["both"])
    print("resumed at steps", sorted(kills(data, plans["both"], 6)))
