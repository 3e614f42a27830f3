"""What tests of the CUDA device on the stand-in share."""
import pathlib, subprocess

from system import BUILD

STANDIN = {"M6C_CUDA_DRIVER": str(BUILD / "libcuda_standin.so"),
           "M6C_CUBLASLT": str(BUILD / "libcublaslt_standin.so")}


def compile_host(plan):
    """The kernels of the host, which --plan-only leaves as sources; the others the emulator compiles."""
    for source in pathlib.Path(plan).glob("*.c"):
        subprocess.run(["cc", "-std=gnu17", "-O2", "-march=native", "-w", "-fPIC", "-shared", source,
                        "-o", source.with_suffix(".so"), "-lm"], check=True)
