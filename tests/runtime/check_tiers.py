#!/usr/bin/env python3
"""A plan whose parameters and optimizer state lie on the device, the host and the disk by turns,
made from a compiled one by rewriting its text: each is fetched before the step and brought back
after it. Losses, parameters and checkpoints are those of the plan as compiled, with threads side by
side and one step after another, at any speed of the link; a run that is killed leaves nothing on
the disk and goes on from its checkpoint; a disk that is full or breaks is told."""
import json, os, pathlib, re, shutil, signal, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import M6C, check, compile_small, m6c, make_data, workspace
from spread import spread

def losses(out):
    return [json.loads(l)["loss"] for l in out.splitlines() if l.startswith("{")]


def same_numbers(folder, plan, spread_plan, room, data):
    run = ["--data", data, "--seed", "3", "--steps", "8", "--save-every", "4", "--json"]
    disk = folder / "disk"
    disk.mkdir()
    want, _ = m6c("run", plan, *run, "--save", folder / "want", "--grads", folder / "want-grads")
    kept = {p.name: p.read_bytes() for p in (plan / "checkpoints").iterdir()}
    for i, more in enumerate((["--disk", disk], ["--link", "20MB/s"], ["--threads", "1"],
                              ["--check-finite"], ["--trace", folder / "trace"])):
        shutil.rmtree(spread_plan / "checkpoints", ignore_errors=True)
        out, err = m6c("run", spread_plan, *run, *more, "--save", folder / "got",
                       "--grads", folder / "got-grads")
        check(losses(out) == losses(want), f"{more}: the losses are the same")
        for name in ("", "-grads"):
            check((folder / f"got{name}").read_bytes() == (folder / f"want{name}").read_bytes(),
                  f"{more}: {name or 'parameters'} are the same")
        check({p.name: p.read_bytes() for p in (spread_plan / "checkpoints").iterdir()} == kept,
              f"{more}: the checkpoints are the same")
        told = re.search(r"tiers: device ([\d.]+) MiB, host ([\d.]+) MiB, disk ([\d.]+) MiB in (.*)",
                         err)
        check(told and abs(float(told[2]) - room["host"] / 2**20) < 0.06 and
              abs(float(told[3]) - room["disk"] / 2**20) < 0.06, f"the tiers are told:\n{err}")
        check(told[4] == str(spread_plan if i else disk), told[4])
        check("for what is on its way to and from the disk" in err, err)
    # From the middle, and the forward plan on what was trained.
    (spread_plan / "checkpoints/step-00000008.safetensors").unlink()
    out, _ = m6c("run", spread_plan, *run, "--resume")
    check(losses(out) == losses(want)[4:], "a resumed run has the same losses")
    a, b = (m6c("run", p, "--data", data, "--validate", "--steps", "3")[0]
            for p in (plan, spread_plan))
    check(a == b, "and the same validation")


def killed(folder, plan, data):
    disk = folder / "empty"
    disk.mkdir()
    run = [M6C, "run", plan, "--data", data, "--steps", "100000", "--save-every", "5",
           "--disk", disk]
    for seconds in (0.3, 0.8):
        p = subprocess.Popen([*map(str, run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        check(not list(disk.iterdir()), "the file has no name while the run is under way")
        p.send_signal(signal.SIGKILL)
        p.wait()
        check(not list(disk.iterdir()), "nothing is left of a killed run")
    m6c("run", plan, "--data", data, "--steps", "1", "--resume")  # the checkpoint is whole


def failures(folder, plan, data):
    run = ["run", plan, "--data", data, "--steps", "100000", "--save-every", "1000000"]
    _, err = m6c(*run, "--disk", folder / "nowhere", status=3)
    check("cannot make the plan's file in" in err, err)
    _, err = m6c(*run, "--link", "4 parsecs", status=2)
    check("--link takes a rate" in err, err)
    before = {p.name: p.read_bytes() for p in (plan / "checkpoints").iterdir()}
    # The file becomes a device that is always full, in the middle of the run.
    disk = folder / "breaks"
    disk.mkdir()
    p = subprocess.Popen([M6C, *map(str, run), "--disk", str(disk)], stderr=subprocess.PIPE,
                         stdout=subprocess.DEVNULL, text=True)
    cut = False
    for _ in range(2000):  # again and again: a write of the same step may make the file long again
        time.sleep(0.3 if not cut else 0.02)
        if p.poll() is not None:
            break
        try:
            for fd in pathlib.Path(f"/proc/{p.pid}/fd").iterdir():
                if str(disk) in os.readlink(fd):
                    os.truncate(fd, 0)
                    cut = True
        except OSError:
            pass
    err = p.communicate(timeout=60)[1]
    check(cut and p.returncode == 3, f"exit status {p.returncode}\n{err}")
    check(re.search(r"step \d+: .*step \d+ \((fetch|bring back)\): cannot read \d+ bytes from the plan's file",
                    err), err)
    check({p.name: p.read_bytes() for p in (plan / "checkpoints").iterdir()} == before,
          "the checkpoints are intact")
    small = folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small],
                      capture_output=True).returncode:
        return
    try:
        _, err = m6c(*run, "--disk", small, status=3)
        check(re.search(r"keeps [\d.]+ MiB \(\d+ bytes\) on disk, and .* has 0.1 MiB free", err),
              err)
        check(not list(small.iterdir()), "nothing is left")
    finally:
        subprocess.run(["umount", small], check=True)
    text = (plan / "plan.txt").read_text()
    (plan / "plan.txt").write_text(re.sub(r" host=\d+ ", " host=99999999999999 ", text, count=1))
    _, err = m6c(*run, status=3)
    check("MiB of this machine's memory, and" in err, err)


with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    plan = compile_small(folder / "plan", "--grads")
    copy = folder / "spread"
    shutil.copytree(plan, copy)
    text, room = spread((plan / "plan.txt").read_text())
    (copy / "plan.txt").write_text(text)
    same_numbers(folder, plan, copy, room, data)
    killed(folder, copy, data)
    failures(folder, copy, data)
