"""What tests/gpu/run.sh runs; see there and README.md. This file has the options, the build, the
device and the report's files; phases are in run_tests.py (tests, sanitizer, train) and run_bench.py
(rates, kernels, attention, models).

What a run needs: an NVIDIA GPU (sm_80 or newer) with its driver; NVRTC and cuBLASLt (a CUDA toolkit,
or NVIDIA's wheels in Python's site-packages); Python 3.8 and nothing else of it. To build: what
tests/setup.sh build installs. With --build DIR nothing is built or installed: DIR has the programs
(--pack DIR makes such a folder, with the libraries they need, on a machine like it). Comparisons use
PyTorch where a Python that has it is named or found, compute-sanitizer where it is installed.
"""
import argparse
import ctypes
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import run_bench
import run_report
import run_tests
from run_base import HERE, ROOT, Failed, Run

PHASES = {
    "tests": run_tests.tests,          # kernels, examples: numbers and bits
    "sanitizer": run_tests.sanitizer,  # the same kernels under compute-sanitizer
    "train": run_tests.train,          # m6-tiny next to the CPU; kill -9 and resume
    "rates": run_bench.rates,          # copies, products, launches, compile times
    "kernels": run_bench.kernels,      # each kernel's share of the copy bandwidth
    "attention": run_bench.attention,  # next to PyTorch's and to the unfused path
    "models": run_bench.models,        # MFU of dense and mixture of experts, next to PyTorch
}
BENCH = ["rates", "kernels", "attention", "models"]
PROGRAMS = ["m6c", "bench_cuda", "gpu_attention", "gpu_fragments", "gpu_lanes",
            "test_codegen_kernels", "test_codegen_random"]
SKIPPED = 77


# ---- what is there ----

def find_device(driver):
    """None, or why there is no device: before anything is built."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        return f"no CUDA driver ({error})"
    count = ctypes.c_int(0)
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value == 0:
        return f"a CUDA driver, but no device (cuInit: {status})"
    return None


def library_places():
    yield ""
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home:
            yield f"{home}/lib64/"
    for path in [*sys.path, str(ROOT / "build/nvrtc/lib/python3*/site-packages"),
                 "/opt/*/.venv/lib/python3*/site-packages"]:
        for folder in sorted(glob.glob(f"{path}/nvidia/*/lib")):
            yield folder + "/"


def find_library(variable, names):
    """What the variable says, or the first that loads."""
    if os.environ.get(variable):
        return os.environ[variable]
    for place in library_places():
        for name in names:
            try:
                ctypes.CDLL(place + name)
                return place + name
            except OSError:
                continue
    return None


def nvrtc_version(path):
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    try:
        ctypes.CDLL(path).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    except (OSError, AttributeError, TypeError):
        return None
    return f"{major.value}.{minor.value}"


def nvidia_smi():
    """Name, driver, clocks, power limit; {} where there is no nvidia-smi."""
    fields = ["driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu",
              "ecc.mode.current", "mig.mode.current"]
    if not shutil.which("nvidia-smi"):
        return {}
    p = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
                       capture_output=True, text=True)
    values = [v.strip() for v in p.stdout.splitlines()[0].split(",")] if p.stdout.strip() else []
    return dict(zip(fields, values)) if p.returncode == 0 else {}


# ---- building ----

def make(folder):
    setup = [] if (folder / "build.ninja").exists() else [["meson", "setup", folder]]
    for command in [[ROOT / "tests/setup.sh", "build", "cuda"], *setup, ["ninja", "-C", folder]]:
        try:
            subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr,
                           env=dict(os.environ, CC=os.environ.get("CC", "gcc")))
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"run.sh: building failed ({error}); --build DIR takes programs from elsewhere")


def build(run):
    """Programs in the build folder; exits when there are none."""
    if not run.args.build:
        make(run.build)
    missing = [p for p in PROGRAMS if not (run.build / p).exists()]
    if missing:
        sys.exit(f"run.sh: {run.build} lacks {', '.join(missing)}")
    if (run.build / "lib").is_dir():
        run.env["LD_LIBRARY_PATH"] = f"{run.build / 'lib'}:{run.env.get('LD_LIBRARY_PATH', '')}"
    status, _, err = run.call([run.tool("m6c"), "--help"])
    if status:
        sys.exit(f"run.sh: {run.tool('m6c')} does not start here: {err}\nbuild it on a machine with "
                 "the same or an older C library, and --pack it with its libraries")


def pack(run, folder):
    """The programs and the libraries they load, but for the C library's own."""
    build(run)
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    own = re.compile(r"/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so[^/]*$")
    for program in PROGRAMS:
        shutil.copy2(run.build / program, folder)
        subprocess.run(["strip", folder / program], check=False)
        listed = subprocess.run(["ldd", run.build / program], capture_output=True, text=True)
        for path in re.findall(r"=> (/\S+)", listed.stdout):
            if not own.search(path):
                shutil.copy2(path, folder / "lib")
    print(f"{folder}: tests/gpu/run.sh --build {folder} runs it")


# ---- the report ----

def identify(run):
    """The device and all versions, into the results; those of other phases on it are kept."""
    libraries = {"M6C_NVRTC": ["libnvrtc.so.13", "libnvrtc.so.12"],
                 "M6C_CUBLASLT": ["libcublasLt.so.13", "libcublasLt.so.12"]}
    for variable, names in libraries.items():
        path = find_library(variable, names)
        if path:
            run.env[variable] = path
        else:
            run.say(f"{names[0]} was not found: say in {variable} where it is")
    run.device = run.bench("device")[0]
    commit = run.call(["git", "describe", "--always", "--dirty"])[1].strip()
    program = hashlib.sha256((run.build / "m6c").read_bytes()).hexdigest()[:12]
    run.results = {"device": run.device, "nvidia_smi": nvidia_smi(), "tiny": run.tiny,
                   "measured": not run.device["standin"] and not run.tiny,
                   "nvrtc": nvrtc_version(run.env.get("M6C_NVRTC", "")),
                   "commit": commit, "program": program, "phases": {}}
    old = report_path(run, "json")
    if old.exists():
        earlier = json.loads(old.read_text())
        same = all(earlier.get(k) == run.results[k] for k in ("tiny", "program", "nvrtc"))
        if same and earlier["device"]["name"] == run.device["name"]:
            run.results["phases"] = earlier["phases"]


def report_path(run, ending):
    name = re.sub(r"[^A-Za-z0-9]+", "-", run.device["name"]).strip("-").lower()
    folder = run.args.out or (HERE if run.results["measured"] else run.work)
    return pathlib.Path(folder) / f"report-{name}.{ending}"


def save(run, seconds=0):
    """Unless it was done less than so many seconds ago."""
    path = report_path(run, "json")
    if path.exists() and time.time() - path.stat().st_mtime < seconds:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run.results, indent=1) + "\n")
    report_path(run, "md").write_text(run_report.markdown(run.results))


def options():
    p = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--phases", default="all", help="of tests,sanitizer,train,rates,kernels,"
                   "attention,models; bench: the last four (all)")
    p.add_argument("--build", help="a folder with the programs: nothing is built or installed")
    p.add_argument("--pack", metavar="DIR", help="only makes a folder for --build elsewhere")
    p.add_argument("--out", help="the report's folder (tests/gpu; of what is no "
                   "measurement, the work folder)")
    p.add_argument("--work", default=str(ROOT / "build/gpu-run"), help="plans, caches (%(default)s)")
    p.add_argument("--python", help="a Python that has PyTorch (this one, then build/peers)")
    p.add_argument("--sanitizer", help="compute-sanitizer (of the path or the toolkit)")
    p.add_argument("--seconds", type=float, default=3600, help="what has not begun by then is left "
                   "out, and said to be (%(default)s)")
    p.add_argument("--tiny", action="store_true", help="small sizes: does every line run? Nothing it "
                   "says is a measurement")
    p.add_argument("--write-losses", action="store_true", help="only writes tests/gpu/losses.json, "
                   "the CPU's losses, for machines that cannot make them")
    args = p.parse_args()
    names = list(PHASES) if args.phases == "all" else args.phases.split(",")
    args.phases = [n for name in names for n in (BENCH if name == "bench" else [name])]
    unknown = [n for n in args.phases if n not in PHASES]
    if unknown:
        p.error(f"no phase {', '.join(unknown)} (there are: {', '.join(PHASES)}, bench)")
    return args


def main():
    args = options()
    if args.pack:
        return pack(Run(args), pathlib.Path(args.pack).resolve())
    if args.write_losses:
        run = Run(args)
        build(run)
        return run_tests.write_losses(run)
    why = find_device(os.environ.get("M6C_CUDA_DRIVER", "libcuda.so.1"))
    if why:
        print(f"run.sh: {why}: nothing was run")
        return SKIPPED
    run = Run(args)
    build(run)
    try:
        identify(run)
    except Failed as failed:
        sys.exit(f"run.sh: {failed}")
    run.found = lambda: save(run, 10)
    for name in args.phases:
        run.do(name, PHASES[name])
        save(run)
    failed = [f"{n}: {c['name']}" for n in args.phases for c in run.results["phases"][n]["checks"]
              if c["result"] == "fail"]
    print(f"{report_path(run, 'md')}: {len(failed)} checks failed")
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
