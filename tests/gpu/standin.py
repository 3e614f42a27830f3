"""What tests of the CUDA device on the stand-in share."""
import os, pathlib, subprocess

from system import BUILD, M6C, check, steps

STANDIN = {"M6C_CUDA_DRIVER": str(BUILD / "libcuda_standin.so"),
           "M6C_CUBLASLT": str(BUILD / "libcublaslt_standin.so")}


def compile_host(plan):
    """The kernels of the host, which --plan-only leaves as sources. The emulator compiles the others,
    as these without fused multiply-adds: the same bits wherever an update is made."""
    for source in pathlib.Path(plan).glob("*.c"):
        subprocess.run(["cc", "-std=gnu17", "-O2", "-march=native", "-ffp-contract=off",
                        "-w", "-fPIC", "-shared", source,
                        "-o", source.with_suffix(".so"), "-lm"], check=True)


def standin_run(plan, *args, status=0, n=7, **env):
    """m6c run on the stand-in; what it says of the steps, and stderr."""
    data = [] if "--data" in args else ["--data", "random:1"]
    p = subprocess.run([M6C, "run", str(plan), "--steps", str(n), "--json", *data, *map(str, args)],
                       capture_output=True, text=True, timeout=120,
                       env={**os.environ, **STANDIN, **{k: str(v) for k, v in env.items()}})
    check(p.returncode == status, f"{args} {env}: exit status {p.returncode}, not {status}\n"
                                  f"{p.stdout}{p.stderr}")
    return steps(p.stdout), p.stderr
