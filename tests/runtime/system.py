"""What the tests of whole runs share: a compiled small model, picture data, and ways to run it."""
import json, os, pathlib, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
M6C = os.environ.get("M6C", str(HERE.parent.parent / "build/m6c"))
BUILD = pathlib.Path(os.environ.get("BUILD", HERE.parent.parent / "build"))


# Its gradients overflow f16 where the loss scale is large. PRECISION and SCALE are to be replaced.
SQUARES = """use "m6"
model squares(x: f32[16, 8]) {
    e = linear(x, 8) * 4 - x
    return mean(e * e) * 40
}
train squares {
    optimizer = sgd(lr = 1e-3)
    precision = PRECISION
    loss_scale = SCALE
}
"""


def check(ok, text):
    if not ok:
        sys.exit(f"FAILED: {text}")


def m6c(*args, status=0, **more):
    """Runs the command, checks its exit status, returns what it printed on stdout and stderr."""
    p = subprocess.run([M6C, *map(str, args)], capture_output=True, text=True, timeout=120, **more)
    check(p.returncode == status,
          f"m6c {' '.join(map(str, args))}: exit status {p.returncode}, not {status}\n{p.stderr}")
    return p.stdout, p.stderr


def make_data(folder):
    subprocess.run([BUILD / "emoji-prepare", folder], check=True, capture_output=True)
    return folder


def compile_small(folder, *args):
    m6c("compile", HERE / "small.m6", "-o", folder, *args)
    return folder


def steps(text):
    """The JSON objects of a run, by step."""
    return {o["step"]: o for o in map(json.loads, text.splitlines())}


def workspace():
    return tempfile.TemporaryDirectory(prefix="m6c-test-")
