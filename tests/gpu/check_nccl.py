#!/usr/bin/env python3
"""GPUs of several ranks, by the stand-ins for the driver, cuBLASLt and NCCL (standin.h), under mpirun:
collectives of plans; compiled models whose losses are those of one rank's CPU, on several meshes and in
stages, with messages in f16 and put together, in whatever order that streams allow; a rank that is lost, stopped,
fails or does something else is named by the others, with the step, and nobody hangs; what is missing is said before
anything starts.
TIMEOUT: 600"""
import os, pathlib, re, shutil, subprocess, sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))
from system import BUILD, M6C, check, m6c, steps, workspace
from standin import STANDIN

os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_rmaps_base_oversubscribe="1", M6C_THREADS="1")
if not shutil.which("mpirun"):
    print("no mpirun")
    sys.exit(77)
PROGRAM = BUILD / "test_comm"
GPUS = {**STANDIN, "M6C_NCCL": str(BUILD / "libnccl_standin.so"), "M6C_STANDIN_DEVICES": "4",
        "M6C_STANDIN_SM": "90"}
LAST, WAIT = 6, 2  # steps; seconds that the ranks wait for each other where one is at fault

MODEL = """use "m6"
config batch = 16, length = 8, hidden = 48
model ranks(x: f32[batch, length, hidden], target: i32[batch, length]) {
    h = x + linear(gelu(linear(norm(x), 64)), hidden)
    MOE
    return cross_entropy(linear(norm(h), 32), target)
}
train ranks {
    optimizer = adamw(lr = 1e-2)
    clip = 1.0
    num_micro_batch = MICRO
}
place { max_splits 3
    fp16 HALF
    zero ZERO }
"""
MOE = "h = h + moe(norm(h), 4, 2, 1.25, 64, group = 16)"
# name: the layer, messages in f16, micro-batches, the mesh, how far losses may be from the CPU's
MODELS = {"dense": ("", 0, 1, "data=2", 1e-5), "dense-16": ("", 1, 1, "data=2,tensor=2", 2e-3),
          "zero": ("", 0, 1, "data=4", 1e-5), "zero-16": ("", 1, 1, "data=2,tensor=2", 2e-3),
          "moe": (MOE, 0, 1, "data=4,expert=data", 1e-5), "moe-16": (MOE, 1, 1, "data=2,expert=data", 2e-3),
          "stages": (MOE, 0, 2, "data=2,expert=data,pipeline=2", 1e-5)}


def start(ranks, *command, **env):
    mpirun = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    p = subprocess.run([*mpirun, *map(str, command)], capture_output=True, text=True,
                       timeout=300, env={**os.environ, **{k: str(v) for k, v in env.items()}})
    return p.returncode, p.stdout, p.stderr


def train(plan, ranks, *args, **env):
    status, out, err = start(ranks, M6C, "run", plan, "--data", "random:1", "--steps", LAST, "--json",
                             "--save-every", 0, *args, **env)
    check(status == 0, f"{plan}: exit status {status}\n{err}")
    return [(o["loss"], o["grad_norm"]) for _, o in sorted(steps(out).items())]


def ranks_of(mesh):
    ranks = 1
    for size in re.findall(r"=(\d+)", mesh):
        ranks *= int(size)
    return ranks


def compile_to(folder, name, target, half=0, micro=1, mesh=None):
    layer, plan = MODELS[name][0], folder / f"{name}-{target}"
    model = folder / f"{name}.m6"
    model.write_text(MODEL.replace("MOE", layer).replace("HALF", str(half)).replace("MICRO", str(micro))
                     .replace("ZERO", str(int(name.startswith("zero")))))
    m6c("compile", model, "-o", plan, "--target", target, *(["--mesh", mesh] if mesh else []),
        *["--plan-only"] * (target != "cpu"))
    return plan


def check_models(folder):
    wanted = {layer: train(compile_to(folder, name, "cpu"), 1) for name, layer in (("dense", ""), ("moe", MOE))}
    for name, (layer, half, micro, mesh, near) in MODELS.items():
        ranks, plan = ranks_of(mesh), compile_to(folder, name, "sm_90", half, micro, mesh)
        text = (plan / "plan.txt").read_text()
        check(("wire=f16" in text) == bool(half) and ("send" in text) == (micro > 1), f"{name}: its messages")
        for kind in ("reduce_scatter", "all_gather"):  # of several tensors, put together
            check(bool(re.search(rf"collective {kind} .*count=\d+,\d", text)) == name.startswith("zero"),
                  f"{name}: {kind}")
        want, got = wanted[layer], train(plan, ranks, **GPUS)
        check(len(got) == LAST, f"{name}: {got}")
        for a, b in zip(want, got):
            check(all(abs(x - y) <= near * abs(x) for x, y in zip(a, b)), f"{name}: {got}, not {want}")
        if name in ("moe", "dense-16", "zero-16"):
            again = train(plan, ranks, **GPUS, M6C_STANDIN_SEED=7, M6C_DEBUG="comm")
            check(again == got, f"{name}: in another order {again}, not {got}")


def check_steps():
    for ranks in (2, 3, 4):
        status, out, err = start(ranks, PROGRAM, "exec", M6C_TEST_DEVICE="cuda", **GPUS)
        check(status == 0 and out.count("comm: ok") + err.count("comm: ok") == ranks,
              f"{ranks} ranks, exec: exit status {status}\n{out}{err}")


# ---- faults ----

def check_loops():
    """What one of three ranks does, and what the others say."""
    for fault, statuses, said in (("kill", (137,), "rank 1 was lost"), ("fail", (3,), "rank 1 failed"),
                                  ("stop", (3,), "rank 1 does not answer"),
                                  ("slow", (3,), "rank 1 has not come to it")):
        status, _, err = start(3, PROGRAM, "loop", 30, fault, 1, 11, WAIT, M6C_TEST_DEVICE="cuda", **GPUS)
        others = [l for l in err.splitlines() if re.match(r"m6c: rank [02]:", l)]
        check(status in statuses and len(others) == 2 and any(said in l for l in others),
              f"{fault}: exit status {status}\n{err}")
        check(all(re.search(r"step 11: net.m6:1[0-3]:3: step [0-3] \(all_reduce\) in block\[0\]: ", l)
                  for l in others), f"{fault}: where is it?\n{err}")
    status, _, err = start(3, PROGRAM, "loop", 30, "other", 1, 11, WAIT, M6C_TEST_DEVICE="cuda",
                           M6C_DEBUG="comm", **GPUS)
    check(status == 3 and "the ranks do not do the same" in err and "rank 1 does all_reduce of 100" in err
          and "net.m6:12:3: step 2 (all_reduce)" in err, f"another message: exit status {status}\n{err}")


def fails(plan, ranks, *said, status=3, **env):
    got, _, err = start(ranks, M6C, "run", plan, "--data", "random:1", "--steps", LAST,
                        "--comm-timeout", f"{WAIT}s", **{**GPUS, **env})
    check(got == status and all(re.search(t, err) for t in said),
          f"{env}: exit status {got}; {said} is in the message\n{err}")


def check_faults(folder):
    plan = folder / "moe-16-sm_90"
    one = {"M6C_STANDIN_RANK": 1}
    late = rf"m6c: rank 0: step \d+: .*step \d+ \((all_reduce|all_to_all)\).* did not end in {WAIT} s"
    fails(plan, 2, late, M6C_STANDIN_FORGET="ncclAllReduce:9", **one)
    fails(plan, 2, late, "do not mean the same", M6C_STANDIN_FORGET="ncclRecv:3", **one)
    fails(plan, 2, r"rank 1: step \d+: .*NCCL: .*: remote process exited", "rank 0: .*: rank 1 failed: ",
          M6C_STANDIN_FAIL="ncclCommGetAsyncError:90:6", **one)
    fails(plan, 2, r"rank 1: step \d+: .*step \d+ \(all_reduce\).*: NCCL: all_reduce: what the stand-in",
          M6C_STANDIN_FAIL="ncclAllReduce:8:5", **one)
    fails(plan, 2, r"rank 1: step \d+: .*CUDA_ERROR", "rank 0: .*rank 1 failed",
          M6C_STANDIN_FAIL="kernel:100:700", **one)
    fails(plan, 2, r"rank 1: step \d+: .*: step \d+ \(.*700", "rank 0: .*rank 1 failed",
          M6C_STANDIN_FAIL="kernel:100:700", M6C_CUDA_SYNC=1, **one)


def check_missing(folder):
    plan = folder / "moe-16-sm_90"
    fails(plan, 2, r"cannot load NCCL \(/nowhere.so.*install.*libnccl2", M6C_NCCL="/nowhere.so")
    fails(plan, 2, "NCCL has no function ncclGetVersion", M6C_NCCL=GPUS["M6C_CUBLASLT"])
    fails(plan, 2, "this NCCL is too old", M6C_STANDIN_NCCL_VERSION=21105)
    fails(plan, 2, "ncclGetUniqueId", M6C_STANDIN_FAIL="ncclGetUniqueId:1:2")
    fails(plan, 2, "connecting the GPUs", M6C_STANDIN_FAIL="ncclCommInitRankConfig:1:1")
    fails(plan, 2, "ranks 0 and 1 have the same GPU", M6C_STANDIN_DEVICES=1)
    fails(folder / "moe-sm_90", 4, "4 ranks on this machine need a GPU each, CUDA shows 3",
          M6C_STANDIN_DEVICES=3)
    old = folder / "old"
    shutil.copytree(plan, old)
    text = (old / "plan.txt").read_text()
    (old / "plan.txt").write_text(re.sub(r"( pack_f32_f16 .* nargs=)7", r"\g<1>4", text))
    fails(old, 2, "the plan lacks the kernel pack_f32_f16", status=1)


with workspace() as folder:
    folder = pathlib.Path(folder)
    os.environ["M6C_CACHE"] = str(folder / "cache")
    check_steps()
    check_loops()
    check_models(folder)
    check_faults(folder)
    check_missing(folder)
