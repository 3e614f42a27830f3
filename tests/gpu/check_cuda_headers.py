#!/usr/bin/env python3
"""The CUDA device's own declarations agree with NVIDIA's headers and libraries, where these are
installed: numbers and sizes (cuda_headers.c), names of functions, arguments, descriptions."""
import os, pathlib, re, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CUDA = pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))

# The same lists with NVIDIA's types: what is not theirs does not compile, but for enums.
SIGNATURES = """
#include <stdint.h>
#include <cuda.h>
#include <cublasLt.h>
#undef cuEventElapsedTime
CUresult cuEventElapsedTime(float *, CUevent, CUevent);
typedef CUresult CudaResult;
typedef CUdevice CudaDevice;
typedef CUdeviceptr CudaAddress;
typedef CUcontext CudaContext;
typedef CUstream CudaStream;
typedef CUevent CudaEvent;
typedef CUmodule CudaModule;
typedef CUfunction CudaFunction;
typedef CUgraph CudaGraph;
typedef CUgraphExec CudaGraphExec;
typedef void CudaHostFn(void *);
typedef CUuuid CudaUuid;
typedef cublasLtHandle_t LtHandle;
typedef cublasLtMatmulDesc_t LtProduct;
typedef cublasLtMatrixLayout_t LtLayout;
typedef cublasLtMatmulPreference_t LtPreference;
typedef cublasLtMatmulAlgo_t LtAlgo;
typedef cublasLtMatmulHeuristicResult_t LtHeuristic;
#define CUDA(name, args) CudaResult(*ours_##name) args = name;
#include "runtime/cuda_api.def"
#define LT(type, name, args) type(*ours_##name) args = name;
#include "runtime/cublaslt.def"
"""

NCCL = """
#include <nccl.h>
typedef ncclComm_t NcclComm;
typedef ncclUniqueId NcclId;
typedef ncclConfig_t NcclConfig;
typedef cudaStream_t CudaStream;
#define NCCL(type, name, args) type(*ours_##name) args = name;
#include "runtime/nccl_api.def"
"""


def cc(*args, **more):
    return subprocess.run(["cc", "-std=gnu17", f"-I{ROOT}", f"-I{CUDA}/include", *map(str, args)],
                          capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, **more)


def bare(signature):
    """A signature with all names resolved, enums as the int they travel as."""
    same = {"long unsigned int": r"long long unsigned int|uint64_t|size_t", "long int": "int64_t",
            "cublasLtMatmulAlgo_t": r"\bLtAlgo\b",
            "cublasLtMatmulHeuristicResult_t": r"\bLtHeuristic\b",
            "int": r"enum \w+|cublasStatus_t|cublasComputeType_t|cudaDataType(_t)?"
                   r"|cublasLt\w+Attributes?_t|CudaResult|CUresult|CUdevice_attribute"
                   r"|CUfunction_attribute|CUstreamCaptureMode|CUdevice|CudaDevice|nccl(Result|DataType|RedOp)_t"}
    for name, others in same.items():
        signature = re.sub(others, name, signature)
    return re.sub(r"\s+", " ", signature).replace("(void)", "()")  # nccl.h has the latter


def check_signatures(text):
    p = cc("-fsyntax-only", "-x", "c", "-", input=text)
    if p.returncode:
        sys.exit("FAILED: " + "\n".join(t for t in p.stderr.splitlines() if "error:" in t))
    for line in re.findall(r".*\[-Wincompatible-pointer-types\]", p.stderr):
        # 'T' {aka 'U'} from incompatible pointer type 'T' {aka 'U'}
        ours, theirs = (bare(re.findall(r"'([^']+)'", part)[-1])
                        for part in line.split(" from incompatible pointer type "))
        if ours != theirs:
            sys.exit(f"FAILED: {ours}\n is not {theirs}")


def check_names():
    library = CUDA / "lib64/stubs/libcuda.so"
    p = subprocess.run(["nm", "-D", library], capture_output=True, text=True)
    known = set(re.findall(r" [TW] (\w+)", p.stdout))
    for name in re.findall(r"^CUDA\((\w+)", (ROOT / "runtime/cuda_api.def").read_text(), re.M):
        if known and name not in known:
            sys.exit(f"FAILED: {library} has no {name}")


def check_numbers():
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "cuda_headers"
        p = cc("-D_GNU_SOURCE", HERE / "cuda_headers.c", ROOT / "runtime/cublaslt.c",
               ROOT / "runtime/cuda_api.c", *(ROOT / "ir" / f"{n}.c" for n in (
                   "base", "base_diag", "base_file", "base_library", "base_num", "base_random")),
               "-lxxhash", "-lm", "-ldl", "-o", program)
        if p.returncode:
            sys.exit(f"FAILED: {p.stderr}")
        p = subprocess.run([program], capture_output=True, text=True)
        if p.returncode:
            sys.exit(f"FAILED: {p.stderr}")


if not (CUDA / "include/cublasLt.h").exists():
    print("no CUDA toolkit here")
    sys.exit(77)
check_signatures(SIGNATURES)
if (CUDA / "include/nccl.h").exists() or pathlib.Path("/usr/include/nccl.h").exists():
    check_signatures(NCCL)
check_names()
check_numbers()
