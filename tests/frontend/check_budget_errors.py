#!/usr/bin/env python3
"""What goes wrong with budgets, at compile time and when a planned run meets a machine that is not
as planned: what is said, the exit status, and that nothing is lost: an older plan stays in its
folder, checkpoints stay, the disk has no file. TIMEOUT: 300"""
import json, os, pathlib, re, shutil, signal, subprocess, sys, time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/runtime"))
from system import HERE, M6C, check, m6c, workspace

SMALL = HERE / "small.m6"
UNIT = "takes a size with its unit, as in 32GB or 512MiB"
LEAST = "must be at least one byte"
WRONG = (  # value, what is said of it, for every budget
    ("32", UNIT), ("32s", UNIT), ("1e-3", UNIT), ("true", UNIT), ("0GB", LEAST), ("-1GB", LEAST),
    ("0.1B", LEAST), ("1e30GB", "does not fit in 64 bits"), ("lots", "unknown name 'lots'"))
RUN = ("--data", "random:1", "--seed", "3", "--json")


def losses(out):
    return {o["step"]: o["loss"] for o in map(json.loads, out.splitlines())}


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def units(folder):
    for option in ("memory", "host-memory", "disk"):
        for value, text in WRONG:
            given = f"{folder}:{value}" if option == "disk" else value
            _, err = m6c("compile", SMALL, "-o", folder / "no", f"--{option}={given}", status=1)
            name = option.replace("-", "_")
            check(re.match(rf"place options:\d+:\d+: error: .*{re.escape(text)}", err) and
                  f"    {name} {value}\n" in err, f"--{option} {given}: {err}")
        check("wants a value" in m6c("compile", SMALL, f"--{option}", status=2)[1], option)
    check(not (folder / "no").exists(), "nothing is written")
    model = folder / "set.m6"
    for value, text in WRONG[:6]:
        model.write_text(f"{SMALL.read_text()}place {{\n    memory {value}\n}}\n")
        _, err = m6c("compile", model, "-o", folder / "no", status=1)
        check(text in err and re.match(r"\S*set\.m6:\d+:\d+: error: 'memory'", err), err)


def infeasible(folder):
    """Each budget by itself is too small; the plan that was there is as it was."""
    plan = folder / "old"
    m6c("compile", SMALL, "-o", plan)
    m6c("run", plan, *RUN, "--steps", 2)
    before = content(plan)
    for more in (("--memory", "64B"), ("--memory", "900KiB"),
                 ("--memory", "900KiB", "--host-memory", "64B"),
                 ("--memory", "900KiB", "--host-memory", "10KiB", "--disk", f"{folder}:10KiB"),
                 ("--memory", "900KiB", "--host-memory", "1GiB", "--offload", "none",
                  "--checkpoint", "none")):
        _, err = m6c("compile", SMALL, "-o", plan, *more, status=1)
        said = re.match(r"error: the model does not fit in ([\d.]+) MiB of device memory: the smallest "
                        r"plan found takes ([\d.]+) MiB\n", err)
        check(said and float(said[2]) >= float(said[1]), f"{more}: {err[:300]}")
        check("what would make it fit, the fastest first:\n  --" in err, f"{more}: {err[-300:]}")
    check(content(plan) == before, "the older plan and its checkpoints are as they were")
    (folder / "inside.m6").write_text(SMALL.read_text() + "place {\n    memory 900KiB\n}\n")
    _, err = m6c("compile", folder / "inside.m6", "-o", plan, status=1)
    check("does not fit in 0.88 MiB" in err and content(plan) == before, err[:300])


def planned(folder, name):
    """A plan with bytes in all three memories."""
    plan = folder / name
    out, _ = m6c("compile", SMALL, "-o", plan, "--json", "--memory", "1200KiB", "--host-memory",
                 "300KiB", "--disk", f"{folder}:1GiB")
    made = json.loads(out)
    check(made["host_bytes"] > 0 and made["disk_bytes"] > 0, out)
    return plan, made


def places(folder):
    """Folders that cannot hold the plan's file."""
    plan, made = planned(folder, "placed")
    m6c("run", plan, *RUN, "--steps", 2)
    before = content(plan)
    file = folder / "a-file"
    file.write_text("mine")
    for where in (folder / "nowhere", file, "/proc"):
        _, err = m6c("run", plan, *RUN, "--steps", 4, "--disk", where, status=3)
        check(f"cannot make the plan's file in {where}: " in err, err)
    if os.getuid():
        closed = folder / "closed"
        closed.mkdir(0o500)
        _, err = m6c("run", plan, *RUN, "--steps", 4, "--disk", closed, status=3)
        check("Permission denied" in err, err)
    check(file.read_text() == "mine" and content(plan) == before, "nothing is lost")
    small = folder / "small"
    small.mkdir()
    bytes_ = made["disk_bytes"] + (256 << 10)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={bytes_ // 1024}k", "tmpfs", small],
                      capture_output=True).returncode:
        return
    try:
        filled(plan, made, small)
    finally:
        subprocess.run(["umount", small], check=True)


def filled(plan, made, disk):
    """A disk whose room somebody else takes, before a run and while it is under way."""
    before = content(plan)
    (disk / "others").write_bytes(b"x" * (512 << 10))
    _, err = m6c("run", plan, *RUN, "--steps", 4, "--disk", disk, status=3)
    pages = (made["disk_bytes"] + 4095) // 4096 * 4096
    check(f"({pages} bytes) on disk, and {disk} has " in err, err)
    check([p.name for p in disk.iterdir()] == ["others"] and content(plan) == before, "as it was")
    (disk / "others").unlink()
    p = subprocess.Popen([M6C, *map(str, ("run", plan, *RUN, "--steps", 40, "--disk", disk))],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = p.stdout.readline()
    try:  # all that is free
        (disk / "others").write_bytes(b"x" * (made["disk_bytes"] * 2))
        check(False, "the plan's file takes its room at once")
    except OSError:
        pass
    out, err = p.communicate(timeout=60)
    check(p.returncode == 0, err)
    want, _ = m6c("run", plan, *RUN, "--steps", 40)
    check(losses(first + out) == losses(want), "a disk that is full by now changes nothing")
    check([p.name for p in disk.iterdir()] == ["others"], "no file of the run's is left")


def hosts(folder):
    """Plans for more memory than there is are refused before any is taken."""
    plan, _ = planned(folder, "huge")
    m6c("run", plan, *RUN, "--steps", 2)
    text, before = (plan / "plan.txt").read_text(), content(plan / "checkpoints")
    for mem in ("device", "host"):
        huge = re.sub(rf"^(arena .*{mem}=)\d+", r"\g<1>99999999999999", text, count=1, flags=re.M)
        (plan / "plan.txt").write_text(huge)
        p = subprocess.Popen([M6C, *map(str, ("run", plan, *RUN, "--steps", 4, "--disk", folder))],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        err = p.stderr.read()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        check(p.returncode == 3 and re.search(r"needs \d+\.\d MiB of this machine's memory, and", err),
              f"{mem}: exit status {p.returncode}\n{err}")
        check(usage.ru_maxrss < 256 << 10, f"{usage.ru_maxrss} KiB were taken first")
    check(content(plan / "checkpoints") == before, "the checkpoints are as they were")


def killed(folder):
    """Killed again and again, a run with all tiers ends where it would have; checkpoints go from a
    plan with a budget to one without and back."""
    plan, _ = planned(folder, "killed")
    m6c("compile", SMALL, "-o", folder / "all")
    disk, steps = folder / "disk", 60
    disk.mkdir()
    want, _ = m6c("run", folder / "all", *RUN, "--steps", steps, "--save", folder / "want")
    more = [*RUN, "--steps", steps, "--save-every", 5, "--disk", disk]
    seen = {}
    for kill in range(3):
        p = subprocess.Popen([M6C, *map(str, ("run", plan, *more, *(("--resume",) if kill else ())))],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in p.stdout:
            seen.update(losses(line))
            if len(seen) >= 12 + 14 * kill:
                break
        p.send_signal(signal.SIGKILL)
        p.stdout.read()
        p.wait()
        check(not list(disk.iterdir()), "a killed run leaves no file on the disk")
        kept = [int(re.search(r"\d+", f.name)[0]) for f in (plan / "checkpoints").iterdir()]
        check(max(kept) >= 10 + 10 * kill, f"the last checkpoint is kept: {kept}")
    other = folder / "all/checkpoints"
    shutil.rmtree(other)
    shutil.copytree(plan / "checkpoints", other)
    for goes_on in (plan, folder / "all"):
        out, _ = m6c("run", goes_on, *more, "--resume", "--save", folder / "got")
        check(losses(out).items() <= losses(want).items() and steps in losses(out), goes_on)
        check((folder / "got").read_bytes() == (folder / "want").read_bytes(), "the same parameters")
    check(seen.items() <= losses(want).items(), "killed runs had the same losses")


def main():
    with workspace() as name:
        folder = pathlib.Path(name)
        os.environ["M6C_CACHE"] = str(folder / "cache")
        for test in (units, infeasible, places, hosts, killed):
            begin = time.monotonic()
            test(folder)
            print(f"{test.__name__}: {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
