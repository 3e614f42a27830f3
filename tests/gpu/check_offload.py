#!/usr/bin/env python3
"""Plans for a GPU whose tensors lie in the host's memory and on disk, on the stand-in: the numbers are
those of the plan that keeps all on the device, bit by bit, with graphs and without, in whatever
order work that nothing orders is done. Tensors larger than the room between disk and device pass
through it in parts; a disk that breaks is told.
TIMEOUT: 600"""
import os, pathlib, re, shutil, subprocess, sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))
from system import M6C, check, m6c, workspace
from spread import spread
from standin import STANDIN, compile_host, standin_run

# `large` passes between disk and device in three parts.
LARGE = 5_000_000
PLAN = f"""m6c-plan 1
model large
target sm_80
command "m6c compile large.m6"
train yes
hashes model=0000000000000001 compiler=0000000000000001
arena device={4 * LARGE + 128} host=64 disk=DISK
lower-bound device={4 * LARGE + 128} host=64 disk=DISK
work tokens=1 flops=0
buffer 0 state "large" f32[{LARGE}] PLACE -
buffer 1 temp "here" f32[{LARGE}] device+64 -
buffer 2 output "loss" f32[] device+0 -
buffer 3 temp "room" f32[16] host+0 -
tensor b0 uniform -1 1 00000000000000aa
output b2
kernel 0 touch large.cu nargs=2 threads=64 shared=0 hash=0000000000000001
STEPS
end
"""
KERNEL = """KERNEL(touch, 2, 64) {
    float *x = (float *)ARG(0);
    const float at = x[TID * 78000];
    float sum = at;
    for (int m = 16; m > 0; m >>= 1) sum += shfl_xor_f32(sum, m);
    if (TID == 0) *(float *)ARG(1) = sum;
    x[TID * 78000] = at + 1.0f;
}
"""
ON_DEVICE = 'step 0 kernel k0 items=1 grain=1 args=b0,b2 writes=3 ; "touch" - -'
# The last two go to the host and back.
ON_DISK = f"""step 0 copy bytes={4 * LARGE} stream=4 args=b1,b0 ; "read" - -
step 1 kernel k0 items=1 grain=1 args=b1,b2 writes=3 wait=0 ; "touch" - -
step 2 copy bytes={4 * LARGE} stream=5 args=b0,b1 wait=1 ; "write" - -
step 3 copy bytes=64 stream=4 args=b3,b0+{2 * LARGE} wait=2 ; "read" - -
step 4 copy bytes=64 stream=5 args=b0+{2 * LARGE},b3 wait=3 ; "write" - -"""


# Device, and what lies beside it.
BUDGETS = [["12MB", "--host-memory", "1GB"], ["6MB", "--host-memory", "1GB"],
           ["8MB", "--host-memory", "1MB", "--disk", "DIR:1GB"], ["8MB", "--disk", "DIR:1GB"]]


def large_plan(folder, place, disk, text):
    folder.mkdir()
    for old, new in (("PLACE", place), ("DISK", str(disk)), ("STEPS", text)):
        check(old in PLAN, old)
    (folder / "plan.txt").write_text(PLAN.replace("PLACE", place).replace("DISK", str(disk))
                                     .replace("STEPS", text))
    (folder / "large.cu").write_text(KERNEL)
    return folder


def truncate_open(pid, folder):
    """The file that the process has in a folder, cut to nothing; False: it has none yet."""
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(folder) in os.readlink(fd):
                os.truncate(fd, 0)
                return True
        except OSError:
            pass
    return False


def check_broken_disk(folder, plan):
    """A file that ends before its end, in the middle of a run."""
    disk = folder / "breaks"
    disk.mkdir()
    p = subprocess.Popen([M6C, "run", plan, "--data", "random:1", "--steps", "1000000", "--json",
                          "--disk", disk],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdout.readline()
    check(truncate_open(p.pid, disk), "the run has its file")
    err = p.communicate(timeout=60)[1]
    check(p.returncode == 3 and "cannot read" in err and "from the plan's file" in err,
          f"exit status {p.returncode}\n{err}")


def check_large(folder):
    device = large_plan(folder / "large", "device+64", 0, ON_DEVICE)
    disk = large_plan(folder / "large-disk", "disk+0", 4 * LARGE, ON_DISK)
    want, _ = standin_run(device, "--save", folder / "want", n=3)
    for more, env in (([], {}), (["--no-graph"], {}), ([], {"M6C_CUDA_SYNC": 1}),
                      (["--disk", folder], {"M6C_STANDIN_SEED": 7})):
        got, err = standin_run(disk, *more, "--save", folder / "got", n=3, **env)
        check([o["loss"] for o in got.values()] == [o["loss"] for o in want.values()],
              f"{more}: other losses")
        check((folder / "got").read_bytes() == (folder / "want").read_bytes(),
              f"{more}: other parameters")
    check_broken_disk(folder, disk)


def figures(out):
    return [(o["loss"], o["grad_norm"]) for _, o in sorted(out.items())]


def compile_causal(plan, *args):
    m6c("compile", HERE / "causal.m6", "--target", "sm_80", "--plan-only", *args, "-o", plan)
    compile_host(plan)
    return plan


def check_budgets(folder, plan):
    """What the compiler makes of the same model under budgets: part of it recomputed, or moved to the
    host or the disk, or updated by the host's cores."""
    want, _ = standin_run(plan, "--seed", 3, "--save", folder / "want", n=3)
    seen = set()
    for i, (device, *more) in enumerate(BUDGETS):
        more = [x.replace("DIR", str(folder)) for x in more]
        small = compile_causal(folder / f"budget-{i}", "--memory", device, *more)
        text = (small / "plan.txt").read_text()
        seen |= set(re.findall(r" stream=(\d)", text))
        ways = [([], {"M6C_STANDIN_SEED": i}), (["--no-graph"], {"M6C_STANDIN_SEED": 10 + i})]
        for args, env in ways + [(["--check-finite"], {})] * (i == 2):
            got, _ = standin_run(small, "--seed", 3, "--save", folder / "got", *args, n=3, **env)
            check(figures(got) == figures(want), f"{device} {more} {args}: {figures(got)}")
            check((folder / "got").read_bytes() == (folder / "want").read_bytes(),
                  f"{device} {more} {args}: other parameters")
    check(seen >= {"1", "2", "3", "4", "5"}, f"every stream is used: {seen}")


def check_spread(folder):
    """A compiled model, a third of its tensors in each memory."""
    plan, copy = compile_causal(folder / "causal"), folder / "spread"
    shutil.copytree(plan, copy)
    text, room = spread((plan / "plan.txt").read_text())
    check(min(room.values()) > 0, f"something lies on host and disk: {room}")
    (copy / "plan.txt").write_text(text)
    run = ["--save-every", 2, "--seed", 3]
    want, _ = standin_run(plan, *run, "--save", folder / "want", n=4)
    kept = {p.name: p.read_bytes() for p in (plan / "checkpoints").iterdir()}
    for more, env in (([], {}), (["--no-graph"], {"M6C_STANDIN_SEED": 5})):
        shutil.rmtree(copy / "checkpoints", ignore_errors=True)
        got, _ = standin_run(copy, *run, *more, "--save", folder / "got", n=4, **env)
        check(figures(got) == figures(want), f"{more}: {figures(got)}, not {figures(want)}")
        check((folder / "got").read_bytes() == (folder / "want").read_bytes(),
              f"{more}: other parameters")
        check({p.name: p.read_bytes() for p in (copy / "checkpoints").iterdir()} == kept,
              f"{more}: other checkpoints")
    (copy / "checkpoints/step-00000004.safetensors").unlink()
    rest, _ = standin_run(copy, *run, "--resume", n=4)
    check(figures(rest) == figures(want)[2:], f"resumed: {figures(rest)}")
    check_budgets(folder, plan)
    return copy


def check_failures(folder, plan):
    _, err = standin_run(plan, "--disk", folder / "nowhere", status=3)
    check("cannot make the plan's file in" in err, err)
    _, err = standin_run(plan, status=3, n=2, M6C_STANDIN_FAIL="cuMemHostAlloc:2:2")
    check("of pinned host memory" in err, err)


with workspace() as folder:
    folder = pathlib.Path(folder)
    os.environ.update(STANDIN, M6C_CACHE=str(folder / "cache"))
    check_large(folder)
    check_failures(folder, check_spread(folder))
